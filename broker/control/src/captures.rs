//! Captures and traces that run: what a process writes into a pipe, kept until the client asks for it.
use bulkhead_control_api::v1;
use bulkhead_control_api::v1::call::Call;
use bulkhead_plan::Slot;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Notify;

/// What a process writes.
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

/// Bytes of a capture that wait for the client that asks for them; the rest waits in the pipe, and what does not fit there is lost
/// and counted.
const BUFFER: usize = 1 << 20;
/// How long an answer is held back if nothing has come.
const PATIENCE: Duration = Duration::from_secs(1);
/// A client that has not asked for so long has gone.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// A capture that runs.
#[derive(Default)]
pub(crate) struct Capture {
    bytes: Mutex<Vec<u8>>,
    /// Something has come, or the last has.
    came: Notify,
    /// There is room again.
    taken: Notify,
}

impl Capture {
    /// Nothing waits for the client.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Waits for more, not for long; whether anything has come.
    pub(crate) async fn more(&self) -> bool {
        tokio::time::timeout(PATIENCE, self.came.notified()).await.is_ok()
    }

    /// At most `limit` of the bytes that wait, oldest first.
    pub(crate) fn take(&self, limit: usize) -> Vec<u8> {
        let bytes = {
            let mut waiting = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            let n = waiting.len().min(limit);
            waiting.drain(..n).collect()
        };
        self.taken.notify_one();
        bytes
    }
}

/// The captures that run, by device and what is recorded.
#[derive(Default)]
pub(crate) struct Captures(Mutex<BTreeMap<(Slot, Recorded), Arc<Capture>>>);

impl Captures {
    /// The capture that runs.
    pub(crate) fn get(&self, slot: Slot, what: Recorded) -> Option<Arc<Capture>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&(slot, what)).cloned()
    }

    /// Collects what comes out of `pipe` from now on.
    pub(crate) fn start(self: &Arc<Self>, slot: Slot, what: Recorded, pipe: Receiver) -> Arc<Capture> {
        let capture = Arc::new(Capture::default());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((slot, what), capture.clone());
        tokio::spawn(collect(self.clone(), (slot, what), capture.clone(), pipe));
        capture
    }

    /// The device has gone.
    pub(crate) fn remove(&self, slot: Slot) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(s, _), _| *s != slot);
    }
}

/// Takes what comes out of the pipe until nobody writes to it, or the client has gone. Closing the pipe ends the capture.
async fn collect(captures: Arc<Captures>, key: (Slot, Recorded), capture: Arc<Capture>, mut pipe: Receiver) {
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
