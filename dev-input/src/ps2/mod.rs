//! Keyboard controller (i8042) with a keyboard and a mouse.
//!
//! Bytes for the guest have three sources, in this order: the controller's answers, the devices' answers, input. A byte stays in
//! the output buffer until it is read, so at most one byte of input precedes the answer to a command.
//!
//! | file | what |
//! |---|---|
//! | `spec.rs` | registers and commands |
//! | `keyboard.rs`, `keys.rs` | the keyboard; its scan codes |
//! | `mouse.rs` | the mouse |
//! | `state.rs` | the saved state |
mod exercised;
mod keyboard;
mod keys;
mod mouse;
mod spec;
mod state;

use crate::records;
use bulkhead_bus::InputEvent;
use bulkhead_bus::{
    Access, Context, Declaration, Device, Input, Inspect, IoError, IoResult, Line, Permissions, Ready, Region, Reset,
    Shadows, StateError, TimerId,
};
pub use exercised::TARGET;
use keyboard::Keyboard;
use mouse::Mouse;
use rustix::fd::OwnedFd;
use spec::{CommandByte, Status, command};
use std::collections::VecDeque;

/// Lines: keyboard, mouse.
const KEYBOARD: usize = 0;
const MOUSE: usize = 1;
/// Shadow of the status register.
const SHADOW_STATUS: usize = 0;

/// Most bytes of queued input, the output buffer included. Linux discards so many bytes before it probes for a controller; if there
/// are more, it finds no controller.
const INPUT: usize = 16;
/// Most queued answers of the controller. A real controller accepts no command before its last answer has been read.
const ANSWERS: usize = 16;
/// Input beyond the limit is encoded when the guest has read all bytes and [`MOMENT`] has passed, so that a guest which reads until
/// the buffer is empty comes to an end.
const KEYS_TIMER: TimerId = 0;
const MOUSE_TIMER: TimerId = 1;
/// Nanoseconds until queued keys are encoded.
const MOMENT: u64 = 10_000_000;
/// The longest of both times: a sample of the mouse at its lowest rate.
const LONGEST: u64 = 1_000_000_000;

/// The controller's declaration.
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

/// The keyboard controller with its keyboard and mouse.
pub struct Ps2 {
    byte: CommandByte,
    status: Status,
    output: u8,
    output_port: u8,
    /// The controller command whose parameter is expected; 0 if none is.
    pending: u8,
    /// The controller's answers, and whether the guest reads them as bytes of the mouse.
    answers: VecDeque<(u8, bool)>,
    keyboard: Keyboard,
    mouse: Mouse,
    /// Deadlines of [`KEYS_TIMER`] and [`MOUSE_TIMER`], for the saved state; 0: the timer is stopped, or an old state does not tell.
    deadlines: [u64; 2],
    /// The pipe of a viewer's input records.
    viewer: Option<OwnedFd>,
    leds: Option<Leds>,
    dirty: bool,
}

impl Default for Ps2 {
    fn default() -> Self {
        Self::new()
    }
}

/// The pipe to the viewers' process, for the keyboard's LEDs.
#[derive(Debug)]
struct Leds {
    pipe: OwnedFd,
    /// The LEDs that were sent last.
    last: Option<u8>,
}

impl Leds {
    /// Sends the LEDs if they have changed. If the pipe is full, the next call tries again.
    fn send(&mut self, leds: u8) {
        if self.last != Some(leds) && rustix::io::write(&self.pipe, &[leds]).is_ok() {
            self.last = Some(leds);
        }
    }
}

impl Ps2 {
    /// A controller that receives input from `viewer`, a non-blocking pipe of [`InputEvent`] records that is polled as descriptor
    /// 0, and sends its keyboard's LEDs to `leds`.
    pub fn with_viewer(viewer: OwnedFd, leds: Option<OwnedFd>) -> Self {
        Self { viewer: Some(viewer), leds: leds.map(|pipe| Leds { pipe, last: None }), ..Self::new() }
    }

    /// A controller in its power-on state.
    pub fn new() -> Self {
        Self {
            byte: CommandByte::new().with_keyboard_interrupt(true).with_mouse_interrupt(true).with_translate(true),
            status: Status::new().with_system(true).with_unlocked(true),
            output: 0,
            output_port: 0xcf,
            pending: 0,
            answers: VecDeque::new(),
            keyboard: Keyboard::new(),
            mouse: Mouse::new(),
            deadlines: [0; 2],
            viewer: None,
            leds: None,
            dirty: true,
        }
    }

