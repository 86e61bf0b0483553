//! The front end of a PV device, behind the interface of back ends.
use crate::error::BuildError;
use bulkhead_bus::pv::{BUFFER_PAGES, Frontend, Piece, Side};
use bulkhead_plan::FdUse;
use bulkhead_plan::pv_calls::{GrantCall, GrantReply, XenbusCall, XenbusReply};
use bulkhead_runtime::{Fds, GrantMemory};
use bulkhead_xen::Evtchn;
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::{RecvFlags, SendFlags};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time to wait for an answer. A process that died during the call has been restarted by then, and the call is repeated.
const PATIENCE: Duration = Duration::from_secs(6);
/// Most attempts of a call.
const TRIES: usize = 3;

/// A socket to `xenbus` or `grant`, with one call at a time.
struct Line {
    socket: OwnedFd,
    serial: u8,
}

impl Line {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, serial: 0 }
    }

    /// Whether a packet is the notice of a change, which is no answer.
    fn is_notice(packet: &[u8]) -> bool {
        packet == [[0].as_slice(), &XenbusReply::Changed.to_bytes()].concat()
    }

    /// Makes a call and waits for the answer; `changed` is set if a notice arrives meanwhile.
    fn ask(&mut self, call: &[u8], changed: &mut bool) -> Option<Vec<u8>> {
        for _ in 0..TRIES {
            // Never 0, which is the number of notices.
            self.serial = self.serial.checked_add(1).unwrap_or(1);
            let packet = [&[self.serial], call].concat();
            let asked = Instant::now();
            rustix::net::send(&self.socket, &packet, SendFlags::NOSIGNAL).ok()?;
            while let Some(left) = PATIENCE.checked_sub(asked.elapsed()) {
                let timeout = rustix::event::Timespec::try_from(left).ok()?;
                match rustix::event::poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout)) {
                    Ok(0) => break,
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(_) => return None,
                }
                let mut answer = [0; 1 + XenbusReply::MAX];
                let n = match rustix::net::recv(&self.socket, answer.as_mut_slice(), RecvFlags::DONTWAIT) {
                    // Nobody has the other end any more.
                    Ok((0, _)) => return None,
                    Ok((n, _)) => n,
                    Err(_) => continue,
                };
                let answer = answer.get(..n)?;
                match answer.split_first() {
                    Some((serial, rest)) if *serial == self.serial => return Some(rest.to_vec()),
                    _ => *changed |= Self::is_notice(answer),
                }
            }
        }
        None
    }

    /// Reads the notices that have arrived. Returns whether there were any.
    fn take_notices(&mut self) -> bool {
        let mut changed = false;
        let mut packet = [0; 1 + XenbusReply::MAX];
        while let Ok((n @ 1.., _)) = rustix::net::recv(&self.socket, packet.as_mut_slice(), RecvFlags::DONTWAIT) {
            changed |= Self::is_notice(packet.get(..n).unwrap_or_default());
        }
        changed
    }
}

/// The front end of a PV device.
pub(crate) struct Front {
    domid: u16,
    /// Bytes of the pages to map, and offset of the buffer behind them in the range of pages.
    buffer: u64,
    nodes: Line,
    /// The socket to `grant`, and the range into which granted pages are mapped; a frame buffer has none.
    grants: Option<(Line, Arc<GrantMemory>)>,
    evtchn: Evtchn,
    /// The local port, if one is bound.
    port: Option<u32>,
    changed: bool,
    /// A call to `xenbus` had no answer.
    unanswered: bool,
    /// This process may map too few pages for another connection.
    spent: bool,
}

impl Front {
    /// A front end from the launcher's descriptors, and the range of pages into which it maps. `pages` is the number of pages
    /// before the buffer.
    pub(crate) fn new(domid: u16, pages: usize, fds: &mut Fds) -> Result<(Self, Arc<GrantMemory>), BuildError> {
        let buffer = fds.take(&FdUse::GrantBuffer(0)).map(|fd| (fd, BUFFER_PAGES));
        let mut require = |what: &FdUse| fds.require(what);
        let memory =
            GrantMemory::new(require(&FdUse::Gntdev(0))?, pages, buffer.as_ref().map(|(fd, n)| (fd.as_fd(), *n)));
        let memory = Arc::new(memory.map_err(BuildError::RingPages)?);
        let grants = Line::new(require(&FdUse::Grants(0))?);
        let front = Self {
            buffer: (pages as u64).saturating_mul(4096),
            grants: Some((grants, memory.clone())),
            ..Self::without_grants(domid, fds)?
        };
        Ok((front, memory))
    }

