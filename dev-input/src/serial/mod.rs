//! A serial port: 16550A.
//!
//! The line is as fast as its other end: a character counts as sent when the back end has accepted it. While the back end
//! accepts none (no process reads the terminal), up to [`BACKLOG`] characters are queued; then the transmitter stays busy, and
//! after [`PATIENCE`] characters are dropped so that a guest that polls does not hang.
mod exercised;
mod file;
mod listen;
mod spec;
mod state;

use bulkhead_bus::{
    Access, Context, Declaration, Device, Inspect, IoError, IoResult, Line, Ready, Region, RegionId, Reset, Shadows,
    StateError,
};
pub use exercised::TARGET;
pub use file::FileBackend;
pub use listen::ListenBackend;
use prost::Message as _;
use rustix::fd::OwnedFd;
use spec::{FIFO, FifoControl, InterruptEnable, LineControl, LineStatus, ModemControl, ModemStatus, iir};
use state::{SerialState, VERSION};
use std::collections::VecDeque;
use std::time::Duration;

/// Most queued characters while the back end accepts none.
const BACKLOG: usize = 256;
/// Nanoseconds after which a stuck back end loses characters.
const PATIENCE: u64 = 1_000_000_000;
/// Nanoseconds without a received or read character, after which the characters in the FIFO are reported (4 characters at 115200
/// baud).
const CHARACTER_TIMEOUT: u64 = 350_000;

const TIMEOUT_TIMER: u8 = 0;
const STUCK_TIMER: u8 = 1;
const RETRY_TIMER: u8 = 2;
const TIMERS: usize = 3;

/// Ports of COM1 to COM4.
const BASES: [u16; 4] = [0x3f8, 0x2f8, 0x3e8, 0x2e8];
/// ISA interrupts of COM1 to COM4.
const INTERRUPTS: [u8; 4] = [4, 3, 4, 3];

/// Shadow of the line status register.
const SHADOW_LSR: usize = 0;

/// The character device behind the port.
pub trait Backend: Send {
    /// Sends `bytes`, or the first of them. Returns how many were accepted, 0 if none are at present.
    fn write(&mut self, bytes: &[u8]) -> usize;
    /// Receives into `bytes`. Returns the number of bytes, 0 if there are none at present.
    fn read(&mut self, bytes: &mut [u8]) -> usize;
    /// The time after which it accepts output again, if it has not, because output comes too fast. Nothing else tells when.
    fn retry(&self) -> Option<Duration> {
        None
    }
}

/// A non-blocking descriptor: pty, FIFO, socket, character device.
pub struct FdBackend(OwnedFd);

