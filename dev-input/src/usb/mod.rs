//! The PIIX3's USB controller (PCI 8086:7020): UHCI with two ports, and the devices in them. Intel, UHCI Design Guide 1.1.
//!
//! | file | what |
//! |---|---|
//! | `spec.rs` | registers, structures in guest memory, requests |
//! | `schedule.rs` | the transactions of a frame |
//! | `function.rs` | a device on the bus |
//! | `hid.rs`, `usages.rs` | tablet, mouse, keyboard |
//! | `state.rs` | the saved state |
//!
//! A frame is a millisecond. [`BATCH`] frames are processed at once, so a running controller costs 125 wake-ups a second, and a
//! report is at most one batch late.
mod exercised;
mod function;
mod hid;
mod schedule;
mod spec;
mod state;
mod usages;

use crate::records;
use bulkhead_bus::UsbDevice;
use bulkhead_bus::pci::{BarKind, ConfigSpace, FunctionSpec, reg as pci};
use bulkhead_bus::{
    Access, Context, Declaration, Device, DmaError, InputEvent, Inspect, IoError, IoResult, Line, Ready, Region, Reset,
    StateError, TimerId, UsbBus, UsbError,
};
pub use exercised::TARGET;
use function::Function;
use rustix::fd::OwnedFd;
use schedule::Outcome;
use spec::{Command, Interrupts, PortStatus, Status, reg};

/// Ports of the controller.
pub const PORTS: usize = 2;
/// Ready number of the input pipe.
pub const INPUT: u32 = 0;
/// Nanoseconds of a frame.
const FRAME: u64 = 1_000_000;
/// Frames that are processed together.
const BATCH: u64 = 8;
/// Most frames that are processed late, after the process did not run; earlier ones are skipped.
const LATEST: u64 = 32;
const FRAMES: TimerId = 0;
/// Most bytes of a device's name.
const NAME: usize = 64;

fn function_spec(device: u8, function: u8) -> FunctionSpec {
    // 82371SB, function 2: I/O space and bus master in the command register; memory space is stored without an effect, as with IDE.
    FunctionSpec::new(device, function).with_command(0x0007).with_bar(4, BarKind::Io, 32)
}

/// The controller's declaration as this function of PCI device `device`.
pub fn declare(device: u8, function: u8) -> Declaration {
    Declaration {
        regions: vec![Region::bar("registers", 0, 4)],
        functions: vec![function_spec(device, function)],
        lines: vec![Line::Intx { function: 0, pin: 3 }],
        dma: true,
        ..Declaration::default()
    }
}

#[derive(Clone, Debug)]
struct Port {
    status: PortStatus,
    function: Option<Function>,
    /// Its name in QMP if it was plugged in while the machine ran; else empty.
    id: String,
}

impl Port {
    fn new(device: Option<UsbDevice>) -> Self {
        let connected = device.is_some();
        let status = PortStatus::new().with_one(true).with_connected(connected).with_connect_change(connected);
        Self { status, function: device.map(Function::new), id: String::new() }
    }
}

/// Converts a HID keyboard's LEDs (bit 0 Num Lock, 1 Caps Lock, 2 Scroll Lock) to a PS/2 keyboard's order.
fn lights(leds: u8) -> u8 {
    leds << 1 & 6 | leds >> 2 & 1
}

/// The UHCI controller with its two ports.
pub struct Uhci {
    /// PCI device and function.
    at: (u8, u8),
    config: ConfigSpace,
    command: Command,
    status: Status,
    interrupts: Interrupts,
    frame_number: u16,
    frame_list: u32,
    sof: u8,
    ports: [Port; PORTS],
    /// Causes of the status register's interrupt bit, which have separate enables.
    short: bool,
    complete: bool,
    /// Time of the current frame number.
    counted: u64,
    /// It is known: false after an old state has been loaded, which does not tell it.
    known: bool,
    /// Since when the machine is stopped: no frames elapse.
    stopped: Option<u64>,
    input: Option<OwnedFd>,
    /// The pipe that reports to viewers which input is accepted here: bit 0 absolute positions, bit 1 keys, bit 2 movement; with
    /// bit 3, bits 4 to 6 are the keyboard's LEDs: Scroll Lock, Num Lock, Caps Lock.
    taken: Option<OwnedFd>,
    /// The value that was sent last; `None` if it must be sent again.
    wants_sent: Option<u8>,
    dirty: bool,
    frames: u64,
    transactions: u64,
    dma_errors: u64,
    last_dma_error: Option<DmaError>,
}