    /// A front end for a device without granted pages.
    pub(crate) fn without_grants(domid: u16, fds: &mut Fds) -> Result<Self, BuildError> {
        let mut require = |what: &FdUse| fds.require(what);
        let nodes = Line::new(require(&FdUse::Nodes(0))?);
        let evtchn = Evtchn::from_fd(require(&FdUse::Evtchn)?);
        Ok(Self {
            domid,
            buffer: 0,
            nodes,
            grants: None,
            evtchn,
            port: None,
            changed: false,
            unanswered: false,
            spent: false,
        })
    }

    /// The descriptors to poll: the event channel and the socket to `xenbus`.
    pub(crate) fn polled(&self) -> Result<(OwnedFd, OwnedFd), rustix::io::Errno> {
        Ok((rustix::io::dup(&self.evtchn)?, rustix::io::dup(&self.nodes.socket)?))
    }

    fn xenbus(&mut self, call: &XenbusCall) -> Option<String> {
        let answer = self.nodes.ask(&call.to_bytes(), &mut self.changed).and_then(|a| XenbusReply::from_bytes(&a));
        match answer {
            Some(XenbusReply::Value(value)) => value,
            Some(XenbusReply::Failed | XenbusReply::Changed) | None => {
                self.unanswered = true;
                None
            }
        }
    }

    fn grant(&mut self, call: &GrantCall) -> Option<u64> {
        let answer = self.grants.as_mut()?.0.ask(&call.to_bytes(), &mut false);
        match answer.and_then(|a| GrantReply::from_bytes(&a))? {
            GrantReply::Done(number) => Some(number),
            GrantReply::Failed => None,
            GrantReply::Spent => {
                self.spent = true;
                None
            }
        }
    }
}

impl Frontend for Front {
    fn node(&mut self, side: Side, name: &str) -> Option<String> {
        self.xenbus(&XenbusCall::Read(side, name.to_owned()))
    }

    fn unanswered(&mut self) -> bool {
        std::mem::take(&mut self.unanswered)
    }

    fn set(&mut self, name: &str, value: &str) {
        let _ = self.xenbus(&XenbusCall::Write(name.to_owned(), value.to_owned()));
    }

    fn changed(&mut self, ready: bool) -> bool {
        if ready {
            self.changed |= self.nodes.take_notices();
        }
        std::mem::take(&mut self.changed)
    }

    fn map(&mut self, page: usize, grefs: &[u32]) -> bool {
        if self.spent {
            return false;
        }
        let Some(index) = self.grant(&GrantCall::Name(grefs.to_vec())) else { return false };
        let mapped = self.grants.as_ref().map(|(_, memory)| memory.map(page, grefs.len(), index));
        if !matches!(mapped, Some(Ok(()))) {
            let _ = self.grant(&GrantCall::Forget(index));
            return false;
        }
        true
    }

    fn unmap(&mut self) {
        if let Some((_, memory)) = &self.grants {
            memory.unmap();
            let left = self.grant(&GrantCall::Reset);
            self.spent |= left.is_some_and(|left| left.saturating_mul(4096) < self.buffer);
        }
    }

    fn is_spent(&self) -> bool {
        self.spent
    }

    fn end_life(&mut self) {
        tracing::info!("this process has mapped as many granted pages as it may, and ends for another to connect");
        bulkhead_runtime::end(0)
    }

    fn copy(&mut self, to_guest: bool, address: u64, pieces: &[Piece]) -> bool {
        let Some(at) = address.checked_sub(self.buffer).and_then(|at| u32::try_from(at).ok()) else { return false };
        self.grant(&GrantCall::Copy { to_guest, at, pieces: pieces.to_vec() }).is_some()
    }

    fn bind(&mut self, port: u32) -> Option<u32> {
        match self.evtchn.bind(self.domid, port) {
            Ok(local) => {
                self.port = Some(local);
                Some(local)
            }
            Err(e) => {
                tracing::warn!("{e}");
                None
            }
        }
    }

    fn adopt(&mut self, local: u32) {
        self.port = Some(local);
        let _ = self.evtchn.unmask(&[local]);
    }

