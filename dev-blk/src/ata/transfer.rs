//! What a command comes to: a value that the drive gives and a transport carries out.
use super::cd_sector::Form;
use super::spec::{CD_SECTOR, SECTOR};
use crate::backend::Job;
use bulkhead_bus::Segment;

/// Bytes that a read fetches at once.
const BUFFER: usize = 128 * 1024;

/// What a command comes to.
#[derive(Debug)]
pub(crate) enum Reply {
    /// It has ended, well or not: the registers tell.
    Ended,
    /// The drive wants a packet, for `Drive::packet`.
    Packet,
    /// A job for the medium, then the command has ended.
    Job(Job),
    /// These sectors are read, and their data is dropped.
    Verify(Sectors),
    /// Data moves between the host and the drive.
    Data {
        /// Which.
        what: Data,
        /// How.
        by: Protocol,
    },
}

/// How data moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// By programmed I/O, in blocks of so many bytes; the last one may be shorter.
    Pio { block: usize },
    /// By DMA.
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
        /// What it says.
        list: List,
        /// Its length.
        bytes: usize,
    },
}

/// What a list from the host says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    /// The ranges of DATA SET MANAGEMENT.
    Ranges,
    /// The parameters of MODE SELECT.
    Parameters,
}

impl Data {
    /// Bytes that the host takes or gives.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Bytes(data) => data.len(),
            Self::In(sectors) | Self::Out(sectors) => sectors.bytes(),
            Self::List { bytes, .. } => *bytes,
        }
    }

    /// The host takes them.
    pub(crate) fn to_host(&self) -> bool {
        matches!(self, Self::Bytes(_) | Self::In(_))
    }
}

/// Sectors of a medium that a command moves, and how far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sectors {
    next: u64,
    left: u32,
    /// Bytes of one on the medium.
    size: usize,
    /// What the host gets of each, and the first one that it has not got.
    form: Form,
    form_next: u64,
}

impl Sectors {
    /// None.
    pub(crate) const NONE: Self = Self { next: 0, left: 0, size: SECTOR, form: Form::USER, form_next: 0 };

    /// Sectors of a disk.
    pub(super) fn of_disk(first: u64, count: u32) -> Self {
        Self { next: first, left: count, ..Self::NONE }
    }

    /// Sectors of a CD.
    pub(super) fn of_cd(first: u64, count: u32, form: Form) -> Self {
        Self { next: first, left: count, size: CD_SECTOR, form, form_next: first }
    }

    /// All have moved.
    pub(crate) fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// The host gets them as they are on the medium.
    pub(crate) fn as_they_are(&self) -> bool {
        self.form == Form::USER
    }

    /// Bytes that the host takes or gives for those that are left.
    pub(crate) fn bytes(&self) -> usize {
        let each = if self.as_they_are() { self.size } else { self.form.bytes() };
        (self.left as usize).saturating_mul(each)
    }

    /// Bytes of the next block, of `most` bytes if so many are left.
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

    /// Reads the next ones, as many as are fetched at once.
    pub(crate) fn read(&mut self) -> Job {
        let most = u32::try_from(BUFFER.div_euclid(self.size)).unwrap_or(1);
        let (offset, count) = (self.offset(), self.left.min(most));
        self.advance(count);
        Job::Read { offset, len: (count as usize).saturating_mul(self.size) }
    }

    /// What the host gets of those that were read.
    pub(crate) fn formed(&mut self, data: Vec<u8>) -> Vec<u8> {
        let first = self.form_next;
        self.form_next = first.saturating_add(data.len().div_euclid(self.size) as u64);
        self.form.of(first, data)
    }

    /// Writes the next ones.
    pub(crate) fn write(&mut self, data: Vec<u8>) -> Job {
        let offset = self.offset();
        self.advance(u32::try_from(data.len().div_euclid(self.size)).unwrap_or(0));
        Job::Write { offset, data }
    }

    /// Reads all of them into guest memory, as they are.
    pub(crate) fn read_to(&self, to: Vec<Segment>) -> Job {
        Job::ReadDma { offset: self.offset(), to }
    }

    /// Writes all of them from guest memory.
    pub(crate) fn write_from(&self, from: Vec<Segment>) -> Job {
        Job::WriteDma { offset: self.offset(), from }
    }
}
