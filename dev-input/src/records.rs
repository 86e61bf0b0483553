//! Viewers' input from a pipe.
use bulkhead_bus::Context;
use bulkhead_bus::InputEvent;
use rustix::fd::OwnedFd;

/// Most records that are read before other work is handled.
const RECORDS: usize = 64;

/// Reads the records in a pipe. Its writer may be hostile: invalid records are dropped.
pub(crate) fn take(pipe: &OwnedFd, cx: &mut Context) -> Vec<InputEvent> {
    let mut bytes = [0; InputEvent::LEN * RECORDS];
    // Writes of whole records are atomic, so a read returns whole records unless the writer is hostile.
    let Ok(n) = rustix::io::read(pipe, &mut bytes) else { return Vec::new() };
    // A full buffer: there may be more, and the pipe is polled by edge.
    if n == bytes.len() {
        cx.again();
    }
    bytes.get(..n).unwrap_or_default().as_chunks().0.iter().filter_map(|r| InputEvent::from_bytes(*r)).collect()
}
