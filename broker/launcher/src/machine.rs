//! The machine that libxl asks for, typed.
use crate::disk::Properties;
use crate::options::Options;
use crate::placement::Placement;
use bulkhead_bus::nic::{NicLease, NicSettings};
use bulkhead_bus::{BootMenu, UsbDevice, WhenFull};
use bulkhead_plan::{DriveId, ImageFormat, Level, NicModel, VncAddress};
use rustix::fd::RawFd;

/// Where a monitor listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chardev {
    /// A Unix socket to be made.
    Path(String),
    /// A Unix socket that listens already.
    Fd(RawFd),
}

/// A QMP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// The chardev's name.
    pub id: String,
    /// Where.
    pub chardev: Chardev,
}

/// What a serial port is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serial {
    /// A new pseudo terminal.
    Pty,
    /// A file or FIFO, written.
    File(String),
    /// The same, behind what is in it.
    Append(String),
    /// Nothing.
    Null,
    /// A character device.
    Device(String),
    /// A Unix socket to connect to.
    Unix(String),
    /// A Unix socket that is made here and listens; one peer at a time.
    UnixServer(String),
    /// The port is not there.
    None,
}

impl Serial {
    /// Parses QEMU's notation.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "pty" => Self::Pty,
            "null" => Self::Null,
            "none" => Self::None,
            _ => match text.split_once(':') {
                Some(("file", path)) if !path.is_empty() => Self::File(path.to_owned()),
                Some(("unix", path)) => {
                    let options = Options::parse(path);
                    let path = options.head.clone().filter(|p| !p.is_empty())?;
                    match (options.flag("server", false)?, options.flag("wait", true)?) {
                        (false, _) => Self::Unix(path),
                        // Waiting for a peer would hold up the guest's creation.
                        (true, true) => return None,
                        (true, false) => Self::UnixServer(path),
                    }
                }
                _ if text.starts_with("/dev/") => Self::Device(text.to_owned()),
                _ => return None,
            },
        })
    }

    /// The path of the socket that listens.
    pub fn listens(&self) -> Option<&str> {
        if let Self::UnixServer(path) = self { Some(path) } else { None }
    }

    /// What query-chardev says.
    pub fn shown(&self, pty: Option<&str>) -> String {
        match self {
            Self::Pty => format!("pty:{}", pty.unwrap_or("")),
            Self::File(path) | Self::Append(path) => format!("file:{path}"),
            Self::Null => "null".to_owned(),
            Self::Device(path) => path.clone(),
            Self::Unix(path) => format!("unix:{path}"),
            Self::UnixServer(path) => format!("unix:{path},server=on"),
            Self::None => "none".to_owned(),
        }
    }
}

/// A drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineDrive {
    /// Where it is; a CD gets it from its -device.
    pub at: Option<DriveId>,
    /// A CD-ROM drive.
    pub cdrom: bool,
    /// No writes.
    pub read_only: bool,
    /// The image; none for an empty CD drive.
    pub file: Option<String>,
    /// Its format; never guessed.
    pub format: ImageFormat,
    /// QMP's name for it.
    pub id: String,
    /// What else is said of a disk.
    pub properties: Properties,
}

