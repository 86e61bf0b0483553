//! Faults of a disk's storage, for tests: a table that the simulated machine writes, in a memfd, and that the disks' process looks at before
//! each job. Only `-sim` hands one over; without it there is no way to ask for a fault.

/// Places in the table.
pub const FAULTS: usize = 16;
/// Bytes of one.
pub const FAULT_SIZE: usize = 48;
/// Where `left` and `met` are, which the disks' process writes.
pub const FAULT_COUNTS_AT: usize = 28;

/// What a fault befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FaultOn {
    /// A read of the storage.
    Read = 1,
    /// A write to the storage.
    Write = 2,
    /// Making durable what was written.
    Flush = 3,
    /// Giving sectors back.
    Trim = 4,
}

/// A fault. It befalls jobs that touch one of its bytes; a flush touches all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Index of the drive.
    pub drive: u8,
    /// What it befalls.
    pub on: FaultOn,
    /// The job waits here until this is false.
    pub held: bool,
    /// First byte of the range that fails.
    pub first: u64,
    /// Byte behind the last.
    pub end: u64,
    /// The job ends with this error number; 0: it is carried out.
    pub errno: u32,
    /// The job is late by so many milliseconds.
    pub late: u32,
    /// How often it is still to happen; `u32::MAX`: always.
    pub left: u32,
    /// How often it has happened.
    pub met: u32,
}

impl Fault {
    /// One that happens always, to any byte, and fails with this error number.
    pub fn always(drive: u8, on: FaultOn, errno: u32) -> Self {
        Self { drive, on, held: false, first: 0, end: u64::MAX, errno, late: 0, left: u32::MAX, met: 0 }
    }

    /// As it is in the table.
    pub fn to_bytes(&self) -> [u8; FAULT_SIZE] {
        let words = [self.errno, self.late, self.left, self.met].into_iter().flat_map(u32::to_le_bytes);
        let bytes = [self.drive, self.on as u8, u8::from(self.held), 1].into_iter();
        let places = [self.first, self.end].into_iter().flat_map(u64::to_le_bytes);
        let mut out = [0; FAULT_SIZE];
        out.iter_mut().zip(bytes.chain(places).chain(words)).for_each(|(to, from)| *to = from);
        out
    }

    /// From the table; an empty place is none.
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
