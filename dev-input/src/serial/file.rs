//! A character device that is a file of the host. Output without end takes two files of the host's disk: the file, and one with the
//! output before it.
//!
//! When the file is nearly full, this copies it to the other one and empties it. It keeps both open from its start and makes no
//! file, so it needs no path and no other process. Each write copies one piece, so that a guest's access does not wait for megabytes.
//! The limit holds without this code too: it is the process's RLIMIT_FSIZE.
use super::Backend;
use rustix::fd::OwnedFd;
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// Bytes that one write copies at most.
const PIECE: usize = 64 << 10;
/// Bytes of output per second that are accepted for long.
const RATE: u64 = 1 << 20;
/// Bytes that are accepted at once after a pause.
const BURST: u64 = 4 << 20;
/// Time until output that came too fast is accepted.
const RETRY: Duration = Duration::from_millis(10);

/// Output that may be accepted now.
#[derive(Debug)]
struct Allowance {
    bytes: u64,
    since: Instant,
}

impl Allowance {
    /// Takes up to `wanted` bytes at the time `now`; returns how many.
    fn take(&mut self, wanted: usize, now: Instant) -> usize {
        let nanoseconds = now.saturating_duration_since(self.since).as_nanos();
        let more = nanoseconds.saturating_mul(RATE.into()).div_euclid(1_000_000_000);
        if more > 0 {
            self.bytes = self.bytes.saturating_add(u64::try_from(more).unwrap_or(u64::MAX)).min(BURST);
            self.since = now;
        }
        let taken = self.bytes.min(wanted as u64);
        self.bytes = self.bytes.saturating_sub(taken);
        usize::try_from(taken).unwrap_or(0)
    }
}

/// A file, and the file with the output before it.
pub struct FileBackend {
    /// Open for reading and appending.
    file: OwnedFd,
    /// Open for appending.
    earlier: OwnedFd,
    /// Most bytes of each.
    limit: u64,
    /// Bytes of `file`, as far as this process knows: others may have changed it.
    size: u64,
    /// Bytes of `file` that `earlier` has; `None` while nothing is copied.
    copied: Option<u64>,
    allowance: Allowance,
    /// Output came too fast.
    refused: bool,
}

impl FileBackend {
    /// A back end with these two files, of at most `limit` bytes each. `file` is open for reading and appending, `earlier` for
    /// appending.
    ///
    /// # Errors
    /// The file's size cannot be found out.
    pub fn new(file: OwnedFd, earlier: OwnedFd, limit: u64) -> Result<Self, Errno> {
        let size = rustix::fs::seek(&file, SeekFrom::End(0))?;
        let allowance = Allowance { bytes: BURST, since: Instant::now() };
        Ok(Self { file, earlier, limit, size, copied: None, allowance, refused: false })
    }

    /// Bytes at which copying begins: the output that comes meanwhile fits above.
    fn full(&self) -> u64 {
        self.limit.saturating_sub(self.limit >> 3)
    }

    fn append(&mut self, bytes: &[u8]) -> usize {
        if self.size.saturating_add(bytes.len() as u64) > self.limit {
            // The other file cannot be written, because the host's disk is full. This one is kept, and new output is lost.
            return bytes.len();
        }
        match rustix::io::write(&self.file, bytes) {
            Ok(n) => {
                self.size = self.size.saturating_add(n as u64);
                n
            }
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(Errno::FBIG) => {
                // Somebody else has lengthened it.
                self.size = self.limit;
                bytes.len()
            }
            Err(_) => bytes.len(),
        }
    }

    /// Copies the next piece, and empties the file after the last one. An error leaves all as it is, for the next try.
    fn copy_piece(&mut self) -> Result<(), Errno> {
        let at = match self.copied {
            Some(at) => at,
            None => {
                rustix::fs::ftruncate(&self.earlier, 0)?;
                self.copied = Some(0);
                0
            }
        };
        let mut piece = vec![0; PIECE];
        let n = rustix::io::pread(&self.file, piece.as_mut_slice(), at)?;
        let there = piece.get(..n).unwrap_or_default();
        let written = match rustix::io::write(&self.earlier, there) {
            // A file that somebody else has lengthened does not fit; its end is lost.
            Err(Errno::FBIG) => None,
            other => Some(other?),
        };
        let at = at.saturating_add(written.unwrap_or(0) as u64);
        self.copied = Some(at);
        if n == 0 || written.is_none() || at >= self.size {
            rustix::fs::ftruncate(&self.file, 0)?;
            (self.size, self.copied) = (0, None);
        }
        Ok(())
    }
}

