//! Writes a card's frames in pcap's format (draft-ietf-opsawg-pcap), with nanoseconds, to a non-blocking pipe. Frames are as the
//! card's process has them: a large send is one record, and a checksum that is left to the host is incomplete.
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::time::{SystemTime, UNIX_EPOCH};

/// Magic number of nanoseconds in the writer's byte order.
const MAGIC: u32 = 0xa1b2_3c4d;
/// Most bytes of a record.
const SNAPLEN: u32 = 1 << 18;
/// LINKTYPE_ETHERNET.
const ETHERNET: u32 = 1;

/// The capture's pipe and its state.
#[derive(Debug)]
pub(crate) struct Capture {
    to: OwnedFd,
    /// The unwritten rest of the last record.
    rest: Vec<u8>,
    missed: u64,
}

impl Capture {
    /// A capture to this pipe.
    pub(crate) fn new(to: OwnedFd) -> Self {
        let words = [MAGIC, 4 << 16 | 2, 0, 0, SNAPLEN, ETHERNET];
        Self { to, rest: words.into_iter().flat_map(u32::to_le_bytes).collect(), missed: 0 }
    }

    /// Number of frames that were not recorded because the pipe was full.
    pub(crate) fn missed(&self) -> u64 {
        self.missed
    }

    /// Records a frame, or counts it as missed if the pipe is full; false if the reader has closed the pipe.
    pub(crate) fn record(&mut self, frame: &[u8]) -> bool {
        if !self.flush() {
            return false;
        }
        // More than the file's header is unwritten: a record is, so the pipe is full.
        if self.rest.len() > 24 {
            self.missed = self.missed.saturating_add(1);
            return true;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let kept = len.min(SNAPLEN);
        for word in [now.as_secs() as u32, now.subsec_nanos(), kept, len] {
            self.rest.extend(word.to_le_bytes());
        }
        self.rest.extend_from_slice(frame.get(..kept as usize).unwrap_or(frame));
        self.flush()
    }

    /// Writes the rest of the last record; false if the reader has closed the pipe.
    fn flush(&mut self) -> bool {
        while !self.rest.is_empty() {
            match rustix::io::write(&self.to, &self.rest) {
                Ok(n) => drop(self.rest.drain(..n.min(self.rest.len()))),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    #[test]
    fn records_are_whole_and_what_does_not_fit_is_counted() {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let mut capture = Capture::new(write);
        for i in 0..100u8 {
            assert!(capture.record(&vec![i; 1500]));
        }
        assert!(capture.missed() > 10);
        let mut file = Vec::new();
        let take = |file: &mut Vec<u8>| {
            let mut bytes = [0; 65536];
            while let Ok(n) = rustix::io::read(&read, &mut bytes) {
                file.extend_from_slice(&bytes[..n]);
            }
        };
        take(&mut file);
        assert!(capture.record(&[0xee; 60]));
        take(&mut file);
        assert_eq!(file[..4], MAGIC.to_le_bytes());
        let (mut at, mut lengths) = (24, Vec::new());
        while at < file.len() {
            let len = u32::from_le_bytes(file[at + 8..at + 12].try_into().unwrap()) as usize;
            assert_eq!(file[at + 8..at + 12], file[at + 12..at + 16]);
            assert!(file[at + 16..at + 16 + len].iter().all(|b| *b == file[at + 16]));
            lengths.push(len);
            at += 16 + len;
        }
        assert_eq!((at, lengths.pop(), lengths.len() as u64 + capture.missed()), (file.len(), Some(60), 100));
    }

    #[test]
    fn a_closed_reader_ends_the_recording() {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let mut capture = Capture::new(write);
        assert!(capture.record(&[1; 60]));
        drop(read);
        assert!(!capture.record(&[1; 60]));
    }
}
