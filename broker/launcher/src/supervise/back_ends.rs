//! Back ends of PV devices: their descriptors, disks that are added and removed, and the hand-off of a disk from its emulated drive.
use super::Launcher;
use super::disk_changes::HandedOff;
use crate::attach::Watch;
use crate::failure::{Failure, system};
use crate::log::say;
use crate::machine::drives::{Backing, MachineDrive};
use crate::machine::host::{Host, Part};
use crate::machine::{drives, serial};
use crate::pv;
use crate::slot::{KillReason, Phase, SlotState};
use crate::unserved::{self, Answers};
use bulkhead_bus::pv::{BUFFER_PAGES, State};
use bulkhead_bus::{DiskIdentity, WhenFull};
use bulkhead_plan::{
    CONTROL, DeviceConfig, DeviceSlot, DriveConfig, DriveId, FIRST_DEVICE, FdUse, ImageFormat, PvNodes, Slot, Starts,
};
use bulkhead_ring::SharedArea;
use bulkhead_xen::{DomainState, Evtchn, Gntdev, Privcmd, Xenstore};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// End of a guest's slots: each slot has a user of the guest's 64.
const SLOTS: Slot = 64;

/// Node in the back end of a stub domain's disk: the guest gets the disk when the stub domain releases it.
pub(super) const HAND_OFF: &str = "hand-over";

/// Opens the resources of the PV devices in the domain's nodes. The parts are `xenbus`, `grant` and the back ends; for a stub domain the
/// same for its guest follows.
pub(super) fn open(host: &mut Host, null: &OwnedFd) -> Result<Vec<Part>, Failure> {
    let (machine, domid) = (host.machine, host.domid);
    let Ok(mut xenstore) = Xenstore::connect() else { return Ok(Vec::new()) };
    // A silent xenstored would cost a timeout with each of the reads below.
    if let Err(e) = xenstore.read(&format!("/local/domain/{domid}/name"))
        && !e.is_answer()
    {
        return Err(Failure::Xenstore(e));
    }
    let (disks, notes) =
        if machine.attach { pv::all_disks(domid, &mut xenstore) } else { pv::disks(domid, &mut xenstore) };
    host.shown.extend(notes);
    let keyboards = pv::keyboards(domid, &mut xenstore);
    let screens = pv::screens(domid, &mut xenstore);
    let (consoles, notes) = pv::consoles(domid, &mut xenstore);
    host.shown.extend(notes);
    if disks.is_empty() && keyboards.is_empty() && screens.is_empty() && consoles.is_empty() {
        return Ok(Vec::new());
    }
    let Ok(stream) = Xenstore::open_stream() else {
        host.shown.push("PV devices are not served: xenstored has no socket here".to_owned());
        return Ok(Vec::new());
    };
    let guest: Option<u16> =
        machine.attach.then(|| xenstore.read(&format!("/local/domain/{domid}/target")).ok()?.parse().ok()).flatten();
    if let Some(guest) = guest {
        let twins = pv::disks(guest, &mut xenstore).0;
        for disk in disks.iter().filter(|d| twins.iter().any(|twin| is_twin(twin, d.devid, d.drive.file.as_deref()))) {
            let node = format!("{}/{HAND_OFF}", disk.nodes.back);
            xenstore.write(&node, "1").map_err(|source| Failure::Node { node, source })?;
        }
    }
    let mut parts = Vec::new();
    let mut servers = Servers::new(domid, stream);
    for disk in disks {
        // The emulated drive has the image until the guest unplugs it.
        let twin = machine.drives.iter().find(|d| !d.cdrom && d.file == disk.drive.file).and_then(|d| d.at);
        let (mut kept, config) = match twin {
            Some(at) => (Vec::new(), without_image(&disk.drive, at)),
            None => pv_image(&disk.drive, (machine.backing, machine.full), null)?,
        };
        kept.extend(servers.serve(disk.nodes, true)?);
        let config = DeviceConfig::Qdisk { devid: disk.devid, disk: config, emulated: twin, discard: disk.discard };
        parts.push(Part { kept, ..Part::new(config) });
    }
    for (devid, nodes) in keyboards {
        parts.push(Part { kept: servers.serve(nodes, false)?, ..Part::new(DeviceConfig::Vkbd { devid }) });
    }
    for (devid, nodes) in screens {
        let mut kept = servers.serve(nodes, false)?;
        kept.retain(|(what, _)| !matches!(what, FdUse::Grants(_) | FdUse::Gntdev(_)));
        kept.push((FdUse::Privcmd, host.restricted()?));
        parts.push(Part { kept, ..Part::new(DeviceConfig::Vfb { devid }) });
    }
    for console in consoles {
        parts.push(self::console(host, console, &mut servers, &mut xenstore)?);
    }
    let mut all = servers.parts();
    all.append(&mut parts);
    if let Some(guest) = guest {
        all.append(&mut open_guests(host, guest, &mut xenstore)?);
    }
    Ok(all)
}

