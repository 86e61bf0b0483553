//! The saved state of the controller and of what is plugged in. Reports that wait are not in it: they are movement and keys of a moment.
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
}

#[derive(Clone, PartialEq, prost::Message)]
struct PortState {
    #[prost(uint32, tag = "1")]
    status: u32,
    #[prost(message, optional, tag = "2")]
    function: Option<FunctionState>,
    /// What is plugged in: 1 nothing, 2 tablet, 3 mouse, 4 keyboard.
    #[prost(uint32, tag = "3")]
    kind: u32,
    /// What it is called, if it was plugged in while the machine ran.
    #[prost(string, tag = "4")]
    id: String,
}

/// The numbers of what can be plugged in.
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
    /// Short packets and descriptors that have ended, apart: they share a bit of the status.
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
            function: p.function.as_ref().map(|f| FunctionState {
                address: u32::from(f.address),
                configuration: u32::from(f.configuration),
                halted: f.halted,
                protocol: u32::from(f.hid.protocol),
                idle: u32::from(f.hid.idle),
                leds: u32::from(f.hid.leds),
            }),
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
                let (address, configuration, protocol) = (
                    byte(f.address, "address")?,
                    byte(f.configuration, "configuration")?,
                    byte(f.protocol, "protocol")?,
                );
                if address > 127 || configuration > 1 || protocol > 1 {
                    return Err(StateError::Value("USB device"));
                }
                (function.address, function.configuration, function.halted) = (address, configuration, f.halted);
                (function.hid.protocol, function.hid.idle, function.hid.leds) =
                    (protocol, byte(f.idle, "idle")?, byte(f.leds, "lights")?);
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
