//! The two pages that an ioreq server shares with Xen.
use crate::{Result, XenError};
use bulkhead_xen_abi::ioreq::{self, BufferedIoreq, Ioreq, IoreqBits};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use rustix::fd::BorrowedFd;
use rustix::mm::{MapFlags, ProtFlags};
use zerocopy::IntoBytes;

const PAGE: usize = 4096;

/// A writable mapping of a descriptor's pages.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    pages: usize,
}

// SAFETY: the memory is accessed through atomics only and stays mapped for the value's life.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `pages` pages of `fd` from its start.
    pub fn new(fd: BorrowedFd<'_>, pages: usize) -> Result<Self> {
        let len = pages.saturating_mul(PAGE);
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let ptr = unsafe { rustix::mm::mmap(core::ptr::null_mut(), len, prot, MapFlags::SHARED, fd, 0) }
            .map_err(|e| XenError::new("mmap", e))?;
        let base = NonNull::new(ptr.cast())
            .ok_or(XenError { what: "mmap", source: std::io::ErrorKind::OutOfMemory.into() })?;
        Ok(Self { base, pages })
    }

    /// The length of the mapping in bytes.
    pub(crate) fn len(&self) -> usize {
        self.pages.saturating_mul(PAGE)
    }

    pub(crate) fn address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// A reference to an atomic at `offset`, which must be aligned and inside.
    pub(crate) fn at<T>(&self, offset: usize) -> Option<&T> {
        let end = offset.checked_add(size_of::<T>())?;
        if end > self.pages.saturating_mul(PAGE) || !offset.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: inside the mapping and aligned; T is an atomic (not public, see the callers); lives as long as self.
        Some(unsafe { &*self.base.as_ptr().add(offset).cast::<T>() })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this value's own mapping; nothing refers to it any more.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.pages.saturating_mul(PAGE)) };
    }
}

/// The server's view of the pages: buffered requests in the first, requests in the second.
#[derive(Debug)]
pub struct IoreqPages(Mapping);

impl IoreqPages {
    /// Wraps a mapping of the two pages.
    pub fn new(mapping: Mapping) -> Self {
        Self(mapping)
    }

    fn slot(vcpu: usize) -> Option<usize> {
        (vcpu < ioreq::IOREQS_PER_PAGE).then_some(PAGE.saturating_add(vcpu.saturating_mul(size_of::<Ioreq>())))
    }

    /// The event channel port of a vCPU, valid when the server is enabled.
    pub fn event_port(&self, vcpu: usize) -> u32 {
        let at = Self::slot(vcpu).and_then(|at| at.checked_add(core::mem::offset_of!(Ioreq, vp_eport)));
        at.and_then(|at| self.0.at::<AtomicU32>(at)).map_or(0, |port| port.load(Ordering::Relaxed))
    }

    /// Takes the vCPU's request if there is one: copies it once, and sets its state to in-process.
    pub fn take(&self, vcpu: usize) -> Option<Ioreq> {
        let at = Self::slot(vcpu)?;
        let state = self.0.at::<AtomicU8>(at.checked_add(ioreq::IOREQ_BITS_AT)?)?;
        let bits = IoreqBits::from_bits(state.load(Ordering::Acquire));
        if bits.state() != ioreq::STATE_IOREQ_READY {
            return None;
        }
        let mut copy: Ioreq = zerocopy::FromZeros::new_zeroed();
        let (words, _) = copy.as_mut_bytes().as_chunks_mut::<8>();
        for (i, word) in words.iter_mut().enumerate() {
            *word = self.0.at::<AtomicU64>(at.wrapping_add(i.wrapping_mul(8)))?.load(Ordering::Relaxed).to_ne_bytes();
        }
        // The state that was read first, not that of the copy, which may have changed.
        copy.bits = bits;
        state.store(bits.with_state(ioreq::STATE_IOREQ_INPROCESS).into_bits(), Ordering::Relaxed);
        Some(copy)
    }

    /// Answers the request that [`Self::take`] returned: `data` for reads. The caller then notifies the port.
    pub fn complete(&self, vcpu: usize, request: &Ioreq, data: Option<u64>) {
        let Some(at) = Self::slot(vcpu) else { return };
        if let (Some(data), Some(word)) = (data, self.0.at::<AtomicU64>(at.wrapping_add(8))) {
            word.store(data, Ordering::Relaxed);
        }
        fence(Ordering::Release);
        if let Some(state) = self.0.at::<AtomicU8>(at.wrapping_add(ioreq::IOREQ_BITS_AT)) {
            state.store(request.bits.with_state(ioreq::STATE_IORESP_READY).into_bits(), Ordering::Release);
        }
    }

