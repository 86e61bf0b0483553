//! The IDE controller, and images of drives.
use super::DeviceKind;
use super::Machine;
use super::disk::{self, Properties};
use super::host::{Host, Part};
use super::option::{
    ArgumentError, Arguments, Fate, Given, Group, Keys, OptionSpec, XENOPSD, keys, number, option, wrong,
};
use crate::failure::Failure;
use crate::intake::{IntakeFault, Look};
use crate::options::Options;
use Fate::{Implemented, Refused};
use bulkhead_bus::WhenFull;
use bulkhead_plan::intake::{Answer, BackingFormat, HeaderError, Question};
use bulkhead_plan::{DeviceConfig, DriveConfig, DriveId, FdUse, ImageFormat, kind};
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::path::{Path, PathBuf};

pub(super) static DEVICE: DeviceKind = DeviceKind {
    kinds: &[&kind::IDE],
    arguments: Group { options: OPTIONS, keys: KEYS, arguments: || Box::new(Drives::default()) },
    open,
};

const OPTIONS: &[OptionSpec] = &[
    option("drive", Implemented("if=ide or none, format=raw, host_device or qcow2, cache=writeback"), "disk"),
    option("device ide-cd", Implemented("on bus ide.0 or ide.1"), "disk, devtype=cdrom"),
    option(
        "device ide-hd",
        Implemented("on bus ide.0 or ide.1; serial, ver, model, cyls with heads and secs, bios-chs-trans"),
        XENOPSD,
    ),
    option(
        "global",
        Implemented(
            "ide-hd.KEY=VALUE with the keys of -device ide-hd, for all disks; other devices' revisions and subsystem numbers are as without",
        ),
        XENOPSD,
    ),
    option(
        "image-backing",
        Implemented(
            "files that an image may be based on: any, directory (of the guest's image, or below), none; not QEMU's",
        ),
        "",
    ),
    option(
        "image-full",
        Implemented(
            "a write that the host has no room for: report it to the guest, or stop (it waits until there is room); not QEMU's",
        ),
        "",
    ),
    option("device ahci", Refused("AHCI (hdtype=\"ahci\")"), "hdtype=\"ahci\""),
    option("device lsi53c895a", Refused("SCSI disks (sd*)"), "disk sd*"),
    option("device scsi-hd", Refused("SCSI disks (sd*)"), "disk sd*"),
];

const KEYS: &[Keys] = &[
    keys(
        "drive",
        &["file", "if", "index", "media", "format", "readonly", "read-only", "id", "cache"],
        // Discards always reach the image, and an image is never opened again with other rights.
        &["auto-read-only", "discard", "detect-zeroes"],
    ),
    // Properties of disks, which have no effect on a CD.
    keys("device ide-cd", &["driver", "id", "drive", "bus", "unit"], &["bios-chs-trans", "bootindex", "ver"]),
    keys(
        "device ide-hd",
        &["driver", "id", "drive", "bus", "unit", "serial", "ver", "model", "cyls", "heads", "secs", "bios-chs-trans"],
        &["bootindex"],
    ),
];

/// Most images in the chain below one.
const MAX_DEPTH: usize = 8;

/// A disk or CD drive, as the arguments describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineDrive {
    /// Controller and port; `None` until a `-device` names them.
    pub at: Option<DriveId>,
    /// A CD-ROM drive.
    pub cdrom: bool,
    /// The guest cannot write.
    pub read_only: bool,
    /// Path of the image; `None` for an empty CD drive.
    pub file: Option<String>,
    /// The image's format, which is never guessed.
    pub format: ImageFormat,
    /// The drive's name in QMP.
    pub id: String,
    /// Identity and geometry of a disk.
    pub properties: Properties,
}

impl MachineDrive {
    /// Parses `-drive`.
    pub fn parse(options: &Options) -> Result<Self, &'static str> {
        let format = match options.get("format") {
            None | Some("raw" | "host_device") => ImageFormat::Raw,
            Some("qcow2") => ImageFormat::Qcow2,
            Some(_) => return Err("this image format is not supported (raw and qcow2 are)"),
        };
        // A write completes in the host's page cache, and FLUSH waits for the medium: that is writeback, the only mode.
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
                // `-device` says whether it is a CD.
                Ok(Self { at: None, cdrom: media == "cdrom", read_only, file, format, id, properties })
            }
            _ => Err("if= is ide or none"),
        }
    }
}

