//! Log records: lines on descriptor 2, a pipe that control reads. A full pipe loses records, never blocks.
use bulkhead_bus::shown;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;

static LEVEL: AtomicU8 = AtomicU8::new(3);
/// Records lost because the pipe was full, since the last that was written.
static LOST: AtomicU64 = AtomicU64::new(0);
/// Records lost because the pipe was full, since the process started.
static LOST_IN_ALL: AtomicU64 = AtomicU64::new(0);

/// Number of records lost because the pipe was full, since the process started.
pub(crate) fn lost() -> u64 {
    LOST_IN_ALL.load(Ordering::Relaxed)
}

/// Descriptor 2. The reader may be slow or dead; the process continues in both cases.
struct Pipe;

impl std::io::Write for Pipe {
    fn write(&mut self, record: &[u8]) -> std::io::Result<usize> {
        let write = |bytes: &[u8]| rustix::io::write(rustix::stdio::stderr(), bytes);
        let lost = LOST.load(Ordering::Relaxed);
        if lost > 0 && write(format!("{lost} records were lost, the log was full\n").as_bytes()).is_ok() {
            LOST.fetch_sub(lost, Ordering::Relaxed);
        }
        // Text of a peer in a record could begin a line of its own, in this process's name.
        let text = String::from_utf8_lossy(record);
        let line = format!("{}\n", shown(text.strip_suffix('\n').unwrap_or(&text)));
        if write(line.as_bytes()).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
            LOST_IN_ALL.fetch_add(1, Ordering::Relaxed);
        }
        Ok(record.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn rank(level: &tracing::Level) -> u8 {
    match *level {
        tracing::Level::ERROR => 1,
        tracing::Level::WARN => 2,
        tracing::Level::INFO => 3,
        tracing::Level::DEBUG => 4,
        tracing::Level::TRACE => 5,
    }
}

/// Starts logging: records of this workspace's crates up to the set level, and warnings and errors of libraries.
pub(crate) fn start() {
    let filter = tracing_subscriber::filter::FilterFn::new(|meta| {
        let limit = if meta.target().starts_with("bulkhead") { LEVEL.load(Ordering::Relaxed) } else { 2 };
        rank(meta.level()) <= limit
    })
    .with_max_level_hint(LevelFilter::TRACE);
    let layer = tracing_subscriber::fmt::layer()
        .without_time()
        .with_ansi(false)
        .with_target(false)
        .log_internal_errors(false)
        .with_writer(|| Pipe);
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer.with_filter(filter)));
}

/// Sets the level: error, warn, info, debug or trace. False for another word.
pub fn set_level(name: &str) -> bool {
    match name.parse::<tracing::Level>() {
        Ok(level) => {
            LEVEL.store(rank(&level), Ordering::Relaxed);
            true
        }
        Err(_) => false,
    }
}
