//! Requests of processes to the launcher.
use super::refusal::Refusal;
use super::{End, Launcher};
use crate::failure::Failure;
use crate::log::say;
use crate::phase::Phase;
use crate::resource::ReceiveFault;
use crate::slot::{KillReason, SlotState};
use bulkhead_plan::{
    Ask, BROKER, CONTROL, Death, Ending, FIRST_DEVICE, FdUse, FromProcess, RequestRefused, Slot, ToProcess,
};
use bulkhead_xen_abi::Shutdown;
use rustix::event::epoll;
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// Most requests of a process that are handled before others get their turn.
pub(super) const REQUESTS: usize = 16;

/// Whether a request has the starter, the kernel's rules or files asked: it is the last of its process's turn.
fn is_costly(ask: &Ask) -> bool {
    match ask {
        Ask::Processes
        | Ask::Dump { .. }
        | Ask::Medium { .. }
        | Ask::Disks { .. }
        | Ask::Nic { .. }
        | Ask::Locks { .. }
        | Ask::Dropped { .. }
        | Ask::Plug { .. } => true,
        Ask::Sealed
        | Ask::Ready
        | Ask::ChannelSealed { .. }
        | Ask::ChannelDead { .. }
        | Ask::VramAt { .. }
        | Ask::Restart { .. }
        | Ask::Stop { .. }
        | Ask::GiveFd { .. }
        | Ask::Attached { .. }
        | Ask::Unplugged { .. }
        | Ask::PartUnplugged { .. }
        | Ask::Overrun { .. }
        | Ask::Paused { .. }
        | Ask::Ejected { .. } => false,
    }
}

