//! Realtek RTL8139C+, libxl's default card: C mode (one receive buffer, four transmit buffers) for firmware and older drivers, C+
//! mode (descriptor rings, offloads) for others.
//!
//! | file | what |
//! |---|---|
//! | `spec.rs` | registers and descriptors |
//! | `transmit.rs` | sending in both modes |
//! | `receive.rs` | receiving in both modes, filters |
//! | `state.rs` | the saved state |
mod exercised;
mod receive;
mod spec;
mod state;
mod transmit;

use crate::backend::Backend;
use crate::eeprom::{Bus, Lines, WORDS};
use crate::frame;
use crate::port::{Port, Timers};
use bulkhead_bus::nic::{NicLease, NicSettings};
use bulkhead_bus::pci::{BarKind, ConfigSpace, FunctionSpec, reg as pci};
use bulkhead_bus::{
    Access, Card, Context, Declaration, Device, Inspect, IoError, IoResult, Line, Ready, Region, Reset, Shadows,
    StateError,
};
pub use exercised::TARGET;
use rustix::fd::OwnedFd;
use spec::{Command, PlusCommand, Rcr, cause, reg};

/// Timers: the card's own; retry after a full back end; announcement of the card's place.
const TIMER: u8 = 0;
const RETRY: u8 = 1;
const ANNOUNCE: u8 = 2;
/// Marks: C+ mode's position in the receive ring and C mode's in the buffer; the positions in the two transmit rings.
const RECEIVE_MARK: usize = 0;
const TRANSMIT_MARK: usize = 1;
/// The timer counts the PCI clock's 33 MHz.
const TICK: u64 = 30;
/// The chip's version in TCR: RTL8139C+ (5.8).
const HARDWARE: u32 = 0x7480_0000;

fn function(device: u8, rom: u32) -> FunctionSpec {
    // RTL8139C+: no special cycles, palette snooping, stepping, fast back-to-back; INTx# cannot be disabled (PCI 2.2).
    let mut spec = FunctionSpec::new(device, 0).with_command(0x0157).with_bar(0, BarKind::Io, 256).with_bar(
        1,
        BarKind::Memory { prefetchable: false },
        256,
    );
    spec.rom = rom;
    spec
}

/// The card's declaration, as device `device` of bus 0 with an expansion ROM of `rom` bytes (0 for none).
pub fn declare(device: u8, rom: u32) -> Declaration {
    Declaration {
        regions: [Region::bar("ports", 0, 0), Region::bar("registers", 0, 1)]
            .map(|r| {
                r.kept().shadow(reg::IMR as u16, 2, 0).shadow(reg::ISR as u16, 2, 1).shadow(reg::EECR as u16, 1, 2)
            })
            .into(),
        functions: vec![function(device, rom)],
        lines: vec![Line::Intx { function: 0, pin: 0 }],
        dma: true,
        unplug: bulkhead_bus::UNPLUG_NICS,
        unplug_removes: true,
        ..Declaration::default()
    }
}

/// The tally counters (6.1): sent, received, sent with error, received with error, missed, misaligned, after one collision, after
/// more, to this address, broadcasts, multicasts, aborted, underruns.
type Tally = [u64; 13];

/// The RTL8139C+.
pub struct Rtl8139 {
    device: u8,
    rom: u32,
    config: ConfigSpace,
    bytes: [u8; 256],
    words: [u16; WORDS],
    bus: Bus,
    port: Port,
    positions: [u32; 3],
    tally: Tally,
    /// Time in nanoseconds at which the timer was zero.
    timer: u64,
    running: bool,
    dirty: bool,
    /// Number of invalid descriptors.
    ring_errors: u64,
}

