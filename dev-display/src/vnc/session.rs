//! One viewer: what it says and what it is told, without its socket.
mod apply;
mod handshake;
mod message;
mod update;

use super::auth::{CHALLENGE, Gate};
use super::encode::{Encoding, Zrle};
use super::input::Input;
use super::locks::Locks;
use super::pixel::PixelFormat;
use super::screen::{Damage, Moved, Rect};
use super::spec::VERSION;
use super::typing::Keyboard;
use bulkhead_bus::InputEvent;
use handshake::Version;
pub(crate) use message::check_cuts;
use message::{Message, Parsed, Tail, parse_encoding};
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes that wait to be sent; then no further rectangle is encoded.
const ENOUGH: usize = 32 << 10;
/// Bytes that wait, answers among them; then the viewer is not heard until it has taken some. An update alone is never so much.
pub(crate) const FULL: usize = 2 << 20;
/// Lines of a rectangle at most, so that what waits stays small.
const TALL: usize = 64;
/// Rectangles of an update; more become stripes of the whole picture.
const RECTANGLES: usize = 1024;
/// Bytes of a message that is not whole yet, at most. No message but its tail has more: what is cut, what encodings there are and a
/// wish's screens are read in parts.
const LONGEST: usize = 128;
/// Nanoseconds that a viewer has to come in.
pub(crate) const HANDSHAKE: u64 = 15_000_000_000;

/// Why a viewer is not served any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It breaks the protocol.
    Protocol(&'static str),
    /// It has not got the password.
    Refused,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Protocol(what) => what,
            Self::Refused => "wrong password",
        })
    }
}

/// Where in its life a viewer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Version,
    Security,
    Response([u8; CHALLENGE]),
    /// It is told at this time that its password is wrong.
    Wrong(u64),
    Init,
    /// It has come in, and is told the picture's size when that is known.
    Entering,
    Running,
}

/// What a viewer understands beside pixels.
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

/// What a session needs of the server.
pub(crate) struct Host<'a> {
    pub(crate) gate: &'a mut Gate,
    pub(crate) now: u64,
    /// Bytes nobody knows, for a challenge.
    pub(crate) random: &'a dyn Fn() -> Option<[u8; CHALLENGE]>,
    /// Passes a wish for another size on. False: nobody takes it.
    pub(crate) wish: &'a dyn Fn(u16, u16) -> bool,
    /// Takes input.
    pub(crate) input: &'a mut Vec<InputEvent>,
    /// The viewer that speaks has come in, and wants to be alone.
    pub(crate) alone: bool,
    /// No other viewer may come in.
    pub(crate) full: bool,
    /// The locks of the guest's keyboard.
    pub(crate) locks: &'a mut Locks,
    /// Modifiers that other viewers hold.
    pub(crate) others: u8,
}

impl Host<'_> {
    fn keyboard(&mut self) -> Keyboard<'_> {
        Keyboard { locks: self.locks, others: self.others, now: self.now, out: self.input }
    }
}

/// A viewer.
pub(crate) struct Session {
    phase: Phase,
    version: Version,
    /// What has come and is no whole message yet.
    received: Vec<u8>,
    /// What is still to come of a message.
    tail: Tail,
    /// The first encoding of the list that the server knows has been found.
    chosen: bool,
    output: Vec<u8>,
    sent: usize,
    format: PixelFormat,
    encoding: Encoding,
    abilities: Abilities,
    /// The size that the viewer knows.
    size: (usize, usize),
    damage: Damage,
    moved: Option<Moved>,
    /// What is left of the update that is being sent.
    rects: VecDeque<Rect>,
    /// What the next update tells: that the viewer may ask for a size, that it may send keys by their places, what the pointer looks like.
    announces: (bool, bool, bool),
    /// The viewer's wish for another size is to be answered.
    asked_size: Option<u8>,
    /// A pointer that knows places is there, and what the viewer was told of that.
    places: bool,
    told_places: Option<bool>,
    /// The keyboard's lights, if they are known, and whether the viewer knows them.
    leds: (Option<u8>, bool),
    wanted: bool,
    continuous: bool,
    input: Input,
    name: Arc<str>,
    zrle: Zrle,
    /// When it must have come in.
    pub(crate) deadline: u64,
    pub(crate) updates: u64,
    pub(crate) bytes: u64,
}

impl Session {
    pub(crate) fn new(input: Input, name: Arc<str>, now: u64) -> Self {
        Self {
            phase: Phase::Version,
            version: Version::V8,
            received: Vec::new(),
            tail: Tail::default(),
            chosen: false,
            output: VERSION.to_vec(),
            sent: 0,
            format: PixelFormat::SURFACE,
            encoding: Encoding::Raw,
            abilities: Abilities::default(),
            size: (0, 0),
            damage: Damage::default(),
            moved: None,
            rects: VecDeque::new(),
            announces: (false, false, false),
            asked_size: None,
            places: false,
            told_places: Some(false),
            leds: (None, true),
            wanted: false,
            continuous: false,
            input,
            name,
            zrle: Zrle::new(),
            deadline: now.saturating_add(HANDSHAKE),
            updates: 0,
            bytes: 0,
        }
    }