impl Launcher {
    /// Receives the requests of a process, as many as it may have in one turn: [`REQUESTS`], and one that is costly.
    pub(super) fn receive(&mut self, number: Slot) -> Result<Option<End>, Failure> {
        for _ in 0..REQUESTS {
            let Some(state) = self.slots.get_mut(number) else { return Ok(None) };
            let Some(life) = &state.life else { return Ok(None) };
            if state.reason.borrow().is_some() {
                // It has been killed. Who else holds its socket, or what it has sent before, costs no turn and no line of the log.
                let _ = epoll::delete(&self.events.epoll, &life.resource);
                return Ok(None);
            }
            match life.resource.receive() {
                Ok(Some((message, fd))) => {
                    if let Some(end) = self.request(number, &message, fd)? {
                        return Ok(Some(end));
                    }
                    if is_costly(&message.ask) {
                        return Ok(None);
                    }
                }
                Ok(None) => return Ok(None),
                Err(why) => {
                    let _ = epoll::delete(&self.events.epoll, &life.resource);
                    // A closed socket is followed by an exit, as a rule; anything else is not.
                    match why {
                        ReceiveFault::Closed => state.closed(),
                        ReceiveFault::NoRequest => state.kill(KillReason::Receive(why)),
                    }
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    fn request(&mut self, number: Slot, message: &FromProcess, fd: Option<OwnedFd>) -> Result<Option<End>, Failure> {
        let FromProcess { serial, ask } = *message;
        match (ask, number) {
            (Ask::ChannelSealed { slot: BROKER }, BROKER) if self.slots.phase(BROKER) == Some(Phase::Starting) => {
                if let Some(broker) = self.slots.get_mut(BROKER) {
                    broker.enter(Phase::Entering);
                }
            }
            (Ask::ChannelSealed { slot: slot @ FIRST_DEVICE.. }, BROKER) => {
                self.sealed(slot, |c| c.sealed_by_broker = true)
            }
            (Ask::Sealed, CONTROL) => {}
            // Once for each process; a second time is a violation, handled below.
            (Ask::Sealed, FIRST_DEVICE..) if self.slots.phase(number) == Some(Phase::Starting) => {
                self.sealed(number, |c| c.sealed_by_device = true)
            }
            (Ask::Ready, CONTROL) if self.slots.phase(number) == Some(Phase::Starting) => self.ready(number)?,
            (Ask::Ready, _) if self.slots.phase(number) == Some(Phase::Entering) => self.ready(number)?,
            (Ask::Attached { slot }, BROKER) => self.attached(slot)?,
            (Ask::ChannelDead { slot, death }, BROKER) => {
                let reason = match death {
                    Death::Deadline => KillReason::Deadline,
                    Death::Protocol => KillReason::Protocol,
                };
                if let Some(state) = self.slots.get_mut(slot).filter(|s| s.slot >= FIRST_DEVICE) {
                    state.kill(reason);
                }
            }
            (Ask::VramAt { gfn: now }, BROKER) => {
                for device in &mut self.plan.devices {
                    if let Some(gfn) = device.config.facets_mut().video_ram_gfn {
                        *gfn = now;
                    }
                }
            }
            (Ask::Restart { slot }, CONTROL) => {
                let result = match self.slots.get_mut(slot).filter(|s| s.slot >= FIRST_DEVICE) {
                    Some(state) if state.life.is_some() => {
                        state.kill(KillReason::RestartRequest);
                        Ok(0)
                    }
                    Some(state) if state.phase() == Phase::Dead => Err(Refusal::Dead),
                    Some(_) => Err(Refusal::NoProcess),
                    None => Err(Refusal::NoDevice),
                };
                self.answer(serial, result);
            }
            (Ask::Stop { ending }, CONTROL) => {
                let reason = match ending {
                    Ending::PowerOff => Some(Shutdown::PowerOff),
                    Ending::Reboot => Some(Shutdown::Reboot),
                    Ending::Quit => None,
                };
                match (reason, &self.xen.privcmd) {
                    (Some(reason), Some(privcmd)) => privcmd.remote_shutdown(reason).map_err(Failure::Shutdown)?,
                    (Some(_), None) => {}
                    (None, _) => return Ok(Some(End)),
                }
                self.answer(serial, Ok(0));
            }
            (Ask::Paused { paused }, CONTROL) => {
                (self.plan.paused, self.plan.stopped) = (paused, false);
                // What a saved machine's control compares and restores, it does once.
                if let Some(control) = self.slots.get_mut(CONTROL).filter(|_| !paused) {
                    control.saved = None;
                }
            }
            (Ask::Locks { held }, CONTROL) => {
                let result = self.lock_images(held).map(|()| 0);
                self.answer(serial, result);
            }
            (Ask::Processes, CONTROL) => {
                let rows = self.table();
                self.slots.tell_control(ToProcess::Processes { serial, rows });
            }
            (Ask::GiveFd { slot }, CONTROL) => {
                let result = fd.ok_or(Refusal::NoDescriptor).and_then(|fd| self.give(slot, fd.as_fd()));
                self.answer(serial, result);
            }
            (Ask::Medium { slot, drive }, CONTROL) => {
                let result = self.set_medium(slot, drive, fd);
                self.answer(serial, result);
            }
            (Ask::Disks { known }, CONTROL) if self.manner.stubdom => self.look_for_media(serial, known),
            (Ask::Nic { slot, settings }, CONTROL) => {
                let result = self.set_nic(slot, &settings).map(|()| 0);
                self.answer(serial, result);
            }
            (Ask::Dropped { slot }, CONTROL) => self.report_dropped(serial, slot),
            (Ask::Plug { slot }, CONTROL) => self.hot_plug(serial, slot),
            (Ask::Overrun { caller }, FIRST_DEVICE..) if self.slots.get(number).is_some_and(SlotState::has_callers) => {
                self.overrun(number, caller);
            }
            (Ask::Ejected { slot }, BROKER) => self.ejected(slot),
            (Ask::Unplugged { slot }, BROKER) => self.nic_unplugged(slot),
            (Ask::PartUnplugged { slot, mask }, BROKER) => self.disks_unplugged(slot, mask),
            (Ask::Dump { slot, name }, CONTROL) => {
                let file = self.requests.dumps.create(self.plan.dump_dir.as_deref(), &name);
                let result = file.and_then(|fd| self.give(slot, fd.as_fd()));
                self.answer(serial, result);
            }
            _ => {
                let name = self.slots.get_mut(number).map_or_else(String::new, |s| s.name.clone());
                // The name of the request alone: its values are the hostile process's.
                let what = format!("{ask:?}");
                say(&format!("{name}: asked for {}, which it may not", what.split(' ').next().unwrap_or_default()));
                if let Some(state) = self.slots.get_mut(number) {
                    state.kill(KillReason::Forbidden);
                }
            }
        }
        Ok(None)
    }

    pub(super) fn answer(&mut self, serial: u32, result: Result<u32, Refusal>) {
        let result = result.map_err(|refusal| RequestRefused(refusal.to_string()));
        self.slots.tell_control(ToProcess::Answer { serial, result });
    }

    /// Sends a descriptor to a running device process. Returns the token by which control names it.
    pub(super) fn give(&mut self, slot: Slot, fd: BorrowedFd<'_>) -> Result<u32, Refusal> {
        let token = self.requests.next_token;
        self.requests.next_token = self.requests.next_token.wrapping_add(1);
        let state = self.slots.get_mut(slot).filter(|s| s.slot >= FIRST_DEVICE && s.phase() == Phase::Running);
        let state = state.ok_or(Refusal::NotRunning)?;
        state.tell(|_| ToProcess::Token { token }, &[(FdUse::LogFile, fd)]);
        Ok(token)
    }
}
