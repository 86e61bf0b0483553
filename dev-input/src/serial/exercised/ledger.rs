//! A model of what the other end must receive: what the guest writes to THR while DLAB is clear and the port is not in loop-back, in
//! order, except what is documented as lost. It knows the port by its accesses only.
use super::super::spec::{self, LineControl, ModemControl};
use super::super::{BACKLOG, PATIENCE, STUCK_TIMER, Serial};
use bulkhead_bus::{Access, Context, Declaration, Device, Inspect, IoResult, Ready, Reset, Shadows, StateError};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

pub(super) type Shared = Arc<Mutex<Ledger>>;

#[derive(Debug, Default)]
pub(super) struct Ledger {
    lcr: LineControl,
    mcr: ModemControl,
    /// Characters that the guest has sent and the other end has not accepted.
    owed: VecDeque<u8>,
    now: u64,
    /// The time of the last accepted character, or of the first one that waits; `None` after a state of somebody else's, which has
    /// times of its own.
    progress: Option<u64>,
    /// The process is a new one, and its state is not loaded yet.
    pub(super) restarted: bool,
    /// A state of somebody else's is loaded.
    foreign: bool,
    pub(super) wrong: Option<String>,
}

impl Ledger {
    pub(super) fn of(shared: &Shared) -> MutexGuard<'_, Self> {
        super::ends::lock(shared)
    }

    fn fail(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    /// The guest writes to the first register.
    fn sent(&mut self, byte: u8) {
        // When the queue is full, the transmitter is busy, and a character that is written nevertheless is lost.
        if self.lcr.dlab() || self.mcr.loopback() || self.owed.len() >= BACKLOG {
            return;
        }
        if self.owed.is_empty() {
            self.progress = Some(self.now);
        }
        self.owed.push_back(byte);
    }

    pub(super) fn accepted(&mut self, bytes: &[u8]) {
        if self.foreign || bytes.is_empty() {
            return;
        }
        self.progress = Some(self.now);
        let same = self.owed.iter().zip(bytes).all(|(owed, got)| owed == got) && bytes.len() <= self.owed.len();
        if !same {
            self.fail(format!("the other end receives {bytes:02x?}, the guest has sent {:02x?}", self.owed));
        }
        self.owed.drain(..bytes.len().min(self.owed.len()));
    }

    /// The port gives up.
    fn dropped(&mut self) {
        let waited = self.progress.map_or(PATIENCE, |since| self.now.saturating_sub(since));
        if waited < PATIENCE && !self.owed.is_empty() {
            self.fail(format!("characters are dropped after {waited} ns without an accepted one"));
        }
        self.owed.clear();
    }
}

/// A port with its ledger.
pub(super) struct Watched {
    pub(super) port: Serial,
    pub(super) ledger: Shared,
}

impl Watched {
    fn at(&self, cx: &Context) -> MutexGuard<'_, Ledger> {
        let mut ledger = Ledger::of(&self.ledger);
        ledger.now = cx.now();
        ledger
    }
}

impl Device for Watched {
    fn declaration(&self) -> Declaration {
        self.port.declaration()
    }

    fn read(&mut self, at: Access, cx: &mut Context) -> IoResult<u64> {
        let answer = self.port.read(at, cx);
        if let (spec::LSR, Ok(status)) = (at.offset, answer) {
            let mut ledger = self.at(cx);
            let (room, empty) = (ledger.owed.len() < BACKLOG, ledger.owed.is_empty());
            if (status >> 5 & 1 != 0, status >> 6 & 1 != 0) != (room, empty) {
                let owed = ledger.owed.len();
                ledger.fail(format!("LSR is {status:#x} while {owed} characters wait"));
            }
        }
        answer
    }

    fn write(&mut self, at: Access, value: u64, cx: &mut Context) -> IoResult<()> {
        let mut ledger = self.at(cx);
        match (at.offset, at.size) {
            (spec::DATA, 1) => ledger.sent(value as u8),
            (spec::LCR, 1) => ledger.lcr = LineControl::from_bits(value as u8),
            (spec::MCR, 1) => ledger.mcr = ModemControl::from_bits(value as u8 & 0x1f),
            _ => {}
        }
        drop(ledger);
        self.port.write(at, value, cx)
    }

    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        let mut ledger = self.at(cx);
        if ready == Ready::Timer(STUCK_TIMER) {
            ledger.dropped();
        }
        drop(ledger);
        self.port.poll(ready, cx);
    }

    fn reset(&mut self, kind: Reset, cx: &mut Context) {
        let mut ledger = self.at(cx);
        if !ledger.restarted {
            (ledger.lcr, ledger.mcr) = (LineControl::new(), ModemControl::new());
            ledger.owed.clear();
        }
        drop(ledger);
        self.port.reset(kind, cx);
    }

    fn shadows(&self, out: &mut Shadows<'_>) {
        self.port.shadows(out);
    }

    fn checkpoint(&mut self) -> Option<Vec<u8>> {
        self.port.checkpoint()
    }

    fn save(&self) -> Vec<u8> {
        self.port.save()
    }

    fn load(&mut self, state: &[u8], cx: &mut Context) -> Result<(), StateError> {
        let mut ledger = self.at(cx);
        let mine = std::mem::take(&mut ledger.restarted);
        ledger.foreign = !mine;
        drop(ledger);
        let done = self.port.load(state, cx);
        let (lcr, mcr, unsent) = (self.port.lcr, self.port.mcr, &self.port.unsent);
        let mut ledger = Ledger::of(&self.ledger);
        ledger.foreign = false;
        done?;
        if mine {
            if ledger.owed != *unsent || (ledger.lcr, ledger.mcr) != (lcr, mcr) {
                let owed = ledger.owed.len();
                ledger.fail(format!("{owed} characters wait before a restart, {} after it", unsent.len()));
            }
        } else {
            (ledger.lcr, ledger.mcr) = (lcr, mcr);
            ledger.owed.clone_from(unsent);
            ledger.progress = None;
        }
        Ok(())
    }

    fn inspect(&self, out: &mut Inspect) {
        self.port.inspect(out);
    }
}
