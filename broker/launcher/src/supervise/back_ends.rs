//! Back ends of PV devices: their descriptors, disks that are added and removed, and the hand-off of a disk from its emulated
//! drive.
use super::Launcher;
use super::disk_changes::HandedOff;
use crate::callers::Served;
use crate::failure::{Failure, system};
use crate::log::say;
use crate::machine::back_ends::{Servers, is_twin, pv_images};
use crate::machine::host::Part;
use crate::machine::images::Images;
use crate::nodes::{Nodes as _, Seen};
use crate::phase::Phase;
use crate::pv;
use crate::slot::{KillReason, SlotState};
use bulkhead_bus::pv::State;
use bulkhead_plan::{CONTROL, DeviceConfig, DeviceSlot, DriveConfig, FIRST_DEVICE, FdUse, Slot, Starts};
use bulkhead_xen::{DomainState, Privcmd};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::OwnedFd;
use std::time::Instant;

/// End of a guest's slots: each slot has a user of the guest's 64, and the last user is `intake`'s.
pub(super) const SLOTS: Slot = crate::intake::SLOT;

/// Whether a process is not started with the machine: a PV disk waits for the hand-off of its image, `xenbus` and `grant` wait for
/// the first back end.
pub(super) fn must_wait(config: &DeviceConfig, all: &[DeviceSlot]) -> bool {
    match config.starts() {
        Starts::AtOnce => false,
        Starts::WhenAdded | Starts::AtHandOff => true,
        Starts::WithBackEnds => {
            !all.iter().any(|d| d.config.kind().back_end.is_some() && d.config.starts() == Starts::AtOnce)
        }
    }
}

impl Launcher {
    /// Hands the open files of an unplugged drive off to the PV disk with the same image, and starts that disk.
    pub(super) fn hand_off(&mut self, drive: &DriveConfig, files: Vec<(FdUse, OwnedFd)>) {
        let heir = self.plan.devices.iter_mut().find_map(|d| match &mut d.config {
            DeviceConfig::Qdisk { disk, emulated, .. } if *emulated == Some(drive.at) => {
                let id = std::mem::take(&mut disk.id);
                (*disk, *emulated) = (DriveConfig { id, ..drive.clone() }, None);
                Some(d.slot)
            }
            _ => None,
        });
        let Some(heir) = heir else { return };
        let Some(state) = self.slots.get_mut(heir).filter(|s| s.phase() == Phase::Waiting) else { return };
        state.kept.extend(files);
        // The first disk also starts `xenbus` and `grant`. Its calls wait in the sockets until those two listen.
        let servers = self.plan.devices.iter().filter(|d| d.config.starts() == Starts::WithBackEnds).map(|d| d.slot);
        let begin: Vec<Slot> =
            servers.chain([heir]).filter(|slot| self.slots.phase(*slot) == Some(Phase::Waiting)).collect();
        for slot in begin {
            self.start_again(slot);
        }
    }

    /// Ends the processes of removed disks. Starts three processes for each new disk: its own, and a `xenbus` and a `grant` that
    /// serve it alone. A stub domain's guest gets the disks that the stub domain has released, and those that the stub domain does
    /// not have.
    pub(super) fn disks_changed(&mut self, seen: &mut Seen) {
        let own = self.plan.domid;
        let (disks, mut notes) = if self.manner.attach { pv::all_disks(own, seen) } else { pv::disks(own, seen) };
        let mut wanted: Vec<(u16, pv::PvDisk)> = disks
            .iter()
            .filter(|d| !self.pv.changes.handed_off.iter().any(|g| g.devid == d.devid))
            .map(|d| (own, d.clone()))
            .collect();
        if let Some(guest) = self.watched_guest() {
            let (theirs, more) = pv::disks(guest, seen);
            notes.extend(more);
            // A domain that ends closes its front ends too; that is no release.
            if Privcmd::open(guest).and_then(|p| p.domain_state()).is_ok_and(|state| state == DomainState::Alive) {
                self.take_released_disks(&theirs, seen);
            }
            let held = |d: &pv::PvDisk| {
                disks.iter().any(|s| is_twin(d, s.devid, s.drive.file.as_deref()))
                    && !self.pv.changes.handed_off.iter().any(|g| is_twin(d, g.devid, g.file.as_deref()))
            };
            wanted.extend(theirs.iter().filter(|d| !held(d)).map(|d| (guest, d.clone())));
        }
        let known = self.pv_disks();
        for (slot, domid, devid, file) in &known {
            if pv::is_gone(*domid, *devid, file.as_deref(), seen) {
                self.remove_disk(*slot, || KillReason::DiskRemoved);
            }
        }
        let mut new = false;
        // A disk that replaces another one waits for the exit of that one's process.
        let waits = |devid: u32, domid: u16| {
            known.iter().any(|(_, d, id, _)| {
                *id == devid
                    && (*d == domid || self.pv.changes.handed_off.iter().any(|g| g.devid == devid && g.image.is_some()))
            })
        };
        let wanted: Vec<_> = wanted.into_iter().filter(|(domid, d)| !waits(d.devid, *domid)).collect();
        self.keep_opening(|disk| wanted.iter().any(|(domid, d)| disk.is(*domid, d)));
        for (domid, disk) in wanted {
            let (devid, file) = (disk.devid, disk.drive.file.clone());
            if let Some(note) = self.pv.changes.failed_lately(domid, devid, file.as_deref(), Instant::now()) {
                notes.push(note);
                continue;
            }
            let added = match self.images_of(&disk, domid) {
                // Its turn has not come, or somebody looks into its images: the scan after that finds it again.
                Ok(None) => continue,
                Ok(Some(images)) => self.add_disk(disk, domid, images),
                Err(e) => Err(e),
            };
            match added {
                Ok(()) => new = true,
                Err(e) => {
                    let note = format!("PV disk {devid} of domain {domid} is not served: {e}");
                    self.pv.changes.fail(domid, devid, file, &note, Instant::now());
                    notes.push(note);
                }
            }
        }
        // Each note once: the guest can cause any number of scans.
        notes.iter().filter(|note| !self.pv.changes.reported.contains(note)).for_each(|note| say(note));
        self.pv.changes.reported = notes;
        if new {
            self.renew_control();
        }
    }