    /// Moves a byte to the output buffer if it is free. A device whose interface is disabled keeps its bytes.
    fn fill(&mut self) {
        if self.status.obf() {
            return;
        }
        let (translate, keyboard, mouse) =
            (self.byte.translate(), !self.byte.keyboard_disabled(), !self.byte.mouse_disabled());
        if let Some((byte, aux)) = self.answers.pop_front() {
            self.put(byte, aux);
        } else if keyboard && let Some(byte) = next_from_keyboard(&mut self.keyboard.answers, translate) {
            self.put(byte, false);
        } else if mouse && let Some(byte) = self.mouse.answers.pop_front() {
            self.put(byte, true);
        } else if keyboard && let Some(byte) = next_from_keyboard(&mut self.keyboard.input, translate) {
            self.put(byte, false);
        } else if mouse && let Some(byte) = self.mouse.pop() {
            self.put(byte, true);
        }
    }

    /// Queues an answer of the controller.
    fn answer(&mut self, byte: u8, aux: bool) {
        if self.answers.len() < ANSWERS {
            self.answers.push_back((byte, aux));
        }
    }

    /// Most bytes of input at the keyboard and at the mouse. Packets at a disabled interface do not reduce the keyboard's limit:
    /// they are withdrawn if both exceed the limit when the interface is enabled again.
    fn limits(&self) -> (usize, usize) {
        let full = usize::from(self.status.obf());
        let disabled = self.byte.mouse_disabled();
        let others = full.saturating_add(if disabled { 0 } else { self.mouse.waiting() });
        let keyboard = keyboard::LIMIT.saturating_sub(full).min(INPUT.saturating_sub(others));
        let room = INPUT.saturating_sub(full).saturating_sub(self.keyboard.input.len());
        (keyboard, if disabled { 0 } else { room })
    }

    /// Enables or disables the mouse's interface.
    fn set_mouse_disabled(&mut self, disabled: bool) {
        let enabled = self.byte.mouse_disabled() && !disabled;
        self.byte.set_mouse_disabled(disabled);
        if enabled {
            if self.mouse.waiting() > self.limits().1 {
                self.mouse.withdraw();
            }
            self.mouse.report(self.limits().1);
        }
    }

    /// Sets the timers for input beyond the limit, if the output buffer is empty.
    fn schedule(&mut self, cx: &mut Context) {
        let idle = !self.status.obf();
        let mouse = self.mouse.has_report() && !self.byte.mouse_disabled();
        let [keys, pointer] = &mut self.deadlines;
        for (timer, deadline, wanted, after) in [
            (KEYS_TIMER, keys, idle && self.keyboard.can_encode(), MOMENT),
            (MOUSE_TIMER, pointer, idle && mouse, self.mouse.period()),
        ] {
            if !wanted {
                *deadline = 0;
                cx.timers.set(timer, None);
            } else if cx.timers.get(timer).is_none() {
                *deadline = cx.now().saturating_add(after);
                cx.timers.set(timer, Some(*deadline));
            }
        }
    }

    /// Continues the timers of a saved state. Its machine's clock may have been another one, so that no time is longer than it can be.
    fn take_deadlines(&mut self, saved: [u64; 2], cx: &mut Context) {
        let latest = cx.now().saturating_add(LONGEST);
        for ((timer, deadline), saved) in [KEYS_TIMER, MOUSE_TIMER].into_iter().zip(&mut self.deadlines).zip(saved) {
            if cx.timers.get(timer).is_none() {
                continue;
            }
            *deadline = saved;
            if saved != 0 {
                cx.timers.set(timer, Some(saved.min(latest)));
            }
        }
    }

    fn put(&mut self, byte: u8, aux: bool) {
        self.output = byte;
        self.status = self.status.with_obf(true).with_aux(aux);
    }

    fn update(&mut self, cx: &mut Context) {
        self.dirty = true;
        if let Some(leds) = &mut self.leds {
            leds.send(self.keyboard.leds);
        }
        self.fill();
        self.schedule(cx);
        let (full, aux) = (self.status.obf(), self.status.aux());
        cx.lines.set(KEYBOARD, full && !aux && self.byte.keyboard_interrupt());
        cx.lines.set(MOUSE, full && aux && self.byte.mouse_interrupt());
    }

