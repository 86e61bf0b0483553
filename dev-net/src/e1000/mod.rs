//! Intel 82540EM, as firmware, Linux, FreeBSD and Windows drive it.
//!
//! | file | what |
//! |---|---|
//! | `spec.rs` | registers and descriptors |
//! | `transmit.rs` | descriptors to frames |
//! | `receive.rs` | frames to descriptors, filters |
//! | `state.rs` | the saved state |
//! | `identity.rs`, `phy.rs` | EEPROM and PHY, by which drivers recognise the card |
mod exercised;
mod identity;
mod phy;
mod receive;
mod spec;
mod state;
mod transmit;

use crate::backend::Backend;
use crate::eeprom::{Bus, Lines, WORDS};
use crate::port::{Port, Timers};
use bulkhead_bus::nic::{NicLease, NicSettings};
use bulkhead_bus::pci::{BarKind, ConfigSpace, FunctionSpec, reg as pci};
use bulkhead_bus::{
    Access, Card, Context, Declaration, Device, Inspect, IoError, IoResult, Line, Ready, Region, Reset, Shadows,
    StateError,
};
pub use exercised::TARGET;
use phy::Phy;
use rustix::fd::OwnedFd;
use spec::{Ctrl, Eecd, Mdic, Rctl, Status, cause, reg};
use transmit::Transmit;

/// Regions: registers, the window to them in I/O space.
const REGISTERS: u16 = 0;
const WINDOW: u16 = 1;
/// Timers: throttled interrupts (ITR), delayed transmit and receive interrupts, retry
/// after a full back end, announcement of the card's place.
const THROTTLE: u8 = 0;
const LATE_TRANSMIT: u8 = 1;
const LATE_RECEIVE: u8 = 2;
const RETRY: u8 = 3;
const ANNOUNCE: u8 = 4;
/// Marks: the receive ring's head (low half) and its head after the frame that is being stored (high half); the first descriptor of
/// the next frame to send.
const RECEIVE_MARK: usize = 0;
const TRANSMIT_MARK: usize = 1;
/// Units of ITR and of the others, ns (13.4.18, 13.4.30).
const ITR_UNIT: u64 = 256;
const DELAY_UNIT: u64 = 1024;

fn function(device: u8, rom: u32) -> FunctionSpec {
    // 82540EM: no special cycles, palette snooping, stepping, fast back-to-back; INTx# cannot be disabled (PCI 2.2).
    let mut spec = FunctionSpec::new(device, 0)
        .with_command(0x0157)
        .with_bar(0, BarKind::Memory { prefetchable: false }, 128 << 10)
        .with_bar(1, BarKind::Io, 64);
    spec.rom = rom;
    spec
}

/// Configuration space after power-on. Cache line size and latency timer are stored (the timer's low bits are 0).
fn identity(device: u8, rom: u32) -> ConfigSpace {
    let mut config = ConfigSpace::new(&function(device, rom), 0x8086, 0x100e, 3, 0x02_0000);
    config.set(pci::INTERRUPT_PIN, 1, 1);
    config.allow(0x0c, 2, 0xfcff);
    config
}

/// The card's declaration, as device `device` of bus 0 with an expansion ROM of `rom` bytes (0 for none).
pub fn declare(device: u8, rom: u32) -> Declaration {
    Declaration {
        regions: vec![
            Region::bar("registers", 0, 0)
                .kept()
                .posted_at(reg::RDT as u16)
                .posted_at(reg::ITR as u16)
                .shadow(reg::STATUS as u16, 4, 0)
                .shadow(reg::EECD as u16, 4, 1),
            Region::bar("window", 0, 1),
        ],
        functions: vec![function(device, rom)],
        lines: vec![Line::Intx { function: 0, pin: 0 }],
        dma: true,
        unplug: bulkhead_bus::UNPLUG_NICS,
        unplug_removes: true,
        ..Declaration::default()
    }
}

