//! Descriptors that travel with messages.
#[cfg(doc)]
use super::SessionPacket;
use super::Slot;
use serde::{Deserialize, Serialize};

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
    /// Doorbell: broker → launcher, the guest makes accesses. It is not rung for each.
    Activity,
    /// Guest memory of the simulated machine, or video RAM of it.
    SimMemory,
    /// Video RAM of the simulated machine.
    SimVram,
    /// The table of faults that the simulated machine asks of the disks' storage.
    Faults,
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
    /// A pipe of [`InputEvent`](bulkhead_bus::InputEvent) records: the write end has who makes input, the read end who takes it.
    Input,
    /// The write end of a pipe of [`InputEvent`](bulkhead_bus::InputEvent) records to USB devices, for who makes input.
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
