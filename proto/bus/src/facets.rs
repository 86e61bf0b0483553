//! Interfaces that only some devices have: drives, a network card's link, a USB bus, the board's slots, a picture, keys, viewers. A
//! device offers a facet by a method of [`Device`](crate::Device); the runtime refuses a call whose facet the device does not have.
//!
//! Programs read typed facts, such as [`DriveFacts`]; [`Inspect`](crate::Inspect) is for people.
use crate::{Context, InputEvent, Surface, UsbDevice, nic::NicSettings};
use rustix::fd::OwnedFd;
use std::net::SocketAddr;

/// Why a medium cannot be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriveError {
    /// The controller has no such drive.
    #[error("there is no drive {0}")]
    NoDrive(u8),
    /// The drive is a disk, whose medium is fixed.
    #[error("the medium of a disk cannot be changed")]
    Fixed,
    /// The guest has locked the tray. The device has sent it an eject request.
    #[error("the guest has locked the tray; it has been asked to release the medium")]
    Locked,
    /// The drive already has a medium.
    #[error("there is a medium in the drive")]
    Occupied,
    /// The new medium cannot be used; the text says why.
    #[error("{0}")]
    Medium(String),
}

/// Why a USB device cannot be plugged in or out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsbError {
    /// A device has this name already.
    #[error("there is a USB device '{0}' already")]
    Named(String),
    /// The name is longer than a saved state can hold.
    #[error("the name of a USB device has at most {0} bytes")]
    Long(usize),
    /// No device that was plugged in has this name.
    #[error("no USB device '{0}' was plugged in while the machine ran")]
    Unknown(String),
    /// No port is free.
    #[error("both ports of the USB controller are taken")]
    Full,
}

/// Why the board cannot plug a PCI device or vCPU in or out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BoardError {
    /// The bus has no slot with this device number for added devices.
    #[error("there is no place for PCI device {0}")]
    NoPlace(u8),
    /// The slot has a device already.
    #[error("PCI device {0} is there already")]
    Taken(u8),
    /// A PCI device has this name already.
    #[error("there is a device {0} already")]
    Named(String),
    /// No PCI device that was added has this name.
    #[error("there is no device {0} that was added")]
    Unknown(String),
    /// The vCPU's number is beyond the guest's maximum.
    #[error("the guest can have {vcpus} vCPUs, there is no place {cpu}")]
    NoCpuPlace {
        /// Most vCPUs of the guest.
        vcpus: u16,
        /// Number of the vCPU to plug in.
        cpu: u16,
    },
    /// The vCPU is plugged in already.
    #[error("vCPU {0} is there already")]
    CpuThere(u16),
}

/// Why a password cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// This process serves no viewers.
    #[error("this process serves no viewers")]
    NotSupported,
    /// The server was started without password authentication.
    #[error("the server was started without password=on")]
    Off,
}

/// A controller of drives.
pub trait Drives {
    /// Removes the medium from drive `drive`. Without `force`, a tray that the guest has locked stays closed.
    ///
    /// # Errors
    /// The medium stays in the drive.
    fn eject(&mut self, drive: u8, force: bool, cx: &mut Context) -> Result<(), DriveError>;

    /// Inserts a medium into the empty drive `drive`.
    ///
    /// # Errors
    /// The drive stays empty.
    fn insert(&mut self, drive: u8, medium: OwnedFd, cx: &mut Context) -> Result<(), DriveError>;

    /// The drives that have not been unplugged.
    fn facts(&self) -> Vec<DriveFacts>;
}

/// The facet of a network card.
pub trait Card {
    /// Applies new settings.
    fn set_nic(&mut self, settings: &NicSettings, cx: &mut Context);

    /// Starts to write the frames of both directions into this pipe, as pcap; `None` stops it.
    fn capture(&mut self, to: Option<OwnedFd>);

    /// Tells the network that the guest is here, after it has come from elsewhere.
    fn arrived(&mut self, cx: &mut Context);

