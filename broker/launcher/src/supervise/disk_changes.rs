//! PV disks that are added and removed while the machine runs.
use crate::machine::images::ImageRules;
use bulkhead_plan::{DriveConfig, FdUse, Slot};
use rustix::fd::OwnedFd;
use std::time::{Duration, Instant};

/// State of PV disks that are added and removed, and the limit on scans for them.
pub(super) struct DiskChanges {
    /// `xenbus` and `grant` of each disk that was added, by the disk's slot.
    pub(super) servers: Vec<(Slot, [Slot; 2])>,
    /// Notes of the last scan that are in the log already.
    pub(super) reported: Vec<String>,
    /// Domain and number of disks whose early drivers are in the log already.
    pub(super) answered: Vec<(u16, u32)>,
    /// Rules for the images of added disks.
    pub(super) images: ImageRules,
    /// Disks that a stub domain has released for its guest.
    pub(super) handed_off: Vec<HandedOff>,
    /// A disk may have been added or removed since the last scan.
    disks: bool,
    /// Time of the next scan, if one is pending, and of the last one.
    due: Option<Instant>,
    last_scan: Option<Instant>,
}

/// Least time between two scans: a domain can cause any number of events.
const SCAN_INTERVAL: Duration = Duration::from_millis(200);

impl DiskChanges {
    pub(super) fn new(images: ImageRules) -> Self {
        Self {
            servers: Vec::new(),
            reported: Vec::new(),
            answered: Vec::new(),
            images,
            handed_off: Vec::new(),
            disks: false,
            due: None,
            last_scan: None,
        }
    }

    /// Notes an event about disks (`disks`) or about their front ends alone, and schedules a scan.
    pub(super) fn notify(&mut self, now: Instant, disks: bool) {
        self.disks |= disks;
        let next = self.last_scan.and_then(|last| last.checked_add(SCAN_INTERVAL)).unwrap_or(now);
        self.due.get_or_insert(next.max(now));
    }

    /// Time until the pending scan.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(now))
    }

    /// Whether a disk may have been added or removed since the last call.
    pub(super) fn take_disks(&mut self) -> bool {
        std::mem::take(&mut self.disks)
    }

    /// Whether the pending scan is due; it then counts as done.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let due = self.due.is_some_and(|due| now >= due);
        if due {
            (self.due, self.last_scan) = (None, Some(now));
        }
        due
    }
}

/// A disk that a stub domain has released for its guest. The stub domain does not get it back.
pub(super) struct HandedOff {
    pub(super) devid: u32,
    pub(super) file: Option<String>,
    /// Configuration and open files of the stub domain's process, until the guest's process has them.
    pub(super) image: Option<(DriveConfig, Vec<(FdUse, OwnedFd)>)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_of_disks_is_looked_at_at_once_and_then_not_more_often_than_it_may() {
        let mut changes = DiskChanges::new(ImageRules::default());
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