/// Files that are allowed as backing files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// Any file that the image names.
    #[default]
    Any,
    /// Files in the directory of the guest's image or below.
    Directory,
    /// No file.
    None,
}

/// Drives, until all arguments are parsed.
#[derive(Default)]
struct Drives {
    /// Drives without a `-device` yet.
    unplaced: Vec<MachineDrive>,
    /// Properties of all disks, from `-global ide-hd.…`.
    of_all: Properties,
}

impl Arguments for Drives {
    fn take(&mut self, given: &mut Given, machine: &mut Machine) -> Result<(), ArgumentError> {
        match (given.name.as_str(), given.value.as_str()) {
            ("drive", _) => {
                let drive = MachineDrive::parse(&given.options).map_err(|why| given.bad(why))?;
                if drive.at.is_none() {
                    self.unplaced.push(drive);
                } else {
                    add(machine, drive).map_err(|why| given.bad(why))?;
                }
            }
            ("device", _) => {
                let drive = self.place(given)?;
                add(machine, drive).map_err(|why| given.bad(why))?;
            }
            ("global", value) => match value.strip_prefix("ide-hd.").map(|p| Options::parse(&format!("ide-hd,{p}"))) {
                Some(property) if property.pairs.iter().all(|(key, _)| Properties::KEYS.contains(&key.as_str())) => {
                    self.of_all.take(&property).map_err(|why| given.bad(why))?;
                }
                _ => given.notes.push(format!("{}: ignored", given.shown)),
            },
            ("image-backing", "any") => machine.backing = Backing::Any,
            ("image-backing", "directory") => machine.backing = Backing::Directory,
            ("image-backing", "none") => machine.backing = Backing::None,
            ("image-backing", _) => return Err(given.bad("any, directory or none")),
            ("image-full", "report") => machine.full = WhenFull::Report,
            ("image-full", "stop") => machine.full = WhenFull::Stop,
            _ => return Err(given.bad("report or stop")),
        }
        Ok(())
    }

    fn finish(&mut self, machine: &mut Machine) -> Result<Vec<String>, ArgumentError> {
        if let Some(drive) = self.unplaced.first() {
            return Err(wrong("drive", &drive.id, "no -device ide-cd or ide-hd refers to it"));
        }
        for disk in machine.drives.iter_mut().filter(|d| !d.cdrom) {
            let own = std::mem::replace(&mut disk.properties, self.of_all.clone());
            disk.properties.overlay(own);
        }
        Ok(Vec::new())
    }
}

impl Drives {
    /// Takes the drive that a `-device ide-cd` or `ide-hd` refers to, and gives it its place.
    fn place(&mut self, given: &Given) -> Result<MachineDrive, ArgumentError> {
        let (options, bad) = (&given.options, |why: &str| given.bad(why));
        let (bus, unit) = (options.get("bus"), options.get("unit").and_then(number::<u8>));
        let bus = bus.and_then(|b| b.strip_prefix("ide.")).and_then(number::<u8>);
        let id = options.get("drive").unwrap_or("");
        let at = self.unplaced.iter().position(|d| d.id == id).ok_or(bad("there is no such drive"))?;
        let (Some(bus @ 0..=1), Some(unit @ 0..=1)) = (bus, unit) else {
            return Err(bad("bus is ide.0 or ide.1, unit 0 or 1"));
        };
        let mut drive = self.unplaced.swap_remove(at);
        drive.cdrom = options.head("driver") == Some("ide-cd");
        if !drive.cdrom {
            drive.properties.take(options).map_err(bad)?;
        }
        drive.read_only |= drive.cdrom;
        if drive.file.is_none() && !drive.cdrom {
            return Err(bad("a disk needs file="));
        }
        drive.at = Some(DriveId::ide(bus.wrapping_mul(2).wrapping_add(unit)));
        options.get("id").unwrap_or(id).clone_into(&mut drive.id);
        Ok(drive)
    }
}

/// Adds a drive; an error if its place is taken.
fn add(machine: &mut Machine, drive: MachineDrive) -> Result<(), &'static str> {
    if machine.drives.iter().any(|d| d.at == drive.at) {
        return Err("two drives in one place");
    }
    machine.drives.push(drive);
    Ok(())
}

