//! What only some devices have: drives, a network card's cable, a USB bus, the board's slots, a picture, keys, a view of the picture.
//! A device offers a facet by its method of [`Device`](crate::Device); whoever calls one that is not there is told so in one place,
//! the runtime.
//!
//! What programs read has a type here ([`Facts`]); [`Inspect`](crate::Inspect) is for people.
use crate::{Context, InputEvent, Surface, UsbDevice, nic::NicSettings};
use rustix::fd::OwnedFd;

/// Why a medium was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriveError {
    /// The controller has no such drive.
    #[error("there is no drive {0}")]
    NoDrive(u8),
    /// The drive is a disk.
    #[error("the medium of a disk cannot be changed")]
    Fixed,
    /// The guest has locked the tray.
    #[error("the guest has locked the tray; it was asked to let go of the medium")]
    Locked,
    /// A medium is in the drive already.
    #[error("there is a medium in the drive")]
    Occupied,
    /// The new medium cannot be used; why.
    #[error("{0}")]
    Medium(String),
}

/// Why a USB device was not plugged in or out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsbError {
    /// A device has this name already.
    #[error("there is a USB device '{0}' already")]
    Named(String),
    /// No device that was plugged in has this name.
    #[error("no USB device '{0}' was plugged in while the machine ran")]
    Unknown(String),
    /// No port is free.
    #[error("both ports of the USB controller are taken")]
    Full,
}

/// Why the board has not plugged something in or out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BoardError {
    /// The bus has no such place.
    #[error("there is no place for PCI device {0}")]
    NoPlace(u8),
    /// The place is taken.
    #[error("PCI device {0} is there already")]
    Taken(u8),
    /// A PCI device has this name already.
    #[error("there is a device {0} already")]
    Named(String),
    /// No PCI device that was added has this name.
    #[error("there is no device {0} that was added")]
    Unknown(String),
    /// The guest cannot have so many vCPUs.
    #[error("the guest can have {vcpus} vCPUs, there is no place {cpu}")]
    NoCpuPlace {
        /// What it can have.
        vcpus: u16,
        /// What was to be plugged in.
        cpu: u16,
    },
    /// The vCPU is plugged in already.
    #[error("vCPU {0} is there already")]
    CpuThere(u16),
}

/// Why a password was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// This process has no passwords.
    #[error("this process asks nobody for a password")]
    NobodyAsked,
    /// This server lets everybody in.
    #[error("the server was started without password=on")]
    Off,
}

/// A controller of drives.
pub trait Drives {
    /// Takes the medium out of drive `drive`. Without `force`, a tray that the guest has locked stays shut.
    ///
    /// # Errors
    /// Why it is still there.
    fn eject(&mut self, drive: u8, force: bool, cx: &mut Context) -> Result<(), DriveError>;

    /// Puts a medium into the empty drive `drive`.
    ///
    /// # Errors
    /// Why it is not in.
    fn insert(&mut self, drive: u8, medium: OwnedFd, cx: &mut Context) -> Result<(), DriveError>;

    /// The drives that have not been unplugged.
    fn facts(&self) -> Vec<DriveFacts>;
}

/// A network card.
pub trait Card {
    /// Takes new settings.
    fn set_nic(&mut self, settings: &NicSettings, cx: &mut Context);

    /// From now on writes the frames of both directions into this pipe, as pcap; nowhere with `None`.
    fn capture(&mut self, to: Option<OwnedFd>);

    /// The rules by name, and how many frames each has dropped.
    fn dropped(&self) -> Vec<(&'static str, u64)>;
}

/// A USB controller.
pub trait UsbBus {
    /// Plugs a USB device in, or the one that is called so out.
    ///
    /// # Errors
    /// There is no room, or the name is taken; there is no device of that name.
    fn plug_usb(&mut self, id: &str, device: Option<UsbDevice>, cx: &mut Context) -> Result<(), UsbError>;
}

/// The board.
pub trait Board {
    /// PCI device `device` has been plugged into bus 0 and is called `id`; without a device, the guest is asked to eject the one that is
    /// called so.
    ///
    /// # Errors
    /// The place or the name is taken; there is no device of that name.
    fn plug_pci(&mut self, device: Option<u8>, id: &str, cx: &mut Context) -> Result<(), BoardError>;

    /// Plugs in vCPU `cpu`.
    ///
    /// # Errors
    /// There is no such place, or it is taken.
    fn plug_cpu(&mut self, cpu: u16, cx: &mut Context) -> Result<(), BoardError>;

    /// The vCPUs that are plugged in.
    fn vcpus(&self) -> Vec<u16>;
}

/// A display.
pub trait Display {
    /// Brings the surface to what the screen shows now.
    fn refresh(&mut self, surface: &mut dyn Surface);

    /// The screen as a PNG; `None` if it shows nothing.
    fn screenshot(&mut self) -> Option<Vec<u8>>;
}

/// A keyboard or pointer.
pub trait Input {
    /// Takes an event.
    fn input(&mut self, event: InputEvent, cx: &mut Context);

    /// The keyboard's lights: bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock.
    fn lights(&self) -> Option<u8> {
        None
    }
}

/// What shows the surface to viewers.
pub trait Viewers {
    /// Takes the surface of a display that was started again.
    fn set_surface(&mut self, surface: OwnedFd);

    /// Takes the password of who may look and type.
    ///
    /// # Errors
    /// Nobody is asked for one.
    fn set_password(&mut self, password: &[u8]) -> Result<(), PasswordError> {
        let _ = password;
        Err(PasswordError::NobodyAsked)
    }

    /// Who is connected: `ADDRESS:PORT`, or nothing for a Unix socket, each.
    fn connected(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What programs may know of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// A controller's drives.
    pub drives: Vec<DriveFacts>,
    /// The vCPUs that are plugged in, of the board.
    pub vcpus: Vec<u16>,
    /// The rules by name, and how many frames each has dropped, of a network card.
    pub dropped: Vec<(&'static str, u64)>,
    /// Who is connected to a server of viewers.
    pub viewers: Vec<String>,
    /// The PCI functions that the guest can find, of the broker.
    pub functions: Vec<FunctionFacts>,
    /// The lights of a keyboard: bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock.
    pub lights: Option<u8>,
}

/// What programs read of a drive.
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
    /// What it has done.
    pub counters: DriveCounters,
}

/// What a drive has done since the guest started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriveCounters {
    /// Number of reads.
    pub reads: u64,
    /// Bytes of them.
    pub bytes_read: u64,
    /// Number of writes.
    pub writes: u64,
    /// Bytes of them.
    pub bytes_written: u64,
    /// Number of flushes.
    pub flushes: u64,
    /// Ranges given back.
    pub trims: u64,
    /// Operations that failed.
    pub failed: u64,
}

/// A PCI function on bus 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionFacts {
    /// The name of the process that it is of.
    pub of: String,
    /// Device number.
    pub device: u8,
    /// Function number.
    pub function: u8,
    /// PCI vendor ID.
    pub vendor: u16,
    /// PCI device ID.
    pub model: u16,
    /// Class, subclass and programming interface.
    pub class: u32,
    /// Interrupt line.
    pub irq: u8,
    /// Interrupt pin, 1 is A; 0 none.
    pub pin: u8,
}
