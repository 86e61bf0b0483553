//! The host's side of a run: what its images must hold, and how jobs go. The jobs of a device pass through here, so that each is
//! compared with what its drive may do.
use super::disks::Disk;
use crate::backend::{Executor, Image, Inline, Job, Outcome, whole};
use bulkhead_bus::{DmaError, GuestMemory, Segment};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most bytes of one job that this storage carries out, so that a run ends soon; a larger one fails with EIO.
const MOST: usize = 1 << 20;
/// Most errors that wait for jobs.
const ERRORS: usize = 16;
/// Most polls until a late job has ended; the interpreter's bound is far higher.
const LATEST: u8 = 64;

/// A place for a drive.
#[derive(Debug)]
pub(super) struct Place {
    /// The disk's image, or the medium in the drive.
    pub(super) medium: Option<Disk>,
    pub(super) read_only: bool,
    pub(super) cdrom: bool,
}

/// The images at the four places, and the plan for the next jobs.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) places: [Option<Place>; 4],
    failures: VecDeque<Option<Errno>>,
    /// Polls that the next job takes.
    late: u8,
    /// The last job ends first.
    pub(super) newest_first: bool,
    /// Jobs wait.
    pub(super) held: bool,
    /// Counts changes of the images that no guest has made.
    pub(super) changes: u64,
    wrong: Option<String>,
}

/// A world, as its device's parts share it.
pub(super) type Shared = Arc<Mutex<World>>;

/// Locks it, even if a run has panicked.
pub(super) fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// The next jobs fail with these errors; `None` lets one succeed.
    pub(super) fn fail(&mut self, errors: impl IntoIterator<Item = Option<Errno>>) {
        self.failures.extend(errors);
        self.failures.truncate(ERRORS);
    }

    /// The next job takes so many polls.
    pub(super) fn delay(&mut self, polls: u8) {
        self.late = polls.min(LATEST);
    }

    /// Notes the first thing that is wrong.
    pub(super) fn wrong(&mut self, what: String) {
        self.wrong.get_or_insert(what);
    }

    /// Checks what was noted, and the images.
    pub(super) fn holds(&mut self) -> Result<(), String> {
        match self.wrong.take() {
            Some(wrong) => Err(wrong),
            None => self.places.iter().flatten().filter_map(|place| place.medium.as_ref()).try_for_each(Disk::holds),
        }
    }

    /// Checks a job of the drive at `place` before it begins.
    fn check(&mut self, place: usize, size: u64, job: &Job) {
        let Some(Some(Place { read_only, cdrom, .. })) = self.places.get(place) else { return };
        let writes = matches!(job, Job::Write { .. } | Job::WriteDma { .. } | Job::Trim(_));
        let inside = if *cdrom { 2047 } else { 511 };
        let wrong = if writes && (*read_only || *cdrom) {
            Some("writes to a medium that is only read")
        } else if touches(job).iter().any(|(at, len)| at.checked_add(*len).is_none_or(|end| end > size)) {
            Some("goes beyond the end of its image")
        } else if touches(job).iter().any(|(at, len)| (at | len) & inside != 0) {
            Some("does not consist of sectors")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            self.wrong(format!("a job of drive {place} {wrong}: {:?}", touches(job)));
        }
    }
}

/// The byte ranges of a job: begin and length.
fn touches(job: &Job) -> Vec<(u64, u64)> {
    match job {
        Job::Read { offset, len } => vec![(*offset, *len as u64)],
        Job::Write { offset, data } => vec![(*offset, data.len() as u64)],
        Job::ReadDma { offset, to } => vec![(*offset, whole(to) as u64)],
        Job::WriteDma { offset, from } => vec![(*offset, whole(from) as u64)],
        Job::Flush => Vec::new(),
        Job::Trim(ranges) => ranges.clone(),
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.places.iter_mut().filter_map(|place| place.take()?.medium).for_each(Disk::keep);
    }
}

/// Guest memory that keeps what a job has read of it: a second read may find other bytes.
struct Tapped {
    memory: Arc<dyn GuestMemory>,
    read: Mutex<Vec<u8>>,
}

impl GuestMemory for Tapped {
    fn read(&self, address: u64, to: &mut [u8]) -> Result<(), DmaError> {
        self.memory.read(address, to)?;
        locked(&self.read).extend_from_slice(to);
        Ok(())
    }
    fn write(&self, address: u64, from: &[u8]) -> Result<(), DmaError> {
        self.memory.write(address, from)
    }
    fn read_file(&self, file: BorrowedFd<'_>, offset: u64, to: &[Segment]) -> Result<usize, DmaError> {
        self.memory.read_file(file, offset, to)
    }
    fn write_file(&self, file: BorrowedFd<'_>, offset: u64, from: &[Segment]) -> Result<usize, DmaError> {
        let mut done = 0usize;
        for segment in from {
            let mut bytes = vec![0; segment.len as usize];
            self.read(segment.address, &mut bytes)?;
            let at = offset.saturating_add(done as u64);
            done = done.saturating_add(rustix::io::pwrite(file, &bytes, at).map_err(DmaError::File)?);
        }
        Ok(done)
    }
    fn invalidate(&self) {}
}

