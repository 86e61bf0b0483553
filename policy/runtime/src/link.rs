//! The socket to the launcher: descriptor 3, SEQPACKET.
use bulkhead_plan::{FromProcess, ToProcess};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

/// Most bytes of a message of the launcher.
const MAX: usize = 64 * 1024;
/// Most descriptors in a message (the kernel's SCM_MAX_FD).
const MAX_FDS: usize = 253;

/// The socket to the launcher.
#[derive(Debug)]
pub struct Link(OwnedFd);

/// Why the socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The launcher has exited or closed its end.
    #[error("the launcher has closed the socket")]
    Closed,
    /// A system call failed.
    #[error("launcher socket: {0}")]
    System(#[from] rustix::io::Errno),
    /// A message is invalid.
    #[error("launcher message: {0}")]
    Message(String),
}

/// A message with its descriptors.
pub type Received = (ToProcess, Vec<OwnedFd>);

impl Link {
    /// A link from the inherited socket.
    pub fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Receives a message; without `wait`, `None` if there is none.
    pub fn receive(&self, wait: bool) -> Result<Option<Received>, LinkError> {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = vec![0; MAX];
        let flags = RecvFlags::CMSG_CLOEXEC | if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        let got = match rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
            Ok(got) => got,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) if !wait => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        if got.bytes == 0 {
            return Err(LinkError::Closed);
        }
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        let message = serde_json::from_slice(bytes.get(..got.bytes).unwrap_or_default());
        message.map(|m| Some((m, fds))).map_err(|e| LinkError::Message(e.to_string()))
    }

    /// Sends a request, with at most one descriptor.
    pub fn send(&self, message: &FromProcess, fd: Option<BorrowedFd<'_>>) -> Result<(), LinkError> {
        let bytes = message.to_bytes();
        let Some(fd) = fd else {
            rustix::net::send(&self.0, &bytes, SendFlags::NOSIGNAL)?;
            return Ok(());
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [fd];
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
