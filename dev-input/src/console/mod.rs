//! The back end of a PV console: bytes between a page that a domain has granted and a character device of the host. Protocol:
//! xen/include/public/io/console.h.
//!
//! The domain can write the page at any time: its counters are copied and checked; impossible ones end the console. Bytes that the
//! host does not accept stay in the page, so a domain that writes too fast waits, and this process buffers nothing.
mod exercised;
#[cfg(test)]
mod tests;

use crate::serial::{Backend, after_now};
use bulkhead_bus::pv::{BackEnd, ConnectFault, EVENTS, Frontend, Handshake, NODES, State, means, number};
use bulkhead_bus::{Auxiliary, Context, GuestMemory, Inspect, Ready};
pub use exercised::TARGET;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// Ready number of the host's character device.
pub const HOST: u32 = 2;
/// Pages to map: the console's.
pub const PAGES: usize = 1;
const _: () = assert!(PAGES == means::CONSOLE.connection as usize);

/// Offsets in the page (struct xencons_interface).
mod page {
    /// Bytes to the domain.
    pub(super) const IN: usize = 0;
    pub(super) const IN_LEN: u32 = 1024;
    /// Bytes from the domain.
    pub(super) const OUT: usize = 1024;
    pub(super) const OUT_LEN: u32 = 2048;
    pub(super) const IN_CONS: usize = 3072;
    pub(super) const IN_PROD: usize = 3076;
    pub(super) const OUT_CONS: usize = 3080;
    pub(super) const OUT_PROD: usize = 3084;
}

/// The grant reference of every domain's first console (GNTTAB_RESERVED_CONSOLE, public/grant_table.h), whose nodes name only the
/// page's frame.
const RESERVED: u32 = 0;
/// Most rounds before other work is handled.
const BUDGET: usize = 16;
const RETRY_TIMER: u8 = 0;

/// The back end of one console.
pub struct Console {
    front: Box<dyn Frontend>,
    memory: Arc<dyn GuestMemory>,
    host: Box<dyn Backend>,
    /// It is the domain's first console, which is connected without a handshake.
    first: bool,
    handshake: Handshake,
    connected: bool,
    out: u64,
    into: u64,
    broken: u64,
}

/// Why the domain's page cannot be used any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum PageFault {
    #[error("more bytes than the page has room for")]
    Overfull,
    #[error("its page has gone")]
    Gone,
}

impl Console {
    /// A console of the domain of `front`, whose page is mapped as the first page of `memory`.
    pub fn new(front: Box<dyn Frontend>, memory: Arc<dyn GuestMemory>, host: Box<dyn Backend>, first: bool) -> Self {
        Self {
            front,
            memory,
            host,
            first,
            handshake: Handshake::default(),
            connected: false,
            out: 0,
            into: 0,
            broken: 0,
        }
    }

    /// Copies bytes in both directions; false if none were copied.
    fn round(&mut self) -> Result<bool, PageFault> {
        let mut moved = false;
        let prod = self.front.load(page::OUT_PROD);
        let cons = self.front.load(page::OUT_CONS);
        fence(Ordering::Acquire);
        let there = prod.wrapping_sub(cons);
        if there > page::OUT_LEN {
            return Err(PageFault::Overfull);
        }
        if let Some(bytes) = self.piece(page::OUT, cons, page::OUT_LEN, there)? {
            let taken = self.host.write(&bytes).min(bytes.len());
            if taken > 0 {
                self.front.store(page::OUT_CONS, cons.wrapping_add(u32::try_from(taken).unwrap_or(0)));
                self.out = self.out.saturating_add(taken as u64);
                moved = true;
            }
        }
        let (prod, cons) = (self.front.load(page::IN_PROD), self.front.load(page::IN_CONS));
        let room = page::IN_LEN.checked_sub(prod.wrapping_sub(cons)).ok_or(PageFault::Overfull)?;
        let at = prod & page::IN_LEN.wrapping_sub(1);
        let mut bytes = vec![0; room.min(page::IN_LEN.wrapping_sub(at)) as usize];
        if !bytes.is_empty() {
            let got = self.host.read(&mut bytes);
            if let Some(bytes) = bytes.get(..got).filter(|b| !b.is_empty()) {
                self.memory
                    .write((page::IN as u64).saturating_add(u64::from(at)), bytes)
                    .map_err(|_| PageFault::Gone)?;
                fence(Ordering::Release);
                self.front.store(page::IN_PROD, prod.wrapping_add(u32::try_from(got).unwrap_or(0)));
                self.into = self.into.saturating_add(got as u64);
                moved = true;
            }
        }
        Ok(moved)
    }

    /// A copy of the `there` bytes of a ring from `counter` on, up to the ring's end.
    fn piece(&self, ring: usize, counter: u32, len: u32, there: u32) -> Result<Option<Vec<u8>>, PageFault> {
        let at = counter & len.wrapping_sub(1);
        let mut bytes = vec![0; there.min(len.wrapping_sub(at)) as usize];
        if bytes.is_empty() {
            return Ok(None);
        }
        self.memory.read((ring as u64).saturating_add(u64::from(at)), &mut bytes).map_err(|_| PageFault::Gone)?;
        Ok(Some(bytes))
    }

    fn pump(&mut self, cx: &mut Context) {
        let mut any = false;
        for round in 0..=BUDGET {
            if !self.connected {
                break;
            }
            if round == BUDGET {
                cx.again();
                break;
            }
            match self.round() {
                Ok(true) => any = true,
                Ok(false) => break,
                Err(e) => {
                    self.broken = self.broken.saturating_add(1);
                    self.warn_limited(&format!("the console is broken: {e}"));
                    self.disconnect(cx);
                    self.set_state(State::Closing);
                }
            }
        }
        let retry = self.host.retry().filter(|_| self.connected);
        cx.timers.set(RETRY_TIMER, retry.map(|after| after_now(cx, after)));
        if any {
            self.front.notify();
        }
    }
}

impl BackEnd for Console {
    type Fault = ConnectFault;

    fn front(&mut self) -> &mut dyn Frontend {
        &mut *self.front
    }

    fn handshake(&mut self) -> &mut Handshake {
        &mut self.handshake
    }

    fn has_front_state(&self) -> bool {
        !self.first
    }

    fn event_channel_node(&self) -> &'static str {
        "port"
    }

    fn offer(&mut self) {}

    fn connect(&mut self, cx: &mut Context) -> Result<(), ConnectFault> {
        let gref = if self.first {
            RESERVED
        } else {
            number(&mut *self.front, "ring-ref").ok_or(ConnectFault::NoReference("ring-ref"))?
        };
        if !self.front.map(0, &[gref]) {
            return Err(ConnectFault::NotGranted);
        }
        self.bind_event_channel(cx)?;
        self.connected = true;
        // The domain may have written before the connection.
        cx.again();
        Ok(())
    }

    fn release(&mut self) -> bool {
        self.connected = false;
        true
    }
}

impl Auxiliary for Console {
    fn start(&mut self, cx: &mut Context) {
        self.prepare(cx);
    }

    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        self.changes(ready == Ready::Fd(NODES), cx);
        if ready == Ready::Fd(EVENTS) {
            self.front.signalled();
        }
        self.pump(cx);
    }

    fn inspect(&self, out: &mut Inspect) {
        out.value("state", format!("{:?}", self.handshake.state)).value("connected", self.connected);
        out.value("bytes from the domain", self.out).value("bytes to it", self.into).value("broken", self.broken);
    }
}
