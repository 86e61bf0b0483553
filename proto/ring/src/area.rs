//! A memfd that two processes share, and the only code that accesses it.
//!
//! All accesses are atomic (relaxed) loads and stores of single words, so a peer that writes at the same time is
//! never a data race; there are no references to the memory other than to atomics.
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use zerocopy::{FromBytes, IntoBytes};

/// A shared memory area of fixed length, mapped by this process.
#[derive(Debug)]
pub struct SharedArea {
    base: NonNull<u8>,
    len: usize,
    writable: bool,
}

/// Why an area cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AreaError {
    /// A system call failed.
    #[error("{0}: {1}")]
    System(&'static str, rustix::io::Errno),
    /// The memfd is not sealed as it must be: the peer could shrink or overwrite it.
    #[error("the memfd lacks seals: has {0:?}")]
    Seals(SealFlags),
    /// The memfd has another size.
    #[error("the memfd has {0} bytes, not {1}")]
    Size(u64, usize),
    /// The length is no multiple of a page.
    #[error("{0} is no multiple of the page size")]
    Length(usize),
}

/// The seals that both sides require: the area cannot be resized, and no new writable mapping can be made.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);

// SAFETY: the memory is only accessed through atomics, from any thread; it stays mapped for the value's life.
unsafe impl Send for SharedArea {}
// SAFETY: as above.
unsafe impl Sync for SharedArea {}

impl SharedArea {
    /// Makes a memfd of `len` bytes, not sealed yet.
    pub fn create(name: &str, len: usize) -> Result<OwnedFd, AreaError> {
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(|e| AreaError::System("memfd_create", e))?;
        rustix::fs::ftruncate(&fd, len as u64).map_err(|e| AreaError::System("ftruncate", e))?;
        Ok(fd)
    }

    /// Maps the area for writing and seals it: from now on this mapping is the only way to write it.
    pub fn map_writer(fd: impl AsFd, len: usize) -> Result<Self, AreaError> {
        let area = Self::map(fd.as_fd(), len, true)?;
        rustix::fs::fcntl_add_seals(&fd, SEALS).map_err(|e| AreaError::System("F_ADD_SEALS", e))?;
        Ok(area)
    }

