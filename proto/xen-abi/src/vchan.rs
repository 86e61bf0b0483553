//! vchan's shared page (public/io/libxenvchan.h): two byte rings, one for each direction.

/// Offset of the left ring's counts: client → server. First the consumed bytes, then the produced ones, each u32.
pub const LEFT: usize = 0;
/// Offset of the right ring's counts: server → client.
pub const RIGHT: usize = 8;
/// Offset of the left ring's order, u16; the right one's follows.
pub const ORDERS: usize = 16;
/// Offset of the client's state, a byte: [`EXITED`], [`CONNECTED`] or [`NOT_YET`].
pub const CLI_LIVE: usize = 20;
/// Offset of the server's state.
pub const SRV_LIVE: usize = 21;
/// Offset of the signals that the server requests of the client, a byte of [`NOTIFY_WRITE`] and [`NOTIFY_READ`]. The server sets
/// bits, the client clears them when it signals.
pub const CLI_NOTIFY: usize = 22;
/// Offset of the signals that the client requests of the server.
pub const SRV_NOTIFY: usize = 23;

/// The side has disconnected.
pub const EXITED: u8 = 0;
/// The side is connected.
pub const CONNECTED: u8 = 1;
/// No client has connected yet.
pub const NOT_YET: u8 = 2;
/// A value of our own for the client's state: the server has handled this client's connection. A client writes [`CONNECTED`] and
/// [`EXITED`] and never reads its own state, so the server recognises a new client even if it missed the exit of the previous one.
pub const KNOWN: u8 = 3;

/// Signal after a write.
pub const NOTIFY_WRITE: u8 = 1;
/// Signal after a read.
pub const NOTIFY_READ: u8 = 2;

/// Order of a ring that is in the shared page itself, at [`SMALL_AT`].
pub const SMALL_ORDER: u16 = 10;
/// Offset of the ring of [`SMALL_ORDER`].
pub const SMALL_AT: usize = 1024;
/// Order of a ring that is in the shared page itself, at [`LARGE_AT`].
pub const LARGE_ORDER: u16 = 11;
/// Offset of the ring of [`LARGE_ORDER`].
pub const LARGE_AT: usize = 2048;