/// The images of a device by place; a drive's job names its image only.
pub(super) type Images = Arc<Mutex<[Option<Arc<Image>>; 4]>>;

/// Carries out a device's jobs as the world's plan says.
pub(super) struct Storage {
    world: Shared,
    images: Images,
    tapped: Arc<Tapped>,
    inline: Inline,
    waiting: VecDeque<(usize, Arc<Image>, Job)>,
    /// Lane, result, and the polls until it is there.
    done: VecDeque<(usize, Outcome, u8)>,
}

impl Storage {
    pub(super) fn new(world: Shared, images: Images, memory: Arc<dyn GuestMemory>) -> Self {
        let tapped = Arc::new(Tapped { memory, read: Mutex::default() });
        let inline = Inline::new(tapped.clone());
        Self { world, images, tapped, inline, waiting: VecDeque::new(), done: VecDeque::new() }
    }

    fn carry_out(&mut self, lane: usize, image: &Arc<Image>, job: &Job) {
        let shared = self.world.clone();
        let mut world = locked(&shared);
        let late = std::mem::take(&mut world.late);
        let injected = world.failures.pop_front().flatten();
        let large = touches(job).iter().map(|(_, len)| *len).max().unwrap_or(0) > MOST as u64;
        let failure = injected.or((large && !matches!(job, Job::Trim(_))).then_some(Errno::IO));
        let place = locked(&self.images).iter().position(|i| i.as_ref().is_some_and(|i| Arc::ptr_eq(i, image)));
        // An ejected medium's job has no place any more.
        if let Some(place) = place {
            world.check(place, image.size(), job);
        }
        let outcome = match failure {
            Some(errno) => Err(errno),
            None => {
                locked(&self.tapped.read).clear();
                let outcome = self.inline.at_once(image, job).map_or(Err(Errno::IO), |(outcome, _)| outcome);
                let read = std::mem::take(&mut *locked(&self.tapped.read));
                if let Some(disk) = place.and_then(|place| world.places.get_mut(place)?.as_mut()?.medium.as_mut()) {
                    keep(disk, job, &outcome, &read, &mut |at, len| {
                        self.inline.at_once(image, &Job::Read { offset: at, len })?.0.ok()
                    });
                    if let (Job::Read { offset, len }, Ok(data)) = (job, &outcome)
                        && *data != disk.expected(*offset, *len)
                    {
                        world.wrong(format!("a read of {len} bytes at {offset:#x} finds what was not written"));
                    }
                }
                outcome
            }
        };
        self.done.push_back((lane, outcome, late));
    }
}

/// Keeps in `disk` what a job has written. `look` reads the image itself, where the job does not tell what it has left there.
fn keep(
    disk: &mut Disk,
    job: &Job,
    outcome: &Outcome,
    read: &[u8],
    look: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>,
) {
    let uncertain = disk.has_tables() && outcome.is_err();
    match job {
        Job::Write { .. } | Job::WriteDma { .. } if uncertain => {
            for (at, len) in touches(job) {
                if let Some(data) = look(at, len as usize) {
                    disk.wrote(at, &data);
                }
            }
        }
        Job::Write { offset, data } if outcome.is_ok() => disk.wrote(*offset, data),
        Job::WriteDma { offset, .. } => disk.wrote(*offset, read),
        Job::Trim(ranges) if disk.has_tables() => {
            // Clusters that are shared with the range's neighbours stay.
            for (at, len) in ranges {
                for (begin, old) in disk.pieces(*at, *len) {
                    if let Some(data) = look(begin, old) {
                        disk.wrote(begin, &data);
                    }
                }
            }
        }
        Job::Trim(ranges) => ranges.iter().for_each(|(at, len)| disk.zero(*at, at.saturating_add(*len))),
        _ => {}
    }
}

impl Executor for Storage {
    fn submit(&mut self, lane: usize, image: Arc<Image>, job: Job) {
        let busy = self.waiting.iter().any(|(l, ..)| *l == lane) || self.done.iter().any(|(l, ..)| *l == lane);
        let held = {
            let mut world = locked(&self.world);
            if busy {
                world.wrong(format!("lane {lane} gets a job while it has one"));
            }
            world.held
        };
        if held {
            self.waiting.push_back((lane, image, job));
        } else {
            self.carry_out(lane, &image, &job);
        }
    }

    fn take(&mut self) -> Option<(usize, Outcome)> {
        let (held, newest_first) = {
            let world = locked(&self.world);
            (world.held, world.newest_first)
        };
        if held {
            return None;
        }
        while let Some((lane, image, job)) = self.waiting.pop_front() {
            self.carry_out(lane, &image, &job);
        }
        let ready = |(_, _, polls): &(usize, Outcome, u8)| *polls == 0;
        let at = if newest_first { self.done.iter().rposition(ready) } else { self.done.iter().position(ready) };
        self.done.iter_mut().for_each(|(_, _, polls)| *polls = polls.saturating_sub(1));
        let (lane, outcome, _) = self.done.remove(at?)?;
        Some((lane, outcome))
    }
}
