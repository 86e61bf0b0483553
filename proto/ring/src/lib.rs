//! The transport between the broker and one device process.
//!
//! Two memfds, one for each direction, each writable by one side only and sealed; two eventfds as doorbells, written
//! only if the peer has announced that it sleeps. What each area holds is in [`bulkhead_wire`].
//!
//! Rules of this crate:
//! * The peer may write anything at any time. A struct is copied out once; only the copy is read.
//! * An impossible number from the peer is [`Poison`]: the channel is dead. It is never clamped.
//! * `unsafe` is in `area.rs` alone.

#[cfg(not(loom))]
mod area;
#[cfg(not(loom))]
mod broker;
#[cfg(not(loom))]
mod device;
#[cfg(not(loom))]
mod dirty;
pub mod doorbell;
#[cfg(not(loom))]
pub mod exercise;
#[cfg(not(loom))]
mod surface;
#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(not(loom))]
pub use area::{AreaError, SharedArea};
#[cfg(not(loom))]
pub use broker::{BrokerEnd, LineState};
#[cfg(not(loom))]
pub use device::{DeviceEnd, MarkWriter, Work};
#[cfg(not(loom))]
pub use dirty::{DirtyMap, UNIT_PAGES};
#[cfg(not(loom))]
pub use surface::{Picture, SurfaceReader, SurfaceWriter};

/// The peer broke the protocol; the channel must not be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Poison {
    /// The area does not begin with the magic number.
    #[error("the shared area does not begin with the magic number")]
    Magic,
    /// The header has another protocol version or build.
    #[error("the peer is another version or build")]
    Version,
    /// A sequence number that is neither the last nor the next.
    #[error("the sequence number of cell {0} is neither the last nor the next one")]
    Sequence(usize),
    /// The count of handled posted writes exceeds that of posted ones, or has decreased.
    #[error("the count of posted writes handled is impossible")]
    PostedTail,
    /// More posted writes than the ring has room for.
    #[error("the count of posted writes is impossible")]
    PostedHead,
    /// An entry of the ring is not a valid posted write.
    #[error("the ring does not hold a posted write")]
    Posted,
    /// A cell's contents are not a request.
    #[error("cell {0} does not hold a request")]
    Request(usize),
    /// The half of the state page, or its length, is impossible.
    #[error("the state page is impossible")]
    State,
}
