//! Handles writes for which the storage is full.
use bulkhead_bus::WhenFull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Time until a waiting write is tried again.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// No lack of space is known.
    #[default]
    Room,
    /// A write waits.
    Waits,
    /// The write in progress is to fail: its guest has reset the drive.
    GivenUp,
}

/// The state of an image's writes. One thread carries out jobs, another gives them up.
#[derive(Debug, Default)]
pub(super) struct Room {
    when_full: WhenFull,
    state: Mutex<State>,
    given_up: Condvar,
    /// The log has the line of [`Self::tell_limit`].
    limit_told: AtomicBool,
}

impl Room {
    pub(super) fn new(when_full: WhenFull) -> Self {
        Self { when_full, ..Self::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called before a job; clears an earlier [`Self::give_up`].
    pub(super) fn begin(&self) {
        *self.state() = State::Room;
    }

    /// Called after a job.
    pub(super) fn end(&self) {
        *self.state() = State::Room;
    }

    /// Waits after a write has failed for lack of space. True if the write is to be tried again.
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

    /// Lets the job in progress fail instead of waiting, because its guest has reset the drive.
    pub(super) fn give_up(&self) {
        *self.state() = State::GivenUp;
        self.given_up.notify_all();
    }

    /// Called after a write beyond this process's file size limit; logs the first.
    pub(super) fn tell_limit(&self) {
        if !self.limit_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a disk's image may not become larger: the guest gets an error for each write that needs more (-image-limit)"
            );
        }
    }

    /// Whether a write waits for space.
    pub(super) fn waits(&self) -> bool {
        *self.state() == State::Waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The guest resets the drive while the write is in progress.
    #[test]
    fn a_write_that_was_given_up_before_it_found_no_room_does_not_wait() {
        let room = Room::new(WhenFull::Stop);
        room.begin();
        room.give_up();
        assert!(!room.wait() && !room.waits());
        // The next job waits again.
        room.begin();
        assert!(room.wait() && room.waits());
    }
}