    /// Ends the processes of the disks that the stub domain has released (closed its front ends of) for its guest, and keeps their
    /// open files.
    fn take_released_disks(&mut self, theirs: &[pv::PvDisk], seen: &mut Seen) {
        let own = self.plan.domid;
        let mut released = Vec::new();
        for device in &self.plan.devices {
            let DeviceConfig::Qdisk { devid, disk, .. } = &device.config else { continue };
            let state = self.slots.get_mut(device.slot);
            let Some(state) = state.filter(|s| s.domid.is_none() && s.phase() != Phase::Unplugged) else {
                continue;
            };
            let closed = State::of(seen.value(&pv::state_node(own, *devid)).as_deref()) == State::Closed;
            if closed && theirs.iter().any(|d| is_twin(d, *devid, disk.file.as_deref())) {
                let (files, kept) = std::mem::take(&mut state.kept)
                    .into_iter()
                    .partition(|(what, _)| matches!(what, FdUse::Drive(_) | FdUse::Backing(..)));
                state.kept = kept;
                released.push((
                    device.slot,
                    HandedOff { devid: *devid, file: disk.file.clone(), image: Some((disk.clone(), files)) },
                ));
            }
        }
        for (slot, disk) in released {
            say(&format!("the stub domain has let go of disk {}: it is its guest's", disk.devid));
            self.pv.changes.handed_off.push(disk);
            self.remove_disk(slot, || KillReason::DiskHandedOff);
        }
    }

    /// Ends a disk's process and the two that serve it alone, without a restart.
    fn remove_disk(&mut self, slot: Slot, why: fn() -> KillReason) {
        let servers = self
            .pv
            .changes
            .servers
            .iter()
            .filter(|(disk, _)| *disk == slot)
            .flat_map(|(_, servers)| *servers)
            .collect::<Vec<_>>();
        for slot in servers.into_iter().chain([slot]) {
            let Some(state) = self.slots.get_mut(slot).filter(|s| s.phase() != Phase::Unplugged) else { continue };
            state.enter(Phase::Unplugged);
            state.kept.clear();
            state.kill(why());
            if state.life.is_none() {
                // It has no process whose exit would remove it: it died too often.
                self.remove_slot(slot);
            }
        }
    }

    /// The images of a disk that is to be added: those of its emulated twin, or else they are opened. `None`: not yet.
    fn images_of(&mut self, disk: &pv::PvDisk, domid: u16) -> Result<Option<Images>, Failure> {
        let is_twin = |g: &&mut HandedOff| is_twin(disk, g.devid, g.file.as_deref());
        if let Some((config, fds)) = self.pv.changes.handed_off.iter_mut().find(is_twin).and_then(|g| g.image.take()) {
            return Ok(Some((fds, config)));
        }
        let Some(images) = self.open_images(disk, domid)? else { return Ok(None) };
        pv_images(images, self.spawner.starter.null()).map(Some)
    }

