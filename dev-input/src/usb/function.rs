//! A device on the bus (USB 2.0, chapters 8 and 9): its address, its control endpoint, its interrupt endpoint.
use super::hid::Hid;
use super::spec::{descriptor, pid, request};
use bulkhead_bus::UsbDevice;

/// Bytes of a packet of both endpoints.
const PACKET: usize = 8;
/// Most data bytes of a control transfer from the host: a report.
pub(super) const LONGEST: usize = 64;
/// The language of the strings: English (United States).
const LANGUAGE: [u8; 2] = [0x09, 0x04];

/// The result of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// Acknowledged; with the data of an IN, empty for an OUT or SETUP.
    Ack(Vec<u8>),
    Nak,
    Stall,
}

/// The stage of a control transfer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    Idle,
    /// Data stage to the host: the bytes that are not sent yet.
    In(Vec<u8>),
    /// Data stage from the host: the request, the received bytes, and their announced number.
    Out([u8; 8], Vec<u8>, usize),
    /// Status stage of this request, which is carried out when the host asks for the status.
    Status([u8; 8]),
    Stalled,
}

/// A USB device on a port: its control endpoint, address and configuration.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub(crate) hid: Hid,
    pub(crate) address: u8,
    pub(crate) configuration: u8,
    /// The interrupt endpoint is halted.
    pub(crate) halted: bool,
    pub(super) stage: Stage,
}

impl Function {
    pub(crate) fn new(kind: UsbDevice) -> Self {
        Self { hid: Hid::new(kind), address: 0, configuration: 0, halted: false, stage: Stage::Idle }
    }

    /// Resets the device, as a reset of the bus does.
    pub(crate) fn reset(&mut self) {
        self.hid.reset();
        *self = Self { hid: self.hid.clone(), ..Self::new(self.hid.kind) };
    }

    /// Handles a transaction for this device.
    pub(crate) fn transact(&mut self, pid: u8, endpoint: u8, data: &[u8], room: usize) -> Handshake {
        match (endpoint, pid) {
            (0, pid::SETUP) => self.setup(data),
            (0, pid::IN) => self.control_in(room),
            (0, pid::OUT) => self.control_out(data),
            (1, pid::IN) if self.configuration == 0 || self.halted => Handshake::Stall,
            (1, pid::IN) => self.hid.poll().map_or(Handshake::Nak, |mut report| {
                report.truncate(room);
                Handshake::Ack(report)
            }),
            _ => Handshake::Stall,
        }
    }

    fn setup(&mut self, data: &[u8]) -> Handshake {
        let Ok(setup) = <[u8; 8]>::try_from(data) else { return Handshake::Stall };
        let length = usize::from(u16::from_le_bytes([setup[6], setup[7]]));
        self.stage = if setup[0] & 0x80 != 0 {
            match self.answer(setup) {
                Some(mut bytes) => {
                    bytes.truncate(length);
                    Stage::In(bytes)
                }
                None => Stage::Stalled,
            }
        } else if length > LONGEST {
            Stage::Stalled
        } else if length > 0 {
            Stage::Out(setup, Vec::new(), length)
        } else {
            Stage::Status(setup)
        };
        // A device acknowledges every SETUP (USB 2.0, 8.5.3); an unsupported request stalls the next stage.
        Handshake::Ack(Vec::new())
    }

    fn control_in(&mut self, room: usize) -> Handshake {
        match std::mem::take(&mut self.stage) {
            Stage::In(mut bytes) => {
                let rest = bytes.split_off(bytes.len().min(room.min(PACKET)));
                self.stage = Stage::In(rest);
                Handshake::Ack(bytes)
            }
            Stage::Status(setup) => {
                if self.set(setup, &[]) {
                    return Handshake::Ack(Vec::new());
                }
                self.stage = Stage::Stalled;
                Handshake::Stall
            }
            Stage::Out(setup, data, _) => {
                if self.set(setup, &data) {
                    return Handshake::Ack(Vec::new());
                }
                self.stage = Stage::Stalled;
                Handshake::Stall
            }
            Stage::Idle | Stage::Stalled => {
                self.stage = Stage::Stalled;
                Handshake::Stall
            }
        }
    }

    fn control_out(&mut self, data: &[u8]) -> Handshake {
        match &mut self.stage {
            Stage::Out(_, bytes, length) => {
                let room = length.saturating_sub(bytes.len());
                bytes.extend(data.iter().take(room));
                Handshake::Ack(Vec::new())
            }
            // The status stage after a read.
            Stage::In(_) => {
                self.stage = Stage::Idle;
                Handshake::Ack(Vec::new())
            }
            Stage::Idle if data.is_empty() => Handshake::Ack(Vec::new()),
            _ => Handshake::Stall,
        }
    }