/// Words of the EEPROM of a card with this address (table 5.1 of the data sheet).
fn words(mac: [u8; 6]) -> [u16; WORDS] {
    let mut words = [0u16; WORDS];
    let [a, b, c, d, e, f] = mac;
    let set = [
        (0, 0x8129),
        (1, 0x10ec),
        (2, 0x8139),
        (3, 0x10ec),
        (4, 0x8139),
        (7, u16::from_le_bytes([a, b])),
        (8, u16::from_le_bytes([c, d])),
        (9, u16::from_le_bytes([e, f])),
    ];
    for (at, value) in set {
        if let Some(word) = words.get_mut(at) {
            *word = value;
        }
    }
    words
}

impl Rtl8139 {
    /// A card with this address, in slot `device`, with an expansion ROM of `rom` bytes.
    pub fn new(device: u8, rom: u32, mac: [u8; 6], backend: Box<dyn Backend>, settings: &NicSettings) -> Self {
        let mut card = Self {
            device,
            rom,
            config: Self::identity(device, rom),
            bytes: [0; 256],
            words: words(mac),
            bus: Bus::default(),
            port: Port::new(mac, backend, settings, Timers { retry: RETRY, announce: ANNOUNCE }),
            positions: [0; 3],
            tally: [0; 13],
            timer: 0,
            running: true,
            dirty: true,
            ring_errors: 0,
        };
        card.power_on();
        card
    }

    /// Answers the guest's DHCP requests from this lease.
    #[must_use]
    pub fn with_lease(mut self, lease: Option<NicLease>) -> Self {
        self.port.set_lease(lease);
        self
    }

    fn identity(device: u8, rom: u32) -> ConfigSpace {
        let mut config = ConfigSpace::new(&function(device, rom), 0x10ec, 0x8139, 0x20, 0x02_0000);
        config.set(pci::INTERRUPT_PIN, 1, 1);
        // Cache line size and latency timer are writable: Linux's driver sets them for memory write and invalidate, and fails
        // otherwise.
        config.allow(0x0c, 2, 0xf8ff);
        config
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes.get(at..).and_then(|b| b.first_chunk::<N>()).copied().unwrap_or([0; N])
    }

    fn put(&mut self, at: usize, value: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(at).zip(value) {
            *to = *from;
        }
    }

