//! Network cards: cable and rules of a running guest, what was dropped, captures.
use crate::qmp::{Outcome, QmpError, Shared};
use base64::Engine as _;
use bulkhead_bus::nic::NicSettings;
use bulkhead_bus::plan::{DeviceConfig, MachinePlan, Slot};
use bulkhead_control_api::v1;
use rustix::pipe::PipeFlags;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::sync::Notify;

/// Bytes of a capture that wait for the client that asks for them; the rest waits in the pipe, and what does not fit there is lost
/// and counted.
const BUFFER: usize = 1 << 20;
/// Bytes of one answer, before base 64.
const ANSWER: usize = 48 << 10;
/// How long an answer is held back if nothing has come.
const PATIENCE: Duration = Duration::from_secs(1);
/// A client that has not asked for so long has gone.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// How long a process that was killed may take until it captures again, and how often it is asked.
const RESTART: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(100);

/// A capture that runs.
#[derive(Default)]
struct Capture {
    bytes: Mutex<Vec<u8>>,
    /// Something has come, or the last has.
    came: Notify,
    /// There is room again.
    taken: Notify,
}

/// What is known of the network cards.
#[derive(Default)]
pub(crate) struct Nics {
    settings: Mutex<BTreeMap<Slot, NicSettings>>,
    captures: Mutex<BTreeMap<Slot, Arc<Capture>>>,
}

impl Nics {
    /// As the machine has them now.
    pub(crate) fn new(plan: &MachinePlan) -> Self {
        let settings = plan.devices.iter().filter_map(|d| match &d.config {
            DeviceConfig::Nic { settings, .. } => Some((d.slot, settings.clone())),
            _ => None,
        });
        Self { settings: Mutex::new(settings.collect()), captures: Mutex::default() }
    }

    fn get(&self, slot: Slot) -> Option<NicSettings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).get(&slot).cloned()
    }

    /// The guest has unplugged a card.
    pub(crate) fn remove(&self, slot: Slot) {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
        self.captures.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
    }
}

impl Shared {
    fn nic(&self, arguments: &Value, key: &str) -> Result<(Slot, String, NicSettings), QmpError> {
        let name = arguments.get(key).and_then(Value::as_str).unwrap_or("");
        // libxl's netdevs are called net0, its cards nic0.
        let wanted = name.strip_prefix("net").map_or(name.to_owned(), |n| format!("nic{n}"));
        let device = self.plan.devices.iter().find(|d| d.name == wanted && matches!(d.config, DeviceConfig::Nic { .. }));
        let found = device.and_then(|d| Some((d.slot, d.name.clone(), self.nics.get(d.slot)?)));
        found.ok_or_else(|| QmpError::not_found(format!("there is no network card {name:?}")))
    }

