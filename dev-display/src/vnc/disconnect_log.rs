//! Log lines for viewers that are disconnected.
use super::session::ViewerError;
use bulkhead_bus::ViewerAddress;

/// Most lines in a minute.
const MOST_LINES: u32 = 10;
const MINUTE: u64 = 60_000_000_000;

/// Logs a line for each viewer that is disconnected, at most [`MOST_LINES`] in a minute, because hostile clients may connect.
#[derive(Debug, Default)]
pub(crate) struct DisconnectLog {
    since: u64,
    made: u32,
}

impl DisconnectLog {
    pub(crate) fn add(&mut self, now: u64, number: u64, address: ViewerAddress, why: ViewerError) {
        if let Some(more) = self.room(now) {
            tracing::warn!("viewer {number} ({address}) is disconnected: {why}{more}");
        }
    }

    /// The end of the next line; `None` if the limit is exceeded.
    fn room(&mut self, now: u64) -> Option<&'static str> {
        if now.saturating_sub(self.since) >= MINUTE {
            *self = Self { since: now, made: 0 };
        }
        self.made = self.made.saturating_add(1);
        match self.made {
            ..MOST_LINES => Some(""),
            MOST_LINES => Some("; no more such lines for a minute"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_viewers_that_fill_the_log() {
        let mut log = DisconnectLog::default();
        for minute in 1..4 {
            let lines: Vec<_> = (0..10_000).filter_map(|n| log.room(minute * MINUTE + n)).collect();
            assert_eq!(lines.len(), MOST_LINES as usize);
            assert!(lines.iter().rev().skip(1).all(|end| end.is_empty()) && !lines[9].is_empty());
        }
    }
}
