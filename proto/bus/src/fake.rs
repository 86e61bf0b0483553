//! Stand-ins for tests of devices.
use crate::{Context, DmaError, GuestMemory, Segment};
use rustix::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Guest memory in a vector, from address 0.
#[derive(Debug)]
pub struct FakeMemory(Mutex<Vec<u8>>);

impl FakeMemory {
    /// `len` bytes of zeroes.
    pub fn new(len: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(vec![0; len])))
    }

    fn with<T>(&self, address: u64, len: usize, f: impl FnOnce(&mut [u8]) -> T) -> Result<T, DmaError> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(address).map_err(|_| DmaError::NoRam(address))?;
        let end = start.checked_add(len).ok_or(DmaError::NoRam(address))?;
        bytes.get_mut(start..end).map(f).ok_or(DmaError::NoRam(address))
    }
}

impl GuestMemory for FakeMemory {
    fn read(&self, address: u64, to: &mut [u8]) -> Result<(), DmaError> {
        self.with(address, to.len(), |bytes| to.copy_from_slice(bytes))
    }
    fn write(&self, address: u64, from: &[u8]) -> Result<(), DmaError> {
        self.with(address, from.len(), |bytes| bytes.copy_from_slice(from))
    }
    fn read_file(&self, file: BorrowedFd<'_>, offset: u64, to: &[Segment]) -> Result<usize, DmaError> {
        let mut done = 0usize;
        for segment in to {
            let at = offset.saturating_add(done as u64);
            let n = self
                .with(segment.address, segment.len as usize, |bytes| rustix::io::pread(file, bytes, at))?
                .map_err(DmaError::File)?;
            done = done.saturating_add(n);
            if n < segment.len as usize {
                break;
            }
        }
        Ok(done)
    }
    fn write_file(&self, file: BorrowedFd<'_>, offset: u64, from: &[Segment]) -> Result<usize, DmaError> {
        let mut done = 0usize;
        for segment in from {
            let at = offset.saturating_add(done as u64);
            let n = self
                .with(segment.address, segment.len as usize, |bytes| rustix::io::pwrite(file, bytes, at))?
                .map_err(DmaError::File)?;
            done = done.saturating_add(n);
        }
        Ok(done)
    }
    fn invalidate(&self) {}
}

/// A context with `len` bytes of guest memory.
pub fn context(len: usize) -> Context {
    Context::new(FakeMemory::new(len))
}
