//! Guest memory: foreign mappings through a restricted privcmd (`memory/foreign.rs`), granted pages, or a memfd in the simulated
//! machine.
//!
//! A mapping is not inherited and get_user_pages refuses it, but ordinary preadv and pwritev work on it: file I/O copies directly
//! between the page cache and the guest. All other accesses are relaxed atomic loads and stores.
mod foreign;
mod logged;

use bulkhead_bus::{DmaError, GuestMemory, Segment};
use bulkhead_ring::SharedArea;
use bulkhead_xen_abi::{DomId, ioctl};
pub use foreign::ForeignMemory;
pub use logged::LoggedMemory;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::mm::{MapFlags, ProtFlags};
use std::io::{Error, Result};
use std::ptr::NonNull;

const PAGE: usize = 4096;
/// Most elements of one preadv or pwritev.
const IOV: usize = 64;

/// Maps `len` bytes of a descriptor from `offset`, shared, for reading and writing.
fn map_shared(fd: BorrowedFd<'_>, offset: u64, len: usize) -> Result<SharedArea> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
    let ptr = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, fd, offset) }?;
    let base = NonNull::new(ptr.cast::<u8>()).ok_or(std::io::ErrorKind::OutOfMemory)?;
    // SAFETY: the mapping was just made; from now on only the area refers to it.
    Ok(unsafe { SharedArea::from_mapping(base, len, true) })
}

/// Maps guest frames; `errors` gets an error number for each frame that is not RAM.
fn map_frames(privcmd: BorrowedFd<'_>, domid: DomId, frames: &[u64], errors: &mut [i32]) -> Result<SharedArea> {
    let len = frames.len().saturating_mul(PAGE);
    let area = map_shared(privcmd, 0, len)?;
    let arg = ioctl::MmapBatchV2 {
        num: u32::try_from(frames.len()).unwrap_or(0),
        dom: domid,
        pad: 0,
        addr: area.address(0, len).map_or(0, |at| at as u64),
        arr: frames.as_ptr() as u64,
        err: errors.as_mut_ptr() as u64,
    };
    if errors.len() < frames.len() {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: num frames are read from `frames`, num errors written to `errors`, num pages mapped at the area.
    let r = unsafe { libc::ioctl(privcmd.as_raw_fd(), u64::from(ioctl::PRIVCMD_MMAPBATCH_V2), &raw const arg) };
    // ENOENT: some page is paged out; its own error says so.
    if r < 0 && Error::last_os_error().raw_os_error() != Some(libc::ENOENT) {
        return Err(Error::last_os_error());
    }
    Ok(area)
}

/// Maps frames of a domain's memory, one after the other from address 0; `None` if one of them cannot be mapped.
pub fn map_list(privcmd: BorrowedFd<'_>, domid: DomId, frames: &[u64]) -> Option<MemfdMemory> {
    let mut errors = vec![0; frames.len()];
    let area = map_frames(privcmd, domid, frames, &mut errors).ok()?;
    errors.iter().all(|e| *e == 0).then(|| MemfdMemory::new(area))
}

/// Maps video RAM for the process's lifetime; the caller closes privcmd afterwards.
pub fn map_video_ram(privcmd: BorrowedFd<'_>, domid: DomId, gfn: u64, bytes: u32) -> Result<SharedArea> {
    let pages = (bytes as usize) >> 12;
    let frames: Vec<u64> = (gfn..).take(pages).collect();
    let mut errors = vec![0; pages];
    let area = map_frames(privcmd, domid, &frames, &mut errors)?;
    match errors.iter().position(|e| *e != 0) {
        Some(i) => {
            Err(Error::other(format!("guest frame {:#x} of video RAM is not there", gfn.saturating_add(i as u64))))
        }
        None => Ok(area),
    }
}

/// An I/O vector into mappings, which whoever runs it keeps.
#[derive(Default)]
struct Vector {
    iov: Vec<libc::iovec>,
}

impl Vector {
    fn push(&mut self, area: &SharedArea, offset: usize, len: usize) {
        if let Some(base) = area.address(offset, len) {
            // Adjacent pieces of one bucket become one element.
            if let Some(last) = self.iov.last_mut()
                && last.iov_base.wrapping_byte_add(last.iov_len) == base.cast()
            {
                last.iov_len = last.iov_len.saturating_add(len);
                return;
            }
            self.iov.push(libc::iovec { iov_base: base.cast(), iov_len: len });
        }
    }

    /// Repeats preadv or pwritev until all bytes are copied or the file ends.
    fn run(self, file: BorrowedFd<'_>, offset: u64, write: bool) -> std::result::Result<usize, DmaError> {
        let mut iov = self.iov;
        let mut total = 0usize;
        let mut first = 0usize;
        while let Some(rest) = iov.get_mut(first..).filter(|r| !r.is_empty()) {
            let at = i64::try_from(offset.saturating_add(total as u64))
                .map_err(|_| DmaError::File(rustix::io::Errno::INVAL))?;
            let count = i32::try_from(rest.len().min(IOV)).unwrap_or(1);
            // SAFETY: each element points into a mapping that the caller keeps during the call, for its whole length; the kernel
            // copies with faults handled, and no Rust reference to it exists.
            let n = unsafe {
                if write {
                    libc::pwritev(file.as_raw_fd(), rest.as_ptr(), count, at)
                } else {
                    libc::preadv(file.as_raw_fd(), rest.as_ptr(), count, at)
                }
            };
            let Ok(mut n) = usize::try_from(n) else {
                let errno = rustix::io::Errno::from_io_error(&Error::last_os_error()).unwrap_or(rustix::io::Errno::IO);
                if errno == rustix::io::Errno::INTR {
                    continue;
                }
                return Err(DmaError::File(errno));
            };
            if n == 0 {
                break;
            }
            total = total.saturating_add(n);
            for element in rest.iter_mut() {
                if n < element.iov_len {
                    element.iov_base = element.iov_base.wrapping_byte_add(n);
                    element.iov_len = element.iov_len.saturating_sub(n);
                    break;
                }
                n = n.saturating_sub(element.iov_len);
                first = first.saturating_add(1);
                if n == 0 {
                    break;
                }
            }
        }
        Ok(total)
    }
}

/// Guest memory in a memfd from address 0: the simulated machine, or video RAM by offset.
#[derive(Debug)]
pub struct MemfdMemory(SharedArea);

impl MemfdMemory {
    /// Memory in this area.
    pub fn new(area: SharedArea) -> Self {
        Self(area)
    }

    fn offset(&self, address: u64, len: usize) -> std::result::Result<usize, DmaError> {
        let offset = usize::try_from(address).map_err(|_| DmaError::NoRam(address))?;
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.0.len());
        if inside { Ok(offset) } else { Err(DmaError::NoRam(address)) }
    }

    fn vector(&self, segments: &[Segment]) -> std::result::Result<Vector, DmaError> {
        let mut vector = Vector::default();
        for segment in segments {
            let offset = self.offset(segment.address, segment.len as usize)?;
            vector.push(&self.0, offset, segment.len as usize);
        }
        Ok(vector)
    }
}

