//! The guest's log: the lines that every process writes to its pipe, limited in rate and total size.
use bulkhead_plan::LOG_SIZE;
use rustix::fd::OwnedFd;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Duration, Instant};

/// Most lines of one process per second.
const LINES: u32 = 200;
/// Most bytes of a line; the rest is dropped.
const LINE: usize = 1000;

/// Bytes of the last lines of all processes, which are kept for x-bulkhead-logs.
const KEPT: u64 = 64 << 10;

/// The last lines of each process, in one order.
#[derive(Clone)]
pub(crate) struct Recent(Arc<Mutex<Kept>>);

struct Kept {
    /// Number of the next line.
    next: u64,
    /// Most bytes of each process.
    share: usize,
    processes: HashMap<String, Lines>,
}

#[derive(Default)]
struct Lines {
    /// Numbered, oldest first.
    lines: VecDeque<(u64, String)>,
    bytes: usize,
}

impl Recent {
    /// The last lines of this number of processes.
    pub(crate) fn new(processes: u64) -> Self {
        let share = usize::try_from(KEPT.div_euclid(processes.max(1))).unwrap_or(0);
        Self(Arc::new(Mutex::new(Kept { next: 0, share, processes: HashMap::new() })))
    }

    fn push(&self, name: &str, line: &str) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, share) = (kept.next, kept.share);
        kept.next = kept.next.saturating_add(1);
        let of = kept.processes.entry(name.to_owned()).or_default();
        of.lines.push_back((number, line.to_owned()));
        of.bytes = of.bytes.saturating_add(line.len());
        while of.bytes > share {
            let old = of.lines.pop_front().map_or(0, |(_, l)| l.len());
            of.bytes = of.bytes.saturating_sub(old);
        }
    }

    /// The last `count` lines.
    pub(crate) fn last(&self, count: usize) -> Vec<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = kept.processes.values().flat_map(|of| &of.lines).collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        all.iter().skip(all.len().saturating_sub(count)).map(|(_, line)| line.trim_end().to_owned()).collect()
    }
}

/// The guest's log file, and the last of its lines.
pub(crate) struct LogFile {
    fd: OwnedFd,
    recent: Recent,
    /// Most bytes of each process.
    share: u64,
}

impl LogFile {
    /// The file for the lines of this number of processes. They share what earlier lives of control have left of it; the file had
    /// `begins` bytes before the guest.
    pub(crate) fn new(fd: OwnedFd, processes: usize, begins: u64) -> Arc<Self> {
        let processes = (processes as u64).max(1);
        let written = rustix::fs::fstat(&fd).map_or(0, |s| s.st_size.unsigned_abs().saturating_sub(begins));
        let share = LOG_SIZE.saturating_sub(written).div_euclid(processes);
        if share == 0 {
            let _ = rustix::io::write(&fd, b"control: the log is full; nothing more of any process is written\n");
        }
        Arc::new(Self { fd, recent: Recent::new(processes), share })
    }

    /// The last lines, shared with this file.
    pub(crate) fn recent(&self) -> Recent {
        self.recent.clone()
    }
}

/// One process's share of the log. A process that uses its own up takes nothing of the others'.
struct Share {
    name: String,
    file: Arc<LogFile>,
    /// Bytes that it may still write.
    left: u64,
}

impl Share {
    fn new(name: String, file: Arc<LogFile>) -> Self {
        let left = file.share;
        Self { name, file, left }
    }

    fn line(&mut self, text: &[u8]) {
        let mut line = format!("{}: ", self.name);
        for byte in text.iter().take(LINE) {
            match byte {
                b' '..=b'~' | b'\t' => line.push(char::from(*byte)),
                // A hostile process could write escape sequences, so UTF-8 is not passed either.
                _ => line.push('?'),
            }
        }
        line.push('\n');
        self.file.recent.push(&self.name, &line);
        if self.left == 0 {
            return;
        }
        let _ = rustix::io::write(&self.file.fd, line.as_bytes());
        self.left = self.left.saturating_sub(line.len() as u64);
        if self.left == 0 {
            let last =
                format!("control: {} has used up its share of the log; nothing more of it is written\n", self.name);
            let _ = rustix::io::write(&self.file.fd, last.as_bytes());
        }
    }
}

