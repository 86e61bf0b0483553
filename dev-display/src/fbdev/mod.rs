//! The viewer of a stub domain: it writes the picture to a Linux frame buffer and reads keys and pointer from evdev. These are the
//! kernel's para-virtual front ends, whose back ends are in dom0. It is not an emulated device, and the guest does not see it.
//!
//! The rate at which it reads the picture adapts: [`FAST`] while the picture changes or input arrives, down to [`SLOW`].
mod evdev;

use crate::sinks::{Sinks, place};
use bulkhead_bus::{Auxiliary, Context, Inspect, Ready, TimerId, Viewers};
use evdev::Pointer;
use rustix::fd::OwnedFd;

/// Nanoseconds between two reads of the picture while it changes.
const FAST: u64 = 40_000_000;
/// Nanoseconds between two reads of the picture after a while without changes.
const SLOW: u64 = 320_000_000;
/// Reads without a change before the rate is halved.
const PATIENCE: u32 = 25;
/// The timer of the next read.
const LOOK: TimerId = 0;
/// Most events of one descriptor that are handled before other work.
const EVENTS: usize = 64;

/// A viewer's access to the display's picture.
pub trait View: Send {
    /// Requests the display to draw the changes.
    fn request_draw(&mut self);
    /// Copies the drawn changes. False: there are none, or the display is drawing.
    fn update(&mut self) -> bool;
    /// Switches to the surface of a restarted display. No effect if the surface cannot be mapped.
    fn renew(&mut self, surface: OwnedFd);
    /// Whether the copied picture was drawn after the last call of [`Self::request_draw`].
    fn fresh(&self) -> bool;
    /// Width and height in pixels.
    fn size(&self) -> (usize, usize);
    /// Lines that the last update changed.
    fn dirty(&self) -> &[usize];
    /// A line, four bytes a pixel: blue, green, red, unused. Empty if there is no such line.
    fn row(&self, y: usize) -> &[u8];
}

/// The output for the picture.
pub trait Screen: Send {
    /// The largest picture that it shows, in pixels.
    fn limits(&self) -> (usize, usize);
    /// Changes the visible size. False: the output does not support it.
    fn resize(&mut self, width: usize, height: usize) -> bool;
    /// Writes the beginning of line `y`.
    fn write(&mut self, y: usize, pixels: &[u8]);
}

/// Shows the surface on a frame buffer, and takes input from evdev nodes.
pub struct Fbdev {
    view: Box<dyn View>,
    screen: Box<dyn Screen>,
    events: Vec<OwnedFd>,
    input: Sinks,
    pointer: Pointer,
    shown: (usize, usize),
    pace: u64,
    still: u32,
    updates: u64,
    lines: u64,
    cropped: bool,
    /// Pointer positions are 0 to 0x7fff over the screen, not pixels.
    spread: bool,
}

impl Fbdev {
    /// A viewer of `view` on `screen`. `events` are non-blocking evdev nodes, polled as descriptors 0, 1, …; the descriptors of
    /// [`Sinks::changes`] follow.
    pub fn new(view: Box<dyn View>, screen: Box<dyn Screen>, events: Vec<OwnedFd>, input: Sinks) -> Self {
        Self {
            view,
            screen,
            events,
            input,
            pointer: Pointer::default(),
            shown: (0, 0),
            pace: FAST,
            still: 0,
            updates: 0,
            lines: 0,
            cropped: false,
            spread: false,
        }
    }

    /// Sets whether pointer positions are 0 to 0x7fff over the whole screen, instead of pixels.
    pub fn with_spread(self, spread: bool) -> Self {
        Self { spread, ..self }
    }

    /// Reads the picture once and writes its changes.
    fn copy_changes(&mut self) {
        if self.view.update() {
            self.draw();
        }
        if self.view.dirty().is_empty() {
            self.still = self.still.saturating_add(1);
            if self.still >= PATIENCE {
                self.pace = self.pace.saturating_mul(2).min(SLOW);
                self.still = 0;
            }
        } else {
            self.hurry();
        }
        self.view.request_draw();
    }

    fn hurry(&mut self) {
        (self.pace, self.still) = (FAST, 0);
    }

    fn draw(&mut self) {
        let size = self.view.size();
        let limits = self.screen.limits();
        let visible = (size.0.min(limits.0), size.1.min(limits.1));
        if size != self.shown {
            self.shown = size;
            if visible != size && !std::mem::replace(&mut self.cropped, true) {
                tracing::warn!(
                    "the guest's picture of {}x{} is larger than the frame buffer's {}x{}: its corner is shown",
                    size.0,
                    size.1,
                    limits.0,
                    limits.1
                );
            }
            // If the output cannot change its size, the picture is in the corner of a black screen.
            let resized = self.screen.resize(visible.0, visible.1);
            if self.spread {
                self.pointer.spread(if resized { visible } else { limits });
            }
            if !resized {
                let black = vec![0; limits.0.saturating_mul(4)];
                (0..limits.1).for_each(|y| self.screen.write(y, &black));
            }
        }
        self.updates = self.updates.saturating_add(1);
        for y in self.view.dirty().iter().copied().filter(|y| *y < visible.1) {
            let row = self.view.row(y);
            self.screen.write(y, row.get(..visible.0.saturating_mul(4)).unwrap_or(row));
            self.lines = self.lines.saturating_add(1);
        }
    }

    /// Reads an evdev node.
    fn take(&mut self, number: u32, cx: &mut Context) {
        let Some(fd) = self.events.get(number as usize) else { return self.input.refresh() };
        let mut bytes = [0; evdev::LEN * EVENTS];
        let Ok(n) = rustix::io::read(fd, &mut bytes) else { return };
        if n == bytes.len() {
            cx.again();
        }
        let records = bytes.get(..n).unwrap_or_default().as_chunks().0.iter();
        for record in records {
            let event = self.pointer.event(record);
            // If the guest accepts absolute positions, they are sent, and movement of the same report is redundant.
            match (event, self.pointer.place(record).filter(|_| self.input.places())) {
                (_, Some((x, y))) => self.input.send(place(x, y, self.shown)),
                (Some(event), None) => self.input.send(event),
                (None, None) => {}
            }
        }
        self.hurry();
        cx.timers.set(LOOK, Some(cx.now().saturating_add(FAST)));
    }
}

impl Auxiliary for Fbdev {
    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        match ready {
            Ready::Timer(_) => {
                self.copy_changes();
                cx.timers.set(LOOK, Some(cx.now().saturating_add(self.pace)));
            }
            Ready::Fd(number) => self.take(number, cx),
            Ready::Again => (0..=self.events.len() as u32).for_each(|number| self.take(number, cx)),
        }
    }

    fn start(&mut self, cx: &mut Context) {
        self.input.begin();
        self.hurry();
        self.view.request_draw();
        cx.timers.set(LOOK, Some(cx.now().saturating_add(FAST)));
    }

    fn viewers(&mut self) -> Option<&mut dyn Viewers> {
        Some(self)
    }

    fn inspect(&self, out: &mut Inspect) {
        let (width, height) = self.screen.limits();
        out.value("picture", format_args!("{}x{}", self.shown.0, self.shown.1))
            .value("largest", format_args!("{width}x{height}"));
        out.value("updates", self.updates)
            .value("lines", self.lines)
            .value("pace, ms", self.pace.div_euclid(1_000_000));
        out.value("input events", self.input.sent).value("input events dropped", self.input.dropped);
    }
}

impl Viewers for Fbdev {
    fn set_surface(&mut self, surface: OwnedFd) {
        self.view.renew(surface);
    }
}

#[cfg(test)]
mod tests;
