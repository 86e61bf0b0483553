//! The launcher's log: standard error.
use bulkhead_bus::shown;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most bytes of the launcher's own lines, beside those that control copies: a device that dies four times a minute is started
/// again for ever, and each life has its lines.
const TOTAL: u64 = 4 << 20;

/// Bytes of lines so far.
struct Written(AtomicU64);

impl Written {
    /// What is to be written for this line: the line, with the remark that it is the last one if so, or nothing.
    fn take(&self, line: &str) -> Option<String> {
        let mut line = format!("bulkhead-dm: {}\n", shown(line));
        let len = line.len() as u64;
        let before = self.0.fetch_add(len, Ordering::Relaxed);
        if before >= TOTAL {
            return None;
        }
        if before.saturating_add(len) >= TOTAL {
            line.push_str("bulkhead-dm: the log is full; nothing more is written but why the machine ends\n");
        }
        Some(line)
    }
}

static WRITTEN: Written = Written(AtomicU64::new(0));

/// Writes a line to the log in one call, so that other processes' lines do not mix with it. A full log takes none.
pub fn say(line: &str) {
    if let Some(line) = WRITTEN.take(line) {
        let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
    }
}

/// Writes the line that says why this program ends, to a full log too.
pub fn tell(line: &str) {
    let line = format!("bulkhead-dm: {}\n", shown(line));
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every death of a device is a line, and a guest can have it die for ever.
    #[test]
    fn lines_without_end_have_a_total() {
        let (written, mut total, mut lines) = (Written(AtomicU64::new(0)), 0, 0u64);
        while let Some(text) = written.take("ide (pid 7): killed by signal 9") {
            (total, lines) = (total + text.len() as u64, lines + 1);
            assert!(total <= TOTAL + 256);
        }
        assert!(lines > 10_000 && total > TOTAL, "{lines} {total}");
        assert!((0..1000).all(|_| written.take("more").is_none()));
        let full = Written(AtomicU64::new(TOTAL - 5));
        assert!(full.take("last").is_some_and(|text| text.contains("last\n") && text.contains("the log is full")));
    }
}
