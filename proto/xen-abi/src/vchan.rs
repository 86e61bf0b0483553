//! vchan's shared page (public/io/libxenvchan.h): two byte rings, one for each direction.

/// Offset of the left ring's counts: client → server. First what was consumed, then what was produced, each u32.
pub const LEFT: usize = 0;
/// Offset of the right ring's counts: server → client.
pub const RIGHT: usize = 8;
/// Offset of the left ring's order, u16; the right one's follows.
pub const ORDERS: usize = 16;
/// Offset of the client's state, a byte: [`EXITED`], [`CONNECTED`] or [`NOT_YET`].
pub const CLI_LIVE: usize = 20;
/// Offset of the server's state.
pub const SRV_LIVE: usize = 21;
/// Offset of what the client shall signal, a byte of [`NOTIFY_WRITE`] and [`NOTIFY_READ`]; the server sets bits, the
/// client clears them as it signals.
pub const CLI_NOTIFY: usize = 22;
/// Offset of what the server shall signal.
pub const SRV_NOTIFY: usize = 23;

/// The side has gone.
pub const EXITED: u8 = 0;
/// The side is there.
pub const CONNECTED: u8 = 1;
/// The client has not been there yet.
pub const NOT_YET: u8 = 2;
/// Our own, for the client's state: the server knows of this client. A client writes that it comes ([`CONNECTED`]) and that it goes, and
/// never looks at its own state; so one that comes after another is told from it, even if nobody saw that one go.
pub const KNOWN: u8 = 3;

/// A signal is wanted when something was written.
pub const NOTIFY_WRITE: u8 = 1;
/// A signal is wanted when something was read.
pub const NOTIFY_READ: u8 = 2;

/// Order of a ring that is in the shared page itself, at [`SMALL_AT`].
pub const SMALL_ORDER: u16 = 10;
/// Where the ring of [`SMALL_ORDER`] is.
pub const SMALL_AT: usize = 1024;
/// Order of a ring that is in the shared page itself, at [`LARGE_AT`].
pub const LARGE_ORDER: u16 = 11;
/// Where the ring of [`LARGE_ORDER`] is.
pub const LARGE_AT: usize = 2048;
