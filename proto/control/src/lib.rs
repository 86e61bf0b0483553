//! The control plane's interface, generated from `control.proto`.

/// Package `bulkhead.control.v1`.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("bulkhead.control.v1");
}

/// Most bytes of a message, in both directions.
pub const MESSAGE_MAX: usize = 64 * 1024;
/// Most bytes of the answer to `Save`: a section of a saved machine (proto/stream), and what the message adds.
pub const STATE_MAX: usize = (320 << 10) + 64;
