//! The two consoles of a stub domain by which libxl takes and gives the state of a saved machine (docs/misc/stubdom.txt of Xen): files in dom0.
//!
//! A console has no end, and libxl reads the whole file, whatever it has. So the file has the last stream that began, and nothing else.
use bulkhead_dev_input::serial::Backend;
use bulkhead_stream::{BEGIN, length};
use rustix::fd::OwnedFd;
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// The begin of a stream of QEMU's, which is in the stub domain then: its bytes are kept as they come.
const QEMU: &[u8] = b"QEVM";
/// What a stub domain says when its terminal changes no byte any more.
const GO: u8 = b'G';

/// How long a stream whose file cannot be written is held up: longer than the stub domain waits, whose save fails then, instead of libxl
/// finding a part of the state.
const HELD: Duration = Duration::from_secs(30);
/// Time between two looks at that.
const AGAIN: Duration = Duration::from_secs(1);

/// The file to which a state goes.
pub(crate) struct SavedTo {
    file: OwnedFd,
    /// The begin of a stream, as far as it is there.
    begin: Vec<u8>,
    /// Bytes that are still to come of the stream.
    left: u64,
    /// The bytes are somebody else's.
    raw: bool,
    /// Since when the file cannot be written.
    failed: Option<Instant>,
}

impl SavedTo {
    /// Writes to this file, which is open for reading and writing. It may have the begin of a stream, of which the last process has died.
    pub(crate) fn new(file: OwnedFd) -> Self {
        let (mut begin, mut left) = ([0; BEGIN], 0);
        if rustix::io::pread(&file, &mut begin, 0) == Ok(BEGIN)
            && let Some(all) = length(&begin)
        {
            left = all.saturating_sub(rustix::fs::seek(&file, SeekFrom::End(0)).unwrap_or(all));
        }
        Self { file, begin: Vec::new(), left, raw: false, failed: None }
    }

    fn empty(&self) -> Result<(), Errno> {
        rustix::fs::ftruncate(&self.file, 0)?;
        rustix::fs::seek(&self.file, SeekFrom::Start(0)).map(|_| ())
    }

    /// Writes all of it.
    fn put(&self, bytes: &[u8]) -> Result<(), Errno> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::io::write(&self.file, rest) {
                Ok(0) => return Err(Errno::NOSPC),
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Takes one byte of the begin of a stream.
    fn take(&mut self, byte: u8) -> Result<(), Errno> {
        // What is between two streams: padding.
        if self.begin.is_empty() && byte == 0 {
            return Ok(());
        }
        self.begin.push(byte);
        if self.begin == QEMU {
            self.begin.clear();
            self.empty()?;
            self.put(QEMU)?;
            self.raw = true;
        } else if let Some(begin) = self.begin.first_chunk::<BEGIN>().copied() {
            match length(&begin) {
                Some(all) => {
                    self.begin.clear();
                    self.empty()?;
                    self.put(&begin)?;
                    self.left = all.saturating_sub(BEGIN as u64);
                }
                // Not the begin of one; it may be in here.
                None => self.begin = self.begin.iter().skip(1).skip_while(|b| **b == 0).copied().collect(),
            }
        }
        Ok(())
    }

    /// Takes the first bytes of these; returns how many.
    fn some(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let Some(first) = bytes.first() else { return Ok(0) };
        if !self.raw && self.left == 0 {
            self.take(*first)?;
            return Ok(1);
        }
        let most = if self.raw { bytes.len() } else { usize::try_from(self.left).unwrap_or(bytes.len()) };
        let now = bytes.get(..most.min(bytes.len())).unwrap_or_default();
        self.put(now)?;
        self.left = self.left.saturating_sub(now.len() as u64);
        Ok(now.len())
    }
}

impl Backend for SavedTo {
    fn write(&mut self, bytes: &[u8]) -> usize {
        match self.failed {
            Some(since) if since.elapsed() < HELD => return 0,
            // The stub domain has given that state up. The next one begins anew.
            Some(_) => (self.failed, self.left, self.raw) = (None, 0, false),
            None => {}
        }
        let mut done = 0usize;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match self.some(rest) {
                Ok(n) => done = done.saturating_add(n),
                Err(why) => {
                    tracing::error!("the state cannot be written: {why}");
                    // No part of it looks like a state.
                    let _ = self.empty();
                    self.failed = Some(Instant::now());
                    break;
                }
            }
        }
        done
    }
    fn read(&mut self, _: &mut [u8]) -> usize {
        0
    }
    fn retry(&self) -> Option<Duration> {
        self.failed.map(|_| AGAIN)
    }
}

/// The file from which a state comes, once the stub domain wants it.
pub(crate) struct SavedFrom {
    file: OwnedFd,
    wanted: bool,
}

