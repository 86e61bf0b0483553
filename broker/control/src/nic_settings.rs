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

    /// Replaces the settings of the card in `slot`. A card that was unplugged while a command waited for the launcher stays gone.
    pub(crate) fn set(&self, slot: Slot, settings: NicSettings) {
        if let Some(card) = self.settings.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&slot) {
            *card = settings;
        }
    }

    /// Removes the settings of an unplugged card.
    pub(crate) fn remove(&self, slot: Slot) {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command reads the settings, waits for the launcher, and writes them: the guest may unplug the card meanwhile.
    #[test]
    fn a_card_that_is_unplugged_during_a_command_stays_gone() {
        let nics = Nics { settings: Mutex::new([(3, NicSettings::default())].into()) };
        let down = NicSettings { link: false, ..nics.get(3).unwrap() };
        nics.set(3, down.clone());
        assert_eq!(nics.get(3), Some(down.clone()));
        nics.remove(3);
        nics.set(3, down);
        assert_eq!(nics.get(3), None);
    }
}
