//! One viewer's protocol state, without its socket: bytes received in, bytes to send out.
mod apply;
mod handshake;
mod message;
mod update;

use super::auth::CHALLENGE;
use super::encode::{Encoding, Zrle};
use super::input::Input;
use super::locks::Locks;
use super::pixel::PixelFormat;
use super::screen::{Damage, Moved, Rect};
use super::spec::VERSION;
use super::typing::Keyboard;
use bulkhead_bus::InputEvent;
use handshake::{HandshakeMessage, Version};
pub(crate) use message::check_cuts;
use message::{Message, Parsed, Tail, parse_encoding};
use std::collections::VecDeque;
use std::sync::Arc;
use thiserror::Error;

/// Unsent bytes from which on no further rectangle is encoded.
const ENOUGH: usize = 32 << 10;
/// Unsent bytes, answers included, from which on nothing more is read from the viewer until its send buffer drains. An update alone
/// never reaches this.
pub(crate) const FULL: usize = 2 << 20;
/// Most lines of a rectangle; it bounds the unsent bytes that one rectangle adds.
const TALL: usize = 64;
/// Most rectangles of an update. An update with more is sent as stripes of the whole picture.
const RECTANGLES: usize = 1024;
/// Most bytes of an incomplete message. No message is longer without its tail: cut text, the list of encodings and the screens of
/// SetDesktopSize are read in parts.
const LONGEST: usize = 128;
/// Nanoseconds that a viewer has for the handshake, without the wait for a verdict.
pub(crate) const HANDSHAKE: u64 = 15_000_000_000;

/// Why a viewer is disconnected. The text goes to the log and, where the handshake has room for a reason, to the viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum ViewerError {
    /// The first bytes are no RFB version.
    #[error("no RFB client")]
    NotRfb,
    /// A version before 3.3.
    #[error("unknown protocol version")]
    UnknownVersion,
    #[error("too many viewers")]
    TooManyViewers,
    #[error("a security type that was not offered")]
    SecurityType,
    #[error("the kernel gives no random bytes")]
    NoRandomBytes,
    #[error("wrong password")]
    WrongPassword,
    #[error("the handshake takes too long")]
    Timeout,
    /// A message with an incomplete head of more than [`LONGEST`] bytes.
    #[error("a message that is too long")]
    LongMessage,
    #[error("an unknown message")]
    UnknownMessage,
    /// A message of an extension that the server has not announced.
    #[error("a message that was not offered")]
    NotOffered,
    #[error("an impossible pixel format")]
    PixelFormat,
    /// A fence with more bytes than the extension allows.
    #[error("a fence that is too long")]
    LongFence,
}

/// The next protocol step of a viewer: the handshake's steps, then normal messages (RFC 6143, 7.1 to 7.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HandshakeState {
    Version,
    Security,
    Response([u8; CHALLENGE]),
    /// The challenge is answered; the server chooses the moment of the verdict, to slow guessing down. Nothing is read until then.
    Answered {
        challenge: [u8; CHALLENGE],
        answer: [u8; CHALLENGE],
        /// When the answer arrived, in nanoseconds.
        at: u64,
    },
    ClientInit,
    /// ServerInit is sent once the picture's size is known; nothing is read until then.
    AwaitingSize,
    Running,
}

/// Extensions that a viewer has announced in its list of encodings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Abilities {
    copy_rect: bool,
    desktop_size: bool,
    extended_desktop_size: bool,
    extended_key: bool,
    cursor: bool,
    led_state: bool,
    motion_change: bool,
    fence: bool,
    continuous: bool,
}

/// The pseudo-rectangles that the next update announces.
#[derive(Clone, Copy, Debug, Default)]
struct Announcements {
    extended_desktop_size: bool,
    extended_key: bool,
    /// An empty cursor: the guest's pointer is in the picture, so viewers must not show another.
    cursor: bool,
}

