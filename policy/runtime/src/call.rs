//! Control's calls to one facet of a device, checked before the data thread receives them.
use bulkhead_bus::nic::NicSettings;
use bulkhead_bus::{BoardError, DriveError, InputEvent, PasswordError, UsbDevice, UsbError};
use bulkhead_control_api::v1;
use rustix::fd::OwnedFd;

/// A call. A token is the number of a descriptor that the launcher has passed to the process.
#[derive(Debug)]
pub enum Call {
    /// Write the picture as a PNG to a descriptor.
    Screenshot {
        /// The token of the descriptor.
        token: u32,
    },
    /// Inject these input events, in order.
    Input(Vec<InputEvent>),
    /// Remove the medium from a drive.
    Eject {
        /// Index of the drive.
        drive: u8,
        /// Remove it even if the guest has locked the tray.
        force: bool,
    },
    /// Insert a medium into a drive.
    Insert {
        /// Index of the drive.
        drive: u8,
        /// The token of the medium's descriptor.
        token: u32,
    },
    /// Set a network card's link state and rules.
    SetNic(NicSettings),
    /// Write the guest's accesses to this pipe too.
    Trace {
        /// The token of the pipe; 0 ends it.
        token: u32,
    },
    /// Write a network card's frames to this pipe too.
    Capture {
        /// The token of the pipe; 0 ends it.
        token: u32,
    },
    /// Set the password of viewers.
    SetPassword(Vec<u8>),
    /// Plug a USB device in, or out.
    PlugUsb {
        /// The id that the client gave the device.
        id: String,
        /// The new device's kind; `None` plugs out the device of this name.
        device: Option<UsbDevice>,
    },
    /// Report a new PCI device to the guest, or ask it to eject one.
    PlugPci {
        /// Its number on bus 0; `None`: eject the device of this name.
        device: Option<u8>,
        /// The id that the client gave the device.
        id: String,
    },
    /// Plug in a vCPU.
    PlugCpu(u16),
    /// Tell Xen the pages that devices write, while the guest's memory is copied.
    LogDirty(bool),
}

