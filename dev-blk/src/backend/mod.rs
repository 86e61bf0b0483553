//! Images, and the threads that read and write them. A register access never waits for a disk: it submits a [`Job`], whose result
//! arrives by `poll`.
mod error;
mod faulty;
mod image;
mod qcow2;
#[cfg(test)]
mod refusal;
mod room;
#[cfg(test)]
mod tests;

use bulkhead_bus::{DmaError, GuestMemory, Segment};
pub use error::{ImageError, Refusal};
pub use image::{Chain, Format, Image};
use image::{Content, Formatted, locked};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Most bytes that one call copies between guest memory and an image.
const CHUNK: usize = 1 << 20;

/// An operation on an image.
#[derive(Debug)]
pub enum Job {
    /// Read `len` bytes.
    Read {
        /// Offset in the image, in bytes.
        offset: u64,
        /// Number of bytes.
        len: usize,
    },
    /// Write bytes.
    Write {
        /// Offset in the image, in bytes.
        offset: u64,
        /// The bytes to write.
        data: Vec<u8>,
    },
    /// Read into guest memory.
    ReadDma {
        /// Offset in the image, in bytes.
        offset: u64,
        /// The destination.
        to: Vec<Segment>,
    },
    /// Write from guest memory.
    WriteDma {
        /// Offset in the image, in bytes.
        offset: u64,
        /// The source.
        from: Vec<Segment>,
    },
    /// Make completed writes durable.
    Flush,
    /// Discard these ranges (offset, bytes).
    Trim(Vec<(u64, u64)>),
}

impl Job {
    /// Where a write ends in the image; `None` if it is none.
    fn writes_to(&self) -> Option<u64> {
        match self {
            Self::Write { offset, data } => Some(offset.saturating_add(data.len() as u64)),
            Self::WriteDma { offset, from } => {
                Some(from.iter().fold(*offset, |end, segment| end.saturating_add(u64::from(segment.len))))
            }
            Self::Read { .. } | Self::ReadDma { .. } | Self::Flush | Self::Trim(_) => None,
        }
    }
}

/// The result of a job: the bytes of [`Job::Read`], empty for others.
pub type Outcome = Result<Vec<u8>, Errno>;

/// Carries out jobs, one at a time in each lane.
pub trait Executor: Send {
    /// Submits a job to a lane, which must be idle.
    fn submit(&mut self, lane: usize, image: Arc<Image>, job: Job);
    /// Takes a result and its lane, if there is one.
    fn take(&mut self) -> Option<(usize, Outcome)>;
    /// Carries out a job in the calling thread and returns the time that it took; `None` if the executor cannot, or the job would
    /// wait for space. It saves an otherwise idle caller the two wake-ups of a lane.
    fn at_once(&mut self, image: &Image, job: &Job) -> Option<(Outcome, Duration)> {
        let _ = (image, job);
        None
    }
}

pub(crate) fn whole(segments: &[Segment]) -> usize {
    segments.iter().fold(0usize, |n, s| n.saturating_add(s.len as usize))
}

/// Splits segments into groups of at most [`CHUNK`] bytes.
fn chunks(segments: &[Segment]) -> Vec<Vec<Segment>> {
    let mut groups = vec![Vec::new()];
    let mut size = 0usize;
    for segment in segments {
        let (mut address, mut left) = (segment.address, segment.len as usize);
        while left > 0 {
            if size == CHUNK {
                groups.push(Vec::new());
                size = 0;
            }
            let piece = left.min(CHUNK.saturating_sub(size));
            if let Some(group) = groups.last_mut() {
                group.push(Segment { address, len: u32::try_from(piece).unwrap_or(0) });
            }
            address = address.saturating_add(piece as u64);
            left = left.saturating_sub(piece);
            size = size.saturating_add(piece);
        }
    }
    groups
}

fn errno(e: DmaError) -> Errno {
    match e {
        DmaError::File(errno) => errno,
        DmaError::NoRam(_) | DmaError::None => Errno::FAULT,
    }
}

/// Carries out one job. If the storage is full and the image is set to wait, it repeats the job.
fn run(image: &Image, memory: &dyn GuestMemory, job: &Job) -> Outcome {
    loop {
        let outcome = once(image, memory, job);
        if !matches!(outcome, Err(Errno::NOSPC | Errno::DQUOT)) || !image.wait_for_room() {
            image.room.end();
            return outcome;
        }
    }
}

