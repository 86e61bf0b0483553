//! The back end for its fuzz target, its corpus test and its unit tests, with a domain's memory in frames.
use super::{BYTES, Frames, PAGE, Vfb};
use bulkhead_bus::fake::{FakeFrontend, FakeMemory};
use bulkhead_bus::pv::exercise::Subject;
use bulkhead_bus::pv::means;
use bulkhead_bus::{Auxiliary, DmaError, GuestMemory, Segment};
use rustix::fd::BorrowedFd;
use std::sync::Arc;

/// Frames of the domain: 4 MiB.
pub(super) const FRAMES: u64 = 1024;

/// The domain's memory by frames.
#[derive(Clone)]
pub(super) struct Domain(pub(super) Arc<FakeMemory>);

/// A mapping of a list of frames.
struct View(Arc<FakeMemory>, Vec<u64>);

impl View {
    fn pieces(
        &self,
        address: u64,
        len: usize,
        mut f: impl FnMut(u64, usize, usize) -> Result<(), DmaError>,
    ) -> Result<(), DmaError> {
        let mut done = 0usize;
        while done < len {
            let at = address.saturating_add(done as u64);
            let frame = self.1.get((at >> 12) as usize).ok_or(DmaError::NoRam(at))?;
            let n = PAGE.saturating_sub((at & 4095) as usize).min(len.saturating_sub(done));
            f((frame << 12) | (at & 4095), done, n)?;
            done = done.saturating_add(n);
        }
        Ok(())
    }
}

impl GuestMemory for View {
    fn read(&self, address: u64, to: &mut [u8]) -> Result<(), DmaError> {
        self.pieces(address, to.len(), |at, done, n| {
            to.get_mut(done..done.saturating_add(n)).map_or(Ok(()), |to| self.0.read(at, to))
        })
    }
    fn write(&self, address: u64, from: &[u8]) -> Result<(), DmaError> {
        self.pieces(address, from.len(), |at, done, n| {
            from.get(done..done.saturating_add(n)).map_or(Ok(()), |from| self.0.write(at, from))
        })
    }
    fn read_file(&self, _: BorrowedFd<'_>, _: u64, _: &[Segment]) -> Result<usize, DmaError> {
        Err(DmaError::None)
    }
    fn write_file(&self, _: BorrowedFd<'_>, _: u64, _: &[Segment]) -> Result<usize, DmaError> {
        Err(DmaError::None)
    }
    fn invalidate(&self) {}
}

impl Frames for Domain {
    fn map(&self, frames: &[u64]) -> Option<Arc<dyn GuestMemory>> {
        // A mapping that exceeds the limit is a fault in every test.
        if frames.len() > BYTES as usize / PAGE {
            std::process::abort();
        }
        frames
            .iter()
            .all(|f| *f < FRAMES)
            .then(|| Arc::new(View(self.0.clone(), frames.to_vec())) as Arc<dyn GuestMemory>)
    }
}

/// A frame buffer of a domain that writes to all of its memory.
pub fn exercised() -> Subject<'static> {
    fn make(guest: &FakeFrontend) -> Box<dyn Auxiliary> {
        Box::new(Vfb::new(Box::new(guest.clone()), Box::new(Domain(guest.memory.clone()))))
    }
    Subject::new(&make, FRAMES as usize, &["page-ref", "event-channel", "protocol", "feature-update"], &means::VFB)
}
