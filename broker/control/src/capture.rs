//! What a process writes into a pipe for a client that asks for it piece by piece: a network card's frames, a device's accesses.
use crate::clients::CallError;
use crate::qmp::{Outcome, QmpError, Shared};
use base64::Engine as _;
use bulkhead_control_api::v1;
use bulkhead_control_api::v1::call::Call;
use bulkhead_plan::Slot;
use rustix::pipe::PipeFlags;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::sync::Notify;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// A network card's frames, as pcap.
    Frames,
    /// The guest's accesses, as lines of the qtest protocol.
    Accesses,
}

impl Kind {
    fn call(self, token: u32) -> Call {
        let token = v1::Token { token };
        match self {
            Self::Frames => Call::Capture(token),
            Self::Accesses => Call::Trace(token),
        }
    }
}

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
pub(crate) struct Capture {
    bytes: Mutex<Vec<u8>>,
    /// Something has come, or the last has.
    came: Notify,
    /// There is room again.
    taken: Notify,
}

/// All that run.
#[derive(Default)]
pub(crate) struct Captures(Mutex<BTreeMap<(Slot, Kind), Arc<Capture>>>);

impl Captures {
    /// The device has gone.
    pub(crate) fn remove(&self, slot: Slot) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(s, _), _| *s != slot);
    }
}

impl Shared {
    /// x-bulkhead-capture: {"device": "nic0"} begins a capture or goes on with it; the answer has what has come, at most a second
    /// later. With "end": true it ends.
    pub(crate) async fn capture(&self, arguments: &Value) -> Outcome {
        let (slot, _, _) = self.nic(arguments, "device")?;
        let (begun, bytes) = self.piece(slot, Kind::Frames, arguments).await?;
        Ok(json!({ "begun": begun, "pcap": base64::prelude::BASE64_STANDARD.encode(&bytes) }))
    }

    /// x-bulkhead-trace: the same with any device's accesses.
    pub(crate) async fn trace(&self, arguments: &Value) -> Outcome {
        let name = arguments.get("device").and_then(Value::as_str).unwrap_or("");
        let device = self.plan.devices.iter().find(|d| d.name == name);
        let slot = device.ok_or_else(|| QmpError::not_found(format!("there is no device {name:?}")))?.slot;
        let (begun, bytes) = self.piece(slot, Kind::Accesses, arguments).await?;
        Ok(json!({ "begun": begun, "lines": String::from_utf8_lossy(&bytes) }))
    }

    /// Begins or goes on; whether it has begun, and what has come.
    async fn piece(&self, slot: Slot, kind: Kind, arguments: &Value) -> Result<(bool, Vec<u8>), QmpError> {
        let end = arguments.get("end").and_then(Value::as_bool).unwrap_or(false);
        let running = self.captures.0.lock().unwrap_or_else(PoisonError::into_inner).get(&(slot, kind)).cloned();
        let begun = running.is_none();
        let capture = match running {
            Some(capture) => capture,
            None if end => return Err(QmpError::generic("no capture runs")),
            None => self.begin(slot, kind).await?,
        };
        let empty = || capture.bytes.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if end {
            let _ = self.clients.call(slot, kind.call(0)).await;
            // Its end of the pipe is closed; what is in the pipe still comes.
            let running = || self.captures.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&(slot, kind));
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
        Ok((begun, bytes))
    }

    async fn begin(&self, slot: Slot, kind: Kind) -> Result<Arc<Capture>, QmpError> {
        let failed = |e: std::io::Error| QmpError::generic(format!("a pipe: {e}"));
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        for end in [&read, &write] {
            rustix::io::ioctl_fionbio(end, true).map_err(|e| failed(e.into()))?;
        }
        let pipe = tokio::net::unix::pipe::Receiver::from_owned_fd_unchecked(read).map_err(failed)?;
        // A process that has just died is being started again.
        let mut result = Err(QmpError::generic(CallError::NotRunning));
        for _ in 0..RESTART.as_millis().div_euclid(STEP.as_millis()) {
            result = self.begin_now(slot, kind, &write).await;
            if result.is_ok() {
                break;
            }
            tokio::time::sleep(STEP).await;
        }
        result?;
        drop(write);
        let capture = Arc::new(Capture::default());
        self.captures.0.lock().unwrap_or_else(PoisonError::into_inner).insert((slot, kind), capture.clone());
        tokio::spawn(collect(self.captures.clone(), (slot, kind), capture.clone(), pipe));
        Ok(capture)
    }
}

impl Shared {
    async fn begin_now(&self, slot: Slot, kind: Kind, write: &rustix::fd::OwnedFd) -> Result<(), QmpError> {
        let token = self.launcher.give(slot, write).await.map_err(QmpError::generic)?;
        self.clients.call(slot, kind.call(token)).await.map_err(QmpError::generic)
    }
}

/// Takes what comes out of the pipe until nobody writes to it, or nobody asks for them. Closing the pipe ends the capture.
async fn collect(
    captures: Arc<Captures>,
    key: (Slot, Kind),
    capture: Arc<Capture>,
    mut pipe: tokio::net::unix::pipe::Receiver,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
        capture
            .bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(buffer.get(..n).unwrap_or_default());
        capture.came.notify_one();
        let full = || capture.bytes.lock().unwrap_or_else(PoisonError::into_inner).len() > BUFFER;
        if full() && tokio::time::timeout(FORGOTTEN, capture.taken.notified()).await.is_err() {
            break;
        }
    }
    let mut captures = captures.0.lock().unwrap_or_else(PoisonError::into_inner);
    if captures.get(&key).is_some_and(|c| Arc::ptr_eq(c, &capture)) {
        captures.remove(&key);
    }
    drop(captures);
    capture.came.notify_one();
}