/// The 82540EM.
pub struct E1000 {
    device: u8,
    rom: u32,
    config: ConfigSpace,
    regs: Vec<u32>,
    /// Offsets of registers that have been nonzero, so that saving does not search the whole space after each access.
    used: Vec<u32>,
    words: [u16; WORDS],
    bus: Bus,
    phy: Phy,
    port: Port,
    tx: Transmit,
    /// First descriptor of the frame that is being collected, its context descriptor included.
    begins: u32,
    /// Register offset that the window in I/O space selects.
    window: u32,
    running: bool,
    /// The state has changed since it was last published.
    dirty: bool,
    /// No interrupt before this time.
    quiet_until: u64,
    /// Latest times of delayed interrupts: transmit, receive.
    late: [Option<u64>; 2],
    /// Number of invalid descriptors.
    ring_errors: u64,
}

impl E1000 {
    /// A card with this address, in slot `device`, with an expansion ROM of `rom` bytes.
    pub fn new(device: u8, rom: u32, mac: [u8; 6], backend: Box<dyn Backend>, settings: &NicSettings) -> Self {
        let config = identity(device, rom);
        let mut card = Self {
            device,
            rom,
            config,
            regs: Vec::new(),
            used: Vec::new(),
            words: identity::words(mac),
            bus: Bus::default(),
            phy: Phy::default(),
            port: Port::new(mac, backend, settings, Timers { retry: RETRY, announce: ANNOUNCE }),
            tx: Transmit::default(),
            begins: 0,
            window: 0,
            running: true,
            dirty: true,
            quiet_until: 0,
            late: [None; 2],
            ring_errors: 0,
        };
        card.clear();
        card
    }

    /// Answers the guest's DHCP requests from this lease.
    #[must_use]
    pub fn with_lease(mut self, lease: Option<NicLease>) -> Self {
        self.port.set_lease(lease);
        self
    }

    fn get(&self, register: u32) -> u32 {
        self.regs.get((register >> 2) as usize).copied().unwrap_or(0)
    }

    fn set(&mut self, register: u32, value: u32) {
        let Some(place) = self.regs.get_mut((register >> 2) as usize) else { return };
        if *place == 0 && value != 0 && !self.used.contains(&register) {
            self.used.push(register);
        }
        *place = value;
    }

    fn rctl(&self) -> Rctl {
        Rctl::from_bits(self.get(reg::RCTL))
    }

    /// Whether the link is up: the driver has enabled it, and the settings connect it.
    fn link(&self) -> bool {
        Status::from_bits(self.get(reg::STATUS)).link_up()
    }

    /// Sets the registers to their power-on values (13.4, table 13-2), with the identity from the EEPROM.
    fn clear(&mut self) {
        self.regs = vec![0; (reg::END >> 2) as usize];
        self.used.clear();
        self.set(
            reg::CTRL,
            Ctrl::new().with_full_duplex(true).with_auto_speed(true).with_set_link_up(true).with_speed(2).into_bits(),
        );
        self.set(reg::PBA, 0x0010_0030);
        self.set(reg::LEDCTL, 0x0706_8302);
        self.set(reg::VET, u32::from(crate::frame::ether_type::VLAN));
        let [a, b, c, ..] = self.words;
        self.set(reg::RAL, u32::from(b) << 16 | u32::from(a));
        self.set(reg::RAL.wrapping_add(4), 1 << 31 | u32::from(c));
        self.bus = Bus::default();
        self.tx = Transmit::default();
        self.begins = 0;
        self.port.clear();
        (self.quiet_until, self.late) = (0, [None; 2]);
        self.update_link();
    }

    /// Marks the receive ring's head, and `next`, its head after the frame that is being stored.
    fn mark_receive(&self, next: u32, cx: &mut Context) {
        cx.marks.set(RECEIVE_MARK, u64::from(next) << 32 | u64::from(self.get(reg::RDH)));
    }

    /// Marks the first descriptor of the next frame to send.
    fn mark_transmit(&mut self, at: u32, cx: &mut Context) {
        self.begins = at;
        cx.marks.set(TRANSMIT_MARK, u64::from(at));
    }

    fn update_link(&mut self) {
        let up = self.port.cable() && Ctrl::from_bits(self.get(reg::CTRL)).set_link_up();
        self.set(
            reg::STATUS,
            Status::new().with_full_duplex(true).with_link_up(up).with_speed(2).with_auto_speed(2).into_bits(),
        );
    }

