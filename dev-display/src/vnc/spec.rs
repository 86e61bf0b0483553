//! Numbers of the RFB protocol: RFC 6143, and for extensions "The RFB Protocol" of the rfbproto community
//! (github.com/rfbproto/rfbproto), by section.

/// The version that the server offers (RFC 6143, 7.1.1).
pub(crate) const VERSION: &[u8; 12] = b"RFB 003.008\n";

/// Security types (RFC 6143, 7.1.2).
pub(crate) mod security {
    pub(crate) const NONE: u8 = 1;
    pub(crate) const VNC_AUTH: u8 = 2;
    /// The result (7.1.3).
    pub(crate) const OK: u32 = 0;
    pub(crate) const FAILED: u32 = 1;
}

/// Types of a client's messages (RFC 6143, 7.5; rfbproto, "Client to Server Messages").
pub(crate) mod client {
    pub(crate) const SET_PIXEL_FORMAT: u8 = 0;
    pub(crate) const SET_ENCODINGS: u8 = 2;
    pub(crate) const UPDATE_REQUEST: u8 = 3;
    pub(crate) const KEY: u8 = 4;
    pub(crate) const POINTER: u8 = 5;
    pub(crate) const CUT_TEXT: u8 = 6;
    pub(crate) const ENABLE_CONTINUOUS_UPDATES: u8 = 150;
    pub(crate) const FENCE: u8 = 248;
    pub(crate) const SET_DESKTOP_SIZE: u8 = 251;
    pub(crate) const QEMU: u8 = 255;
    /// QEMU's sub-message: a key with its scancode.
    pub(crate) const QEMU_KEY: u8 = 0;
}

/// Types of the server's messages (RFC 6143, 7.6).
pub(crate) mod server {
    pub(crate) const UPDATE: u8 = 0;
    pub(crate) const COLOUR_MAP: u8 = 1;
    pub(crate) const END_OF_CONTINUOUS_UPDATES: u8 = 150;
    pub(crate) const FENCE: u8 = 248;
}

/// Encodings (RFC 6143, 7.7) and pseudo-encodings (7.8; rfbproto, "Pseudo-encodings").
pub(crate) mod encoding {
    pub(crate) const RAW: i32 = 0;
    pub(crate) const COPY_RECT: i32 = 1;
    pub(crate) const HEXTILE: i32 = 5;
    pub(crate) const ZRLE: i32 = 16;
    pub(crate) const DESKTOP_SIZE: i32 = -223;
    pub(crate) const CURSOR: i32 = -239;
    pub(crate) const POINTER_MOTION_CHANGE: i32 = -257;
    pub(crate) const EXTENDED_KEY: i32 = -258;
    pub(crate) const LED_STATE: i32 = -261;
    pub(crate) const EXTENDED_DESKTOP_SIZE: i32 = -308;
    pub(crate) const FENCE: i32 = -312;
    pub(crate) const CONTINUOUS_UPDATES: i32 = -313;
}

/// Statuses of the answer to SetDesktopSize (rfbproto, "ExtendedDesktopSize").
pub(crate) mod size_status {
    pub(crate) const PROHIBITED: u8 = 1;
    pub(crate) const FORWARDED: u8 = 4;
}

/// A fence's flags (rfbproto, "ClientFence").
pub(crate) mod fence {
    pub(crate) const BLOCK_BEFORE: u32 = 1;
    pub(crate) const BLOCK_AFTER: u32 = 2;
    pub(crate) const SYNC_NEXT: u32 = 4;
    pub(crate) const REQUEST: u32 = 1 << 31;
    /// The longest payload.
    pub(crate) const LONGEST: usize = 64;
}
