//! Sends viewers' input to the device that the guest uses: the keyboard controller, USB devices or a PV keyboard.
use bulkhead_bus::InputEvent;
use rustix::fd::OwnedFd;

/// The kinds of input that a device accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Takes {
    places: bool,
    keys: bool,
    movement: bool,
    /// The LEDs of the device's keyboard, in a PS/2 keyboard's order.
    lights: Option<u8>,
}

impl Takes {
    fn has(self, event: InputEvent) -> bool {
        match event {
            InputEvent::Key { .. } => self.keys,
            InputEvent::At { .. } => self.places,
            // Buttons and the wheel belong to the pointer.
            InputEvent::Move { .. } | InputEvent::Button { .. } => self.places || self.movement,
            InputEvent::ViewersBegin => false,
        }
    }
}

/// A device that reports which input the guest accepts there.
#[derive(Debug)]
pub struct Sink {
    input: OwnedFd,
    takes: OwnedFd,
    now: Takes,
}

impl Sink {
    /// A sink that writes [`InputEvent`] records to `input`. `takes` returns a byte whenever the accepted input changes: bit 0
    /// absolute positions, 1 keys, 2 movement; or the LEDs: with bit 3, bits 4 to 6 are Scroll Lock, Num Lock, Caps Lock.
    pub fn new(input: OwnedFd, takes: OwnedFd) -> Self {
        Self { input, takes, now: Takes::default() }
    }
}

/// All devices for viewers' input. Their pipes are non-blocking; events that do not fit are lost and counted.
#[derive(Debug, Default)]
pub struct Sinks {
    ps2: Option<OwnedFd>,
    others: Vec<Sink>,
    pub(crate) sent: u64,
    pub(crate) dropped: u64,
}

impl Sinks {
    /// The first of `others` that accepts an event gets it; `ps2` gets the rest.
    pub fn new(ps2: Option<OwnedFd>, others: Vec<Sink>) -> Self {
        Self { ps2, others, ..Self::default() }
    }

    /// Descriptors that become readable when the accepted input changes.
    pub fn changes(&self) -> impl Iterator<Item = &OwnedFd> {
        self.others.iter().map(|sink| &sink.takes)
    }

    /// Reads which input the guest accepts; the last byte counts.
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

    /// Whether the guest accepts absolute positions.
    pub(crate) fn places(&self) -> bool {
        // The first device that accepts any pointer input gets all of it.
        self.others.iter().find(|s| s.now.places || s.now.movement).is_some_and(|s| s.now.places)
    }

    /// The LEDs of the keyboard that gets keys, if that is not `ps2` and reports them.
    pub(crate) fn lights(&self) -> Option<u8> {
        self.others.iter().find(|s| s.now.keys).and_then(|s| s.now.lights)
    }

    /// Requests the accepted input and the LEDs, because devices that started earlier report only changes.
    pub(crate) fn begin(&self) {
        for pipe in self.others.iter().map(|s| &s.input).chain(&self.ps2) {
            let _ = rustix::io::write(pipe, &InputEvent::ViewersBegin.to_bytes());
        }
    }

    /// Sends an event to the device that accepts it.
    pub(crate) fn send(&mut self, event: InputEvent) {
        let pipe = self.others.iter().find(|s| s.now.has(event)).map(|s| &s.input).or(self.ps2.as_ref());
        let sent = pipe.is_some_and(|pipe| rustix::io::write(pipe, &event.to_bytes()).is_ok());
        let counter = if sent { &mut self.sent } else { &mut self.dropped };
        *counter = counter.saturating_add(1);
    }
}

/// The last unread byte of a pipe. At most a page is read; the rest is left for the next call.
pub(crate) fn last_byte(pipe: &OwnedFd) -> Option<u8> {
    let mut bytes = [0; 4096];
    let n = rustix::io::read(pipe, &mut bytes).ok()?;
    bytes.get(..n)?.last().copied()
}

/// Scales a position in pixels on a screen of this size to 0 to 0x7fff.
pub(crate) fn place(x: usize, y: usize, (width, height): (usize, usize)) -> InputEvent {
    let scale =
        |v: usize, n: usize| v.saturating_mul(0x7fff).checked_div(n.saturating_sub(1)).unwrap_or(0).min(0x7fff) as u16;
    InputEvent::At { x: scale(x, width), y: scale(y, height) }
}