impl GuestMemory for MemfdMemory {
    fn read(&self, address: u64, to: &mut [u8]) -> std::result::Result<(), DmaError> {
        let offset = self.offset(address, to.len())?;
        if self.0.copy_out(offset, to) { Ok(()) } else { Err(DmaError::NoRam(address)) }
    }
    fn write(&self, address: u64, from: &[u8]) -> std::result::Result<(), DmaError> {
        let offset = self.offset(address, from.len())?;
        if self.0.copy_in(offset, from) { Ok(()) } else { Err(DmaError::NoRam(address)) }
    }
    fn read_file(&self, file: BorrowedFd<'_>, offset: u64, to: &[Segment]) -> std::result::Result<usize, DmaError> {
        self.vector(to)?.run(file, offset, false)
    }
    fn write_file(&self, file: BorrowedFd<'_>, offset: u64, from: &[Segment]) -> std::result::Result<usize, DmaError> {
        self.vector(from)?.run(file, offset, true)
    }
    fn invalidate(&self) {}
}

/// Pages that another domain has granted, in a range of addresses from 0: first the pages for mappings, then a buffer that is
/// shared with `grant`, which copies. Pages without a mapping are no RAM.
#[derive(Debug)]
pub struct GrantMemory {
    area: SharedArea,
    grants: OwnedFd,
    /// Whether each page is mapped.
    present: Vec<std::sync::atomic::AtomicBool>,
    /// Index of the buffer's first page.
    buffer: usize,
}