impl Uhci {
    /// The controller as this device and function of PCI, with the first two of `devices` plugged in. `input` is the pipe of
    /// [`InputEvent`] records, `taken` the pipe for the accepted kinds; both are non-blocking.
    pub fn new(at: (u8, u8), devices: &[UsbDevice], input: Option<OwnedFd>, taken: Option<OwnedFd>) -> Self {
        let mut config = ConfigSpace::new(&function_spec(at.0, at.1), 0x8086, 0x7020, 1, 0x0c_0300);
        config.set(pci::INTERRUPT_PIN, 1, 4);
        // USB 1.0 (SBRN).
        config.set(0x60, 1, 0x10);
        config.set(0x6a, 1, 0x01);
        // LEGSUP (82371SB, 2.4): enable bits; the trap status bits are cleared by writing 1, and are never set here.
        config.allow(0xc0, 2, 0x20bf);
        config.allow_clear(0xc0, 2, 0x8f00);
        config.set(0xc0, 2, 0x2000);
        let mut plugged = devices.iter().copied();
        Self {
            at,
            config,
            command: Command::new(),
            status: Status::new().with_halted(true),
            interrupts: Interrupts::new(),
            frame_number: 0,
            frame_list: 0,
            sof: 64,
            ports: [Port::new(plugged.next()), Port::new(plugged.next())],
            short: false,
            complete: false,
            counted: 0,
            known: true,
            stopped: None,
            input,
            taken,
            wants_sent: None,
            dirty: true,
            frames: 0,
            transactions: 0,
            dma_errors: 0,
            last_dma_error: None,
        }
    }

    /// The ports with their devices in the power-on state.
    fn powered(&self) -> [Port; PORTS] {
        self.ports.clone().map(|p| Port { id: p.id, ..Port::new(p.function.map(|f| f.hid.kind)) })
    }

    /// Resets registers and devices to their power-on state; the configuration space stays.
    fn reset_host(&mut self, cx: &mut Context) {
        let mut fresh = Self::new(self.at, &[], self.input.take(), self.taken.take());
        fresh.ports = self.powered();
        std::mem::swap(&mut fresh.config, &mut self.config);
        fresh.wants_sent = self.wants_sent;
        fresh.frames = self.frames;
        fresh.transactions = self.transactions;
        fresh.dma_errors = self.dma_errors;
        *self = fresh;
        self.schedule(cx);
        self.update(cx);
    }

    fn update(&mut self, cx: &mut Context) {
        self.dirty = true;
        let (s, i) = (self.status, self.interrupts);
        let wanted = s.interrupt() && (self.complete && i.complete() || self.short && i.short());
        let line = wanted || s.error() && i.error() || s.resume() && i.resume() || s.host_error() || s.process_error();
        cx.lines.set(0, line);
        self.send_wants();
    }

    /// Sets the timer of the next batch of frames, if the controller runs.
    fn schedule(&mut self, cx: &mut Context) {
        self.known = true;
        if self.command.run() {
            self.counted = cx.now();
            cx.timers.set(FRAMES, Some(self.counted.saturating_add(BATCH.saturating_mul(FRAME))));
        } else {
            cx.timers.set(FRAMES, None);
        }
    }

    /// Continues the frames of a saved state, whose current one began at this time. A time that it does not tell is now.
    fn schedule_from(&mut self, counted: Option<u64>, cx: &mut Context) {
        self.schedule(cx);
        self.known = counted.is_some();
        if let Some(counted) = counted.filter(|_| self.command.run()) {
            self.counted = counted;
            cx.timers.set(FRAMES, Some(counted.min(cx.now()).saturating_add(BATCH.saturating_mul(FRAME))));
        }
    }