    async fn apply(&self, slot: Slot, settings: NicSettings) -> Outcome {
        // The interface first: from then on nothing forbidden leaves, whatever the process does.
        let done = self.launcher.nic(slot, &settings).await;
        self.nics.settings.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, settings.clone());
        let client = self.clients.wait(slot).await;
        let mut client = client.ok_or_else(|| QmpError::generic("the card's process does not run; it will have the settings when it does"))?;
        client.set_nic(v1::NicSettings { settings: settings.to_bytes().to_vec() }).await.map_err(|e| QmpError::generic(e.message()))?;
        done.map_err(|e| QmpError::generic(format!("the card's process has the settings; {e}")))?;
        Ok(json!({}))
    }

    /// set_link: {"name": "nic0", "up": false}.
    pub(crate) async fn set_link(&self, arguments: &Value) -> Outcome {
        let (slot, _, settings) = self.nic(arguments, "name")?;
        let up = arguments.get("up").and_then(Value::as_bool).ok_or_else(|| QmpError::generic("Parameter 'up' is missing"))?;
        self.apply(slot, NicSettings { link: up, ..settings }).await
    }

    /// x-bulkhead-net-set: {"device": "nic0", "set": ["link=down", …]}.
    pub(crate) async fn net_set(&self, arguments: &Value) -> Outcome {
        let (slot, _, mut settings) = self.nic(arguments, "device")?;
        let words = arguments.get("set").and_then(Value::as_array).filter(|w| !w.is_empty() && w.len() <= 16);
        let pairs: Option<Vec<_>> = words.into_iter().flatten().map(|w| w.as_str()?.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))).collect();
        let pairs = pairs.filter(|p| !p.is_empty()).ok_or_else(|| QmpError::generic("set must be a list of KEY=VALUE: link, level, ip, rate, burst"))?;
        settings.change(&pairs).map_err(QmpError::generic)?;
        self.apply(slot, settings).await
    }

    /// x-bulkhead-net-show: every card's settings, and what was dropped where.
    pub(crate) async fn net_show(&self) -> Outcome {
        let mut cards = Vec::new();
        for device in &self.plan.devices {
            let (DeviceConfig::Nic { mac, model, .. }, Some(settings)) = (&device.config, self.nics.get(device.slot)) else { continue };
            let on_interface = self.launcher.dropped(device.slot).await.map_err(QmpError::generic)?;
            let on_interface: serde_json::Map<_, _> = on_interface.into_iter().map(|(name, n)| (name, json!(n))).collect();
            let mut in_process = serde_json::Map::new();
            if let Some(mut client) = self.clients.wait(device.slot).await {
                let registers = client.inspect(v1::Empty {}).await.map_err(|e| QmpError::generic(e.message()))?.into_inner().registers;
                for register in registers {
                    if let Some(rule) = register.name.strip_prefix("dropped.") {
                        in_process.insert(rule.to_owned(), json!(register.value.parse::<u64>().unwrap_or(0)));
                    }
                }
            }
            let mac: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
            cards.push(json!({
                "device": device.name, "model": model, "mac": mac.join(":"), "link": settings.link, "filter": settings.rules.to_string(),
                "dropped-in-process": in_process, "dropped-on-interface": on_interface,
            }));
        }
        Ok(json!(cards))
    }

    /// x-bulkhead-capture: {"device": "nic0"} begins a capture or goes on with it; the answer has what has come, at most a second
    /// later. With "end": true it ends.
    pub(crate) async fn capture(&self, arguments: &Value) -> Outcome {
        let (slot, _, _) = self.nic(arguments, "device")?;
        let end = arguments.get("end").and_then(Value::as_bool).unwrap_or(false);
        let running = self.nics.captures.lock().unwrap_or_else(PoisonError::into_inner).get(&slot).cloned();
        let begun = running.is_none();
        let capture = match running {
            Some(capture) => capture,
            None if end => return Err(QmpError::generic("no capture runs")),
            None => self.begin(slot).await?,
        };
        let empty = || capture.bytes.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if end {
            if let Some(mut client) = self.clients.wait(slot).await {
                let _ = client.capture(v1::Token { token: 0 }).await;
            }
            // Its end of the pipe is closed; what is in the pipe still comes.
            let running = || self.nics.captures.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&slot);
            while running() && tokio::time::timeout(PATIENCE, capture.came.notified()).await.is_ok() {}
        } else if empty() {
            let _ = tokio::time::timeout(PATIENCE, capture.came.notified()).await;
        }
        let bytes: Vec<u8> = {
            let mut waiting = capture.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            let n = if end { waiting.len() } else { waiting.len().min(ANSWER) };
            waiting.drain(..n).collect()
        };
        capture.taken.notify_one();
        Ok(json!({ "begun": begun, "pcap": base64::prelude::BASE64_STANDARD.encode(&bytes) }))
    }

    async fn begin(&self, slot: Slot) -> Result<Arc<Capture>, QmpError> {
        let failed = |e: std::io::Error| QmpError::generic(format!("a pipe for the frames: {e}"));
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        for end in [&read, &write] {
            rustix::io::ioctl_fionbio(end, true).map_err(|e| failed(e.into()))?;
        }
        let pipe = tokio::net::unix::pipe::Receiver::from_owned_fd_unchecked(read).map_err(failed)?;
        // A process that has just died is being started again.
        let mut result = Err(String::new());
        for _ in 0..RESTART.as_millis().div_euclid(STEP.as_millis()) {
            result = self.begin_now(slot, &write).await;
            if result.is_ok() {
                break;
            }
            tokio::time::sleep(STEP).await;
        }
        result.map_err(QmpError::generic)?;
        drop(write);
        let capture = Arc::new(Capture::default());
        self.nics.captures.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, capture.clone());
        tokio::spawn(collect(self.nics.clone(), slot, capture.clone(), pipe));
        Ok(capture)
    }
}

impl Shared {
    async fn begin_now(&self, slot: Slot, write: &rustix::fd::OwnedFd) -> Result<(), String> {
        let token = self.launcher.give(slot, write).await?;
        let client = self.clients.wait(slot).await;
        let mut client = client.ok_or("the card's process does not run")?;
        client.capture(v1::Token { token }).await.map(|_| ()).map_err(|e| e.message().to_owned())
    }
}

/// Takes frames out of the pipe until nobody writes to it, or nobody asks for them. Closing the pipe ends the capture.
async fn collect(nics: Arc<Nics>, slot: Slot, capture: Arc<Capture>, mut pipe: tokio::net::unix::pipe::Receiver) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
        capture.bytes.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(buffer.get(..n).unwrap_or_default());
        capture.came.notify_one();
        let full = || capture.bytes.lock().unwrap_or_else(PoisonError::into_inner).len() > BUFFER;
        if full() && tokio::time::timeout(FORGOTTEN, capture.taken.notified()).await.is_err() {
            break;
        }
    }
    let mut captures = nics.captures.lock().unwrap_or_else(PoisonError::into_inner);
    if captures.get(&slot).is_some_and(|c| Arc::ptr_eq(c, &capture)) {
        captures.remove(&slot);
    }
    drop(captures);
    capture.came.notify_one();
}
