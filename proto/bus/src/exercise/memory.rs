//! Guest memory of a run. It is small, so that a device and the input meet: an address outside of it means one inside. It is cleared
//! by pages and used again, because clearing a mebibyte costs more than most runs.
use crate::{DmaError, GuestMemory, Segment};
use rustix::fd::BorrowedFd;
use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

/// Bytes of guest memory, unless the subject needs more.
pub const MEMORY: usize = 1 << 16;
const PAGE: usize = 4096;
/// Most bytes of memory that is kept for later runs.
const LARGEST_KEPT: usize = 4 << 20;
/// Addresses from here to 4 GiB, where a PC has its firmware, are no RAM.
pub const HOLE: std::ops::Range<u64> = 0xfff0_0000..0x1_0000_0000;

thread_local! {
    /// Clean memory of earlier runs.
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// What a device has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The address that it gave.
    pub address: u64,
    /// The bytes that it got.
    pub bytes: Vec<u8>,
    /// They are not in memory: the pattern has filled them in.
    pub filled: bool,
}

#[derive(Debug, Default)]
struct Inner {
    bytes: Vec<u8>,
    /// Pages that were written.
    dirty: Vec<bool>,
    pattern: Vec<u8>,
    stride: u8,
    /// Reads that the pattern has filled.
    filled: u64,
    /// Calls since [`RunMemory::take_work`].
    calls: u64,
    /// Bytes moved since then.
    moved: u64,
    fetches: Option<Vec<Fetch>>,
    /// An address outside is no RAM, as on a machine.
    bounded: bool,
}

impl Inner {
    fn place(&self, address: u64, len: usize) -> Result<usize, DmaError> {
        let end = address.checked_add(len as u64).ok_or(DmaError::NoRam(address))?;
        if self.bounded {
            let at = usize::try_from(address).ok().filter(|_| end <= self.bytes.len() as u64);
            return at.ok_or(DmaError::NoRam(address));
        }
        if address < HOLE.end && end > HOLE.start {
            return Err(DmaError::NoRam(address));
        }
        // A range that begins in memory and ends outside of it begins earlier.
        let most = (self.bytes.len() as u64).checked_sub(len as u64).ok_or(DmaError::NoRam(address))?;
        let folded = address.checked_rem(self.bytes.len() as u64).unwrap_or(0);
        Ok(folded.min(most) as usize)
    }

    fn count(&mut self, len: usize) {
        self.calls = self.calls.saturating_add(1);
        self.moved = self.moved.saturating_add(len as u64);
    }

    fn write(&mut self, at: usize, from: &[u8]) {
        if let Some(to) = self.bytes.get_mut(at..at.saturating_add(from.len())) {
            to.copy_from_slice(from);
            self.touch(at, from.len());
        }
    }

    fn touch(&mut self, at: usize, len: usize) {
        let first = at.checked_div(PAGE).unwrap_or(0);
        let last = at.saturating_add(len.saturating_sub(1)).checked_div(PAGE).unwrap_or(0);
        self.dirty.iter_mut().take(last.saturating_add(1)).skip(first).for_each(|d| *d = true);
    }
}

/// Guest memory of a run.
#[derive(Debug)]
pub struct RunMemory(Mutex<Inner>);

impl RunMemory {
    /// `len` bytes of zeroes, a multiple of the page size.
    pub fn new(len: usize) -> Self {
        let kept = FREE.with(|free| {
            let mut free = free.borrow_mut();
            let at = free.iter().position(|bytes| bytes.len() == len)?;
            Some(free.swap_remove(at))
        });
        let bytes = kept.unwrap_or_else(|| vec![0; len]);
        let dirty = vec![false; len.div_ceil(PAGE)];
        Self(Mutex::new(Inner { bytes, dirty, ..Inner::default() }))
    }

    /// `len` bytes of zeroes that end where they end: what is outside of them is no RAM.
    pub fn bounded(len: usize) -> Self {
        let memory = Self::new(len);
        memory.with(|inner| inner.bounded = true);
        memory
    }

    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Bytes that a read finds where nothing was written; see [`super::Kind::Pattern`].
    pub fn set_pattern(&self, pattern: Vec<u8>, stride: u8) {
        self.with(|inner| (inner.pattern, inner.stride, inner.filled) = (pattern, stride, 0));
    }

    /// What the guest itself writes: it is no work of the device.
    pub fn guest_writes(&self, address: u64, bytes: &[u8]) {
        self.with(|inner| {
            if let Ok(at) = inner.place(address, bytes.len()) {
                inner.write(at, bytes);
            }
        });
    }

    /// Calls and bytes of the device since the last call.
    pub fn take_work(&self) -> (u64, u64) {
        self.with(|inner| (std::mem::take(&mut inner.calls), std::mem::take(&mut inner.moved)))
    }

    /// Keeps from now on what the device reads.
    pub fn keep_fetches(&self) {
        self.with(|inner| inner.fetches = Some(Vec::new()));
    }

    /// What the device has read since the last call, with the addresses that it gave.
    pub fn take_fetches(&self) -> Vec<Fetch> {
        self.with(|inner| inner.fetches.as_mut().map(std::mem::take).unwrap_or_default())
    }