    /// Number of frames that have begun since the last counted one.
    fn passed(&self, cx: &Context) -> u64 {
        let now = self.stopped.unwrap_or(cx.now());
        if self.command.run() { now.saturating_sub(self.counted).div_euclid(FRAME) } else { 0 }
    }

    /// Processes the frames that are due.
    fn run(&mut self, cx: &mut Context) {
        let due = self.passed(cx);
        // A saved state may come from a machine with another clock, at which this time is later.
        self.counted = self.counted.saturating_add(due.saturating_mul(FRAME)).min(cx.now());
        self.known = true;
        let missed = due.saturating_sub(LATEST);
        self.frame_number = self.frame_number.wrapping_add(missed as u16) & 0x7ff;
        let memory = cx.memory.clone();
        let mut out = Outcome::default();
        self.pass(missed);
        for _ in missed..due {
            self.pass(1);
            self.frame(&*memory, &mut out);
            self.frames = self.frames.saturating_add(1);
            self.frame_number = self.frame_number.wrapping_add(1) & 0x7ff;
            if out.process_error || out.host_error {
                break;
            }
        }
        self.transactions = self.transactions.saturating_add(u64::from(out.moved));
        self.short |= out.short;
        self.complete |= out.complete;
        let s = self.status;
        self.status = s.with_interrupt(s.interrupt() || out.short || out.complete).with_error(s.error() || out.error);
        if out.process_error || out.host_error {
            self.command.set_run(false);
            self.status =
                self.status.with_halted(true).with_process_error(out.process_error).with_host_error(out.host_error);
        }
        if self.command.run() {
            cx.timers.set(FRAMES, Some(self.counted.saturating_add(BATCH.saturating_mul(FRAME))));
        }
        self.update(cx);
    }

    /// Counts elapsed frames in the devices.
    fn pass(&mut self, frames: u64) {
        self.ports.iter_mut().filter_map(|p| p.function.as_mut()).for_each(|f| f.hid.pass(frames));
    }

    /// The kinds of input that the guest accepts here, as bits of `taken`.
    fn wants(&self) -> u8 {
        let ready = self
            .ports
            .iter()
            .filter(|_| self.command.run())
            .filter_map(|p| p.function.as_ref())
            .filter(|f| f.configuration != 0);
        ready.fold(0, |bits, f| {
            bits | match f.hid.kind {
                UsbDevice::Tablet => 1,
                UsbDevice::Keyboard => 2 | 8 | lights(f.hid.leds) << 4,
                UsbDevice::Mouse => 4,
            }
        })
    }

    fn send_wants(&mut self) {
        let wants = self.wants();
        if self.wants_sent != Some(wants)
            && self.taken.as_ref().is_some_and(|pipe| rustix::io::write(pipe, &[wants]).is_ok())
        {
            self.wants_sent = Some(wants);
        }
    }

    /// Handles viewers' input.
    fn take_input(&mut self, cx: &mut Context) {
        let Some(input) = &self.input else { return };
        self.dirty = true;
        for event in records::take(input, cx) {
            if event == InputEvent::ViewersBegin {
                self.wants_sent = None;
            }
            self.ports
                .iter_mut()
                .filter_map(|p| p.function.as_mut())
                .filter(|f| f.configuration != 0)
                .for_each(|f| f.hid.input(event));
        }
        self.send_wants();
    }

    fn read_register(&self, offset: u64, cx: &Context) -> u16 {
        match offset {
            reg::COMMAND => self.command.into_bits(),
            reg::STATUS => self.status.into_bits(),
            reg::INTERRUPTS => self.interrupts.into_bits(),
            // Includes the frames that have begun and are processed with the next batch.
            reg::FRAME_NUMBER => self.frame_number.wrapping_add(self.passed(cx) as u16) & 0x7ff,
            reg::FRAME_LIST => self.frame_list as u16,
            0x0a => (self.frame_list >> 16) as u16,
            reg::SOF => u16::from(self.sof),
            reg::PORT..reg::END => {
                self.ports.get(usize::from(offset & 2 != 0)).map_or(0xffff, |p| p.status.into_bits())
            }
            _ => 0xffff,
        }
    }

