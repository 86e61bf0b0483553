//! Handles writes for which the storage is full.
use bulkhead_bus::WhenFull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Time until a waiting write is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// What is known of the space, and who waits for it.
#[derive(Clone, Copy, Debug, Default)]
struct Writes {
    state: State,
    /// The machine is stopped: nothing is tried again.
    held: bool,
    /// Threads that wait in [`Room::wait`], and try nothing meanwhile.
    asleep: usize,
}

impl Writes {
    /// Another job begins or has ended. That of a lane which still waits is not its business.
    fn clear(&mut self) {
        if self.asleep == 0 {
            self.state = State::Room;
        }
    }
}

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
    writes: Mutex<Writes>,
    changed: Condvar,
    /// The log has the line of [`Self::tell_limit`].
    limit_told: AtomicBool,
}

impl Room {
    pub(super) fn new(when_full: WhenFull) -> Self {
        Self { when_full, ..Self::default() }
    }

    fn writes(&self) -> MutexGuard<'_, Writes> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called before a job; clears an earlier [`Self::give_up`].
    pub(super) fn begin(&self) {
        self.writes().clear();
    }

    /// Called after a job.
    pub(super) fn end(&self) {
        self.writes().clear();
    }

    /// Waits after a write has failed for lack of space. True if the write is to be tried again.
    pub(super) fn wait(&self) -> bool {
        if self.when_full == WhenFull::Report {
            return false;
        }
        let mut writes = self.writes();
        if writes.state == State::Room {
            tracing::warn!("the storage is full: a disk waits until there is room");
            writes.state = State::Waits;
        }
        writes.asleep = writes.asleep.saturating_add(1);
        loop {
            let waited = self.changed.wait_timeout_while(writes, PAUSE, |w| w.held || w.state == State::Waits);
            let timeout;
            (writes, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if !writes.held && (timeout.timed_out() || writes.state != State::Waits) {
                break;
            }
        }
        writes.asleep = writes.asleep.saturating_sub(1);
        writes.state != State::GivenUp
    }

    /// Stops trying again, or goes on: the machine is stopped, or runs.
    pub(super) fn hold(&self, held: bool) {
        self.writes().held = held;
        self.changed.notify_all();
    }

    /// Number of jobs that wait and are held.
    pub(super) fn held(&self) -> usize {
        let writes = self.writes();
        if writes.held { writes.asleep } else { 0 }
    }

    /// Lets the job in progress fail instead of waiting, because its guest has reset the drive.
    pub(super) fn give_up(&self) {
        self.writes().state = State::GivenUp;
        self.changed.notify_all();
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
        self.writes().state == State::Waits
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

    /// A PV disk has several lanes: a job of another one made a write that waited fail.
    #[test]
    fn a_job_of_another_lane_changes_nothing_for_a_write_that_waits() {
        let room = std::sync::Arc::new(Room::new(WhenFull::Stop));
        room.begin();
        let waiter = room.clone();
        let thread = std::thread::spawn(move || waiter.wait());
        while room.writes().asleep == 0 {
            std::thread::yield_now();
        }
        room.begin();
        room.end();
        assert!(room.waits() && thread.join().unwrap(), "it is tried again");
        room.end();
        assert!(!room.waits());
    }

    /// A write that waited for space was written after the machine had stopped, as soon as there was some.
    #[test]
    fn a_write_that_waits_is_not_tried_again_while_the_machine_is_stopped() {
        let room = std::sync::Arc::new(Room::new(WhenFull::Stop));
        room.begin();
        room.hold(true);
        let (tried, tries) = std::sync::mpsc::channel();
        let waiter = room.clone();
        let thread = std::thread::spawn(move || tried.send(waiter.wait()).unwrap());
        while room.held() == 0 {
            std::thread::yield_now();
        }
        assert!(tries.recv_timeout(PAUSE + PAUSE / 2).is_err(), "longer than the pause between two tries");
        assert_eq!(room.held(), 1);
        room.hold(false);
        assert_eq!(tries.recv(), Ok(true));
        thread.join().unwrap();
        assert_eq!(room.held(), 0);
    }
}
