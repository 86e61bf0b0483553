//! What becomes of a write that the storage has no room for.
use bulkhead_bus::WhenFull;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a write waits before it is tried again.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Nothing is known of a lack.
    #[default]
    Room,
    /// A write waits.
    Waits,
    /// Nobody wants the write that is under way any more.
    GivenUp,
}

/// Room for an image's writes. One thread carries the jobs out, another gives them up.
#[derive(Debug, Default)]
pub(super) struct Room {
    when_full: WhenFull,
    state: Mutex<State>,
    given_up: Condvar,
}

impl Room {
    pub(super) fn new(when_full: WhenFull) -> Self {
        Self { when_full, ..Self::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job is about to begin, which somebody wants.
    pub(super) fn begin(&self) {
        *self.state() = State::Room;
    }

    /// The job is under way no more.
    pub(super) fn end(&self) {
        *self.state() = State::Room;
    }

    /// There is no room for a write. Waits, and is true if it may be tried again.
    pub(super) fn wait(&self) -> bool {
        if self.when_full == WhenFull::Report {
            return false;
        }
        let mut state = self.state();
        if *state == State::Room {
            tracing::warn!("the storage is full: a disk waits until there is room");
            *state = State::Waits;
        }
        let waited = self.given_up.wait_timeout_while(state, PAUSE, |s| *s == State::Waits);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *state == State::Waits
    }

    /// The job that is under way need not succeed: its guest has reset the drive.
    pub(super) fn give_up(&self) {
        *self.state() = State::GivenUp;
        self.given_up.notify_all();
    }

    /// Whether a write waits.
    pub(super) fn waits(&self) -> bool {
        *self.state() == State::Waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its guest has reset the drive while the write was on its way to the storage.
    #[test]
    fn a_write_that_was_given_up_before_it_found_no_room_does_not_wait() {
        let room = Room::new(WhenFull::Stop);
        room.begin();
        room.give_up();
        assert!(!room.wait() && !room.waits());
        // The next one is wanted.
        room.begin();
        assert!(room.wait() && room.waits());
    }
}
