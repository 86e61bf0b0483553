//! Active captures and traces: the bytes that a process writes into a pipe, buffered until the client requests them.
use bulkhead_control_api::v1;
use bulkhead_control_api::v1::call::Call;
use bulkhead_plan::Slot;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Notify;

/// The kind of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Recorded {
    /// A network card's frames, as pcap.
    Frames,
    /// The guest's accesses, as lines of the qtest protocol.
    Accesses,
}

impl Recorded {
    /// The call that makes a process write into the pipe with this token; 0 ends it.
    pub(crate) fn call(self, token: u32) -> Call {
        let token = v1::Token { token };
        match self {
            Self::Frames => Call::Capture(token),
            Self::Accesses => Call::Trace(token),
        }
    }
}

/// Bytes that are buffered for the client; above this, control stops reading the pipe, and the process drops and counts whatever
/// the pipe has no room for.
const BUFFER: usize = 1 << 20;
/// Longest delay of an answer while there are no new bytes.
const PATIENCE: Duration = Duration::from_secs(1);
/// A recording whose buffer is full ends if the client takes nothing for this time.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// An active recording.
#[derive(Default)]
pub(crate) struct Capture {
    bytes: Mutex<Vec<u8>>,
    /// Notified when bytes have arrived, and at the end of the pipe.
    arrived: Notify,
    /// Notified when the client has taken bytes.
    drained: Notify,
}

impl Capture {
    /// Whether there are no bytes for the client.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Waits up to [`PATIENCE`] for more bytes or the end of the pipe; returns whether either has occurred.
    pub(crate) async fn more(&self) -> bool {
        tokio::time::timeout(PATIENCE, self.arrived.notified()).await.is_ok()
    }

    /// Removes up to `limit` bytes from the buffer, oldest first.
    pub(crate) fn take(&self, limit: usize) -> Vec<u8> {
        let bytes = {
            let mut waiting = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            let n = waiting.len().min(limit);
            waiting.drain(..n).collect()
        };
        self.drained.notify_one();
        bytes
    }
}

/// The active recordings, by device and kind.
#[derive(Default)]
pub(crate) struct Captures(Mutex<BTreeMap<(Slot, Recorded), Arc<Capture>>>);

impl Captures {
    /// The active recording of this device and kind.
    pub(crate) fn get(&self, slot: Slot, what: Recorded) -> Option<Arc<Capture>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&(slot, what)).cloned()
    }

    /// Starts to read `pipe` in a task.
    pub(crate) fn start(self: &Arc<Self>, slot: Slot, what: Recorded, pipe: Receiver) -> Arc<Capture> {
        let capture = Arc::new(Capture::default());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((slot, what), capture.clone());
        tokio::spawn(collect(self.clone(), (slot, what), capture.clone(), pipe));
        capture
    }

    /// Removes the recordings of an unplugged device.
    pub(crate) fn remove(&self, slot: Slot) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(s, _), _| *s != slot);
    }
}

/// Reads the pipe until its writer closes it, or the client takes nothing for [`FORGOTTEN`]. Closing the pipe ends the recording.
async fn collect(captures: Arc<Captures>, key: (Slot, Recorded), capture: Arc<Capture>, mut pipe: Receiver) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = pipe.read(&mut buffer).await {
        capture
            .bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(buffer.get(..n).unwrap_or_default());
        capture.arrived.notify_one();
        let full = || capture.bytes.lock().unwrap_or_else(PoisonError::into_inner).len() > BUFFER;
        if full() && tokio::time::timeout(FORGOTTEN, capture.drained.notified()).await.is_err() {
            break;
        }
    }
    let mut captures = captures.0.lock().unwrap_or_else(PoisonError::into_inner);
    if captures.get(&key).is_some_and(|c| Arc::ptr_eq(c, &capture)) {
        captures.remove(&key);
    }
    drop(captures);
    capture.arrived.notify_one();
}
