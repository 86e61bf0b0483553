//! Opens images of disks and CDs, with the files that they are based on.
use super::disk;
use super::drives::MachineDrive;
use super::host::patiently;
use super::qcow2;
use crate::failure::Failure;
use crate::intake::{IntakeFault, Look};
use bulkhead_bus::WhenFull;
use bulkhead_plan::intake::{Answer, BackingFormat, HeaderError, Partitioned, Question};
use bulkhead_plan::{DriveConfig, DriveId, FdUse, ImageFormat};
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use std::path::{Path, PathBuf};
use std::time::Instant;

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
    /// Until when a lock is waited for, which the guest's former device model may hold.
    pub former: Option<Instant>,
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
fn image(path: &Path, writable: bool, former: Option<Instant>) -> Result<OwnedFd, ImageFault> {
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
    patiently(former, |e| *e == rustix::io::Errno::WOULDBLOCK, || rustix::fs::flock(&fd, lock))
        .map_err(|_| ImageFault::Locked)?;
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

/// The image of a drive and its backing files, and the drive's configuration.
pub(crate) type Images = (Vec<(FdUse, OwnedFd)>, DriveConfig);

/// Opens the image of a drive and its backing files; also returns the drive's configuration. `intake` looks into them.
pub fn drive(drive: &MachineDrive, rules: &ImageRules, intake: &dyn Look) -> Result<Images, Failure> {
    let mut opening = Opening::new(drive.clone(), *rules);
    let mut answer = None;
    while let Some(question) = opening.go_on(answer.take())? {
        answer = Some(opening.image().and_then(|image| intake.look(image, question)).map_err(|e| opening.fail(e))?);
    }
    Ok(opening.images())
}

/// The images of a drive that are being opened, each after the one that names it. Somebody else looks into them.
pub(crate) struct Opening {
    drive: MachineDrive,
    rules: ImageRules,
    config: DriveConfig,
    fds: Vec<(FdUse, OwnedFd)>,
    /// The image that is opened next, or looked into.
    at: Layer,
    /// What is asked about the last open image.
    asked: Option<Question>,
}

/// An image and how it is called.
struct Layer {
    path: PathBuf,
    name: ImageName,
    format: ImageFormat,
}

impl Opening {
    pub(crate) fn new(drive: MachineDrive, rules: ImageRules) -> Self {
        let config = DriveConfig {
            at: drive.at.unwrap_or(DriveId::PV),
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
        let file = drive.file.clone().unwrap_or_default();
        let name = if drive.cdrom { ImageName::Cd(file.clone()) } else { ImageName::Disk(file.clone()) };
        let at = Layer { path: PathBuf::from(file), name, format: drive.format };
        Self { drive, rules, config, fds: Vec::new(), at, asked: None }
    }

    /// Goes on with the answer to the last question, if there was one. Returns the next question, which is about [`Self::image`].
    /// `None`: all images are open.
    ///
    /// # Errors
    /// An image cannot be opened or used; the message names it.
    pub(crate) fn go_on(&mut self, answer: Option<Answer>) -> Result<Option<Question>, Failure> {
        if self.drive.file.is_none() {
            return Ok(None);
        }
        let mut below = match (self.asked.take(), answer) {
            (None, None) => return self.open(),
            (Some(_), Some(answer)) => self.has_looked(answer).map_err(|e| self.fail_image(e))?,
            _ => return Err(self.fail(IntakeFault::Answer)),
        };
        let Some((below, stated)) = below.take() else { return Ok(None) };
        self.descend(&below, stated)?;
        self.open()
    }

    /// The image that the last question is about.
    pub(crate) fn image(&self) -> Result<&OwnedFd, IntakeFault> {
        self.fds.last().map(|(_, fd)| fd).ok_or(IntakeFault::Answer)
    }

    /// The open images.
    pub(crate) fn images(self) -> Images {
        (self.fds, self.config)
    }

    /// A failure of the look into the last image.
    pub(crate) fn fail(&self, fault: IntakeFault) -> Failure {
        self.fail_image(ImageFault::Intake(fault))
    }

    fn fail_image(&self, fault: ImageFault) -> Failure {
        Failure::Image { image: self.at.name.clone(), fault }
    }

    /// Opens the next image, and says what must be known about it.
    fn open(&mut self) -> Result<Option<Question>, Failure> {
        self.asked = self.open_image().map_err(|fault| self.fail_image(fault))?;
        Ok(self.asked)
    }

    fn open_image(&mut self) -> Result<Option<Question>, ImageFault> {
        let (depth, at) = (self.fds.len(), self.config.at);
        let fd = image(&self.at.path, depth == 0 && !self.drive.read_only, self.rules.former)?;
        self.config.formats.push(self.at.format);
        let question = match self.at.format {
            ImageFormat::Qcow2 => Some(Question::Header),
            ImageFormat::Raw if depth > 0 => None,
            ImageFormat::Raw => {
                let len = length(&fd)?;
                self.has_size(&fd, len, len)?;
                let sectors = len.div_euclid(disk::SECTOR);
                let known = !self.drive.cdrom && self.drive.properties.chs.is_none();
                if !known {
                    self.has_geometry(len, None);
                }
                known.then_some(Question::Partitions { sectors })
            }
        };
        self.fds.push((if depth == 0 { FdUse::Drive(at) } else { FdUse::Backing(at, depth as u8) }, fd));
        Ok(question)
    }

    /// Takes what is known of the last image now. Returns its backing file's name and format, if it has one.
    fn has_looked(&mut self, answer: Answer) -> Result<Option<(String, BackingFormat)>, ImageFault> {
        let fd =
            rustix::io::fcntl_dupfd_cloexec(self.image().map_err(ImageFault::Intake)?, 0).map_err(ImageFault::errno)?;
        let first = self.fds.len() == 1;
        match answer {
            Answer::Header(header) => {
                let header = header.map_err(ImageFault::Header)?;
                if first {
                    let len = length(&fd)?;
                    let most = qcow2::grows_to(&header, len).min(self.rules.limit.unwrap_or(u64::MAX).max(len));
                    self.has_size(&fd, header.size, most)?;
                    // A qcow2 image is not read so far that its first sector is found.
                    self.has_geometry(header.size, None);
                }
                Ok(header.backing)
            }
            Answer::Partitions(partitioned) => {
                self.has_geometry(self.config.size.unwrap_or(0), partitioned);
                Ok(None)
            }
            // No image has been asked about that.
            Answer::State(_) => Err(ImageFault::Intake(IntakeFault::Answer)),
        }
    }

    /// The drive has this size in bytes, and its image's file grows so far.
    fn has_size(&mut self, fd: &OwnedFd, size: u64, most: u64) -> Result<(), ImageFault> {
        let limited = !self.drive.read_only && !is_block_device(fd).map_err(ImageFault::errno)?;
        self.config.grows_to = if limited { most } else { 0 };
        if size < 512 {
            return Err(ImageFault::TooSmall { bytes: size });
        }
        self.config.size = Some(size);
        Ok(())
    }

    fn has_geometry(&mut self, size: u64, partitioned: Option<Partitioned>) {
        if !self.drive.cdrom {
            self.config.geometry = Some(self.drive.properties.geometry(self.config.at.port, size, partitioned));
        }
    }

    /// The backing file `below`, whose format the image states, is the next one.
    fn descend(&mut self, below: &str, stated: BackingFormat) -> Result<(), Failure> {
        if self.fds.len() > MAX_DEPTH {
            return Err(self.fail_image(ImageFault::TooDeep));
        }
        let format = match stated {
            BackingFormat::Known(format) => format,
            BackingFormat::Other => {
                return Err(self.fail_image(ImageFault::BackingFormat { backing: below.to_owned() }));
            }
            // A guessed format is unsafe: a guest can write another format's header into a raw image.
            BackingFormat::Unnamed => {
                return Err(self.fail_image(ImageFault::NoBackingFormat { backing: below.to_owned() }));
            }
        };
        // Relative to the image that names it. "nbd:…" and the like are paths here and name no file.
        let path = self.at.path.parent().unwrap_or(Path::new("")).join(below);
        self.at = Layer { name: ImageName::Backing(path.clone()), path, format };
        if !self.is_allowed().map_err(|e| self.fail_image(ImageFault::System(e)))? {
            let image = self.drive.file.clone().unwrap_or_default();
            return Err(self.fail_image(ImageFault::NotAllowed { image }));
        }
        Ok(())
    }

    /// Whether the rules allow the next backing file.
    fn is_allowed(&self) -> std::io::Result<bool> {
        match (self.rules.backing, &self.drive.file) {
            (Backing::Any, _) => Ok(true),
            (Backing::Directory, Some(file)) => {
                let top = std::fs::canonicalize(file)?;
                Ok(std::fs::canonicalize(&self.at.path)?.starts_with(top.parent().unwrap_or(Path::new("/"))))
            }
            (Backing::Directory | Backing::None, _) => Ok(false),
        }
    }
}

/// Bytes of an image's file, or of a block device.
fn length(fd: &OwnedFd) -> Result<u64, ImageFault> {
    rustix::fs::seek(fd, rustix::fs::SeekFrom::End(0)).map_err(ImageFault::errno)
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
                Question::State => return Err(IntakeFault::Answer),
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

    /// After a reset in place the guest's former device model may still have its image.
    #[test]
    fn a_lock_that_is_given_back_meanwhile_is_waited_for() {
        let memory = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let place = path(&memory);
        // (A descriptor of its own: locks belong to open files.)
        let held = rustix::fs::open(place.as_str(), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
        rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
        let soon = Instant::now().checked_add(std::time::Duration::from_millis(50));
        assert!(matches!(image(Path::new(&place), true, soon), Err(ImageFault::Locked)));
        assert!(Some(Instant::now()) >= soon, "it is tried until then");
        let later = Instant::now().checked_add(std::time::Duration::from_secs(60));
        std::thread::scope(|s| {
            let waits = s.spawn(|| image(Path::new(&place), true, later));
            rustix::fs::flock(&held, FlockOperation::Unlock).unwrap();
            assert!(waits.join().unwrap().is_ok());
        });
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
