//! Opens the processes' resources before any process starts.
use super::back_ends::{SLOTS, must_wait};
use super::disk_changes::DiskChanges;
use super::dumps::{self, Dumps};
use super::watchdog::Ticks;
use super::{
    Events, Held, Launcher, Manner, Pv, Requests, SIGNALS, STARTER, Spawner, XenEnds, executable, grouping, users,
};
use crate::attach::Watch;
use crate::budget;
use crate::callers::Served;
use crate::failure::{Failure, system};
use crate::groups::Choice;
use crate::intake::Intake;
use crate::log::say;
use crate::machine::Machine;
use crate::machine::host::{self, Host, Part, UserFault};
use crate::machine::images::{self, Writable};
use crate::machine::saved::{Saved, SavedFault};
use crate::machine::{DEVICES, back_ends, board, fbdev, vchan, video, viewers};
use crate::phase::Phase;
use crate::slot::SlotState;
use crate::slots::Slots;
use crate::store::{self, Store};
use crate::stubdom::Stubdom;
use bulkhead_plan::{
    BROKER, CONTROL, DeviceConfig, DeviceSlot, FIRST_DEVICE, FdUse, Level, MachinePlan, Memory, Mode, Slot, Starts,
    kind,
};
use bulkhead_policy::{self as policy, Ids, Reach, Starter};
use bulkhead_ring::DirtyMap;
use bulkhead_wire::Shape;
use bulkhead_xen::{Evtchn, Privcmd, Xenstore, XenstoreQueue};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode as FileMode, OFlags};
use std::path::PathBuf;
use std::rc::Rc;

impl Launcher {
    /// Opens all resources. No process runs yet, so an error leaves nothing behind but the paths of sockets.
    pub(super) fn prepare(machine: Machine, mut stubdom: Option<Stubdom>, signals: OwnedFd) -> Result<Self, Failure> {
        let domid = machine.domid.unwrap_or(0);
        let shape = Shape::new(usize::from(machine.vcpus)).ok_or(Failure::Vcpus(machine.vcpus))?;
        policy::restrict::drop_groups();
        let user = machine.user.as_deref().map(host::user).transpose()?;
        let restricted = user.is_some() || machine.chroot.is_some();
        if restricted {
            policy::restrict::unlimited_file_size();
        }
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, FileMode::empty())
            .map_err(system("/dev/null"))?;
        policy::restrict::many_descriptors();
        let starter = Rc::new(Starter::new(executable::roles()?, null).map_err(system("/proc"))?);
        if !restricted {
            // It starts beside the rest of this. With dm_restrict it has to have the rights that are left at the end.
            starter.prepare().map_err(|source| Failure::Spawn { name: "starter".into(), source })?;
        }
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(system("epoll_create1"))?;
        epoll::add(&epoll, &signals, EventData::new_u64(SIGNALS), EventFlags::IN).map_err(system("epoll_ctl"))?;
        let mode = if machine.sim.is_some() { Mode::Sim } else { Mode::Xen };
        let abi = bulkhead_policy::landlock_abi();
        let level = machine.level.unwrap_or(if abi >= 6 { Level::Strict } else { Level::Kernel });
        if level == Level::Strict && abi < 6 {
            return Err(Failure::Level { abi });
        }

        let groups = grouping::begin(&machine, domid, stubdom.is_some())?;
        let bare = machine.probe || machine.attach;
        let intake = Intake {
            starter: &starter,
            ids: ids(user, domid, SLOTS),
            level,
            stubdom: stubdom.is_some(),
            group: groups.as_ref().ok().and_then(|groups| groups.of(kind::INTAKE.role)),
        };
        let mut host = Host::new(&machine, domid, stubdom.is_some(), intake);
        let state = stubdom.as_mut().and_then(|stubdom| stubdom.state.take());
        host.saved = machine.incoming.map(|from| Saved::open(from, state, &host.intake)).transpose()?;
        let mut parts = Vec::new();
        for device in DEVICES.iter().filter(|_| !bare) {
            parts.append(&mut (device.open)(&mut host)?);
        }
        let mut back_ends = match (mode, machine.probe, &stubdom) {
            (Mode::Xen, false, None) => back_ends::open(&mut host, starter.null())?,
            _ => Vec::new(),
        };
        if !bare {
            let unplug = may_unplug(&machine, domid, &back_ends, stubdom.is_some());
            parts.insert(0, board::open(&host, &parts, unplug));
        }
        let gfn = video::frame(&host);
        if let Some(stubdom) = &mut stubdom {
            parts.extend(fbdev::open(&machine, stubdom));
            parts.push(vchan::open(stubdom)?);
        }
        parts.append(&mut back_ends);
        let viewers = viewers::open(&mut host, &parts)?;
        parts.extend(viewers);
        viewers::link(&mut parts)?;

