//! The launcher's ends of the sockets to its processes.
use bulkhead_plan::{FromProcess, ToProcess};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

/// Why a message cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendFault {
    /// It cannot be written as JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The kernel takes fewer in one message.
    #[error("too many descriptors in one message")]
    Descriptors,
    /// The socket is closed, or full because the process does not read.
    #[error("{0}")]
    System(#[source] std::io::Error),
}

/// Why no request can be received any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReceiveFault {
    /// The process has gone, or is about to.
    #[error("closed its socket")]
    Closed,
    /// Bytes that are no request.
    #[error("sent what is no request")]
    NoRequest,
}

/// Most descriptors in a message: the kernel's SCM_MAX_FD.
const MAX_FDS: usize = 253;

/// The socket to a process.
#[derive(Debug)]
pub(crate) struct Resource(OwnedFd);

impl Resource {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends a message without waiting. The caller kills a process that does not take it.
    pub(crate) fn send(&self, message: &ToProcess, fds: &[BorrowedFd<'_>]) -> Result<(), SendFault> {
        let bytes = serde_json::to_vec(message)?;
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(SendFault::Descriptors);
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut ancillary, flags)
            .map(|_| ())
            .map_err(|e| SendFault::System(e.into()))
    }

    /// Receives a request with at most one descriptor; `None` if none is pending.
    pub(crate) fn receive(&self) -> Result<Option<(FromProcess, Option<OwnedFd>)>, ReceiveFault> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 128];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let got = match rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
            Ok(got) => got,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(_) => return Err(ReceiveFault::Closed),
        };
        if got.bytes == 0 {
            return Err(ReceiveFault::Closed);
        }
        let fd = ancillary.drain().find_map(|m| match m {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let message = FromProcess::from_bytes(bytes.get(..got.bytes).unwrap_or_default());
        message.map(|m| Some((m, fd))).ok_or(ReceiveFault::NoRequest)
    }
}

impl AsFd for Resource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
