//! PV disks that are added and removed while the machine runs.
use super::opening::OpenImages;
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
    /// The images of a disk that is being added.
    pub(super) opening: OpenImages,
    /// Disks that a stub domain has released for its guest.
    pub(super) handed_off: Vec<HandedOff>,
    /// Disks that could not be added.
    failed: Vec<Failed>,
    /// A disk may have been added or removed since the last scan.
    disks: bool,
    /// Time of the next scan, if one is pending, and of the last one.
    due: Option<Instant>,
    last_scan: Option<Instant>,
}

/// Least time between two scans: a domain can cause any number of events.
const SCAN_INTERVAL: Duration = Duration::from_millis(200);
/// Least time until a disk that could not be added is tried again: each try opens its images and starts a process that looks into
/// them, and the domain causes the scans.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Most disks that could not be added that are remembered; xl gives a domain fewer.
const MAX_FAILED: usize = 64;

/// A disk that could not be added.
struct Failed {
    domid: u16,
    devid: u32,
    file: Option<String>,
    note: String,
    at: Instant,
}

impl DiskChanges {
    pub(super) fn new(images: ImageRules) -> Self {
        Self {
            servers: Vec::new(),
            reported: Vec::new(),
            answered: Vec::new(),
            images,
            opening: OpenImages::default(),
            handed_off: Vec::new(),
            failed: Vec::new(),
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

    /// Schedules a scan at once, for what this process itself has done and no domain.
    pub(super) fn notify_own(&mut self, now: Instant) {
        (self.disks, self.due) = (true, Some(now));
    }

    /// Notes that a disk could not be added.
    pub(super) fn fail(&mut self, domid: u16, devid: u32, file: Option<String>, note: &str, now: Instant) {
        self.failed.retain(|f| (f.domid, f.devid) != (domid, devid));
        if self.failed.len() >= MAX_FAILED {
            self.failed.remove(0);
        }
        self.failed.push(Failed { domid, devid, file, note: note.to_owned(), at: now });
    }

    /// The note of a disk that could not be added a short time ago and must not be tried again yet. A disk with another file is
    /// another disk.
    pub(super) fn failed_lately(&self, domid: u16, devid: u32, file: Option<&str>, now: Instant) -> Option<String> {
        let is = |f: &&Failed| f.domid == domid && f.devid == devid && f.file.as_deref() == file;
        let failed = self.failed.iter().find(is)?;
        (now.saturating_duration_since(failed.at) < RETRY_INTERVAL).then(|| failed.note.clone())
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

    /// A guest causes five scans a second, and each tried again to look into the images of a disk that cannot be added.
    #[test]
    fn a_disk_that_cannot_be_added_is_tried_again_after_ten_seconds_alone() {
        let mut changes = DiskChanges::new(ImageRules::default());
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        assert_eq!(changes.failed_lately(5, 768, Some("/x"), at(0)), None);
        changes.fail(5, 768, Some("/x".into()), "why", at(0));
        let tries = (0..100).filter(|n| {
            let tried = changes.failed_lately(5, 768, Some("/x"), at(n * 200)).is_none();
            if tried {
                changes.fail(5, 768, Some("/x".into()), "why", at(n * 200));
            }
            tried
        });
        assert_eq!(tries.count(), 1, "in twenty seconds");
        let note = |domid, devid, file| changes.failed_lately(domid, devid, file, at(11_000));
        assert_eq!(note(5, 768, Some("/x")).as_deref(), Some("why"));
        assert_eq!([note(6, 768, Some("/x")), note(5, 832, Some("/x")), note(5, 768, Some("/y"))], [const { None }; 3]);
        for devid in 0..1000 {
            changes.fail(5, devid, None, "", at(0));
        }
        assert_eq!(changes.failed.len(), MAX_FAILED);
    }

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