/// Copies one process's lines to the file until its pipe is closed.
pub(crate) async fn copy(name: String, mut pipe: Receiver, file: Arc<LogFile>) {
    let mut share = Share::new(name, file);
    let mut buffer = vec![0; 4096];
    let mut line = Vec::new();
    let (mut since, mut lines, mut dropped) = (Instant::now(), 0u32, 0u64);
    loop {
        let n = match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => n,
        };
        for byte in buffer.iter().take(n) {
            if *byte != b'\n' {
                if line.len() < LINE {
                    line.push(*byte);
                }
                continue;
            }
            if since.elapsed() >= Duration::from_secs(1) {
                if dropped > 0 {
                    share.line(format!("{dropped} lines above the rate limit were dropped").as_bytes());
                }
                (since, lines, dropped) = (Instant::now(), 0, 0);
            }
            if lines < LINES {
                lines = lines.saturating_add(1);
                share.line(&line);
            } else {
                dropped = dropped.saturating_add(1);
            }
            line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log in memory, and a look at its text.
    fn file(processes: usize) -> (Arc<LogFile>, impl Fn() -> String) {
        let fd = rustix::fs::memfd_create("log", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let copy = rustix::io::dup(&fd).unwrap();
        let text = move || {
            let mut bytes = vec![0; rustix::fs::fstat(&copy).unwrap().st_size as usize];
            rustix::io::pread(&copy, bytes.as_mut_slice(), 0).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        (LogFile::new(fd, processes, 0), text)
    }

    /// XSA-180: a guest's lines filled dom0's disk. One total for all let a guest silence all other processes besides.
    #[test]
    fn a_process_that_logs_without_end_takes_its_share_and_nobody_elses() {
        let (file, text) = file(8);
        let [mut noisy, mut quiet] = ["serial0", "ide"].map(|name| Share::new(name.into(), file.clone()));
        for _ in 0..5000 {
            noisy.line(&[b'x'; LINE]);
        }
        let full = text().len();
        assert!((2 << 20..(2 << 20) + 2 * LINE).contains(&full), "{full}");
        quiet.line(b"a disk that fails");
        noisy.line(b"more");
        let all = text();
        assert!(all.ends_with(
            "serial0 has used up its share of the log; nothing more of it is written\nide: a disk that fails\n"
        ));
        assert_eq!(all.matches("has used up").count(), 1);
        let last = file.recent().last(1000);
        assert!(last.contains(&"ide: a disk that fails".to_owned()) && last.last().unwrap() == "serial0: more");
        assert!(last.iter().map(String::len).sum::<usize>() <= KEPT as usize / 8 * 2);
    }

    /// Each life of control began to count anew, and a guest can let control be started again.
    #[test]
    fn the_next_life_of_control_has_what_the_last_one_has_left() {
        let (file, text) = file(4);
        let mut share = Share::new("ide".into(), file.clone());
        for _ in 0..10_000 {
            share.line(&[b'x'; LINE]);
        }
        let written = text().len() as u64;
        let next = |begins| LogFile::new(rustix::io::dup(&file.fd).unwrap(), 4, begins).share;
        assert_eq!(next(0), (LOG_SIZE - written) / 4);
        // A toolstack may let a guest's log grow over its lives.
        assert_eq!(next(written), LOG_SIZE / 4);
        assert_eq!(next(written + 1), LOG_SIZE / 4, "the file was cut");
        rustix::fs::ftruncate(&file.fd, LOG_SIZE).unwrap();
        assert_eq!(next(0), 0);
        assert!(text().contains("the log is full; nothing more of any process is written\n"));
    }

    /// The last lines were one list, in which a noisy process pushed the others' out.
    #[test]
    fn the_last_lines_of_a_quiet_process_stay() {
        let (file, _) = file(2);
        let [mut noisy, mut quiet] = ["vga", "ide"].map(|name| Share::new(name.into(), file.clone()));
        quiet.line(b"first");
        for n in 0..2000 {
            noisy.line(format!("line {n} {}", "y".repeat(90)).as_bytes());
        }
        let last = file.recent().last(usize::MAX);
        assert_eq!(last.first().unwrap(), "ide: first");
        assert!(last.last().unwrap().starts_with("vga: line 1999"));
        assert_eq!(file.recent().last(1).len(), 1);
    }

    #[test]
    fn a_line_has_no_control_characters_and_an_end() {
        let (file, text) = file(1);
        Share::new("ide".into(), file).line(&[b"\x1b[2Jz\r\xc2\x9b\t".as_slice(), &[b'a'; 5000]].concat());
        let all = text();
        assert!(all.starts_with("ide: ?[2Jz???\ta") && all.len() == "ide: ".len() + LINE + 1, "{}", all.len());
    }
}