impl GrantMemory {
    /// A range of `pages` pages for mappings. `grants` is the gntdev to which `grant` adds pages; `buffer` is a memfd and its
    /// number of pages.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(grants: OwnedFd, pages: usize, buffer: Option<(BorrowedFd<'_>, usize)>) -> Result<Self> {
        let all = pages.saturating_add(buffer.map_or(0, |b| b.1));
        let len = all.saturating_mul(PAGE);
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let ptr = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let base = NonNull::new(ptr.cast::<u8>()).ok_or(std::io::ErrorKind::OutOfMemory)?;
        // SAFETY: the mapping was just made, and only the area refers to it. Inaccessible pages are never touched: see `present`.
        let area = unsafe { SharedArea::from_mapping(base, len, true) };
        let present: Vec<_> = (0..all).map(|_| std::sync::atomic::AtomicBool::new(false)).collect();
        let memory = Self { area, grants, present, buffer: pages };
        if let Some((fd, count)) = buffer {
            memory.place(pages, count, fd, 0)?;
        }
        Ok(memory)
    }

    /// Maps pages of a descriptor over a part of the range.
    fn place(&self, page: usize, count: usize, fd: BorrowedFd<'_>, offset: u64) -> Result<()> {
        let len = count.saturating_mul(PAGE);
        let at = self.area.address(page.saturating_mul(PAGE), len).ok_or(std::io::ErrorKind::InvalidInput)?;
        // SAFETY: inside the range that this value has reserved; no references to the replaced pages exist, because they are only
        // copied.
        unsafe {
            rustix::mm::mmap(
                at.cast(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED,
                fd,
                offset,
            )
        }?;
        for present in self.present.iter().skip(page).take(count) {
            present.store(true, std::sync::atomic::Ordering::Release);
        }
        Ok(())
    }

    /// Unmaps pages. The caller makes sure that they are not in use.
    fn clear(&self, page: usize, count: usize) {
        for present in self.present.iter().skip(page).take(count) {
            present.store(false, std::sync::atomic::Ordering::Release);
        }
        let len = count.saturating_mul(PAGE);
        let Some(at) = self.area.address(page.saturating_mul(PAGE), len) else { return };
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: as in `place`.
        let _ = unsafe { rustix::mm::mmap_anonymous(at.cast(), len, ProtFlags::empty(), flags) };
    }

    /// Maps granted pages, which are at offset `index` of the gntdev, at a page of the range before the buffer.
    ///
    /// # Errors
    /// The guest has not granted one of them, or they do not fit; then none is mapped.
    pub fn map(&self, page: usize, count: usize, index: u64) -> Result<()> {
        if page.saturating_add(count) > self.buffer {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        let placed = self.place(page, count, self.grants.as_fd(), index);
        if placed.is_err() {
            // The failed call has unmapped the pages that were there before.
            self.clear(page, count);
        }
        placed
    }

    /// Unmaps all granted pages. The caller makes sure that they are not in use.
    pub fn unmap(&self) {
        self.clear(0, self.buffer);
    }

    /// Reads the 32-bit word at `address`; 0 if the page is not mapped.
    pub fn load_u32(&self, address: u64) -> u32 {
        self.offset(address, 4).map_or(0, |at| self.area.load_u32(at))
    }

    /// Writes the 32-bit word at `address`; no effect if the page is not mapped.
    pub fn store_u32(&self, address: u64, value: u32) {
        if let Ok(at) = self.offset(address, 4) {
            self.area.store_u32(at, value);
        }
    }

    fn offset(&self, address: u64, len: usize) -> std::result::Result<usize, DmaError> {
        let none = DmaError::NoRam(address);
        let offset = usize::try_from(address).map_err(|_| none)?;
        let last = offset.checked_add(len.saturating_sub(1)).ok_or(none)?;
        let pages = self.present.get(offset >> 12..=last >> 12).ok_or(none)?;
        if pages.iter().all(|p| p.load(std::sync::atomic::Ordering::Acquire)) { Ok(offset) } else { Err(none) }
    }

    fn vector(&self, segments: &[Segment]) -> std::result::Result<Vector, DmaError> {
        let mut vector = Vector::default();
        for segment in segments {
            let offset = self.offset(segment.address, segment.len as usize)?;
            vector.push(&self.area, offset, segment.len as usize);
        }
        Ok(vector)
    }
}

impl GuestMemory for GrantMemory {
    fn read(&self, address: u64, to: &mut [u8]) -> std::result::Result<(), DmaError> {
        let offset = self.offset(address, to.len())?;
        if self.area.copy_out(offset, to) { Ok(()) } else { Err(DmaError::NoRam(address)) }
    }
    fn write(&self, address: u64, from: &[u8]) -> std::result::Result<(), DmaError> {
        let offset = self.offset(address, from.len())?;
        if self.area.copy_in(offset, from) { Ok(()) } else { Err(DmaError::NoRam(address)) }
    }
    fn read_file(&self, file: BorrowedFd<'_>, offset: u64, to: &[Segment]) -> std::result::Result<usize, DmaError> {
        self.vector(to)?.run(file, offset, false)
    }
    fn write_file(&self, file: BorrowedFd<'_>, offset: u64, from: &[Segment]) -> std::result::Result<usize, DmaError> {
        self.vector(from)?.run(file, offset, true)
    }
    fn invalidate(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granted_pages_are_there_when_they_are_mapped_and_not_before_or_after() {
        let fd = |bytes: u64| {
            let fd = rustix::fs::memfd_create("grants", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            rustix::fs::ftruncate(&fd, bytes).unwrap();
            fd
        };
        // A memfd stands for the gntdev: its pages are mapped by offset too.
        let (grants, buffer) = (fd(8 * 4096), fd(2 * 4096));
        rustix::io::pwrite(&grants, &[7; 4096], 3 * 4096).unwrap();
        let memory = GrantMemory::new(grants, 16, Some((buffer.as_fd(), 2))).unwrap();
        let mut byte = [0];
        assert_eq!(memory.read(5 * 4096, &mut byte), Err(DmaError::NoRam(5 * 4096)));
        memory.map(5, 2, 3 * 4096).unwrap();
        assert_eq!((memory.read(5 * 4096 + 4095, &mut byte), byte), (Ok(()), [7]));
        assert_eq!(memory.write(7 * 4096 - 1, &[1, 2]), Err(DmaError::NoRam(7 * 4096 - 1)), "beyond the last page");
        assert!(memory.map(15, 2, 0).is_err() && memory.map(usize::MAX, 2, 0).is_err(), "into the buffer");
        memory.store_u32(5 * 4096 + 8, 77);
        assert_eq!((memory.load_u32(5 * 4096 + 8), memory.load_u32(0)), (77, 0));
        memory.write(16 * 4096, &[9]).unwrap();
        rustix::io::pread(&buffer, &mut byte, 0).unwrap();
        assert_eq!(byte, [9], "the buffer is shared");
        memory.unmap();
        assert_eq!(
            memory.read_file(buffer.as_fd(), 0, &[Segment { address: 5 * 4096, len: 1 }]),
            Err(DmaError::NoRam(5 * 4096))
        );
        assert_eq!(memory.read(16 * 4096, &mut byte), Ok(()));
        for at in [u64::MAX, 18 * 4096, u64::MAX - 3] {
            assert_eq!(memory.read(at, &mut byte), Err(DmaError::NoRam(at)));
        }
    }

    #[test]
    fn file_io_goes_to_scattered_segments_and_stops_at_the_end() {
        let fd = SharedArea::create("ram", 64 * 1024).unwrap();
        SharedArea::seal_size(&fd).unwrap();
        let memory = MemfdMemory::new(SharedArea::map_fixed(&fd, 64 * 1024, true).unwrap());
        let file = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let data: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
        rustix::io::pwrite(&file, &data, 0).unwrap();
        let to = [Segment { address: 100, len: 300 }, Segment { address: 5000, len: 900 }];
        assert_eq!(memory.read_file(file.as_fd(), 0, &to), Ok(1000));
        let mut back = vec![0; 700];
        memory.read(5000, &mut back).unwrap();
        assert_eq!(back, data[300..]);
        assert_eq!(memory.write_file(file.as_fd(), 1000, &[Segment { address: 5000, len: 700 }]), Ok(700));
        assert_eq!(rustix::fs::fstat(&file).unwrap().st_size, 1700);
        assert_eq!(memory.read(65_000, &mut back), Err(DmaError::NoRam(65_000)));
        assert_eq!(memory.read(u64::MAX, &mut back), Err(DmaError::NoRam(u64::MAX)));
    }
}