/// The IDE controller with the machine's emulated drives.
pub fn open(host: &mut Host) -> Result<Vec<Part>, Failure> {
    let machine = host.machine;
    let (mut drives, mut kept) = (Vec::new(), Vec::new());
    for drive in &machine.drives {
        let (fds, config) = self::drive(drive, machine.backing, machine.full, &host.intake)?;
        kept.extend(fds);
        drives.push(config);
    }
    kept.push(host.memory()?);
    if let Some(faults) = machine.sim.as_ref().and_then(|s| s.faults) {
        for _ in &drives {
            kept.push((FdUse::Faults, host.sim(faults)?));
        }
    }
    Ok(vec![Part { kept, ..Part::new(DeviceConfig::Ide { drives }) }])
}

/// Opens and locks an image. `writable`: for this guest alone; otherwise shared with other readers.
fn image(path: &Path, writable: bool) -> Result<OwnedFd, ImageFault> {
    let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
    let fd = rustix::fs::open(path, access | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()).map_err(|e| {
        if e == rustix::io::Errno::ROFS || e == rustix::io::Errno::ACCESS {
            ImageFault::Access { access: if writable { "writing" } else { "reading" }, source: e.into() }
        } else {
            ImageFault::System(e.into())
        }
    })?;
    let stat = rustix::fs::fstat(&fd).map_err(ImageFault::errno)?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, rustix::fs::FileType::RegularFile | rustix::fs::FileType::BlockDevice) {
        return Err(ImageFault::NoImage);
    }
    rustix::io::ioctl_fionbio(&fd, false).map_err(ImageFault::errno)?;
    let lock = if writable { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
    rustix::fs::flock(&fd, lock).map_err(|_| ImageFault::Locked)?;
    Ok(fd)
}

/// Opens the image of a drive and its backing files; also returns the drive's configuration. `intake` looks into them.
pub fn drive(
    drive: &MachineDrive,
    backing: Backing,
    full: WhenFull,
    intake: &dyn Look,
) -> Result<(Vec<(FdUse, OwnedFd)>, DriveConfig), Failure> {
    let at = drive.at.unwrap_or(DriveId::PV);
    let mut config = DriveConfig {
        at,
        cdrom: drive.cdrom,
        read_only: drive.read_only,
        size: None,
        id: drive.id.clone(),
        file: drive.file.clone(),
        formats: Vec::new(),
        full,
        identity: drive.properties.identity.clone(),
        geometry: None,
    };
    let Some(file) = &drive.file else { return Ok((Vec::new(), config)) };
    let mut name = if drive.cdrom { ImageName::Cd(file.clone()) } else { ImageName::Disk(file.clone()) };
    let (mut path, mut format) = (PathBuf::from(file), drive.format);
    let mut fds = Vec::new();
    loop {
        let depth = fds.len();
        let fail = |fault| Failure::Image { image: name.clone(), fault };
        let fail_system = |e| fail(ImageFault::errno(e));
        let fd = image(&path, depth == 0 && !drive.read_only).map_err(fail)?;
        config.formats.push(format);
        let (size, below) = match format {
            ImageFormat::Raw => (rustix::fs::seek(&fd, rustix::fs::SeekFrom::End(0)).map_err(fail_system)?, None),
            ImageFormat::Qcow2 => {
                let answer = intake.look(&fd, Question::Header).map_err(|e| fail(ImageFault::Intake(e)))?;
                let Answer::Header(header) = answer else { return Err(fail(ImageFault::Intake(IntakeFault::Answer))) };
                let header = header.map_err(|e| fail(ImageFault::Header(e)))?;
                (header.size, header.backing)
            }
        };
        if depth == 0 {
            if size < 512 {
                return Err(fail(ImageFault::TooSmall { bytes: size }));
            }
            config.size = Some(size);
            if !drive.cdrom {
                // A qcow2 image is not read so far that its first sector is found.
                let known = format == ImageFormat::Raw && drive.properties.chs.is_none();
                let sectors = size.div_euclid(disk::SECTOR);
                let answer = known.then(|| intake.look(&fd, Question::Partitions { sectors })).transpose();
                let partitioned = match answer.map_err(|e| fail(ImageFault::Intake(e)))? {
                    Some(Answer::Partitions(partitioned)) => partitioned,
                    _ => None,
                };
                config.geometry = Some(drive.properties.geometry(at.port, size, partitioned));
            }
        }
        fds.push((if depth == 0 { FdUse::Drive(at) } else { FdUse::Backing(at, depth as u8) }, fd));
        let Some((below, stated)) = below else { return Ok((fds, config)) };
        if fds.len() > MAX_DEPTH {
            return Err(fail(ImageFault::TooDeep));
        }
        format = match stated {
            BackingFormat::Known(format) => format,
            BackingFormat::Other => return Err(fail(ImageFault::BackingFormat { backing: below })),
            // A guessed format is unsafe: a guest can write another format's header into a raw image.
            BackingFormat::Unnamed => return Err(fail(ImageFault::NoBackingFormat { backing: below })),
        };
        // Relative to the image that names it. "nbd:…" and the like are paths here and name no file.
        path = path.parent().unwrap_or(Path::new("")).join(&below);
        name = ImageName::Backing(path.clone());
        let fail = |fault| Failure::Image { image: name.clone(), fault };
        let allowed = match backing {
            Backing::Any => true,
            Backing::None => false,
            Backing::Directory => {
                let real = |p: &Path| std::fs::canonicalize(p).map_err(|e| fail(ImageFault::System(e)));
                let top = real(Path::new(file))?;
                real(&path)?.starts_with(top.parent().unwrap_or(Path::new("/")))
            }
        };
        if !allowed {
            return Err(fail(ImageFault::NotAllowed { image: file.clone() }));
        }
    }
}

