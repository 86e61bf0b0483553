//! Start, check of the sandbox, exit and restart of a process.
use super::back_ends::has_lost_xenstore;
use super::grouping::schedule;
use super::refusal::Refusal;
use super::{Cause, ChannelFds, EarlyExit, End, Exit, Launcher, PIDFD, StartFault, read_log};
use crate::budget;
use crate::failure::{Failure, system};
use crate::log::say;
use crate::phase::Phase;
use crate::resource::Resource;
use crate::slot::doorbell;
use crate::slot::{KillReason, Life, SlotState};
use bulkhead_plan::{BROKER, CONTROL, FIRST_DEVICE, FdUse, Slot, ToProcess};
use bulkhead_policy::verify::OwnLimits;
use bulkhead_policy::{Order, Spawned};
use bulkhead_ring::{BrokerEnd, SharedArea};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{WaitId, WaitIdOptions};

impl Launcher {
    /// Starts a slot's process, with its descriptors and a new channel, and tells control and the broker about it.
    pub(super) fn spawn(&mut self, number: Slot) -> Result<(), Failure> {
        self.slots.connect_back_end(number)?;
        let looks = self.slots.get(number).is_some_and(SlotState::looks);
        let view = self.slots.surface().filter(|_| looks).map(rustix::io::dup).transpose().map_err(system("dup"))?;
        let file_size = self.file_size(number);
        let name = self.slots.get(number).map(|s| s.name.clone()).unwrap_or_default();
        if let Err(e) = self.make_group(number, file_size) {
            self.without_group(&name, e)?;
        }
        let (spawned, ours) = match self.start_process(number, file_size) {
            Err(Failure::Spawn { source, .. })
                if !self.spawner.starter.is_lost() && self.groups.as_ref().is_ok_and(|g| g.of(&name).is_some()) =>
            {
                // The group may be the reason: somebody may have taken it away.
                self.without_group(&name, std::io::Error::other(source.to_string()))?;
                self.start_process(number, file_size)?
            }
            other => other?,
        };
        let mut plan = self.plan.clone();
        let (shape, epoll) = (self.spawner.shape, &self.events.epoll);
        let Some(state) = self.slots.get_mut(number) else { return Err(Failure::NoSlot(number)) };
        plan.domid = state.domid.unwrap_or(plan.domid);
        let pid = spawned.pid;
        let saved = state.saved.take();
        if let Some(part) = saved.as_ref().filter(|_| number == CONTROL) {
            // It is kept until the machine goes on: the cards get their settings only then. The last control has read it.
            rustix::fs::seek(part, rustix::fs::SeekFrom::Start(0)).map_err(system("lseek"))?;
            state.saved = Some(rustix::io::fcntl_dupfd_cloexec(part, 0).map_err(system("dup"))?);
        }
        if self.manner.stubdom {
            budget::set(pid, &state.name, state.kind, number)?;
        } else if number != BROKER {
            let (nice, slice) = schedule(number, state.kind.picture);
            // An error is ignored: without the right, or with another scheduler, an access costs one more context switch.
            let _ = bulkhead_policy::set_schedule(pid, slice, nice)
                .or_else(|_| bulkhead_policy::set_schedule(pid, slice, 0));
        }
        epoll::add(epoll, &spawned.pidfd, EventData::new_u64(u64::from(number) | PIDFD), EventFlags::IN)
            .map_err(system("epoll_ctl"))?;
        epoll::add(epoll, &ours, EventData::new_u64(u64::from(number)), EventFlags::IN).map_err(system("epoll_ctl"))?;
        state.begin(Life { spawned, resource: Resource::new(ours), file_size });
        let mut served = None;
        let mut channel = None;
        if number != CONTROL {
            served = Some(control_pair()?);
        }
        if number >= FIRST_DEVICE {
            channel = Some(ChannelFds {
                request: SharedArea::create("request", shape.request_len())?,
                reply: SharedArea::create("reply", shape.reply_len())?,
                request_bell: doorbell()?,
                reply_bell: doorbell()?,
                sealed_by_device: false,
                sealed_by_broker: false,
            });
        }
        let without_broker = state.without_broker;
        if without_broker && let Some(channel) = &mut channel {
            // The launcher prepares the broker's area: no broker uses the channel, but the device validates it.
            let area = SharedArea::map_writer(&channel.request, shape.request_len())?;
            BrokerEnd::greet(&area);
            channel.sealed_by_broker = true;
        }
        let mut fds = state.kept();
        if let Some((_, theirs)) = &served {
            fds.push((FdUse::Control(number), theirs.as_fd()));
        }
        if let Some(channel) = &channel {
            fds.push((FdUse::OwnArea, channel.reply.as_fd()));
            fds.push((FdUse::RequestBell, channel.request_bell.as_fd()));
            fds.push((FdUse::ReplyBell, channel.reply_bell.as_fd()));
        }
        let surface = state.draws().then(|| SharedArea::create("surface", bulkhead_wire::surface::LEN)).transpose()?;
        if let Some(surface) = &surface {
            fds.push((FdUse::Surface, surface.as_fd()));
        }
        if let Some(view) = &view {
            fds.push((FdUse::SurfaceView, view.as_fd()));
        }
        if let Some(saved) = &saved {
            fds.push((FdUse::SavedState, saved.as_fd()));
        }
        if let Some(old) = state.last_state() {
            fds.push((FdUse::OldArea, old));
        }
        let start = |fds| ToProcess::Start { slot: number, plan: Box::new(plan), fds };
        state.tell(start, &fds);
        state.channel = channel;
        state.surface = surface;
        if self.slots.phase(BROKER) == Some(Phase::Running) {
            self.offer_channel(number);
        }
        if let Some((ours, _)) = served {
            // Only control uses it. Until control runs, it is kept in control's slot.
            self.pass_to_control(number, pid, ours);
        }
        self.promise();
        Ok(())
    }

