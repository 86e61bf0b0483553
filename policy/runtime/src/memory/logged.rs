//! Guest memory whose writes are marked, for a guest whose memory is copied while it runs.
use bulkhead_bus::{DmaError, GuestMemory, Segment};
use bulkhead_ring::DirtyMap;
use rustix::fd::BorrowedFd;
use std::sync::Arc;

/// Memory, and the map of what was written there. Each write is marked before it, in case that the process dies, and after it.
pub struct LoggedMemory {
    memory: Arc<dyn GuestMemory>,
    map: Arc<DirtyMap>,
}

impl LoggedMemory {
    /// Marks writes to `memory` in `map`.
    pub fn new(memory: Arc<dyn GuestMemory>, map: Arc<DirtyMap>) -> Self {
        Self { memory, map }
    }

    fn mark(&self, address: u64, len: usize) {
        let (first, count) = pages(address, len);
        self.map.mark(first, count);
    }

    /// Marks what was written. What was not, because there is no memory, is no memory that a copy would lack.
    fn written<T, E>(&self, address: u64, len: usize, done: &Result<T, E>) {
        let (first, count) = pages(address, len);
        self.map.mark(first, count);
        if done.is_ok() {
            self.map.note(first, count);
        }
    }
}

/// The first page of a range, and their number.
fn pages(address: u64, len: usize) -> (u64, u64) {
    let Some(last) = len.checked_sub(1) else { return (address >> 12, 0) };
    let (first, last) = (address >> 12, address.saturating_add(last as u64) >> 12);
    (first, last.saturating_sub(first).saturating_add(1))
}

impl GuestMemory for LoggedMemory {
    fn read(&self, address: u64, to: &mut [u8]) -> Result<(), DmaError> {
        self.memory.read(address, to)
    }
    fn write(&self, address: u64, from: &[u8]) -> Result<(), DmaError> {
        self.mark(address, from.len());
        let done = self.memory.write(address, from);
        self.written(address, from.len(), &done);
        done
    }
    fn read_file(&self, file: BorrowedFd<'_>, offset: u64, to: &[Segment]) -> Result<usize, DmaError> {
        to.iter().for_each(|segment| self.mark(segment.address, segment.len as usize));
        let done = self.memory.read_file(file, offset, to);
        to.iter().for_each(|segment| self.written(segment.address, segment.len as usize, &done));
        done
    }
    fn write_file(&self, file: BorrowedFd<'_>, offset: u64, from: &[Segment]) -> Result<usize, DmaError> {
        self.memory.write_file(file, offset, from)
    }
    fn invalidate(&self) {
        self.memory.invalidate();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_bus::fake::FakeMemory;
    use rustix::fd::AsFd;

    fn marked(map: &DirtyMap) -> Vec<u64> {
        let mut pages = Vec::new();
        map.take(usize::MAX, |first, bits| pages.extend((0..64).filter(|i| bits >> i & 1 != 0).map(|i| first + i)));
        pages
    }

    /// Memory in whose writes the broker takes the marks: once before the bytes are there.
    struct Taken(Arc<DirtyMap>, std::sync::Mutex<Vec<u64>>);

    impl Taken {
        fn take(&self) {
            self.1.lock().unwrap().extend(marked(&self.0));
        }
    }

    impl GuestMemory for Taken {
        fn read(&self, _: u64, _: &mut [u8]) -> Result<(), DmaError> {
            Ok(())
        }
        fn write(&self, _: u64, _: &[u8]) -> Result<(), DmaError> {
            self.take();
            Ok(())
        }
        fn read_file(&self, _: BorrowedFd<'_>, _: u64, _: &[Segment]) -> Result<usize, DmaError> {
            self.take();
            Ok(0)
        }
        fn write_file(&self, _: BorrowedFd<'_>, _: u64, _: &[Segment]) -> Result<usize, DmaError> {
            Ok(0)
        }
        fn invalidate(&self) {}
    }

    /// A mark that is taken before the bytes are there says nothing of them; one that comes after them does not outlive a process that dies
    /// between.
    #[test]
    fn a_page_is_marked_before_it_is_written_and_again_after() {
        let map = Arc::new(DirtyMap::map(DirtyMap::create(16).unwrap()).unwrap());
        let inner = Arc::new(Taken(map.clone(), std::sync::Mutex::default()));
        let memory = LoggedMemory::new(inner.clone(), map.clone());
        memory.write(0x5000, &[1]).unwrap();
        assert_eq!((std::mem::take(&mut *inner.1.lock().unwrap()), marked(&map)), (vec![5], vec![5]));
        let file = rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        memory.read_file(file.as_fd(), 0, &[Segment { address: 0x7000, len: 9 }]).unwrap();
        assert_eq!((std::mem::take(&mut *inner.1.lock().unwrap()), marked(&map)), (vec![7], vec![7]));
    }

    /// Found by a reviewer: a guest whose card has a buffer where no memory is could not be moved.
    #[test]
    fn a_write_to_no_memory_is_nothing_that_a_copy_lacks() {
        let map = Arc::new(DirtyMap::map(DirtyMap::create(16).unwrap()).unwrap());
        let memory = LoggedMemory::new(FakeMemory::new(16 << 12), map.clone());
        assert!(memory.write(1 << 40, &[1]).is_err() && !map.beyond());
        memory.write(1 << 12, &[1]).unwrap();
        assert!(!map.beyond());
        let all = LoggedMemory::new(Arc::new(Taken(map.clone(), std::sync::Mutex::default())), map.clone());
        all.write(1 << 40, &[1]).unwrap();
        assert!(map.beyond());
    }

    #[test]
    fn each_page_that_is_written_is_marked_and_no_other() {
        let map = Arc::new(DirtyMap::map(DirtyMap::create(16).unwrap()).unwrap());
        let memory = LoggedMemory::new(FakeMemory::new(16 << 12), map.clone());
        let marked = || marked(&map);
        memory.write(0x1ffe, &[1; 2]).unwrap();
        memory.write(0x3000, &[]).unwrap();
        memory.read(0x4000, &mut [0; 9]).unwrap();
        assert_eq!(marked(), [1]);
        memory.write(0x4fff, &[1; 0x1002]).unwrap();
        assert_eq!(marked(), [4, 5, 6]);
        let file = rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::io::pwrite(&file, &[7; 0x3000], 0).unwrap();
        let segments = [Segment { address: 0x8ffc, len: 8 }, Segment { address: 0xc000, len: 0x1000 }];
        memory.write_file(file.as_fd(), 0, &segments).unwrap();
        assert!(marked().is_empty());
        memory.read_file(file.as_fd(), 0, &segments).unwrap();
        assert_eq!(marked(), [8, 9, 12]);
    }
}
