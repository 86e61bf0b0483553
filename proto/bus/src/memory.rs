//! Guest memory, as a device sees it: RAM by guest-physical address, copied in and out. There are no references into it, and only
//! RAM is reachable: DMA to a device's registers is impossible.
use rustix::fd::BorrowedFd;

/// A range of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address of the first byte.
    pub address: u64,
    /// Bytes.
    pub len: u32,
}

/// Why guest memory could not be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DmaError {
    /// A page of the range is not RAM.
    #[error("no RAM at {0:#x}")]
    NoRam(u64),
    /// Reading or writing the back end's file failed.
    #[error("file: {0}")]
    File(rustix::io::Errno),
    /// The device has no access to guest memory.
    #[error("this device has no guest memory")]
    None,
}

/// Guest memory. Implementations: foreign mappings (Xen), a memfd (the simulated machine), [`NoMemory`].
pub trait GuestMemory: Send + Sync {
    /// Copies guest memory to `to`.
    fn read(&self, address: u64, to: &mut [u8]) -> Result<(), DmaError>;

    /// Copies `from` to guest memory.
    fn write(&self, address: u64, from: &[u8]) -> Result<(), DmaError>;

    /// Reads a file at `offset` into guest memory. Returns the bytes read, fewer at the file's end.
    fn read_file(&self, file: BorrowedFd<'_>, offset: u64, to: &[Segment]) -> Result<usize, DmaError>;

    /// Writes guest memory to a file at `offset`. Returns the bytes written.
    fn write_file(&self, file: BorrowedFd<'_>, offset: u64, from: &[Segment]) -> Result<usize, DmaError>;

    /// Drops all mappings. Called only while no worker uses them.
    fn invalidate(&self);
}

/// For devices that have no DMA.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMemory;

impl GuestMemory for NoMemory {
    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), DmaError> {
        Err(DmaError::None)
    }
    fn write(&self, _: u64, _: &[u8]) -> Result<(), DmaError> {
        Err(DmaError::None)
    }
    fn read_file(&self, _: BorrowedFd<'_>, _: u64, _: &[Segment]) -> Result<usize, DmaError> {
        Err(DmaError::None)
    }
    fn write_file(&self, _: BorrowedFd<'_>, _: u64, _: &[Segment]) -> Result<usize, DmaError> {
        Err(DmaError::None)
    }
    fn invalidate(&self) {}
}