    fn unbind(&mut self) {
        if let Some(port) = self.port.take() {
            let _ = self.evtchn.unbind(port);
        }
    }

    fn notify(&mut self) {
        if let Some(port) = self.port {
            let _ = self.evtchn.notify(port);
        }
    }

    fn signalled(&mut self) -> bool {
        let mut ports = [0; 16];
        let Ok(n @ 1..) = self.evtchn.pending(&mut ports) else { return false };
        let _ = self.evtchn.unmask(ports.get(..n).unwrap_or_default());
        true
    }

    fn load(&self, offset: usize) -> u32 {
        self.grants.as_ref().map_or(0, |(_, memory)| memory.load_u32(offset as u64))
    }

    fn store(&self, offset: usize, value: u32) {
        if let Some((_, memory)) = &self.grants {
            memory.store_u32(offset as u64, value);
        }
    }
}

/// Maps frames of the domain's memory, for a frame buffer.
pub(crate) struct DomainFrames {
    pub(crate) privcmd: OwnedFd,
    pub(crate) domid: u16,
}

impl bulkhead_dev_display::vfb::Frames for DomainFrames {
    fn map(&self, frames: &[u64]) -> Option<Arc<dyn bulkhead_bus::GuestMemory>> {
        bulkhead_runtime::map_list(self.privcmd.as_fd(), self.domid, frames)
            .map(|m| Arc::new(m) as Arc<dyn bulkhead_bus::GuestMemory>)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    const PAGES: usize = 8;

    fn pair() -> (OwnedFd, OwnedFd) {
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    /// A front end of a back end with eight pages, and `grant`'s end of its socket.
    fn front() -> (Front, OwnedFd) {
        let ((near, grant), (nodes, _)) = (pair(), pair());
        let pages = rustix::fs::memfd_create("grants", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&pages, 64 * 4096).unwrap();
        let other = rustix::io::dup(&pages).unwrap();
        // A memfd stands for the gntdev: its pages are mapped by offset too.
        let memory = Arc::new(GrantMemory::new(pages, PAGES, None).unwrap());
        let mut fds = Fds::default();
        fds.add(vec![FdUse::Nodes(0), FdUse::Evtchn], vec![nodes, other]);
        let front = Front::without_grants(7, &mut fds).unwrap();
        (Front { buffer: PAGES as u64 * 4096, grants: Some((Line::new(near), memory)), ..front }, grant)
    }

    /// Answers a call that the front end is about to make.
    fn answer(grant: &OwnedFd, serial: u8, reply: GrantReply) {
        rustix::net::send(grant, &[[serial].as_slice(), &reply.to_bytes()].concat(), SendFlags::empty()).unwrap();
    }

    fn called(grant: &OwnedFd) -> Option<GrantCall> {
        let mut packet = [0; 1 + GrantCall::MAX];
        let (n, _) = rustix::net::recv(grant, packet.as_mut_slice(), RecvFlags::DONTWAIT).ok()?;
        GrantCall::from_bytes(&packet[1..n])
    }

    #[test]
    fn a_life_without_pages_for_another_connection_is_spent_and_asks_for_no_more() {
        let (mut front, grant) = front();
        answer(&grant, 1, GrantReply::Done(PAGES as u64));
        front.unmap();
        assert!(!front.is_spent() && called(&grant) == Some(GrantCall::Reset));
        answer(&grant, 2, GrantReply::Done(3 * 4096));
        assert!(front.map(0, &[5]) && called(&grant) == Some(GrantCall::Name(vec![5])));
        answer(&grant, 3, GrantReply::Done(PAGES as u64 - 1));
        front.unmap();
        assert!(front.is_spent() && called(&grant) == Some(GrantCall::Reset));
        assert!(!front.map(0, &[5]) && called(&grant).is_none());
    }

    #[test]
    fn a_refused_page_tells_whether_the_life_or_the_guest_has_none() {
        let (mut front, grant) = front();
        answer(&grant, 1, GrantReply::Failed);
        assert!(!front.map(0, &[5]) && !front.is_spent());
        answer(&grant, 2, GrantReply::Spent);
        assert!(!front.map(0, &[5]) && front.is_spent());
    }

    #[test]
    fn a_call_to_nobody_ends_at_once() {
        let (mut front, grant) = front();
        drop(grant);
        front.unmap();
        assert!(!front.map(0, &[5]) && !front.is_spent());
    }
}
