//! The saved state of the controller and its devices. It leaves out counters. The time of the current frame number is the machine's, so that a
//! restarted process continues the frame.
use super::function::{Function, LONGEST, Stage};
use super::hid::{Hid, Pointed, QUEUE};
use super::spec::{Command, Interrupts, PortStatus, Status};
use super::{NAME, Port, Uhci};
use bulkhead_bus::UsbDevice;
use bulkhead_bus::{Context, StateError};
use prost::Message as _;

/// Version of [`UhciState`]. Version 1 had the controller's registers in a fixed order, and a queued key as one number.
const VERSION: u32 = 2;

#[derive(Clone, PartialEq, prost::Message)]
struct FunctionState {
    #[prost(uint32, tag = "1")]
    address: u32,
    #[prost(uint32, tag = "2")]
    configuration: u32,
    #[prost(bool, tag = "3")]
    halted: bool,
    #[prost(uint32, tag = "4")]
    protocol: u32,
    #[prost(uint32, tag = "5")]
    idle: u32,
    #[prost(uint32, tag = "6")]
    leds: u32,
    /// Milliseconds since the last report.
    #[prost(uint32, tag = "7")]
    quiet: u32,
    #[prost(uint32, tag = "8")]
    modifiers: u32,
    /// Usages of keys that are down, without modifiers.
    #[prost(bytes = "vec", tag = "9")]
    down: Vec<u8>,
    /// Version 1: queued keys: usages, and 0x100 if they were pressed.
    #[prost(uint32, repeated, tag = "10")]
    old_keys: Vec<u32>,
    /// Queued reports of a pointer.
    #[prost(message, repeated, tag = "11")]
    pointed: Vec<PointedState>,
    /// The pointer's current position and buttons.
    #[prost(message, optional, tag = "12")]
    now: Option<PointedState>,
    /// A control transfer in progress.
    #[prost(message, optional, tag = "13")]
    stage: Option<StageState>,
    /// Queued keys.
    #[prost(message, repeated, tag = "14")]
    keys: Vec<KeyState>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct KeyState {
    #[prost(uint32, tag = "1")]
    usage: u32,
    #[prost(bool, tag = "2")]
    pressed: bool,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct PointedState {
    #[prost(uint32, tag = "1")]
    buttons: u32,
    #[prost(sint32, tag = "2")]
    x: i32,
    #[prost(sint32, tag = "3")]
    y: i32,
    #[prost(sint32, tag = "4")]
    wheel: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StageState {
    #[prost(enumeration = "StageKind", tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", tag = "2")]
    setup: Vec<u8>,
    /// Bytes that are not sent yet, or that were received.
    #[prost(bytes = "vec", tag = "3")]
    data: Vec<u8>,
    /// Number of bytes that the host has announced.
    #[prost(uint32, tag = "4")]
    length: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
enum StageKind {
    /// Invalid.
    Unset = 0,
    /// Data to the host.
    In = 1,
    /// Data from the host.
    Out = 2,
    Status = 3,
    Stalled = 4,
}

/// Most queued keys of a state, and most bytes of a control transfer.
const KEYS: usize = 512;
const TRANSFER: usize = 256;

impl PointedState {
    fn of(p: Pointed) -> Self {
        Self { buttons: u32::from(p.buttons), x: p.x, y: p.y, wheel: p.wheel }
    }

    fn pointed(self, kind: UsbDevice) -> Pointed {
        // A tablet's positions begin at 0; movement has both signs.
        let least = if kind == UsbDevice::Tablet { 0 } else { -0x7fff };
        let place = |v: i32| v.clamp(least, 0x7fff);
        Pointed { buttons: self.buttons as u8 & 0x1f, x: place(self.x), y: place(self.y), wheel: self.wheel }
    }
}

impl StageState {
    fn of(stage: &Stage) -> Option<Self> {
        Some(match stage {
            Stage::Idle => return None,
            Stage::In(data) => Self { kind: StageKind::In.into(), data: data.clone(), ..Self::default() },
            Stage::Out(setup, data, length) => {
                Self { kind: StageKind::Out.into(), setup: setup.to_vec(), data: data.clone(), length: *length as u32 }
            }
            Stage::Status(setup) => Self { kind: StageKind::Status.into(), setup: setup.to_vec(), ..Self::default() },
            Stage::Stalled => Self { kind: StageKind::Stalled.into(), ..Self::default() },
        })
    }

    fn stage(&self) -> Result<Stage, StateError> {
        let wrong = || StateError::Value("control transfer");
        let setup = || self.setup.as_slice().try_into().map_err(|_| wrong());
        let (length, data) = (self.length as usize, self.data.clone());
        Ok(match StageKind::try_from(self.kind).map_err(|_| wrong())? {
            StageKind::In if data.len() <= TRANSFER => Stage::In(data),
            StageKind::Out if length <= LONGEST && data.len() <= length => Stage::Out(setup()?, data, length),
            StageKind::Status => Stage::Status(setup()?),
            StageKind::Stalled => Stage::Stalled,
            _ => return Err(wrong()),
        })
    }
}

impl FunctionState {
    fn of(f: &Function) -> Self {
        let h = &f.hid;
        Self {
            address: u32::from(f.address),
            configuration: u32::from(f.configuration),
            halted: f.halted,
            protocol: u32::from(h.protocol),
            idle: u32::from(h.idle),
            leds: u32::from(h.leds),
            quiet: h.quiet,
            modifiers: u32::from(h.modifiers),
            down: h.down.clone(),
            old_keys: Vec::new(),
            keys: h.keys.iter().map(|(usage, down)| KeyState { usage: u32::from(*usage), pressed: *down }).collect(),
            pointed: h.pointed.iter().copied().map(PointedState::of).collect(),
            now: (h.now != Pointed::default()).then(|| PointedState::of(h.now)),
            stage: StageState::of(&f.stage),
        }
    }

    /// Names what version 1 has packed.
    fn upgrade(&mut self) {
        let named = |word: u32| KeyState { usage: word & 0xff, pressed: word & 0x100 != 0 };
        self.keys = std::mem::take(&mut self.old_keys).into_iter().map(named).collect();
    }

    fn put(&self, function: &mut Function) -> Result<(), StateError> {
        let wrong = || StateError::Value("USB device");
        let byte = |v: u32| u8::try_from(v).map_err(|_| wrong());
        function.address = Some(byte(self.address)?).filter(|a| *a <= 127).ok_or_else(wrong)?;
        function.configuration = Some(byte(self.configuration)?).filter(|c| *c <= 1).ok_or_else(wrong)?;
        function.halted = self.halted;
        function.stage = self.stage.as_ref().map_or(Ok(Stage::Idle), StageState::stage)?;
        let kind = function.hid.kind;
        let mut h = Hid::new(kind);
        h.protocol = Some(byte(self.protocol)?).filter(|p| *p <= 1).ok_or_else(wrong)?;
        h.idle = byte(self.idle)?;
        h.leds = byte(self.leds)?;
        h.pass(u64::from(self.quiet));
        let many = self.keys.len() > KEYS || self.pointed.len() > QUEUE;
        let modifier = |usage: u8| (0xe0..=0xe7).contains(&usage);
        if many || self.down.iter().any(|usage| *usage == 0 || modifier(*usage)) {
            return Err(wrong());
        }
        if kind == UsbDevice::Keyboard {
            h.modifiers = byte(self.modifiers)?;
            for usage in &self.down {
                if !h.down.contains(usage) {
                    h.down.push(*usage);
                }
            }
            for key in &self.keys {
                h.keys.push_back((byte(key.usage)?, key.pressed));
            }
        } else {
            h.now = self.now.unwrap_or_default().pointed(kind);
            h.pointed = self.pointed.iter().map(|p| p.pointed(kind)).collect();
        }
        function.hid = h;
        Ok(())
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct PortState {
    #[prost(uint32, tag = "1")]
    status: u32,
    #[prost(message, optional, tag = "2")]
    function: Option<FunctionState>,
    /// The device in the port.
    #[prost(enumeration = "PortKind", tag = "3")]
    kind: i32,
    /// Its name in QMP, if it was plugged in while the machine ran.
    #[prost(string, tag = "4")]
    id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
enum PortKind {
    /// Invalid.
    Unset = 0,
    /// No device.
    Empty = 1,
    Tablet = 2,
    Mouse = 3,
    Keyboard = 4,
}

impl PortKind {
    fn of(kind: Option<UsbDevice>) -> Self {
        match kind {
            None => Self::Empty,
            Some(UsbDevice::Tablet) => Self::Tablet,
            Some(UsbDevice::Mouse) => Self::Mouse,
            Some(UsbDevice::Keyboard) => Self::Keyboard,
        }
    }

    fn device(number: i32) -> Result<Option<UsbDevice>, StateError> {
        match Self::try_from(number) {
            Ok(Self::Empty) => Ok(None),
            Ok(Self::Tablet) => Ok(Some(UsbDevice::Tablet)),
            Ok(Self::Mouse) => Ok(Some(UsbDevice::Mouse)),
            Ok(Self::Keyboard) => Ok(Some(UsbDevice::Keyboard)),
            Ok(Self::Unset) | Err(_) => Err(StateError::Value("kind of USB device")),
        }
    }
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct RegistersState {
    #[prost(uint32, tag = "1")]
    command: u32,
    #[prost(uint32, tag = "2")]
    status: u32,
    #[prost(uint32, tag = "3")]
    interrupts: u32,
    #[prost(uint32, tag = "4")]
    frame_number: u32,
    #[prost(uint32, tag = "5")]
    frame_list: u32,
    #[prost(uint32, tag = "6")]
    start_of_frame: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct UhciState {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bytes = "vec", tag = "2")]
    config: Vec<u8>,
    /// Version 1: command, status, interrupt enables, frame number, frame list, start of frame.
    #[prost(uint32, repeated, tag = "3")]
    old_registers: Vec<u32>,
    #[prost(message, repeated, tag = "4")]
    ports: Vec<PortState>,
    /// Pending interrupts for short packets and for completed descriptors, which share a bit of the status.
    #[prost(bool, tag = "5")]
    short: bool,
    #[prost(bool, tag = "6")]
    complete: bool,
    #[prost(message, optional, tag = "7")]
    registers: Option<RegistersState>,
    /// When the current frame began, if the controller and the machine run.
    #[prost(uint64, optional, tag = "8")]
    counted: Option<u64>,
    /// Nanoseconds of the current frame, if the controller runs and the machine is stopped.
    #[prost(uint64, optional, tag = "9")]
    elapsed: Option<u64>,
}

impl UhciState {
    /// Names what version 1 has in a fixed order or packed.
    fn upgrade(&mut self) -> Result<(), StateError> {
        let [command, status, interrupts, frame_number, frame_list, start_of_frame] = *self.old_registers.as_slice()
        else {
            return Err(StateError::Value("number of registers"));
        };
        self.registers = Some(RegistersState { command, status, interrupts, frame_number, frame_list, start_of_frame });
        self.ports.iter_mut().filter_map(|p| p.function.as_mut()).for_each(FunctionState::upgrade);
        Ok(())
    }
}

impl Uhci {
    pub(super) fn state(&self) -> Vec<u8> {
        let ports = self.ports.iter().map(|p| PortState {
            status: u32::from(p.status.into_bits()),
            function: p.function.as_ref().map(FunctionState::of),
            kind: PortKind::of(p.function.as_ref().map(|f| f.hid.kind)).into(),
            id: p.id.clone(),
        });
        let known = self.command.run() && self.known;
        UhciState {
            version: VERSION,
            config: self.config.save(),
            old_registers: Vec::new(),
            ports: ports.collect(),
            short: self.short,
            complete: self.complete,
            registers: Some(RegistersState {
                command: u32::from(self.command.into_bits()),
                status: u32::from(self.status.into_bits()),
                interrupts: u32::from(self.interrupts.into_bits()),
                frame_number: u32::from(self.frame_number),
                frame_list: self.frame_list,
                start_of_frame: u32::from(self.sof),
            }),
            counted: Some(self.counted).filter(|_| known && self.stopped.is_none()),
            elapsed: self.stopped.filter(|_| known).map(|stopped| stopped.saturating_sub(self.counted)),
        }
        .encode_to_vec()
    }

    pub(super) fn take_state(&mut self, state: &[u8], cx: &mut Context) -> Result<(), StateError> {
        let mut s = UhciState::decode(state)?;
        match s.version {
            1 => s.upgrade()?,
            VERSION => {}
            other => return Err(StateError::Version(other, VERSION)),
        }
        let registers = s.registers.ok_or(StateError::Value("registers"))?;
        if s.ports.len() != self.ports.len() {
            return Err(StateError::Value("ports"));
        }
        let word = |v: u32, what| u16::try_from(v).map_err(|_| StateError::Value(what));
        let byte = |v: u32, what| u8::try_from(v).map_err(|_| StateError::Value(what));
        let mut config = self.config.clone();
        config.load(&s.config)?;
        let command = word(registers.command, "command")?;
        let status = word(registers.status, "status")?;
        let interrupts = word(registers.interrupts, "interrupts")?;
        let frame_number = word(registers.frame_number, "frame number")? & 0x7ff;
        let sof = byte(registers.start_of_frame, "start of frame")? & 0x7f;
        let mut ports = self.ports.clone();
        for (port, saved) in ports.iter_mut().zip(&s.ports) {
            let kind = PortKind::device(saved.kind)?;
            if saved.id.len() > NAME || kind.is_some() != saved.function.is_some() {
                return Err(StateError::Value("USB device"));
            }
            *port = Port { id: saved.id.clone(), ..Port::new(kind) };
            let connected = port.function.is_some();
            let status = PortStatus::from_bits(word(saved.status, "port")?);
            port.status = status
                .with_connected(connected)
                .with_one(true)
                .with_lines(0)
                .with_enabled(connected && status.enabled());
            if let (Some(function), Some(f)) = (&mut port.function, &saved.function) {
                f.put(function)?;
            }
        }
        self.command = Command::from_bits(command & 0xfd);
        self.status = Status::from_bits(status & 0x3f);
        self.interrupts = Interrupts::from_bits(interrupts & 0x0f);
        self.frame_number = frame_number;
        self.frame_list = registers.frame_list & !0xfff;
        self.sof = sof;
        self.config = config;
        self.ports = ports;
        self.short = s.short;
        self.complete = s.complete;
        self.status.set_halted(!self.command.run());
        // A machine that is stopped stays it.
        self.stopped = self.stopped.map(|_| cx.now());
        self.schedule_from(s.elapsed.map(|elapsed| cx.now().saturating_sub(elapsed)).or(s.counted), cx);
        self.update(cx);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_bus::exercise::{loads, refuses};

    /// The same device in both versions, with values that differ from each other where their order could be wrong.
    const STATE: &[u8] = include_bytes!("../../tests/golden/usb-2-waiting.state");
    const OLD: &[u8] = include_bytes!("../../tests/golden/usb-1-waiting.state");

    #[test]
    fn version_1_has_the_same_values() {
        assert_eq!(loads(&crate::usb::TARGET, OLD).unwrap(), STATE);
    }

    #[test]
    fn a_refused_state_changes_nothing() {
        let refused = |state: &[u8], change: fn(&mut UhciState)| {
            let mut s = UhciState::decode(state).unwrap();
            change(&mut s);
            refuses(&crate::usb::TARGET, &s.encode_to_vec()).unwrap()
        };
        assert_eq!(refused(STATE, |s| s.version = 3), StateError::Version(3, VERSION));
        assert_eq!(refused(OLD, |s| s.version = 2), StateError::Value("registers"));
        assert_eq!(refused(STATE, |s| s.version = 1), StateError::Value("number of registers"));
        assert_eq!(refused(OLD, |s| s.old_registers.push(0)), StateError::Value("number of registers"));
        for change in [
            (|s| s.registers.as_mut().unwrap().command = 1 << 16) as fn(&mut UhciState),
            |s| s.registers.as_mut().unwrap().status = 1 << 16,
            |s| s.registers.as_mut().unwrap().interrupts = 1 << 16,
            |s| s.registers.as_mut().unwrap().frame_number = 1 << 16,
            |s| s.registers.as_mut().unwrap().start_of_frame = 1 << 8,
            |s| s.ports[0].kind = 0,
            |s| s.ports[1].kind = 5,
            |s| s.ports[1].kind = 1,
            |s| s.ports[1].function.as_mut().unwrap().keys[0].usage = 0x100,
            |s| s.ports[1].function.as_mut().unwrap().keys = vec![KeyState::default(); KEYS + 1],
            |s| s.ports[1].function.as_mut().unwrap().stage.as_mut().unwrap().kind = 0,
            |s| s.ports[1].function.as_mut().unwrap().stage.as_mut().unwrap().kind = 5,
        ] {
            assert!(matches!(refused(STATE, change), StateError::Value(_)));
        }
    }
}
