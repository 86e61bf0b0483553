//! Opens images of disks and CDs, with the files that they are based on.
use super::disk;
use super::drives::MachineDrive;
use super::qcow2;
use crate::failure::Failure;
use crate::intake::{IntakeFault, Look};
use bulkhead_bus::WhenFull;
use bulkhead_plan::intake::{Answer, BackingFormat, HeaderError, Question};
use bulkhead_plan::{DriveConfig, DriveId, FdUse, ImageFormat};
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use std::path::{Path, PathBuf};

/// Most images in the chain below one.
const MAX_DEPTH: usize = 8;

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

/// Rules for the images of a machine's disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageRules {
    /// Backing files that an image may name.
    pub backing: Backing,
    /// How a write fails when the host's storage is full.
    pub full: WhenFull,
    /// Most bytes of a qcow2 image's file, whatever its header says; a file that is larger already does not grow.
    pub limit: Option<u64>,
}

/// Where the launcher may write while the guest runs: the images of disks that are added lie there (`-image-directories`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Writable {
    /// Everywhere.
    Any,
    /// In these directories, and in those of the images that the guest has when it starts.
    Directories(Vec<PathBuf>),
}

impl Default for Writable {
    fn default() -> Self {
        Self::Directories(Vec::new())
    }
}

impl Writable {
    /// From `any`, or absolute paths with colons between them.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text == "any" {
            return Some(Self::Any);
        }
        let paths: Vec<_> = text.split(':').map(PathBuf::from).collect();
        paths.iter().all(|p| p.is_absolute()).then_some(Self::Directories(paths))
    }
}

/// Where an open image is, if it may be written: its directory, or the block device itself.
pub(crate) fn place(image: &OwnedFd) -> Option<PathBuf> {
    if rustix::fs::fcntl_getfl(image).ok()? & OFlags::RWMODE == OFlags::RDONLY {
        return None;
    }
    let path = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(image))).ok()?;
    let stat = rustix::fs::fstat(image).ok()?;
    match FileType::from_raw_mode(stat.st_mode) {
        // It has no name any more: the link says another one.
        _ if stat.st_nlink == 0 => None,
        FileType::RegularFile => path.parent().map(Path::to_path_buf).filter(|p| p.is_absolute()),
        FileType::BlockDevice => Some(path),
        _ => None,
    }
}

/// Opens and locks an image. `writable`: for this guest alone; otherwise shared with other readers.
fn image(path: &Path, writable: bool) -> Result<OwnedFd, ImageFault> {
    let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
    // An image may name any file as its backing file. To open some devices is to use them, so the kind is looked at before.
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(ImageFault::errno)?;
    let stat = rustix::fs::fstat(&place).map_err(ImageFault::errno)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::BlockDevice) {
        return Err(ImageFault::NoImage);
    }
    let fd = reopen(&place, access | OFlags::NONBLOCK | OFlags::NOCTTY).map_err(|e| {
        if writable && e == rustix::io::Errno::ACCESS && rustix::process::geteuid().is_root() {
            ImageFault::OutOfReach
        } else if e == rustix::io::Errno::ROFS || e == rustix::io::Errno::ACCESS {
            ImageFault::Access { access: if writable { "writing" } else { "reading" }, source: e.into() }
        } else {
            ImageFault::System(e.into())
        }
    })?;
    rustix::io::ioctl_fionbio(&fd, false).map_err(ImageFault::errno)?;
    let lock = if writable { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
    rustix::fs::flock(&fd, lock).map_err(|_| ImageFault::Locked)?;
    Ok(fd)
}

/// Opens an open file again, with other rights and an offset of its own.
pub(crate) fn reopen(file: &OwnedFd, access: OFlags) -> Result<OwnedFd, rustix::io::Errno> {
    let number = std::os::fd::AsRawFd::as_raw_fd(file);
    rustix::fs::open(format!("/proc/self/fd/{number}"), access | OFlags::CLOEXEC, Mode::empty())
}

