//! The saved state of the controller and its devices. It leaves out counters and the time of the current frame number.
use super::function::{Function, LONGEST, Stage};
use super::hid::{Hid, Pointed, QUEUE};
use super::spec::{Command, Interrupts, PortStatus, Status};
use super::{Port, Uhci};
use bulkhead_bus::UsbDevice;
use bulkhead_bus::{Context, StateError};
use prost::Message as _;

/// Version of [`UhciState`].
const VERSION: u32 = 1;

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
    /// Queued keys: usages, and 0x100 if they were pressed.
    #[prost(uint32, repeated, tag = "10")]
    keys: Vec<u32>,
    /// Queued reports of a pointer.
    #[prost(message, repeated, tag = "11")]
    pointed: Vec<PointedState>,
    /// The pointer's current position and buttons.
    #[prost(message, optional, tag = "12")]
    now: Option<PointedState>,
    /// A control transfer in progress.
    #[prost(message, optional, tag = "13")]
    stage: Option<StageState>,
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
    /// 1 data to the host, 2 data from the host, 3 status, 4 stalled.
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(bytes = "vec", tag = "2")]
    setup: Vec<u8>,
    /// Bytes that are not sent yet, or that were received.
    #[prost(bytes = "vec", tag = "3")]
    data: Vec<u8>,
    /// Number of bytes that the host has announced.
    #[prost(uint32, tag = "4")]
    length: u32,
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
            Stage::In(data) => Self { kind: 1, data: data.clone(), ..Self::default() },
            Stage::Out(setup, data, length) => {
                Self { kind: 2, setup: setup.to_vec(), data: data.clone(), length: *length as u32 }
            }
            Stage::Status(setup) => Self { kind: 3, setup: setup.to_vec(), ..Self::default() },
            Stage::Stalled => Self { kind: 4, ..Self::default() },
        })
    }

    fn stage(&self) -> Result<Stage, StateError> {
        let wrong = || StateError::Value("control transfer");
        let setup = || self.setup.as_slice().try_into().map_err(|_| wrong());
        let (length, data) = (self.length as usize, self.data.clone());
        Ok(match self.kind {
            1 if data.len() <= TRANSFER => Stage::In(data),
            2 if length <= LONGEST && data.len() <= length => Stage::Out(setup()?, data, length),
            3 => Stage::Status(setup()?),
            4 => Stage::Stalled,
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
            keys: h.keys.iter().map(|(usage, down)| u32::from(*usage) | u32::from(*down) << 8).collect(),
            pointed: h.pointed.iter().copied().map(PointedState::of).collect(),
            now: (h.now != Pointed::default()).then(|| PointedState::of(h.now)),
            stage: StageState::of(&f.stage),
        }
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
            h.keys = self.keys.iter().map(|word| (*word as u8, word & 0x100 != 0)).collect();
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
    /// The device in the port: 1 none, 2 tablet, 3 mouse, 4 keyboard.
    #[prost(uint32, tag = "3")]
    kind: u32,
    /// Its name in QMP, if it was plugged in while the machine ran.
    #[prost(string, tag = "4")]
    id: String,
}

/// The numbers of kinds of devices.
const KINDS: [(u32, Option<UsbDevice>); 4] =
    [(1, None), (2, Some(UsbDevice::Tablet)), (3, Some(UsbDevice::Mouse)), (4, Some(UsbDevice::Keyboard))];

#[derive(Clone, PartialEq, prost::Message)]
struct UhciState {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bytes = "vec", tag = "2")]
    config: Vec<u8>,
    /// Command, status, interrupt enables, frame number, frame list, start of frame.
    #[prost(uint32, repeated, tag = "3")]
    registers: Vec<u32>,
    #[prost(message, repeated, tag = "4")]
    ports: Vec<PortState>,
    /// Pending interrupts for short packets and for completed descriptors, which share a bit of the status.
    #[prost(bool, tag = "5")]
    short: bool,
    #[prost(bool, tag = "6")]
    complete: bool,
}

impl Uhci {
    pub(super) fn state(&self) -> Vec<u8> {
        let registers =
            [self.command.into_bits(), self.status.into_bits(), self.interrupts.into_bits(), self.frame_number];
        let ports = self.ports.iter().map(|p| PortState {
            status: u32::from(p.status.into_bits()),
            function: p.function.as_ref().map(FunctionState::of),
            kind: KINDS
                .iter()
                .find(|(_, kind)| *kind == p.function.as_ref().map(|f| f.hid.kind))
                .map_or(0, |(number, _)| *number),
            id: p.id.clone(),
        });
        UhciState {
            version: VERSION,
            config: self.config.save(),
            registers: registers.into_iter().map(u32::from).chain([self.frame_list, u32::from(self.sof)]).collect(),
            ports: ports.collect(),
            short: self.short,
            complete: self.complete,
        }
        .encode_to_vec()
    }

    pub(super) fn take_state(&mut self, state: &[u8], cx: &mut Context) -> Result<(), StateError> {
        let s = UhciState::decode(state)?;
        if s.version != VERSION {
            return Err(StateError::Version(s.version, VERSION));
        }
        let [command, status, interrupts, frame_number, frame_list, sof] = *s.registers.as_slice() else {
            return Err(StateError::Value("number of registers"));
        };
        if s.ports.len() != self.ports.len() {
            return Err(StateError::Value("ports"));
        }
        let word = |v: u32, what| u16::try_from(v).map_err(|_| StateError::Value(what));
        let byte = |v: u32, what| u8::try_from(v).map_err(|_| StateError::Value(what));
        let mut config = self.config.clone();
        config.load(&s.config)?;
        let (command, status, interrupts) =
            (word(command, "command")?, word(status, "status")?, word(interrupts, "interrupts")?);
        let (frame_number, sof) = (word(frame_number, "frame number")? & 0x7ff, byte(sof, "start of frame")? & 0x7f);
        let mut ports = self.ports.clone();
        for (port, saved) in ports.iter_mut().zip(&s.ports) {
            let (_, kind) = KINDS
                .iter()
                .find(|(number, _)| *number == saved.kind)
                .ok_or(StateError::Value("kind of USB device"))?;
            if saved.id.len() > 64 || kind.is_some() != saved.function.is_some() {
                return Err(StateError::Value("USB device"));
            }
            *port = Port { id: saved.id.clone(), ..Port::new(*kind) };
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
        (self.command, self.status, self.interrupts) = (
            Command::from_bits(command & 0xfd),
            Status::from_bits(status & 0x3f),
            Interrupts::from_bits(interrupts & 0x0f),
        );
        (self.frame_number, self.frame_list, self.sof, self.config, self.ports) =
            (frame_number, frame_list & !0xfff, sof, config, ports);
        (self.short, self.complete) = (s.short, s.complete);
        self.status.set_halted(!self.command.run());
        self.schedule(cx);
        self.update(cx);
        Ok(())
    }
}
