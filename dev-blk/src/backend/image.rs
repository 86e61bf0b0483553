//! An open image: raw, or qcow2 by the library imago on descriptors that the launcher has passed. It opens no files.
use super::error::{ImageError, Refusal};
use super::faulty::Faults;
use super::qcow2;
use super::room::Room;
use bulkhead_bus::WhenFull;
use imago::file::File;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{FormatAccess, ShallowMapping};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

/// An image's format. It comes from the configuration and is never probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The disk's bytes.
    Raw,
    /// QEMU's qcow2.
    Qcow2,
}

/// The storage of a disk's bytes.
pub(super) enum Content {
    Raw(OwnedFd),
    Formatted(Box<Mutex<Formatted>>),
}

/// The backing image of an image.
type Below = Option<Arc<FormatAccess<File>>>;

/// An image with tables. The library keeps changed tables in memory until a flush, which follows each job that has changed some.
pub(super) struct Formatted {
    access: FormatAccess<File>,
    unflushed: bool,
    /// The first image and its backing image, to be opened for writing at the guest's first write: opening it for writing changes
    /// its header.
    deferred: Option<(File, Below)>,
}

impl Formatted {
    pub(super) fn read(&self, data: &mut [u8], offset: u64) -> io::Result<()> {
        self.access.read(data, offset)
    }

    /// Opens the image for writing at the guest's first write.
    fn begin_writing(&mut self) -> io::Result<()> {
        if let Some((file, below)) = self.deferred.take() {
            self.access = open(file, Format::Qcow2, true, below).map_err(io::Error::other)?;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, data: &[u8], offset: u64) -> io::Result<()> {
        self.begin_writing()?;
        // A write to clusters that this image owns changes no tables.
        self.unflushed |= !self.in_place(offset, data.len() as u64);
        self.access.write(data, offset)
    }

    /// Whether tables have changed since the last flush.
    #[cfg(test)]
    pub(super) fn is_unflushed(&self) -> bool {
        self.unflushed
    }

    /// Whether all of this range is in clusters that this image owns.
    fn in_place(&self, offset: u64, len: u64) -> bool {
        let end = offset.saturating_add(len);
        let mut at = offset;
        while at < end {
            match self.access.get_shallow_mapping(at, end.saturating_sub(at)) {
                Ok((ShallowMapping::Raw { writable: true, .. }, n @ 1..)) => at = at.saturating_add(n),
                _ => return false,
            }
        }
        true
    }

    pub(super) fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.begin_writing()?;
        self.unflushed = true;
        self.access.discard_to_any(offset, len)
    }

    /// Writes changed tables to the file.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        if self.unflushed {
            self.access.flush()?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Makes data and tables durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.unflushed = true;
        self.settle()?;
        self.access.sync()
    }
}

/// An open image.
pub struct Image {
    pub(super) content: Content,
    pub(super) room: Room,
    pub(super) faults: Option<Faults>,
    size: u64,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self.content, Content::Raw(_)) { "raw" } else { "qcow2" };
        write!(f, "Image({kind}, {} bytes)", self.size)
    }
}

/// Opens an image with backing image `below`.
fn open(file: File, format: Format, writable: bool, below: Below) -> Result<FormatAccess<File>, Refusal> {
    Ok(match format {
        Format::Raw => FormatAccess::new(Raw::open_image(file, writable)?),
        Format::Qcow2 => {
            let mut image = Qcow2::<File, Arc<FormatAccess<File>>>::open_image(file, writable)?;
            // Without its backing image, unallocated clusters would read as zeroes.
            if image.implicit_backing_file().is_some() != below.is_some() || image.requires_external_data_file() {
                return Err(Refusal::Base);
            }
            image.set_backing(below);
            FormatAccess::new(image)
        }
    })
}

/// The files of a chain of images, each with the next one as backing image. The guest writes to the first; only it may be open for
/// writing. The library asks the kernel about a file when it takes it; what is in the files is read by [`Chain::open`] alone.
#[derive(Debug)]
pub struct Chain {
    layers: Vec<Layer>,
    writable: bool,
}

/// A file of a chain.
#[derive(Debug)]
struct Layer {
    fd: OwnedFd,
    format: Format,
    file: File,
    /// The same file, for the first image's opening for writing.
    again: Option<File>,
}