/// A block device has its own end, whatever RLIMIT_FSIZE is.
fn is_block_device(fd: &OwnedFd) -> Result<bool, rustix::io::Errno> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice)
}

/// Opens the image of a drive and its backing files; also returns the drive's configuration. `intake` looks into them.
pub fn drive(
    drive: &MachineDrive,
    rules: &ImageRules,
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
        grows_to: 0,
        full: rules.full,
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
        let len = rustix::fs::seek(&fd, rustix::fs::SeekFrom::End(0)).map_err(fail_system)?;
        let (size, below, most) = match format {
            ImageFormat::Raw => (len, None, len),
            ImageFormat::Qcow2 => {
                let answer = intake.look(&fd, Question::Header).map_err(|e| fail(ImageFault::Intake(e)))?;
                let Answer::Header(header) = answer else { return Err(fail(ImageFault::Intake(IntakeFault::Answer))) };
                let header = header.map_err(|e| fail(ImageFault::Header(e)))?;
                let most = qcow2::grows_to(&header, len).min(rules.limit.unwrap_or(u64::MAX).max(len));
                (header.size, header.backing, most)
            }
        };
        if depth == 0 {
            config.grows_to = if drive.read_only || is_block_device(&fd).map_err(fail_system)? { 0 } else { most };
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
        let allowed = match rules.backing {
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
    /// Landlock, or a security module of the host, does not let root write there.
    #[error("its directory has none of the images that the guest started with; -image-directories names others")]
    OutOfReach,
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
    use bulkhead_plan::intake::Header;

    /// A look that finds a header of 4 GiB, and no partition.
    struct Fixed;
    impl Look for Fixed {
        fn look(&self, _: &OwnedFd, question: Question) -> Result<Answer, IntakeFault> {
            Ok(match question {
                Question::Header => {
                    Answer::Header(Ok(Header { size: 1 << 32, cluster_bits: 16, refcount_order: 4, backing: None }))
                }
                Question::Partitions { .. } => Answer::Partitions(None),
            })
        }
    }
    use crate::machine::disk::Properties;

    fn described(file: &str, format: ImageFormat, read_only: bool) -> MachineDrive {
        MachineDrive {
            at: Some(DriveId::ide(0)),
            cdrom: false,
            read_only,
            file: Some(file.to_owned()),
            format,
            id: "x".to_owned(),
            properties: Properties::default(),
        }
    }

    fn fault(file: &str) -> ImageFault {
        let drive = described(file, ImageFormat::Raw, true);
        match super::drive(&drive, &ImageRules::default(), &Fixed) {
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
    /// The path of a file in memory.
    fn path(memory: &OwnedFd) -> String {
        format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(memory))
    }

    /// Without it a compromised process could make any image as large as the host's disk.
    #[test]
    fn an_image_may_grow_as_far_as_its_disk_needs_it() {
        let memory = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memory, 1 << 20).unwrap();
        let grows_to = |format, read_only, rules: &ImageRules| {
            let (_fds, config) = drive(&described(&path(&memory), format, read_only), rules, &Fixed).unwrap();
            config.grows_to
        };
        let rules = ImageRules::default();
        assert_eq!(grows_to(ImageFormat::Raw, false, &rules), 1 << 20, "a raw image does not grow");
        assert_eq!(grows_to(ImageFormat::Raw, true, &rules), 0, "it is not written");
        let whole = grows_to(ImageFormat::Qcow2, false, &rules);
        assert!(
            whole > (1 << 32) + (1 << 20) && whole < (1 << 32) + (1 << 28),
            "4 GiB, tables and spare room: {whole}"
        );
        assert_eq!(grows_to(ImageFormat::Qcow2, true, &rules), 0);
        let limited = |limit| grows_to(ImageFormat::Qcow2, false, &ImageRules { limit: Some(limit), ..rules });
        assert_eq!(
            [limited(1 << 30), limited(1 << 40), limited(0)],
            [1 << 30, whole, 1 << 20],
            "it is not made smaller"
        );
    }
}