    /// Takes the oldest buffered request, with its data as 64 bits.
    pub fn take_buffered(&self) -> Option<(BufferedIoreq, u64)> {
        let pointers = self.0.at::<AtomicU64>(ioreq::BUFFERED_READ_AT)?;
        let read_pointer = self.0.at::<AtomicU32>(ioreq::BUFFERED_READ_AT)?;
        // Both pointers in one read, because Xen reduces them with a 64-bit compare and exchange.
        let both = pointers.load(Ordering::Acquire);
        let (read, write) = (both as u32, (both >> 32) as u32);
        if read == write {
            return None;
        }
        let slot = |n: u32| {
            let index = n.checked_rem(ioreq::BUFFERED_SLOTS)? as usize;
            let at = ioreq::BUFFERED_SLOTS_AT.checked_add(index.checked_mul(8)?)?;
            Some(self.0.at::<AtomicU64>(at)?.load(Ordering::Relaxed))
        };
        let first = BufferedIoreq::from_bits(slot(read)?);
        let mut data = u64::from(first.data());
        let mut taken = 1;
        if first.size() == 3 {
            let second = BufferedIoreq::from_bits(slot(read.wrapping_add(1))?);
            data |= u64::from(second.data()) << 32;
            taken = 2;
        }
        read_pointer.fetch_add(taken, Ordering::AcqRel);
        Some((first, data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;

    /// Xen's side of the pages.
    fn pages() -> (Mapping, IoreqPages) {
        let fd = rustix::fs::memfd_create("ioreq", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, 8192).unwrap();
        (Mapping::new(fd.as_fd(), 2).unwrap(), IoreqPages::new(Mapping::new(fd.as_fd(), 2).unwrap()))
    }

    fn put(xen: &Mapping, vcpu: usize, request: &Ioreq) {
        let at = IoreqPages::slot(vcpu).unwrap();
        for (i, word) in request.as_bytes().as_chunks::<8>().0.iter().enumerate() {
            xen.at::<AtomicU64>(at + i * 8).unwrap().store(u64::from_ne_bytes(*word), Ordering::SeqCst);
        }
    }

    fn state(xen: &Mapping, vcpu: usize) -> u8 {
        let at = IoreqPages::slot(vcpu).unwrap() + ioreq::IOREQ_BITS_AT;
        IoreqBits::from_bits(xen.at::<AtomicU8>(at).unwrap().load(Ordering::SeqCst)).state()
    }

    #[test]
    fn a_request_goes_through_its_states_in_order_and_is_copied_once() {
        let (xen, server) = pages();
        assert_eq!(server.take(3), None);
        let request = Ioreq {
            addr: 0x3f8,
            data: 0x41,
            count: 1,
            size: 1,
            vp_eport: 9,
            pad0: 0,
            bits: IoreqBits::new().with_state(ioreq::STATE_IOREQ_READY).with_read(true).with_df(true),
            kind: ioreq::IOREQ_TYPE_PIO,
        };
        put(&xen, 3, &request);
        let copy = server.take(3).unwrap();
        assert_eq!((copy.addr, copy.size, copy.bits.read(), copy.bits.df()), (0x3f8, 1, true, true));
        assert_eq!(state(&xen, 3), ioreq::STATE_IOREQ_INPROCESS);
        assert_eq!(server.take(3), None, "taken once");
        // Later writes to the page (XSA-197) do not affect the copy, and the next state follows the copy's.
        put(&xen, 3, &Ioreq { addr: 0, bits: IoreqBits::from_bits(0xff), ..request });
        server.complete(3, &copy, Some(0x55));
        assert_eq!(state(&xen, 3), ioreq::STATE_IORESP_READY);
        assert_eq!(server.event_port(3), 9);
        assert_eq!(server.take(128), None);
    }

    #[test]
    fn buffered_requests_come_in_order_across_the_wrap() {
        let (xen, server) = pages();
        let pointers = xen.at::<AtomicU64>(0).unwrap();
        let slot = |n: usize| xen.at::<AtomicU64>(8 + (n % 511) * 8).unwrap();
        pointers.store(510 | 510 << 32, Ordering::SeqCst);
        assert!(server.take_buffered().is_none());
        let byte = BufferedIoreq::new().with_kind(1).with_addr(0xb8000).with_data(0x41);
        let quad = BufferedIoreq::new().with_kind(7).with_size(3).with_data(0x1111_2222);
        slot(510).store(byte.into_bits(), Ordering::SeqCst);
        slot(511).store(quad.into_bits(), Ordering::SeqCst);
        slot(512).store(BufferedIoreq::new().with_data(0x3333_4444).into_bits(), Ordering::SeqCst);
        pointers.store(510 | 513 << 32, Ordering::SeqCst);
        assert_eq!(server.take_buffered(), Some((byte, 0x41)));
        assert_eq!(server.take_buffered(), Some((quad, 0x3333_4444_1111_2222)));
        assert!(server.take_buffered().is_none());
    }
}