    fn get16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.get(at))
    }

    fn get32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.get(at))
    }

    fn get64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.get(at))
    }

    fn command(&self) -> Command {
        Command::from_bits(self.get::<1>(reg::CR)[0])
    }

    fn rcr(&self) -> Rcr {
        Rcr::from_bits(self.get32(reg::RCR))
    }

    fn plus(&self) -> PlusCommand {
        PlusCommand::from_bits(self.get16(reg::CPCR))
    }

    /// Sets all registers to their power-on values, with the address from the EEPROM.
    fn power_on(&mut self) {
        self.bytes = [0; 256];
        let [.., a, b, c] =
            [self.words.get(7), self.words.get(8), self.words.get(9)].map(|w| w.copied().unwrap_or(0).to_le_bytes());
        self.put(reg::IDR, &[a, b, c].concat());
        self.put(reg::CONFIG1, &[0x0c]);
        self.put(reg::BMCR, &0x1000u16.to_le_bytes());
        self.put(reg::ANAR, &0x05e1u16.to_le_bytes());
        self.put(reg::ANLPAR, &0x45e1u16.to_le_bytes());
        self.put(reg::ANER, &1u16.to_le_bytes());
        self.put(reg::RERID, &[0x20]);
        self.bus = Bus::default();
        self.soft_reset();
    }

    /// CR's reset of transmitter, receiver and their pointers; addresses and configuration stay (5.5).
    fn soft_reset(&mut self) {
        for (at, len) in [
            (reg::TSD, 32),
            (reg::CR, 1),
            (reg::IMR, 4),
            (reg::TCR, 8),
            (reg::MPC, 4),
            (reg::CPCR, 2),
            (reg::TIMER_INT, 4),
        ] {
            self.put(at, &vec![0; len]);
        }
        self.put(reg::CAPR, &[0xf0, 0xff, 0, 0]);
        for i in 0..4usize {
            self.put(
                reg::TSD.saturating_add(i.saturating_mul(4)),
                &spec::TransmitStatus::new().with_own(true).into_bits().to_le_bytes(),
            );
        }
        (self.positions, self.tally) = ([0; 3], [0; 13]);
        self.port.clear();
    }

    /// Marks the current positions in the rings.
    fn mark(&self, cx: &mut Context) {
        let [normal, high, receive] = self.positions;
        cx.marks.set(RECEIVE_MARK, u64::from(self.get16(reg::CBR)) << 32 | u64::from(receive));
        cx.marks.set(TRANSMIT_MARK, u64::from(high) << 32 | u64::from(normal));
    }

    /// Continues at the positions of a dead process.
    fn resume(&mut self, cx: &mut Context) {
        let halves = |mark: u64| ((mark & 0xffff_ffff) as u32, (mark >> 32) as u32);
        if let Some((receive, buffer)) =
            cx.marks.former(RECEIVE_MARK).map(halves).filter(|(r, b)| *r < spec::RING && *b < self.buffer())
        {
            self.positions[2] = receive;
            self.put(reg::CBR, &(buffer as u16).to_le_bytes());
        }
        if let Some((normal, high)) =
            cx.marks.former(TRANSMIT_MARK).map(halves).filter(|(n, h)| *n < spec::RING && *h < spec::RING)
        {
            (self.positions[0], self.positions[1]) = (normal, high);
        }
        self.mark(cx);
    }

    fn raise(&mut self, causes: u16, cx: &mut Context) {
        self.put(reg::ISR, &(self.get16(reg::ISR) | causes).to_le_bytes());
        self.update(cx);
    }

    fn update(&self, cx: &mut Context) {
        cx.lines.set(0, self.get16(reg::ISR) & self.get16(reg::IMR) != 0);
    }

    fn count(&mut self, which: usize) {
        if let Some(counter) = self.tally.get_mut(which) {
            *counter = counter.saturating_add(1);
        }
    }

    /// Bytes of C mode's receive buffer.
    fn buffer(&self) -> u32 {
        8192u32 << self.rcr().buffer()
    }

    /// Software's read position: CAPR is 16 less (5.6).
    fn reading(&self) -> u32 {
        u32::from(self.get16(reg::CAPR).wrapping_add(16)).checked_rem(self.buffer()).unwrap_or(0)
    }

    fn ticks(&self, cx: &Context) -> u32 {
        cx.now().saturating_sub(self.timer).checked_div(TICK).unwrap_or(0) as u32
    }

    /// Sets the timer's deadline. It interrupts when it reaches TimerInt (5.14), and again each time that its 32 bits have wrapped;
    /// never if TimerInt is zero.
    fn arm(&mut self, cx: &mut Context) {
        let at = u64::from(self.get32(reg::TIMER_INT));
        let passed = cx.now().saturating_sub(self.timer).checked_div(TICK).unwrap_or(0);
        let round = passed & !u64::from(u32::MAX);
        let next = round | at;
        let next = if next > passed { next } else { next.saturating_add(1 << 32) };
        cx.timers.set(TIMER, (at != 0).then_some(self.timer.saturating_add(next.saturating_mul(TICK))));
    }

    fn eecr(&self) -> u8 {
        self.get::<1>(reg::EECR)[0] & !1 | u8::from(self.bus.out())
    }

    /// One byte as software reads it.
    fn byte(&self, at: usize, cx: &Context) -> u8 {
        let part = |value: u32, base: usize| value.to_le_bytes().get(at.saturating_sub(base)).copied().unwrap_or(0);
        let stored = self.bytes.get(at).copied().unwrap_or(0);
        match at {
            reg::CR => self.command().with_empty(self.reading() == u32::from(self.get16(reg::CBR))).into_bits(),
            0x40..0x44 => part(self.get32(reg::TCR) & !0x7cc0_0000 | HARDWARE, reg::TCR),
            0x48..0x4c => part(self.ticks(cx), reg::TCTR),
            reg::EECR => self.eecr(),
            // 100 Mbit/s; the link bit is inverted (5.15).
            reg::MSR => {
                if self.port.cable() {
                    0
                } else {
                    4
                }
            }
            0x60 | 0x61 => {
                // The bits own, abort, underrun and ok of the four descriptors (5.18).
                let bits = (0..4usize).fold(0u32, |all, i| {
                    let status =
                        spec::TransmitStatus::from_bits(self.get32(reg::TSD.saturating_add(i.saturating_mul(4))));
                    let shift = i as u32 & 3;
                    all | u32::from(status.own()) << shift
                        | u32::from(status.abort()) << shift.saturating_add(4)
                        | u32::from(status.ok()) << shift.saturating_add(12)
                });
                part(bits, reg::TSAD_ALL)
            }
            0x64 | 0x65 => part(if self.port.cable() { 0x782d } else { 0x7809 }, reg::BMSR),
            _ => stored,
        }
    }

    fn write_bytes(&mut self, at: usize, value: &[u8], cx: &mut Context) {
        let unlocked = self.get::<1>(reg::EECR)[0] & 0xc0 == 0xc0;
        let whole = |register: usize, len: usize| at == register && value.len() == len;
        let number = value.iter().rev().fold(0u32, |n, b| n << 8 | u32::from(*b));
        match at {
            // The address and the configuration are writable only if 9346CR unlocks them (5.10).
            0x00..0x08 | reg::CONFIG0 | reg::CONFIG1 | reg::CONFIG3 | reg::CONFIG4 | reg::CONFIG5 if !unlocked => {}
            0x10..0x20 if !self.plus().transmit() && value.len() == 4 && at & 3 == 0 => {
                self.send_buffer(at.saturating_sub(reg::TSD) >> 2, number, cx)
            }
            reg::DTCCR if value.len() == 4 => {
                self.put(at, value);
                self.dump(cx);
            }
            reg::CR => {
                let command = Command::from_bits(number as u8);
                if command.reset() {
                    self.soft_reset();
                    self.mark(cx);
                    for timer in [TIMER, RETRY] {
                        cx.timers.set(timer, None);
                    }
                    self.update(cx);
                } else {
                    self.put(reg::CR, &[command.into_bits() & 0x0c]);
                    self.receive(cx);
                }
            }
            reg::CAPR => {
                self.put(at, value.get(..2).unwrap_or(value));
                self.receive(cx);
            }
            reg::RMS | 0xdb => {}
            // CBR, TCTR's value and the status registers are read-only.
            0x3a | 0x3b | 0x58 | 0x5e | 0x60 | 0x61 | 0x64 | 0x65 | 0x68..0x6c => {}
            reg::ISR => {
                let clear = number as u16;
                self.put(reg::ISR, &(self.get16(reg::ISR) & !clear).to_le_bytes());
                self.update(cx);
                // In C mode the buffer has no more room than before, so a queued frame would overflow again at once.
                if self.plus().receive() {
                    self.receive(cx);
                }
            }
            0x48..0x4c => {
                self.timer = cx.now();
                self.arm(cx);
            }
            0x4c..0x50 => self.put(reg::MPC, &[0; 4]),
            reg::EECR => {
                let v = number as u8;
                self.put(at, &[v & 0xfe]);
                // Software drives the lines only in programming mode.
                let lines = if v & 0xc0 == 0x80 {
                    Lines { clock: v & 4 != 0, select: v & 8 != 0, data: v & 2 != 0 }
                } else {
                    Lines::default()
                };
                self.bus.write(lines, &self.words);
            }
            reg::BMCR if whole(reg::BMCR, 2) => {
                // Reset and restart clear themselves.
                self.put(at, &(number as u16 & !0x8200).to_le_bytes());
                if number & 0x8200 != 0 {
                    self.raise(cause::LINK, cx);
                }
            }
            reg::TPPOLL => {
                if number & 1 != 0 {
                    self.raise(cause::SOFTWARE, cx);
                }
                self.put(at, &[number as u8 & 0xc0]);
                self.transmit(cx);
            }
            _ => {
                self.put(at, value);
                let touches = |register: usize, len: usize| {
                    at < register.saturating_add(len) && register < at.saturating_add(value.len())
                };
                for (i, (register, len)) in [(reg::TNPDS, 8), (reg::THPDS, 8), (reg::RDSAR, 8)].into_iter().enumerate()
                {
                    if touches(register, len)
                        && (i == 2 || self.plus().transmit())
                        && let Some(position) = self.positions.get_mut(i)
                    {
                        *position = 0;
                    }
                }
                self.mark(cx);
                if touches(reg::IMR, 2) {
                    self.update(cx);
                }
                if touches(reg::TIMER_INT, 4) {
                    self.arm(cx);
                }
                if touches(reg::RCR, 4) || touches(reg::CPCR, 2) || touches(reg::RBSTART, 4) {
                    self.receive(cx);
                }
            }
        }
    }

    /// Writes the tally counters to memory, if the driver has requested it (6.1).
    fn dump(&mut self, cx: &mut Context) {
        let command = self.get64(reg::DTCCR);
        let mut out = Vec::with_capacity(64);
        // Their widths: three of 64 bits, then 32, 16, 16, 32, 32, 64, 64, 32, 16, 16.
        for (value, bytes) in self.tally.iter().zip([8usize, 8, 8, 4, 2, 2, 4, 4, 8, 8, 4, 2, 2]) {
            out.extend_from_slice(value.to_le_bytes().get(..bytes).unwrap_or_default());
        }
        if command & 8 != 0 && cx.memory.write(command & !0x3f, &out).is_err() {
            self.ring_errors = self.ring_errors.saturating_add(1);
        }
        if command & 1 != 0 {
            self.tally = [0; 13];
        }
        self.put(reg::DTCCR, &(command & !9).to_le_bytes());
    }
}

