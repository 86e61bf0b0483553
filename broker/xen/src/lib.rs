//! Xen's device nodes, for the broker and the launcher. docs/architecture.md lists the crates with `unsafe` code; this is one of
//! them.

mod evtchn;
mod gntalloc;
mod gntdev;
mod ioreq_page;
mod privcmd;
mod scheduler;
mod vchan;
mod xenstore;

pub use evtchn::Evtchn;
pub use gntalloc::GrantedPage;
pub use gntdev::{Gntdev, GrantPiece, MOST_REFS};
pub use ioreq_page::{IoreqPages, Mapping};
pub use privcmd::{DomainState, IoreqServer, Privcmd, Range};
pub use scheduler::{Scheduler, scheduler};
pub use vchan::{Broken, Client, VchanServer};
pub use xenstore::{Call, FakeXenstored, Heard, Progress, WriteBeside, Xenstore, XenstoreQueue, is_socket};

/// A call that the kernel or Xen has refused.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct XenError {
    /// The call that failed.
    pub what: &'static str,
    /// The kernel's error.
    pub source: std::io::Error,
}

impl XenError {
    /// Whether the caller lacks the permission for the call.
    pub fn forbidden(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::PermissionDenied
    }
    /// Whether this is an answer of xenstored with an error's name: the node does not exist, or the caller may not access it.
    /// Otherwise xenstored has not answered.
    pub fn is_answer(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::Other
    }
    /// Whether this is xenstored's answer that there is no such node.
    pub fn is_missing(&self) -> bool {
        self.names("ENOENT")
    }
    /// Whether this is an answer of xenstored with the error's name `name`.
    pub fn names(&self, name: &str) -> bool {
        self.is_answer() && self.source.to_string() == name
    }
    pub(crate) fn last(what: &'static str) -> Self {
        Self { what, source: std::io::Error::last_os_error() }
    }
    pub(crate) fn new(what: &'static str, source: impl Into<std::io::Error>) -> Self {
        Self { what, source: source.into() }
    }
}

/// Result of this crate's calls.
pub type Result<T> = std::result::Result<T, XenError>;
