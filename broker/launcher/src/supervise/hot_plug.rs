//! The USB controller that comes when `device_add` asks for it, and that the guest may eject.
use super::Launcher;
use super::refusal::Refusal;
use crate::slot::{KillReason, Phase};
use bulkhead_plan::{DeviceConfig, Slot, ToProcess};
use std::time::Instant;

impl Launcher {
    fn is_hot_pluggable(&self, slot: Slot) -> bool {
        self.plan.devices.iter().any(|d| d.slot == slot && matches!(d.config, DeviceConfig::Usb { added: true, .. }))
    }

    /// Whether this is a device that is not there and may come.
    pub(super) fn awaits_hot_plug(&self, slot: Slot) -> bool {
        self.slots.phase(slot) == Some(Phase::Waiting) && self.is_hot_pluggable(slot)
    }

    /// Control asks for a device. It is answered when the broker has it, so that a guest that starts then finds it.
    pub(super) fn hot_plug(&mut self, serial: u32, slot: Slot) {
        let begun = match self.slots.phase(slot) {
            _ if !self.is_hot_pluggable(slot) => Err(Refusal::NotHotPluggable),
            // Control and the guest together could have it come and go for ever.
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

    /// A device that was asked for has come, or does not.
    pub(super) fn answer_hot_plug(&mut self, slot: Slot, result: Result<u32, Refusal>) {
        if let Some((_, serial)) = self.requests.hot_plug.take_if(|(asked, _)| *asked == slot) {
            self.answer(serial, result);
        }
    }

    /// The guest has ejected a device.
    pub(super) fn ejected(&mut self, slot: Slot) {
        if !self.is_hot_pluggable(slot) {
            return;
        }
        let Some(state) = self.slots.get_mut(slot) else { return };
        let dead = state.life.is_none();
        // One that is not there cannot be ejected.
        if state.phase() == Phase::Waiting || !state.enter(Phase::Unplugged) {
            return;
        }
        state.kill(KillReason::Ejected);
        if dead {
            self.allow_hot_plug_again(slot);
            self.slots.tell_control(ToProcess::Unplugged { slot });
        }
    }

    /// The process of an ejected device has ended: it may be added again, and knows nothing of this life then.
    pub(super) fn allow_hot_plug_again(&mut self, slot: Slot) {
        if self.is_hot_pluggable(slot)
            && let Some(state) = self.slots.get_mut(slot)
        {
            state.enter(Phase::Waiting);
            state.previous_reply = None;
            state.channel = None;
        }
    }
}
