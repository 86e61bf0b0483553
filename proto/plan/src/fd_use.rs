//! Descriptors that travel with messages.
#[cfg(doc)]
use super::SessionPacket;
use super::{DriveId, Slot};
use serde::{Deserialize, Serialize};

/// The device that receives viewers' input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InputTarget {
    /// The keyboard controller.
    Keyboard,
    /// Devices on USB.
    Usb,
    /// The PV keyboard of the domain.
    PvKeyboard,
    /// The PV keyboard of a stub domain's guest.
    GuestKeyboard,
}

/// The use of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FdUse {
    /// The gRPC connection: a process serves it; control is the client of the process in this slot.
    Control(Slot),
    /// The area that the receiver writes.
    OwnArea,
    /// The area that the peer writes.
    PeerArea,
    /// The reply area of the slot's previous process, with its last state.
    OldArea,
    /// The process's part of a saved machine: a sealed memfd with its section's payload.
    SavedState,
    /// Doorbell: broker → device.
    RequestBell,
    /// Doorbell: device → broker.
    ReplyBell,
    /// privcmd, restricted to the domain.
    Privcmd,
    /// Event channels, restricted to the domain.
    Evtchn,
    /// The ioreq page of the simulated machine.
    SimIoreq,
    /// The eventfd that stands for event channels in the simulated machine.
    SimKick,
    /// The broker's socket to the simulated machine: its trace in one direction, commands in the other.
    SimTrace,
    /// Doorbell: broker → launcher, the guest makes accesses. It is rung on the broker's tick, not for each access.
    Activity,
    /// Guest memory of the simulated machine, or its video RAM.
    SimMemory,
    /// Video RAM of the simulated machine.
    SimVram,
    /// The map of the pages that the device in this slot writes, of the guest's memory or of video RAM; for the device, and for the broker.
    DirtyMap(Slot),
    /// The table of faults that the simulated machine injects into the disks' storage.
    Faults,
    /// The drive's medium.
    Drive(DriveId),
    /// The kernel to boot.
    Kernel,
    /// The ramdisk of the kernel to boot.
    Initrd,
    /// A backing file of the drive's medium: 1 for the medium's own backing file, 2 for that one's.
    Backing(DriveId, u8),
    /// The host end of a serial port.
    Serial,
    /// If that is a file, the file with the output before it.
    SerialEarlier,
    /// The host end of a network card.
    Net,
    /// Expansion ROM of the device in this slot.
    Rom(Slot),
    /// The surface, writable, for the display.
    Surface,
    /// The surface, read-only, for viewers.
    SurfaceView,
    /// Doorbell: viewer → display, the viewer requests a picture.
    FrameBell,
    /// The read end of a pipe of [`InputEvent`](bulkhead_bus::InputEvent) records, for an input device.
    InputFrom,
    /// The write end of such a pipe, for viewers.
    InputTo(InputTarget),
    /// The write end of a pipe of bytes, for an input device: the input that the guest accepts there, bit 0 absolute positions, 1
    /// keys, 2 relative movement; with bit 3, bits 4 to 6 are the LEDs of its keyboard, as in [`FdUse::LedsTo`].
    TakesTo,
    /// The read end of such a pipe, for viewers.
    TakesFrom(InputTarget),
    /// The read end of a pipe of records of two 16-bit numbers, for the display: width and height that viewers request.
    WishesFrom,
    /// The write end of that pipe, for viewers.
    WishesTo,
    /// The write end of a pipe of bytes, for a keyboard: its LEDs that are on, bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock.
    LedsTo,
    /// The read end of that pipe, for viewers.
    LedsFrom,
    /// A listening socket for viewers.
    Viewers,
    /// A connection to xenstored, for `xenbus`.
    Xenstore,
    /// The socket between a back end and `xenbus`. The number is the back end's in `xenbus`, and 0 in the back end. Each process of a
    /// back end has its own. In `xenbus`' first message: one that an earlier `xenbus` has served.
    Nodes(u8),
    /// The socket between a back end and `grant`, in the same way.
    Grants(u8),
    /// A gntdev descriptor, shared by `grant` and the back end, which maps from it; numbered in the same way.
    Gntdev(u8),
    /// The memfd that `grant` copies to and from, if the back end has one; numbered in the same way.
    GrantBuffer(u8),
    /// A Linux frame buffer.
    Screen,
    /// An evdev node.
    Events,
    /// The file in dom0 to which the state of a stub domain's guest goes when it is saved, for the console that brings it.
    SavedTo,
    /// The file in dom0 from which such a state comes.
    SavedFrom,
    /// The file that a stub domain writes the machine's saved state to: libxl's descriptor set 1.
    SaveStream,
    /// The page of a vchan.
    VchanPage,
    /// QMP sessions between the vchan and control: [`SessionPacket`]s.
    Sessions,
    /// A listening QMP socket.
    QmpListen,
    /// The read end of the log pipe of the process in this slot.
    Log(Slot),
    /// The guest's log file.
    LogFile,
}
