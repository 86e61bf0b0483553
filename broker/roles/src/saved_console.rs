//! The two consoles of a stub domain by which libxl takes and gives the state of a saved machine (docs/misc/stubdom.txt of Xen): files in dom0.
//!
//! A console has no end, and libxl reads the whole file, whatever it has. So the file has the last stream that began, and nothing else.
use bulkhead_dev_input::serial::Backend;
use bulkhead_stream::{BEGIN, length};
use rustix::fd::OwnedFd;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// The begin of a stream of QEMU's, which is in the stub domain then: its bytes are kept as they come.
const QEMU: &[u8] = b"QEVM";
/// What a stub domain says when its terminal changes no byte any more.
const GO: u8 = b'G';

/// The file to which a state goes.
pub(crate) struct SavedTo {
    file: OwnedFd,
    /// The begin of a stream, as far as it is there.
    begin: Vec<u8>,
    /// Bytes that are still to come of the stream.
    left: u64,
    /// The bytes are somebody else's.
    raw: bool,
}

impl SavedTo {
    /// Writes to this file, which is open for writing.
    pub(crate) fn new(file: OwnedFd) -> Self {
        Self { file, begin: Vec::new(), left: 0, raw: false }
    }

    fn empty(&self) -> Result<(), Errno> {
        rustix::fs::ftruncate(&self.file, 0)?;
        rustix::fs::seek(&self.file, SeekFrom::Start(0)).map(|_| ())
    }

    /// Writes all of it; a file that cannot be written has a state that is cut off, which a reader sees.
    fn put(&self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Ok(n @ 1..) = rustix::io::write(&self.file, rest) {
            rest = rest.get(n..).unwrap_or_default();
        }
    }

    /// Takes one byte of the begin of a stream.
    fn take(&mut self, byte: u8) {
        // What is between two streams: padding.
        if self.begin.is_empty() && byte == 0 {
            return;
        }
        self.begin.push(byte);
        if self.begin == QEMU {
            self.raw = true;
            let _ = self.empty();
            self.put(QEMU);
            self.begin.clear();
        } else if let Some(begin) = self.begin.first_chunk::<BEGIN>().copied() {
            match length(&begin) {
                Some(all) => {
                    let _ = self.empty();
                    self.put(&begin);
                    self.left = all.saturating_sub(BEGIN as u64);
                    self.begin.clear();
                }
                // Not the begin of one; it may be in here.
                None => self.begin = self.begin.iter().skip(1).skip_while(|b| **b == 0).copied().collect(),
            }
        }
    }
}

impl Backend for SavedTo {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while let Some((first, after)) = rest.split_first() {
            if self.raw || self.left > 0 {
                let most = if self.raw { rest.len() } else { usize::try_from(self.left).unwrap_or(rest.len()) };
                let (now, later) = rest.split_at(most.min(rest.len()));
                self.put(now);
                self.left = self.left.saturating_sub(now.len() as u64);
                rest = later;
            } else {
                self.take(*first);
                rest = after;
            }
        }
        bytes.len()
    }
    fn read(&mut self, _: &mut [u8]) -> usize {
        0
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