impl Backend for FileBackend {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let may = self.allowance.take(bytes.len(), Instant::now());
        self.refused = may == 0 && !bytes.is_empty();
        let accepted = if self.refused { 0 } else { self.append(bytes.get(..may).unwrap_or_default()) };
        if self.copied.is_some() || self.size >= self.full() {
            let _ = self.copy_piece();
        }
        accepted
    }

    fn read(&mut self, _: &mut [u8]) -> usize {
        0
    }

    fn retry(&self) -> Option<Duration> {
        self.refused.then_some(RETRY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::OFlags;

    const LIMIT: u64 = 1 << 20;

    /// A file in memory that is opened again with these flags.
    fn open(memory: &OwnedFd, flags: OFlags) -> OwnedFd {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(memory));
        rustix::fs::open(path, flags | OFlags::APPEND | OFlags::CLOEXEC, rustix::fs::Mode::empty()).unwrap()
    }

    struct Files([OwnedFd; 2]);

    impl Files {
        fn new() -> Self {
            Self(["file", "earlier"].map(|n| rustix::fs::memfd_create(n, rustix::fs::MemfdFlags::CLOEXEC).unwrap()))
        }
        fn backend(&self) -> FileBackend {
            let mut backend =
                FileBackend::new(open(&self.0[0], OFlags::RDWR), open(&self.0[1], OFlags::WRONLY), LIMIT).unwrap();
            backend.allowance.bytes = u64::MAX;
            backend
        }
        fn contents(&self) -> [Vec<u8>; 2] {
            [0, 1].map(|n| {
                std::fs::read(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.0[n]))).unwrap()
            })
        }
        fn sizes(&self) -> [u64; 2] {
            [0, 1].map(|n| rustix::fs::fstat(&self.0[n]).unwrap().st_size as u64)
        }
    }

    /// 256 bytes of lines that tell where they are.
    fn output(from: u64) -> Vec<u8> {
        (from..from + 16).flat_map(|n| format!("line {n:010}\n").into_bytes()).collect()
    }

    /// Writes the next lines, and appends them to `all`.
    fn write(backend: &mut FileBackend, all: &mut Vec<u8>) {
        let bytes = output(all.len() as u64);
        assert_eq!(backend.write(&bytes), bytes.len());
        all.extend_from_slice(&bytes);
    }

    #[test]
    fn output_without_end_takes_two_files_and_the_last_of_it_is_in_them() {
        let files = Files::new();
        let mut backend = files.backend();
        let (mut all, mut emptied) = (Vec::new(), 0);
        while emptied < 3 {
            write(&mut backend, &mut all);
            let [file, earlier] = files.sizes();
            assert!(file <= LIMIT && earlier <= LIMIT, "{file} {earlier}");
            if backend.size == 0 {
                emptied += 1;
                let [file, earlier] = files.contents();
                assert!(file.is_empty() && earlier.len() as u64 >= backend.full());
                assert!(all.ends_with(&earlier), "nothing is lost, nothing is there twice");
            }
        }
        (0..10).for_each(|_| write(&mut backend, &mut all));
        let [file, earlier] = files.contents();
        assert!(file.len() == 10 * output(0).len() && all.ends_with(&[earlier, file].concat()));
        assert!(all.len() as u64 > 3 * backend.full());
    }

    #[test]
    fn a_process_that_is_started_again_while_it_copies_loses_nothing() {
        let files = Files::new();
        let mut backend = files.backend();
        let mut all = Vec::new();
        while backend.copied.is_none_or(|n| n < 3 * PIECE as u64) {
            write(&mut backend, &mut all);
        }
        let mut backend = files.backend();
        write(&mut backend, &mut all);
        while backend.copied.is_some() {
            write(&mut backend, &mut all);
        }
        let [file, earlier] = files.contents();
        assert_eq!((file.len(), earlier == all), (0, true));
    }

    /// A full disk of the host: the copy fails. What is there stays, and nothing grows.
    #[test]
    fn without_room_for_the_copy_the_file_is_kept_and_stays_within_its_limit() {
        let files = Files::new();
        let mut backend = files.backend();
        let earlier = std::mem::replace(&mut backend.earlier, open(&files.0[1], OFlags::RDONLY));
        for n in (0..LIMIT / 8).step_by(16) {
            assert_eq!(backend.write(&output(n)), 256, "the guest does not wait for it");
        }
        let [file, _] = files.contents();
        assert!(file.starts_with(&output(0)) && file.len() as u64 > backend.full() && file.len() as u64 <= LIMIT);
        backend.earlier = earlier;
        while backend.copied.is_some() || backend.size > 1000 {
            backend.write(b"x");
        }
        assert!(files.contents()[1].starts_with(&file));
    }

    #[test]
    fn a_file_that_the_operator_empties_or_lengthens_is_no_trouble() {
        let files = Files::new();
        let mut backend = files.backend();
        backend.write(&output(0));
        rustix::fs::ftruncate(&files.0[0], 0).unwrap();
        backend.write(b"again");
        assert_eq!(files.contents()[0], b"again", "no hole");
        rustix::fs::ftruncate(&files.0[0], 3 * LIMIT).unwrap();
        let mut backend = files.backend();
        for _ in 0..3 * LIMIT / PIECE as u64 + 1 {
            backend.write(b"x");
        }
        assert_eq!((backend.copied, files.sizes()[0] < 100), (None, true));
    }

    #[test]
    fn output_is_accepted_at_a_rate() {
        let start = Instant::now();
        let mut allowance = Allowance { bytes: BURST, since: start };
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(allowance.take(usize::MAX, at(0)), BURST as usize);
        assert_eq!(allowance.take(1, at(0)), 0);
        assert_eq!(allowance.take(usize::MAX, at(500)), RATE as usize / 2);
        // The time since the last byte is not lost.
        assert_eq!((1..=1000).map(|us| allowance.take(1, at(500) + Duration::from_micros(us))).sum::<usize>(), 1000);
        assert_eq!(allowance.take(usize::MAX, at(1_000_000)), BURST as usize);
        let files = Files::new();
        let mut backend = files.backend();
        backend.allowance.bytes = 3;
        backend.allowance.since = Instant::now() + Duration::from_secs(3600);
        assert_eq!((backend.write(b"abcd"), backend.retry()), (3, None));
        assert_eq!((backend.write(b"d"), backend.retry()), (0, Some(RETRY)));
        backend.allowance.bytes = 1;
        assert_eq!((backend.write(b"d"), backend.retry()), (1, None));
        assert_eq!(files.contents()[0], b"abcd");
    }
}