    /// Maps an area that the peer writes. It must be sealed against a change of size and against new writable mappings.
    pub fn map_reader(fd: impl AsFd, len: usize) -> Result<Self, AreaError> {
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|e| AreaError::System("F_GET_SEALS", e))?;
        if !seals.contains(SEALS) {
            return Err(AreaError::Seals(seals));
        }
        Self::map(fd.as_fd(), len, false)
    }

    /// Maps a memfd that more than one process may write in turn (a surface): it must be sealed against a change of
    /// its size. `writable` as the descriptor allows.
    pub fn map_fixed(fd: impl AsFd, len: usize, writable: bool) -> Result<Self, AreaError> {
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|e| AreaError::System("F_GET_SEALS", e))?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(AreaError::Seals(seals));
        }
        Self::map(fd.as_fd(), len, writable)
    }

    /// Seals a memfd against a change of its size, for [`Self::map_fixed`].
    pub fn seal_size(fd: impl AsFd) -> Result<(), AreaError> {
        rustix::fs::fcntl_add_seals(fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(|e| AreaError::System("F_ADD_SEALS", e))
    }

    fn map(fd: rustix::fd::BorrowedFd<'_>, len: usize, writable: bool) -> Result<Self, AreaError> {
        if len == 0 || !len.is_multiple_of(bulkhead_wire::PAGE) {
            return Err(AreaError::Length(len));
        }
        let size = rustix::fs::fstat(fd).map_err(|e| AreaError::System("fstat", e))?.st_size;
        if u64::try_from(size) != Ok(len as u64) {
            return Err(AreaError::Size(size.unsigned_abs(), len));
        }
        let prot = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let ptr = unsafe { rustix::mm::mmap(core::ptr::null_mut(), len, prot, MapFlags::SHARED, fd, 0) }
            .map_err(|e| AreaError::System("mmap", e))?;
        let base = NonNull::new(ptr.cast::<u8>()).ok_or(AreaError::System("mmap", rustix::io::Errno::NOMEM))?;
        Ok(Self { base, len, writable })
    }

    /// Owns a mapping that was made by other means (foreign memory); it is unmapped when the value is dropped.
    ///
    /// # Safety
    /// `base` must be the start of a mapping of `len` bytes, readable, and writable if `writable` says so, that
    /// nothing else unmaps and that nothing accesses other than by atomics or system calls.
    pub unsafe fn from_mapping(base: NonNull<u8>, len: usize, writable: bool) -> Self {
        Self { base, len, writable }
    }

    /// The address of byte `offset`, for system calls that read or write the area; `len` bytes from there are inside.
    pub fn address(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        // SAFETY: offset is inside the mapping, or one past its end.
        inside.then(|| unsafe { self.base.as_ptr().add(offset) })
    }

    /// Bytes of the area.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Areas are never empty.
    pub fn is_empty(&self) -> bool {
        false
    }

    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let end = offset.checked_add(size_of::<T>())?;
        if end > self.len || !offset.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: offset is inside the mapping.
        Some(unsafe { self.base.as_ptr().add(offset) }.cast::<T>())
    }

    /// The word at `offset`. In an area that this process cannot write, only loads are allowed; this module's methods ensure that,
    /// and a store would end the process.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU32 {
        match self.at::<AtomicU32>(offset) {
            // SAFETY: inside the mapping and aligned; the mapping lives as long as self; accessed as atomics only.
            Some(word) => unsafe { &*word },
            // Offsets are constants of bulkhead-wire or come from Shape, which checks them.
            None => &NOWHERE,
        }
    }

    /// Loads the word at `offset`; 0 outside.
    pub fn load_u32(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::Acquire)
    }

    /// Stores the word at `offset`; nothing outside or if the area is read-only.
    pub fn store_u32(&self, offset: usize, value: u32) {
        if self.writable {
            self.word(offset).store(value, Ordering::Release);
        }
    }

    /// Loads the double word at `offset`; 0 outside.
    pub fn load_u64(&self, offset: usize) -> u64 {
        match self.at::<AtomicU64>(offset) {
            // SAFETY: as in `word`.
            Some(word) => unsafe { &*word }.load(Ordering::Acquire),
            None => 0,
        }
    }

    /// Stores the double word at `offset`; nothing outside or if the area is read-only.
    pub fn store_u64(&self, offset: usize, value: u64) {
        if let Some(word) = self.at::<AtomicU64>(offset).filter(|_| self.writable) {
            // SAFETY: as in `word`.
            unsafe { &*word }.store(value, Ordering::Release);
        }
    }

    /// Sets bits of the double word at `offset`; nothing outside or if the area is read-only.
    pub(crate) fn fetch_or_u64(&self, offset: usize, bits: u64) {
        if let Some(word) = self.at::<AtomicU64>(offset).filter(|_| self.writable) {
            // SAFETY: as in `word`.
            unsafe { &*word }.fetch_or(bits, Ordering::SeqCst);
        }
    }

    /// Replaces the double word at `offset`, and returns what was there; 0 outside or if the area is read-only.
    pub(crate) fn swap_u64(&self, offset: usize, value: u64) -> u64 {
        match self.at::<AtomicU64>(offset).filter(|_| self.writable) {
            // SAFETY: as in `word`.
            Some(word) => unsafe { &*word }.swap(value, Ordering::SeqCst),
            None => 0,
        }
    }

    /// Copies `to.len()` bytes out of the area. Returns false, and copies nothing, if they do not lie inside.
    #[must_use]
    pub fn copy_out(&self, offset: usize, to: &mut [u8]) -> bool {
        if offset.checked_add(to.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        let mut at = offset;
        let mut chunks = to.chunks_exact_mut(8);
        if offset.is_multiple_of(8) {
            for chunk in &mut chunks {
                chunk.copy_from_slice(&self.load_relaxed(at).to_ne_bytes());
                at = at.wrapping_add(8);
            }
        }
        let rest = if offset.is_multiple_of(8) { chunks.into_remainder() } else { to };
        for byte in rest {
            if let Some(p) = self.at::<AtomicU8>(at) {
                // SAFETY: as in `word`.
                *byte = unsafe { &*p }.load(Ordering::Relaxed);
            }
            at = at.wrapping_add(1);
        }
        true
    }

    fn load_relaxed(&self, offset: usize) -> u64 {
        match self.at::<AtomicU64>(offset) {
            // SAFETY: as in `word`.
            Some(word) => unsafe { &*word }.load(Ordering::Relaxed),
            None => 0,
        }
    }

    /// Copies `from` into the area. Returns false, and copies nothing, if it does not fit or the area is read-only.
    #[must_use]
    pub fn copy_in(&self, offset: usize, from: &[u8]) -> bool {
        if !self.writable || offset.checked_add(from.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        let mut at = offset;
        let mut rest = from;
        if offset.is_multiple_of(8) {
            let (words, tail) = from.as_chunks::<8>();
            for word in words {
                if let Some(p) = self.at::<AtomicU64>(at) {
                    // SAFETY: as in `word`.
                    unsafe { &*p }.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
                }
                at = at.wrapping_add(8);
            }
            rest = tail;
        }
        for byte in rest {
            if let Some(p) = self.at::<AtomicU8>(at) {
                // SAFETY: as in `word`.
                unsafe { &*p }.store(*byte, Ordering::Relaxed);
            }
            at = at.wrapping_add(1);
        }
        true
    }

    /// Copies a struct out, once.
    pub fn read<T: FromBytes + IntoBytes>(&self, offset: usize) -> Option<T> {
        let mut value = T::new_zeroed();
        self.copy_out(offset, value.as_mut_bytes()).then_some(value)
    }

    /// Copies a struct in.
    #[must_use]
    pub fn write<T: IntoBytes + zerocopy::Immutable>(&self, offset: usize, value: &T) -> bool {
        self.copy_in(offset, value.as_bytes())
    }

    /// Writes the header that [`Self::check_hello`] expects.
    pub(crate) fn write_hello(&self, offset: usize) {
        self.store_u64(offset.wrapping_add(8), bulkhead_wire::BUILD_ID);
        self.store_u32(offset.wrapping_add(4), bulkhead_wire::PROTOCOL_VERSION);
        self.store_u32(offset, bulkhead_wire::MAGIC);
    }

    pub(crate) fn check_hello(&self, offset: usize) -> Result<(), crate::Poison> {
        if self.load_u32(offset) != bulkhead_wire::MAGIC {
            return Err(crate::Poison::Magic);
        }
        let same = self.load_u32(offset.wrapping_add(4)) == bulkhead_wire::PROTOCOL_VERSION
            && self.load_u64(offset.wrapping_add(8)) == bulkhead_wire::BUILD_ID;
        if same { Ok(()) } else { Err(crate::Poison::Version) }
    }
}

/// Receives stores to offsets outside of an area. Nothing reads it.
static NOWHERE: AtomicU32 = AtomicU32::new(0);

impl Drop for SharedArea {
    fn drop(&mut self) {
        // SAFETY: base and len are this value's own mapping, and nothing refers to it any more.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_area_cannot_be_written_resized_or_mapped_for_writing_by_the_reader() {
        let fd = SharedArea::create("t", 8192).unwrap();
        assert!(matches!(SharedArea::map_reader(&fd, 8192), Err(AreaError::Seals(_))), "unsealed is refused");
        let writer = SharedArea::map_writer(&fd, 8192).unwrap();
        let reader = SharedArea::map_reader(&fd, 8192).unwrap();
        writer.store_u32(100, 7);
        assert_eq!(reader.load_u32(100), 7);
        assert!(!reader.copy_in(0, &[1]), "a reader's copy_in does nothing");
        assert!(matches!(SharedArea::map(fd.as_fd(), 8192, true), Err(AreaError::System("mmap", _))));
        assert!(rustix::io::pwrite(&fd, b"x", 0).is_err());
        assert!(rustix::fs::ftruncate(&fd, 4096).is_err());
        assert!(rustix::fs::ftruncate(&fd, 16384).is_err());
    }

    #[test]
    fn a_truncated_memfd_is_refused() {
        let fd = SharedArea::create("t", 4096).unwrap();
        let _writer = SharedArea::map_writer(&fd, 4096).unwrap();
        assert!(matches!(SharedArea::map_reader(&fd, 8192), Err(AreaError::Size(4096, 8192))));
    }

    #[test]
    fn accesses_outside_do_nothing() {
        let fd = SharedArea::create("t", 4096).unwrap();
        let area = SharedArea::map_writer(&fd, 4096).unwrap();
        let mut buffer = [9u8; 16];
        assert!(!area.copy_out(4090, &mut buffer));
        assert!(!area.copy_out(usize::MAX, &mut buffer));
        assert!(!area.copy_in(4090, &buffer));
        assert_eq!(area.load_u64(4092), 0);
        for (offset, len) in [(0, 16), (3, 11), (8, 13), (4080, 16), (4095, 1)] {
            let from: Vec<u8> = (0..len as u8).map(|i| i + 1).collect();
            assert!(area.copy_in(offset, &from));
            let mut to = vec![0; len];
            assert!(area.copy_out(offset, &mut to));
            assert_eq!(from, to);
        }
    }
}