    fn write_register(&mut self, offset: u64, value: u16, cx: &mut Context) {
        match offset {
            reg::COMMAND => self.write_command(Command::from_bits(value & 0xff), cx),
            reg::STATUS => {
                self.status = Status::from_bits(self.status.into_bits() & !(value & 0x1f));
                if Status::from_bits(value).interrupt() {
                    (self.short, self.complete) = (false, false);
                }
            }
            reg::INTERRUPTS => self.interrupts = Interrupts::from_bits(value & 0x0f),
            // Writable only while the controller is stopped.
            reg::FRAME_NUMBER if !self.command.run() => self.frame_number = value & 0x7ff,
            reg::FRAME_LIST => self.frame_list = self.frame_list & 0xffff_0000 | u32::from(value & 0xf000),
            0x0a => self.frame_list = self.frame_list & 0xffff | u32::from(value) << 16,
            reg::SOF => self.sof = value as u8 & 0x7f,
            reg::PORT..reg::END => {
                if let Some(port) = self.ports.get_mut(usize::from(offset & 2 != 0)) {
                    Self::write_port(port, PortStatus::from_bits(value));
                }
            }
            _ => {}
        }
        self.update(cx);
    }

    fn write_command(&mut self, new: Command, cx: &mut Context) {
        if new.host_reset() {
            return self.reset_host(cx);
        }
        if new.global_reset() && !self.command.global_reset() {
            // As the reset line does (2.1.1), but for the bit itself, which the driver clears.
            self.reset_host(cx);
        }
        let started = new.run() && !self.command.run();
        let stopped = !new.run() && self.command.run();
        if stopped {
            // Frames that have begun are completed.
            self.run(cx);
        }
        self.command = new;
        self.status.set_halted(!new.run());
        if started || stopped {
            self.schedule(cx);
        }
    }

    fn write_port(port: &mut Port, new: PortStatus) {
        let old = port.status;
        if new.reset()
            && !old.reset()
            && let Some(function) = &mut port.function
        {
            function.reset();
        }
        let connected = old.connected();
        // The driver enables a port after its reset.
        let enabled = connected && new.enabled() && !new.reset();
        port.status = old
            .with_connect_change(old.connect_change() && !new.connect_change())
            .with_enable_change(old.enable_change() && !new.enable_change())
            .with_enabled(enabled)
            .with_resume(new.resume())
            .with_reset(new.reset())
            .with_suspend(new.suspend());
    }
}

impl Device for Uhci {
    fn declaration(&self) -> Declaration {
        declare(self.at.0, self.at.1)
    }

    fn read(&mut self, at: Access, cx: &mut Context) -> IoResult<u64> {
        let word = |offset: u64| u64::from(self.read_register(offset, cx));
        match at.size {
            1 => Ok(word(at.offset & !1) >> ((at.offset & 1) << 3) & 0xff),
            2 if at.offset & 1 == 0 => Ok(word(at.offset)),
            4 if at.offset & 3 == 0 => Ok(word(at.offset) | word(at.offset | 2) << 16),
            _ => Err(IoError::Size),
        }
    }

    fn write(&mut self, at: Access, value: u64, cx: &mut Context) -> IoResult<()> {
        match at.size {
            1 if at.offset == reg::SOF => self.write_register(reg::SOF, value as u16, cx),
            1 if at.offset & 1 == 0 && at.offset < reg::FRAME_NUMBER => {
                // A write to the low byte; the high byte of the status has no bits to clear.
                let high = if at.offset == reg::STATUS { 0 } else { self.read_register(at.offset, cx) & 0xff00 };
                self.write_register(at.offset, high | value as u16 & 0xff, cx);
            }
            1 => return Err(IoError::Size),
            2 if at.offset & 1 == 0 => self.write_register(at.offset, value as u16, cx),
            4 if at.offset & 3 == 0 => {
                self.write_register(at.offset, value as u16, cx);
                self.write_register(at.offset | 2, (value >> 16) as u16, cx);
            }
            _ => return Err(IoError::Size),
        }
        Ok(())
    }

