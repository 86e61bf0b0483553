//! What is known of disks that come and go while a domain's back ends are served.
use crate::host::drives::Backing;
use bulkhead_bus::WhenFull;
use bulkhead_plan::{DriveConfig, FdUse, Slot};
use rustix::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Disks that come and go while a domain's back ends are served.
pub(super) struct DiskChanges {
    /// Those who serve a disk that came later, by its slot.
    pub(super) servers: Vec<(Slot, [Slot; 2])>,
    /// What was said of disks that are not served.
    pub(super) reported: Vec<String>,
    /// What was said of drivers that have come too early.
    pub(super) answered: Vec<(u16, u32)>,
    /// What images may be based on, and what becomes of writes without room.
    pub(super) images: (Backing, WhenFull),
    /// Disks that a stub domain has let go of for its guest.
    pub(super) handed_off: Vec<HandedOff>,
    /// Disks may have come or gone.
    disks: bool,
    /// When they are last_scan at again, and when they were.
    due: Option<Instant>,
    last_scan: Option<Instant>,
}

/// A domain can cause any number of news of its disks; from one look at them to the next.
const SCAN_INTERVAL: Duration = Duration::from_millis(200);

impl DiskChanges {
    pub(super) fn new(backing: Backing, full: WhenFull) -> Self {
        Self {
            servers: Vec::new(),
            reported: Vec::new(),
            answered: Vec::new(),
            images: (backing, full),
            handed_off: Vec::new(),
            disks: false,
            due: None,
            last_scan: None,
        }
    }

    /// There is news of disks, or of their front ends alone.
    pub(super) fn notify(&mut self, now: Instant, disks: bool) {
        self.disks |= disks;
        let next = self.last_scan.and_then(|last_scan| last_scan.checked_add(SCAN_INTERVAL)).unwrap_or(now);
        self.due.get_or_insert(next.max(now));
    }

    /// How long until they are to be last_scan at, if they are.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(now))
    }

    /// Whether disks may have come or gone since the last call.
    pub(super) fn take_disks(&mut self) -> bool {
        std::mem::take(&mut self.disks)
    }

    /// Whether they are to be last_scan at now.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let due = self.due.is_some_and(|due| now >= due);
        if due {
            (self.due, self.last_scan) = (None, Some(now));
        }
        due
    }
}

/// A disk that a stub domain has let go of for its guest. It never gets it back.
pub(super) struct HandedOff {
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
        let mut changes = DiskChanges::new(Backing::Any, WhenFull::Report);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!(changes.wait(at(0)).is_none() && !changes.take_due(at(0)));
        changes.notify(at(0), true);
        assert!(changes.take_due(at(0)), "the first at once");
        assert!(changes.take_disks() && !changes.take_disks());
        (1..150).for_each(|ms| changes.notify(at(ms), false));
        assert_eq!((changes.take_due(at(150)), changes.wait(at(150))), (false, Some(Duration::from_millis(50))));
        assert!(changes.take_due(at(200)) && !changes.take_due(at(200)), "once for all of them");
        assert!(!changes.take_disks(), "front ends alone");
    }
}
