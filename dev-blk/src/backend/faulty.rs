//! Storage with injected faults of the simulated machine: errors, delays, jobs that wait. A real guest's process never gets a table
//! of faults.
use super::{Job, whole};
use bulkhead_bus::faults::{FAULT_COUNTS_AT, FAULT_SIZE, FAULTS, Fault, FaultOn};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Interval at which a held job checks whether it may continue.
const LOOK: Duration = Duration::from_millis(1);

/// The faults of one drive.
#[derive(Debug)]
pub(super) struct Faults {
    table: OwnedFd,
    drive: u8,
}

/// The kind of a job and its byte ranges.
fn touches(job: &Job) -> (FaultOn, Vec<(u64, u64)>) {
    match job {
        Job::Read { offset, len } => (FaultOn::Read, vec![(*offset, *len as u64)]),
        Job::ReadDma { offset, to } => (FaultOn::Read, vec![(*offset, whole(to) as u64)]),
        Job::Write { offset, data } => (FaultOn::Write, vec![(*offset, data.len() as u64)]),
        Job::WriteDma { offset, from } => (FaultOn::Write, vec![(*offset, whole(from) as u64)]),
        Job::Flush => (FaultOn::Flush, vec![(0, u64::MAX)]),
        Job::Trim(ranges) => (FaultOn::Trim, ranges.clone()),
    }
}

/// Waits with a system call that the profiles of disks already have.
fn pause(time: Duration) {
    let nobody = Mutex::new(());
    let guard = nobody.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = Condvar::new().wait_timeout(guard, time).map_err(|_| ());
}

impl Faults {
    pub(super) fn new(table: OwnedFd, drive: u8) -> Self {
        Self { table, drive }
    }

    fn at(place: usize) -> u64 {
        place.saturating_mul(FAULT_SIZE) as u64
    }

    fn fault(&self, place: usize) -> Option<Fault> {
        let mut bytes = [0; FAULT_SIZE];
        let n = rustix::io::pread(&self.table, &mut bytes, Self::at(place)).ok()?;
        Fault::from_bytes(&bytes).filter(|_| n == FAULT_SIZE)
    }

    /// Applies the faults that affect a job, before it is carried out.
    pub(super) fn apply(&self, job: &Job) -> Result<(), Errno> {
        let (on, ranges) = touches(job);
        let touched =
            |f: &Fault| ranges.iter().any(|(first, len)| *first < f.end && f.first < first.saturating_add(*len));
        for place in 0..FAULTS {
            let Some(fault) = self.fault(place) else { continue };
            if fault.drive != self.drive || fault.on != on || fault.left == 0 || !touched(&fault) {
                continue;
            }
            let left = if fault.left == u32::MAX { u32::MAX } else { fault.left.saturating_sub(1) };
            let counts = [left, fault.met.saturating_add(1)].map(u32::to_le_bytes);
            let counts_at = Self::at(place).saturating_add(FAULT_COUNTS_AT as u64);
            let _ = rustix::io::pwrite(&self.table, counts.as_flattened(), counts_at);
            pause(Duration::from_millis(fault.late.into()));
            while self.fault(place).is_some_and(|f| f.held) {
                pause(LOOK);
            }
            if fault.errno != 0 {
                return Err(i32::try_from(fault.errno).map_or(Errno::IO, Errno::from_raw_os_error));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Image, run};
    use super::*;
    use bulkhead_bus::fake::FakeMemory;

    fn table(faults: &[Fault]) -> OwnedFd {
        let table = rustix::fs::memfd_create("faults", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&table, (FAULTS * FAULT_SIZE) as u64).unwrap();
        for (place, fault) in faults.iter().enumerate() {
            rustix::io::pwrite(&table, &fault.to_bytes(), (place * FAULT_SIZE) as u64).unwrap();
        }
        table
    }

    #[test]
    fn faults_befall_the_jobs_that_they_are_for_as_often_as_they_shall() {
        let disk = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&disk, 1 << 20).unwrap();
        let one = Fault { first: 4096, end: 4608, ..Fault::always(0, FaultOn::Read, 5) };
        let twice = Fault { left: 2, ..Fault::always(0, FaultOn::Write, 28) };
        let table = table(&[one, twice, Fault::always(1, FaultOn::Flush, 5)]);
        let image = Image::raw(disk, 1 << 20).with_faults(rustix::io::dup(&table).unwrap(), 0);
        let memory = FakeMemory::new(4096);
        let run = |job| run(&image, &*memory, &job).map(drop);
        let read = |offset| run(Job::Read { offset, len: 512 });
        let write = || run(Job::Write { offset: 0, data: vec![1; 512] });
        assert_eq!([read(3584), read(4096), read(4608), read(4096)], [Ok(()), Err(Errno::IO), Ok(()), Err(Errno::IO)]);
        assert_eq!([write(), write(), write()], [Err(Errno::NOSPC), Err(Errno::NOSPC), Ok(())]);
        assert_eq!(run(Job::Flush), Ok(()), "another drive's");
        let mut bytes = [0; FAULT_SIZE];
        rustix::io::pread(&table, &mut bytes, FAULT_SIZE as u64).unwrap();
        assert_eq!(Fault::from_bytes(&bytes).map(|f| (f.left, f.met)), Some((0, 2)));
    }

    #[test]
    fn a_job_that_is_held_goes_on_when_it_may() {
        let disk = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let held = Fault { held: true, ..Fault::always(0, FaultOn::Flush, 0) };
        let table = table(&[held]);
        let image = Image::raw(disk, 0).with_faults(rustix::io::dup(&table).unwrap(), 0);
        let job = std::thread::spawn(move || run(&image, &*FakeMemory::new(4096), &Job::Flush));
        let met = || {
            let mut bytes = [0; FAULT_SIZE];
            rustix::io::pread(&table, &mut bytes, 0).unwrap();
            Fault::from_bytes(&bytes).unwrap().met
        };
        while met() == 0 {
            std::thread::yield_now();
        }
        assert!(!job.is_finished());
        rustix::io::pwrite(&table, &Fault { held: false, met: 1, ..held }.to_bytes(), 0).unwrap();
        assert_eq!(job.join().unwrap(), Ok(Vec::new()));
    }
}