/// An image in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageName {
    /// A disk's own image.
    Disk(String),
    /// A CD.
    Cd(String),
    /// An image that another one is based on.
    Backing(PathBuf),
}

impl std::fmt::Display for ImageName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Disk(path) => write!(f, "disk image {path}"),
            Self::Cd(path) => write!(f, "CD image {path}"),
            Self::Backing(path) => write!(f, "backing file {}", path.display()),
        }
    }
}

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageFault {
    /// Its file system or its permissions forbid what the drive needs.
    #[error("cannot be opened for {access}: {source}")]
    Access {
        /// `reading` or `writing`.
        access: &'static str,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// A call of the kernel fails.
    #[error("{0}")]
    System(#[source] std::io::Error),
    /// A directory, a device for characters, a FIFO, a socket.
    #[error("neither a file nor a block device")]
    NoImage,
    /// Another guest or qemu-img uses it.
    #[error("locked by another process")]
    Locked,
    /// Its qcow2 header.
    #[error(transparent)]
    Header(HeaderError),
    /// Nobody has looked into it.
    #[error(transparent)]
    Intake(IntakeFault),
    /// Less than one sector.
    #[error("{bytes} bytes are no disk")]
    TooSmall {
        /// Bytes of the image.
        bytes: u64,
    },
    /// The chain of backing files is too long.
    #[error("more than {} images below the first", MAX_DEPTH)]
    TooDeep,
    /// Its backing file has a format that is not supported.
    #[error("its backing file {backing} has another format than raw and qcow2")]
    BackingFormat {
        /// The backing file, as the header names it.
        backing: String,
    },
    /// Its header does not name the format of its backing file.
    #[error(
        "it does not tell the format of its backing file {backing}, and none is guessed (qemu-img rebase -u -F FORMAT -b {backing})"
    )]
    NoBackingFormat {
        /// The backing file, as the header names it.
        backing: String,
    },
    /// `-image-backing` forbids this backing file.
    #[error("the host's settings do not let {image} be based on it (-image-backing)")]
    NotAllowed {
        /// The disk's own image.
        image: String,
    },
}

impl ImageFault {
    fn errno(e: rustix::io::Errno) -> Self {
        Self::System(e.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::disk::Properties;

    fn fault(file: &str) -> ImageFault {
        let drive = MachineDrive {
            at: Some(DriveId::ide(0)),
            cdrom: false,
            read_only: true,
            file: Some(file.to_owned()),
            format: ImageFormat::Raw,
            id: "x".to_owned(),
            properties: Properties::default(),
        };
        struct Nobody;
        impl Look for Nobody {
            fn look(&self, _: &OwnedFd, _: Question) -> Result<Answer, IntakeFault> {
                Err(IntakeFault::Answer)
            }
        }
        match super::drive(&drive, Backing::Any, WhenFull::Report, &Nobody) {
            Err(Failure::Image { image, fault }) if image == ImageName::Disk(file.to_owned()) => fault,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn faults_of_images_are_told_apart() {
        assert!(matches!(fault("/no/such/file"), ImageFault::System(e) if e.kind() == std::io::ErrorKind::NotFound));
        assert!(matches!(fault("/dev"), ImageFault::NoImage));
        assert!(matches!(fault("/dev/null"), ImageFault::NoImage));
        let memory = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memory, 511).unwrap();
        let file = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory));
        assert!(matches!(fault(&file), ImageFault::TooSmall { bytes: 511 }));
        rustix::fs::flock(&memory, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(matches!(fault(&file), ImageFault::Locked));
    }
}
