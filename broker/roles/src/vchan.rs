//! QMP over a vchan: copies bytes between a client in another domain and control, without parsing them.
//!
//! There is one client at a time, and all connections use the same page. The server may miss the exit of a client;
//! [`VchanServer::client`] recognises the next one.
use crate::error::BuildError;
use crate::role::{Prepared, Role, Seen, wrong};
use bulkhead_bus::{Auxiliary, Context, Inspect, Ready, Unseen};
use bulkhead_plan::{DeviceConfig, FdUse, SessionPacket, kind};
use bulkhead_runtime::Resources;
use bulkhead_xen::{Client, Evtchn, VchanServer};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

pub(crate) static VCHAN: Role = Role { kind: &kind::VCHAN, seen: Seen::No, prepare };

fn prepare(config: &DeviceConfig, mut resources: Resources) -> Result<Prepared, BuildError> {
    let DeviceConfig::Vchan { port } = config else { return Err(wrong(config)) };
    let mut require = |what: &FdUse| resources.fds.require(what);
    let server = VchanServer::new(require(&FdUse::VchanPage)?.as_fd())?;
    let (evtchn, sessions) = (require(&FdUse::Evtchn)?, require(&FdUse::Sessions)?);
    let dup = |fd: &OwnedFd| rustix::io::dup(fd);
    let polled = vec![(EVTCHN, dup(&evtchn)?), (SESSIONS, dup(&sessions)?)];
    Ok(Prepared::device(Unseen(Vchan::new(server, evtchn, *port, sessions)), polled))
}

/// Ready number of the event channel.
pub(crate) const EVTCHN: u32 = 0;
/// Ready number of control's socket.
pub(crate) const SESSIONS: u32 = 1;
/// Most packets of each direction before other work.
const BUDGET: usize = 64;

/// The process `vchan`: it carries QMP sessions between libxl's vchan and control.
pub(crate) struct Vchan {
    server: VchanServer,
    evtchn: Evtchn,
    port: u32,
    sessions: OwnedFd,
    /// A client is connected, and control knows it.
    open: bool,
    /// The server has hung up, and the client has not disconnected yet.
    hung_up: bool,
    /// Bytes from control that are not written to the vchan yet.
    pending: Vec<u8>,
    /// Bytes from the client that control has not accepted yet.
    waiting: Vec<u8>,
    clients: u64,
    broken: u64,
    received: u64,
    sent: u64,
}

impl Vchan {
    pub(crate) fn new(server: VchanServer, evtchn: OwnedFd, port: u32, sessions: OwnedFd) -> Self {
        let evtchn = Evtchn::from_fd(evtchn);
        Self {
            server,
            evtchn,
            port,
            sessions,
            open: false,
            hung_up: false,
            pending: Vec::new(),
            waiting: Vec::new(),
            clients: 0,
            broken: 0,
            received: 0,
            sent: 0,
        }
    }

    /// The client's number in packets.
    fn number(&self) -> u8 {
        self.clients.to_le_bytes()[0]
    }

    /// Sends a packet to control; false if the socket is full.
    fn send_packet(&self, kind: SessionPacket, bytes: &[u8]) -> bool {
        let mut packet = vec![kind as u8, self.number()];
        packet.extend_from_slice(bytes);
        !matches!(
            rustix::net::send(&self.sessions, &packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT),
            Err(Errno::AGAIN)
        )
    }

    /// Ends the session of a client that has disconnected.
    fn close(&mut self) {
        self.forget();
        self.hung_up = false;
        self.server.restart();
    }

    /// Disconnects the client: it has violated the protocol, or control has restarted.
    fn hang_up(&mut self) {
        self.forget();
        self.hung_up = true;
        self.server.hang_up();
        let _ = self.evtchn.notify(self.port);
    }

    fn forget(&mut self) {
        if std::mem::take(&mut self.open) {
            self.send_packet(SessionPacket::End, &[]);
        }
        self.pending.clear();
        self.waiting.clear();
    }

    fn begin(&mut self) {
        self.forget();
        self.server.discard();
        self.open = true;
        self.clients = self.clients.saturating_add(1);
        self.send_packet(SessionPacket::Begin, &[]);
    }

    /// Handles a signal of the client.
    fn signalled(&mut self) {
        let mut ports = [0; 16];
        let Ok(1..) = self.evtchn.pending(&mut ports) else { return };
        let _ = self.evtchn.unmask(&[self.port]);
        match self.server.client() {
            Client::NotYet | Client::Known => {}
            Client::Gone => self.close(),
            Client::New if self.hung_up => {
                // The disconnected client has exited, and this one is new.
                self.close();
                self.begin();
            }
            Client::New => self.begin(),
        }
    }

    /// Copies bytes in both directions as far as they fit.
    fn pump(&mut self, cx: &mut Context) {
        for _ in 0..BUDGET {
            match self.step() {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => {
                    self.broken = self.broken.saturating_add(1);
                    self.hang_up();
                    return;
                }
            }
        }
        cx.again();
    }

    /// Copies once in each direction; false if no bytes were copied.
    fn step(&mut self) -> Result<bool, bulkhead_xen::Broken> {
        let mut moved = false;
        if self.open && self.waiting.is_empty() {
            let mut bytes = [0; SessionPacket::MAX - SessionPacket::HEAD];
            let n = self.server.read(&mut bytes)?;
            if n > 0 {
                self.waiting = bytes.get(..n).unwrap_or_default().to_vec();
                self.received = self.received.saturating_add(n as u64);
                self.signal(false);
            }
        }
        if !self.waiting.is_empty() && self.send_packet(SessionPacket::Data, &self.waiting) {
            self.waiting.clear();
            moved = true;
        }
        if self.pending.is_empty() {
            let mut packet = [0; SessionPacket::MAX];
            if let Ok((n, _)) = rustix::net::recv(&self.sessions, packet.as_mut_slice(), RecvFlags::DONTWAIT)
                && let Some((&[kind, number], bytes)) =
                    packet.get(..n).and_then(<[u8]>::split_first_chunk::<{ SessionPacket::HEAD }>)
            {
                moved = true;
                // Bytes for an earlier client are dropped.
                match SessionPacket::from_u8(kind).filter(|_| self.open && number == self.number()) {
                    Some(SessionPacket::Data) => self.pending = bytes.to_vec(),
                    // Control has been restarted and does not know this client.
                    Some(SessionPacket::End) => self.hang_up(),
                    _ => {}
                }
            }
        }
        if !self.pending.is_empty() {
            let n = self.server.write(&self.pending)?;
            if n > 0 {
                self.pending.drain(..n);
                self.sent = self.sent.saturating_add(n as u64);
                self.signal(true);
                moved = true;
            }
        }
        if !moved {
            // The requests for signals are written before the rings are read again, so that no change is missed.
            self.server.request_signal(!self.pending.is_empty());
            let more = self.open && self.waiting.is_empty() && self.server.readable()?;
            let room = !self.pending.is_empty() && self.server.writable()?;
            return Ok(more || room);
        }
        Ok(true)
    }

    fn signal(&self, wrote: bool) {
        if self.server.signal(wrote) {
            let _ = self.evtchn.notify(self.port);
        }
    }
}

impl Auxiliary for Vchan {
    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        if ready == Ready::Fd(EVTCHN) {
            self.signalled();
        }
        self.pump(cx);
    }

    fn inspect(&self, out: &mut Inspect) {
        out.value("client", self.open).value("clients", self.clients).value("protocol errors", self.broken);
        out.value("bytes received", self.received).value("bytes sent", self.sent);
    }
}

#[cfg(test)]
mod tests;
