//! The saved state of the keyboard controller and its two devices.
//!
//! It leaves out counters. Times are those of the machine's clock, so that a restarted process continues them.
use super::Ps2;
use super::keyboard::{ANSWERS, Held, Keyboard, Kinds};
use super::keys::{self, Form};
use super::mouse::{Mouse, STEPS, Step};
use super::spec::{CommandByte, Status};
use bulkhead_bus::StateError;
use prost::Message as _;
use std::collections::VecDeque;

/// Version of [`Ps2State`]. Version 1 had the devices' registers in a fixed order, and one queue for each.
const VERSION: u32 = 2;
/// Most bytes of a queue, as in version 1.
const QUEUE: usize = 64;
/// Most keys that a state may have as down, or as queued: see [`Keyboard`].
const KEYS: usize = 512;

/// The complete saved state.
#[derive(Clone, PartialEq, prost::Message)]
struct Ps2State {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint32, tag = "2")]
    command_byte: u32,
    #[prost(uint32, tag = "3")]
    status: u32,
    #[prost(uint32, tag = "4")]
    output: u32,
    #[prost(uint32, tag = "5")]
    output_port: u32,
    #[prost(uint32, tag = "6")]
    pending: u32,
    /// Version 1: bytes of the keyboard, of the mouse, answers and input.
    #[prost(bytes = "vec", tag = "7")]
    old_keyboard_queue: Vec<u8>,
    #[prost(bytes = "vec", tag = "8")]
    old_mouse_queue: Vec<u8>,
    /// Version 1: pending command, enabled, set, LEDs, rate.
    #[prost(bytes = "vec", tag = "9")]
    old_keyboard: Vec<u8>,
    /// Version 1: pending command, reporting, remote, wrap, scaling, resolution, rate, kind, buttons, knock sequence.
    #[prost(bytes = "vec", tag = "10")]
    old_mouse: Vec<u8>,
    /// Which keys report their release and repeat in set 3, 32 bytes for each; empty: the power-on values.
    #[prost(bytes = "vec", tag = "11")]
    keyboard_kinds: Vec<u8>,
    /// The controller's answers: a byte, and 0x100 if the guest reads it as one of the mouse.
    #[prost(uint32, repeated, tag = "12")]
    answers: Vec<u32>,
    #[prost(message, optional, tag = "13")]
    keyboard: Option<KeyboardState>,
    #[prost(message, optional, tag = "14")]
    mouse: Option<MouseState>,
    /// When queued keys are encoded, and when the mouse's next sample is; 0: not known.
    #[prost(uint64, tag = "15")]
    keys_deadline: u64,
    #[prost(uint64, tag = "16")]
    mouse_deadline: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyboardState {
    #[prost(uint32, tag = "1")]
    pending: u32,
    #[prost(bool, tag = "2")]
    enabled: bool,
    #[prost(uint32, tag = "3")]
    set: u32,
    #[prost(uint32, tag = "4")]
    leds: u32,
    #[prost(uint32, tag = "5")]
    rate: u32,
    #[prost(bytes = "vec", tag = "6")]
    answers: Vec<u8>,
    #[prost(bytes = "vec", tag = "7")]
    input: Vec<u8>,
    /// Keys that are down: the form from bit 16 on, the key below.
    #[prost(uint32, repeated, tag = "8")]
    down: Vec<u32>,
    /// Keys that are not encoded yet: bit 16 if they were pressed.
    #[prost(uint32, repeated, tag = "9")]
    waiting: Vec<u32>,
    /// The key that repeats; 0: none. When it was pressed, and when its last code was sent.
    #[prost(uint32, tag = "10")]
    repeated: u32,
    #[prost(uint64, tag = "11")]
    since: u64,
    #[prost(uint64, tag = "12")]
    said: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MouseState {
    #[prost(uint32, tag = "1")]
    pending: u32,
    #[prost(bool, tag = "2")]
    reporting: bool,
    #[prost(bool, tag = "3")]
    remote: bool,
    #[prost(bool, tag = "4")]
    wrap: bool,
    #[prost(bool, tag = "5")]
    scaling: bool,
    #[prost(uint32, tag = "6")]
    resolution: u32,
    #[prost(uint32, tag = "7")]
    rate: u32,
    #[prost(uint32, tag = "8")]
    kind: u32,
    #[prost(uint32, tag = "9")]
    buttons: u32,
    /// The last two sample rates.
    #[prost(bytes = "vec", tag = "10")]
    knock: Vec<u8>,
    #[prost(bytes = "vec", tag = "11")]
    answers: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "12")]
    packets: Vec<Vec<u8>>,
    /// A part of the first packet has been read.
    #[prost(bool, tag = "13")]
    started: bool,
    // Movement that has not been reported.
    #[prost(sint32, tag = "14")]
    dx: i32,
    #[prost(sint32, tag = "15")]
    dy: i32,
    #[prost(sint32, tag = "16")]
    dz: i32,
    #[prost(bool, tag = "17")]
    changed: bool,
    /// Queued clicks, and the movement before each.
    #[prost(message, repeated, tag = "18")]
    steps: Vec<StepState>,
    /// The buttons that were reported last, and 1 in bit 8; 0: the current ones.
    #[prost(uint32, tag = "19")]
    reported: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StepState {
    #[prost(uint32, tag = "1")]
    buttons: u32,
    #[prost(sint32, tag = "2")]
    dx: i32,
    #[prost(sint32, tag = "3")]
    dy: i32,
    #[prost(sint32, tag = "4")]
    dz: i32,
}

