//! What the launcher tells the processes that it starts, and what they may ask of it: the resource plane.
//!
//! One SEQPACKET socket per process. Launcher → process: [`ToProcess`], JSON, with descriptors. Process → launcher:
//! [`FromProcess`], fixed size, because the launcher parses nothing that a process has composed.
mod config;
mod input;
mod messages;

pub use config::{
    BootMenu, DeviceConfig, DriveConfig, ImageFormat, LAYOUTS, NicEnd, NicModel, PvNodes, UsbDevice, VncAddress,
    WhenFull,
};
pub use input::InputEvent;
pub use messages::{Ask, Death, FromProcess, FrontDisk, ProcessRow, SessionPacket, ToProcess};

use serde::{Deserialize, Serialize};

/// Number of a process's place: 0 control, 1 broker, devices from 2. A restarted process has the slot of the dead one.
pub type Slot = u8;
/// Slot of control.
pub const CONTROL: Slot = 0;
/// Slot of the broker.
pub const BROKER: Slot = 1;
/// First slot of a device.
pub const FIRST_DEVICE: Slot = 2;

/// A device and its slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSlot {
    /// Its slot.
    pub slot: Slot,
    /// For people: the role, with a number if there are several.
    pub name: String,
    /// What it is.
    pub config: DeviceConfig,
}

/// How the sandbox treats what the kernel lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Everything that the profiles name must be enforced; Landlock ABI 6 (Linux 6.12) with all scopes.
    Strict,
    /// What this kernel has; what it lacks is printed.
    Kernel,
}

/// What runs the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Real Xen.
    Xen,
    /// The simulated machine.
    Sim,
}

/// The machine, as every process is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachinePlan {
    /// The guest's domid.
    pub domid: u16,
    /// Its name.
    pub name: String,
    /// vCPUs that it can have.
    pub vcpus: u16,
    /// vCPUs that it starts with.
    pub online: u16,
    /// What runs it.
    pub mode: Mode,
    /// The sandbox's level.
    pub level: Level,
    /// The devices.
    pub devices: Vec<DeviceSlot>,
    /// Other ends of serial ports and PV consoles: what QMP calls each, and which it is: `serial0`, `pty:/dev/pts/1`.
    pub chardevs: Vec<(String, String)>,
    /// The machine starts stopped (-S) and says `prelaunch`.
    pub stopped: bool,
    /// Where screenshots by name go; nowhere in a stub domain.
    pub dump_dir: Option<String>,
}

/// What a descriptor is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FdUse {
    /// gRPC: the process serves it; control is the client of the slot named.
    Control(Slot),
    /// The area that the receiver writes.
    OwnArea,
    /// The area that the peer writes.
    PeerArea,
    /// The reply area of the slot's former life, with its last state.
    OldArea,
    /// Doorbell: broker → device.
    RequestBell,
    /// Doorbell: device → broker.
    ReplyBell,
    /// privcmd, restricted to the domain.
    Privcmd,
    /// Event channels, restricted to the domain.
    Evtchn,
    /// The simulated machine: ioreq page, kick, trace socket, guest memory.
    SimIoreq,
    /// See `SimIoreq`.
    SimKick,
    /// See `SimIoreq`.
    SimTrace,
    /// Guest memory of the simulated machine, or video RAM of it.
    SimMemory,
    /// Video RAM of the simulated machine.
    SimVram,
    /// The drive with this index has this medium.
    Drive(u8),
    /// The kernel to boot.
    Kernel,
    /// Its ramdisk.
    Initrd,
    /// What the drive's medium is based on: the drive's index, 1 for the first image below.
    Backing(u8, u8),
    /// A serial port's other end.
    Serial,
    /// A network card's other end.
    Net,
    /// Expansion ROM of the device in the slot named.
    Rom(Slot),
    /// The surface, for the display that draws it.
    Surface,
    /// The surface, for who looks at it.
    SurfaceView,
    /// Doorbell: viewer → display, a picture is wanted.
    FrameBell,
    /// A pipe of [`InputEvent`] records: the write end has who makes input, the read end who takes it.
    Input,
    /// The write end of a pipe of [`InputEvent`] records to USB devices, for who makes input.
    UsbInput,
    /// A pipe of bytes from the USB controller to viewers: which input the guest takes there, bit 0 places, 1 keys, 2 movement.
    UsbTakes,
    /// The same as [`FdUse::UsbInput`] for the PV keyboard.
    PvInput,
    /// The same as [`FdUse::UsbTakes`] for the PV keyboard.
    PvTakes,
    /// The same as [`FdUse::PvInput`] for the PV keyboard of a stub domain's guest.
    GuestInput,
    /// The same as [`FdUse::PvTakes`] for that.
    GuestTakes,
    /// A pipe of records of two 16-bit numbers, from viewers to the display: the size that they wish for.
    Wishes,
    /// A pipe of bytes from a keyboard to viewers: which of its lights shine, bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock.
    Leds,
    /// A socket that listens for viewers.
    Viewers,
    /// privcmd restricted to the domain, for a back end that maps frames which the domain names.
    Frames,
    /// A connection to xenstored, for `xenbus`.
    Xenstore,
    /// A back end's end of its socket to `xenbus`, or there the other end of the back end with this number.
    Nodes(u8),
    /// A back end's end of its socket to `grant`, or there the other end of the back end with this number.
    Grants(u8),
    /// A device of granted pages: for `grant` that of the back end with this number, for a back end (0) the same, to map.
    Gntdev(u8),
    /// The buffer that `grant` copies to and from, of the back end with this number (0 in a back end), if it has one.
    GrantBuffer(u8),
    /// A Linux frame buffer.
    Screen,
    /// An evdev node.
    Events,
    /// Where the machine's state goes when it is saved: libxl's descriptor set 1 in a stub domain.
    SaveStream,
    /// The page of a vchan.
    VchanPage,
    /// QMP sessions between the vchan and control: [`SessionPacket`]s.
    Sessions,
    /// A QMP socket that listens.
    QmpListen,
    /// The read end of the log pipe of the slot named.
    Log(Slot),
    /// Where the guest's log goes.
    LogFile,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn input_records_come_back(kind in 0u8..3, code: u16, down: bool, x: i16, y: i16, z: i16) {
            let (dx, dy, dz) = (i32::from(x), i32::from(y), i32::from(z));
            let event = match kind {
                0 => InputEvent::Key { code, down },
                1 => InputEvent::Move { dx, dy, dz },
                _ => InputEvent::Button { button: code as u8, down },
            };
            prop_assert_eq!(InputEvent::from_bytes(event.to_bytes()), Some(event));
        }

        #[test]
        fn any_record_is_an_event_or_none(bytes: [u8; 8]) {
            if let Some(event) = InputEvent::from_bytes(bytes) {
                prop_assert_eq!(InputEvent::from_bytes(event.to_bytes()), Some(event));
            }
        }

        #[test]
        fn only_whole_messages_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let message = FromProcess::from_bytes(&bytes);
            prop_assert_eq!(message.is_some(), bytes.len() == FromProcess::LEN && (1..=17).contains(&bytes[0]));
            if let Some(message) = message {
                prop_assert_eq!(FromProcess::from_bytes(&message.to_bytes()), Some(message));
            }
        }
    }
}
