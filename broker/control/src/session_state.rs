//! What all QMP sessions share: the machine's plan, the connections to its processes, and what commands have changed.
use crate::captures::Captures;
use crate::clients::Clients;
use crate::fdsets::FdSets;
use crate::launcher::LauncherClient;
use crate::log::Recent;
use crate::nic_settings::Nics;
use crate::outcome::Outcome;
use crate::past::Past;
use bulkhead_plan::{DeviceConfig, MachinePlan, Slot};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::broadcast;

/// Whether the guest runs, as QMP tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunState {
    Prelaunch,
    Running,
    Paused,
}

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) plan: MachinePlan,
    pub(crate) clients: Clients,
    pub(crate) launcher: LauncherClient,
    pub(crate) state: Mutex<RunState>,
    /// The network cards' settings.
    pub(crate) nics: Arc<Nics>,
    /// Captures and traces that run.
    pub(crate) captures: Arc<Captures>,
    /// The VNC server's password, for its later lives.
    pub(crate) vnc_password: Mutex<Option<Vec<u8>>>,
    /// What a USB controller that was added is called.
    pub(crate) usb_id: Mutex<String>,
    pub(crate) fdsets: Mutex<FdSets>,
    /// Media that have come since the start, by drive: what their clients call them.
    pub(crate) media: Mutex<BTreeMap<String, Option<String>>>,
    pub(crate) events: broadcast::Sender<String>,
    /// The last of them, for who cannot hold a connection: a stub domain has one.
    pub(crate) past: Mutex<Past>,
    pub(crate) recent: Recent,
    /// The kernel's Landlock ABI.
    pub(crate) landlock: i32,
}

impl Shared {
    /// The slot of the first device whose configuration `pick` picks.
    pub(crate) fn slot_of(&self, pick: impl Fn(&DeviceConfig) -> bool) -> Option<Slot> {
        self.plan.devices.iter().find(|d| pick(&d.config)).map(|d| d.slot)
    }

    /// Whether the guest runs.
    pub(crate) fn state(&self) -> RunState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts or stops the processes.
    pub(crate) async fn set_running(&self, running: bool) -> Outcome {
        let new = if running { RunState::Running } else { RunState::Paused };
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = new;
        self.clients.set_running(running).await;
        Ok(json!({}))
    }

    /// Sends an event to every client, and remembers it.
    pub(crate) fn event(&self, name: &str, data: &Value) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let event = json!({ "event": name, "data": data, "timestamp": { "seconds": now.as_secs(), "microseconds": now.subsec_micros() } });
        let _ = self.events.send(format!("{event}\r\n"));
        self.past.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}
