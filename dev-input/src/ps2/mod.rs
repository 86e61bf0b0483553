//! Keyboard controller (i8042) with a keyboard and a mouse.
mod keyboard;
mod mouse;
mod spec;
mod state;

use crate::records;
use bulkhead_bus::InputEvent;
use bulkhead_bus::{
    Access, Context, Declaration, Device, Input, Inspect, IoError, IoResult, Line, Permissions, Ready, Region, Reset,
    Shadows, StateError,
};
use keyboard::{Keyboard, Kinds};
use mouse::Mouse;
use prost::Message as _;
use rustix::fd::OwnedFd;
use spec::{CommandByte, Status, command};
use state::{Ps2State, VERSION};

/// Lines: keyboard, mouse.
const KEYBOARD: usize = 0;
const MOUSE: usize = 1;
/// Shadow of the status register.
const SHADOW_STATUS: usize = 0;

/// What the controller has.
pub fn declare() -> Declaration {
    Declaration {
        regions: vec![
            Region::ports("i8042 data", 0x60, 1),
            Region::ports("i8042 command", 0x64, 1).shadow(0, 1, SHADOW_STATUS as u8),
        ],
        lines: vec![Line::Isa(1), Line::Isa(12)],
        permissions: Permissions { reboot: true, ..Permissions::default() },
        ..Declaration::default()
    }
}

/// The controller.
pub struct Ps2 {
    byte: CommandByte,
    status: Status,
    output: u8,
    output_port: u8,
    /// The controller command whose parameter comes next.
    pending: u8,
    keyboard: Keyboard,
    mouse: Mouse,
    /// Records of a viewer's input.
    viewer: Option<OwnedFd>,
    leds: Option<Leds>,
    dirty: bool,
}

impl Default for Ps2 {
    fn default() -> Self {
        Self::new()
    }
}

/// The way to who shows the keyboard's lights.
#[derive(Debug)]
struct Leds {
    pipe: OwnedFd,
    told: Option<u8>,
}

impl Leds {
    /// Tells them, if they are others than before. Who does not read has old ones.
    fn tell(&mut self, leds: u8) {
        if self.told != Some(leds) && rustix::io::write(&self.pipe, &[leds]).is_ok() {
            self.told = Some(leds);
        }
    }
}

impl Ps2 {
    /// A controller that also takes the events of `viewer`, a pipe of [`InputEvent`] records that does not block; it is
    /// polled as descriptor 0.
    pub fn with_viewer(viewer: OwnedFd, leds: Option<OwnedFd>) -> Self {
        Self { viewer: Some(viewer), leds: leds.map(|pipe| Leds { pipe, told: None }), ..Self::new() }
    }

    /// A controller in its power-on state.
    pub fn new() -> Self {
        Self {
            byte: CommandByte::new().with_keyboard_interrupt(true).with_mouse_interrupt(true).with_translate(true),
            status: Status::new().with_system(true).with_unlocked(true),
            output: 0,
            output_port: 0xcf,
            pending: 0,
            keyboard: Keyboard::new(),
            mouse: Mouse::new(),
            viewer: None,
            leds: None,
            dirty: true,
        }
    }

    /// Puts a byte into the output buffer if it is free: the keyboard's before the mouse's.
    fn fill(&mut self) {
        if self.status.obf() {
            return;
        }
        if !self.byte.keyboard_disabled()
            && let Some(byte) = self.next_from_keyboard()
        {
            self.put(byte, false);
        } else if !self.byte.mouse_disabled()
            && let Some(byte) = self.mouse.queue.pop_front()
        {
            self.put(byte, true);
            self.mouse.report();
        }
    }

    /// With translation a release, 0xf0 and a code, becomes one byte.
    fn next_from_keyboard(&mut self) -> Option<u8> {
        let byte = self.keyboard.queue.pop_front()?;
        if !self.byte.translate() {
            return Some(byte);
        }
        let (byte, up) = match byte {
            0xf0 => (self.keyboard.queue.pop_front()?, 0x80),
            byte => (byte, 0),
        };
        let translated = match byte {
            0x83 => 0x41,
            0x84 => 0x54,
            _ => spec::TRANSLATION.get(usize::from(byte)).copied().unwrap_or(byte),
        };
        Some(translated | up)
    }

    fn put(&mut self, byte: u8, aux: bool) {
        self.output = byte;
        self.status = self.status.with_obf(true).with_aux(aux);
    }