    fn add_disk(&mut self, disk: pv::PvDisk, domid: u16, (fds, config): Images) -> Result<(), Failure> {
        let guests = domid != self.plan.domid;
        let mut servers = Servers::new(domid, (self.xen.open_stream)().map_err(Failure::Xenstore)?);
        let id = disk.devid;
        let config = DeviceConfig::Qdisk { devid: id, disk: config, emulated: None, discard: disk.discard };
        let qdisk = servers.serve(Part { kept: fds, ..Part::new(config) }, disk.nodes, true)?;
        let [xenbus, grant] = servers.parts();
        let whose = if guests { "guest-" } else { "" };
        let parts = [
            (format!("{whose}xenbus-{id}"), xenbus),
            (format!("{whose}grant-{id}"), grant),
            (format!("{whose}qdisk{id}"), qdisk),
        ];
        let mut slots = Vec::new();
        for (name, Part { config, kept, caller, .. }) in parts {
            let slot = (FIRST_DEVICE..SLOTS).find(|slot| self.slots.get(*slot).is_none()).ok_or(Failure::PvDevices)?;
            let mut state = SlotState::new(slot, name.clone(), config.kind(), self.ids(slot), kept)?;
            (state.domid, state.without_broker) = (guests.then_some(domid), true);
            if let (Some(number), [xenbus, grant]) = (caller, slots.as_slice()) {
                state.served = Some(Served { xenbus: *xenbus, grant: *grant, number });
            }
            let log = rustix::io::dup(&state.log_read).map_err(system("dup"))?;
            if let Some(control) = self.slots.get_mut(CONTROL) {
                control.kept.push((FdUse::Log(slot), log));
            }
            self.slots.push(state);
            self.plan.devices.push(DeviceSlot { slot, name, config });
            slots.push(slot);
        }
        for slot in &slots {
            self.start_again(*slot);
        }
        if let [xenbus, grant, disk] = slots.as_slice() {
            self.pv.changes.servers.push((*disk, [*xenbus, *grant]));
        }
        Ok(())
    }

    /// Kills the process of a back end that has made more calls to `server` than it may. One that has just been removed is gone.
    pub(super) fn overrun(&mut self, server: Slot, number: u8) {
        let name = self.slots.get(server).map(|s| s.name.clone()).unwrap_or_default();
        let caller = self.slots.caller(server, number).and_then(|slot| self.slots.get(slot));
        if let Some(caller) = caller {
            caller.kill(KillReason::Overrun(name));
        }
    }

    /// Removes the slot of a removed disk whose process has exited.
    pub(super) fn finish_disk_removal(&mut self, slot: Slot) {
        if self.remove_slot(slot) {
            self.renew_control();
            self.pv.changes.notify(Instant::now(), true);
        }
    }

    /// Removes a slot with everything that is kept for it. Returns whether it was a disk's.
    fn remove_slot(&mut self, slot: Slot) -> bool {
        if let (Ok(groups), Some(state)) = (&mut self.groups, self.slots.get(slot)) {
            // Its name may come again, with another image.
            groups.forget(&state.name);
        }
        self.slots.remove(slot);
        let was_disk =
            self.plan.devices.iter().any(|d| d.slot == slot && matches!(d.config, DeviceConfig::Qdisk { .. }));
        self.plan.devices.retain(|d| d.slot != slot);
        self.pv.changes.servers.retain(|(disk, _)| *disk != slot);
        if let Some(control) = self.slots.get_mut(CONTROL) {
            control.kept.retain(|(what, _)| !matches!(what, FdUse::Log(s) | FdUse::Control(s) if *s == slot));
        }
        was_disk
    }

    /// Restarts control, which learns of the devices when it starts.
    fn renew_control(&mut self) {
        if let Some(control) = self.slots.get_mut(CONTROL) {
            control.renew();
        }
    }

    /// Replaces the connection to xenstored of a slot whose process has exited: that process may have left half a message there.
    /// Returns whether the next process may be started; if not, this is done again in a second. A slot without a connection has
    /// nothing to wait for.
    pub(super) fn reconnect_xenstore(&mut self, slot: Slot) -> bool {
        let Some(state) = self.slots.get_mut(slot).filter(|s| xenstore_of(s).is_some()) else { return true };
        if self.manner.restricted || self.spawner.starter.is_lost() {
            // The same connection serves the next process. Without the starter there is none, and the start counts as a death.
            state.await_xenstore(false);
            return true;
        }
        let stream = (self.xen.open_stream)();
        let waits = stream.is_err();
        let new = state.await_xenstore(waits);
        match stream {
            Ok(stream) => {
                state.kept.retain(|(what, _)| *what != FdUse::Xenstore);
                state.kept.push((FdUse::Xenstore, stream));
            }
            // One line, however long it takes.
            Err(e) if new => say(&format!("{} waits for a connection to xenstored: {e}", state.name)),
            Err(_) => {}
        }
        !waits
    }
}

/// The connection to xenstored that a slot's processes get, if they get one.
fn xenstore_of(state: &SlotState) -> Option<&OwnedFd> {
    state.kept.iter().find(|(what, _)| *what == FdUse::Xenstore).map(|(_, socket)| socket)
}

/// Whether xenstored has closed the connection of a slot. This is the kernel's word, not the process's.
pub(super) fn has_lost_xenstore(state: &SlotState) -> bool {
    let Some(socket) = xenstore_of(state) else { return false };
    let mut polled = [PollFd::new(socket, PollFlags::empty())];
    let _ = rustix::event::poll(&mut polled, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled.iter().any(|p| p.revents().intersects(PollFlags::HUP | PollFlags::ERR))
}