fn byte(value: u32, what: &'static str) -> Result<u8, StateError> {
    u8::try_from(value).map_err(|_| StateError::Value(what))
}

fn queue(bytes: Vec<u8>) -> Result<VecDeque<u8>, StateError> {
    if bytes.len() <= QUEUE { Ok(bytes.into()) } else { Err(StateError::Value("queue")) }
}

/// The low half of a word, which must be a key with a scan code.
fn key(word: u32) -> Result<u16, StateError> {
    Some(word as u16).filter(|key| keys::code(*key).is_some()).ok_or(StateError::Value("key"))
}

impl KeyboardState {
    fn of(k: &Keyboard) -> Self {
        let (repeated, since, said) = k.typematic.unwrap_or_default();
        Self {
            repeated: u32::from(repeated),
            since,
            said,
            pending: u32::from(k.pending),
            enabled: k.enabled,
            set: u32::from(k.set),
            leds: u32::from(k.leds),
            rate: u32::from(k.rate),
            answers: k.answers.iter().copied().collect(),
            input: k.input.iter().copied().collect(),
            down: k.down.iter().map(|h| u32::from(h.form.into_bits()) << 16 | u32::from(h.key)).collect(),
            waiting: k.waiting.iter().map(|(key, down)| u32::from(*down) << 16 | u32::from(*key)).collect(),
        }
    }

    fn keyboard(self, kinds: Kinds) -> Result<Keyboard, StateError> {
        if self.down.len() > KEYS || self.waiting.len() > KEYS {
            return Err(StateError::Value("number of keys"));
        }
        let mut down: Vec<Held> = Vec::new();
        for word in self.down {
            let held = Held { key: key(word)?, form: Form::from_bits(byte(word >> 16, "key")? & 0x0f) };
            if !down.iter().any(|h| h.key == held.key) {
                down.push(held);
            }
        }
        let waiting = self.waiting.into_iter().map(|word| Ok((key(word)?, word >> 16 & 1 != 0)));
        let waiting: Result<VecDeque<_>, StateError> = waiting.collect();
        let mut k = Keyboard::new();
        k.set = Some(byte(self.set, "scan code set")?)
            .filter(|set| matches!(set, 1..=3))
            .ok_or(StateError::Value("scan code set"))?;
        k.pending = byte(self.pending, "keyboard command")?;
        k.enabled = self.enabled;
        k.leds = byte(self.leds, "lights")? & 7;
        k.rate = byte(self.rate, "repeat rate")? & 0x7f;
        k.kinds = kinds;
        k.answers = queue(self.answers)?;
        k.input = queue(self.input)?;
        k.down = down;
        k.waiting = waiting?;
        if self.repeated != 0 {
            k.typematic = Some((key(self.repeated & 0xffff)?, self.since, self.said));
        }
        Ok(k)
    }
}

impl MouseState {
    fn of(m: &Mouse) -> Self {
        Self {
            pending: u32::from(m.pending),
            reporting: m.reporting,
            remote: m.remote,
            wrap: m.wrap,
            scaling: m.scaling,
            resolution: u32::from(m.resolution),
            rate: u32::from(m.rate),
            kind: u32::from(m.kind),
            buttons: u32::from(m.buttons),
            knock: m.knock.to_vec(),
            answers: m.answers.iter().copied().collect(),
            packets: m.packets.iter().map(|p| p.iter().copied().collect()).collect(),
            started: m.started,
            dx: m.dx,
            dy: m.dy,
            dz: m.dz,
            changed: m.changed,
            steps: m
                .steps
                .iter()
                .map(|s| StepState { buttons: u32::from(s.buttons), dx: s.dx, dy: s.dy, dz: s.dz })
                .collect(),
            reported: if m.reported == m.buttons { 0 } else { 0x100 | u32::from(m.reported) },
        }
    }

