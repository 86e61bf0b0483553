//! Where viewers' input goes: to the keyboard controller, or to USB devices or a PV keyboard, as the guest takes it.
use bulkhead_bus::InputEvent;
use rustix::fd::OwnedFd;

/// Which input somebody takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Takes {
    places: bool,
    keys: bool,
    movement: bool,
    /// The lights of the keyboard there, as a PS/2 keyboard has them.
    lights: Option<u8>,
}

impl Takes {
    fn has(self, event: InputEvent) -> bool {
        match event {
            InputEvent::Key { .. } => self.keys,
            InputEvent::At { .. } => self.places,
            // Buttons and the wheel are the pointer's.
            InputEvent::Move { .. } | InputEvent::Button { .. } => self.places || self.movement,
            InputEvent::ViewersBegin => false,
        }
    }
}

/// A way to the guest that is open for what it takes there.
#[derive(Debug)]
pub struct Sink {
    input: OwnedFd,
    takes: OwnedFd,
    now: Takes,
}

impl Sink {
    /// `input` takes [`InputEvent`] records. `takes` gives a byte whenever the guest takes other input: bit 0 places, 1 keys, 2 movement; or other
    /// lights shine: with bit 3, bits 4 to 6 are Scroll Lock, Num Lock, Caps Lock.
    pub fn new(input: OwnedFd, takes: OwnedFd) -> Self {
        Self { input, takes, now: Takes::default() }
    }
}

/// The ways to the guest's keyboards and pointers. None of them blocks; what does not fit is lost and counted.
#[derive(Debug, Default)]
pub struct Sinks {
    ps2: Option<OwnedFd>,
    others: Vec<Sink>,
    pub(crate) sent: u64,
    pub(crate) dropped: u64,
}

impl Sinks {
    /// The first of `others` that takes an event gets it; what none takes goes to `ps2`.
    pub fn new(ps2: Option<OwnedFd>, others: Vec<Sink>) -> Self {
        Self { ps2, others, ..Self::default() }
    }

    /// Become readable when the guest takes other input.
    pub fn changes(&self) -> impl Iterator<Item = &OwnedFd> {
        self.others.iter().map(|sink| &sink.takes)
    }

    /// Looks what the guest takes: the last word counts.
    pub(crate) fn refresh(&mut self) {
        for sink in &mut self.others {
            if let Some(takes) = last_byte(&sink.takes) {
                sink.now = Takes {
                    places: takes & 1 != 0,
                    keys: takes & 2 != 0,
                    movement: takes & 4 != 0,
                    lights: (takes & 8 != 0).then_some(takes >> 4 & 7),
                };
            }
        }
    }

    /// The guest takes places of the pointer.
    pub(crate) fn places(&self) -> bool {
        // The first that takes any of the pointer's input takes all of it.
        self.others.iter().find(|s| s.now.places || s.now.movement).is_some_and(|s| s.now.places)
    }

    /// The lights of the keyboard that takes keys, if that is not `ps2` and tells them.
    pub(crate) fn lights(&self) -> Option<u8> {
        self.others.iter().find(|s| s.now.keys).and_then(|s| s.now.lights)
    }

    /// Asks what is taken and which lights shine: who began before tells only what changes.
    pub(crate) fn begin(&self) {
        for pipe in self.others.iter().map(|s| &s.input).chain(&self.ps2) {
            let _ = rustix::io::write(pipe, &InputEvent::ViewersBegin.to_bytes());
        }
    }

    /// Sends an event to where it is taken.
    pub(crate) fn send(&mut self, event: InputEvent) {
        let pipe = self.others.iter().find(|s| s.now.has(event)).map(|s| &s.input).or(self.ps2.as_ref());
        let sent = pipe.is_some_and(|pipe| rustix::io::write(pipe, &event.to_bytes()).is_ok());
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
    let scale =
        |v: usize, n: usize| v.saturating_mul(0x7fff).checked_div(n.saturating_sub(1)).unwrap_or(0).min(0x7fff) as u16;
    InputEvent::At { x: scale(x, width), y: scale(y, height) }
}
