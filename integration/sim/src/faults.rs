//! Injected faults of the disks' storage: the shared table that `dev-blk/src/backend/faulty.rs` reads before each job.
use bulkhead_bus::faults::{FAULT_SIZE, FAULTS, Fault};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::io;

/// The shared table of injected faults.
#[derive(Debug)]
pub struct Faults(OwnedFd);

impl AsFd for Faults {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Faults {
    pub(crate) fn new() -> io::Result<Self> {
        // A file, as the disks' images are: no disk's process holds a memfd.
        let table = tempfile::tempfile()?;
        table.set_len(Self::at(FAULTS))?;
        Ok(Self(table.into()))
    }

    /// Duplicates the handle of the table.
    pub fn another(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    fn at(place: usize) -> u64 {
        place.saturating_mul(FAULT_SIZE) as u64
    }

    /// Sets or clears the fault in an entry of the table.
    pub fn set(&self, place: usize, fault: Option<Fault>) -> io::Result<()> {
        rustix::io::pwrite(&self.0, &fault.map_or([0; FAULT_SIZE], |f| f.to_bytes()), Self::at(place))?;
        Ok(())
    }

    /// The fault in an entry, with its counters.
    pub fn get(&self, place: usize) -> io::Result<Option<Fault>> {
        let mut bytes = [0; FAULT_SIZE];
        rustix::io::pread(&self.0, &mut bytes, Self::at(place))?;
        Ok(Fault::from_bytes(&bytes))
    }
}
