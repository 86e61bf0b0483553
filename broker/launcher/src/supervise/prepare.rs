//! Opening everything that the processes will be given, before any of them is started.
use super::back_ends::{BackEnds, waits};
use super::later::Later;
use super::lives::eventfd;
use super::{DUMP_DIR, FIRST_UID, Launcher, SIGNALS, UIDS, executable, say};
use crate::attach::Watch;
use crate::errors::{Code, Coded as _};
use crate::host;
use crate::machine::Machine;
use crate::slot::{Phase, SlotState};
use crate::stubdom::Stubdom;
use crate::unserved::Answers;
use bulkhead_plan::{
    BROKER, CONTROL, DeviceConfig, DeviceSlot, FIRST_DEVICE, FdUse, Level, MachinePlan, Mode, NicModel, Picture, Slot,
    VncAddress, kind,
};
use bulkhead_policy::{self as policy, Ids, verify};
use bulkhead_ring::SharedArea;
use bulkhead_wire::Shape;
use bulkhead_xen::{Evtchn, Privcmd, Xenstore};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode as FileMode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// What was opened before anything was started.
struct Opened {
    /// A stub domain's guest, and the slots of those that serve it.
    guest: Option<(u16, std::ops::Range<Slot>)>,
    viewers: Option<OwnedFd>,
    listening: Vec<OwnedFd>,
    drives: Vec<(FdUse, OwnedFd)>,
    serials: Vec<host::SerialEnd>,
    rom: Option<OwnedFd>,
    nic_roms: Vec<(NicModel, OwnedFd, u32)>,
    nics: Vec<OwnedFd>,
    boot: host::Boot,
    /// What each process of a back end is given, in the order of their slots.
    back_ends: Vec<Vec<(FdUse, OwnedFd)>>,
}

/// Between a viewer and the devices that it shows. Pipes are (read end, write end).
struct Links {
    /// Keys and pointer, to the keyboard controller.
    input: (OwnedFd, OwnedFd),
    /// The keyboard's lights, to the viewer.
    leds: (OwnedFd, OwnedFd),
    /// Keys and pointer, to USB devices.
    usb_input: (OwnedFd, OwnedFd),
    /// Which of them the guest takes there, to the viewer.
    usb_takes: (OwnedFd, OwnedFd),
    /// Keys and pointer, to a PV keyboard.
    pv_input: (OwnedFd, OwnedFd),
    /// Which of them the guest takes there, to the viewer.
    pv_takes: (OwnedFd, OwnedFd),
    /// The same for the PV keyboard of a stub domain's guest.
    guest_input: (OwnedFd, OwnedFd),
    guest_takes: (OwnedFd, OwnedFd),
    /// Wishes for another size, to the display.
    wishes: (OwnedFd, OwnedFd),
    /// Wishes for a picture, to the display.
    bell: OwnedFd,
}