        let mut privcmd = None;
        if mode == Mode::Xen && !bare {
            let open = Privcmd::open(domid).map_err(Failure::Xen)?;
            // A saved machine's is there, with its contents.
            if let Some(video) = machine.video.filter(|_| host.saved.is_none()) {
                let pages = u64::from(video.mib).saturating_mul(256);
                open.populate(gfn, pages).map_err(|e| match &stubdom {
                    Some(_) if e.forbidden() => Failure::Hypercalls(e),
                    _ => Failure::VideoRam { mib: video.mib, source: e },
                })?;
            }
            privcmd = Some(Privcmd::from_fd(open.restrict().map_err(Failure::Xen)?, domid));
        }
        let mut listening = Vec::new();
        for monitor in &machine.monitors {
            listening.push(host::listen(monitor)?);
            if let crate::machine::Socket::Path(path) = &monitor.socket {
                host.sockets.push(path.clone());
            }
        }
        // A stub domain has none of dom0's files.
        if let Some(path) = machine.pid_file.as_ref().filter(|_| stubdom.is_none()) {
            host.held.push(host::pid_file(path, host.former)?);
            host.sockets.push(path.clone());
        }
        let broker = if bare { Vec::new() } else { broker(&host)? };
        let Host { chardevs, held, sockets, shown, mut saved, .. } = host;
        let plan = MachinePlan {
            domid,
            name: machine.name.clone(),
            vcpus: machine.vcpus,
            online: machine.online,
            mode,
            level,
            devices: Vec::new(),
            chardevs,
            paused: saved.is_some(),
            stopped: machine.stopped,
            clock: saved.as_ref().map_or(0, Saved::clock),
            boot: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned(),
            // With dm_restrict no file can be made after the start.
            dump_dir: (stubdom.is_none() && !restricted).then(|| dumps::directory(&machine.name)),
            log_begins: rustix::fs::fstat(rustix::stdio::stderr()).map_or(0, |s| s.st_size.unsigned_abs()),
        };
        let report = match &stubdom {
            // A stub domain's paths are relative to its own directory.
            Some(stubdom) => {
                let state = (format!("device-model/{domid}/state"), "running".to_owned());
                stubdom.qmp.nodes(domid).into_iter().chain([state]).collect()
            }
            None => vec![(format!("/local/domain/0/device-model/{domid}/state"), "running".to_owned())],
        };
        let open_stream = {
            let starter = Rc::clone(&starter);
            Box::new(move || store::open_stream(&starter))
        };
        let mut launcher = Self {
            plan,
            manner: Manner {
                probe: machine.probe,
                attach: machine.attach,
                stubdom: stubdom.is_some(),
                restricted,
                groups_required: matches!(machine.cgroup, Choice::In(_)),
            },
            slots: Slots::default(),
            spawner: Spawner { starter: Rc::clone(&starter), shape, user },
            events: Events { ticks: Ticks::new(&epoll)?, epoll, signals },
            held: Held { open: held, paths: sockets, rules: Vec::new() },
            xen: XenEnds { privcmd, xenstore: None, report, open_stream },
            pv: Pv {
                watched: None,
                changes: DiskChanges::new(machine.images),
                store: Store::new(Some(Box::new(move || store::open(&starter).map(XenstoreQueue::over_opened)))),
            },
            requests: Requests { next_token: 1, hot_plug: None, dumps: Dumps::default() },
            place: super::placing::place(&machine, domid),
            groups,
            promises: grouping::promises().ok(),
            shown,
            running: false,
        };
        launcher.make_slots(parts, listening, broker, video::logged_frames(&machine))?;
        if saved.is_some() {
            // Nobody else has the images: they can be opened here. Until the guest runs here it may go on where it was saved.
            let _ = launcher.lock_images(false);
        }
        if let Some(saved) = &mut saved {
            launcher.hand_out(saved)?;
        }
        launcher.connect_xenstore()?;
        if restricted {
            launcher.restrict(machine.chroot.as_deref())?;
        }
        launcher.close_cage(&machine.writable)?;
        Ok(launcher)
    }

    /// Hands the start of processes over to the starter, and gives up what is not needed any more.
    fn close_cage(&mut self, writable: &Writable) -> Result<(), Failure> {
        let users = users(self.plan.domid);
        // Sockets, then the guest's control group, which is empty by then.
        let mut paths = self.held.paths.clone();
        paths.extend(self.groups.iter().map(|groups| groups.path().display().to_string()));
        self.spawner
            .starter
            .hand_over(users, &paths)
            .map_err(|source| Failure::Spawn { name: "starter".into(), source })?;
        if let (Some(pid), Some(pidfd)) = (self.spawner.starter.pid(), self.spawner.starter.pidfd()) {
            epoll::add(&self.events.epoll, pidfd, EventData::new_u64(STARTER), EventFlags::IN)
                .map_err(system("epoll_ctl"))?;
            if self.manner.stubdom {
                // It is as urgent as this process.
                budget::urgent(pid, "starter")?;
            }
        }
        // With dm_restrict this process has no right to give up.
        let reach = (!self.manner.restricted).then(|| self.reach(writable));
        let abi = policy::close_cage(self.manner.stubdom, reach.as_ref()).map_err(Failure::Cage)?;
        // An error of the start comes before it.
        self.shown.extend(reach.and_then(|_| policy::not_confined(abi)));
        Ok(())
    }

    /// The files that this process reaches while the guest runs.
    pub(super) fn reach(&self, writable: &Writable) -> Reach {
        // A stub domain's files are its own, and it makes control groups.
        if self.manner.stubdom {
            let written = ["/dev", "/proc", "/sys"].map(PathBuf::from).into();
            return Reach { written, made: vec![PathBuf::from(budget::CGROUP)] };
        }
        let mut written: Vec<PathBuf> = ["/dev/xen", "/dev/null", "/proc/irq"].map(PathBuf::from).into();
        match writable {
            Writable::Any => written.push("/".into()),
            Writable::Directories(more) => {
                written.extend(more.iter().cloned());
                let kept = self.slots.iter().flat_map(|slot| &slot.kept);
                let disks = kept.filter(|(what, _)| matches!(what, FdUse::Drive(_)));
                written.extend(disks.filter_map(|(_, fd)| images::place(fd)));
            }
        }
        written.sort();
        written.dedup();
        let dumps = self.plan.dump_dir.iter().map(PathBuf::from);
        // A rule needs the directory; without one there are no pictures.
        let dumps = dumps.filter(|d| dumps::prepare(d).inspect_err(|e| say(&format!("{}: {e}", d.display()))).is_ok());
        let groups = self.groups.iter().map(|groups| groups.path().to_path_buf());
        Reach { written, made: dumps.chain(groups).collect() }
    }

    /// Connects to xenstored for the rest of the start, and for as long as the guest runs: afterwards this process may not.
    fn connect_xenstore(&mut self) -> Result<(), Failure> {
        if self.plan.mode != Mode::Xen || self.manner.probe {
            return Ok(());
        }
        if !self.plan.stopped {
            self.xen.xenstore = Some(Xenstore::connect().map_err(Failure::Xenstore)?);
        }
        if self.manner.stubdom {
            return Ok(());
        }
        match Watch::new(self.plan.domid, &mut self.pv.store) {
            Ok(watch) => {
                self.shown.extend(watch.shown());
                self.pv.watched = Some(watch);
            }
            Err(e) if self.manner.attach => return Err(Failure::Watch(e)),
            // The machine does not need disks that are added later, nor an answer to drivers that come before they unplug.
            Err(e) => self.shown.push(format!("disks that come later will not be served: {e}")),
        }
        Ok(())
    }

    /// Gives up the launcher's rights on the host, when all resources are open.
    fn restrict(&mut self, chroot: Option<&str>) -> Result<(), Failure> {
        self.pv.store.keep_connection();
        self.keep_groups()?;
        if let Some(directory) = chroot {
            policy::restrict::leave_root(directory)
                .map_err(|source| UserFault::Chroot { directory: directory.to_owned(), source })?;
        }
        if let Some(ids) = self.spawner.user {
            policy::restrict::become_user(ids).map_err(|source| UserFault::Become { ids, source })?;
            say(&format!(
                "restricted: user {}, group {}{}",
                ids.uid,
                ids.gid,
                if chroot.is_some() { ", an empty root directory" } else { "" }
            ));
        }
        Ok(())
    }

    fn make_slots(
        &mut self,
        parts: Vec<Part>,
        listening: Vec<OwnedFd>,
        mut broker: Vec<(FdUse, OwnedFd)>,
        frames: u64,
    ) -> Result<(), Failure> {
        let mut control: Vec<_> = listening.into_iter().map(|fd| (FdUse::QmpListen, fd)).collect();
        let log = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3).map_err(system("dup of the log"))?;
        control.push((FdUse::LogFile, log));
        broker.extend(self.open_activity_bell()?.map(|fd| (FdUse::Activity, fd)));
        let (mut states, mut servers) = (Vec::new(), (None, None));
        for (slot, part) in (FIRST_DEVICE..).zip(parts) {
            let Part { config, mut kept, rom, rules, control: more, domid, caller } = part;
            let logged = match config.kind().memory {
                Memory::Guest => Some(frames),
                Memory::VideoRam => config.facets().video_ram.map(|v| u64::from(v.bytes) >> 12),
                Memory::None | Memory::Granted | Memory::Frames => None,
            };
            // In a stub domain there is no live migration.
            if let Some(frames) = logged.filter(|_| !self.manner.attach && !self.manner.stubdom) {
                let map = DirtyMap::create(frames)?;
                broker.push((FdUse::DirtyMap(slot), rustix::io::fcntl_dupfd_cloexec(&map, 0).map_err(system("dup"))?));
                kept.push((FdUse::DirtyMap(slot), map));
            }
            // A back end follows the two processes that it calls.
            match &config {
                DeviceConfig::Xenbus { .. } => servers.0 = Some(slot),
                DeviceConfig::Grant { .. } => servers.1 = Some(slot),
                _ => {}
            }
            // The name tells a back end of a stub domain's guest from the stub domain's own.
            let name = if domid.is_some() { format!("guest-{}", config.name()) } else { config.name() };
            broker.extend(rom.map(|fd| (FdUse::Rom(slot), fd)));
            self.held.rules.extend(rules.map(|rules| (slot, rules)));
            control.extend(more);
            let mut state = SlotState::new(slot, name.clone(), config.kind(), self.ids(slot), kept)?;
            state.without_broker = self.manner.attach;
            state.domid = domid;
            if let (Some(number), (Some(xenbus), Some(grant))) = (caller, servers) {
                state.served = Some(Served { xenbus, grant, number });
            }
            states.push(state);
            self.plan.devices.push(DeviceSlot { slot, name, config });
        }
        for (state, device) in states.iter_mut().zip(&self.plan.devices) {
            if must_wait(&device.config, &self.plan.devices) {
                state.enter(Phase::Waiting);
            }
        }
        self.slots.push(SlotState::new(CONTROL, "control".into(), &kind::CONTROL, self.ids(CONTROL), control)?);
        if !self.manner.probe && !self.manner.attach {
            if !self.manner.stubdom {
                broker.push((FdUse::DirtyMap(BROKER), DirtyMap::create(frames)?));
            }
            self.slots.push(SlotState::new(BROKER, "broker".into(), &kind::BROKER, self.ids(BROKER), broker)?);
        }
        states.into_iter().for_each(|state| self.slots.push(state));
        // Control reads the logs of all processes. The launcher holds the pipes over restarts of both sides.
        let mut logs = Vec::new();
        for slot in self.slots.iter() {
            logs.push((FdUse::Log(slot.slot), rustix::io::dup(&slot.log_read).map_err(system("dup"))?));
        }
        if let Some(control) = self.slots.get_mut(CONTROL) {
            control.kept.append(&mut logs);
        }
        Ok(())
    }

    /// Gives each slot its part of a saved machine.
    fn hand_out(&mut self, saved: &mut Saved) -> Result<(), Failure> {
        for state in self.slots.iter_mut() {
            let name = if state.slot == CONTROL { "machine" } else { state.name.as_str() };
            let device = self.plan.devices.iter().find(|d| d.slot == state.slot);
            let saves = |d: &DeviceSlot| d.config.kind().guest_visible && d.config.starts() == Starts::AtOnce;
            if !(matches!(state.slot, CONTROL | BROKER) || device.is_some_and(saves)) {
                continue;
            }
            state.saved = saved.take(name)?;
            // A card that the guest has unplugged has no part.
            if state.saved.is_none() && device.is_none_or(|d| d.config.facets().nic.is_none()) {
                return Err(SavedFault::Missing(name.to_owned()).into());
            }
        }
        Ok(saved.is_whole()?)
    }

    /// The user of a slot.
    pub(super) fn ids(&self, slot: Slot) -> Option<Ids> {
        ids(self.spawner.user, self.plan.domid, slot)
    }

    /// The look into images that are opened while the machine runs.
    pub(super) fn intake(&self) -> Intake<'_> {
        let starter = &self.spawner.starter;
        let group = self.groups.as_ref().ok().and_then(|groups| groups.of(kind::INTAKE.role));
        Intake { starter, ids: self.ids(SLOTS), level: self.plan.level, stubdom: self.manner.stubdom, group }
    }
}

