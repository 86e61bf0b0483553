//! Injected faults of a disk's storage, for tests: a table in a memfd that the simulated machine writes and the disks' process
//! reads before each job. Only `-sim` passes one; without it no fault can be injected.

/// Entries of the table.
pub const FAULTS: usize = 16;
/// Bytes of an entry.
pub const FAULT_SIZE: usize = 48;
/// Offset in an entry of `left` and `met`, which the disks' process writes.
pub const FAULT_COUNTS_AT: usize = 28;

/// The kind of job that a fault affects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FaultOn {
    /// A read of the storage.
    Read = 1,
    /// A write to the storage.
    Write = 2,
    /// A flush of written data to the medium.
    Flush = 3,
    /// A discard of sectors.
    Trim = 4,
}

/// A fault. It affects jobs that touch its byte range; a flush touches all bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Index of the drive.
    pub drive: u8,
    /// The jobs that it affects.
    pub on: FaultOn,
    /// The job waits until this is false.
    pub held: bool,
    /// First byte of the range that fails.
    pub first: u64,
    /// End of the range, exclusive.
    pub end: u64,
    /// The job fails with this error number; 0: it is carried out.
    pub errno: u32,
    /// The job is delayed by so many milliseconds.
    pub late: u32,
    /// Number of jobs that it still affects; `u32::MAX`: all.
    pub left: u32,
    /// Number of jobs that it has affected.
    pub met: u32,
}

impl Fault {
    /// A fault that makes all jobs of this kind fail with this error number.
    pub fn always(drive: u8, on: FaultOn, errno: u32) -> Self {
        Self { drive, on, held: false, first: 0, end: u64::MAX, errno, late: 0, left: u32::MAX, met: 0 }
    }

    /// Encodes the entry of the table.
    pub fn to_bytes(&self) -> [u8; FAULT_SIZE] {
        let words = [self.errno, self.late, self.left, self.met].into_iter().flat_map(u32::to_le_bytes);
        let bytes = [self.drive, self.on as u8, u8::from(self.held), 1].into_iter();
        let places = [self.first, self.end].into_iter().flat_map(u64::to_le_bytes);
        let mut out = [0; FAULT_SIZE];
        out.iter_mut().zip(bytes.chain(places).chain(words)).for_each(|(to, from)| *to = from);
        out
    }

    /// Decodes an entry of the table; `None` if it is unused.
    pub fn from_bytes(bytes: &[u8; FAULT_SIZE]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<4>()?;
        let (first, rest) = rest.split_first_chunk()?;
        let (end, rest) = rest.split_first_chunk()?;
        let [errno, late, left, met, ..] = *rest.as_chunks::<4>().0 else { return None };
        let word = u32::from_le_bytes;
        let on = match head {
            [_, 1, _, 1] => FaultOn::Read,
            [_, 2, _, 1] => FaultOn::Write,
            [_, 3, _, 1] => FaultOn::Flush,
            [_, 4, _, 1] => FaultOn::Trim,
            _ => return None,
        };
        Some(Self {
            drive: head[0],
            on,
            held: head[2] != 0,
            first: u64::from_le_bytes(*first),
            end: u64::from_le_bytes(*end),
            errno: word(errno),
            late: word(late),
            left: word(left),
            met: word(met),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_read_as_it_was_written() {
        let fault = Fault { held: true, late: 7, left: 2, met: 9, first: 1, ..Fault::always(3, FaultOn::Flush, 28) };
        let bytes = fault.to_bytes();
        assert_eq!(Fault::from_bytes(&bytes), Some(fault));
        assert_eq!(bytes[FAULT_COUNTS_AT..][..8], [2, 0, 0, 0, 9, 0, 0, 0]);
        assert_eq!(Fault::from_bytes(&[0; FAULT_SIZE]), None);
    }
}
