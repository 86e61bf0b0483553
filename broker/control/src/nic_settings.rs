//! The settings of network cards: link state and filter rules.
use bulkhead_bus::nic::NicSettings;
use bulkhead_plan::{MachinePlan, Slot};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The settings of the plugged-in network cards, by slot.
#[derive(Default)]
pub(crate) struct Nics {
    settings: Mutex<BTreeMap<Slot, NicSettings>>,
}

impl Nics {
    /// Takes the settings from the machine's plan.
    pub(crate) fn new(plan: &MachinePlan) -> Self {
        let settings = plan.devices.iter().filter_map(|d| Some((d.slot, d.config.facets().nic?.clone())));
        Self { settings: Mutex::new(settings.collect()) }
    }

    /// The settings of the card in `slot`.
    pub(crate) fn get(&self, slot: Slot) -> Option<NicSettings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).get(&slot).cloned()
    }

    /// Replaces the settings of the card in `slot`.
    pub(crate) fn set(&self, slot: Slot, settings: NicSettings) {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, settings);
    }

    /// Removes the settings of an unplugged card.
    pub(crate) fn remove(&self, slot: Slot) {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
    }
}