    /// Each rule's name, and the number of frames that it has dropped.
    fn dropped(&self) -> Vec<(&'static str, u64)>;
}

/// The facet of a USB controller.
pub trait UsbBus {
    /// Plugs a USB device in under the name `id`, or, without a device, plugs out the device of that name.
    ///
    /// # Errors
    /// No port is free or the name is taken; no device has that name.
    fn plug_usb(&mut self, id: &str, device: Option<UsbDevice>, cx: &mut Context) -> Result<(), UsbError>;
}

/// The facet of the board.
pub trait Board {
    /// Reports to the guest that PCI device `device` was plugged into bus 0, under the name `id`; without a device, asks the guest
    /// to eject the one of that name.
    ///
    /// # Errors
    /// The slot or the name is taken; no device has that name.
    fn plug_pci(&mut self, device: Option<u8>, id: &str, cx: &mut Context) -> Result<(), BoardError>;

    /// Plugs in vCPU `cpu`.
    ///
    /// # Errors
    /// The guest cannot have this vCPU, or has it already.
    fn plug_cpu(&mut self, cpu: u16, cx: &mut Context) -> Result<(), BoardError>;

    /// The vCPUs that are plugged in.
    fn vcpus(&self) -> Vec<u16>;
}

/// The facet of a display.
pub trait Display {
    /// Draws the changes of the screen into the surface.
    fn refresh(&mut self, surface: &mut dyn Surface);

    /// The screen as a PNG; `None` if it has no picture.
    fn screenshot(&mut self) -> Option<Vec<u8>>;
}

/// The facet of a keyboard or pointer.
pub trait Input {
    /// Handles an input event.
    fn input(&mut self, event: InputEvent, cx: &mut Context);

    /// The keyboard's LEDs: bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock. `None` if it has none.
    fn lights(&self) -> Option<u8> {
        None
    }
}

/// The facet of a server of viewers.
pub trait Viewers {
    /// Replaces the surface after the display has been restarted.
    fn set_surface(&mut self, surface: OwnedFd);

    /// Sets the password that viewers need.
    ///
    /// # Errors
    /// This server does not use a password.
    fn set_password(&mut self, password: &[u8]) -> Result<(), PasswordError> {
        let _ = password;
        Err(PasswordError::NotSupported)
    }

    /// Where each connected viewer comes from.
    fn connected(&self) -> Vec<ViewerAddress> {
        Vec::new()
    }
}

/// Back ends of PV devices that call this process: of `xenbus` and `grant`.
pub trait Callers {
    /// Ready number of the socket to the back end with this number; `None` if there is no such back end.
    fn ready(&self, caller: u8) -> Option<u32>;
    /// The back end has a new process, and the last one is dead; `socket` is connected to the new one. What the back end may use
    /// begins anew. Returns the socket to the last process.
    fn begin_life(&mut self, caller: u8, socket: OwnedFd, cx: &mut Context) -> Option<OwnedFd>;
}

/// Where a viewer comes from. The text is `ADDRESS:PORT`, or `unix`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewerAddress {
    /// The other end of a TCP connection.
    Tcp(SocketAddr),
    /// A client of a Unix socket, which has no address.
    Unix,
}

impl std::fmt::Display for ViewerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// Typed facts of a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriveFacts {
    /// Its index on the controller.
    pub index: u8,
    /// Sectors of 512 bytes of its medium; 0 without one.
    pub sectors: u64,
    /// The guest has locked the tray.
    pub locked: bool,
    /// The tray is open.
    pub tray_open: bool,
    /// Operations since the guest started.
    pub counters: DriveCounters,
}

/// A drive's operations since the guest started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriveCounters {
    /// Number of completed reads.
    pub reads: u64,
    /// Bytes that they have read.
    pub bytes_read: u64,
    /// Number of completed writes.
    pub writes: u64,
    /// Bytes that they have written.
    pub bytes_written: u64,
    /// Number of completed flushes.
    pub flushes: u64,
    /// Number of discarded ranges.
    pub trims: u64,
    /// Number of operations that failed.
    pub failed: u64,
}
