//! The machine that the arguments ask for. Each kind of device has a file, which parses the device's options and opens its
//! resources on the host before any process starts.
//!
//! | file | what |
//! |---|---|
//! | `option.rs` | one option, and the traits of a file below |
//! | `board.rs`, `usb.rs` | devices without files of the host |
//! | `drives.rs`, `nics.rs`, `serial.rs`, `video.rs`, `boot.rs` | devices with images, interfaces, other ends or firmware |
//! | `disk.rs`, `images.rs`, `qcow2.rs` | a disk's identity and geometry, its image, how far a qcow2 image grows |
//! | `back_ends.rs` | back ends of PV devices |
//! | `fbdev.rs`, `vchan.rs` | the picture and QMP of a stub domain |
//! | `viewers.rs` | the VNC server, and the pipes between viewers and devices |
//! | `firmware.rs` | files of expansion ROMs |
//! | `saved.rs` | a saved machine that goes on here |
//! | `host.rs` | one process's configuration and descriptors, and what is opened for the machine as a whole |
pub mod back_ends;
pub mod board;
pub mod boot;
pub mod disk;
pub mod drives;
pub mod fbdev;
pub mod firmware;
pub mod host;
pub mod images;
pub mod nics;
pub mod option;
mod qcow2;
pub(crate) mod saved;
pub mod serial;
pub mod usb;
pub mod vchan;
pub mod video;
pub mod viewers;

use crate::failure::Failure;
use crate::groups::Choice;
use crate::options::Options;
use crate::placement::Placement;
use boot::Kernel;
use bulkhead_bus::{BootMenu, UsbDevice};
use bulkhead_plan::{Kind, Level};
use drives::MachineDrive;
use host::{Host, Part};
use images::{ImageRules, Writable};
use nics::Nic;
use option::Group;
use rustix::fd::RawFd;
use serial::Serial;
use video::Video;
use viewers::Vnc;

/// A kind of device. A machine may have none or several of a kind.
#[derive(Debug)]
pub struct DeviceKind {
    /// The kinds of process that `open` makes parts for.
    pub kinds: &'static [&'static Kind],
    /// The options that configure it.
    pub arguments: Group,
    /// Opens the machine's devices of this kind.
    pub open: fn(&mut Host) -> Result<Vec<Part>, Failure>,
}

/// All kinds of devices in the order of their slots, without the board, which needs the opened disks.
pub static DEVICES: [&DeviceKind; 7] =
    [&drives::DEVICE, &board::KEYBOARD, &video::DEVICE, &nics::DEVICE, &boot::DEVICE, &usb::DEVICE, &serial::DEVICE];

/// The options of all devices and of viewers.
pub fn groups() -> impl Iterator<Item = &'static Group> {
    DEVICES.iter().map(|device| &device.arguments).chain([&viewers::GROUP])
}

/// A Unix socket that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    /// The launcher makes it at this path.
    Path(String),
    /// The toolstack has made it, and it listens already.
    Fd(RawFd),
}

/// What a `-chardev` describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chardev {
    /// A socket that listens.
    Socket(Socket),
    /// A new pseudo terminal.
    Pty,
    /// Output is discarded.
    Null,
    /// A file, written.
    File {
        /// The file's path.
        path: String,
        /// Output is appended; otherwise the file is truncated.
        append: bool,
    },
}

/// A QMP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// The id of the chardev.
    pub id: String,
    /// The listening socket.
    pub socket: Socket,
}

/// Descriptors of the simulated machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sim {
    /// The two pages of the ioreq server.
    pub ioreq: RawFd,
    /// Eventfd: requests are there.
    pub kick: RawFd,
    /// SEQPACKET: device model operations, commands.
    pub trace: RawFd,
    /// Guest memory.
    pub memory: RawFd,
    /// The thread that makes the requests, if it says which.
    pub thread: Option<i32>,
    /// A table of faults for the disks' storage.
    pub faults: Option<RawFd>,
}

impl Sim {
    /// From `-sim`.
    pub fn parse(options: &Options) -> Option<Self> {
        let fd = |key| options.get(key).and_then(|v| v.parse::<RawFd>().ok()).filter(|fd| *fd > 2);
        let thread = options.get("thread").and_then(|v| v.parse().ok()).filter(|tid| *tid > 0);
        Some(Self {
            ioreq: fd("ioreq")?,
            kick: fd("kick")?,
            trace: fd("trace")?,
            memory: fd("memory")?,
            thread,
            faults: fd("faults"),
        })
    }
}

/// The source of a saved machine's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A descriptor that the toolstack has opened.
    Fd(RawFd),
    /// A stub domain's third console.
    Console,
}

