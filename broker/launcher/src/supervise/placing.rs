//! On which CPU the threads run that carry out register accesses.
use super::{ACTIVITY, Launcher, say};
use crate::failure::{Failure, system};
use crate::machine::Machine;
use crate::placement::{Member, Place, Source};
use crate::slot::{Phase, SlotState};
use bulkhead_plan::{BROKER, Slot};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use std::time::Instant;

/// What a guest's event channels are called in /proc/interrupts: the kernel takes the name of the thread that opens the node.
pub(super) fn interrupts(domid: u16) -> (String, String) {
    let name = format!("bulkhead-{domid}");
    (format!("evtchn:{name}"), name)
}

/// The place of a machine that emulates something.
pub(super) fn place(machine: &Machine, domid: u16) -> Option<Place> {
    if machine.probe || machine.attach {
        return None;
    }
    let source = match &machine.sim {
        Some(sim) => sim.thread.map_or(Source::Unknown, Source::Thread),
        None => Source::Interrupts(interrupts(domid).0),
    };
    // Domains have numbers one after another; simulated machines have all the same.
    let turn = if machine.sim.is_some() { std::process::id() } else { u32::from(domid) };
    Place::new(&machine.placement, turn as usize, source)
}

/// The thread that takes part in register accesses is the first of its process. Those that talk to control or do the work of disks
/// are made later and stay where the scheduler puts them. Back ends and viewers are no part of an access.
fn member(state: &SlotState) -> Option<Member> {
    let pid = state.life.as_ref()?.spawned.pid;
    let device = !state.without_broker && state.slot != BROKER && state.kind.urgent;
    (device || state.slot == BROKER).then_some(Member { pid, device })
}

impl Launcher {
    /// Hears from now on when the guest makes accesses: the end that the broker gets.
    pub(super) fn open_activity_bell(&mut self) -> Result<Option<OwnedFd>, Failure> {
        if self.place.is_none() {
            return Ok(None);
        }
        let ours = super::lives::eventfd()?;
        let copy = rustix::io::dup(&ours).map_err(system("dup"))?;
        epoll::add(&self.events.epoll, &ours, EventData::new_u64(ACTIVITY), EventFlags::IN | EventFlags::ET)
            .map_err(system("epoll_ctl"))?;
        self.held.open.push(ours);
        Ok(Some(copy))
    }

    /// A process is in its sandbox, with all its threads.
    pub(super) fn place_process(&mut self, slot: Slot) {
        let Some(member) = self.slots.get(slot).and_then(member) else { return };
        if let Some(line) = self.place.as_mut().and_then(|place| place.take(member)) {
            say(&line);
        }
    }

    /// The guest makes accesses.
    pub(super) fn check_load(&mut self) {
        let there = |s: &&SlotState| matches!(s.phase(), Phase::Attaching | Phase::Running);
        let members: Vec<Member> = self.slots.iter().filter(there).filter_map(member).collect();
        if let Some(line) = self.place.as_mut().and_then(|place| place.look(&members, Instant::now())) {
            say(&line);
        }
    }
}
