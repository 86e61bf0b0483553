//! Places the threads that carry out register accesses on a CPU.
use super::{ACTIVITY, Launcher};
use crate::failure::{Failure, system};
use crate::log::say;
use crate::machine::Machine;
use crate::phase::Phase;
use crate::placement::{Member, Place, Source};
use crate::slot::{SlotState, doorbell};
use bulkhead_plan::{BROKER, Slot};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use std::time::Instant;

/// The name of a guest's event channels in /proc/interrupts, and the thread name from which the kernel makes it when that thread
/// opens the node.
pub(super) fn interrupts(domid: u16) -> (String, String) {
    let name = format!("bulkhead-{domid}");
    (format!("evtchn:{name}"), name)
}

/// The place of a machine with emulated devices; `None` for others.
pub(super) fn place(machine: &Machine, domid: u16) -> Option<Place> {
    if machine.probe || machine.attach {
        return None;
    }
    let source = match &machine.sim {
        Some(sim) => sim.thread.map_or(Source::Unknown, Source::Thread),
        None => Source::Interrupts(interrupts(domid).0),
    };
    // Domains have consecutive numbers. All simulated machines have the same number.
    let turn = if machine.sim.is_some() { std::process::id() } else { u32::from(domid) };
    Place::new(&machine.placement, turn as usize, source)
}

/// The main thread of a process that takes part in register accesses. The scheduler places the other threads, which serve control
/// or do the work of disks, and the processes of back ends and viewers.
fn member(state: &SlotState) -> Option<Member> {
    let pid = state.life.as_ref()?.spawned.pid;
    let device = !state.without_broker && state.slot != BROKER && state.kind.urgent;
    (device || state.slot == BROKER).then_some(Member { pid, device })
}

impl Launcher {
    /// Makes the doorbell that the broker rings while the guest makes accesses. Returns the broker's end.
    pub(super) fn open_activity_bell(&mut self) -> Result<Option<OwnedFd>, Failure> {
        if self.place.is_none() {
            return Ok(None);
        }
        let ours = doorbell()?;
        let copy = rustix::io::dup(&ours).map_err(system("dup"))?;
        epoll::add(&self.events.epoll, &ours, EventData::new_u64(ACTIVITY), EventFlags::IN | EventFlags::ET)
            .map_err(system("epoll_ctl"))?;
        self.held.open.push(ours);
        Ok(Some(copy))
    }

    /// Places a process that is in its sandbox and has all its threads.
    pub(super) fn place_process(&mut self, slot: Slot) {
        let Some(member) = self.slots.get(slot).and_then(member) else { return };
        if let Some(line) = self.place.as_mut().and_then(|place| place.take(member)) {
            say(&line);
        }
    }

    /// Checks the load of the CPUs while the guest makes accesses.
    pub(super) fn check_load(&mut self) {
        let there = |s: &&SlotState| matches!(s.phase(), Phase::Attaching | Phase::Running);
        let members: Vec<Member> = self.slots.iter().filter(there).filter_map(member).collect();
        if let Some(line) = self.place.as_mut().and_then(|place| place.look(&members, Instant::now())) {
            say(&line);
        }
    }
}
