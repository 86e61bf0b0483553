//! For tests: processes that answer gRPC, and the launcher's end of control's socket.
use crate::launcher::{Answer, LauncherClient};
use crate::session_state::Shared;
use bulkhead_control_api::v1;
use bulkhead_plan::{Ask, FromProcess, Slot};
use rustix::fd::OwnedFd;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::sync::mpsc::{Receiver, channel};

/// A connection of a socket pair.
struct Inherited(tokio::net::UnixStream);

impl tonic::transport::server::Connected for Inherited {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl tokio::io::AsyncRead for Inherited {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        to: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(cx, to)
    }
}

impl tokio::io::AsyncWrite for Inherited {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        from: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(cx, from)
    }
    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Serves a process on a connection to control, as the one in this slot.
pub(super) fn serve(shared: &Shared, slot: Slot, process: impl v1::process_server::Process) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    shared.clients.add(slot, ours.into());
    let stream = Ok::<_, std::io::Error>(Inherited(tokio::net::UnixStream::from_std(theirs).unwrap()));
    let server = v1::process_server::ProcessServer::new(process);
    let incoming = tokio_stream::once(stream);
    tokio::spawn(tonic::transport::Server::builder().add_service(server).serve_with_incoming(incoming));
}

/// A launcher that gives every descriptor to the test, until control's end is closed.
pub(super) fn launcher(socket: OwnedFd, control: LauncherClient) -> Receiver<OwnedFd> {
    let (given, to_test) = channel();
    std::thread::spawn(move || {
        let mut bytes = [0; FromProcess::LEN];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        loop {
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut into = [IoSliceMut::new(&mut bytes)];
            let got = rustix::net::recvmsg(&socket, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
            if got.bytes == 0 {
                return;
            }
            let request = FromProcess::from_bytes(&bytes).unwrap();
            assert!(matches!(request.ask, Ask::GiveFd { .. }), "{request:?}");
            let fd = ancillary.drain().find_map(|m| match m {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            });
            let _ = given.send(fd.unwrap());
            control.complete(request.serial, Ok(Answer::Number(7)));
        }
    });
    to_test
}