    /// Starts a slot's process. Returns it with the launcher's end of its socket.
    fn start_process(&self, number: Slot, file_size: Option<u64>) -> Result<(Spawned, OwnedFd), Failure> {
        let Some(state) = self.slots.get(number) else { return Err(Failure::NoSlot(number)) };
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(system("socketpair"))?;
        let order = Order {
            role: state.kind.role,
            socket: theirs,
            log: state.log_write.as_fd(),
            ids: state.ids,
            outlives: number == BROKER,
            file_size,
            group: self.groups.as_ref().ok().and_then(|groups| groups.of(&state.name)),
        };
        let spawned = self.spawner.starter.start(order);
        Ok((spawned.map_err(|source| Failure::Spawn { name: state.name.clone(), source })?, ours))
    }

    /// Most bytes of a file that the process in a slot may write, if that is less than its profile's. It holds for the process's whole
    /// life: a medium that comes later is a CD, which is not written, and a disk that comes later gets a process of its own.
    pub(super) fn file_size(&self, number: Slot) -> Option<u64> {
        let device = self.plan.devices.iter().find(|d| d.slot == number)?;
        let most = device.config.file_size()?;
        // The simulated machine's disks count in this table.
        let kept = self.slots.get(number).map(|s| s.kept.as_slice()).unwrap_or_default();
        let faults =
            kept.iter().filter(|(what, _)| *what == FdUse::Faults).filter_map(|(_, fd)| rustix::fs::fstat(fd).ok());
        Some(faults.map(|stat| stat.st_size.unsigned_abs()).fold(most, u64::max))
    }

    /// Passes a connection to the process in a slot to control, at once or when control runs. A control that stays dead gets none.
    fn pass_to_control(&mut self, slot: Slot, pid: i32, fd: OwnedFd) {
        let Some(control) = self.slots.get_mut(CONTROL).filter(|c| c.phase() != Phase::Dead) else { return };
        if control.phase() == Phase::Running {
            let message = |fds| ToProcess::Client { slot, pid: pid.unsigned_abs(), fds };
            control.tell(message, &[(FdUse::Control(slot), fd.as_fd())]);
        } else {
            // It replaces a connection that an earlier control did not live to get.
            control.kept.retain(|(what, _)| *what != FdUse::Control(slot));
            control.kept.push((FdUse::Control(slot), fd));
        }
    }

    /// Sends the broker its end of a device's channel.
    fn offer_channel(&self, slot: Slot) {
        let Some(channel) = self.slots.get(slot).filter(|s| !s.without_broker).and_then(|s| s.channel.as_ref()) else {
            return;
        };
        let fds = [
            (FdUse::OwnArea, channel.request.as_fd()),
            (FdUse::RequestBell, channel.request_bell.as_fd()),
            (FdUse::ReplyBell, channel.reply_bell.as_fd()),
        ];
        if let Some(broker) = self.slots.broker() {
            broker.tell(|fds| ToProcess::NewChannel { slot, fds }, &fds);
        }
    }