/// The server's state that a session reads or changes while it handles received bytes.
pub(crate) struct SessionContext<'a> {
    /// Viewers are asked for a password.
    pub(crate) needs_password: bool,
    pub(crate) now: u64,
    /// Random bytes of the kernel, for a challenge; `None` if the kernel has none.
    pub(crate) random: &'a dyn Fn() -> Option<[u8; CHALLENGE]>,
    /// Forwards a requested size, in pixels, to the display. False: the display does not accept it.
    pub(crate) wish: &'a dyn Fn(u16, u16) -> bool,
    /// Events for the guest, in order.
    pub(crate) input: &'a mut Vec<InputEvent>,
    /// Set by the session: its viewer has asked for exclusive access (ClientInit's shared flag is 0).
    pub(crate) alone: bool,
    /// The server has as many viewers as it accepts.
    pub(crate) full: bool,
    /// Caps, Num and Scroll Lock of the guest's keyboard, as far as they are known.
    pub(crate) locks: &'a mut Locks,
    /// Modifiers that other viewers hold down, as a bit mask.
    pub(crate) others: u8,
}

impl SessionContext<'_> {
    fn keyboard(&mut self) -> Keyboard<'_> {
        Keyboard { locks: self.locks, others: self.others, now: self.now, out: self.input }
    }
}

/// The protocol state of one viewer.
pub(crate) struct ViewerSession {
    handshake: HandshakeState,
    version: Version,
    /// Received bytes of an incomplete message.
    received: Vec<u8>,
    /// The rest of the last message, still to be received.
    tail: Tail,
    /// The list of encodings has named one that the server has; later ones in the list are ignored.
    encoding_chosen: bool,
    output: Vec<u8>,
    sent_bytes: usize,
    format: PixelFormat,
    encoding: Encoding,
    abilities: Abilities,
    /// The picture's size in pixels, as last sent to the viewer.
    size: (usize, usize),
    damage: Damage,
    moved: Option<Moved>,
    /// Rectangles of the current update that are not encoded yet.
    rects: VecDeque<Rect>,
    announcements: Announcements,
    /// The status with which the viewer's SetDesktopSize is to be answered.
    asked_size: Option<u8>,
    /// The guest has an absolute pointer; and the kind of pointer that was last announced to the viewer, if any.
    absolute_pointer: bool,
    announced_absolute: Option<bool>,
    /// The keyboard's LEDs, if they are known, and whether they have been sent to the viewer.
    leds: (Option<u8>, bool),
    update_requested: bool,
    continuous: bool,
    input: Input,
    name: Arc<str>,
    zrle: Zrle,
    /// When it connected, and when it last sent a message of the handshake, in nanoseconds.
    connected: u64,
    stepped: Option<u64>,
    /// When the answer to the challenge must have arrived, or ClientInit after it, in nanoseconds.
    deadline: u64,
    pub(crate) updates: u64,
    pub(crate) bytes: u64,
}

impl ViewerSession {
    pub(crate) fn new(input: Input, name: Arc<str>, now: u64) -> Self {
        Self {
            handshake: HandshakeState::Version,
            version: Version::V8,
            received: Vec::new(),
            tail: Tail::default(),
            encoding_chosen: false,
            output: VERSION.to_vec(),
            sent_bytes: 0,
            format: PixelFormat::SURFACE,
            encoding: Encoding::Raw,
            abilities: Abilities::default(),
            size: (0, 0),
            damage: Damage::default(),
            moved: None,
            rects: VecDeque::new(),
            announcements: Announcements::default(),
            asked_size: None,
            absolute_pointer: false,
            announced_absolute: Some(false),
            leds: (None, true),
            update_requested: false,
            continuous: false,
            input,
            name,
            zrle: Zrle::new(),
            connected: now,
            stepped: None,
            deadline: now.saturating_add(HANDSHAKE),
            updates: 0,
            bytes: 0,
        }
    }

    /// Whether the handshake is complete.
    pub(crate) fn handshake_done(&self) -> bool {
        matches!(self.handshake, HandshakeState::AwaitingSize | HandshakeState::Running)
    }

    /// Whether received bytes are processed: neither before the verdict on a password nor before ServerInit has been sent.
    pub(crate) fn processes_input(&self) -> bool {
        !matches!(self.handshake, HandshakeState::Answered { .. } | HandshakeState::AwaitingSize)
    }

    /// Whether so much is unsent that nothing more is read from the viewer.
    pub(crate) fn output_full(&self) -> bool {
        self.unsent().len() >= FULL
    }

    /// Whether it waits for a change of the picture, with nothing left to encode or to send.
    pub(crate) fn awaits_change(&self) -> bool {
        self.handshake_done()
            && (self.update_requested || self.continuous || self.handshake == HandshakeState::AwaitingSize)
            && self.rects.is_empty()
            && self.unsent().is_empty()
    }

