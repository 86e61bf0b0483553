//! Log records: lines on descriptor 2, a pipe that control reads. A full pipe loses records, never blocks.
use std::sync::atomic::{AtomicU8, Ordering};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;

static LEVEL: AtomicU8 = AtomicU8::new(3);

fn rank(level: &tracing::Level) -> u8 {
    match *level {
        tracing::Level::ERROR => 1,
        tracing::Level::WARN => 2,
        tracing::Level::INFO => 3,
        tracing::Level::DEBUG => 4,
        tracing::Level::TRACE => 5,
    }
}

/// Starts logging of this process's own records (not those of libraries below warnings).
pub(crate) fn start() {
    let filter = tracing_subscriber::filter::FilterFn::new(|meta| {
        let limit = if meta.target().starts_with("bulkhead") { LEVEL.load(Ordering::Relaxed) } else { 2 };
        rank(meta.level()) <= limit
    })
    .with_max_level_hint(LevelFilter::TRACE);
    let layer = tracing_subscriber::fmt::layer().without_time().with_ansi(false).with_target(false).with_writer(std::io::stderr);
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer.with_filter(filter)));
}

/// Changes the level: error, warn, info, debug or trace. False if it is none of these.
pub fn set_level(name: &str) -> bool {
    match name.parse::<tracing::Level>() {
        Ok(level) => {
            LEVEL.store(rank(&level), Ordering::Relaxed);
            true
        }
        Err(_) => false,
    }
}
