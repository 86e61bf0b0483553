//! The launcher's end of the resource plane.
use bulkhead_plan::{FromProcess, ToProcess};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

/// Why [`Resource::receive`] fails when the process has gone.
pub(crate) const CLOSED: &str = "closed its socket";

/// Most descriptors in a message (the kernel's SCM_MAX_FD).
const MAX_FDS: usize = 253;

/// The socket to a process.
#[derive(Debug)]
pub(crate) struct Resource(OwnedFd);

impl Resource {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends a message. A process that does not take it is of no use any more; its end comes by its pidfd.
    pub(crate) fn send(&self, message: &ToProcess, fds: &[BorrowedFd<'_>]) -> Result<(), String> {
        let bytes = serde_json::to_vec(message).map_err(|e| e.to_string())?;
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err("too many descriptors in one message".into());
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut ancillary, flags)
            .map(|_| ())
            .map_err(|e| e.to_string())
    }

    /// Receives a request, with at most one descriptor. `Ok(None)`: none is there. `Err`: the process has gone, or
    /// has sent what is no request.
    pub(crate) fn receive(&self) -> Result<Option<(FromProcess, Option<OwnedFd>)>, &'static str> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 128];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let got = match rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
            Ok(got) => got,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            Err(_) => return Err(CLOSED),
        };
        if got.bytes == 0 {
            return Err(CLOSED);
        }
        let fd = ancillary.drain().find_map(|m| match m {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let message = FromProcess::from_bytes(bytes.get(..got.bytes).unwrap_or_default());
        message.map(|m| Some((m, fd))).ok_or("sent what is no request")
    }
}

impl AsFd for Resource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
