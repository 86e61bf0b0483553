//! Commands for network cards: link state, filter rules and dropped frames of a running guest.
use crate::clients::CallError;
use crate::outcome::{Outcome, QmpError};
use crate::session_state::Shared;
use bulkhead_bus::nic::NicSettings;
use bulkhead_control_api::v1;
use bulkhead_control_api::v1::call::Call;
use bulkhead_plan::{DeviceConfig, Slot};
use serde_json::{Value, json};

impl Shared {
    pub(crate) fn nic(&self, arguments: &Value, key: &str) -> Result<(Slot, String, NicSettings), QmpError> {
        let name = arguments.get(key).and_then(Value::as_str).unwrap_or("");
        // libxl names the backend net0 and the card nic0.
        let wanted = name.strip_prefix("net").map_or(name.to_owned(), |n| format!("nic{n}"));
        let device = self.plan.devices.iter().find(|d| d.name == wanted && d.config.facets().nic.is_some());
        let found = device.and_then(|d| Some((d.slot, d.name.clone(), self.nics.get(d.slot)?)));
        found.ok_or_else(|| QmpError::not_found(format!("there is no network card {name:?}")))
    }

    pub(crate) async fn apply(&self, slot: Slot, settings: NicSettings) -> Outcome {
        // The interface first: its rules hold even if the process does not apply them. If it refuses them, nothing changes.
        self.launcher.nic(slot, &settings).await.map_err(QmpError::generic)?;
        self.nics.set(slot, settings.clone());
        let call = Call::SetNic(v1::NicSettings { settings: settings.to_bytes().to_vec() });
        self.clients.call(slot, call).await.map_err(|e| match e {
            CallError::NotRunning => {
                QmpError::generic("the card's process does not run; it will have the settings when it is restarted")
            }
            e => QmpError::generic(e.to_string()),
        })?;
        Ok(json!({}))
    }

    /// set_link: {"name": "nic0", "up": false}.
    pub(crate) async fn set_link(&self, arguments: &Value) -> Outcome {
        let (slot, _, settings) = self.nic(arguments, "name")?;
        let up = arguments
            .get("up")
            .and_then(Value::as_bool)
            .ok_or_else(|| QmpError::generic("Parameter 'up' is missing"))?;
        self.apply(slot, NicSettings { link: up, ..settings }).await
    }

    /// x-bulkhead-net-set: {"device": "nic0", "set": ["link=down", …]}.
    pub(crate) async fn net_set(&self, arguments: &Value) -> Outcome {
        let (slot, _, mut settings) = self.nic(arguments, "device")?;
        let words = arguments.get("set").and_then(Value::as_array).filter(|w| !w.is_empty() && w.len() <= 16);
        let pairs: Option<Vec<_>> = words
            .into_iter()
            .flatten()
            .map(|w| w.as_str()?.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
            .collect();
        let pairs = pairs
            .filter(|p| !p.is_empty())
            .ok_or_else(|| QmpError::generic("set must be a list of KEY=VALUE: link, level, ip, rate, burst"))?;
        settings.change(&pairs).map_err(QmpError::generic)?;
        self.apply(slot, settings).await
    }

    /// x-bulkhead-net-show: every card's settings, and the frames dropped by each rule in the process and on the interface.
    pub(crate) async fn net_show(&self) -> Outcome {
        let mut cards = Vec::new();
        for device in &self.plan.devices {
            let (DeviceConfig::Nic { mac, model, .. }, Some(settings)) = (&device.config, self.nics.get(device.slot))
            else {
                continue;
            };
            let on_interface = self.launcher.dropped(device.slot).await.map_err(QmpError::generic)?;
            let on_interface: serde_json::Map<_, _> =
                on_interface.into_iter().map(|(name, n)| (name, json!(n))).collect();
            let mut in_process = serde_json::Map::new();
            for rule in self.clients.facts(device.slot).await.unwrap_or_default().dropped {
                in_process.insert(rule.name, json!(rule.value));
            }
            let mac: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
            cards.push(json!({
                "device": device.name,
                "model": model,
                "mac": mac.join(":"),
                "link": settings.link,
                "filter": settings.rules.to_string(),
                "dropped-in-process": in_process,
                "dropped-on-interface": on_interface,
            }));
        }
        Ok(json!(cards))
    }
}