    /// Adds causes of an interrupt.
    fn raise(&mut self, causes: u32, cx: &mut Context) {
        if causes != 0 {
            self.set(reg::ICR, self.get(reg::ICR) | causes & cause::ALL);
        }
        self.update(cx);
    }

    /// Sets the line: asserted for unmasked causes, but not earlier than ITR allows after the last interrupt (13.4.18).
    fn update(&mut self, cx: &mut Context) {
        if self.get(reg::ICR) & self.get(reg::IMS) == 0 {
            cx.lines.set(0, false);
            return;
        }
        if cx.lines.level(0) {
            return;
        }
        let interval = u64::from(self.get(reg::ITR) & 0xffff).saturating_mul(ITR_UNIT);
        if interval != 0 {
            let now = cx.now();
            if now < self.quiet_until {
                cx.timers.set(THROTTLE, Some(self.quiet_until));
                return;
            }
            self.quiet_until = now.saturating_add(interval);
        }
        cx.lines.set(0, true);
    }

    /// Delays an interrupt: to `delay` after the last event, but at most `absolute` after the first, in units of 1.024 µs.
    fn delay(&mut self, which: usize, timer: u8, delay: u32, absolute: u32, cx: &mut Context) {
        let unit = |n: u32| u64::from(n & 0xffff).saturating_mul(DELAY_UNIT);
        let now = cx.now();
        let Some(late) = self.late.get_mut(which) else { return };
        let latest = late
            .get_or_insert_with(|| if absolute & 0xffff == 0 { u64::MAX } else { now.saturating_add(unit(absolute)) });
        cx.timers.set(timer, Some(now.saturating_add(unit(delay)).min(*latest)));
    }

    fn delay_transmit(&mut self, cx: &mut Context) {
        self.delay(0, LATE_TRANSMIT, self.get(reg::TIDV), self.get(reg::TADV), cx);
    }

    fn delay_receive(&mut self, also: u32, cx: &mut Context) {
        self.delay(1, LATE_RECEIVE, self.get(reg::RDTR), self.get(reg::RADV), cx);
        self.raise(also, cx);
    }

    fn set_stat(&mut self, register: u32, add: u32) {
        // Counters stop at their highest value (13.7).
        self.set(register, self.get(register).saturating_add(add));
    }

    /// Counters of 64 bits in two registers.
    fn add_octets(&mut self, low: u32, octets: usize) {
        let high = low.wrapping_add(4);
        let value = (u64::from(self.get(high)) << 32 | u64::from(self.get(low))).saturating_add(octets as u64);
        self.set(low, value as u32);
        self.set(high, (value >> 32) as u32);
    }

    /// Counters by size: 64, to 127, to 255, to 511, to 1023, and more.
    fn count_size(&mut self, first: u32, len: usize) {
        let class = [64usize, 127, 255, 511, 1023].iter().filter(|limit| len > **limit).count();
        self.set_stat(first.wrapping_add((class as u32).wrapping_mul(4)), 1);
    }

    fn eecd(&self) -> u32 {
        let eecd = Eecd::from_bits(self.get(reg::EECD));
        eecd.with_data_out(self.bus.out()).with_present(true).with_grant(eecd.request()).into_bits()
    }

    fn read_register(&mut self, register: u32, cx: &mut Context) -> u32 {
        match register {
            reg::ICR => {
                let causes = self.get(reg::ICR);
                self.set(reg::ICR, 0);
                self.update(cx);
                // Bit 31, which later cards of the family set for their own interrupts, is reserved in this card.
                causes
            }
            reg::CTRL_DUP => self.get(reg::CTRL),
            reg::EECD => self.eecd(),
            // Write-only by the manual (13.4.18); this card returns ICR without clearing it, because VxWorks' driver reads it.
            reg::ICS => self.get(reg::ICR),
            reg::IMC => 0,
            reg::STATISTICS..reg::STATISTICS_END => {
                let value = self.get(register);
                // The low half of a pair is read first; the high half stays until it is read.
                self.set(register, 0);
                value
            }
            _ => self.get(register),
        }
    }