    /// Notes that one side has sealed its area of a channel. When both have, the device gets the broker's area.
    pub(super) fn sealed(&mut self, slot: Slot, mark: impl FnOnce(&mut ChannelFds)) {
        let Some(state) = self.slots.get_mut(slot) else { return };
        let Some(channel) = &mut state.channel else { return };
        mark(channel);
        if channel.sealed_by_device && channel.sealed_by_broker && state.phase() == Phase::Starting {
            state.enter(Phase::Entering);
            if let Some(channel) = &state.channel {
                state.tell(|fds| ToProcess::Peer { fds }, &[(FdUse::PeerArea, channel.request.as_fd())]);
            }
        }
    }

    /// Checks in /proc that a process which reports `Ready` is in its sandbox, and lets it go on.
    pub(super) fn ready(&mut self, number: Slot) -> Result<(), Failure> {
        let config = self.plan.devices.iter().find(|d| d.slot == number).map(|d| &d.config);
        let Some(state) = self.slots.get_mut(number) else { return Ok(()) };
        let guest_memory = bulkhead_policy::guest_memory(config, state.kept().iter().map(|(what, fd)| (what, *fd)));
        let Some((pid, file_size)) = state.life.as_ref().map(|l| (l.spawned.pid, l.file_size)) else { return Ok(()) };
        let role = state.kind.role;
        let profile = bulkhead_policy::profile(role).ok_or(Failure::NoProfile { role })?;
        let wrong = self.spawner.starter.check(pid, profile, OwnLimits { file_size, guest_memory });
        if !wrong.is_empty() {
            // Before the machine runs this ends the start; later the guest loses this device alone.
            state.kill(KillReason::Sandbox(wrong));
            return Ok(());
        }
        let attaches = number >= FIRST_DEVICE && !state.without_broker;
        state.enter(if attaches { Phase::Attaching } else { Phase::Running });
        self.place_process(number);
        if !attaches {
            self.go(number)?;
        }
        if number == CONTROL && self.running {
            self.tell_running();
        }
        let display = self.slots.get_mut(number).is_some_and(|s| s.draws());
        if display {
            self.start_viewer()?;
        }
        match number {
            BROKER => {
                for slot in self.slots.devices() {
                    self.offer_channel(slot);
                }
            }
            CONTROL => {
                let clients: Vec<_> = match self.slots.get_mut(CONTROL) {
                    Some(c) => {
                        let (clients, kept) =
                            std::mem::take(&mut c.kept).into_iter().partition(|(u, _)| matches!(u, FdUse::Control(_)));
                        c.kept = kept;
                        clients
                    }
                    None => Vec::new(),
                };
                for (what, fd) in clients {
                    if let FdUse::Control(slot) = what {
                        let pid = self.slots.get(slot).and_then(|s| s.life.as_ref()).map_or(0, |l| l.spawned.pid);
                        self.pass_to_control(slot, pid, fd);
                    }
                }
            }
            slot => {
                let Some(reply) = self
                    .slots
                    .get(slot)
                    .filter(|s| !s.without_broker)
                    .and_then(|s| s.channel.as_ref())
                    .map(|c| c.reply.as_fd())
                else {
                    return Ok(());
                };
                if let Some(broker) = self.slots.broker() {
                    broker.tell(|fds| ToProcess::Online { slot, fds }, &[(FdUse::PeerArea, reply)]);
                }
            }
        }
        Ok(())
    }

    /// The broker uses a device's channel: the device runs.
    pub(super) fn attached(&mut self, slot: Slot) -> Result<(), Failure> {
        if self.slots.get_mut(slot).is_some_and(|s| s.phase() == Phase::Attaching && s.enter(Phase::Running)) {
            self.go(slot)?;
            self.answer_hot_plug(slot, Ok(0));
        }
        Ok(())
    }

    /// Lets a process work that has just come to run. It works no earlier: until then its successor would get the state that this
    /// process has started from.
    fn go(&mut self, slot: Slot) -> Result<(), Failure> {
        let Some(state) = self.slots.get_mut(slot) else { return Ok(()) };
        state.tell(|_| ToProcess::Go, &[]);
        if std::mem::take(&mut state.lacks_control)
            && let Some(pid) = state.life.as_ref().map(|l| l.spawned.pid)
        {
            self.connect_to_control(slot, pid)?;
        }
        self.slots.announce(slot);
        Ok(())
    }