fn once(image: &Image, memory: &dyn GuestMemory, job: &Job) -> Outcome {
    if let Some(faults) = &image.faults {
        faults.apply(job)?;
    }
    // Devices look at it before; a file would grow.
    if job.writes_to().is_some_and(|end| end > image.size()) {
        return Err(Errno::IO);
    }
    let outcome = match &image.content {
        Content::Raw(file) => run_raw(file, memory, job),
        Content::Formatted(access) => run_formatted(&mut locked(access), memory, job),
    };
    if outcome == Err(Errno::FBIG) {
        image.room.tell_limit();
    }
    outcome
}

fn run_raw(file: &OwnedFd, memory: &dyn GuestMemory, job: &Job) -> Outcome {
    match job {
        &Job::Read { offset, len } => {
            let mut data = vec![0; len];
            let mut done = 0usize;
            while let Some(rest) = data.get_mut(done..).filter(|r| !r.is_empty()) {
                match rustix::io::pread(file, rest, offset.saturating_add(done as u64)) {
                    Ok(0) => return Err(Errno::IO),
                    Ok(n) => done = done.saturating_add(n),
                    Err(Errno::INTR) => {}
                    Err(e) => return Err(e),
                }
            }
            Ok(data)
        }
        Job::Write { offset, data } => {
            let mut done = 0usize;
            while let Some(rest) = data.get(done..).filter(|r| !r.is_empty()) {
                match rustix::io::pwrite(file, rest, offset.saturating_add(done as u64)) {
                    Ok(0) => return Err(Errno::NOSPC),
                    Ok(n) => done = done.saturating_add(n),
                    Err(Errno::INTR) => {}
                    Err(e) => return Err(e),
                }
            }
            Ok(Vec::new())
        }
        Job::ReadDma { offset, to } => {
            let mut at = *offset;
            for group in chunks(to) {
                let n = memory.read_file(file.as_fd(), at, &group).map_err(errno)?;
                if n != whole(&group) {
                    return Err(Errno::IO);
                }
                at = at.saturating_add(n as u64);
            }
            Ok(Vec::new())
        }
        Job::WriteDma { offset, from } => {
            let mut at = *offset;
            for group in chunks(from) {
                let n = memory.write_file(file.as_fd(), at, &group).map_err(errno)?;
                if n != whole(&group) {
                    return Err(Errno::NOSPC);
                }
                at = at.saturating_add(n as u64);
            }
            Ok(Vec::new())
        }
        Job::Flush => rustix::fs::fdatasync(file).map(|()| Vec::new()),
        Job::Trim(ranges) => {
            use rustix::fs::FallocateFlags;
            for &(offset, len) in ranges {
                // A discard is advice: a file system that does not support it causes no error.
                let _ =
                    rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len);
            }
            Ok(Vec::new())
        }
    }
}

/// The same for an image with tables. As with a raw image, a write that is reported as done has left this process, tables included.
fn run_formatted(image: &mut Formatted, memory: &dyn GuestMemory, job: &Job) -> Outcome {
    let failed = |e: std::io::Error| image::errno(&e);
    match job {
        &Job::Read { offset, len } => {
            let mut data = vec![0; len];
            image.read(data.as_mut_slice(), offset).map_err(failed)?;
            Ok(data)
        }
        Job::Write { offset, data } => {
            image.write(data.as_slice(), *offset).map_err(failed)?;
            image.settle().map_err(failed)?;
            Ok(Vec::new())
        }
        Job::ReadDma { offset, to } => {
            let mut at = *offset;
            for group in chunks(to) {
                let mut data = vec![0; whole(&group)];
                image.read(data.as_mut_slice(), at).map_err(failed)?;
                let mut rest = data.as_slice();
                for segment in group {
                    let (piece, more) = rest.split_at_checked(segment.len as usize).ok_or(Errno::IO)?;
                    memory.write(segment.address, piece).map_err(errno)?;
                    rest = more;
                }
                at = at.saturating_add(data.len() as u64);
            }
            Ok(Vec::new())
        }
        Job::WriteDma { offset, from } => {
            let mut at = *offset;
            for group in chunks(from) {
                let mut data = vec![0; whole(&group)];
                let mut rest = data.as_mut_slice();
                for segment in group {
                    let (piece, more) = rest.split_at_mut_checked(segment.len as usize).ok_or(Errno::IO)?;
                    memory.read(segment.address, piece).map_err(errno)?;
                    rest = more;
                }
                image.write(data.as_slice(), at).map_err(failed)?;
                at = at.saturating_add(data.len() as u64);
            }
            image.settle().map_err(failed)?;
            Ok(Vec::new())
        }
        Job::Flush => image.sync().map(|()| Vec::new()).map_err(failed),
        Job::Trim(ranges) => {
            for &(offset, len) in ranges {
                // Advice, as above.
                let _ = image.discard(offset, len);
            }
            image.settle().map_err(failed)?;
            Ok(Vec::new())
        }
    }
}