    /// The pages that were written: their addresses and bytes.
    pub fn pages(&self) -> Vec<(u64, Vec<u8>)> {
        self.with(|inner| {
            let pages = (0u64..).step_by(PAGE).zip(inner.bytes.chunks(PAGE)).zip(&inner.dirty);
            pages.filter(|(_, dirty)| **dirty).map(|((at, bytes), _)| (at, bytes.to_vec())).collect()
        })
    }

    /// The bytes of all memory that was written, for comparisons.
    pub fn written(&self) -> Vec<u8> {
        self.with(|inner| {
            let mut all = Vec::new();
            let pages = inner.bytes.chunks(PAGE).zip(&inner.dirty);
            pages.filter(|(_, dirty)| **dirty).for_each(|(bytes, _)| all.extend_from_slice(bytes));
            all
        })
    }
}

impl Drop for RunMemory {
    fn drop(&mut self) {
        let inner = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = std::mem::take(&mut inner.bytes);
        for (page, _) in bytes.chunks_mut(PAGE).zip(&inner.dirty).filter(|(_, dirty)| **dirty) {
            page.fill(0);
        }
        // At a thread's end there is no list any more.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < 8 && bytes.len() <= LARGEST_KEPT {
                free.push(bytes);
            }
        });
    }
}

impl GuestMemory for RunMemory {
    fn read(&self, address: u64, to: &mut [u8]) -> Result<(), DmaError> {
        self.with(|inner| {
            inner.count(to.len());
            let at = inner.place(address, to.len())?;
            if let Some(from) = inner.bytes.get(at..at.saturating_add(to.len())) {
                to.copy_from_slice(from);
            }
            let filled = !inner.pattern.is_empty() && to.iter().all(|b| *b == 0);
            if filled {
                let more = (inner.filled as u8).wrapping_mul(inner.stride);
                to.iter_mut().zip(inner.pattern.iter().cycle()).for_each(|(to, from)| *to = from.wrapping_add(more));
                inner.filled = inner.filled.saturating_add(1);
            }
            if let Some(fetches) = &mut inner.fetches {
                fetches.push(Fetch { address, bytes: to.to_vec(), filled });
            }
            Ok(())
        })
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), DmaError> {
        self.with(|inner| {
            inner.count(from.len());
            let at = inner.place(address, from.len())?;
            inner.write(at, from);
            Ok(())
        })
    }

    fn read_file(&self, file: BorrowedFd<'_>, offset: u64, to: &[Segment]) -> Result<usize, DmaError> {
        let mut done = 0usize;
        for segment in to {
            let from = offset.saturating_add(done as u64);
            let n = self.with(|inner| {
                let len = segment.len as usize;
                inner.count(len);
                let at = inner.place(segment.address, len)?;
                inner.touch(at, len);
                let bytes = inner.bytes.get_mut(at..at.saturating_add(len)).ok_or(DmaError::NoRam(segment.address))?;
                rustix::io::pread(file, bytes, from).map_err(DmaError::File)
            })?;
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
            // By `read`, so that the pattern is seen.
            let mut bytes = vec![0; segment.len as usize];
            self.read(segment.address, &mut bytes)?;
            let to = offset.saturating_add(done as u64);
            done = done.saturating_add(rustix::io::pwrite(file, &bytes, to).map_err(DmaError::File)?);
        }
        Ok(done)
    }

    fn invalidate(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<const N: usize>(memory: &RunMemory, address: u64) -> Result<[u8; N], DmaError> {
        let mut bytes = [0; N];
        memory.read(address, &mut bytes).map(|()| bytes)
    }

    #[test]
    fn memory_of_an_earlier_run_is_clean() {
        let memory = RunMemory::new(2 * PAGE);
        memory.write(PAGE as u64 - 1, &[1, 2]).unwrap();
        drop(memory);
        let memory = RunMemory::new(2 * PAGE);
        assert_eq!(read(&memory, PAGE as u64 - 1), Ok([0, 0]));
    }

    #[test]
    fn an_address_outside_means_one_inside_and_the_hole_is_no_ram() {
        let memory = RunMemory::new(MEMORY);
        memory.write(0x1234_0010, &[7]).unwrap();
        assert_eq!(read(&memory, 0x10), Ok([7]));
        assert_eq!(read::<1>(&memory, HOLE.start), Err(DmaError::NoRam(HOLE.start)));
        assert_eq!(read::<2>(&memory, HOLE.start - 1), Err(DmaError::NoRam(HOLE.start - 1)));
        assert_eq!(read::<1>(&memory, u64::MAX), Err(DmaError::NoRam(u64::MAX)));
        assert_eq!(read::<1>(&memory, HOLE.end), Ok([0]));
    }

    #[test]
    fn two_reads_of_one_place_differ_and_what_was_written_stays() {
        let memory = RunMemory::new(MEMORY);
        memory.set_pattern(vec![1, 2], 3);
        assert_eq!(read(&memory, 0), Ok([1, 2, 1]));
        assert_eq!(read(&memory, 0), Ok([4, 5, 4]));
        memory.write(0, &[9]).unwrap();
        assert_eq!(read(&memory, 0), Ok([9]));
        memory.set_pattern(Vec::new(), 0);
        assert_eq!(read(&memory, 1), Ok([0]));
    }
}