    fn controller(&mut self, code: u8, cx: &mut Context) {
        self.pending = 0;
        match code {
            command::READ_BYTE => self.answer(self.byte.into_bits(), false),
            command::DISABLE_MOUSE => self.set_mouse_disabled(true),
            command::ENABLE_MOUSE => self.set_mouse_disabled(false),
            command::TEST_MOUSE | command::TEST_KEYBOARD => self.answer(0, false),
            command::SELF_TEST => {
                self.status.set_system(true);
                self.answer(0x55, false);
            }
            command::DISABLE_KEYBOARD => self.byte.set_keyboard_disabled(true),
            command::ENABLE_KEYBOARD => self.byte.set_keyboard_disabled(false),
            command::READ_INPUT => self.answer(0x80, false),
            command::READ_OUTPUT => {
                // Bits 4 and 5: the output buffer holds a byte of the keyboard's, of the mouse's.
                let (full, aux) = (self.status.obf(), self.status.aux());
                let bits = u8::from(full && !aux) << 4 | u8::from(full && aux) << 5;
                self.answer(self.output_port & 0xcf | bits, false);
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
            command::WRITE_BYTE => {
                let new = CommandByte::from_bits(value & 0x77);
                self.byte = new.with_mouse_disabled(self.byte.mouse_disabled());
                self.set_mouse_disabled(new.mouse_disabled());
            }
            command::WRITE_OUTPUT => {
                self.output_port = value;
                if value & 1 == 0 {
                    cx.reboot();
                }
            }
            command::WRITE_KEYBOARD_BUFFER => self.answer(value, false),
            command::WRITE_MOUSE_BUFFER => self.answer(value, true),
            command::WRITE_MOUSE => {
                // A write to the mouse enables its interface, as with the keyboard.
                self.set_mouse_disabled(false);
                self.mouse.write(value);
            }
            _ => {
                // A write to the keyboard enables its interface.
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
        // The line falls between two bytes, so that each has an edge.
        cx.lines.set(KEYBOARD, false);
        cx.lines.set(MOUSE, false);
        self.update(cx);
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

    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        match ready {
            Ready::Timer(KEYS_TIMER) => {
                let (limit, _) = self.limits();
                self.keyboard.refill(limit);
                self.update(cx);
            }
            Ready::Timer(_) => {
                let (_, limit) = self.limits();
                self.mouse.report(limit);
                self.update(cx);
            }
            Ready::Fd(_) | Ready::Again => {
                let Some(viewer) = &self.viewer else { return };
                for event in records::take(viewer, cx) {
                    self.input(event, cx);
                }
            }
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
        self.state()
    }

    fn load(&mut self, state: &[u8], cx: &mut Context) -> Result<(), StateError> {
        let new = Self::of_state(state)?;
        let deadlines = new.deadlines;
        *self = Self { viewer: self.viewer.take(), leds: self.leds.take(), ..new };
        for timer in [KEYS_TIMER, MOUSE_TIMER] {
            cx.timers.set(timer, None);
        }
        self.update(cx);
        self.take_deadlines(deadlines, cx);
        Ok(())
    }

    fn inspect(&self, out: &mut Inspect) {
        out.hex("command byte", self.byte.into_bits()).hex("status", self.status.into_bits());
        out.hex("output", self.output).hex("output port", self.output_port);
        out.value("keyboard set", self.keyboard.set)
            .hex("LEDs", self.keyboard.leds)
            .value("keyboard queue", self.keyboard.answers.len().saturating_add(self.keyboard.input.len()));
        out.value("keys down", self.keyboard.down.len())
            .value("keys waiting", self.keyboard.waiting.len())
            .value("keys dropped", self.keyboard.dropped);
        out.value("mouse kind", self.mouse.kind)
            .value("mouse reporting", self.mouse.reporting)
            .value("mouse queue", self.mouse.answers.len().saturating_add(self.mouse.waiting()));
    }
}

impl Input for Ps2 {
    fn input(&mut self, event: InputEvent, cx: &mut Context) {
        let (keys, packets) = self.limits();
        match event {
            InputEvent::Key { code, down } => self.keyboard.key(code, down, cx.now(), keys),
            InputEvent::Move { dx, dy, dz } => self.mouse.motion((dx, dy, dz), packets),
            InputEvent::Button { button, down } => self.mouse.button(button, down, packets),
            // A PS/2 mouse has no absolute positions.
            InputEvent::At { .. } => return,
            InputEvent::ViewersBegin => self.leds.iter_mut().for_each(|leds| leds.last = None),
        }
        self.update(cx);
    }

    fn lights(&self) -> Option<u8> {
        Some(self.keyboard.leds)
    }
}

/// The next byte for the guest. With translation, a release (0xf0 and a code) becomes one byte.
fn next_from_keyboard(queue: &mut VecDeque<u8>, translate: bool) -> Option<u8> {
    let byte = queue.pop_front()?;
    if !translate {
        return Some(byte);
    }
    let (byte, up) = match byte {
        0xf0 => (queue.pop_front()?, 0x80),
        byte => (byte, 0),
    };
    let translated = match byte {
        0x83 => 0x41,
        0x84 => 0x54,
        _ => spec::TRANSLATION.get(usize::from(byte)).copied().unwrap_or(byte),
    };
    Some(translated | up)
}

#[cfg(test)]
mod tests;
