//! What the log says of viewers that are sent away.
use super::session::ViewerError;

/// Lines in a minute of nanoseconds.
const COMPLAINTS: u32 = 10;
const MINUTE: u64 = 60_000_000_000;

/// A line for each viewer that is sent away, [`COMPLAINTS`] in a minute at most: who connects may be anybody.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    since: u64,
    made: u32,
}

impl Complaints {
    pub(crate) fn about(&mut self, now: u64, number: u64, address: &str, why: ViewerError) {
        if let Some(more) = self.room(now) {
            tracing::warn!("viewer {number} ({address}) is sent away: {why}{more}");
        }
    }

    /// How a line ends, if there is room for it.
    fn room(&mut self, now: u64) -> Option<&'static str> {
        if now.saturating_sub(self.since) >= MINUTE {
            *self = Self { since: now, made: 0 };
        }
        self.made = self.made.saturating_add(1);
        match self.made {
            ..COMPLAINTS => Some(""),
            COMPLAINTS => Some("; no more such lines for a minute"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_viewers_that_fill_the_log() {
        let mut complaints = Complaints::default();
        for minute in 1..4 {
            let lines: Vec<_> = (0..10_000).filter_map(|n| complaints.room(minute * MINUTE + n)).collect();
            assert_eq!(lines.len(), COMPLAINTS as usize);
            assert!(lines.iter().rev().skip(1).all(|end| end.is_empty()) && !lines[9].is_empty());
        }
    }
}