    /// Whether it has come in.
    pub(crate) fn running(&self) -> bool {
        matches!(self.phase, Phase::Entering | Phase::Running)
    }

    /// Whether it may say something: not while it has not been told the picture's size.
    pub(crate) fn listens(&self) -> bool {
        self.phase != Phase::Entering
    }

    /// So much waits for it that it is not to be heard.
    pub(crate) fn full(&self) -> bool {
        self.unsent().len() >= FULL
    }

    /// Whether it waits for a change of the picture.
    pub(crate) fn wants(&self) -> bool {
        self.running()
            && (self.wanted || self.continuous || self.phase == Phase::Entering)
            && self.rects.is_empty()
            && self.unsent().is_empty()
    }

    /// Bytes for the viewer.
    pub(crate) fn unsent(&self) -> &[u8] {
        self.output.get(self.sent..).unwrap_or_default()
    }

    /// So many of them have gone.
    pub(crate) fn went(&mut self, n: usize) {
        self.bytes = self.bytes.saturating_add(n as u64);
        self.sent = self.sent.saturating_add(n);
        if self.sent >= self.output.len() {
            self.sent = 0;
            self.output.clear();
            // What one large update needed is not kept.
            if self.output.capacity() > ENOUGH.saturating_mul(4) {
                self.output = Vec::new();
            }
        }
    }

    /// Takes what the viewer says.
    pub(crate) fn receive(&mut self, bytes: &[u8], host: &mut Host<'_>) -> Result<(), End> {
        let mut received = std::mem::take(&mut self.received);
        let all = if received.is_empty() {
            bytes
        } else {
            received.extend_from_slice(bytes);
            received.as_slice()
        };
        let mut rest = all;
        while !rest.is_empty() {
            let taken = self.step(rest, host)?;
            if taken == 0 {
                break;
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
        // While it does not listen, one read's worth at most is kept: there is no other until the viewer is told the size.
        if rest.len() >= LONGEST && self.listens() {
            return Err(End::Protocol("a message that is too long"));
        }
        self.received = rest.to_vec();
        Ok(())
    }

    /// Takes one step of the handshake, one message or what belongs to its tail; the number of its bytes, 0 if more are needed.
    fn step(&mut self, bytes: &[u8], host: &mut Host<'_>) -> Result<usize, End> {
        match (self.phase, self.tail) {
            (Phase::Running, Tail::Skipped(left)) => {
                let over = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                self.tail = match left.saturating_sub(over as u32) {
                    0 => Tail::Nothing,
                    left => Tail::Skipped(left),
                };
                Ok(over)
            }
            (Phase::Running, Tail::Encodings(left)) => take(parse_encoding(bytes), |number| {
                self.tail = if left > 1 { Tail::Encodings(left.saturating_sub(1)) } else { Tail::Nothing };
                self.understands(number);
                Ok(())
            }),
            (Phase::Running, Tail::Nothing) => take(Message::parse(bytes), |message| {
                self.tail = message.tail();
                self.apply(message, host);
                Ok(())
            }),
            // What it says before it knows the size is heard afterwards.
            (Phase::Entering, _) => Ok(0),
            (Phase::Wrong(_), _) => Ok(bytes.len()),
            (phase, _) => take(handshake::Step::parse(phase, bytes), |step| self.enter(step, host)),
        }
    }

    /// Whether the guest has a pointer that knows places.
    pub(crate) fn places(&mut self, places: bool) {
        self.places = places;
    }

    /// The keyboard's lights.
    pub(crate) fn lights(&mut self, leds: u8) {
        if self.leds.0 != Some(leds) {
            self.leds = (Some(leds), false);
        }
    }

    /// Modifiers that it holds.
    pub(crate) fn held(&self) -> u8 {
        self.input.held()
    }

    /// What the viewer holds pressed is let go, but for modifiers that others hold: it leaves.
    pub(crate) fn leave(&mut self, others: u8, input: &mut Vec<InputEvent>) {
        self.input.release(others, input);
    }

    /// For people.
    pub(crate) fn encoding(&self) -> Encoding {
        self.encoding
    }
}

/// Does what was read; the number of its bytes, 0 if more are needed.
fn take<T>(parsed: Parsed<T>, apply: impl FnOnce(T) -> Result<(), End>) -> Result<usize, End> {
    match parsed {
        Parsed::Whole(what, taken) => apply(what).map(|()| taken),
        Parsed::Partial => Ok(0),
        Parsed::Broken(why) => Err(End::Protocol(why)),
    }
}
