//! The reply to a command: a value that the drive returns and the transport carries out.
use super::cd_sector::Form;
use super::spec::{CD_SECTOR, SECTOR};
use super::state::SectorsState;
use crate::backend::Job;
use bulkhead_bus::{Segment, StateError};

/// Most bytes of one read job.
pub(crate) const BUFFER: usize = 128 * 1024;
/// Most bytes of one read job as the guest gets them: whole sectors of a CD.
pub(crate) const FORMED: usize = BUFFER / CD_SECTOR * super::cd_sector::WHOLE;

/// The reply to a command.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The command has ended; the registers have its result.
    Ended,
    /// The drive requests a packet, for `Drive::packet`.
    Packet,
    /// The command ends after this job.
    Job(Job),
    /// These sectors are read, and their data is discarded.
    Verify(Sectors),
    /// Data is transferred between the host and the drive.
    Data {
        /// Bytes or sectors for the host, sectors or a list from it.
        what: Data,
        /// PIO or DMA.
        by: Protocol,
    },
}

/// A protocol of data transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Programmed I/O, in blocks of this many bytes; the last one may be shorter.
    Pio { block: usize },
    /// DMA.
    Dma,
}

/// Data of a command.
#[derive(Debug)]
pub(crate) enum Data {
    /// These bytes, for the host.
    Bytes(Vec<u8>),
    /// Sectors of the medium, for the host.
    In(Sectors),
    /// Sectors of the medium, from the host.
    Out(Sectors),
    /// A list from the host, for `Drive::list`.
    List {
        /// The kind of list.
        list: List,
        /// Its length in bytes.
        bytes: usize,
    },
}

/// The kind of a list from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    /// The ranges of DATA SET MANAGEMENT.
    Ranges,
    /// The parameters of MODE SELECT.
    Parameters,
}

impl Data {
    /// Number of bytes that the host reads or writes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Bytes(data) => data.len(),
            Self::In(sectors) | Self::Out(sectors) => sectors.bytes(),
            Self::List { bytes, .. } => *bytes,
        }
    }

    /// Whether the host reads them.
    pub(crate) fn to_host(&self) -> bool {
        matches!(self, Self::Bytes(_) | Self::In(_))
    }
}

/// Sectors of a medium that a command transfers, and its progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sectors {
    next: u64,
    left: u32,
    /// Bytes of a sector on the medium.
    size: usize,
    /// The parts of each sector for the host, and the next sector to be formed.
    form: Form,
    form_next: u64,
}

impl Sectors {
    /// No sectors.
    pub(crate) const NONE: Self = Self { next: 0, left: 0, size: SECTOR, form: Form::USER, form_next: 0 };

    /// Sectors of a disk.
    pub(super) fn of_disk(first: u64, count: u32) -> Self {
        Self { next: first, left: count, ..Self::NONE }
    }

    /// Sectors of a CD.
    pub(super) fn of_cd(first: u64, count: u32, form: Form) -> Self {
        Self { next: first, left: count, size: CD_SECTOR, form, form_next: first }
    }

    /// The saved state.
    pub(crate) fn save(&self) -> SectorsState {
        let Self { next, left, size, form, form_next } = *self;
        let form = u32::from(form.byte());
        SectorsState { next, left, cd: size == CD_SECTOR, form, form_next }
    }

    /// Restores a state: of a disk with so many sectors, or of a CD, whose medium may be another one by now: its jobs fail then.
    pub(crate) fn load(s: &SectorsState, of_cd: bool, all: u64) -> Result<Self, StateError> {
        let form = u8::try_from(s.form).ok().and_then(Form::selected).ok_or(StateError::Value("parts of a sector"))?;
        if s.left == 0 {
            return Ok(Self::NONE);
        }
        let all = if of_cd { u64::from(u32::MAX) } else { all };
        let inside = s.next.checked_add(u64::from(s.left)).is_some_and(|end| end <= all);
        if s.cd != of_cd || !inside || (!s.cd && form != Form::USER) || s.form_next > s.next {
            return Err(StateError::Value("sectors of a command"));
        }
        let size = if s.cd { CD_SECTOR } else { SECTOR };
        Ok(Self { next: s.next, left: s.left, size, form, form_next: s.form_next })
    }

    /// Whether all have been transferred.
    pub(crate) fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Whether the host gets the sectors unchanged.
    pub(crate) fn unchanged(&self) -> bool {
        self.form == Form::USER
    }

    /// Number of bytes of the remaining sectors for the host.
    pub(crate) fn bytes(&self) -> usize {
        let each = if self.unchanged() { self.size } else { self.form.bytes() };
        (self.left as usize).saturating_mul(each)
    }

    /// Bytes of the next block: at most `most`.
    pub(crate) fn block(&self, most: usize) -> usize {
        self.bytes().min(most)
    }

    fn offset(&self) -> u64 {
        self.next.saturating_mul(self.size as u64)
    }

    fn advance(&mut self, count: u32) {
        self.next = self.next.saturating_add(u64::from(count));
        self.left = self.left.saturating_sub(count);
    }

    /// The job that reads the next sectors, as many as fit in the buffer.
    pub(crate) fn read(&mut self) -> Job {
        let most = u32::try_from(BUFFER.div_euclid(self.size)).unwrap_or(1);
        let (offset, count) = (self.offset(), self.left.min(most));
        self.advance(count);
        Job::Read { offset, len: (count as usize).saturating_mul(self.size) }
    }

    /// The parts for the host of sectors that were read.
    pub(crate) fn formed(&mut self, data: Vec<u8>) -> Vec<u8> {
        let first = self.form_next;
        self.form_next = first.saturating_add(data.len().div_euclid(self.size) as u64);
        self.form.of(first, data)
    }

    /// The job that writes the next sectors.
    pub(crate) fn write(&mut self, data: Vec<u8>) -> Job {
        let offset = self.offset();
        self.advance(u32::try_from(data.len().div_euclid(self.size)).unwrap_or(0));
        Job::Write { offset, data }
    }

    /// The job that reads all sectors into guest memory, unchanged.
    pub(crate) fn read_to(&self, to: Vec<Segment>) -> Job {
        Job::ReadDma { offset: self.offset(), to }
    }

    /// The job that writes all sectors from guest memory.
    pub(crate) fn write_from(&self, from: Vec<Segment>) -> Job {
        Job::WriteDma { offset: self.offset(), from }
    }
}
