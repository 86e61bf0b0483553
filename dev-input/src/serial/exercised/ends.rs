//! The other end of the line.
use super::super::Backend;
use super::ledger::{Ledger, Shared};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Time after which the slow back end may have room.
const RETRY: Duration = Duration::from_millis(10);

pub(super) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a process at the other end has to say, and how much it can take.
#[derive(Debug, Default)]
pub(super) struct End {
    /// Bytes on the way to the guest.
    pub(super) coming: VecDeque<u8>,
    /// Only `room` bytes are accepted.
    pub(super) limited: bool,
    pub(super) room: usize,
    /// Nothing tells that there is room again.
    pub(super) slow: bool,
    pub(super) gone: bool,
}

pub(super) struct Wire(pub(super) Arc<Mutex<End>>);

impl Backend for Wire {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut end = lock(&self.0);
        if end.gone || !end.limited {
            return bytes.len();
        }
        let n = bytes.len().min(end.room);
        end.room = end.room.saturating_sub(n);
        n
    }

    fn read(&mut self, bytes: &mut [u8]) -> usize {
        let mut end = lock(&self.0);
        let n = bytes.len().min(end.coming.len());
        bytes.iter_mut().zip(end.coming.drain(..n)).for_each(|(to, from)| *to = from);
        n
    }

    fn retry(&self) -> Option<Duration> {
        let end = lock(&self.0);
        (end.slow && !end.gone && end.room == 0).then_some(RETRY)
    }
}

/// A back end whose accepted bytes are compared with the ledger.
pub(super) struct Tap {
    pub(super) inner: Box<dyn Backend>,
    pub(super) ledger: Shared,
}

impl Backend for Tap {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let n = self.inner.write(bytes);
        Ledger::of(&self.ledger).accepted(bytes.get(..n).unwrap_or_default());
        n
    }

    fn read(&mut self, bytes: &mut [u8]) -> usize {
        self.inner.read(bytes)
    }

    fn retry(&self) -> Option<Duration> {
        self.inner.retry()
    }
}