impl SavedFrom {
    /// Reads from this file.
    pub(crate) fn new(file: OwnedFd) -> Self {
        Self { file, wanted: false }
    }
}

impl Backend for SavedFrom {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.wanted |= bytes.contains(&GO);
        bytes.len()
    }
    fn read(&mut self, bytes: &mut [u8]) -> usize {
        if self.wanted { rustix::io::read(&self.file, bytes).unwrap_or(0) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_stream::{Name, Section, write};
    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, memfd_create};

    fn stream(payload: &[u8]) -> Vec<u8> {
        write(7, &[Section { name: Name::new("platform").unwrap(), version: 1, oldest: 1, payload }]).unwrap()
    }

    /// What the file has after these bytes, in pieces of this size.
    fn kept(bytes: &[u8], piece: usize) -> Vec<u8> {
        let file = memfd_create("state", MemfdFlags::CLOEXEC).unwrap();
        let mut to = SavedTo::new(rustix::io::dup(&file).unwrap());
        for some in bytes.chunks(piece) {
            assert_eq!(to.write(some), some.len());
        }
        let mut kept = vec![0; bytes.len() + 1];
        let n = rustix::io::pread(&file, kept.as_mut_slice(), 0).unwrap();
        kept.truncate(n);
        kept
    }

    proptest! {
        /// The second save of one life left its state behind the first one, which was restored: the guest's disk was another one by then.
        #[test]
        fn the_file_has_the_last_stream_alone(
            first in prop::collection::vec(any::<u8>(), 0..3000), second in prop::collection::vec(any::<u8>(), 0..3000),
            noise in prop::collection::vec(any::<u8>(), 0..70), piece in 1usize..700,
        ) {
            prop_assume!(!noise.windows(4).any(|w| w == QEMU) && !noise.contains(&0x89));
            let (first, second) = (stream(&first), stream(&second));
            let padding = vec![0; 4096];
            let all = [&padding[..64], &first, &padding, &noise, &padding[..5], &second, &padding].concat();
            prop_assert_eq!(kept(&all, piece), second);
        }

        #[test]
        fn any_bytes_are_survived_and_take_no_more_than_a_stream(bytes in prop::collection::vec(any::<u8>(), 0..2000), piece in 1usize..99) {
            prop_assert!(kept(&bytes, piece).len() <= bytes.len());
        }
    }

    /// Found by a reviewer: the stub domain had the whole state taken, libxl found a part of it in the file, and destroyed the guest.
    #[test]
    fn a_state_that_cannot_be_written_is_not_taken() {
        // A file that is sealed against writing stands for a full file system.
        let file = memfd_create("state", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        let mut to = SavedTo::new(rustix::io::dup(&file).unwrap());
        let state = stream(&[7; 3000]);
        assert_eq!(to.write(&state[..1000]), 1000);
        rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::WRITE).unwrap();
        assert_eq!((to.write(&state[1000..]), to.write(&state[1000..])), (0, 0));
        assert!(to.retry().is_some());
        // Later it takes the rest for what it is, and looks for another stream.
        to.failed = to.failed.and_then(|since| since.checked_sub(HELD));
        assert_eq!(to.write(&state[1000..]), state.len() - 1000);
        assert!(to.retry().is_none() && to.left == 0);
    }

    #[test]
    fn a_process_goes_on_with_the_stream_of_the_one_that_has_died() {
        let file = memfd_create("state", MemfdFlags::CLOEXEC).unwrap();
        let state = stream(&[7; 3000]);
        SavedTo::new(rustix::io::dup(&file).unwrap()).write(&state[..700]);
        let mut to = SavedTo::new(rustix::io::dup(&file).unwrap());
        to.write(&state[700..]);
        to.write(&[0; 4096]);
        let mut kept = vec![0; 9000];
        let n = rustix::io::pread(&file, kept.as_mut_slice(), 0).unwrap();
        assert!(kept[..n] == state);
    }

    #[test]
    fn a_stream_of_qemus_is_kept_as_it_comes() {
        let bytes = [b"QEVM", &[0, 0, 0, 3][..], &[0; 100], b"more"].concat();
        assert_eq!(kept(&bytes, 9), bytes);
    }

    #[test]
    fn nothing_is_given_before_it_is_wanted() {
        let file = memfd_create("state", MemfdFlags::CLOEXEC).unwrap();
        rustix::io::pwrite(&file, b"state", 0).unwrap();
        let mut from = SavedFrom::new(file);
        let mut bytes = [0; 4];
        assert_eq!(from.read(&mut bytes), 0);
        from.write(b"login: ");
        assert_eq!(from.read(&mut bytes), 0);
        from.write(b"G");
        assert_eq!((from.read(&mut bytes), &bytes), (4, b"stat"));
    }
}
