//! Images of PV disks that are added while the machine runs: one disk after the other, and nothing here waits for the process that
//! looks into them, or for their storage while it does.
use super::watchdog::TICK_NS;
use super::{LOOK, Launcher};
use crate::failure::Failure;
use crate::intake::{IntakeFault, Looking, PATIENCE};
use crate::log::say;
use crate::machine::images::{Images, Opening};
use crate::pv::PvDisk;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use std::time::Instant;

/// Ticks until a look is late.
pub(super) const LOOK_TICKS: u32 = (PATIENCE.as_nanos() / TICK_NS as u128) as u32;
/// Killed processes that may be there, because the kernel does not end one that waits for dead storage.
const MAX_ENDING: usize = 3;

/// The disk whose images are being opened, or are open.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Added {
    domid: u16,
    disk: PvDisk,
}

impl Added {
    pub(super) fn new(domid: u16, disk: &PvDisk) -> Self {
        Self { domid, disk: disk.clone() }
    }

    /// Whether it is this disk, with this image and these options.
    pub(super) fn is(&self, domid: u16, disk: &PvDisk) -> bool {
        (self.domid, &self.disk) == (domid, disk)
    }
}

/// What has become of a disk's images.
enum Stage {
    /// Somebody looks into the last one that is open.
    Looked(Box<Looked>),
    /// All are open.
    Open(Images),
}

/// Images, of which the last one is looked into.
struct Looked {
    opening: Opening,
    look: Looking,
    /// Since the look began.
    ticks: u32,
}

/// The images of one disk, and the processes that have looked into others.
#[derive(Default)]
pub(super) struct OpenImages {
    now: Option<(Added, Stage)>,
    /// Killed processes that have not exited.
    ending: Vec<Looking>,
}

impl OpenImages {
    /// Whether a look has a time limit.
    pub(super) fn is_timed(&self) -> bool {
        matches!(self.now, Some((_, Stage::Looked(_))))
    }

    /// Forgets the disk, and ends the process that looks into its images.
    fn forget(&mut self) -> Option<Added> {
        let (added, stage) = self.now.take()?;
        if let Stage::Looked(looked) = stage {
            self.end(looked.look);
        }
        Some(added)
    }

    fn end(&mut self, mut look: Looking) {
        look.kill();
        if !look.has_exited() {
            self.ending.push(look);
        }
    }

    fn reap(&mut self) {
        self.ending.retain_mut(|look| !look.has_exited());
    }
}

impl Launcher {
    /// Opens the images of a disk that is added. `None`: they are not all open yet, or those of another disk come first.
    pub(super) fn open_images(&mut self, disk: &PvDisk, domid: u16) -> Result<Option<Images>, Failure> {
        match self.pv.changes.opening.now.take() {
            Some((added, Stage::Open(images))) if added.is(domid, disk) => return Ok(Some(images)),
            Some(now) => {
                self.pv.changes.opening.now = Some(now);
                return Ok(None);
            }
            None => {}
        }
        let opening = Opening::new(disk.drive.clone(), self.pv.changes.images);
        let stage = self.go_on(opening, None)?;
        match stage {
            Stage::Open(images) => Ok(Some(images)),
            looked => {
                self.pv.changes.opening.now = Some((Added::new(domid, disk), looked));
                Ok(None)
            }
        }
    }

    /// Drops what was opened for a disk that is not there any more.
    pub(super) fn keep_opening(&mut self, wanted: impl Fn(&Added) -> bool) {
        let opening = &mut self.pv.changes.opening;
        if opening.now.as_ref().is_some_and(|(added, _)| !wanted(added)) {
            opening.forget();
        }
    }

    /// Goes on with the images of a disk, up to the next look.
    fn go_on(&mut self, mut opening: Opening, answer: Option<bulkhead_plan::intake::Answer>) -> Result<Stage, Failure> {
        let Some(question) = opening.go_on(answer)? else { return Ok(Stage::Open(opening.images())) };
        let begin = |image: &OwnedFd| {
            if self.pv.changes.opening.ending.len() >= MAX_ENDING {
                return Err(IntakeFault::Stuck);
            }
            let look = Looking::begin(&self.intake(), image, question)?;
            for end in [look.socket()?, look.pidfd()] {
                epoll::add(&self.events.epoll, end, EventData::new_u64(LOOK), EventFlags::IN)?;
            }
            Ok(look)
        };
        let look = opening.image().and_then(begin).map_err(|e| opening.fail(e))?;
        Ok(Stage::Looked(Box::new(Looked { opening, look, ticks: 0 })))
    }

    /// Handles what a process that looks into an image has sent, or its exit.
    pub(super) fn look_came(&mut self) {
        self.pv.changes.opening.reap();
        let Some((added, stage)) = self.pv.changes.opening.now.take() else { return };
        let Stage::Looked(mut looked) = stage else {
            self.pv.changes.opening.now = Some((added, stage));
            return;
        };
        let stage = match looked.look.hear(&self.intake()) {
            None => Ok(Stage::Looked(looked)),
            Some(answer) => {
                let Looked { opening, look, .. } = *looked;
                self.pv.changes.opening.end(look);
                answer.map_err(|e| opening.fail(e)).and_then(|answer| self.go_on(opening, Some(answer)))
            }
        };
        match stage {
            Ok(stage) => {
                if matches!(stage, Stage::Open(_)) {
                    self.pv.changes.notify_own(Instant::now());
                }
                self.pv.changes.opening.now = Some((added, stage));
            }
            Err(failure) => self.not_opened(added, &failure),
        }
    }

    /// Counts a tick of the look under way.
    pub(super) fn tick_opening(&mut self) {
        let Some((_, Stage::Looked(looked))) = &mut self.pv.changes.opening.now else { return };
        looked.ticks = looked.ticks.saturating_add(1);
        if looked.ticks < LOOK_TICKS {
            return;
        }
        let failure = looked.opening.fail(IntakeFault::Late);
        if let Some(added) = self.pv.changes.opening.forget() {
            self.not_opened(added, &failure);
        }
    }

    /// Says why a disk is not served, and lets the next one come.
    fn not_opened(&mut self, Added { domid, disk }: Added, failure: &Failure) {
        let (devid, file) = (disk.devid, disk.drive.file);
        let now = Instant::now();
        let note = format!("PV disk {devid} of domain {domid} is not served: {failure}");
        if !self.pv.changes.reported.contains(&note) {
            say(&note);
            self.pv.changes.reported.push(note.clone());
        }
        self.pv.changes.fail(domid, devid, file, &note, now);
        self.pv.changes.notify_own(now);
    }
}

#[cfg(test)]
mod tests;
