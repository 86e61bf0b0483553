//! Faults of back ends in other systems, by class.
use super::super::ring::Ring;
use super::*;
use bulkhead_bus::{DmaError, Segment};
use rustix::fd::BorrowedFd;

/// Pages of a guest that changes every byte as soon as it has been read.
struct Changing(Arc<FakeMemory>);

impl GuestMemory for Changing {
    fn read(&self, address: u64, to: &mut [u8]) -> Result<(), DmaError> {
        self.0.read(address, to)?;
        let other: Vec<u8> = to.iter().map(|byte| !byte).collect();
        self.0.write(address, &other)
    }
    fn write(&self, address: u64, from: &[u8]) -> Result<(), DmaError> {
        self.0.write(address, from)
    }
    fn read_file(&self, _: BorrowedFd<'_>, _: u64, _: &[Segment]) -> Result<usize, DmaError> {
        Ok(0)
    }
    fn write_file(&self, _: BorrowedFd<'_>, _: u64, _: &[Segment]) -> Result<usize, DmaError> {
        Ok(0)
    }
    fn invalidate(&self) {}
}

/// XSA-155 (CVE-2015-8550): a request was read again after it had been checked.
#[test]
fn double_fetch_of_a_request() {
    for layout in [Layout::X86_64, Layout::X86_32] {
        let bed = bed(layout, true, WRITABLE);
        let front = Fake(bed.guest.world.clone(), bed.guest.range.clone());
        let mut ring = Ring::new(&front, 1, layout).unwrap();
        bed.guest.ask(op::WRITE, 7, 3, &[(100, 0, 7), (101, 1, 2)]);
        let plain = ring.take(&front, &*bed.guest.range).unwrap().unwrap();
        let mut ring = Ring::new(&front, 1, layout).unwrap();
        let changing = Changing(bed.guest.range.clone());
        let taken = ring.take(&front, &changing).unwrap().unwrap();
        assert_eq!(taken, plain, "every field is of one moment");
    }
}

/// XSA-216 (CVE-2017-10911): the unused bytes of an answer had what was on the stack.
#[test]
fn stack_contents_in_the_padding_of_an_answer() {
    for layout in [Layout::X86_64, Layout::X86_32] {
        let mut bed = bed(layout, true, WRITABLE);
        let filled = vec![0xee; layout.entry() * 32];
        bed.guest.write(RING, ring::ENTRIES, &filled);
        bed.guest.ask(op::READ, 0x1122_3344_5566_7788, 3, &[(100, 0, 7)]);
        let asked = bed.guest.read(RING, ring::ENTRIES, layout.entry());
        bed.signal();
        let answered = bed.guest.read(RING, ring::ENTRIES, layout.entry());
        let wide = if layout == Layout::X86_64 { 16 } else { 12 };
        let want = [&0x1122_3344_5566_7788u64.to_le_bytes()[..], &[op::READ, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(answered[..wide], want[..wide]);
        assert!(answered[wide..] == asked[wide..], "what is behind it is still the guest's own");
        assert!(bed.guest.read(RING, ring::ENTRIES + layout.entry(), 4).iter().all(|b| *b == 0xee));
    }
}
