//! A drive's operations, for people to read; the counts survive a restart of its process.
use super::state::CountersState;
use crate::backend::Job;
use bulkhead_bus::{DriveCounters, Inspect};

/// Numbers of jobs and bytes of a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    reads: u64,
    bytes_read: u64,
    writes: u64,
    bytes_written: u64,
    flushes: u64,
    trims: u64,
    failed: u64,
}

/// A job's kind and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Read(u64),
    Write(u64),
    Flush,
    Trim,
}

impl Work {
    pub(crate) fn of(job: &Job) -> Self {
        match job {
            Job::Read { len, .. } => Self::Read(*len as u64),
            Job::Write { data, .. } => Self::Write(data.len() as u64),
            Job::ReadDma { to, .. } => Self::Read(crate::backend::whole(to) as u64),
            Job::WriteDma { from, .. } => Self::Write(crate::backend::whole(from) as u64),
            Job::Flush => Self::Flush,
            Job::Trim(_) => Self::Trim,
        }
    }
}

impl Counters {
    /// A job has ended.
    pub(crate) fn ended(&mut self, work: Work, good: bool) {
        let (count, bytes) = match work {
            _ if !good => (&mut self.failed, None),
            Work::Read(n) => (&mut self.reads, Some((&mut self.bytes_read, n))),
            Work::Write(n) => (&mut self.writes, Some((&mut self.bytes_written, n))),
            Work::Flush => (&mut self.flushes, None),
            Work::Trim => (&mut self.trims, None),
        };
        *count = count.saturating_add(1);
        if let Some((bytes, n)) = bytes {
            *bytes = bytes.saturating_add(n);
        }
    }

    pub(crate) fn facts(&self) -> DriveCounters {
        let Self { reads, bytes_read, writes, bytes_written, flushes, trims, failed } = *self;
        DriveCounters { reads, bytes_read, writes, bytes_written, flushes, trims, failed }
    }

    pub(crate) fn inspect(&self, out: &mut Inspect) {
        out.value("reads", self.reads).value("bytes read", self.bytes_read);
        out.value("writes", self.writes).value("bytes written", self.bytes_written);
        out.value("flushes", self.flushes).value("trims", self.trims).value("failed", self.failed);
    }

    /// The saved counts; `None` if all are zero.
    pub(crate) fn save(&self) -> Option<CountersState> {
        let Self { reads, bytes_read, writes, bytes_written, flushes, trims, failed } = *self;
        (*self != Self::default()).then_some(CountersState {
            reads,
            bytes_read,
            writes,
            bytes_written,
            flushes,
            trims,
            failed,
        })
    }

    pub(crate) fn load(s: Option<&CountersState>) -> Self {
        s.map_or_else(Self::default, |s| {
            let CountersState { reads, bytes_read, writes, bytes_written, flushes, trims, failed } = *s;
            Self { reads, bytes_read, writes, bytes_written, flushes, trims, failed }
        })
    }
}
