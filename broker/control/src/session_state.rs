//! The state that all QMP sessions share: the machine's plan, the connections to its processes, and changes by commands.
use crate::captures::Captures;
use crate::clients::{Clients, STOP};
use crate::fdsets::FdSets;
use crate::launcher::LauncherClient;
use crate::log::Recent;
use crate::nic_settings::Nics;
use crate::outcome::{Outcome, QmpError};
use crate::past::Past;
use bulkhead_plan::{DeviceConfig, MachinePlan, Slot};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::broadcast;

/// The guest's run state (QMP's `query-status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunState {
    Prelaunch,
    Running,
    Paused,
}

/// The state that all sessions share.
pub(crate) struct Shared {
    pub(crate) plan: MachinePlan,
    pub(crate) clients: Clients,
    pub(crate) launcher: LauncherClient,
    pub(crate) state: Mutex<RunState>,
    /// Held while processes are told to stop or to go on.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
    /// One of `stop`, `cont` and a save at a time, from its begin to its end.
    pub(crate) order: tokio::sync::Mutex<()>,
    /// There was a `stop`, so a process may have been started in the middle of one, or of a `cont`.
    pub(crate) has_stopped: AtomicBool,
    /// Xen is told the pages that devices write, since this control runs.
    pub(crate) logs_dirty: AtomicBool,
    /// The network cards' settings, from the plan and from commands.
    pub(crate) nics: Arc<Nics>,
    /// Cards of a saved machine that get the settings that they had when it goes on.
    pub(crate) saved_nics: Mutex<Vec<Slot>>,
    /// Active captures and traces.
    pub(crate) captures: Arc<Captures>,
    /// The VNC server's password, which is sent to a restarted server.
    pub(crate) vnc_password: Mutex<Option<Vec<u8>>>,
    /// The client's id of the added USB controller; empty if none is known.
    pub(crate) usb_id: Mutex<String>,
    pub(crate) fdsets: Mutex<FdSets>,
    /// Held while a picture is in control's memory.
    pub(crate) picture: Arc<tokio::sync::Mutex<()>>,
    /// Names of the media that commands have inserted since the start, by drive; `None` for an ejected medium.
    pub(crate) media: Mutex<BTreeMap<String, Option<String>>>,
    pub(crate) events: broadcast::Sender<String>,
    /// The last events, for clients that cannot keep a connection open: a stub domain has only one connection.
    pub(crate) past: Mutex<Past>,
    pub(crate) recent: Recent,
    /// The kernel's Landlock ABI; 0 without Landlock.
    pub(crate) landlock: i32,
}

impl Shared {
    /// The slot of the first device whose configuration `pick` accepts.
    pub(crate) fn slot_of(&self, pick: impl Fn(&DeviceConfig) -> bool) -> Option<Slot> {
        self.plan.devices.iter().find(|d| pick(&d.config)).map(|d| d.slot)
    }

    /// The run state, as the last `stop` or `cont` has set it.
    pub(crate) fn state(&self) -> RunState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the machine, or lets it run. A stop is answered when nothing of any process is under way; if one cannot stop that is an error,
    /// and the machine waits for `cont`.
    pub(crate) async fn set_running(&self, running: bool) -> Outcome {
        let one = self.turn.clone().lock_owned().await;
        let new = if running { RunState::Running } else { RunState::Paused };
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = new;
        self.has_stopped.fetch_or(!running, Ordering::Relaxed);
        // Before anything else: who is started from now on knows it.
        self.launcher.paused(!running);
        let clients = self.clients.clone();
        // It goes on if the client that has asked for it goes.
        let told = tokio::spawn(async move {
            let late = clients.set_running(running).await;
            drop(one);
            late
        });
        let late = told.await.unwrap_or_default();
        if running || late.is_empty() {
            return Ok(json!({}));
        }
        let name = |slot: &Slot| {
            let device = self.plan.devices.iter().find(|d| d.slot == *slot);
            device.map_or_else(|| "the broker".to_owned(), |d| d.name.clone())
        };
        let names: Vec<_> = late.iter().map(name).collect();
        Err(QmpError::generic(format!("{}: what has begun there has not ended", names.join(", "))))
    }

    /// Tells a process that has just come what the machine does now. It may have been started before the last `stop` or `cont`.
    pub(crate) async fn tell_state(&self, slot: Slot) {
        if self.has_stopped.load(Ordering::Relaxed) {
            let _one = self.turn.lock().await;
            let running = self.state() != RunState::Paused;
            self.clients.set_running_of(slot, running, STOP).await;
        }
    }

    /// Sends an event to every client, and keeps it in `past`.
    pub(crate) fn event(&self, name: &str, data: &Value) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp = json!({ "seconds": now.as_secs(), "microseconds": now.subsec_micros() });
        let event = json!({ "event": name, "data": data, "timestamp": timestamp });
        let _ = self.events.send(format!("{event}\r\n"));
        self.past.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}