    /// Starts the viewer when the display is ready, or sends a running viewer the display's new surface.
    fn start_viewer(&mut self) -> Result<(), Failure> {
        let surface = self.slots.surface().map(rustix::io::dup).transpose().map_err(system("dup"))?;
        let Some(viewer) = self.slots.iter_mut().find(|s| s.looks() && s.phase() != Phase::Dead) else {
            return Ok(());
        };
        if viewer.life.is_some() {
            match surface.filter(|_| viewer.phase() == Phase::Running) {
                Some(surface) => viewer.tell(|_| ToProcess::Surface, &[(FdUse::SurfaceView, surface.as_fd())]),
                // It is just starting with the surface of the display's last process.
                None => viewer.kill(KillReason::DisplayRestarted),
            }
            return Ok(());
        }
        let number = viewer.slot;
        if !self.running {
            return self.spawn(number);
        }
        self.start_again(number);
        Ok(())
    }

    /// Starts a slot's process while the machine runs. If that fails, the watchdog does it once more.
    pub(super) fn start_again(&mut self, number: Slot) {
        if let Err(e) = self.spawn(number)
            && let Some(state) = self.slots.get_mut(number)
        {
            say(&format!("{}: {e}", state.name));
            state.enter(Phase::Starting);
            state.not_started();
        }
    }

    /// Starts a slot's process in a second.
    fn start_later(&mut self, number: Slot) {
        if let Some(state) = self.slots.get_mut(number) {
            state.enter(Phase::Starting);
            state.not_started();
        }
    }

    /// Counts a start that has failed as a death, and starts the process once more. One that waits for xenstored has not failed.
    pub(super) fn retry(&mut self, number: Slot) {
        let waited = self.slots.get(number).is_some_and(SlotState::awaits_xenstore);
        if !self.reconnect_xenstore(number) {
            return self.start_later(number);
        }
        let Some(state) = self.slots.get_mut(number) else { return };
        if waited {
            state.excuse();
        }
        if state.allow_restart() {
            self.start_again(number);
            return;
        }
        state.enter(Phase::Dead);
        if number != CONTROL {
            let reason = "cannot be started".to_owned();
            self.slots.tell_control(ToProcess::Offline { slot: number, restart: false, reason });
        }
        self.stays_dead(number);
    }

    /// Says that a process is not started any more.
    fn stays_dead(&mut self, number: Slot) {
        let name = self.slots.get(number).map(|s| s.name.clone()).unwrap_or_default();
        if number == CONTROL {
            // Signals still end the machine.
            say("control died too often; it stays dead, the guest goes on without QMP");
        } else {
            say(&format!("{name}: died too often; it stays dead"));
            self.answer_hot_plug(number, Err(Refusal::DiedTooOften { name }));
        }
    }

    /// Handles the exit of a process: ends the machine or restarts the process.
    pub(super) fn exited(&mut self, number: Slot) -> Result<Option<End>, Failure> {
        // Its last messages may still be in the socket.
        if let Some(end) = self.receive(number)? {
            return Ok(Some(end));
        }
        let running = self.running;
        let epoll = &self.events.epoll;
        let Some(state) = self.slots.get_mut(number) else { return Ok(None) };
        let Some(life) = state.life.take() else { return Ok(None) };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = rustix::process::waitid(WaitId::PidFd(life.spawned.pidfd.as_fd()), options).ok().flatten();
        if status.is_none() {
            // The event belongs to the slot's last process.
            state.life = Some(life);
            return Ok(None);
        }
        // Closing is not enough: a child before its exec holds copies, which would keep the entries in epoll.
        let _ = epoll::delete(epoll, &life.spawned.pidfd);
        let _ = epoll::delete(epoll, &life.resource);
        let exit = status.map_or(Exit::Unknown, |s| Exit::of(&s));
        let cause = Cause { reason: state.reason.take(), exit };
        let (name, pid) = (state.name.clone(), life.spawned.pid);
        if !running {
            let last = read_log(state).pop();
            return Err(StartFault::Exited(EarlyExit { name, pid, cause, last }).into());
        }
        say(&cause.line(&name, pid));
        match number {
            BROKER => return Err(Failure::BrokerDead),
            CONTROL => self.restart_control()?,
            _ => self.restart_device(number, &cause),
        }
        Ok(None)
    }