    /// Bytes to send to the viewer.
    pub(crate) fn unsent(&self) -> &[u8] {
        self.output.get(self.sent_bytes..).unwrap_or_default()
    }

    /// The socket has accepted `n` of the unsent bytes.
    pub(crate) fn sent(&mut self, n: usize) {
        self.bytes = self.bytes.saturating_add(n as u64);
        self.sent_bytes = self.sent_bytes.saturating_add(n);
        if self.sent_bytes >= self.output.len() {
            self.sent_bytes = 0;
            self.output.clear();
            // The buffer of one large update is freed.
            if self.output.capacity() > ENOUGH.saturating_mul(4) {
                self.output = Vec::new();
            }
        }
    }

    /// Processes received bytes, and keeps those of an incomplete message.
    pub(crate) fn receive(&mut self, bytes: &[u8], context: &mut SessionContext<'_>) -> Result<(), ViewerError> {
        let mut received = std::mem::take(&mut self.received);
        let all = if received.is_empty() {
            bytes
        } else {
            received.extend_from_slice(bytes);
            received.as_slice()
        };
        let mut rest = all;
        while !rest.is_empty() {
            let taken = self.step(rest, context)?;
            if taken == 0 {
                break;
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
        // At such a time at most one read's worth is kept: the server does not read again until then.
        if rest.len() >= LONGEST && self.processes_input() {
            return Err(ViewerError::LongMessage);
        }
        self.received = rest.to_vec();
        Ok(())
    }

    /// Processes one step of the handshake, one message or a part of its tail. Returns the bytes consumed, 0 if more are needed.
    fn step(&mut self, bytes: &[u8], context: &mut SessionContext<'_>) -> Result<usize, ViewerError> {
        match (self.handshake, self.tail) {
            (HandshakeState::Running, Tail::Skipped(left)) => {
                let over = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                self.tail = match left.saturating_sub(over as u32) {
                    0 => Tail::Nothing,
                    left => Tail::Skipped(left),
                };
                Ok(over)
            }
            (HandshakeState::Running, Tail::Encodings(left)) => take(parse_encoding(bytes), |number| {
                self.tail = if left > 1 { Tail::Encodings(left.saturating_sub(1)) } else { Tail::Nothing };
                self.add_encoding(number);
                Ok(())
            }),
            (HandshakeState::Running, Tail::Nothing) => take(Message::parse(bytes), |message| {
                self.tail = message.tail();
                self.apply(message, context);
                Ok(())
            }),
            // Bytes that arrive before the verdict or ServerInit are processed after it.
            (HandshakeState::Answered { .. } | HandshakeState::AwaitingSize, _) => Ok(0),
            (state, _) => take(HandshakeMessage::parse(state, bytes), |message| self.enter(message, context)),
        }
    }

    /// Sets whether the guest has an absolute pointer.
    pub(crate) fn set_absolute_pointer(&mut self, absolute: bool) {
        self.absolute_pointer = absolute;
    }

    /// Sets the keyboard's LEDs: bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock.
    pub(crate) fn set_leds(&mut self, leds: u8) {
        if self.leds.0 != Some(leds) {
            self.leds = (Some(leds), false);
        }
    }

    /// Modifiers that the viewer holds down, as a bit mask.
    pub(crate) fn held(&self) -> u8 {
        self.input.held()
    }

    /// Releases all keys and buttons that the viewer holds, except modifiers that other viewers hold: it disconnects.
    pub(crate) fn leave(&mut self, others: u8, input: &mut Vec<InputEvent>) {
        self.input.release(others, input);
    }

    /// The encoding of rectangles, for `inspect`.
    pub(crate) fn encoding(&self) -> Encoding {
        self.encoding
    }
}

/// Applies a parsed value. Returns the bytes consumed, 0 if more are needed.
fn take<T>(parsed: Parsed<T>, apply: impl FnOnce(T) -> Result<(), ViewerError>) -> Result<usize, ViewerError> {
    match parsed {
        Parsed::Whole(what, taken) => apply(what).map(|()| taken),
        Parsed::Partial => Ok(0),
        Parsed::Broken(why) => Err(why),
    }
}