impl MachineDrive {
    /// From a `-drive`.
    pub fn parse(options: &Options) -> Result<Self, &'static str> {
        let format = match options.get("format") {
            None | Some("raw" | "host_device") => ImageFormat::Raw,
            Some("qcow2") => ImageFormat::Qcow2,
            Some(_) => return Err("this image format is not supported (raw and qcow2 are)"),
        };
        // Writes are acknowledged when the host's page cache has them, FLUSH waits for the medium; nothing else is offered.
        if !matches!(options.get("cache"), None | Some("writeback")) {
            return Err("cache= is writeback");
        }
        let interface = options.get("if").unwrap_or("ide");
        let media = options.get("media").unwrap_or("disk");
        // Two spellings of one key.
        let read_only = options.flag("readonly", false).zip(options.flag("read-only", false));
        let read_only = read_only.map(|(a, b)| a || b).ok_or("readonly is on or off")?;
        let index =
            options.get("index").map(|i| i.parse::<u8>().ok().filter(|i| *i < 4)).map(|i| i.ok_or("index is 0 to 3"));
        let index = index.transpose()?;
        let file = options.get("file").filter(|f| !f.is_empty()).map(str::to_owned);
        let properties = Properties::default();
        match interface {
            "ide" => {
                let index = index.ok_or("index= is missing")?;
                let cdrom = media == "cdrom";
                if file.is_none() && !cdrom {
                    return Err("a disk needs file=");
                }
                let id = format!("ide{}-{}{}", index / 2, if cdrom { "cd" } else { "hd" }, index % 2);
                Ok(Self {
                    at: Some(DriveId::ide(index)),
                    cdrom,
                    read_only: read_only || cdrom,
                    file,
                    format,
                    id,
                    properties,
                })
            }
            "none" => {
                let id = options.get("id").ok_or("id= is missing")?.to_owned();
                // What it is, its -device says.
                Ok(Self { at: None, cdrom: media == "cdrom", read_only, file, format, id, properties })
            }
            _ => Err("if= is ide or none"),
        }
    }
}

/// Which files an image may be based on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// Any that it names.
    #[default]
    Any,
    /// Those in the directory of the guest's image, or below.
    Directory,
    /// None.
    None,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Which.
    pub model: NicModel,
    /// libxl's number of it: `nic0`.
    pub index: u8,
    /// Its address.
    pub mac: [u8; 6],
    /// Its other end.
    pub end: NicOther,
    /// What the guest is told when it asks by DHCP.
    pub lease: Option<NicLease>,
    /// The cable, and what may go out of it.
    pub settings: NicSettings,
}

/// What a card's cable leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NicOther {
    /// A tap of this name; in a stub domain the interface that has the card's address.
    Tap(String),
    /// A tap that the toolstack has opened.
    OpenTap(RawFd),
    /// The Unix socket at this path, with QEMU's framing.
    Stream(String),
}

/// Parses an address in hexadecimal, with colons between its bytes.
pub fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|b| (b.len() == 2).then(|| u8::from_str_radix(b, 16).ok()).flatten()).collect();
    // A group's address is no card's.
    <[u8; 6]>::try_from(bytes?).ok().filter(|[first, ..]| first & 1 == 0)
}

/// A Linux kernel that the firmware boots directly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// The kernel's file.
    pub file: String,
    /// The ramdisk's file.
    pub initrd: Option<String>,
    /// The command line.
    pub command_line: String,
}

/// The display adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Video {
    /// MiB of video RAM, a power of two.
    pub mib: u32,
}

impl Default for Video {
    fn default() -> Self {
        Self { mib: 16 }
    }
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

/// The VNC server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vnc {
    /// Where it listens.
    pub at: VncAddress,
    /// If that port is taken, the next ones up to this.
    pub last: u16,
    /// Viewers are asked for a password.
    pub password: bool,
}

impl Vnc {
    /// Keys that change nothing here: how pictures are packed, what keys of a viewer's lock do, how long a key is down.
    pub const IGNORED: &[&str] = &[
        "lock-key-sync",
        "lossy",
        "non-adaptive",
        "key-delay-ms",
        "power-control",
        "audiodev",
        "id",
        "display",
        "head",
    ];
    /// Ports begin here: display 0.
    const FIRST: u16 = 5900;