    /// The answer to a request that reads.
    fn answer(&self, setup: [u8; 8]) -> Option<Vec<u8>> {
        let [kind, number, low, high, ..] = setup;
        Some(match u16::from_be_bytes([kind, number]) {
            // Bus-powered, as in its configuration; no remote wake-up.
            request::GET_DEVICE_STATUS => vec![0, 0],
            request::GET_INTERFACE_STATUS => vec![0, 0],
            request::GET_ENDPOINT_STATUS => vec![u8::from(self.halted), 0],
            request::GET_DESCRIPTOR | request::GET_INTERFACE_DESCRIPTOR => self.descriptor(high, low)?,
            request::GET_CONFIGURATION => vec![self.configuration],
            request::GET_INTERFACE => vec![0],
            request::GET_REPORT => self.hid.report(),
            // Reports have no IDs; 0 stands for all.
            request::GET_IDLE if low == 0 => vec![self.hid.idle],
            request::GET_PROTOCOL if self.hid.interface().0 == 1 => vec![self.hid.protocol],
            _ => return None,
        })
    }

    /// Carries out a request that writes. False: it is not supported.
    fn set(&mut self, setup: [u8; 8], data: &[u8]) -> bool {
        let [kind, number, low, high, index, ..] = setup;
        match u16::from_be_bytes([kind, number]) {
            request::SET_ADDRESS if low < 128 => self.address = low,
            request::SET_CONFIGURATION if low <= 1 => {
                (self.configuration, self.halted) = (low, false);
                self.hid.quiet = 0;
            }
            request::SET_INTERFACE if low == 0 => {}
            request::CLEAR_ENDPOINT_FEATURE if low == 0 && index == 0x81 => self.halted = false,
            request::SET_ENDPOINT_FEATURE if low == 0 && index == 0x81 => self.halted = true,
            request::SET_REPORT if self.hid.kind == UsbDevice::Keyboard => {
                self.hid.leds = data.first().copied().unwrap_or(0)
            }
            // The period counts from the last report (HID 1.11, 7.2.4).
            request::SET_IDLE if low == 0 => self.hid.idle = high,
            request::SET_PROTOCOL if self.hid.interface().0 == 1 && low <= 1 => self.hid.protocol = low,
            _ => return false,
        }
        true
    }

    fn descriptor(&self, kind: u8, index: u8) -> Option<Vec<u8>> {
        let report = self.hid.report_descriptor();
        let [report_low, report_high] = (report.len() as u16).to_le_bytes();
        let hid = [9, descriptor::HID, 0x11, 0x01, 0, 1, descriptor::REPORT, report_low, report_high];
        Some(match (kind, index) {
            // USB 1.1, 8 bytes a packet; the vendor and product IDs of QEMU's tablet, which guests know (0627:0001).
            (descriptor::DEVICE, _) => vec![
                18,
                descriptor::DEVICE,
                0x10,
                0x01,
                0,
                0,
                0,
                PACKET as u8,
                0x27,
                0x06,
                0x01,
                0x00,
                0x00,
                0x01,
                1,
                2,
                0,
                1,
            ],
            (descriptor::CONFIGURATION, 0) => {
                let (subclass, protocol) = self.hid.interface();
                // One interface, bus-powered, 100 mA; an interrupt endpoint that is polled at least every 8 ms.
                let mut all = vec![9, descriptor::CONFIGURATION, 34, 0, 1, 1, 0, 0x80, 50];
                all.extend([9, descriptor::INTERFACE, 0, 0, 1, 3, subclass, protocol, 0]);
                all.extend(hid);
                all.extend([7, descriptor::ENDPOINT, 0x81, 3, PACKET as u8, 0, 8]);
                all
            }
            (descriptor::STRING, 0) => [&[4, descriptor::STRING][..], &LANGUAGE].concat(),
            (descriptor::STRING, 1) => string("Bulkhead"),
            (descriptor::STRING, 2) => string(match self.hid.kind {
                UsbDevice::Tablet => "USB Tablet",
                UsbDevice::Mouse => "USB Mouse",
                UsbDevice::Keyboard => "USB Keyboard",
            }),
            (descriptor::HID, _) => hid.to_vec(),
            (descriptor::REPORT, _) => report.to_vec(),
            _ => return None,
        })
    }
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = vec![(text.len().saturating_mul(2).saturating_add(2)) as u8, descriptor::STRING];
    bytes.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
    bytes
}
