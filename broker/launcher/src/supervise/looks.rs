//! What the launcher reads in xenstore while the guest runs. Nothing here waits: a look comes here with what it has found so far, until
//! it is complete, and only then anything is done.
use super::Launcher;
use super::media::{disks_to_hand_off, front_disks, release_disks};
use super::refusal::Refusal;
use crate::attach::Watch;
use crate::nodes::{Nodes as _, Seen};
use crate::phase::Phase;
use crate::pv;
use crate::store::{Subject, Write};
use crate::unserved;
use bulkhead_plan::{DeviceConfig, Slot};
use std::time::Instant;

impl Launcher {
    /// Begins the look at disks that is due, and goes on with the looks under way.
    pub(super) fn scan(&mut self) {
        if self.pv.changes.take_due(Instant::now()) {
            let changed = self.pv.changes.take_disks();
            self.pv.store.look(Subject::Disks { changed });
        }
        self.look_on();
    }

    /// Goes on with the looks whose questions are answered.
    pub(super) fn look_on(&mut self) {
        while let Some((subject, mut seen)) = self.pv.store.next_round() {
            self.gather(&subject, &mut seen);
            let Some(seen) = self.pv.store.complete(seen) else { continue };
            let writes = self.act(subject, seen);
            self.pv.store.finish(writes);
        }
    }

    /// Counts a tick of a xenstored that owes an answer.
    pub(super) fn tick_looks(&mut self) {
        for serial in self.pv.store.tick() {
            self.answer(serial, Err(Refusal::XenstoreSilent));
        }
    }

    /// Reads what [`Self::act`] needs.
    fn gather(&self, subject: &Subject, seen: &mut Seen) {
        match subject {
            Subject::Disks { .. } => {
                for domid in self.domains() {
                    if !self.manner.restricted {
                        pv::all_disks(domid, seen);
                    }
                    unserved::answers(domid, seen, |devid| self.is_served(domid, devid));
                }
                for (_, domid, devid, file) in self.pv_disks().into_iter().filter(|_| !self.manner.restricted) {
                    pv::is_gone(domid, devid, file.as_deref(), seen);
                    seen.value(&pv::state_node(domid, devid));
                }
            }
            Subject::Viewer => drop(self.pv.watched.as_ref().map(|watch| watch.show(seen))),
            Subject::Media { .. } => drop(front_disks(seen)),
            Subject::Release { .. } => drop(disks_to_hand_off(seen)),
        }
    }

    /// Does what a complete look asks for. Returns what is to be written.
    fn act(&mut self, subject: Subject, mut seen: Seen) -> Vec<Write> {
        match subject {
            Subject::Disks { changed } => {
                // With dm_restrict added disks cannot be opened any more.
                if changed && !self.manner.restricted {
                    self.disks_changed(&mut seen);
                }
                self.answer_front_ends(&mut seen)
            }
            Subject::Viewer => {
                let Some(watch) = &mut self.pv.watched else { return Vec::new() };
                let writes = watch.show(&mut seen);
                watch.has_shown(&writes);
                writes
            }
            Subject::Media { serial, known } => {
                self.report_disks(serial, known, &mut seen);
                Vec::new()
            }
            Subject::Release { block } => {
                release_disks(&mut seen, |name| name == block);
                Vec::new()
            }
        }
    }

    /// The domains whose PV disks are watched.
    fn domains(&self) -> Vec<u16> {
        let guest = self.pv.watched.as_ref().map(|watch| watch.guest());
        guest.into_iter().flat_map(|guest| [Some(self.plan.domid), guest]).flatten().collect()
    }

    /// The PV disks that have a slot: slot, domain, number and image.
    pub(super) fn pv_disks(&self) -> Vec<(Slot, u16, u32, Option<String>)> {
        let of = |d: &bulkhead_plan::DeviceSlot| match &d.config {
            DeviceConfig::Qdisk { devid, disk, .. } => {
                let domid = self.slots.get(d.slot)?.domid.unwrap_or(self.plan.domid);
                Some((d.slot, domid, *devid, disk.file.clone()))
            }
            _ => None,
        };
        self.plan.devices.iter().filter_map(of).collect()
    }

    /// Whether a process serves a domain's disk, or will.
    fn is_served(&self, domid: u16, devid: u32) -> bool {
        let serves = |(slot, d, id, _): &(Slot, u16, u32, _)| {
            (*d, *id) == (domid, devid) && self.slots.phase(*slot) != Some(Phase::Waiting)
        };
        self.pv_disks().iter().any(serves)
    }

    /// Answers drivers that have connected to a disk that no process serves now.
    fn answer_front_ends(&mut self, seen: &mut Seen) -> Vec<Write> {
        let mut writes = Vec::new();
        for domid in self.domains() {
            for mut answer in unserved::answers(domid, seen, |devid| self.is_served(domid, devid)) {
                let disk = (domid, answer.devid);
                // One line for each disk: the guest can connect any number of times.
                if answer.closes && !self.pv.changes.answered.contains(&disk) {
                    self.pv.changes.answered.push(disk);
                    let line =
                        format!("a driver of domain {domid} has come to PV disk {}, which nobody serves now", disk.1);
                    answer.write.lines = [Some(format!("{line}: it is closed to it")), None];
                }
                writes.push(answer.write);
            }
        }
        writes
    }

    /// The guest of a watched stub domain.
    pub(super) fn watched_guest(&self) -> Option<u16> {
        self.pv.watched.as_ref().and_then(Watch::guest)
    }
}