/// Opens the PV devices of a stub domain's guest that dom0 serves: its keyboard, for viewers that see the guest's picture in the stub
/// domain's frame buffer, and its consoles after the first.
fn open_guests(host: &mut Host, guest: u16, xenstore: &mut Xenstore) -> Result<Vec<Part>, Failure> {
    let keyboards = pv::keyboards(guest, xenstore);
    let (consoles, notes) = pv::consoles(guest, xenstore);
    host.shown.extend(notes);
    if keyboards.is_empty() && consoles.is_empty() {
        return Ok(Vec::new());
    }
    let stream = Xenstore::open_stream().map_err(Failure::Xenstore)?;
    let mut servers = Servers::new(guest, stream);
    let mut parts = Vec::new();
    for (devid, nodes) in keyboards {
        parts.push(Part { kept: servers.serve(nodes, false)?, ..Part::new(DeviceConfig::Vkbd { devid }) });
    }
    for console in consoles {
        parts.push(self::console(host, console, &mut servers, xenstore)?);
    }
    let mut all = servers.parts();
    all.append(&mut parts);
    Ok(all.into_iter().map(|part| Part { domid: Some(guest), ..part }).collect())
}

/// Opens a console and its other end.
fn console(
    host: &mut Host,
    console: pv::PvConsole,
    servers: &mut Servers,
    xenstore: &mut Xenstore,
) -> Result<Part, Failure> {
    let end = serial::serial(console.devid as usize, &console.output)?;
    if let Some(terminal) = &end.terminal {
        // `xl console` reads this node.
        let tty = format!("{}/tty", console.nodes.front);
        xenstore.write(&tty, terminal).map_err(|source| Failure::Node { node: tty, source })?;
    }
    host.held.extend(end.slave);
    let listens = console.output.listens();
    host.sockets.extend(listens.map(str::to_owned));
    host.chardevs.push((console.label, end.shown));
    let mut kept = servers.serve(console.nodes, false)?;
    kept.extend(end.fd.map(|fd| (FdUse::Serial, fd)));
    let config = DeviceConfig::Console { devid: console.devid, listens: listens.is_some() };
    Ok(Part { kept, ..Part::new(config) })
}

/// Whether the parts have a back end for the domain's disk with xenbus' number `id`.
pub(super) fn serves(parts: &[Part], id: &str) -> bool {
    parts
        .iter()
        .any(|p| matches!(p.config, DeviceConfig::Qdisk { devid, .. } if p.domid.is_none() && devid.to_string() == id))
}

/// Opens a disk's image. An empty CD drive gets `/dev/null`: a disk without sectors.
fn pv_image(
    drive: &MachineDrive,
    (backing, full): (Backing, WhenFull),
    null: &OwnedFd,
) -> Result<(Vec<(FdUse, OwnedFd)>, DriveConfig), Failure> {
    let (mut fds, mut config) = drives::drive(drive, backing, full)?;
    if drive.file.is_none() {
        fds.push((FdUse::Drive(config.at), rustix::io::dup(null).map_err(system("dup"))?));
        (config.size, config.formats) = (Some(0), vec![ImageFormat::Raw]);
    }
    Ok((fds, config))
}

/// Collects the descriptors of `xenbus` and `grant`, which serve all back ends of a domain.
struct Servers {
    domid: u16,
    devices: Vec<PvNodes>,
    xenbus: Vec<(FdUse, OwnedFd)>,
    grant: Vec<(FdUse, OwnedFd)>,
}