impl Launcher {
    /// Opens everything. Nothing is started yet, so an error leaves nothing behind but a socket's name.
    pub(super) fn prepare(machine: Machine, mut stubdom: Option<Stubdom>, signals: OwnedFd) -> Result<Self, String> {
        let domid = machine.domid.unwrap_or(0);
        let shape = Shape::new(usize::from(machine.vcpus)).ok_or("number of vCPUs")?;
        let own =
            verify::observe(rustix::process::getpid().as_raw_nonzero().get()).map_err(|e| format!("/proc: {e}"))?;
        let executable = executable::roles()?;
        let user = machine.user.as_deref().map(host::user).transpose().coded(Code::User)?;
        let restricted = user.is_some() || machine.chroot.is_some();
        if restricted {
            policy::restrict::unlimited_file_size();
        }
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, FileMode::empty())
            .map_err(|e| format!("/dev/null: {e}"))?;
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|e| e.to_string())?;
        epoll::add(&epoll, &signals, EventData::new_u64(SIGNALS), EventFlags::IN).map_err(|e| e.to_string())?;
        let mode = if machine.sim.is_some() { Mode::Sim } else { Mode::Xen };
        let abi = bulkhead_policy::landlock_abi();
        let level = machine.level.unwrap_or(if abi >= 6 { Level::Strict } else { Level::Kernel });
        if level == Level::Strict && abi < 6 {
            return Err(Code::Sandbox
                .line(format!("-sandbox level=strict: needs Landlock ABI 6 (Linux 6.12), this kernel has {abi}")));
        }

        let mut drives = Vec::new();
        let mut drive_fds = Vec::new();
        for drive in &machine.drives {
            let (fds, config) = host::drive(drive, machine.backing, machine.full).coded(Code::Image)?;
            drive_fds.extend(fds);
            drives.push(config);
        }
        let mut serials = Vec::new();
        for (i, serial) in machine.serials.iter().enumerate() {
            serials.push(host::serial(i, serial).coded(Code::Serial)?);
        }
        let boot = machine
            .kernel
            .as_ref()
            .map(|k| host::boot(k, stubdom.is_some()))
            .transpose()
            .coded(Code::Kernel)?
            .unwrap_or_default();
        let rom = machine.video.map(|_| host::vga_rom()).transpose().coded(Code::Firmware)?;
        let mut nic_roms: Vec<(NicModel, OwnedFd, u32)> = Vec::new();
        for nic in &machine.nics {
            if !nic_roms.iter().any(|(model, ..)| *model == nic.model) {
                nic_roms.extend(host::nic_rom(nic.model).map(|(fd, size)| (nic.model, fd, size)));
            }
        }
        let rom_size = |model| nic_roms.iter().find(|(m, ..)| *m == model).map_or(0, |r| r.2);
        let (mut nics, mut ends, mut rules, mut shown) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for nic in &machine.nics {
            let open = host::nic(nic, stubdom.is_some()).coded(Code::Network)?;
            shown.push(open.shown);
            nics.push(open.fd);
            ends.push(open.end);
            rules.push(open.rules);
        }
        let mut back_ends = match (mode, machine.probe, &stubdom) {
            (Mode::Xen, false, None) => BackEnds::open(&machine, domid, &null, &mut shown)?,
            _ => BackEnds::default(),
        };
        let bare = machine.probe || machine.attach;
        let unplug = !bare && may_unplug(&machine, domid, &back_ends, stubdom.is_some());
        // Video RAM begins above all RAM, out of the way of every BAR.
        let gfn = (0x10_0000u64).saturating_add(machine.memory_mib.saturating_mul(256)).next_multiple_of(0x1000);
        let parts = host::Parts {
            drives,
            vga_rom: rom.as_ref().map_or(0, |r| r.1),
            nic_rom: &rom_size,
            ends: &ends,
            boot: &boot,
            gfn,
            unplug,
        };
        let mut configs = if bare { Vec::new() } else { host::configs(&machine, parts) };
        if let Some(stubdom) = &stubdom {
            // Only where there is a picture, and somewhere to show it.
            if machine.video.is_some() && stubdom.screen.is_some() {
                configs.push(DeviceConfig::Fbdev { spread: stubdom.spread });
            }
            configs.push(DeviceConfig::Vchan { port: stubdom.qmp.port });
        }
        configs.append(&mut back_ends.configs);
        let slot = |index: usize| FIRST_DEVICE.saturating_add(index as u8);
        let guests = slot(configs.len())..slot(configs.len().saturating_add(back_ends.guests.len()));
        configs.append(&mut back_ends.guests);
        // Only where there is a picture.
        let mut viewers = None;
        let picture = machine.video.is_some() && !bare || configs.iter().any(|c| matches!(c, DeviceConfig::Vfb { .. }));
        if let Some(vnc) = machine.vnc.as_ref().filter(|_| picture) {
            let (fd, at) = host::viewers(vnc).coded(Code::Viewers)?;
            configs.push(DeviceConfig::Vnc {
                name: machine.name.clone(),
                at,
                password: vnc.password,
                layout: machine.layout.clone(),
            });
            viewers = Some(fd);
        }
        let devices = number(configs, &guests);
        let cards = devices.iter().filter(|d| matches!(d.config, DeviceConfig::Nic { .. })).map(|d| d.slot);
        let rules = cards.zip(rules).filter_map(|(slot, rules)| Some((slot, rules?))).collect();

        let mut privcmd = None;
        if mode == Mode::Xen && !bare {
            let fail = |e: bulkhead_xen::XenError| Code::Xen.line(e);
            let open = Privcmd::open(domid).map_err(fail)?;
            if let Some(video) = machine.video {
                let pages = u64::from(video.mib).saturating_mul(256);
                open.populate(gfn, pages).map_err(|e| match &stubdom {
                    Some(_) if e.forbidden() => Code::Xen.line("video RAM: this kernel does not let a stub domain make hypercalls (XSA-482); its command line needs xen_privcmd.unrestricted=1"),
                    _ => Code::Xen.line(format!("video RAM of {} MiB: {e}", video.mib)),
                })?;
            }
            privcmd = Some(Privcmd::from_fd(open.restrict().map_err(fail)?, domid));
        }
        let mut listening = Vec::new();
        let mut sockets: Vec<String> = machine
            .vnc
            .iter()
            .filter_map(|v| if let VncAddress::Unix(path) = &v.at { Some(path.clone()) } else { None })
            .collect();
        sockets.extend(machine.serials.iter().filter_map(|s| s.listens().map(str::to_owned)));
        sockets.append(&mut back_ends.sockets);
        for monitor in &machine.monitors {
            listening.push(host::listen(monitor).coded(Code::Socket)?);
            if let crate::machine::Chardev::Path(path) = &monitor.chardev {
                sockets.push(path.clone());
            }
        }
        let mut keep = back_ends.slaves;
        // A stub domain has none of dom0's files.
        if let Some(path) = machine.pid_file.as_ref().filter(|_| stubdom.is_none()) {
            keep.push(host::pid_file(path).coded(Code::PidFile)?);
            sockets.push(path.clone());
        }
        let plan = MachinePlan {
            domid,
            name: machine.name.clone(),
            vcpus: machine.vcpus,
            online: machine.online,
            mode,
            level,
            devices,
            chardevs: serials
                .iter()
                .enumerate()
                .map(|(i, s)| (format!("serial{i}"), s.shown.clone()))
                .chain(back_ends.chardevs)
                .collect(),
            stopped: machine.stopped,
            // Nothing can be opened any more after it.
            dump_dir: (stubdom.is_none() && !restricted).then(|| DUMP_DIR.to_owned()),
        };
        let mut launcher = Self {
            plan,
            shape,
            probe: machine.probe,
            attach: machine.attach,
            watched: None,
            later: Later::new(machine.backing, machine.full),
            place: super::placing::place(&machine, domid),
            executable,
            slots: Vec::new(),
            epoll,
            signals,
            privcmd,
            _keep: keep,
            sockets,
            own,
            null,
            user,
            restricted,
            xenstore: None,
            answers: None,
            shown,
            surface: None,
            report: match &stubdom {
                // Relative to the domain's own path.
                Some(stubdom) => stubdom
                    .qmp
                    .nodes(domid)
                    .into_iter()
                    .chain([(format!("device-model/{domid}/state"), "running".to_owned())])
                    .collect(),
                None => vec![(format!("/local/domain/0/device-model/{domid}/state"), "running".to_owned())],
            },
            stubdom: stubdom.is_some(),
            running: false,
            next_token: 1,
            plugging: None,
            rules,
        };
        let opened = Opened {
            viewers,
            listening,
            drives: drive_fds,
            serials,
            rom: rom.map(|r| r.0),
            nic_roms,
            nics,
            boot,
            back_ends: back_ends.kept,
            guest: back_ends.guest.map(|guest| (guest, guests)),
        };
        launcher.make_slots(&machine, stubdom.as_mut(), opened)?;
        if restricted {
            launcher.restrict(machine.chroot.as_deref())?;
        }
        Ok(launcher)
    }

    /// Everything has been opened: gives up what opening needed.
    fn restrict(&mut self, chroot: Option<&str>) -> Result<(), String> {
        if self.plan.mode == Mode::Xen && !self.probe && !self.plan.stopped {
            self.xenstore = Some(Xenstore::connect().coded(Code::Xenstore)?);
        }
        if self.plan.mode == Mode::Xen && !self.probe && !self.stubdom {
            // Disks that come later cannot be opened; front ends that come too early can be answered.
            match Answers::connect().and_then(|answers| Ok((Watch::new(self.plan.domid)?, answers))) {
                Ok((watch, answers)) => {
                    self.watched = Some(watch);
                    self.answers = Some(answers);
                }
                Err(e) => say(&format!("PV drivers that come before they unplug will not be answered: {e}")),
            }
        }
        if let Some(directory) = chroot {
            policy::restrict::leave_root(directory)
                .map_err(|e| Code::User.line(format!("-chroot {directory}: {e}")))?;
        }
        if let Some(ids) = self.user {
            policy::restrict::become_user(ids)
                .map_err(|e| Code::User.line(format!("-runas {}:{}: {e}", ids.uid, ids.gid)))?;
            say(&format!(
                "restricted: user {}, group {}{}",
                ids.uid,
                ids.gid,
                if chroot.is_some() { ", an empty root directory" } else { "" }
            ));
        }
        self.own =
            verify::observe(rustix::process::getpid().as_raw_nonzero().get()).map_err(|e| format!("/proc: {e}"))?;
        Ok(())
    }

    fn make_slots(
        &mut self,
        machine: &Machine,
        mut stubdom: Option<&mut Stubdom>,
        opened: Opened,
    ) -> Result<(), String> {
        let Opened { viewers, listening, mut drives, serials, rom, nic_roms, nics, mut boot, back_ends, guest } =
            opened;
        let mut back_ends = back_ends.into_iter();
        let mut nics = nics.into_iter();
        let fail = |e: bulkhead_xen::XenError| Code::Xen.line(e);
        let domid = self.plan.domid;
        let restricted = || Privcmd::open(domid).and_then(Privcmd::restrict).map_err(fail);
        let sim = |fd: i32| host::inherit(fd).map_err(|e| format!("-sim: descriptor {fd}: {e}"));
        // By which a device reaches guest memory.
        let memory = || match &machine.sim {
            Some(s) => sim(s.memory).map(|fd| (FdUse::SimMemory, fd)),
            None => restricted().map(|fd| (FdUse::Privcmd, fd)),
        };
        let mut control: Vec<_> = listening.into_iter().map(|fd| (FdUse::QmpListen, fd)).collect();
        let log = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3).map_err(|e| e.to_string())?;
        control.push((FdUse::LogFile, log));
        let mut broker = Vec::new();
        let fail_io = |e: rustix::io::Errno| e.to_string();
        let viewer = self.plan.devices.iter().any(|d| d.config.kind().picture == Picture::Looks);
        let mut links = if viewer {
            let pipe = || {
                rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK)
                    .map_err(fail_io)
            };
            Some(Links {
                input: pipe()?,
                leds: pipe()?,
                usb_input: pipe()?,
                usb_takes: pipe()?,
                pv_input: pipe()?,
                pv_takes: pipe()?,
                guest_input: pipe()?,
                guest_takes: pipe()?,
                wishes: pipe()?,
                bell: eventfd()?,
            })
        } else {
            None
        };
        match &machine.sim {
            Some(s) => {
                broker.push((FdUse::SimIoreq, sim(s.ioreq)?));
                broker.push((FdUse::SimKick, sim(s.kick)?));
                broker.push((FdUse::SimTrace, sim(s.trace)?));
                broker.push((FdUse::SimMemory, sim(s.memory)?));
            }
            None if self.probe || self.attach => {}
            None => {
                broker.push((FdUse::Privcmd, restricted()?));
                // The name by which placing.rs finds this guest's interrupts.
                let (_, name) = super::placing::interrupts(domid);
                let (own, name) = (rustix::thread::name().map_err(fail_io)?, std::ffi::CString::new(name));
                rustix::thread::set_name(&name.map_err(|e| e.to_string())?).map_err(fail_io)?;
                let evtchn = Evtchn::open_restricted(domid).map_err(fail);
                rustix::thread::set_name(&own).map_err(fail_io)?;
                broker.push((FdUse::Evtchn, evtchn?));
            }
        }
        broker.extend(self.hear_of_activity()?.map(|fd| (FdUse::Activity, fd)));
        let mut serials = serials.into_iter();
        let mut all = Vec::new();
        for device in self.plan.devices.clone() {
            let mut kept = Vec::new();
            match &device.config {
                DeviceConfig::Ide { drives: configs } => {
                    kept.append(&mut drives);
                    kept.push(memory()?);
                    if let Some(faults) = machine.sim.as_ref().and_then(|s| s.faults) {
                        for _ in configs {
                            kept.push((FdUse::Faults, sim(faults)?));
                        }
                    }
                }
                DeviceConfig::Vga { vram, .. } => {
                    kept.push(match &machine.sim {
                        Some(_) => {
                            let fd = SharedArea::create("vram", *vram as usize).map_err(|e| e.to_string())?;
                            SharedArea::seal_size(&fd).map_err(|e| e.to_string())?;
                            (FdUse::SimVram, fd)
                        }
                        None => (FdUse::Privcmd, restricted()?),
                    });
                    if let Some(links) = &links {
                        kept.push((FdUse::FrameBell, rustix::io::dup(&links.bell).map_err(fail_io)?));
                        kept.push((FdUse::Wishes, rustix::io::dup(&links.wishes.0).map_err(fail_io)?));
                    }
                    if let Some(rom) = &rom {
                        broker.push((FdUse::Rom(device.slot), rustix::io::dup(rom).map_err(|e| e.to_string())?));
                    }
                }
                DeviceConfig::Serial { .. } => {
                    for end in serials.by_ref() {
                        self._keep.extend(end.slave);
                        if end.shown != "none" {
                            kept.extend(end.fd.map(|fd| (FdUse::Serial, fd)));
                            break;
                        }
                    }
                }
                DeviceConfig::Platform { .. } => {}
                DeviceConfig::Xenbus { .. } | DeviceConfig::Grant | DeviceConfig::Qdisk { .. } => {
                    kept.extend(back_ends.next().unwrap_or_default())
                }
                DeviceConfig::Console { .. } => kept.extend(back_ends.next().unwrap_or_default()),
                DeviceConfig::Vfb { .. } => {
                    kept.extend(back_ends.next().unwrap_or_default());
                    if let Some(links) = &links {
                        kept.push((FdUse::FrameBell, rustix::io::dup(&links.bell).map_err(fail_io)?));
                    }
                }
                DeviceConfig::Vkbd { .. } => {
                    kept.extend(back_ends.next().unwrap_or_default());
                    if let Some(links) = &links {
                        let guests = guest.as_ref().is_some_and(|(_, slots)| slots.contains(&device.slot));
                        let (input, takes) = if guests {
                            (&links.guest_input, &links.guest_takes)
                        } else {
                            (&links.pv_input, &links.pv_takes)
                        };
                        kept.push((FdUse::PvInput, rustix::io::dup(&input.0).map_err(fail_io)?));
                        kept.push((FdUse::PvTakes, rustix::io::dup(&takes.1).map_err(fail_io)?));
                    }
                }
                DeviceConfig::Usb { .. } => {
                    kept.push(memory()?);
                    if let Some(links) = &links {
                        kept.push((FdUse::Input, rustix::io::dup(&links.usb_input.0).map_err(fail_io)?));
                        kept.push((FdUse::UsbTakes, rustix::io::dup(&links.usb_takes.1).map_err(fail_io)?));
                    }
                }
                DeviceConfig::FwCfg { .. } => {
                    kept.extend(boot.kernel.take().map(|(fd, _)| (FdUse::Kernel, fd)));
                    kept.extend(boot.initrd.take().map(|(fd, _)| (FdUse::Initrd, fd)));
                    kept.push(memory()?);
                }
                DeviceConfig::Nic { model, .. } => {
                    kept.extend(nics.next().map(|fd| (FdUse::Net, fd)));
                    kept.push(memory()?);
                    if let Some((_, rom, _)) = nic_roms.iter().find(|(m, ..)| m == model) {
                        broker.push((FdUse::Rom(device.slot), rustix::io::dup(rom).map_err(fail_io)?));
                    }
                }
                DeviceConfig::Ps2 => {
                    if let Some(links) = &links {
                        kept.push((FdUse::Input, rustix::io::dup(&links.input.0).map_err(fail_io)?));
                        if self.plan.devices.iter().any(|d| matches!(d.config, DeviceConfig::Vnc { .. })) {
                            kept.push((FdUse::Leds, rustix::io::dup(&links.leds.1).map_err(fail_io)?));
                        }
                    }
                }
                DeviceConfig::Vnc { .. } => {
                    if let Some(links) = links.take() {
                        kept.push((FdUse::Input, links.input.1));
                        kept.push((FdUse::Leds, links.leds.0));
                        kept.push((FdUse::Wishes, links.wishes.1));
                        kept.push((FdUse::UsbInput, links.usb_input.1));
                        kept.push((FdUse::UsbTakes, links.usb_takes.0));
                        kept.push((FdUse::PvInput, links.pv_input.1));
                        kept.push((FdUse::PvTakes, links.pv_takes.0));
                        kept.push((FdUse::GuestInput, links.guest_input.1));
                        kept.push((FdUse::GuestTakes, links.guest_takes.0));
                        kept.push((FdUse::FrameBell, links.bell));
                    }
                    kept.extend(
                        viewers
                            .as_ref()
                            .map(rustix::io::dup)
                            .transpose()
                            .map_err(fail_io)?
                            .map(|fd| (FdUse::Viewers, fd)),
                    );
                }
                DeviceConfig::Fbdev { .. } => {
                    if let (Some(links), Some(stubdom)) = (links.take(), stubdom.as_mut()) {
                        kept.push((FdUse::Input, links.input.1));
                        kept.push((FdUse::UsbInput, links.usb_input.1));
                        kept.push((FdUse::UsbTakes, links.usb_takes.0));
                        kept.push((FdUse::FrameBell, links.bell));
                        kept.extend(stubdom.screen.take().map(|fd| (FdUse::Screen, fd)));
                        kept.extend(stubdom.events.drain(..).map(|fd| (FdUse::Events, fd)));
                    }
                }
                DeviceConfig::Vchan { .. } => {
                    if let Some(stubdom) = stubdom.as_mut() {
                        control.extend(stubdom.save.take().map(|fd| (FdUse::SaveStream, fd)));
                        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                        let (near, far) =
                            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                                .map_err(fail_io)?;
                        control.push((FdUse::Sessions, near));
                        kept.push((FdUse::Sessions, far));
                        kept.push((FdUse::VchanPage, rustix::io::dup(&stubdom.qmp.page).map_err(fail_io)?));
                        kept.push((FdUse::Evtchn, rustix::io::dup(&stubdom.qmp.evtchn).map_err(fail_io)?));
                    }
                }
            }
            all.push((device, kept));
        }
        self.slots.push(SlotState::new(CONTROL, "control".into(), &kind::CONTROL, self.ids(CONTROL), control)?);
        if !self.probe && !self.attach {
            self.slots.push(SlotState::new(BROKER, "broker".into(), &kind::BROKER, self.ids(BROKER), broker)?);
        }
        for (device, kept) in all {
            let mut state =
                SlotState::new(device.slot, device.name.clone(), device.config.kind(), self.ids(device.slot), kept)?;
            state.apart = self.attach;
            state.domid = guest.as_ref().filter(|(_, slots)| slots.contains(&device.slot)).map(|(guest, _)| *guest);
            if waits(&device.config, &self.plan.devices) {
                state.phase = Phase::Waiting;
            }
            self.slots.push(state);
        }
        // Control reads everybody's log; the pipes outlive both ends.
        let mut logs = Vec::new();
        for slot in &self.slots {
            logs.push((FdUse::Log(slot.slot), rustix::io::dup(&slot.log_read).map_err(|e| e.to_string())?));
        }
        if let Some(control) = self.slots.first_mut() {
            control.kept.append(&mut logs);
        }
        Ok(())
    }

    /// The user of a slot: of the range if this process may choose, else its own.
    pub(super) fn ids(&self, slot: Slot) -> Option<Ids> {
        // libxl's reaper kills by the user.
        if self.user.is_some() {
            return self.user;
        }
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        if uid != 0 {
            return Some(Ids { uid, gid });
        }
        let id =
            FIRST_UID.saturating_add(u32::from(self.plan.domid).saturating_mul(UIDS)).saturating_add(u32::from(slot));
        Some(Ids { uid: id, gid: id })
    }
}

