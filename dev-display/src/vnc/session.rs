//! One viewer: what it says and what it is told, without its socket.
mod handshake;

use super::auth::{CHALLENGE, Gate};
use super::encode::{Encoding, Zrle, encode};
use super::input::{Input, Pointing};
use super::locks::Locks;
use super::pixel::PixelFormat;
use super::screen::{Change, Damage, Moved, Rect, block, segments};
use super::spec::{VERSION, client, encoding, fence, server, size_status};
use super::typing::Keyboard;
use crate::fbdev::View;
use bulkhead_bus::InputEvent;
use handshake::Version;
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
/// Bytes that a message can have before all of it is needed to go on: SetDesktopSize with as many screens as there can be
/// is read in parts, as is what is cut or what encodings there are.
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
    /// Bytes still to be passed over.
    skipped: u64,
    /// Encodings of a list that are still to come.
    listed: usize,
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
            skipped: 0,
            listed: 0,
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
    pub(crate) fn receive(&mut self, mut bytes: &[u8], host: &mut Host<'_>) -> Result<(), End> {
        loop {
            let skipped = self.skipped.min(bytes.len() as u64);
            self.skipped = self.skipped.saturating_sub(skipped);
            bytes = bytes.get(skipped as usize..).unwrap_or_default();
            if bytes.is_empty() && self.received.is_empty() {
                return Ok(());
            }
            if !self.listens() {
                // One read's worth at most: there is no other until it is told the size.
                self.received.extend_from_slice(bytes);
                return Ok(());
            }
            let room = LONGEST.saturating_sub(self.received.len()).min(bytes.len());
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.received.extend_from_slice(now);
            bytes = later;
            let received = std::mem::take(&mut self.received);
            let mut rest = received.as_slice();
            while self.skipped == 0 && !rest.is_empty() {
                let Some(taken) = self.message(rest, host)? else { break };
                rest = rest.get(taken..).unwrap_or_default();
            }
            let over = self.skipped.min(rest.len() as u64);
            self.skipped = self.skipped.saturating_sub(over);
            rest = rest.get(over as usize..).unwrap_or_default();
            if rest.len() >= LONGEST && self.listens() {
                return Err(End::Protocol("a message that is too long"));
            }
            let stuck = rest.len() == received.len();
            self.received = rest.to_vec();
            if bytes.is_empty() && (stuck || rest.is_empty() || self.skipped > 0) {
                return Ok(());
            }
        }
    }

    /// Takes one message; the number of its bytes, or `None` if there are not enough.
    fn message(&mut self, bytes: &[u8], host: &mut Host<'_>) -> Result<Option<usize>, End> {
        match self.phase {
            Phase::Version => self.version(bytes, host),
            Phase::Security => bytes.first().map_or(Ok(None), |chosen| self.security(*chosen, host)),
            Phase::Response(challenge) => self.response(challenge, bytes, host),
            Phase::Wrong(_) => Ok(Some(bytes.len())),
            Phase::Init => bytes.first().map_or(Ok(None), |shared| self.init(*shared, host)),
            // What it says before it knows the size is heard afterwards.
            Phase::Entering => Ok(None),
            Phase::Running if self.listed > 0 => Ok(self.listed_encoding(bytes)),
            Phase::Running => self.request(bytes, host),
        }
    }

    fn start(&mut self, size: (usize, usize)) {
        // A display that has never drawn anything.
        self.size = if size == (0, 0) { (640, 480) } else { size };
        self.damage = Damage::all(self.size.0, self.size.1);
        for n in [self.size.0, self.size.1] {
            self.output.extend_from_slice(&(n as u16).to_be_bytes());
        }
        self.output.extend_from_slice(&self.format.to_bytes());
        self.output.extend_from_slice(&(self.name.len() as u32).to_be_bytes());
        self.output.extend_from_slice(self.name.as_bytes());
        self.phase = Phase::Running;
    }

    /// A message of a viewer that has come in.
    fn request(&mut self, bytes: &[u8], host: &mut Host<'_>) -> Result<Option<usize>, End> {
        let number = |at: usize| bytes.get(at..)?.first_chunk::<2>().map(|b| u16::from_be_bytes(*b));
        let long = |at: usize| bytes.get(at..)?.first_chunk::<4>().map(|b| u32::from_be_bytes(*b));
        let byte = |at: usize| bytes.get(at).copied();
        // `None` where bytes are missing.
        let done = (|| -> Option<Result<usize, End>> {
            Some(match *bytes.first()? {
                client::SET_PIXEL_FORMAT => {
                    let format = bytes.get(4..)?.first_chunk::<16>()?;
                    match PixelFormat::from_bytes(*format) {
                        Some(format) => self.set_format(format),
                        None => return Some(Err(End::Protocol("a pixel format that cannot be"))),
                    }
                    Ok(20)
                }
                client::SET_ENCODINGS => {
                    self.listed = usize::from(number(2)?);
                    self.encoding = Encoding::Raw;
                    (self.abilities, self.chosen) = (Abilities::default(), false);
                    Ok(4)
                }
                client::UPDATE_REQUEST => {
                    let (incremental, y, height) = (byte(1)?, number(4)?, number(8)?);
                    self.wanted = true;
                    if incremental == 0 {
                        self.settle_move();
                        let all = segments(self.size.0);
                        let last = usize::from(y).saturating_add(usize::from(height)).min(self.size.1);
                        (usize::from(y)..last).for_each(|line| self.damage.add(line, all));
                    }
                    Ok(10)
                }
                client::KEY => {
                    let (down, keysym) = (byte(1)?, long(4)?);
                    self.input.keysym(keysym, down != 0, &mut host.keyboard());
                    Ok(8)
                }
                client::POINTER => {
                    let (buttons, x, y) = (byte(1)?, number(2)?, number(4)?);
                    // What a viewer has been told decides what it means.
                    let pointing = match () {
                        () if self.places => Pointing::Places(self.size),
                        () if self.abilities.motion_change && self.told_places == Some(false) => Pointing::Movement,
                        () => Pointing::Positions,
                    };
                    self.input.pointer(buttons, x, y, pointing, host.input);
                    Ok(6)
                }
                client::CUT_TEXT => {
                    // The extended clipboard's lengths are negative.
                    self.skipped = u64::from(long(4)?.cast_signed().unsigned_abs());
                    Ok(8)
                }
                client::ENABLE_CONTINUOUS_UPDATES => {
                    let on = byte(1)? != 0;
                    number(8)?;
                    if self.continuous && !on {
                        self.output.push(server::END_OF_CONTINUOUS_UPDATES);
                    }
                    self.continuous = on;
                    Ok(10)
                }
                client::FENCE => {
                    let (flags, len) = (long(4)?, usize::from(byte(8)?));
                    if len > fence::LONGEST {
                        return Some(Err(End::Protocol("a fence that is too long")));
                    }
                    let payload = bytes.get(9..9usize.saturating_add(len))?;
                    if flags & fence::REQUEST != 0 {
                        self.fence(flags & (fence::BLOCK_BEFORE | fence::BLOCK_AFTER | fence::SYNC_NEXT), payload);
                    }
                    Ok(9usize.saturating_add(len))
                }
                client::SET_DESKTOP_SIZE => {
                    let (width, height, screens) = (number(2)?, number(4)?, byte(6)?);
                    byte(7)?;
                    self.skipped = u64::from(screens).saturating_mul(16);
                    if self.abilities.extended_desktop_size {
                        // Passed on; the guest may take it when it looks.
                        let taken = screens == 1 && (host.wish)(width, height);
                        self.asked_size = Some(if taken { size_status::FORWARDED } else { size_status::PROHIBITED });
                        self.wanted = true;
                    }
                    Ok(8)
                }
                client::QEMU => {
                    if byte(1)? != client::QEMU_KEY {
                        return Some(Err(End::Protocol("a message that was not offered")));
                    }
                    let (down, keysym, scancode) = (number(2)?, long(4)?, long(8)?);
                    self.input.scancode(scancode, keysym, down != 0, &mut host.keyboard());
                    Ok(12)
                }
                _ => return Some(Err(End::Protocol("a message that is not known"))),
            })
        })();
        done.transpose()
    }

    fn set_format(&mut self, format: PixelFormat) {
        self.format = format;
        if let Some(map) = format.map() {
            self.output.extend_from_slice(&[server::COLOUR_MAP, 0, 0, 0]);
            self.output.extend_from_slice(&(map.len() as u16).to_be_bytes());
            map.iter().flatten().for_each(|level| self.output.extend_from_slice(&level.to_be_bytes()));
        }
    }

    /// One encoding of the list.
    fn listed_encoding(&mut self, bytes: &[u8]) -> Option<usize> {
        let number = i32::from_be_bytes(*bytes.first_chunk::<4>()?);
        self.listed = self.listed.saturating_sub(1);
        let can = &mut self.abilities;
        match number {
            encoding::COPY_RECT => can.copy_rect = true,
            encoding::DESKTOP_SIZE => can.desktop_size = true,
            encoding::EXTENDED_DESKTOP_SIZE if !can.extended_desktop_size => {
                can.extended_desktop_size = true;
                self.announces.0 = true;
            }
            encoding::EXTENDED_KEY if !can.extended_key => {
                can.extended_key = true;
                self.announces.1 = true;
            }
            encoding::CURSOR if !can.cursor => {
                can.cursor = true;
                self.announces.2 = true;
            }
            encoding::LED_STATE => can.led_state = true,
            encoding::POINTER_MOTION_CHANGE if !can.motion_change => {
                can.motion_change = true;
                // 0: movement is relative.
                self.told_places = None;
            }
            encoding::FENCE if !can.fence => {
                can.fence = true;
                self.fence(fence::REQUEST, &[]);
            }
            encoding::CONTINUOUS_UPDATES if !can.continuous => {
                can.continuous = true;
                self.output.push(server::END_OF_CONTINUOUS_UPDATES);
            }
            _ => {
                if let Some(encoding) = Encoding::of(number).filter(|_| !self.chosen) {
                    (self.encoding, self.chosen) = (encoding, true);
                }
            }
        }
        Some(4)
    }

    fn fence(&mut self, flags: u32, payload: &[u8]) {
        self.output.extend_from_slice(&[server::FENCE, 0, 0, 0]);
        self.output.extend_from_slice(&flags.to_be_bytes());
        self.output.push(payload.len() as u8);
        self.output.extend_from_slice(payload);
    }

    /// What has moved and was not told becomes what has changed.
    fn settle_move(&mut self) {
        if let Some(moved) = self.moved.take() {
            let all = segments(self.size.0);
            (moved.to..moved.to.saturating_add(moved.lines)).for_each(|y| self.damage.add(y, all));
        }
    }

    /// The picture has changed.
    pub(crate) fn changed(&mut self, change: &Change) {
        if change.resized {
            // Told with the next update; what the viewer knows is as large as before until then.
            self.moved = None;
            self.damage = Damage::all(self.size.0, self.size.1);
            return;
        }
        // The viewer has what has moved only if it has seen everything before.
        let current =
            self.abilities.copy_rect && self.rects.is_empty() && self.moved.is_none() && self.damage.is_empty();
        self.settle_move();
        self.moved = change.moved.filter(|_| current);
        let told = self.moved.map_or(0..0, |m| m.to..m.to.saturating_add(m.lines));
        for (y, segments) in &change.lines {
            if !told.contains(y) {
                self.damage.add(*y, *segments);
            }
        }
    }

    /// Encodes what is due; `size` is the picture's, if an update may begin. False: nothing is, or enough waits to be sent already.
    pub(crate) fn produce(&mut self, view: &dyn View, size: Option<(usize, usize)>) -> bool {
        if !self.running() || self.unsent().len() >= ENOUGH {
            return false;
        }
        if self.phase == Phase::Entering {
            size.inspect(|size| self.start(*size));
            return size.is_some();
        }
        if let Some(rect) = self.rects.pop_front() {
            self.output.extend_from_slice(&note(rect.x, rect.y, rect.width, rect.height, self.encoding.number()));
            encode(&mut self.output, self.encoding, self.format, &block(view, rect), &mut self.zrle);
            return true;
        }
        let Some(size) = size.filter(|_| (self.wanted || self.continuous) && self.unsent().is_empty()) else {
            return false;
        };
        if size != self.size && (self.abilities.desktop_size || self.abilities.extended_desktop_size) {
            self.size = size;
            self.damage = Damage::all(size.0, size.1);
            self.moved = None;
            let note = match self.abilities.extended_desktop_size {
                true => extended_size(size, 0, 0),
                false => note(0, 0, size.0, size.1, encoding::DESKTOP_SIZE),
            };
            self.update(&[note], 1);
            return true;
        }
        let mut notes = Vec::new();
        let (sizes, keys, cursor) = std::mem::take(&mut self.announces);
        notes.extend(sizes.then(|| extended_size(self.size, 0, 0)));
        notes.extend(keys.then(|| note(0, 0, 0, 0, encoding::EXTENDED_KEY)));
        // No pixels: the display has no pointer of its own, the guest's is in the picture. The viewer's need not be there too.
        notes.extend(cursor.then(|| note(0, 0, 0, 0, encoding::CURSOR)));
        if let Some(status) = self.asked_size.take() {
            // Reason 1: this viewer's wish.
            notes.push(extended_size(self.size, 1, usize::from(status)));
        }
        if self.abilities.motion_change && self.told_places != Some(self.places) {
            self.told_places = Some(self.places);
            // 1: places; 0: movement, which the viewer sends as such.
            notes.push(note(usize::from(self.places), 0, self.size.0, self.size.1, encoding::POINTER_MOTION_CHANGE));
        }
        if self.abilities.led_state && !std::mem::replace(&mut self.leds.1, true) {
            notes.push(note(0, 0, 0, 0, encoding::LED_STATE));
        }
        let mut rects = self.damage.take(0, self.size.1, self.size.0, TALL);
        if rects.len() > RECTANGLES {
            rects = Damage::all(self.size.0, self.size.1).take(0, self.size.1, self.size.0, TALL);
        }
        let moved = self.moved.take();
        let count = notes.len().saturating_add(rects.len()).saturating_add(usize::from(moved.is_some()));
        if count == 0 {
            return false;
        }
        self.update(&notes, count);
        if let Some(moved) = moved {
            self.output.extend_from_slice(&note(0, moved.to, self.size.0, moved.lines, encoding::COPY_RECT));
            self.output.extend_from_slice(&[0, 0]);
            self.output.extend_from_slice(&(moved.from as u16).to_be_bytes());
        }
        self.rects = rects.into();
        true
    }

    /// The head of an update of so many rectangles, of which the first are notes.
    fn update(&mut self, notes: &[[u8; 12]], count: usize) {
        self.wanted = false;
        self.updates = self.updates.saturating_add(1);
        self.output.extend_from_slice(&[server::UPDATE, 0]);
        self.output.extend_from_slice(&(count as u16).to_be_bytes());
        for note in notes {
            self.output.extend_from_slice(note);
            let [.., e0, e1, e2, e3] = *note;
            let encoding = i32::from_be_bytes([e0, e1, e2, e3]);
            if encoding == encoding::LED_STATE {
                self.output.push(self.leds.0.unwrap_or(0));
            }
            if encoding == encoding::EXTENDED_DESKTOP_SIZE {
                // One screen, which is all of it.
                let [.., w0, w1, h0, h1, _, _, _, _] = *note;
                self.output.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, w0, w1, h0, h1, 0, 0, 0, 0]);
            }
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

/// A rectangle's head.
fn note(x: usize, y: usize, width: usize, height: usize, encoding: i32) -> [u8; 12] {
    let mut bytes = [0; 12];
    let numbers = [x, y, width, height].map(|n| (n as u16).to_be_bytes());
    bytes.iter_mut().zip(numbers.into_iter().flatten().chain(encoding.to_be_bytes())).for_each(|(to, from)| *to = from);
    bytes
}

/// The head of ExtendedDesktopSize.
fn extended_size(size: (usize, usize), reason: usize, status: usize) -> [u8; 12] {
    note(reason, status, size.0, size.1, encoding::EXTENDED_DESKTOP_SIZE)
}