/// A job for a thread.
type Order = (Arc<Image>, Job);

/// One thread for each lane, created before the filter is installed. The threads live as long as the process: a thread's end needs
/// system calls that no filter allows.
pub struct Threads {
    memory: Arc<dyn GuestMemory>,
    lanes: Vec<Sender<Order>>,
    done: Receiver<(usize, Outcome)>,
}

impl Threads {
    /// Creates the threads. They ring `bell` (an eventfd) for every result.
    pub fn new(lanes: usize, memory: &Arc<dyn GuestMemory>, bell: &Arc<OwnedFd>) -> std::io::Result<Self> {
        let (finished, done) = channel();
        let mut senders = Vec::new();
        let (running, is_running) = channel();
        for lane in 0..lanes {
            let (sender, orders) = channel::<Order>();
            let (memory, bell, finished, running) = (memory.clone(), bell.clone(), finished.clone(), running.clone());
            let work = move || {
                let _ = running.send(());
                for (image, job) in orders {
                    let _ = finished.send((lane, run(&image, &*memory, &job)));
                    let _ = rustix::io::write(&bell, &1u64.to_ne_bytes());
                }
            };
            std::thread::Builder::new().name(format!("disk{lane}")).stack_size(256 * 1024).spawn(work)?;
            senders.push(sender);
            // A new thread makes system calls that the filter forbids, so the filter must not be installed before the thread runs.
            let _ = is_running.recv();
        }
        Ok(Self { memory: memory.clone(), lanes: senders, done })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // While a sender exists, its thread waits for the next order.
        std::mem::forget(std::mem::take(&mut self.lanes));
    }
}

impl Executor for Threads {
    fn submit(&mut self, lane: usize, image: Arc<Image>, job: Job) {
        if let Some(sender) = self.lanes.get(lane) {
            image.begin();
            let _ = sender.send((image, job));
        }
    }
    fn take(&mut self) -> Option<(usize, Outcome)> {
        self.done.try_recv().ok()
    }
    fn at_once(&mut self, image: &Image, job: &Job) -> Option<(Outcome, Duration)> {
        let begun = Instant::now();
        let outcome = once(image, &*self.memory, job);
        (!matches!(outcome, Err(Errno::NOSPC | Errno::DQUOT))).then(|| (outcome, begun.elapsed()))
    }
}

/// Carries out jobs when they are submitted; for tests.
pub struct Inline {
    memory: Arc<dyn GuestMemory>,
    done: std::collections::VecDeque<(usize, Outcome)>,
    /// Errors of the next jobs, in order; `None` lets one succeed.
    pub failures: Arc<std::sync::Mutex<std::collections::VecDeque<Option<Errno>>>>,
}

impl Inline {
    /// An executor on this guest memory.
    pub fn new(memory: Arc<dyn GuestMemory>) -> Self {
        Self { memory, done: std::collections::VecDeque::new(), failures: Arc::default() }
    }
}

impl Executor for Inline {
    fn submit(&mut self, lane: usize, image: Arc<Image>, job: Job) {
        let failure = self.failures.lock().ok().and_then(|mut f| f.pop_front()).flatten();
        let outcome = failure.map_or_else(|| run(&image, &*self.memory, &job), Err);
        self.done.push_back((lane, outcome));
    }
    fn take(&mut self) -> Option<(usize, Outcome)> {
        self.done.pop_front()
    }
    fn at_once(&mut self, image: &Image, job: &Job) -> Option<(Outcome, Duration)> {
        Some((once(image, &*self.memory, job), Duration::ZERO))
    }
}