/// The machine that the arguments ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The guest's number; `None` only for a probe.
    pub domid: Option<u16>,
    /// The guest's name, for logs and viewers' titles.
    pub name: String,
    /// Most vCPUs of the guest: 1 to 128.
    pub vcpus: u16,
    /// vCPUs at the start; others may be plugged in later.
    pub online: u16,
    /// MiB of RAM.
    pub memory_mib: u64,
    /// Chardevs by their ids.
    pub chardevs: Vec<(String, Chardev)>,
    /// QMP servers, in the order of the options.
    pub monitors: Vec<Monitor>,
    /// The host ends of serial ports, from COM1.
    pub serials: Vec<Serial>,
    /// Most bytes of a file that a serial port or a console writes.
    pub console_limit: u64,
    /// The display; `None`: the guest has none.
    pub video: Option<Video>,
    /// Devices on the USB controller; `None`: there is no controller at the start.
    pub usb: Option<Vec<UsbDevice>>,
    /// The USB controller's PCI device and function, if it is not the PIIX3's.
    pub usb_at: Option<(u8, u8)>,
    /// The server for VNC viewers.
    pub vnc: Option<Vnc>,
    /// Keyboard layout for viewers that send characters instead of key codes.
    pub layout: String,
    /// Boot order in QEMU's letters: `a` floppy, `c` disk, `d` CD, `n` network.
    pub boot: String,
    /// The firmware does not look for a floppy disk's signature (`-no-fd-bootchk`).
    pub unsigned_floppy: bool,
    /// Whether and how long the firmware shows its boot menu.
    pub menu: BootMenu,
    /// A Linux kernel that the firmware boots directly.
    pub kernel: Option<Kernel>,
    /// Disks and CD drives of the IDE controller.
    pub drives: Vec<MachineDrive>,
    /// Network cards, in the order of their devices.
    pub nics: Vec<Nic>,
    /// The guest has the xen-platform device.
    pub xen_platform: bool,
    /// The machine waits for `cont` (`-S`).
    pub stopped: bool,
    /// Where the state of a saved machine is that goes on here (`-incoming`).
    pub incoming: Option<Incoming>,
    /// libxl asks for the program's capabilities; no guest is started.
    pub probe: bool,
    /// There are no emulated devices: the launcher serves the PV back ends of an existing domain.
    pub attach: bool,
    /// Descriptors of the simulated machine that takes Xen's place, for tests.
    pub sim: Option<Sim>,
    /// The sandbox's level; `None`: the highest that the kernel has.
    pub level: Option<Level>,
    /// Rules for disk images.
    pub images: ImageRules,
    /// Where disks that come later may have their images.
    pub writable: Writable,
    /// A similar device may be substituted for one that Bulkhead does not have.
    pub substitutes: bool,
    /// CPUs of the threads that carry out register accesses.
    pub placement: Placement,
    /// Where the processes' control groups are made, in dom0.
    pub cgroup: Choice,
    /// The user of the launcher and all processes: a name, or `UID:GID`.
    pub user: Option<String>,
    /// The mount point of the launcher's empty root directory.
    pub chroot: Option<String>,
    /// The file for the launcher's process number.
    pub pid_file: Option<String>,
}

/// Boot order without `-boot`: disk, floppy, CD, as QEMU's PC.
const DEFAULT_BOOT: &str = "cad";

impl Default for Machine {
    fn default() -> Self {
        Self {
            domid: None,
            name: "guest".to_owned(),
            vcpus: 1,
            online: 1,
            memory_mib: 128,
            chardevs: Vec::new(),
            monitors: Vec::new(),
            serials: Vec::new(),
            console_limit: serial::DEFAULT_LIMIT,
            video: None,
            usb: None,
            usb_at: None,
            vnc: None,
            layout: "en-us".to_owned(),
            boot: DEFAULT_BOOT.to_owned(),
            unsigned_floppy: false,
            menu: BootMenu::default(),
            kernel: None,
            drives: Vec::new(),
            nics: Vec::new(),
            xen_platform: true,
            stopped: false,
            incoming: None,
            probe: false,
            attach: false,
            sim: None,
            level: None,
            images: ImageRules::default(),
            writable: Writable::default(),
            substitutes: true,
            placement: Placement::Together,
            cgroup: Choice::Auto,
            user: None,
            chroot: None,
            pid_file: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_plan::{KINDS, kind};

    #[test]
    fn every_kind_that_a_guest_sees_is_opened_by_one_device() {
        for kind in KINDS.iter().filter(|k| k.guest_visible && !std::ptr::eq(**k, &kind::PLATFORM)) {
            let devices = DEVICES.iter().filter(|d| d.kinds.iter().any(|k| std::ptr::eq(*k, *kind)));
            assert_eq!(devices.count(), 1, "{}", kind.role);
        }
    }
}
