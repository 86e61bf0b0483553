//! Descriptors that travel with messages.
#[cfg(doc)]
use super::SessionPacket;
use super::{DriveId, Slot};
use serde::{Deserialize, Serialize};

/// Who takes the input that viewers make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sink {
    /// The keyboard controller.
    Keyboard,
    /// Devices on USB.
    Usb,
    /// The PV keyboard of the domain.
    PvKeyboard,
    /// The PV keyboard of a stub domain's guest.
    GuestKeyboard,
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
    /// Doorbell: broker → launcher, the guest makes accesses. It is not rung for each.
    Activity,
    /// Guest memory of the simulated machine, or video RAM of it.
    SimMemory,
    /// Video RAM of the simulated machine.
    SimVram,
    /// The table of faults that the simulated machine asks of the disks' storage.
    Faults,
    /// The drive's medium.
    Drive(DriveId),
    /// The kernel to boot.
    Kernel,
    /// Its ramdisk.
    Initrd,
    /// A backing file of the drive's medium: 1 for the file below the medium, 2 for the one below that.
    Backing(DriveId, u8),
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
    /// The read end of a pipe of [`InputEvent`](bulkhead_bus::InputEvent) records, for who takes input.
    InputFrom,
    /// The write end of such a pipe, for who makes input.
    InputTo(Sink),
    /// The write end of a pipe of bytes, for who takes input: which input the guest takes there, bit 0 places, 1 keys, 2 movement; with
    /// bit 3, bits 4 to 6 are the lights of its keyboard, as in [`FdUse::LedsTo`].
    TakesTo,
    /// The read end of such a pipe, for who makes input.
    TakesFrom(Sink),
    /// The read end of a pipe of records of two 16-bit numbers, for the display: the size that viewers wish for.
    WishesFrom,
    /// The write end of it, for the viewers.
    WishesTo,
    /// The write end of a pipe of bytes, for a keyboard: which of its lights shine, bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock.
    LedsTo,
    /// The read end of it, for the viewers.
    LedsFrom,
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