impl Servers {
    fn new(domid: u16, store: OwnedFd) -> Self {
        Self { domid, devices: Vec::new(), xenbus: vec![(FdUse::Xenstore, store)], grant: Vec::new() }
    }

    /// The parts of `xenbus` and `grant`.
    fn parts(self) -> Vec<Part> {
        let xenbus = Part { kept: self.xenbus, ..Part::new(DeviceConfig::Xenbus { devices: self.devices }) };
        vec![xenbus, Part { kept: self.grant, ..Part::new(DeviceConfig::Grant) }]
    }

    /// Adds a back end. Returns the back end's own descriptors: its sockets to both servers, its grant device, its event channels. `copies`:
    /// it gets a buffer for grant copies.
    fn serve(&mut self, nodes: PvNodes, copies: bool) -> Result<Vec<(FdUse, OwnedFd)>, Failure> {
        let pair = || {
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(system("socketpair"))
        };
        let number = u8::try_from(self.devices.len()).map_err(|_| Failure::PvDevices)?;
        let ((nodes_end, far_nodes), (grants, far_grants)) = (pair()?, pair()?);
        let device = Gntdev::open().map_err(Failure::Xen)?;
        self.grant.push((FdUse::Gntdev(number), rustix::io::dup(&device).map_err(system("dup"))?));
        let mut fds = vec![(FdUse::Nodes(0), nodes_end), (FdUse::Grants(0), grants), (FdUse::Gntdev(0), device)];
        if copies {
            let buffer = SharedArea::create("grants", BUFFER_PAGES.saturating_mul(4096))?;
            SharedArea::seal_size(&buffer)?;
            self.grant.push((FdUse::GrantBuffer(number), rustix::io::dup(&buffer).map_err(system("dup"))?));
            fds.push((FdUse::GrantBuffer(0), buffer));
        }
        self.grant.push((FdUse::Grants(number), far_grants));
        self.xenbus.push((FdUse::Nodes(number), far_nodes));
        self.devices.push(nodes);
        fds.push((FdUse::Evtchn, Evtchn::open_restricted(self.domid).map_err(Failure::Xen)?));
        Ok(fds)
    }
}

/// Whether a guest's disk is the stub domain's disk with this number and image.
fn is_twin(disk: &pv::PvDisk, devid: u32, file: Option<&str>) -> bool {
    disk.devid == devid && file.is_some() && disk.drive.file.as_deref() == file
}

/// The configuration of a PV disk while the emulated drive at `at` has its image.
fn without_image(drive: &MachineDrive, at: DriveId) -> DriveConfig {
    DriveConfig {
        at,
        cdrom: false,
        read_only: drive.read_only,
        size: None,
        id: drive.id.clone(),
        file: drive.file.clone(),
        formats: Vec::new(),
        full: WhenFull::default(),
        identity: DiskIdentity::default(),
        geometry: None,
    }
}

