//! What is known of disks that come and go while a domain's back ends are served.
use crate::host::drives::Backing;
use bulkhead_bus::WhenFull;
use bulkhead_plan::{DriveConfig, FdUse, Slot};
use rustix::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Disks that come and go while a domain's back ends are served.
pub(super) struct Later {
    /// Those who serve a disk that came later, by its slot.
    pub(super) servers: Vec<(Slot, [Slot; 2])>,
    /// What was said of disks that are not served.
    pub(super) told: Vec<String>,
    /// What was said of drivers that have come too early.
    pub(super) answered: Vec<(u16, u32)>,
    /// What images may be based on, and what becomes of writes without room.
    pub(super) images: (Backing, WhenFull),
    /// Disks that a stub domain has let go of for its guest.
    pub(super) given: Vec<Given>,
    /// Disks may have come or gone.
    disks: bool,
    /// When they are looked at again, and when they were.
    due: Option<Instant>,
    looked: Option<Instant>,
}

/// A domain can cause any number of news of its disks; from one look at them to the next.
const LOOKS: Duration = Duration::from_millis(200);

impl Later {
    pub(super) fn new(backing: Backing, full: WhenFull) -> Self {
        Self {
            servers: Vec::new(),
            told: Vec::new(),
            answered: Vec::new(),
            images: (backing, full),
            given: Vec::new(),
            disks: false,
            due: None,
            looked: None,
        }
    }

    /// There is news of disks, or of their front ends alone.
    pub(super) fn news(&mut self, now: Instant, disks: bool) {
        self.disks |= disks;
        let next = self.looked.and_then(|looked| looked.checked_add(LOOKS)).unwrap_or(now);
        self.due.get_or_insert(next.max(now));
    }

    /// How long until they are to be looked at, if they are.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(now))
    }

    /// Whether disks may have come or gone since the last call.
    pub(super) fn take_disks(&mut self) -> bool {
        std::mem::take(&mut self.disks)
    }

    /// Whether they are to be looked at now.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let due = self.due.is_some_and(|due| now >= due);
        if due {
            (self.due, self.looked) = (None, Some(now));
        }
        due
    }
}

/// A disk that a stub domain has let go of for its guest. It never gets it back.
pub(super) struct Given {
    pub(super) devid: u32,
    pub(super) file: Option<String>,
    /// What its process had; until the guest's has it.
    pub(super) image: Option<(DriveConfig, Vec<(FdUse, OwnedFd)>)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_of_disks_is_looked_at_at_once_and_then_not_more_often_than_it_may() {
        let mut later = Later::new(Backing::Any, WhenFull::Report);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!(later.wait(at(0)).is_none() && !later.take_due(at(0)));
        later.news(at(0), true);
        assert!(later.take_due(at(0)), "the first at once");
        assert!(later.take_disks() && !later.take_disks());
        (1..150).for_each(|ms| later.news(at(ms), false));
        assert_eq!((later.take_due(at(150)), later.wait(at(150))), (false, Some(Duration::from_millis(50))));
        assert!(later.take_due(at(200)) && !later.take_due(at(200)), "once for all of them");
        assert!(!later.take_disks(), "front ends alone");
    }
}