    fn config_write(&mut self, _: u8, offset: u8, size: u8, value: u32, _: &mut Context) {
        self.config.write(offset, size, value);
        self.dirty = true;
    }

    fn config(&self, function: u8) -> Option<&ConfigSpace> {
        (function == 0).then_some(&self.config)
    }

    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        match ready {
            Ready::Timer(FRAMES) => self.run(cx),
            Ready::Timer(_) => {}
            Ready::Fd(_) | Ready::Again => self.take_input(cx),
        }
    }

    fn reset(&mut self, _: Reset, cx: &mut Context) {
        let fresh = Self::new(self.at, &[], None, None);
        self.config = fresh.config;
        self.reset_host(cx);
    }

    fn usb_bus(&mut self) -> Option<&mut dyn UsbBus> {
        Some(self)
    }

    fn running(&mut self, running: bool, cx: &mut Context) {
        // No frames elapse while the machine is stopped: the current one goes on.
        if !running {
            self.stopped.get_or_insert(cx.now());
            self.dirty = true;
        } else if let Some(stopped) = self.stopped.take() {
            let counted = cx.now().saturating_sub(stopped.saturating_sub(self.counted));
            self.schedule_from(Some(counted).filter(|_| self.known), cx);
            self.dirty = true;
        }
    }

    fn checkpoint(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.dirty).then(|| self.save())
    }

    fn save(&self) -> Vec<u8> {
        self.state()
    }

    fn load(&mut self, state: &[u8], cx: &mut Context) -> Result<(), StateError> {
        self.take_state(state, cx)
    }

    fn inspect(&self, out: &mut Inspect) {
        out.hex("command", self.command.into_bits())
            .hex("status", self.status.into_bits())
            .hex("interrupt enables", self.interrupts.into_bits());
        out.value("frame number", self.frame_number).hex("frame list", self.frame_list).value("frames", self.frames);
        out.value("transactions", self.transactions).value("DMA errors", self.dma_errors);
        if let Some(e) = self.last_dma_error {
            out.value("last DMA error", e);
        }
        for (i, port) in self.ports.iter().enumerate() {
            out.group(&format!("port{i}"), |out| {
                out.hex("status", port.status.into_bits());
                if let Some(f) = &port.function {
                    out.value("device", format_args!("{:?}", f.hid.kind))
                        .value("name", &port.id)
                        .value("address", f.address)
                        .value("configuration", f.configuration);
                    out.value("reports wait", f.hid.waits());
                }
            });
        }
    }
}

impl UsbBus for Uhci {
    fn plug_usb(&mut self, id: &str, device: Option<UsbDevice>, cx: &mut Context) -> Result<(), UsbError> {
        let named = self.ports.iter_mut().find(|p| !id.is_empty() && p.function.is_some() && p.id == id);
        match (device, named) {
            // A state has no room for it.
            (Some(_), _) if id.len() > NAME => return Err(UsbError::Long(NAME)),
            (Some(_), Some(_)) => return Err(UsbError::Named(id.to_owned())),
            (None, None) => return Err(UsbError::Unknown(id.to_owned())),
            (Some(device), None) => {
                let port = self.ports.iter_mut().find(|p| p.function.is_none()).ok_or(UsbError::Full)?;
                (port.function, port.id) = (Some(Function::new(device)), id.to_owned());
                port.status = port.status.with_connected(true).with_connect_change(true);
            }
            (None, Some(port)) => {
                (port.function, port.id) = (None, String::new());
                let was = port.status;
                port.status = was
                    .with_connected(false)
                    .with_connect_change(true)
                    .with_enabled(false)
                    .with_enable_change(was.enable_change() || was.enabled());
            }
        }
        if self.command.global_suspend() {
            // A driver that has suspended the bus reads its ports after this resume (UHCI 2.1.1, 2.1.2).
            self.command.set_global_resume(true);
            self.status.set_resume(true);
        }
        self.dirty = true;
        self.update(cx);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