/// Whether the guest may unplug what is emulated: then it has PV devices only. Every network card has a back end; a disk has one unless
/// it is a qdisk that is not served here, or, for a stub domain's guest, in dom0. The nodes are libxl's: the guest has not run.
fn may_unplug(machine: &Machine, domid: u16, served: &BackEnds, stubdom: bool) -> bool {
    if !machine.drives.iter().any(|d| !d.cdrom) {
        return true;
    }
    if machine.sim.is_some() {
        return false;
    }
    let Ok(mut xenstore) = Xenstore::connect() else { return false };
    let path = format!("/local/domain/{domid}/device/vbd");
    let ids = xenstore.directory(&path);
    let mut node = |id: &str, name: &str| xenstore.read(&format!("{path}/{id}/{name}")).unwrap_or_default();
    // An HVM guest does not use a CD's back end.
    let handed_over = stubdom.then(super::media::handed_over);
    let has_one = |id: &String| {
        served.serves(id)
            || handed_over.as_ref().is_some_and(|ids| ids.contains(id))
            || node(id, "device-type") == "cdrom"
            || !node(id, "backend").contains("/qdisk/")
    };
    !ids.is_empty() && ids.iter().all(has_one)
}

/// Numbers the devices, and names those that are alone by their role. `guests`: those that serve a stub domain's guest, not the stub domain.
fn number(configs: Vec<DeviceConfig>, guests: &std::ops::Range<Slot>) -> Vec<DeviceSlot> {
    let mut devices: Vec<DeviceSlot> = Vec::new();
    for (i, config) in configs.into_iter().enumerate() {
        let name = config.name();
        let slot = FIRST_DEVICE.saturating_add(i as u8);
        let name = if guests.contains(&slot) { format!("guest-{name}") } else { name };
        devices.push(DeviceSlot { slot, name, config });
    }
    devices
}