    fn restart_device(&mut self, number: Slot, cause: &Cause) {
        let Some(state) = self.slots.get_mut(number) else { return };
        let unplugged = state.phase() == Phase::Unplugged;
        let lost = !unplugged && has_lost_xenstore(state);
        if lost {
            // xenstored has ended or has ended the connection; no process can work with it.
            state.excuse();
        }
        let hopeless = lost && (self.manner.restricted || self.spawner.starter.is_lost());
        let restart = !unplugged && !hopeless && state.allow_restart();
        // A back end's state is one number, which it checks; without it a guest loses its disk.
        let innocent = state.kind.back_end.is_some() || cause.reason.as_ref().is_some_and(KillReason::is_wanted);
        let given_up = state.inherit_state(innocent);
        if restart && given_up {
            say(&format!("{}: processes die of its last state; the next one starts from reset", state.name));
        }
        state.enter(match (restart, unplugged) {
            (true, _) => Phase::Starting,
            (false, false) => Phase::Dead,
            (false, true) => Phase::Unplugged,
        });
        if !restart {
            state.forget_state();
        }
        let without_broker = state.without_broker;
        let gives_up = state.kind.back_end.is_some() || without_broker;
        // Control hears of an unplugged device by `Unplugged` below, not as of a dead one.
        for other in [(!without_broker).then_some(BROKER), (!unplugged).then_some(CONTROL)].into_iter().flatten() {
            let reason = cause.to_string();
            // A control that is starting awaits `Go` and nothing else; it learns of the devices when it runs.
            if let Some(other) = self.slots.get_mut(other).filter(|s| s.slot != CONTROL || s.phase() == Phase::Running)
            {
                other.tell(|_| ToProcess::Offline { slot: number, restart, reason }, &[]);
            }
        }
        let blind = self.slots.iter().any(|s| s.draws() && !matches!(s.phase(), Phase::Attaching | Phase::Running));
        let viewer = self.slots.get(number).is_some_and(SlotState::looks);
        if restart && viewer && blind {
            // `start_viewer` does it when the display is ready.
        } else if restart && lost {
            // Not at once: who ends each connection gets one in a second, and costs no restarts.
            if let Some(state) = self.slots.get_mut(number) {
                state.await_xenstore(true);
                say(&format!("{}: xenstored has ended its connection; another one is made", state.name));
            }
            self.start_later(number);
        } else if restart && self.reconnect_xenstore(number) {
            self.start_again(number);
        } else if restart {
            self.start_later(number);
        } else if hopeless {
            let name = self.slots.get(number).map(|s| s.name.clone()).unwrap_or_default();
            let why =
                if self.manner.restricted { "dm_restrict forbids another one" } else { "nobody can make another one" };
            say(&format!("{name}: xenstored has ended its connection, and {why}"));
        } else if unplugged && gives_up {
            self.finish_disk_removal(number);
        } else if unplugged {
            self.allow_hot_plug_again(number);
            self.slots.tell_control(ToProcess::Unplugged { slot: number });
        } else {
            self.stays_dead(number);
        }
    }

    fn restart_control(&mut self) -> Result<(), Failure> {
        if !self.slots.get_mut(CONTROL).is_some_and(SlotState::allow_restart) {
            if let Some(control) = self.slots.get_mut(CONTROL) {
                control.enter(Phase::Dead);
                // Nobody gets the connections that were kept for it.
                control.kept.retain(|(what, _)| !matches!(what, FdUse::Control(_)));
            }
            self.stays_dead(CONTROL);
            return Ok(());
        }
        if let Some(control) = self.slots.get_mut(CONTROL) {
            control.enter(Phase::Starting);
        }
        // The old connections may have ended inside of a message, so every process gets a new one.
        for slot in self
            .slots
            .iter()
            .filter(|s| s.slot != CONTROL && s.phase() == Phase::Running)
            .map(|s| s.slot)
            .collect::<Vec<_>>()
        {
            self.connect_to_control(slot, 0)?;
        }
        // The connection of a process that is just starting died with control. It gets a new one when it runs.
        for state in self
            .slots
            .iter_mut()
            .filter(|s| s.slot != CONTROL && matches!(s.phase(), Phase::Starting | Phase::Entering | Phase::Attaching))
        {
            state.lacks_control = true;
        }
        self.start_again(CONTROL);
        Ok(())
    }

    /// Connects the process in a slot to a restarted control.
    pub(super) fn connect_to_control(&mut self, slot: Slot, pid: i32) -> Result<(), Failure> {
        let (ours, theirs) = control_pair()?;
        if let Some(state) = self.slots.get_mut(slot) {
            state.tell(|_| ToProcess::Serve, &[(FdUse::Control(slot), theirs.as_fd())]);
        }
        self.pass_to_control(slot, pid, ours);
        Ok(())
    }
}

/// A new connection between control (first) and a process.
fn control_pair() -> Result<(OwnedFd, OwnedFd), Failure> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(system("socketpair"))
}
