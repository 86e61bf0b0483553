//! Hot-plug of the USB controller: `device_add` adds it, the guest ejects it.
use super::Launcher;
use super::refusal::Refusal;
use crate::phase::Phase;
use crate::slot::KillReason;
use bulkhead_plan::{Slot, Starts, ToProcess};
use std::time::Instant;

impl Launcher {
    fn is_hot_pluggable(&self, slot: Slot) -> bool {
        self.plan.devices.iter().any(|d| d.slot == slot && d.config.starts() == Starts::WhenAdded)
    }

    /// Whether this is a hot-pluggable device that the guest does not have.
    pub(super) fn awaits_hot_plug(&self, slot: Slot) -> bool {
        self.slots.phase(slot) == Some(Phase::Waiting) && self.is_hot_pluggable(slot)
    }

    /// Starts a device that control asks for. The answer waits until the broker has the device, so that the guest finds it after
    /// the answer.
    pub(super) fn hot_plug(&mut self, serial: u32, slot: Slot) {
        let begun = match self.slots.phase(slot) {
            _ if !self.is_hot_pluggable(slot) => Err(Refusal::NotHotPluggable),
            // A limit: control and the guest could add and eject it for ever.
            Some(Phase::Waiting) if !self.slots.get_mut(slot).is_some_and(|s| s.allow_start(Instant::now())) => {
                Err(Refusal::HotPlugTooOften)
            }
            Some(Phase::Waiting) => self.spawn(slot).map_err(Refusal::Start),
            Some(Phase::Unplugged) => Err(Refusal::BeingEjected),
            _ => Err(Refusal::Present),
        };
        match begun {
            Ok(()) => self.requests.hot_plug = Some((slot, serial)),
            Err(e) => self.answer(serial, Err(e)),
        }
    }

    /// Answers the pending request for a device, if there is one.
    pub(super) fn answer_hot_plug(&mut self, slot: Slot, result: Result<u32, Refusal>) {
        if let Some((_, serial)) = self.requests.hot_plug.take_if(|(pending, _)| *pending == slot) {
            self.answer(serial, result);
        }
    }

    /// Ends the process of a device that the guest has ejected.
    pub(super) fn ejected(&mut self, slot: Slot) {
        if !self.is_hot_pluggable(slot) {
            return;
        }
        let Some(state) = self.slots.get_mut(slot) else { return };
        let dead = state.life.is_none();
        // The broker may be hostile: it cannot eject a device that is not there.
        if state.phase() == Phase::Waiting || !state.enter(Phase::Unplugged) {
            return;
        }
        state.kill(KillReason::Ejected);
        if dead {
            self.allow_hot_plug_again(slot);
            self.slots.tell_control(ToProcess::Unplugged { slot });
        }
    }

    /// Lets an ejected device be added again after its process has exited. The next process starts without the state of this one.
    pub(super) fn allow_hot_plug_again(&mut self, slot: Slot) {
        if self.is_hot_pluggable(slot)
            && let Some(state) = self.slots.get_mut(slot)
        {
            state.enter(Phase::Waiting);
            state.forget_state();
            state.channel = None;
        }
    }
}