    fn write_register(&mut self, register: u32, value: u32, cx: &mut Context) {
        self.dirty = true;
        match register {
            reg::CTRL | reg::CTRL_DUP => {
                let ctrl = Ctrl::from_bits(value);
                if ctrl.reset() {
                    self.clear();
                    self.mark_receive(0, cx);
                    self.mark_transmit(0, cx);
                    self.phy = Phy::default();
                    for timer in [THROTTLE, LATE_TRANSMIT, LATE_RECEIVE, RETRY] {
                        cx.timers.set(timer, None);
                    }
                } else {
                    if ctrl.phy_reset() {
                        self.phy = Phy::default();
                    }
                    self.set(reg::CTRL, ctrl.with_phy_reset(false).with_link_reset(false).into_bits());
                    let before = self.link();
                    self.update_link();
                    if self.link() != before || ctrl.phy_reset() {
                        self.raise(cause::LSC, cx);
                    }
                }
                self.update(cx);
            }
            reg::EECD => {
                self.set(reg::EECD, value);
                let eecd = Eecd::from_bits(value);
                self.bus.write(Lines { clock: eecd.clock(), select: eecd.select(), data: eecd.data_in() }, &self.words);
            }
            reg::EERD if value & 1 != 0 => {
                let word = self.words.get((value >> 8 & 0xff) as usize).copied().unwrap_or(0xffff);
                self.set(reg::EERD, u32::from(word) << 16 | value & 0xff00 | 0x10);
            }
            reg::EERD => self.set(reg::EERD, value & !0x10),
            reg::MDIC => self.mdi(Mdic::from_bits(value), cx),
            reg::ICR => {
                self.set(reg::ICR, self.get(reg::ICR) & !value);
                self.update(cx);
            }
            reg::ICS => self.raise(value, cx),
            reg::IMS => {
                self.set(reg::IMS, self.get(reg::IMS) | value & cause::ALL);
                self.update(cx);
            }
            reg::IMC => {
                self.set(reg::IMS, self.get(reg::IMS) & !value);
                self.update(cx);
            }
            reg::RDTR => {
                self.set(reg::RDTR, value & 0xffff);
                // FPD: a delayed interrupt is raised now (13.4.30).
                if value >> 31 != 0 && self.late.get(1).is_some_and(Option::is_some) {
                    self.late = [self.late.first().copied().flatten(), None];
                    cx.timers.set(LATE_RECEIVE, None);
                    self.raise(cause::RXT0, cx);
                }
            }
            reg::RCTL => {
                self.set(reg::RCTL, value);
                self.receive(cx);
            }
            reg::RDT => {
                self.set(reg::RDT, value & 0xffff);
                self.receive(cx);
            }
            reg::TCTL => {
                self.set(reg::TCTL, value);
                self.transmit(cx);
            }
            reg::TDT => {
                self.set(reg::TDT, value & 0xffff);
                self.transmit(cx);
            }
            reg::RDH => {
                self.set(register, value & 0xffff);
                self.mark_receive(value & 0xffff, cx);
            }
            reg::TDH => {
                self.set(register, value & 0xffff);
                self.mark_transmit(value & 0xffff, cx);
            }
            // Multiples of 128 bytes; 16-bit indices limit a ring to 64 Ki descriptors.
            reg::RDLEN | reg::TDLEN => self.set(register, value & 0x000f_ff80),
            reg::RDBAL | reg::TDBAL => self.set(register, value & !0xf),
            reg::STATUS | reg::STATISTICS..reg::STATISTICS_END => {}
            reg::CTRL_EXT
            | reg::VET
            | reg::ITR
            | reg::LEDCTL
            | reg::PBA
            | reg::RADV
            | reg::TIDV
            | reg::TADV
            | reg::RDBAH
            | reg::TDBAH => {
                self.set(register, value);
            }
            // Other registers are only stored: tables, thresholds, wake-up.
            _ if register < reg::END => self.set(register, value),
            _ => {}
        }
    }

    fn mdi(&mut self, mdic: Mdic, cx: &mut Context) {
        let mut answer = mdic.with_ready(true).with_error(mdic.phy() != phy::ADDRESS);
        if mdic.phy() == phy::ADDRESS {
            match mdic.operation() {
                1 if self.phy.write(mdic.register(), mdic.data()) => self.raise(cause::LSC, cx),
                1 => {}
                2 => answer.set_data(self.phy.read(mdic.register(), self.link())),
                _ => answer.set_error(true),
            }
        }
        self.set(reg::MDIC, answer.into_bits());
        if mdic.interrupt() {
            self.raise(cause::MDAC, cx);
        }
    }
}

