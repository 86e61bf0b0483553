//! The xenstore wire protocol (public/io/xs_wire.h).
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// XS_DIRECTORY.
pub const XS_DIRECTORY: u32 = 1;
/// XS_WATCH.
pub const XS_WATCH: u32 = 4;
/// XS_WATCH_EVENT.
pub const XS_WATCH_EVENT: u32 = 15;
/// XS_READ.
pub const XS_READ: u32 = 2;
/// XS_TRANSACTION_START.
pub const XS_TRANSACTION_START: u32 = 6;
/// XS_TRANSACTION_END.
pub const XS_TRANSACTION_END: u32 = 7;
/// XS_WRITE.
pub const XS_WRITE: u32 = 11;
/// XS_ERROR.
pub const XS_ERROR: u32 = 16;
/// Most bytes of a payload.
pub const XENSTORE_PAYLOAD_MAX: usize = 4096;

/// xsd_sockmsg: a message's header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// XS_*.
    pub kind: u32,
    /// A number that the answer repeats.
    pub req_id: u32,
    /// Transaction, 0 = none.
    pub tx_id: u32,
    /// Bytes of the payload after the header.
    pub len: u32,
}

const _: () = assert!(size_of::<Header>() == 16);