impl Device for Rtl8139 {
    fn declaration(&self) -> Declaration {
        declare(self.device, self.rom)
    }

    fn read(&mut self, at: Access, cx: &mut Context) -> IoResult<u64> {
        let offset = usize::try_from(at.offset).map_err(|_| IoError::NoRegister)?;
        if !matches!(at.size, 1 | 2 | 4) {
            return Err(IoError::Size);
        }
        Ok((0..usize::from(at.size)).rev().fold(0, |n, i| n << 8 | u64::from(self.byte(offset.saturating_add(i), cx))))
    }

    fn write(&mut self, at: Access, value: u64, cx: &mut Context) -> IoResult<()> {
        let offset = usize::try_from(at.offset).map_err(|_| IoError::NoRegister)?;
        if !matches!(at.size, 1 | 2 | 4) || offset.saturating_add(usize::from(at.size)) > 256 {
            return Err(IoError::Size);
        }
        self.dirty = true;
        let bytes = value.to_le_bytes();
        let bytes = bytes.get(..usize::from(at.size)).unwrap_or_default();
        // A wide write to several registers is split.
        match offset {
            reg::IMR if bytes.len() == 4 => {
                let (mask, status) = bytes.split_at(2);
                self.write_bytes(reg::IMR, mask, cx);
                self.write_bytes(reg::ISR, status, cx);
            }
            _ => self.write_bytes(offset, bytes, cx),
        }
        Ok(())
    }