impl Device for E1000 {
    fn declaration(&self) -> Declaration {
        declare(self.device, self.rom)
    }

    fn read(&mut self, at: Access, cx: &mut Context) -> IoResult<u64> {
        let register = match (at.region, at.offset) {
            (REGISTERS, offset) => u32::try_from(offset).map_err(|_| IoError::NoRegister)?,
            (WINDOW, 0) => return Ok(u64::from(self.window)),
            (WINDOW, 4) => self.window,
            _ => return Err(IoError::NoRegister),
        };
        if !matches!(at.size, 1 | 2 | 4) {
            return Err(IoError::Size);
        }
        let value = self.read_register(register & !3, cx);
        Ok(u64::from(value >> ((register & 3) << 3)))
    }

    fn write(&mut self, at: Access, value: u64, cx: &mut Context) -> IoResult<()> {
        let register = match (at.region, at.offset) {
            (REGISTERS, offset) => u32::try_from(offset).map_err(|_| IoError::NoRegister)?,
            (WINDOW, 0) => {
                self.window = value as u32 & 0x1_ffff;
                return Ok(());
            }
            (WINDOW, 4) => self.window,
            _ => return Err(IoError::NoRegister),
        };
        // Registers accept only accesses of 32 bits (13.3).
        if at.size != 4 || register & 3 != 0 {
            return Err(IoError::Size);
        }
        self.write_register(register, value as u32, cx);
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
            Ready::Timer(THROTTLE) => self.update(cx),
            Ready::Timer(LATE_TRANSMIT) => {
                self.late = [None, self.late.get(1).copied().flatten()];
                self.raise(cause::TXDW, cx);
            }
            Ready::Timer(LATE_RECEIVE) => {
                self.late = [self.late.first().copied().flatten(), None];
                self.raise(cause::RXT0, cx);
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
        self.clear();
        self.mark_receive(0, cx);
        self.mark_transmit(0, cx);
        self.phy = Phy::default();
        self.window = 0;
        self.config = identity(self.device, self.rom);
        self.update(cx);
    }

    fn running(&mut self, running: bool, cx: &mut Context) {
        self.running = running;
        if running {
            self.transmit(cx);
            self.receive(cx);
        }
    }

    /// Drivers read STATUS to flush writes, and EECD for each bit of the EEPROM.
    fn shadows(&self, out: &mut Shadows<'_>) {
        out.set(0, Some(self.get(reg::STATUS)));
        out.set(1, Some(self.eecd()));
    }

    fn checkpoint(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.dirty).then(|| self.encode())
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
        out.value("link", self.link());
        for (name, register) in [
            ("CTRL", reg::CTRL),
            ("STATUS", reg::STATUS),
            ("ICR", reg::ICR),
            ("IMS", reg::IMS),
            ("ITR", reg::ITR),
            ("RCTL", reg::RCTL),
            ("TCTL", reg::TCTL),
            ("RDLEN", reg::RDLEN),
            ("RDH", reg::RDH),
            ("RDT", reg::RDT),
            ("TDLEN", reg::TDLEN),
            ("TDH", reg::TDH),
            ("TDT", reg::TDT),
            ("RXCSUM", reg::RXCSUM),
            ("GPRC", reg::GPRC),
            ("GPTC", reg::GPTC),
            ("MPC", reg::MPC),
            ("RUC", reg::RUC),
        ] {
            out.hex(name, self.get(register));
        }
        let [a, b, c, ..] = self.words;
        let [[m0, m1], [m2, m3], [m4, m5]] = [a, b, c].map(u16::to_le_bytes);
        out.value("address", format_args!("{m0:02x}:{m1:02x}:{m2:02x}:{m3:02x}:{m4:02x}:{m5:02x}"));
        out.value("descriptors that could not be used", self.ring_errors);
        self.port.inspect(out);
    }
}

impl Card for E1000 {
    fn set_nic(&mut self, settings: &NicSettings, cx: &mut Context) {
        if self.port.set(settings) {
            self.update_link();
            self.raise(cause::LSC, cx);
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

#[cfg(test)]
mod tests;
