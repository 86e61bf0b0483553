//! Network cards while the machine runs: settings, rules on interfaces, and unplug.
use super::Launcher;
use super::refusal::Refusal;
use crate::log::say;
use crate::phase::Phase;
use crate::slot::KillReason;
use bulkhead_bus::nic::NicSettings;
use bulkhead_plan::{Slot, ToProcess};
use bulkhead_policy::interface::Rules;

impl Launcher {
    /// The settings of the network card in a slot; `None` if the slot has another device.
    pub(super) fn nic_settings(&mut self, slot: Slot) -> Option<&mut NicSettings> {
        self.plan.devices.iter_mut().find(|d| d.slot == slot).and_then(|d| d.config.facets_mut().nic)
    }

    fn rules(&mut self, slot: Slot) -> Option<&mut Rules> {
        self.held.rules.iter_mut().find(|(s, _)| *s == slot).map(|(_, r)| r)
    }

    /// Changes a card's settings: on its interface at once, and for later processes. Control itself tells the running process.
    pub(super) fn set_nic(&mut self, slot: Slot, bytes: &[u8; NicSettings::LEN]) -> Result<(), Refusal> {
        let settings = NicSettings::from_bytes(bytes).ok_or(Refusal::NicSettings)?;
        let name = self.slots.get_mut(slot).filter(|s| s.phase() != Phase::Unplugged).map(|s| s.name.clone());
        let name = name.ok_or(Refusal::NoNic)?;
        if self.manner.restricted && self.rules(slot).is_some() {
            return Err(Refusal::Restricted { card: name });
        }
        self.nic_settings(slot).ok_or(Refusal::NotANic)?;
        let on_interface = match self.rules(slot) {
            Some(rules) => {
                rules.set(&settings).map_err(|source| Refusal::Rules { card: name.clone(), source })?;
                rules.len()
            }
            None => 0,
        };
        *self.nic_settings(slot).ok_or(Refusal::NotANic)? = settings.clone();
        say(&format!(
            "{name}: cable {}, filter {}, {on_interface} rules on the interface",
            if settings.link { "in" } else { "out" },
            settings.rules
        ));
        Ok(())
    }

    /// Sends control the counts of frames that the rules on a card's interface have dropped.
    pub(super) fn report_dropped(&mut self, serial: u32, slot: Slot) {
        let counted = self.rules(slot).map_or_else(|| Ok(Vec::new()), |r| r.dropped());
        let rules = match counted {
            Ok(rules) => rules.into_iter().map(|(name, n)| (name.to_owned(), n)).collect(),
            Err(e) => {
                say(&format!("rules on an interface: {e}"));
                Vec::new()
            }
        };
        self.slots.tell_control(ToProcess::Dropped { serial, rules });
    }

    /// Ends the process of a card that the guest has unplugged. The interface vanishes with its last descriptor.
    pub(super) fn nic_unplugged(&mut self, slot: Slot) {
        if self.nic_settings(slot).is_none() {
            return;
        }
        if let Some(at) = self.held.rules.iter().position(|(s, _)| *s == slot)
            && let Err(e) = self.held.rules.swap_remove(at).1.leave()
        {
            say(&format!("the interface of an unplugged card: {e}"));
        }
        let Some(state) = self.slots.get_mut(slot) else { return };
        state.kept.clear();
        let dead = state.phase() == Phase::Dead;
        state.enter(Phase::Unplugged);
        state.kill(KillReason::Unplugged);
        if dead {
            self.slots.tell_control(ToProcess::Unplugged { slot });
        }
    }
}