impl Chain {
    /// Takes the files of a chain.
    ///
    /// # Errors
    /// A file is neither a regular file nor a block device, or the kernel refuses to describe it.
    pub fn new(files: Vec<(OwnedFd, Format)>, writable: bool) -> Result<Self, ImageError> {
        let file = |fd: &OwnedFd| {
            let copy = rustix::io::fcntl_dupfd_cloexec(fd, 0)?;
            Ok(File::try_from(std::fs::File::from(copy))?)
        };
        let layer = |(number, (fd, format)): (usize, (OwnedFd, Format))| {
            let of = |why| ImageError::InChain { number, why };
            let again = (writable && number == 0).then(|| file(&fd)).transpose().map_err(of)?;
            Ok(Layer { file: file(&fd).map_err(of)?, again, fd, format })
        };
        let layers = files.into_iter().enumerate().map(layer).collect::<Result<_, ImageError>>()?;
        Ok(Self { layers, writable })
    }

    /// Reads the images' headers and tables.
    ///
    /// # Errors
    /// An image of the chain is refused.
    pub fn open(self) -> Result<Image, ImageError> {
        let mut access: Option<FormatAccess<File>> = None;
        let mut deferred = None;
        for (number, Layer { fd, format, file, again }) in self.layers.into_iter().enumerate().rev() {
            let of = |why: Refusal| ImageError::InChain { number, why };
            let mut writable = self.writable && number == 0;
            let below: Below = access.take().map(Arc::new);
            if format == Format::Qcow2 && qcow2::inspect(&fd, writable).map_err(of)?.auto_clear && writable {
                deferred = again.map(|again| (again, below.clone()));
                writable = false;
            }
            access = Some(open(file, format, writable, below).map_err(of)?);
        }
        let access = access.ok_or(ImageError::None)?;
        let size = access.size();
        Ok(Image {
            content: Content::Formatted(Box::new(Mutex::new(Formatted { access, unflushed: false, deferred }))),
            room: Room::default(),
            faults: None,
            size,
        })
    }
}

/// The errno of an error of the library, or EIO.
pub(super) fn errno(e: &std::io::Error) -> Errno {
    e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

impl Image {
    /// A raw file or block device with `size` bytes.
    pub fn raw(file: OwnedFd, size: u64) -> Self {
        Self { content: Content::Raw(file), room: Room::default(), faults: None, size }
    }

    /// Sets how writes fail when the storage is full; by default they return an error.
    #[must_use]
    pub fn when_full(self, when_full: WhenFull) -> Self {
        Self { room: Room::new(when_full), ..self }
    }

    /// Injects the faults for drive `drive` in the simulated machine's `table`.
    #[must_use]
    pub fn with_faults(self, table: OwnedFd, drive: u8) -> Self {
        Self { faults: Some(Faults::new(table, drive)), ..self }
    }

    /// Lets a write that waits for space fail, because the guest has reset the drive.
    pub fn give_up(&self) {
        self.room.give_up();
    }

    /// Lets no write that waits for space be tried again while `held`: the machine is stopped.
    pub fn hold(&self, held: bool) {
        self.room.hold(held);
    }

    /// Number of jobs that wait for space and are held: nothing of them is written.
    pub fn held(&self) -> usize {
        self.room.held()
    }

    /// Clears an earlier [`Self::give_up`]; every executor calls it before a job.
    pub(crate) fn begin(&self) {
        self.room.begin();
    }

    /// Waits after a write has failed for lack of space. True if the write is to be tried again.
    pub(crate) fn wait_for_room(&self) -> bool {
        self.room.wait()
    }

    /// Whether a write waits for space.
    pub fn waits(&self) -> bool {
        self.room.waits()
    }

    /// A new medium of a CD-ROM drive: a file or a block device with at least one CD sector.
    ///
    /// # Errors
    /// The file is neither, or too small.
    pub fn medium(file: OwnedFd) -> Result<Self, ImageError> {
        use rustix::fs::FileType;
        let failed = ImageError::medium;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&file).map_err(failed)?.st_mode);
        if !matches!(kind, FileType::RegularFile | FileType::BlockDevice) {
            return Err(ImageError::MediumKind);
        }
        let size = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(failed)?;
        if size < 2048 {
            return Err(ImageError::MediumSize(size));
        }
        Ok(Self::raw(file, size))
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Locks the library's image, even if a thread has panicked while it held the lock.
pub(super) fn locked(access: &Mutex<Formatted>) -> MutexGuard<'_, Formatted> {
    access.lock().unwrap_or_else(PoisonError::into_inner)
}
