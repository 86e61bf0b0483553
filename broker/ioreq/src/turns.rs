//! When the broker looks at its events: the launcher, control, the tick.

/// Most rounds of work in which a device has rung before the broker slept, until the events get their turn.
const ROUNDS: u32 = 64;

/// What follows a round of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another round: nothing is left, but a device has rung.
    Work,
    /// A look at the events without waiting: there is more work.
    Look,
    /// Sleep until an event.
    Sleep,
}

/// The rounds since the last look at the events. Devices decide how much work there is, so the events are never left for it.
#[derive(Debug, Default)]
pub(crate) struct Turns(u32);

impl Turns {
    /// What follows a round after which nothing was left to do (`idle`), and, if so, every device has seen the broker fall asleep
    /// (`may_sleep`).
    pub(crate) fn next(&mut self, idle: bool, may_sleep: bool) -> Next {
        self.0 = self.0.saturating_add(1);
        if idle && !may_sleep && self.0 < ROUNDS {
            return Next::Work;
        }
        self.0 = 0;
        if idle && may_sleep { Next::Sleep } else { Next::Look }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Devices that give work, ring before each sleep, or rest, in any order.
        #[test]
        fn whatever_devices_do_the_events_are_looked_at_after_a_few_rounds(
            does in prop::collection::vec((any::<bool>(), prop::bool::weighted(0.05)), 0..1000),
        ) {
            let (mut turns, mut without) = (Turns::default(), 0);
            for (idle, may_sleep) in does {
                let next = turns.next(idle, may_sleep);
                prop_assert_eq!(next == Next::Sleep, idle && may_sleep, "sleeps when it may, and never with work left");
                prop_assert!(idle || next == Next::Look, "after a piece of work that has no end");
                without = if next == Next::Work { without + 1 } else { 0 };
                prop_assert!(without < ROUNDS);
            }
        }
    }

    #[test]
    fn a_device_that_rings_before_every_sleep_does_not_keep_the_broker_from_its_events() {
        let mut turns = Turns::default();
        let rounds = (0..ROUNDS * 10).filter(|_| turns.next(true, false) == Next::Look).count();
        assert_eq!(rounds, 10);
    }
}
