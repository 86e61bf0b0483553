//! Viewers' input, as it comes through a pipe.
use bulkhead_bus::Context;
use bulkhead_bus::InputEvent;
use rustix::fd::OwnedFd;

/// Records that are taken before others get their turn.
const RECORDS: usize = 64;

/// What waits in a pipe. Who writes it may be hostile: what is no record is dropped.
pub(crate) fn take(pipe: &OwnedFd, cx: &mut Context) -> Vec<InputEvent> {
    let mut bytes = [0; InputEvent::LEN * RECORDS];
    // Writes of whole records are atomic, so what is read is whole records, unless the writer is hostile.
    let Ok(n) = rustix::io::read(pipe, &mut bytes) else { return Vec::new() };
    // A full buffer: there may be more, and the pipe is polled by edge.
    if n == bytes.len() {
        cx.again();
    }
    bytes.get(..n).unwrap_or_default().as_chunks().0.iter().filter_map(|r| InputEvent::from_bytes(*r)).collect()
}
