//! Where viewers' input goes: to the keyboard controller, or to USB devices, as the guest takes it.
use bulkhead_bus::plan::InputEvent;
use rustix::fd::OwnedFd;

/// Which input goes to USB devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Takes {
    places: bool,
    keys: bool,
    movement: bool,
}

/// The ways to the guest's keyboards and pointers. None of them blocks; what does not fit is lost and counted.
#[derive(Debug, Default)]
pub struct Sinks {
    ps2: Option<OwnedFd>,
    usb: Option<OwnedFd>,
    takes: Option<OwnedFd>,
    now: Takes,
    pub(crate) sent: u64,
    pub(crate) dropped: u64,
}

impl Sinks {
    /// `ps2` and `usb` take [`InputEvent`] records. `takes` gives a byte whenever the guest takes other input from USB: bit 0 places, 1
    /// keys, 2 movement; the rest goes to `ps2`.
    pub fn new(ps2: Option<OwnedFd>, usb: Option<OwnedFd>, takes: Option<OwnedFd>) -> Self {
        Self { ps2, usb, takes, ..Self::default() }
    }

    /// Becomes readable when the guest takes other input.
    pub fn changes(&self) -> Option<&OwnedFd> {
        self.takes.as_ref()
    }

    /// Looks what the guest takes: the last word counts.
    pub(crate) fn refresh(&mut self) {
        if let Some(takes) = self.takes.as_ref().and_then(last_byte) {
            self.now = Takes { places: takes & 1 != 0, keys: takes & 2 != 0, movement: takes & 4 != 0 };
        }
    }

    /// The guest takes places of the pointer.
    pub(crate) fn places(&self) -> bool {
        self.now.places
    }

    /// Sends an event to where it is taken.
    pub(crate) fn send(&mut self, event: InputEvent) {
        let usb = match event {
            InputEvent::Key { .. } => self.now.keys,
            InputEvent::At { .. } => self.now.places,
            // Buttons and the wheel are the pointer's.
            InputEvent::Move { .. } | InputEvent::Button { .. } => self.now.places || self.now.movement,
        };
        let pipe = if usb { &self.usb } else { &self.ps2 };
        let sent = pipe.as_ref().is_some_and(|pipe| rustix::io::write(pipe, &event.to_bytes()).is_ok());
        let counter = if sent { &mut self.sent } else { &mut self.dropped };
        *counter = counter.saturating_add(1);
    }
}

/// The last of the bytes that wait in a pipe. Who has written more than a page of them is read again the next time.
pub(crate) fn last_byte(pipe: &OwnedFd) -> Option<u8> {
    let mut bytes = [0; 4096];
    let n = rustix::io::read(pipe, &mut bytes).ok()?;
    bytes.get(..n)?.last().copied()
}

/// A place in pixels as one of 0 to 0x7fff on a screen of this size.
pub(crate) fn place(x: usize, y: usize, (width, height): (usize, usize)) -> InputEvent {
    let scale = |v: usize, n: usize| v.saturating_mul(0x7fff).checked_div(n.saturating_sub(1)).unwrap_or(0).min(0x7fff) as u16;
    InputEvent::At { x: scale(x, width), y: scale(y, height) }
}