/// Whether a process is not started with the machine: a PV disk waits for the hand-off of its image, `xenbus` and `grant` wait for the
/// first back end.
pub(super) fn must_wait(config: &DeviceConfig, all: &[DeviceSlot]) -> bool {
    match config.starts() {
        Starts::AtOnce => false,
        Starts::WhenAdded | Starts::AtHandOff => true,
        Starts::WithBackEnds => !all.iter().any(|d| d.config.kind().back_end && d.config.starts() == Starts::AtOnce),
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
            if let Err(e) = self.spawn(slot) {
                let name = self.slots.get_mut(slot).map(|s| s.name.clone()).unwrap_or_default();
                say(&format!("{name}: {e}"));
            }
        }
    }

    /// Starts to watch the domain's end and its disks, when all processes run. A disk that was added before is found by the first event,
    /// which xenstore sends at once.
    pub(super) fn watch_domain(&mut self) -> Result<(), Failure> {
        self.pv.changes.reported.clone_from(&self.shown);
        let watch = match self.pv.watched.take() {
            Some(watch) => watch,
            None if self.manner.restricted => return Ok(()),
            None => Watch::new(self.plan.domid).map_err(Failure::Watch)?,
        };
        epoll::add(&self.events.epoll, watch.as_fd(), EventData::new_u64(super::WATCH), EventFlags::IN)
            .map_err(system("epoll_ctl"))?;
        self.pv.watched = Some(watch);
        Ok(())
    }

    /// Ends the processes of removed disks. Starts three processes for each new disk: its own, and a `xenbus` and a `grant` that serve it
    /// alone. A stub domain's guest gets the disks that the stub domain has released, and those that the stub domain does not have.
    pub(super) fn disks_changed(&mut self) {
        let Ok(mut xenstore) = Xenstore::connect() else { return };
        let own = self.plan.domid;
        let (disks, mut notes) =
            if self.manner.attach { pv::all_disks(own, &mut xenstore) } else { pv::disks(own, &mut xenstore) };
        let mut wanted: Vec<(u16, pv::PvDisk)> = disks
            .iter()
            .filter(|d| !self.pv.changes.handed_off.iter().any(|g| g.devid == d.devid))
            .map(|d| (own, d.clone()))
            .collect();
        if let Some(guest) = self.pv.watched.as_ref().and_then(Watch::guest) {
            let (theirs, more) = pv::disks(guest, &mut xenstore);
            notes.extend(more);
            // A domain that ends closes its front ends too; that is no release.
            if Privcmd::open(guest).and_then(|p| p.domain_state()).is_ok_and(|state| state == DomainState::Alive) {
                self.take_released_disks(&theirs, &mut xenstore);
            }
            let held = |d: &pv::PvDisk| {
                disks.iter().any(|s| is_twin(d, s.devid, s.drive.file.as_deref()))
                    && !self.pv.changes.handed_off.iter().any(|g| is_twin(d, g.devid, g.file.as_deref()))
            };
            wanted.extend(theirs.iter().filter(|d| !held(d)).map(|d| (guest, d.clone())));
        }
        let known: Vec<(Slot, u16, u32, Option<String>)> = self
            .plan
            .devices
            .iter()
            .filter_map(|d| match &d.config {
                DeviceConfig::Qdisk { devid, disk, .. } => {
                    Some((d.slot, self.slots.get(d.slot)?.domid.unwrap_or(own), *devid, disk.file.clone()))
                }
                _ => None,
            })
            .collect();
        for (slot, domid, devid, file) in &known {
            if pv::is_gone(*domid, *devid, file.as_deref(), &mut xenstore) {
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
        for (domid, disk) in wanted {
            let devid = disk.devid;
            match self.add_disk(disk, domid) {
                Ok(()) => new = true,
                Err(e) => notes.push(format!("PV disk {devid} of domain {domid} is not served: {e}")),
            }
        }
        // Each note once: the guest can cause any number of scans.
        notes.iter().filter(|note| !self.pv.changes.reported.contains(note)).for_each(|note| say(note));
        self.pv.changes.reported = notes;
        if new {
            self.renew_control();
        }
    }

    /// Answers drivers that have connected to a disk that no process serves now.
    pub(super) fn answer_front_ends(&mut self) {
        let own = self.plan.domid;
        let mut served: Vec<(u16, u32)> = Vec::new();
        for device in &self.plan.devices {
            let DeviceConfig::Qdisk { devid, .. } = &device.config else { continue };
            let slot = self.slots.get(device.slot).filter(|s| s.phase() != Phase::Waiting);
            served.extend(slot.map(|s| (s.domid.unwrap_or(own), *devid)));
        }
        let Some(watch) = self.pv.watched.as_ref() else { return };
        let opened = match self.pv.answers.take() {
            None if !self.manner.restricted => Answers::connect().ok(),
            kept => kept,
        };
        let Some(mut answers) = opened else { return };
        for domid in [Some(own), watch.guest()].into_iter().flatten() {
            for devid in unserved::answer(domid, &mut answers, |devid| served.contains(&(domid, devid))) {
                // One line for each disk: the guest can connect any number of times.
                if !self.pv.changes.answered.contains(&(domid, devid)) {
                    self.pv.changes.answered.push((domid, devid));
                    say(&format!(
                        "a driver of domain {domid} has come to PV disk {devid}, which nobody serves now: it is closed to it"
                    ));
                }
            }
        }
        if self.manner.restricted && answers.is_good() {
            self.pv.answers = Some(answers);
        }
    }

    /// Ends the processes of the disks that the stub domain has released (closed its front ends of) for its guest, and keeps their open files.
    fn take_released_disks(&mut self, theirs: &[pv::PvDisk], xenstore: &mut Xenstore) {
        let own = self.plan.domid;
        let mut released = Vec::new();
        for device in &self.plan.devices {
            let DeviceConfig::Qdisk { devid, disk, .. } = &device.config else { continue };
            let state = self.slots.get_mut(device.slot);
            let Some(state) = state.filter(|s| s.domid.is_none() && s.phase() != Phase::Unplugged) else {
                continue;
            };
            let closed = xenstore
                .read(&format!("/local/domain/0/backend/qdisk/{own}/{devid}/state"))
                .is_ok_and(|s| State::of(Some(&s)) == State::Closed);
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

    fn add_disk(&mut self, disk: pv::PvDisk, domid: u16) -> Result<(), Failure> {
        let handed_off = self
            .pv
            .changes
            .handed_off
            .iter_mut()
            .find(|g| is_twin(&disk, g.devid, g.file.as_deref()))
            .and_then(|g| g.image.take());
        let (mut fds, config) = match handed_off {
            Some((config, fds)) => (fds, config),
            None => pv_image(&disk.drive, self.pv.changes.images, &self.spawner.null)?,
        };
        let guests = domid != self.plan.domid;
        let mut servers = Servers {
            domid,
            devices: Vec::new(),
            xenbus: vec![(FdUse::Xenstore, Xenstore::open_stream().map_err(Failure::Xenstore)?)],
            grant: Vec::new(),
        };
        fds.extend(servers.serve(disk.nodes, true)?);
        let Servers { devices, xenbus, grant, .. } = servers;
        let id = disk.devid;
        let whose = if guests { "guest-" } else { "" };
        let parts = [
            (format!("{whose}xenbus-{id}"), DeviceConfig::Xenbus { devices }, xenbus),
            (format!("{whose}grant-{id}"), DeviceConfig::Grant, grant),
            (
                format!("{whose}qdisk{id}"),
                DeviceConfig::Qdisk { devid: id, disk: config, emulated: None, discard: disk.discard },
                fds,
            ),
        ];
        let mut slots = Vec::new();
        for (name, config, kept) in parts {
            let slot = (FIRST_DEVICE..SLOTS).find(|slot| self.slots.get(*slot).is_none()).ok_or(Failure::PvDevices)?;
            let mut state = SlotState::new(slot, name.clone(), config.kind(), self.ids(slot), kept)?;
            (state.domid, state.without_broker) = (guests.then_some(domid), true);
            let log = rustix::io::dup(&state.log_read).map_err(system("dup"))?;
            if let Some(control) = self.slots.get_mut(CONTROL) {
                control.kept.push((FdUse::Log(slot), log));
            }
            self.slots.push(state);
            self.plan.devices.push(DeviceSlot { slot, name, config });
            slots.push(slot);
        }
        for slot in &slots {
            self.spawn(*slot)?;
        }
        if let [xenbus, grant, disk] = slots.as_slice() {
            self.pv.changes.servers.push((*disk, [*xenbus, *grant]));
        }
        Ok(())
    }

    /// Removes the slot of a removed disk whose process has exited.
    pub(super) fn finish_disk_removal(&mut self, slot: Slot) {
        if self.remove_slot(slot) {
            self.renew_control();
            self.disks_changed();
        }
    }

    /// Removes a slot with everything that is kept for it. Returns whether it was a disk's.
    fn remove_slot(&mut self, slot: Slot) -> bool {
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

    /// Replaces a slot's connection to xenstored before a restart: the last process may have died inside of a message.
    pub(super) fn reconnect_xenstore(&mut self, slot: Slot) {
        if self.manner.restricted {
            return;
        }
        let Some(state) = self.slots.get_mut(slot).filter(|s| s.kept.iter().any(|(what, _)| *what == FdUse::Xenstore))
        else {
            return;
        };
        match Xenstore::open_stream() {
            Ok(stream) => {
                state.kept.retain(|(what, _)| *what != FdUse::Xenstore);
                state.kept.push((FdUse::Xenstore, stream));
            }
            Err(e) => say(&format!("{}: {e}", state.name)),
        }
    }
}
