//! The slots of a machine.
use crate::phase::Phase;
use crate::slot::SlotState;
use bulkhead_plan::{BROKER, CONTROL, FIRST_DEVICE, Slot, ToProcess};
use rustix::fd::{AsFd as _, BorrowedFd};

/// All slots, control's first.
#[derive(Debug, Default)]
pub(crate) struct Slots(Vec<SlotState>);

impl Slots {
    /// Adds a slot. Its number must not be in use.
    pub(crate) fn push(&mut self, state: SlotState) {
        self.0.push(state);
    }

    /// Removes a slot whose process has exited.
    pub(crate) fn remove(&mut self, slot: Slot) {
        self.0.retain(|s| s.slot != slot);
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&SlotState> {
        self.0.iter().find(|s| s.slot == slot)
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut SlotState> {
        self.0.iter_mut().find(|s| s.slot == slot)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &SlotState> {
        self.0.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut SlotState> {
        self.0.iter_mut()
    }

    pub(crate) fn phase(&self, slot: Slot) -> Option<Phase> {
        self.get(slot).map(SlotState::phase)
    }

    /// Numbers of the devices' slots: neither control's nor the broker's.
    pub(crate) fn devices(&self) -> Vec<Slot> {
        self.0.iter().map(|s| s.slot).filter(|slot| *slot >= FIRST_DEVICE).collect()
    }

    /// The slot of the broker, of which a machine without emulated devices has none.
    pub(crate) fn broker(&self) -> Option<&SlotState> {
        self.get(BROKER)
    }

    /// Sends control a message without descriptors.
    pub(crate) fn tell_control(&self, message: ToProcess) {
        // One that is starting awaits `Go` and nothing else.
        if let Some(control) = self.get(CONTROL).filter(|c| c.phase() == Phase::Running) {
            control.tell(|_| message, &[]);
        }
    }

    /// The surface of the display's last process.
    pub(crate) fn surface(&self) -> Option<BorrowedFd<'_>> {
        self.0.iter().find_map(|s| s.surface.as_ref()).map(|fd| fd.as_fd())
    }
}