    fn config_write(&mut self, _: u8, offset: u8, size: u8, value: u32, _: &mut Context) {
        self.dirty = true;
        self.config.write(offset, size, value);
    }

    fn config(&self, function: u8) -> Option<&ConfigSpace> {
        (function == 0).then_some(&self.config)
    }

    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        self.dirty = true;
        match ready {
            Ready::Timer(TIMER) => {
                self.raise(cause::TIMER, cx);
                self.arm(cx);
            }
            Ready::Timer(ANNOUNCE) => self.port.announce(cx),
            Ready::Timer(_) => {
                self.port.flush(cx);
                self.transmit(cx);
            }
            Ready::Fd(_) => self.receive(cx),
            Ready::Again => {
                self.transmit(cx);
                self.receive(cx);
            }
        }
    }

    fn reset(&mut self, _: Reset, cx: &mut Context) {
        self.power_on();
        self.mark(cx);
        self.config = Self::identity(self.device, self.rom);
        self.update(cx);
    }

    fn running(&mut self, running: bool, cx: &mut Context) {
        self.running = running;
        if running {
            self.transmit(cx);
            self.receive(cx);
        }
    }

    /// The registers that an interrupt handler reads, and EECR, which is read for each bit of the EEPROM; reads have no side
    /// effect.
    fn shadows(&self, out: &mut Shadows<'_>) {
        out.set(0, Some(u32::from(self.get16(reg::IMR))));
        out.set(1, Some(u32::from(self.get16(reg::ISR))));
        out.set(2, Some(u32::from(self.eecr())));
    }

    fn checkpoint(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.dirty).then(|| self.save())
    }

    fn save(&self) -> Vec<u8> {
        self.encode()
    }

    fn load(&mut self, state: &[u8], cx: &mut Context) -> Result<(), StateError> {
        self.decode(state, cx)
    }

    fn unplug(&mut self, _: u16, cx: &mut Context) -> bool {
        self.port.unplug();
        self.reset(Reset::Machine, cx);
        true
    }

    fn card(&mut self) -> Option<&mut dyn Card> {
        Some(self)
    }

    fn inspect(&self, out: &mut Inspect) {
        for (name, value) in [
            ("CR", u32::from(self.command().into_bits())),
            ("ISR", u32::from(self.get16(reg::ISR))),
            ("IMR", u32::from(self.get16(reg::IMR))),
            ("TCR", self.get32(reg::TCR)),
            ("RCR", self.get32(reg::RCR)),
            ("CPCR", u32::from(self.get16(reg::CPCR))),
            ("CAPR", u32::from(self.get16(reg::CAPR))),
            ("CBR", u32::from(self.get16(reg::CBR))),
        ] {
            out.hex(name, value);
        }
        out.value("sent", self.tally[0]).value("received", self.tally[1]);
        out.value("descriptors that could not be used", self.ring_errors);
        self.port.inspect(out);
    }
}

impl Card for Rtl8139 {
    fn set_nic(&mut self, settings: &NicSettings, cx: &mut Context) {
        if self.port.set(settings) {
            self.raise(cause::LINK, cx);
        }
    }

    fn capture(&mut self, to: Option<OwnedFd>) {
        self.port.capture(to);
    }

    fn arrived(&mut self, cx: &mut Context) {
        self.port.arrived(cx);
    }

    fn dropped(&self) -> Vec<(&'static str, u64)> {
        self.port.dropped()
    }
}

/// The hash of a group's address for the multicast table: the upper six bits of its CRC with the frame check sequence's polynomial.
fn hash(address: &[u8; 6]) -> u32 {
    let mut crc = u32::MAX;
    for byte in address {
        for bit in 0..8u32 {
            let carry = (crc >> 31) ^ u32::from(*byte >> bit & 1);
            crc = crc << 1 ^ if carry != 0 { 0x04c1_1db7 } else { 0 };
        }
    }
    crc >> 26
}

/// Bytes of the largest frame that C mode's buffers hold (5.4).
const LARGEST: usize = 1792;
const _: () = assert!(LARGEST < frame::MAX);

#[cfg(test)]
mod tests;