    fn mouse(self) -> Result<Mouse, StateError> {
        let wrong = || StateError::Value("mouse");
        if self.packets.len() > QUEUE || self.packets.iter().any(|p| p.is_empty() || p.len() > 4) {
            return Err(wrong());
        }
        let within = |v: i32| v.clamp(-4096, 4096);
        let mut m = Mouse::new();
        m.pending = byte(self.pending, "mouse command")?;
        m.reporting = self.reporting;
        m.remote = self.remote;
        m.wrap = self.wrap;
        m.scaling = self.scaling;
        m.resolution = Some(byte(self.resolution, "mouse")?).filter(|r| *r <= 3).ok_or_else(wrong)?;
        m.rate = byte(self.rate, "mouse")?;
        m.kind = Some(byte(self.kind, "mouse")?).filter(|k| matches!(k, 0 | 3 | 4)).ok_or_else(wrong)?;
        m.buttons = byte(self.buttons, "mouse")? & 0x1f;
        m.knock = self.knock.try_into().map_err(|_| wrong())?;
        m.answers = queue(self.answers)?;
        m.started = self.started && !self.packets.is_empty();
        m.packets = self.packets.into_iter().map(VecDeque::from).collect();
        m.dx = within(self.dx);
        m.dy = within(self.dy);
        m.dz = within(self.dz);
        m.changed = self.changed;
        m.reported = if self.reported == 0 { m.buttons } else { self.reported as u8 & 0x1f };
        if self.steps.len() > STEPS {
            return Err(wrong());
        }
        for s in self.steps {
            let buttons = byte(s.buttons, "mouse")? & 0x1f;
            m.steps.push_back(Step { buttons, dx: within(s.dx), dy: within(s.dy), dz: within(s.dz) });
        }
        // Steps follow a report that is still pending.
        m.changed |= !m.steps.is_empty() || m.reported != m.buttons;
        Ok(m)
    }
}

impl Ps2State {
    /// The devices of version 1. Its queues do not separate answers from input, so all bytes keep their order.
    fn old_devices(&mut self) -> Result<(KeyboardState, MouseState), StateError> {
        let [k_pending, enabled, set, leds, rate] = *self.old_keyboard.as_slice() else {
            return Err(StateError::Value("keyboard"));
        };
        let [m_pending, reporting, remote, wrap, scaling, resolution, m_rate, kind, buttons, k0, k1] =
            *self.old_mouse.as_slice()
        else {
            return Err(StateError::Value("mouse"));
        };
        let keyboard = KeyboardState {
            pending: u32::from(k_pending),
            enabled: enabled != 0,
            set: u32::from(set),
            leds: u32::from(leds),
            rate: u32::from(rate),
            answers: std::mem::take(&mut self.old_keyboard_queue),
            ..KeyboardState::default()
        };
        let mouse = MouseState {
            pending: u32::from(m_pending),
            reporting: reporting != 0,
            remote: remote != 0,
            wrap: wrap != 0,
            scaling: scaling != 0,
            resolution: u32::from(resolution),
            rate: u32::from(m_rate),
            kind: u32::from(kind),
            buttons: u32::from(buttons),
            knock: vec![k0, k1],
            answers: std::mem::take(&mut self.old_mouse_queue),
            ..MouseState::default()
        };
        Ok((keyboard, mouse))
    }
}

impl Ps2 {
    pub(super) fn state(&self) -> Vec<u8> {
        let Self {
            byte,
            status,
            output,
            output_port,
            pending,
            answers,
            keyboard,
            mouse,
            deadlines: [keys_deadline, mouse_deadline],
            viewer: _,
            leds: _,
            dirty: _,
        } = self;
        Ps2State {
            version: VERSION,
            command_byte: u32::from(byte.into_bits()),
            status: u32::from(status.into_bits()),
            output: u32::from(*output),
            output_port: u32::from(*output_port),
            pending: u32::from(*pending),
            keyboard_kinds: keyboard.kinds.save(),
            answers: answers.iter().map(|(byte, aux)| u32::from(*byte) | u32::from(*aux) << 8).collect(),
            keyboard: Some(KeyboardState::of(keyboard)),
            mouse: Some(MouseState::of(mouse)),
            keys_deadline: *keys_deadline,
            mouse_deadline: *mouse_deadline,
            ..Ps2State::default()
        }
        .encode_to_vec()
    }

    /// A controller with this state, without input from viewers.
    pub(super) fn of_state(state: &[u8]) -> Result<Self, StateError> {
        let mut s = Ps2State::decode(state)?;
        let (keyboard, mouse) = match s.version {
            1 => s.old_devices()?,
            VERSION => (
                s.keyboard.take().ok_or(StateError::Value("keyboard"))?,
                s.mouse.take().ok_or(StateError::Value("mouse"))?,
            ),
            other => return Err(StateError::Version(other, VERSION)),
        };
        if s.answers.len() > ANSWERS {
            return Err(StateError::Value("answers"));
        }
        // The mouse's bit is valid only with a byte in the output buffer.
        let status =
            Status::from_bits(byte(s.status, "status")?).with_ibf(false).with_timeout(false).with_parity(false);
        Ok(Self {
            byte: CommandByte::from_bits(byte(s.command_byte, "command byte")? & 0x77),
            status: status.with_aux(status.obf() && status.aux()),
            output: byte(s.output, "output buffer")?,
            output_port: byte(s.output_port, "output port")?,
            pending: byte(s.pending, "pending command")?,
            answers: s.answers.iter().map(|word| (*word as u8, word & 0x100 != 0)).collect(),
            keyboard: keyboard.keyboard(Kinds::load(&s.keyboard_kinds)?)?,
            mouse: mouse.mouse()?,
            deadlines: [s.keys_deadline, s.mouse_deadline],
            ..Self::new()
        })
    }
}