impl FdBackend {
    /// A back end with this descriptor.
    pub fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl Backend for FdBackend {
    fn write(&mut self, bytes: &[u8]) -> usize {
        match rustix::io::write(&self.0, bytes) {
            Ok(n) => n,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => 0,
            // Without a reader (EIO of a pty) characters are discarded, as with an unplugged cable.
            Err(_) => bytes.len(),
        }
    }
    fn read(&mut self, bytes: &mut [u8]) -> usize {
        rustix::io::read(&self.0, bytes).unwrap_or(0)
    }
}

/// The device's time after this duration.
pub(crate) fn after_now(cx: &Context, duration: Duration) -> u64 {
    cx.now().saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

/// Accepts all characters and sends none: `null`.
pub struct NullBackend;

impl Backend for NullBackend {
    fn write(&mut self, bytes: &[u8]) -> usize {
        bytes.len()
    }
    fn read(&mut self, _: &mut [u8]) -> usize {
        0
    }
}

/// One 16550A with the character device behind it.
pub struct Serial {
    // Fixed.
    index: usize,
    backend: Box<dyn Backend>,
    // Registers.
    ier: InterruptEnable,
    fcr: FifoControl,
    lcr: LineControl,
    mcr: ModemControl,
    errors: LineStatus,
    msr: ModemStatus,
    scr: u8,
    divisor: u16,
    // FIFOs.
    received: VecDeque<u8>,
    unsent: VecDeque<u8>,
    thre_pending: bool,
    timeout_pending: bool,
    /// Deadlines by timer, for the saved state; 0: the timer is stopped, or an old state does not tell.
    deadlines: [u64; TIMERS],
    /// The port has been reset, and characters that wait at the other end have not been asked for since.
    begins: bool,
    dropped: u64,
    dirty: bool,
    /// The machine runs: characters come and go.
    running: bool,
}

/// The declaration of port number `index` (0 = COM1).
pub fn declare(index: u8) -> Declaration {
    let i = usize::from(index & 3);
    let base = BASES.get(i).copied().unwrap_or(0x3f8);
    Declaration {
        // A character that is written twice does less harm than an interrupt enable that is lost: its driver waits for ever.
        regions: vec![Region::ports("16550A", base, 8).kept().shadow(spec::LSR as u16, 1, SHADOW_LSR as u8)],
        lines: vec![Line::Isa(INTERRUPTS.get(i).copied().unwrap_or(4))],
        ..Declaration::default()
    }
}

impl Serial {
    /// Port number `index`, connected to `backend`.
    pub fn new(index: u8, backend: Box<dyn Backend>) -> Self {
        Self {
            index: usize::from(index & 3),
            backend,
            ier: InterruptEnable::new(),
            fcr: FifoControl::new(),
            lcr: LineControl::new(),
            mcr: ModemControl::new(),
            errors: LineStatus::new(),
            msr: ModemStatus::new().with_cts(true).with_dsr(true).with_dcd(true),
            scr: 0,
            divisor: 12,
            received: VecDeque::new(),
            unsent: VecDeque::new(),
            thre_pending: false,
            timeout_pending: false,
            deadlines: [0; TIMERS],
            begins: false,
            dropped: 0,
            dirty: true,
            running: true,
        }
    }

    fn set_timer(&mut self, timer: u8, deadline: Option<u64>, cx: &mut Context) {
        if let Some(saved) = self.deadlines.get_mut(usize::from(timer)) {
            *saved = deadline.unwrap_or(0);
        }
        cx.timers.set(timer, deadline);
    }

    fn capacity(&self) -> usize {
        if self.fcr.enable() { FIFO } else { 1 }
    }

    fn trigger(&self) -> usize {
        if !self.fcr.enable() {
            return 1;
        }
        match self.fcr.trigger() {
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }

    fn line_status(&self) -> LineStatus {
        let room = self.unsent.len() < BACKLOG;
        self.errors.with_data_ready(!self.received.is_empty()).with_thre(room).with_temt(self.unsent.is_empty())
    }

    /// The modem inputs: those of the other end, or in loop-back the port's own outputs (8.7).
    fn modem_inputs(&self) -> ModemStatus {
        if self.mcr.loopback() {
            ModemStatus::new()
                .with_cts(self.mcr.rts())
                .with_dsr(self.mcr.dtr())
                .with_ri(self.mcr.out1())
                .with_dcd(self.mcr.out2())
        } else {
            ModemStatus::new().with_cts(true).with_dsr(true).with_dcd(true)
        }
    }

    fn update_modem(&mut self) {
        let (old, new) = (self.msr, self.modem_inputs());
        self.msr = new
            .with_dcts(old.dcts() || old.cts() != new.cts())
            .with_ddsr(old.ddsr() || old.dsr() != new.dsr())
            .with_teri(old.teri() || (old.ri() && !new.ri()))
            .with_ddcd(old.ddcd() || old.dcd() != new.dcd());
    }

    /// The pending interrupt of highest priority (table II).
    fn pending(&self) -> u8 {
        let errors = self.errors.into_bits() & 0x1e != 0;
        let deltas = self.msr.into_bits() & 0x0f != 0;
        if self.ier.line_status() && errors {
            iir::LINE_STATUS
        } else if self.ier.received() && self.received.len() >= self.trigger() {
            iir::RECEIVED
        } else if self.ier.received() && self.timeout_pending {
            iir::TIMEOUT
        } else if self.ier.transmitter_empty() && self.thre_pending {
            iir::TRANSMITTER_EMPTY
        } else if self.ier.modem_status() && deltas {
            iir::MODEM_STATUS
        } else {
            iir::NONE
        }
    }

    /// Updates the character time-out (FIFO Interrupt Mode Operation): it runs while the receiver FIFO has characters, begins with
    /// the last received or read one, and does not run again after it has ended. It does not depend on the interrupt enables.
    fn watch(&mut self, again: bool, cx: &mut Context) {
        let counts = self.fcr.enable() && !self.received.is_empty();
        self.timeout_pending &= counts;
        if !counts || self.timeout_pending {
            self.set_timer(TIMEOUT_TIMER, None, cx);
        } else if again || cx.timers.get(TIMEOUT_TIMER).is_none() {
            self.set_timer(TIMEOUT_TIMER, Some(cx.now().saturating_add(CHARACTER_TIMEOUT)), cx);
        }
    }

    fn update(&mut self, cx: &mut Context) {
        self.dirty = true;
        self.watch(false, cx);
        self.drive(cx);
    }

    /// Sets the interrupt line according to pending interrupts.
    fn drive(&self, cx: &mut Context) {
        cx.lines.set(0, self.pending() != iir::NONE && self.mcr.out2() && !self.mcr.loopback());
    }

    /// Receives characters from the back end while they fit.
    fn receive(&mut self, cx: &mut Context) {
        if self.mcr.loopback() || !self.running {
            return;
        }
        let mut buffer = [0; FIFO];
        let room = self.capacity().saturating_sub(self.received.len());
        let n = buffer.get_mut(..room).map_or(0, |b| self.backend.read(b));
        for byte in buffer.into_iter().take(n) {
            self.push_received(byte, cx);
        }
    }

    fn push_received(&mut self, byte: u8, cx: &mut Context) {
        if self.received.len() >= self.capacity() {
            self.errors.set_overrun(true);
            // Without the FIFO a new character overwrites the unread one (8.4, bit 1).
            if let Some(held) = self.received.back_mut().filter(|_| !self.fcr.enable()) {
                *held = byte;
            }
            return;
        }
        self.received.push_back(byte);
        self.watch(true, cx);
    }

    /// Sends queued characters to the back end.
    fn transmit(&mut self, cx: &mut Context) {
        let before = self.unsent.len();
        while self.running && !self.unsent.is_empty() {
            let n = self.backend.write(self.unsent.make_contiguous());
            if n == 0 {
                break;
            }
            self.unsent.drain(..n.min(self.unsent.len()));
        }
        if self.unsent.is_empty() {
            self.set_timer(STUCK_TIMER, None, cx);
        } else if self.unsent.len() < before || cx.timers.get(STUCK_TIMER).is_none() {
            // A slow back end is not stuck: the time begins again with each character that it accepts.
            self.set_timer(STUCK_TIMER, Some(cx.now().saturating_add(PATIENCE)), cx);
        }
        let retry = self.backend.retry().filter(|_| !self.unsent.is_empty());
        self.set_timer(RETRY_TIMER, retry.map(|after| after_now(cx, after)), cx);
    }

    fn write_data(&mut self, byte: u8, cx: &mut Context) {
        self.thre_pending = false;
        if self.mcr.loopback() {
            self.push_received(byte, cx);
        } else {
            if self.unsent.len() >= BACKLOG {
                self.dropped = self.dropped.saturating_add(1);
                return;
            }
            self.unsent.push_back(byte);
            self.transmit(cx);
        }
        self.thre_pending = self.unsent.len() < BACKLOG;
    }

    fn read_data(&mut self, cx: &mut Context) -> u8 {
        let byte = self.received.pop_front().unwrap_or(0);
        self.timeout_pending = false;
        self.watch(true, cx);
        if self.received.is_empty() {
            // The next character is received at once. The line falls between two, so that each has an edge.
            self.drive(cx);
            self.receive(cx);
        }
        byte
    }

    /// Continues the work and the timers of a saved state. Its machine's clock may have been another one, so that no time is longer
    /// than it can be. A time that the state does not tell begins again.
    fn take_deadlines(&mut self, saved: [u64; TIMERS], cx: &mut Context) {
        let longest = [CHARACTER_TIMEOUT, PATIENCE, PATIENCE];
        let mut set = [None; TIMERS];
        for ((timer, deadline), (saved, longest)) in (0u8..).zip(&mut set).zip(saved.into_iter().zip(longest)) {
            *deadline = Some(saved.min(cx.now().saturating_add(longest))).filter(|_| saved != 0);
            cx.timers.set(timer, *deadline);
        }
        // A back end that tells when it accepts output again is not asked before.
        let [_, _, retry] = saved;
        if retry == 0 {
            self.transmit(cx);
        }
        if self.received.is_empty() {
            self.receive(cx);
        }
        self.update(cx);
        for ((timer, mine), (set, saved)) in (0u8..).zip(&mut self.deadlines).zip(set.into_iter().zip(saved)) {
            if set.is_some() && cx.timers.get(timer) == set {
                *mine = saved;
            }
        }
    }

    fn write_fcr(&mut self, value: u8, cx: &mut Context) {
        let new = FifoControl::from_bits(value);
        if new.enable() != self.fcr.enable() || new.reset_receiver() {
            self.received.clear();
            self.timeout_pending = false;
        }
        if new.enable() != self.fcr.enable() || new.reset_transmitter() {
            self.thre_pending = true;
        }
        self.fcr = if new.enable() {
            new.with_reset_receiver(false).with_reset_transmitter(false)
        } else {
            FifoControl::new()
        };
        self.receive(cx);
    }
}

impl Device for Serial {
    fn declaration(&self) -> Declaration {
        declare(self.index as u8)
    }

    fn read(&mut self, at: Access, cx: &mut Context) -> IoResult<u64> {
        if at.size != 1 {
            return Err(IoError::Size);
        }
        let [low, high] = self.divisor.to_le_bytes();
        let value = match at.offset {
            spec::DATA if self.lcr.dlab() => low,
            spec::DATA => self.read_data(cx),
            spec::IER if self.lcr.dlab() => high,
            spec::IER => self.ier.into_bits(),
            spec::IIR_FCR => {
                let pending = self.pending();
                if pending == iir::TRANSMITTER_EMPTY {
                    self.thre_pending = false;
                }
                pending | if self.fcr.enable() { iir::FIFOS_ON } else { 0 }
            }
            spec::LCR => self.lcr.into_bits(),
            spec::MCR => self.mcr.into_bits(),
            spec::LSR => {
                let status = self.line_status();
                self.errors = LineStatus::new();
                status.into_bits()
            }
            spec::MSR => {
                let status = self.msr.into_bits();
                self.msr = ModemStatus::from_bits(status & 0xf0);
                status
            }
            spec::SCR => self.scr,
            _ => return Err(IoError::NoRegister),
        };
        self.update(cx);
        Ok(u64::from(value))
    }

    fn write(&mut self, at: Access, value: u64, cx: &mut Context) -> IoResult<()> {
        if at.size != 1 {
            return Err(IoError::Size);
        }
        let value = value as u8;
        match at.offset {
            spec::DATA if self.lcr.dlab() => self.divisor = self.divisor & 0xff00 | u16::from(value),
            spec::DATA => self.write_data(value, cx),
            spec::IER if self.lcr.dlab() => self.divisor = self.divisor & 0x00ff | u16::from(value) << 8,
            spec::IER => {
                let new = InterruptEnable::from_bits(value & 0x0f);
                // Enabling the interrupt while the register is empty raises it (8.5; drivers rely on that).
                if new.transmitter_empty() && !self.ier.transmitter_empty() && self.line_status().thre() {
                    self.thre_pending = true;
                }
                self.ier = new;
            }
            spec::IIR_FCR => self.write_fcr(value, cx),
            spec::LCR => self.lcr = LineControl::from_bits(value),
            spec::MCR => {
                self.mcr = ModemControl::from_bits(value & 0x1f);
                self.update_modem();
                self.receive(cx);
            }
            spec::LSR | spec::MSR => {}
            spec::SCR => self.scr = value,
            _ => return Err(IoError::NoRegister),
        }
        self.update(cx);
        Ok(())
    }

    /// One of them may have enabled the transmitter's interrupt, for which a driver with text waits. Drivers ignore one that they have
    /// not asked for.
    fn lost_writes(&mut self, _: RegionId, _: u64, cx: &mut Context) {
        if self.unsent.len() < BACKLOG {
            self.ier.set_transmitter_empty(true);
            self.thre_pending = true;
        }
        self.update(cx);
    }

    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        if let Ready::Timer(timer) = ready {
            self.set_timer(timer, None, cx);
        }
        match ready {
            Ready::Timer(TIMEOUT_TIMER) => self.timeout_pending = !self.received.is_empty(),
            Ready::Timer(STUCK_TIMER) => {
                self.dropped = self.dropped.saturating_add(self.unsent.len() as u64);
                self.unsent.clear();
                self.set_timer(RETRY_TIMER, None, cx);
                self.thre_pending = true;
            }
            // A state has been loaded after the reset, and has its own characters.
            Ready::Again if !self.begins => {}
            _ => {
                self.begins = false;
                let full = self.unsent.len() >= BACKLOG;
                self.transmit(cx);
                if full && self.unsent.len() < BACKLOG {
                    self.thre_pending = true;
                }
                self.receive(cx);
            }
        }
        self.update(cx);
    }

    fn reset(&mut self, _: Reset, cx: &mut Context) {
        let fresh = Self::new(self.index as u8, Box::new(NullBackend));
        let backend = std::mem::replace(&mut self.backend, Box::new(NullBackend));
        let (dropped, running) = (self.dropped, self.running);
        // Characters that wait have been announced, so that nothing else would tell of them. They are not taken before a state is
        // loaded, which would lose them.
        *self = Self { backend, dropped, running, begins: true, ..fresh };
        cx.again();
        self.set_timer(STUCK_TIMER, None, cx);
        self.set_timer(RETRY_TIMER, None, cx);
        self.update(cx);
    }

    fn running(&mut self, running: bool, cx: &mut Context) {
        self.running = running;
        if running {
            // What a state that was loaded has still to send.
            self.transmit(cx);
            self.update(cx);
        }
    }

    fn shadows(&self, out: &mut Shadows<'_>) {
        // Reading the line status clears its error bits; without any, it changes nothing.
        let clean = self.errors.into_bits() == 0;
        out.set(SHADOW_LSR, clean.then(|| u32::from(self.line_status().into_bits())));
    }

    fn checkpoint(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.dirty).then(|| self.save())
    }

    fn save(&self) -> Vec<u8> {
        let Self {
            index: _,
            backend: _,
            begins: _,
            dropped: _,
            dirty: _,
            running: _,
            ier,
            fcr,
            lcr,
            mcr,
            errors,
            msr,
            scr,
            divisor,
            received,
            unsent,
            thre_pending,
            timeout_pending,
            deadlines: [timeout_deadline, stuck_deadline, retry_deadline],
        } = self;
        SerialState {
            version: VERSION,
            ier: u32::from(ier.into_bits()),
            fcr: u32::from(fcr.into_bits()),
            lcr: u32::from(lcr.into_bits()),
            mcr: u32::from(mcr.into_bits()),
            lsr_errors: u32::from(errors.into_bits()),
            msr: u32::from(msr.into_bits()),
            scr: u32::from(*scr),
            divisor: u32::from(*divisor),
            received: received.iter().copied().collect(),
            unsent: unsent.iter().copied().collect(),
            thre_pending: *thre_pending,
            timeout_pending: *timeout_pending,
            timeout_deadline: *timeout_deadline,
            stuck_deadline: *stuck_deadline,
            retry_deadline: *retry_deadline,
        }
        .encode_to_vec()
    }

    fn load(&mut self, state: &[u8], cx: &mut Context) -> Result<(), StateError> {
        let s = SerialState::decode(state)?;
        if s.version != VERSION {
            return Err(StateError::Version(s.version, VERSION));
        }
        let byte = |value: u32, what| u8::try_from(value).map_err(|_| StateError::Value(what));
        let fcr = FifoControl::from_bits(byte(s.fcr, "FCR")?);
        if s.received.len() > FIFO || s.unsent.len() > BACKLOG {
            return Err(StateError::Value("FIFO length"));
        }
        let new = Self {
            index: self.index,
            backend: Box::new(NullBackend),
            ier: InterruptEnable::from_bits(byte(s.ier, "IER")? & 0x0f),
            fcr,
            lcr: LineControl::from_bits(byte(s.lcr, "LCR")?),
            mcr: ModemControl::from_bits(byte(s.mcr, "MCR")? & 0x1f),
            errors: LineStatus::from_bits(byte(s.lsr_errors, "LSR")? & 0x9e),
            msr: ModemStatus::from_bits(byte(s.msr, "MSR")?),
            scr: byte(s.scr, "SCR")?,
            divisor: u16::try_from(s.divisor).map_err(|_| StateError::Value("divisor"))?,
            received: s.received.into(),
            unsent: s.unsent.into(),
            thre_pending: s.thre_pending,
            timeout_pending: s.timeout_pending,
            deadlines: [0; TIMERS],
            begins: false,
            dropped: self.dropped,
            dirty: true,
            running: self.running,
        };
        let backend = std::mem::replace(&mut self.backend, Box::new(NullBackend));
        *self = Self { backend, ..new };
        // Without unsent characters nothing is stuck, whatever the state says.
        let waits = |deadline| if self.unsent.is_empty() { 0 } else { deadline };
        self.take_deadlines([s.timeout_deadline, waits(s.stuck_deadline), waits(s.retry_deadline)], cx);
        Ok(())
    }

    fn inspect(&self, out: &mut Inspect) {
        out.value("port", format_args!("COM{}", self.index.saturating_add(1)));
        out.hex("IER", self.ier.into_bits()).hex("FCR", self.fcr.into_bits()).hex("LCR", self.lcr.into_bits());
        out.hex("MCR", self.mcr.into_bits())
            .hex("LSR", self.line_status().into_bits())
            .hex("MSR", self.msr.into_bits());
        out.hex("SCR", self.scr).value("divisor", self.divisor);
        out.value("received", self.received.len()).value("unsent", self.unsent.len()).value("dropped", self.dropped);
    }
}

#[cfg(test)]
mod tests;
