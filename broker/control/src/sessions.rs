//! QMP sessions over the vchan: its process sends the packets of all clients over one socket, and each client has a session.
use crate::qmp::{self, Connection};
use crate::session_state::Shared;
use bulkhead_plan::SessionPacket;
use rustix::net::{RecvFlags, SendFlags};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, Interest, ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use tokio::task::AbortHandle;

/// Bytes of the buffer between a session and the socket, in each direction.
const ROOM: usize = 16 << 10;

/// One session over the vchan: its number, the writer of its input, and its tasks, which are aborted with it.
struct VchanSession {
    number: u8,
    input: WriteHalf<DuplexStream>,
    tasks: [AbortHandle; 2],
}

impl VchanSession {
    fn new(number: u8, shared: Arc<Shared>, bridge: Arc<UnixStream>) -> Self {
        let (near, far) = tokio::io::duplex(ROOM);
        let (output, input) = tokio::io::split(near);
        let session = tokio::spawn(qmp::session(shared, Connection::Vchan(far)));
        let forward = tokio::spawn(forward(number, output, bridge));
        Self { number, input, tasks: [session.abort_handle(), forward.abort_handle()] }
    }
}

impl Drop for VchanSession {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Serves the vchan's clients, one at a time, until the socket fails.
pub(crate) async fn serve(shared: Arc<Shared>, bridge: UnixStream) {
    let bridge = Arc::new(bridge);
    let mut current: Option<VchanSession> = None;
    let mut packet = vec![0; SessionPacket::MAX];
    while let Ok(n) = receive(&bridge, &mut packet).await {
        let Some((&[kind, number], bytes)) =
            packet.get(..n).and_then(<[u8]>::split_first_chunk::<{ SessionPacket::HEAD }>)
        else {
            continue;
        };
        match SessionPacket::from_u8(kind) {
            Some(SessionPacket::Begin) => current = Some(VchanSession::new(number, shared.clone(), bridge.clone())),
            Some(SessionPacket::Data) => {
                // While a session executes a command it reads no input, and the client waits.
                let taken = match &mut current {
                    Some(session) if session.number != number => false,
                    Some(session) => session.input.write_all(bytes).await.is_ok(),
                    None => false,
                };
                // The session has ended or belonged to the control before a restart, so the client must connect again.
                if !taken {
                    current = None;
                    if send(&bridge, &[SessionPacket::End as u8, number]).await.is_err() {
                        return;
                    }
                }
            }
            Some(SessionPacket::End) => current = None,
            None => tracing::warn!("the vchan's process sent a packet of an unknown kind"),
        }
    }
}

/// Sends the session's output, in packets.
async fn forward(number: u8, mut output: ReadHalf<DuplexStream>, bridge: Arc<UnixStream>) {
    let mut packet = vec![0; SessionPacket::MAX];
    if let Some(head) = packet.first_chunk_mut::<{ SessionPacket::HEAD }>() {
        *head = [SessionPacket::Data as u8, number];
    }
    loop {
        match output.read(packet.get_mut(SessionPacket::HEAD..).unwrap_or_default()).await {
            Ok(n @ 1..)
                if send(&bridge, packet.get(..n.saturating_add(SessionPacket::HEAD)).unwrap_or_default())
                    .await
                    .is_ok() => {}
            _ => return,
        }
    }
}

async fn receive(bridge: &UnixStream, packet: &mut [u8]) -> std::io::Result<usize> {
    bridge.async_io(Interest::READABLE, || Ok(rustix::net::recv(bridge, &mut *packet, RecvFlags::empty())?.0)).await
}

async fn send(bridge: &UnixStream, packet: &[u8]) -> std::io::Result<usize> {
    bridge.async_io(Interest::WRITABLE, || Ok(rustix::net::send(bridge, packet, SendFlags::NOSIGNAL)?)).await
}
