//! The settings of network cards: cable and rules.
use bulkhead_bus::nic::NicSettings;
use bulkhead_plan::{DeviceConfig, MachinePlan, Slot};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The settings of the network cards that are plugged in.
#[derive(Default)]
pub(crate) struct Nics {
    settings: Mutex<BTreeMap<Slot, NicSettings>>,
}

impl Nics {
    /// As the machine has them now.
    pub(crate) fn new(plan: &MachinePlan) -> Self {
        let settings = plan.devices.iter().filter_map(|d| match &d.config {
            DeviceConfig::Nic { settings, .. } => Some((d.slot, settings.clone())),
            _ => None,
        });
        Self { settings: Mutex::new(settings.collect()) }
    }

    /// The settings of the card in `slot`.
    pub(crate) fn get(&self, slot: Slot) -> Option<NicSettings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).get(&slot).cloned()
    }

    /// The card in `slot` has these settings from now on.
    pub(crate) fn set(&self, slot: Slot, settings: NicSettings) {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, settings);
    }

    /// The guest has unplugged a card.
    pub(crate) fn remove(&self, slot: Slot) {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
    }
}