    fn update(&mut self, cx: &mut Context) {
        self.dirty = true;
        if let Some(leds) = &mut self.leds {
            leds.tell(self.keyboard.leds);
        }
        self.fill();
        let (full, aux) = (self.status.obf(), self.status.aux());
        cx.lines.set(KEYBOARD, full && !aux && self.byte.keyboard_interrupt());
        cx.lines.set(MOUSE, full && aux && self.byte.mouse_interrupt());
    }

    fn controller(&mut self, code: u8, cx: &mut Context) {
        self.pending = 0;
        match code {
            command::READ_BYTE => self.put(self.byte.into_bits(), false),
            command::DISABLE_MOUSE => self.byte.set_mouse_disabled(true),
            command::ENABLE_MOUSE => self.byte.set_mouse_disabled(false),
            command::TEST_MOUSE | command::TEST_KEYBOARD => self.put(0, false),
            command::SELF_TEST => {
                self.status.set_system(true);
                self.put(0x55, false);
            }
            command::DISABLE_KEYBOARD => self.byte.set_keyboard_disabled(true),
            command::ENABLE_KEYBOARD => self.byte.set_keyboard_disabled(false),
            command::READ_INPUT => self.put(0x80, false),
            command::READ_OUTPUT => {
                let full = u8::from(self.status.obf());
                self.put(self.output_port & 0xcf | full << 4, false);
            }
            command::DISABLE_A20 => self.output_port &= !2,
            command::ENABLE_A20 => self.output_port |= 2,
            command::WRITE_BYTE
            | command::WRITE_OUTPUT
            | command::WRITE_KEYBOARD_BUFFER
            | command::WRITE_MOUSE_BUFFER
            | command::WRITE_MOUSE => self.pending = code,
            // A pulse of bit 0 of the output port resets the CPU.
            0xf0..=0xff if code & 1 == 0 => cx.reboot(),
            _ => {}
        }
    }

    fn data(&mut self, value: u8, cx: &mut Context) {
        match std::mem::take(&mut self.pending) {
            command::WRITE_BYTE => self.byte = CommandByte::from_bits(value & 0x77),
            command::WRITE_OUTPUT => {
                self.output_port = value;
                if value & 1 == 0 {
                    cx.reboot();
                }
            }
            command::WRITE_KEYBOARD_BUFFER => self.put(value, false),
            command::WRITE_MOUSE_BUFFER => self.put(value, true),
            command::WRITE_MOUSE => self.mouse.write(value),
            _ => {
                // Writing to the keyboard switches it on.
                self.byte.set_keyboard_disabled(false);
                self.keyboard.write(value);
            }
        }
    }
}

impl Device for Ps2 {
    fn declaration(&self) -> Declaration {
        declare()
    }

    fn read(&mut self, at: Access, cx: &mut Context) -> IoResult<u64> {
        if at.size != 1 {
            return Err(IoError::Size);
        }
        if at.region == 1 {
            return Ok(u64::from(self.status.into_bits()));
        }
        let value = self.output;
        self.status = self.status.with_obf(false).with_aux(false);
        // The line falls between two bytes, so that an edge is seen for each.
        cx.lines.set(KEYBOARD, false);
        cx.lines.set(MOUSE, false);
        self.fill();
        self.dirty = true;
        let (full, aux) = (self.status.obf(), self.status.aux());
        if full && !aux && self.byte.keyboard_interrupt() {
            cx.lines.set(KEYBOARD, true);
        }
        if full && aux && self.byte.mouse_interrupt() {
            cx.lines.set(MOUSE, true);
        }
        Ok(u64::from(value))
    }

    fn write(&mut self, at: Access, value: u64, cx: &mut Context) -> IoResult<()> {
        if at.size != 1 {
            return Err(IoError::Size);
        }
        self.status.set_command(at.region == 1);
        if at.region == 1 {
            self.controller(value as u8, cx);
        } else {
            self.data(value as u8, cx);
        }
        self.update(cx);
        Ok(())
    }

    fn poll(&mut self, _: Ready, cx: &mut Context) {
        let Some(viewer) = &self.viewer else { return };
        for event in records::take(viewer, cx) {
            self.input(event, cx);
        }
    }

    fn input_device(&mut self) -> Option<&mut dyn Input> {
        Some(self)
    }

    fn reset(&mut self, _: Reset, cx: &mut Context) {
        *self = Self { viewer: self.viewer.take(), leds: self.leds.take(), ..Self::new() };
        self.update(cx);
    }

    fn shadows(&self, out: &mut Shadows<'_>) {
        out.set(SHADOW_STATUS, Some(u32::from(self.status.into_bits())));
    }