    /// `HOST:DISPLAY[,to=N][,password=on]` or `unix:PATH`, as QEMU has it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (place, keys) = text.split_once(',').map_or((text, None), |(p, k)| (p, Some(k)));
        let (mut last, mut password) = (None, false);
        for key in keys.into_iter().flat_map(|k| k.split(',')) {
            match key.split_once('=').unwrap_or((key, "on")) {
                ("to", n) => last = Some(n.parse::<u16>().map_err(|_| "to= is the number of a display")?),
                ("password", "on") => password = true,
                ("password", "off") => password = false,
                // What is so here anyway.
                ("share", "allow-exclusive") => {}
                ("websocket" | "sasl" | "tls-creds" | "tls-authz" | "acl", "off") => {}
                (key, _) if Self::IGNORED.contains(&key) => {}
                _ => return Err("to= and password= are known; there is no encryption and no WebSocket"),
            }
        }
        if let Some(path) = place.strip_prefix("unix:") {
            return Ok(Self { at: VncAddress::Unix(path.to_owned()), last: 0, password });
        }
        let (host, display) = place.rsplit_once(':').ok_or("HOST:DISPLAY, unix:PATH or none")?;
        let port = |n: u16| n.checked_add(Self::FIRST).ok_or("no such display");
        let first = port(display.parse().map_err(|_| "the display is no number")?)?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let ipv6 = bare.is_some();
        Ok(Self {
            at: VncAddress::Tcp { host: bare.unwrap_or(host).to_owned(), port: first, ipv6 },
            last: last.map_or(Ok(first), port)?,
            password,
        })
    }
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The guest.
    pub domid: Option<u16>,
    /// Its name.
    pub name: String,
    /// vCPUs that it can have.
    pub vcpus: u16,
    /// vCPUs that it starts with.
    pub online: u16,
    /// RAM.
    pub memory_mib: u64,
    /// QMP servers.
    pub monitors: Vec<Monitor>,
    /// Serial ports, from COM1.
    pub serials: Vec<Serial>,
    /// Display adapter.
    pub video: Option<Video>,
    /// The USB controller, and what is plugged into it.
    pub usb: Option<Vec<UsbDevice>>,
    /// Where it is, if not in the PIIX3: PCI device and function.
    pub usb_at: Option<(u8, u8)>,
    /// The server for VNC viewers.
    pub vnc: Option<Vnc>,
    /// Keyboard layout for viewers that tell characters only.
    pub layout: String,
    /// Boot order: QEMU's letters.
    pub boot: String,
    /// -no-fd-bootchk.
    pub unsigned_floppy: bool,
    /// The firmware's menu.
    pub menu: BootMenu,
    /// A kernel to boot.
    pub kernel: Option<Kernel>,
    /// Drives.
    pub drives: Vec<MachineDrive>,
    /// Network cards, in the order of their devices.
    pub nics: Vec<Nic>,
    /// The xen-platform device.
    pub xen_platform: bool,
    /// -S.
    pub stopped: bool,
    /// libxl only wants to know what the program can.
    pub probe: bool,
    /// There are no emulated devices: PV back ends are served for a domain that others have made.
    pub attach: bool,
    /// The simulated machine in place of Xen.
    pub sim: Option<Sim>,
    /// The sandbox's level; `None`: the highest that the kernel has.
    pub level: Option<Level>,
    /// Which files images may be based on.
    pub backing: Backing,
    /// What becomes of writes that an image has no room for.
    pub full: WhenFull,
    /// Where the threads that carry out register accesses run.
    pub placement: Placement,
    /// The user that everything runs as: a name, or user and group by number.
    pub user: Option<String>,
    /// The directory that an empty root directory is mounted on.
    pub chroot: Option<String>,
    /// Where this process' number is written.
    pub pid_file: Option<String>,
}

/// Where the firmware looks without `-boot`: disk, floppy, CD. It is QEMU's order for a PC.
const DEFAULT_BOOT: &str = "cad";

impl Default for Machine {
    fn default() -> Self {
        Self {
            domid: None,
            name: "guest".to_owned(),
            vcpus: 1,
            online: 1,
            memory_mib: 128,
            monitors: Vec::new(),
            serials: Vec::new(),
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
            probe: false,
            attach: false,
            sim: None,
            level: None,
            backing: Backing::Any,
            full: WhenFull::Report,
            placement: Placement::Together,
            user: None,
            chroot: None,
            pid_file: None,
        }
    }
}

impl Machine {
    /// Adds a drive, unless its place is taken.
    pub fn add_drive(&mut self, drive: MachineDrive) -> Result<(), &'static str> {
        if self.drives.iter().any(|d| d.at == drive.at) {
            return Err("two drives in one place");
        }
        self.drives.push(drive);
        Ok(())
    }
}
