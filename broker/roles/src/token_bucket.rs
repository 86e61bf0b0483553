//! A token bucket: the calls that a back end may make. It is filled by the clock of the process that counts.

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// Tokens that come back with time, up to a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenBucket {
    most: u64,
    per_second: u64,
    /// Tokens that were left at the time `filled`.
    left: u64,
    /// In nanoseconds of the clock. Whole tokens have been added up to this time.
    filled: u64,
}

impl TokenBucket {
    /// A full bucket of `most` tokens at the time `now`, in nanoseconds; `per_second`, at least 1, come back.
    pub(crate) fn new(most: u32, per_second: u32, now: u64) -> Self {
        Self { most: u64::from(most), per_second: u64::from(per_second).max(1), left: u64::from(most), filled: now }
    }

    /// The time in which `tokens` come back, in nanoseconds, rounded up.
    fn time_of(&self, tokens: u64) -> u64 {
        tokens.saturating_mul(SECOND).div_ceil(self.per_second)
    }

    fn fill(&mut self, now: u64) {
        let missing = self.most.saturating_sub(self.left);
        let elapsed = now.saturating_sub(self.filled);
        if elapsed >= self.time_of(missing) {
            (self.left, self.filled) = (self.most, now.max(self.filled));
            return;
        }
        // Less than the time of all missing tokens, so the product is small. What is less than a token is counted later.
        let new = elapsed.saturating_mul(self.per_second).div_euclid(SECOND);
        self.left = self.left.saturating_add(new);
        self.filled = self.filled.saturating_add(self.time_of(new));
    }

    /// Takes a token. False if there is none.
    pub(crate) fn take(&mut self, now: u64) -> bool {
        self.fill(now);
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }

    /// The time from which on there are `tokens`, at most all of them.
    pub(crate) fn has_at(&mut self, tokens: u32, now: u64) -> u64 {
        self.fill(now);
        let missing = u64::from(tokens).min(self.most).saturating_sub(self.left);
        self.filled.saturating_add(self.time_of(missing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tokens_come_back_with_time_and_not_beyond_all_of_them() {
        let mut bucket = TokenBucket::new(10, 4, 100);
        assert!((0..10).all(|_| bucket.take(100)) && !bucket.take(100));
        assert_eq!(bucket.has_at(1, 100), 100 + SECOND / 4);
        assert!(!bucket.take(100 + SECOND / 4 - 1));
        assert!(bucket.take(100 + SECOND / 4));
        assert!(!bucket.take(100 + SECOND / 4));
        let later = 100 + SECOND * 100;
        assert_eq!(bucket.has_at(99, later), later, "as many as it can have");
        assert!((0..10).all(|_| bucket.take(later)) && !bucket.take(later));
        assert!(!bucket.take(0) && bucket.take(later + SECOND / 4), "a clock that goes back is no reason to stop");
    }

    proptest! {
        #[test]
        fn no_more_is_taken_than_all_and_what_has_come_back(
            most in 1..100u32, per_second in 1..1000u32, steps in proptest::collection::vec((0..SECOND / 20, 0..20u8), 1..100),
        ) {
            let (mut now, mut taken) = (77u64, 0u64);
            let mut bucket = TokenBucket::new(most, per_second, now);
            for (time, calls) in steps {
                now += time;
                taken += (0..calls).filter(|_| bucket.take(now)).count() as u64;
                let back = (now - 77) * u64::from(per_second) / SECOND;
                prop_assert!(taken <= u64::from(most) + back, "{taken} of {most} and {back}");
                let (mut full, later) = (bucket, bucket.has_at(most, now).max(now));
                prop_assert!((0..most).all(|_| full.take(later)) && !full.take(later));
            }
        }
    }
}