    fn checkpoint(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.dirty).then(|| self.save())
    }

    fn save(&self) -> Vec<u8> {
        let Self { byte, status, output, output_port, pending, keyboard: k, mouse: m, viewer: _, leds: _, dirty: _ } =
            self;
        Ps2State {
            version: VERSION,
            command_byte: u32::from(byte.into_bits()),
            status: u32::from(status.into_bits()),
            output: u32::from(*output),
            output_port: u32::from(*output_port),
            pending: u32::from(*pending),
            keyboard_queue: k.queue.iter().copied().collect(),
            mouse_queue: m.queue.iter().copied().collect(),
            keyboard: vec![k.pending, u8::from(k.enabled), k.set, k.leds, k.rate],
            keyboard_kinds: k.kinds.save(),
            mouse: vec![
                m.pending,
                u8::from(m.reporting),
                u8::from(m.remote),
                u8::from(m.wrap),
                u8::from(m.scaling),
                m.resolution,
                m.rate,
                m.kind,
                m.buttons,
                m.knock[0],
                m.knock[1],
            ],
        }
        .encode_to_vec()
    }

    fn load(&mut self, state: &[u8], cx: &mut Context) -> Result<(), StateError> {
        let s = Ps2State::decode(state)?;
        if s.version != VERSION {
            return Err(StateError::Version(s.version, VERSION));
        }
        let byte = |v: u32, what| u8::try_from(v).map_err(|_| StateError::Value(what));
        if s.keyboard_queue.len() > 64 || s.mouse_queue.len() > 64 {
            return Err(StateError::Value("queue"));
        }
        let [pending, enabled, set @ 1..=3, leds, rate] = *s.keyboard.as_slice() else {
            return Err(StateError::Value("keyboard"));
        };
        let [
            m_pending,
            reporting,
            remote,
            wrap,
            scaling,
            resolution @ 0..=3,
            m_rate,
            kind @ (0 | 3 | 4),
            buttons,
            k0,
            k1,
        ] = *s.mouse.as_slice()
        else {
            return Err(StateError::Value("mouse"));
        };
        let mut keyboard = Keyboard::new();
        keyboard.queue = s.keyboard_queue.into();
        (keyboard.pending, keyboard.enabled, keyboard.set) = (pending, enabled != 0, set);
        (keyboard.leds, keyboard.rate, keyboard.kinds) = (leds & 7, rate & 0x7f, Kinds::load(&s.keyboard_kinds)?);
        let mut mouse = Mouse::new();
        mouse.queue = s.mouse_queue.into();
        (mouse.pending, mouse.resolution, mouse.rate, mouse.kind) = (m_pending, resolution, m_rate, kind);
        (mouse.reporting, mouse.remote, mouse.wrap, mouse.scaling) =
            (reporting != 0, remote != 0, wrap != 0, scaling != 0);
        (mouse.buttons, mouse.knock) = (buttons & 0x1f, [k0, k1]);
        let new = Self {
            byte: CommandByte::from_bits(byte(s.command_byte, "command byte")?),
            status: Status::from_bits(byte(s.status, "status")?),
            output: byte(s.output, "output buffer")?,
            output_port: byte(s.output_port, "output port")?,
            pending: byte(s.pending, "pending command")?,
            keyboard,
            mouse,
            viewer: None,
            leds: None,
            dirty: true,
        };
        *self = Self { viewer: self.viewer.take(), leds: self.leds.take(), ..new };
        self.update(cx);
        Ok(())
    }

    fn inspect(&self, out: &mut Inspect) {
        out.hex("command byte", self.byte.into_bits()).hex("status", self.status.into_bits());
        out.hex("output", self.output).hex("output port", self.output_port);
        out.value("keyboard set", self.keyboard.set)
            .hex("LEDs", self.keyboard.leds)
            .value("keyboard queue", self.keyboard.queue.len());
        out.value("keys dropped", self.keyboard.dropped);
        out.value("mouse kind", self.mouse.kind)
            .value("mouse reporting", self.mouse.reporting)
            .value("mouse queue", self.mouse.queue.len());
    }
}

impl Input for Ps2 {
    fn input(&mut self, event: InputEvent, cx: &mut Context) {
        match event {
            InputEvent::Key { code, down } => self.keyboard.key(code, down, cx.now()),
            InputEvent::Move { dx, dy, dz } => self.mouse.motion(dx, dy, dz),
            InputEvent::Button { button, down } => self.mouse.button(button, down),
            // A mouse knows no places.
            InputEvent::At { .. } => return,
        }
        self.update(cx);
    }
}

/// The device as its fuzz target and its corpus test know it.
pub fn exercised(_: &std::sync::Arc<bulkhead_bus::fake::FakeMemory>) -> Box<dyn Device> {
    Box::new(Ps2::new())
}

#[cfg(test)]
mod tests;
