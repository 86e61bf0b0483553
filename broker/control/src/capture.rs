//! Commands that return recordings piece by piece: a network card's frames, the accesses to a device.
use crate::captures::{Capture, Recorded};
use crate::clients::CallError;
use crate::outcome::{Outcome, QmpError};
use crate::session_state::Shared;
use base64::Engine as _;
use bulkhead_plan::Slot;
use rustix::pipe::PipeFlags;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of one answer, before base 64.
const ANSWER: usize = 48 << 10;
/// Longest time for which the start of a recording is retried after its process has died.
const RESTART: Duration = Duration::from_secs(5);
/// Interval between two tries.
const STEP: Duration = Duration::from_millis(100);

impl Shared {
    /// x-bulkhead-capture: {"device": "nic0"} starts a capture or continues it; the answer has the frames since the last answer and
    /// is sent within a second. With "end": true the capture ends.
    pub(crate) async fn capture(&self, arguments: &Value) -> Outcome {
        let (slot, _, _) = self.nic(arguments, "device")?;
        let (begun, bytes) = self.piece(slot, Recorded::Frames, arguments).await?;
        Ok(json!({ "begun": begun, "pcap": base64::prelude::BASE64_STANDARD.encode(&bytes) }))
    }

    /// x-bulkhead-trace: the same for the accesses to any device.
    pub(crate) async fn trace(&self, arguments: &Value) -> Outcome {
        let name = arguments.get("device").and_then(Value::as_str).unwrap_or("");
        let device = self.plan.devices.iter().find(|d| d.name == name);
        let slot = device.ok_or_else(|| QmpError::not_found(format!("there is no device {name:?}")))?.slot;
        let (begun, bytes) = self.piece(slot, Recorded::Accesses, arguments).await?;
        Ok(json!({ "begun": begun, "lines": String::from_utf8_lossy(&bytes) }))
    }

    /// Starts or continues a recording; returns whether this call has started it, and its new bytes.
    async fn piece(&self, slot: Slot, what: Recorded, arguments: &Value) -> Result<(bool, Vec<u8>), QmpError> {
        let end = arguments.get("end").and_then(Value::as_bool).unwrap_or(false);
        let running = self.captures.get(slot, what);
        let begun = running.is_none();
        let capture = match running {
            Some(capture) => capture,
            None if end => return Err(QmpError::generic("no capture runs")),
            None => self.begin(slot, what).await?,
        };
        if end {
            let _ = self.clients.call(slot, what.call(0)).await;
            // The process has closed its end of the pipe; the bytes in the pipe are still read.
            while self.captures.get(slot, what).is_some() && capture.more().await {}
        } else if capture.is_empty() {
            capture.more().await;
        }
        Ok((begun, capture.take(if end { usize::MAX } else { ANSWER })))
    }

    async fn begin(&self, slot: Slot, what: Recorded) -> Result<Arc<Capture>, QmpError> {
        let failed = |e: std::io::Error| QmpError::generic(format!("a pipe: {e}"));
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        for end in [&read, &write] {
            rustix::io::ioctl_fionbio(end, true).map_err(|e| failed(e.into()))?;
        }
        let pipe = tokio::net::unix::pipe::Receiver::from_owned_fd_unchecked(read).map_err(failed)?;
        // A process that has just died is being restarted.
        let mut result = Err(QmpError::generic(CallError::NotRunning));
        for _ in 0..RESTART.as_millis().div_euclid(STEP.as_millis()) {
            result = self.begin_now(slot, what, &write).await;
            if result.is_ok() {
                break;
            }
            tokio::time::sleep(STEP).await;
        }
        result?;
        drop(write);
        Ok(self.captures.start(slot, what, pipe))
    }

    async fn begin_now(&self, slot: Slot, what: Recorded, write: &rustix::fd::OwnedFd) -> Result<(), QmpError> {
        let token = self.launcher.give(slot, write).await.map_err(QmpError::generic)?;
        self.clients.call(slot, what.call(token)).await.map_err(QmpError::generic)
    }
}
