//! The guest's log: the lines that every process writes to its pipe, limited in rate and total size.
use rustix::fd::OwnedFd;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Duration, Instant};

/// Most lines of one process per second.
const LINES: u32 = 200;
/// Most bytes of the log file, so that a guest cannot fill dom0's disk (XSA-180).
const TOTAL: u64 = 16 << 20;
/// Most bytes of a line; the rest is dropped.
const LINE: usize = 1000;

/// Bytes of the last lines, which are kept for x-bulkhead-logs.
const KEPT: usize = 64 << 10;

/// The last lines, up to [`KEPT`] bytes, oldest first.
#[derive(Clone, Default)]
pub(crate) struct Recent(Arc<Mutex<(VecDeque<String>, usize)>>);

impl Recent {
    fn push(&self, line: &str) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.0.push_back(line.to_owned());
        kept.1 = kept.1.saturating_add(line.len());
        while kept.1 > KEPT {
            let old = kept.0.pop_front().map_or(0, |l| l.len());
            kept.1 = kept.1.saturating_sub(old);
        }
    }

    /// The last `count` lines.
    pub(crate) fn last(&self, count: usize) -> Vec<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.0.iter().skip(kept.0.len().saturating_sub(count)).map(|l| l.trim_end().to_owned()).collect()
    }
}

/// The guest's log file, and the last of its lines.
pub(crate) struct LogFile {
    fd: OwnedFd,
    written: AtomicU64,
    recent: Recent,
}

impl LogFile {
    pub(crate) fn new(fd: OwnedFd) -> Arc<Self> {
        Arc::new(Self { fd, written: AtomicU64::new(0), recent: Recent::default() })
    }

    /// The last lines, shared with this file.
    pub(crate) fn recent(&self) -> Recent {
        self.recent.clone()
    }

    fn line(&self, name: &str, text: &[u8]) {
        let mut line = format!("{name}: ");
        for byte in text.iter().take(LINE) {
            match byte {
                b' '..=b'~' | b'\t' => line.push(char::from(*byte)),
                // A hostile process could write escape sequences, so UTF-8 is not passed either.
                _ => line.push('?'),
            }
        }
        line.push('\n');
        self.recent.push(&line);
        let before = self.written.fetch_add(line.len() as u64, Ordering::Relaxed);
        if before < TOTAL {
            let _ = rustix::io::write(&self.fd, line.as_bytes());
            if before.saturating_add(line.len() as u64) >= TOTAL {
                let _ = rustix::io::write(&self.fd, b"control: the log is full; nothing more is written\n");
            }
        }
    }
}

/// Copies one process's lines to the file until its pipe is closed.
pub(crate) async fn copy(name: String, mut pipe: Receiver, file: Arc<LogFile>) {
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
                    file.line(&name, format!("{dropped} lines above the rate limit were dropped").as_bytes());
                }
                (since, lines, dropped) = (Instant::now(), 0, 0);
            }
            if lines < LINES {
                lines = lines.saturating_add(1);
                file.line(&name, &line);
            } else {
                dropped = dropped.saturating_add(1);
            }
            line.clear();
        }
    }
}