/// The user of a slot: `all` if all processes have one (dm_restrict), one of the guest's range if this process is root, else this
/// process's own.
fn ids(all: Option<Ids>, domid: u16, slot: Slot) -> Option<Ids> {
    // libxl's reaper kills all processes of this user.
    if all.is_some() {
        return all;
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if uid != 0 {
        return Some(Ids { uid, gid });
    }
    let id = users(domid).first.saturating_add(u32::from(slot));
    Some(Ids { uid: id, gid: id })
}

/// Whether the guest may unplug its emulated devices, after which it has PV devices alone. So each disk must have a back end that
/// is served: not a qdisk, or a qdisk that is served here or, for a stub domain's guest, in dom0. Each network card has one. libxl
/// has written the nodes that are read here: the guest has not run.
fn may_unplug(machine: &Machine, domid: u16, back_ends: &[Part], stubdom: bool) -> bool {
    if !machine.drives.iter().any(|d| !d.cdrom) {
        return true;
    }
    if machine.sim.is_some() {
        return false;
    }
    let Ok(mut xenstore) = Xenstore::connect() else { return false };
    let path = format!("/local/domain/{domid}/device/vbd");
    let ids = xenstore.directory(&path);
    let handed_off = stubdom.then(|| super::media::disks_to_hand_off(&mut xenstore));
    let mut node = |id: &str, name: &str| xenstore.read(&format!("{path}/{id}/{name}")).unwrap_or_default();
    // A CD counts as served: an HVM guest does not use its back end.
    let has_one = |id: &String| {
        back_ends::serves(back_ends, id)
            || handed_off.as_ref().is_some_and(|ids| ids.contains(id))
            || node(id, "device-type") == "cdrom"
            || !node(id, "backend").contains("/qdisk/")
    };
    !ids.is_empty() && ids.iter().all(has_one)
}

/// The broker's descriptors of the guest.
fn broker(host: &Host) -> Result<Vec<(FdUse, OwnedFd)>, Failure> {
    if let Some(s) = &host.machine.sim {
        return Ok(vec![
            (FdUse::SimIoreq, host.sim(s.ioreq)?),
            (FdUse::SimKick, host.sim(s.kick)?),
            (FdUse::SimTrace, host.sim(s.trace)?),
            (FdUse::SimMemory, host.sim(s.memory)?),
        ]);
    }
    let privcmd = host.restricted()?;
    // The kernel names the event channels' interrupts after this thread; placing.rs finds them by it.
    let (_, name) = super::placing::interrupts(host.domid);
    let name = std::ffi::CString::new(name).map_err(system("the thread's name"))?;
    let own = rustix::thread::name().map_err(system("the thread's name"))?;
    rustix::thread::set_name(&name).map_err(system("the thread's name"))?;
    let evtchn = Evtchn::open_restricted(host.domid).map_err(Failure::Xen);
    rustix::thread::set_name(&own).map_err(system("the thread's name"))?;
    Ok(vec![(FdUse::Privcmd, privcmd), (FdUse::Evtchn, evtchn?)])
}