/// The result of a call; the control thread completes it, because it may block.
#[derive(Debug)]
pub enum Called {
    /// The call is complete.
    Done,
    /// The control thread writes these bytes to the descriptor.
    Write(Vec<u8>, OwnedFd),
}

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FacetError {
    /// The device does not have this facet.
    #[error("this device has no {0}")]
    Missing(&'static str),
    /// The process is the broker, which has no facets.
    #[error("the broker is no device")]
    Broker,
    /// The launcher has passed no descriptor with this token.
    #[error("no descriptor has this token")]
    NoDescriptor,
    /// The display has no picture.
    #[error("the display has no picture")]
    Blank,
    /// The drive refuses the call.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// The USB controller refuses.
    #[error(transparent)]
    Usb(#[from] UsbError),
    /// The board refuses the call.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// The server of viewers refuses.
    #[error(transparent)]
    Password(#[from] PasswordError),
}

/// Which part of a call's message is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCall {
    /// The message has no call that this version knows.
    #[error("an unknown call")]
    Unknown,
    /// A drive's index does not fit into a byte.
    #[error("number of the drive")]
    Drive,
    /// The bytes are no [`NicSettings`].
    #[error("settings of a network card")]
    NicSettings,
    /// The name is empty or too long, or the kind is unknown.
    #[error("name or kind of a USB device")]
    UsbDevice,
    /// Bus 0 has no such device number.
    #[error("number of a PCI device")]
    PciNumber,
    /// The name is empty or too long.
    #[error("name of a PCI device")]
    PciName,
    /// A vCPU's index does not fit into 16 bits.
    #[error("number of the vCPU")]
    Cpu,
}

/// Most bytes of a device's name.
const NAME: usize = 64;

impl TryFrom<v1::Call> for Call {
    type Error = InvalidCall;

    fn try_from(message: v1::Call) -> Result<Self, Self::Error> {
        use v1::call::Call as Of;
        let drive = |n: u32| u8::try_from(n).map_err(|_| InvalidCall::Drive);
        let named = |id: &String| !id.is_empty() && id.len() <= NAME;
        Ok(match message.call.ok_or(InvalidCall::Unknown)? {
            Of::Screenshot(v1::Token { token }) => Self::Screenshot { token },
            Of::Input(v1::InputEvents { events }) => Self::Input(events.into_iter().filter_map(input_event).collect()),
            Of::Eject(v1::EjectRequest { drive: n, force }) => Self::Eject { drive: drive(n)?, force },
            Of::Insert(v1::InsertRequest { drive: n, token }) => Self::Insert { drive: drive(n)?, token },
            Of::SetNic(v1::NicSettings { settings }) => {
                let bytes = <[u8; NicSettings::LEN]>::try_from(settings).ok();
                Self::SetNic(bytes.and_then(|b| NicSettings::from_bytes(&b)).ok_or(InvalidCall::NicSettings)?)
            }
            Of::Trace(v1::Token { token }) => Self::Trace { token },
            Of::Capture(v1::Token { token }) => Self::Capture { token },
            Of::SetPassword(v1::Password { password }) => Self::SetPassword(password),
            Of::PlugUsb(v1::UsbPlug { id, driver }) => {
                let device = UsbDevice::of_driver(&driver);
                if !named(&id) || device.is_none() && !driver.is_empty() {
                    return Err(InvalidCall::UsbDevice);
                }
                Self::PlugUsb { id, device }
            }
            Of::PlugPci(v1::PciPlug { device, id }) => {
                let device = u8::try_from(device).ok().filter(|d| *d < 32).ok_or(InvalidCall::PciNumber)?;
                if !named(&id) {
                    return Err(InvalidCall::PciName);
                }
                Self::PlugPci { device: (device != 0).then_some(device), id }
            }
            Of::LogDirty(on) => Self::LogDirty(on),
            Of::PlugCpu(v1::Cpu { index }) => Self::PlugCpu(u16::try_from(index).map_err(|_| InvalidCall::Cpu)?),
        })
    }
}

fn input_event(event: v1::InputEvent) -> Option<InputEvent> {
    use v1::input_event::Event;
    match event.event? {
        Event::Key(k) => Some(InputEvent::Key { code: u16::try_from(k.code).ok()?, down: k.down }),
        Event::Move(m) => Some(InputEvent::Move { dx: m.dx, dy: m.dy, dz: m.dz }),
        Event::Button(b) => Some(InputEvent::Button { button: u8::try_from(b.button).ok()?, down: b.down }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::call::Call as Of;

    fn parsed(call: Of) -> Result<Call, InvalidCall> {
        v1::Call { call: Some(call) }.try_into()
    }

    #[test]
    fn a_call_that_names_what_cannot_be_is_refused() {
        let long = "x".repeat(65);
        assert!(Call::try_from(v1::Call { call: None }).is_err());
        for wrong in [
            Of::Eject(v1::EjectRequest { drive: 256, force: false }),
            Of::Insert(v1::InsertRequest { drive: 1 << 20, token: 1 }),
            Of::SetNic(v1::NicSettings { settings: vec![0; 63] }),
            Of::SetNic(v1::NicSettings { settings: vec![0xff; 64] }),
            Of::PlugUsb(v1::UsbPlug { id: String::new(), driver: "usb-kbd".into() }),
            Of::PlugUsb(v1::UsbPlug { id: "k".into(), driver: "usb-storage".into() }),
            Of::PlugUsb(v1::UsbPlug { id: long.clone(), driver: String::new() }),
            Of::PlugPci(v1::PciPlug { device: 32, id: "u".into() }),
            Of::PlugPci(v1::PciPlug { device: 5, id: long }),
            Of::PlugCpu(v1::Cpu { index: 1 << 16 }),
        ] {
            assert!(parsed(wrong.clone()).is_err(), "{wrong:?}");
        }
        assert!(matches!(
            parsed(Of::Eject(v1::EjectRequest { drive: 2, force: true })),
            Ok(Call::Eject { drive: 2, force: true })
        ));
        assert!(matches!(
            parsed(Of::PlugPci(v1::PciPlug { device: 0, id: "u".into() })),
            Ok(Call::PlugPci { device: None, .. })
        ));
        assert!(matches!(parsed(Of::PlugCpu(v1::Cpu { index: 65535 })), Ok(Call::PlugCpu(65535))));
    }
}
