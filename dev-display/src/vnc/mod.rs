//! A VNC server (RFC 6143) for viewers on the host. It has the read-only picture, pipes to input devices, and listening sockets; it
//! never has guest memory. It is not an emulated device, and the guest does not see it.
//!
//! | file | what |
//! |---|---|
//! | `spec.rs` | the protocol's numbers |
//! | `session.rs`, `session/` | one viewer, without its socket: handshake, messages and their effects, updates |
//! | `screen.rs` | detects changed and moved parts of the picture |
//! | `encode/`, `pixel.rs` | encodings of rectangles and pixels |
//! | `input.rs` | keys and pointer |
//! | `keys.rs`, `layouts.rs`, `locks.rs`, `typing/` | keysyms, keyboard layouts, lock keys, the keys that type a character |
//! | `auth.rs`, `admission.rs`, `strangers.rs` | passwords; who may wait for admission, and when an answer is judged |
//! | `viewer.rs`, `disconnect_log.rs` | one connection; log lines for disconnected viewers |
//!
//! The picture is read only while a viewer waits for a change; otherwise there is no timer, and the display draws nothing. The rate
//! of reads adapts: [`FAST`] while the picture changes or input arrives, down to [`SLOW`].
mod admission;
mod auth;
mod disconnect_log;
mod encode;
mod exercised;
mod input;
mod keys;
mod layouts;
mod locks;
mod pixel;
mod screen;
mod session;
mod spec;
mod strangers;
mod typing;
mod viewer;

use crate::fbdev::View;
use crate::sinks::{Sinks, last_byte};
use auth::CHALLENGE;
pub use auth::Password;
use bulkhead_bus::InputEvent;
use bulkhead_bus::{Auxiliary, Context, Inspect, PasswordError, Ready, TimerId, ViewerAddress, Viewers};
use disconnect_log::DisconnectLog;
pub use exercised::TARGET;
pub use layouts::{LAYOUTS, Layout};
use locks::Locks;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use screen::{Change, Screen};
use session::{SessionContext, ViewerError};
use std::sync::Arc;
use strangers::{Addresses, INTERVAL};
use viewer::Viewer;

/// Ready number of the epoll instance of all sockets and pipes.
pub const READY: u32 = 0;
/// Nanoseconds between two reads of the picture while it changes, and after a while without changes.
const FAST: u64 = 33_000_000;
const SLOW: u64 = 330_000_000;
/// Nanoseconds between two reads if nothing changes, not even a blinking cursor.
const IDLE: u64 = 1_000_000_000;
/// Nanoseconds from the request for a picture to the first read of it.
const FIRST: u64 = 8_000_000;
/// Reading the picture and updating viewers may take at most 1/SHARE of the time: on a slow or busy processor viewers get fewer
/// pictures, and the guest is not slowed down.
const SHARE: u64 = 24;
/// Reads without a change before the rate is halved.
const PATIENCE: u32 = 12;
/// Reads without the requested picture after which the last picture is used.
const LATE: u32 = 30;
/// Most viewers after the handshake.
const VIEWERS: usize = 16;

const LOOK: TimerId = 0;
const HANDSHAKES: TimerId = 1;
/// Connections are tried again.
const DOOR: TimerId = 2;

/// The server's configuration.
pub struct Config {
    /// The desktop name, which viewers show in their title.
    pub name: String,
    /// The keyboard layout for keysyms.
    pub layout: &'static Layout,
    /// The password that viewers need.
    pub password: Password,
}

/// Pipes to and from the guest's input devices and its display, all non-blocking.
#[derive(Debug, Default)]
pub struct Console {
    /// The devices for keys and pointer.
    pub input: Sinks,
    /// Returns a byte whenever the PS/2 keyboard's LEDs change: bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock.
    pub leds: Option<OwnedFd>,
    /// Carries viewers' requested sizes to the display: width and height, four bytes.
    pub wishes: Option<OwnedFd>,
}

/// The VNC server.
pub struct Vnc {
    view: Box<dyn View>,
    screen: Screen,
    listen: Vec<OwnedFd>,
    ready: OwnedFd,
    console: Console,
    /// The LEDs of the keyboard that gets keys, and those of the PS/2 keyboard.
    leds: Option<u8>,
    ps2_leds: Option<u8>,
    locks: Locks,
    name: Arc<str>,
    layout: &'static Layout,
    password: Password,
    /// Failed attempts to enter, and the earliest time of the next verdict on a password, in nanoseconds.
    addresses: Addresses,
    verdict_after: u64,
    wrong_passwords: u64,
    viewers: Vec<Viewer>,
    accepted: u64,
    turned_away: u64,
    pace: u64,
    still: u32,
    looks: u64,
    /// A viewer waits for a change, and the timer is set.
    looking: bool,
    /// A picture has been requested of the display.
    asked: bool,
    /// Reads since the request without a new picture.
    waited: u32,
    /// Time of the next request.
    next: u64,
    /// Time of the last copy of the picture, and nanoseconds spent on it and its updates.
    shown: u64,
    spent: u64,
    /// The copied picture is new enough to begin an update with.
    fresh: bool,
    last_end: Option<(u64, ViewerError)>,
    disconnect_log: DisconnectLog,
}

impl Vnc {
    /// A server of `view` on the non-blocking, listening sockets `listen`.
    ///
    /// # Errors
    /// The kernel cannot create another epoll instance.
    pub fn new(view: Box<dyn View>, listen: Vec<OwnedFd>, console: Console, config: Config) -> Result<Self, Errno> {
        let ready = epoll::create(CreateFlags::CLOEXEC)?;
        for socket in listen.iter().chain(&console.leds).chain(console.input.changes()) {
            epoll::add(&ready, socket, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?;
        }
        Ok(Self {
            view,
            screen: Screen::default(),
            listen,
            ready,
            console,
            leds: None,
            ps2_leds: None,
            locks: Locks::default(),
            name: config.name.into(),
            layout: config.layout,
            password: config.password,
            addresses: Addresses::default(),
            verdict_after: 0,
            wrong_passwords: 0,
            viewers: Vec::new(),
            accepted: 0,
            turned_away: 0,
            pace: FAST,
            still: 0,
            looks: 0,
            looking: false,
            asked: false,
            waited: 0,
            next: 0,
            shown: 0,
            spent: 0,
            fresh: false,
            last_end: None,
            disconnect_log: DisconnectLog::default(),
        })
    }

    /// The descriptor to poll for reading, edge-triggered, as [`READY`].
    pub fn ready(&self) -> impl AsFd {
        &self.ready
    }

    /// Reads from all viewers and sends pending updates to them.
    fn serve(&mut self, cx: &mut Context) {
        let mut events = Vec::new();
        let mut gone = Vec::new();
        let mut alone = None;
        let size = self.fresh.then(|| self.screen.size());
        let mut held: Vec<u8> = self.viewers.iter().map(|v| v.session.held()).collect();
        let mut inside = self.viewers.iter().filter(|v| v.session.handshake_done()).count();
        let judged = self.next_verdict(cx.now()).filter(|(at, _)| cx.now() >= *at).map(|(_, number)| number);
        if judged.is_some() {
            // Right or wrong: neither how soon a verdict comes nor how late the next one is may tell.
            self.verdict_after = cx.now().saturating_add(INTERVAL);
        }
        for (n, viewer) in self.viewers.iter_mut().enumerate() {
            self.leds.inspect(|leds| viewer.session.set_leds(*leds));
            viewer.session.set_absolute_pointer(self.console.input.places());
            let wish = |width: u16, height: u16| {
                let ([w0, w1], [h0, h1]) = (width.to_le_bytes(), height.to_le_bytes());
                self.console.wishes.as_ref().is_some_and(|pipe| rustix::io::write(pipe, &[w0, w1, h0, h1]).is_ok())
            };
            let mut context = SessionContext {
                needs_password: self.password != Password::None,
                now: cx.now(),
                random: &random,
                wish: &wish,
                input: &mut events,
                alone: false,
                full: inside >= VIEWERS,
                locks: &mut self.locks,
                others: held.iter().enumerate().filter(|(other, _)| *other != n).fold(0, |all, (_, h)| all | h),
            };
            let came = viewer.session.handshake_done();
            let (listened, full) = (viewer.session.processes_input(), viewer.session.output_full());
            let verdict =
                if judged == Some(viewer.number) { viewer.session.judge(&self.password, cx.now()) } else { Ok(()) };
            let received = verdict.map_err(Some).and_then(|()| viewer.receive(&mut context));
            held.iter_mut().skip(n).take(1).for_each(|h| *h = viewer.session.held());
            if !came && viewer.session.handshake_done() {
                inside = inside.saturating_add(1);
                self.addresses.entered(viewer.origin());
            }
            if context.alone {
                alone = Some(viewer.number);
            }
            let served = received.and_then(|more| Ok(viewer.send_updates(&*self.view, size)? | more));
            if served == Ok(true)
                || viewer.session.processes_input() != listened
                || viewer.session.output_full() != full
            {
                cx.again();
            }
            let end = served.err().or_else(|| viewer.session.time(cx.now()).err().map(Some));
            if let Some(why) = end {
                // Tries to send the reason.
                let _ = viewer.send();
                if let Some(why) = why {
                    self.disconnect_log.add(cx.now(), viewer.number, viewer.address, why);
                }
                let others = held.iter().enumerate().filter(|(other, _)| *other != n).fold(0, |all, (_, h)| all | h);
                viewer.session.leave(others, &mut events);
                held.iter_mut().skip(n).take(1).for_each(|h| *h = 0);
                gone.push((viewer.number, why));
            }
        }
        for (number, why) in gone {
            self.remove(number, why, cx.now());
            self.last_end = why.map(|w| (number, w)).or(self.last_end);
        }
        if let Some(one) = alone {
            let held = self.viewers.iter().find(|v| v.number == one).map_or(0, |v| v.session.held());
            for other in self.viewers.iter_mut().filter(|v| v.number != one && v.session.handshake_done()) {
                other.session.leave(held, &mut events);
            }
            self.viewers.retain(|v| v.number == one || !v.session.handshake_done());
        }
        self.type_in(&events, cx);
        self.timers(cx);
    }

    /// Reads changes of the keyboards' LEDs and of the accepted input; the last byte counts. More than a page of bytes is read the
    /// next time.
    fn lights(&mut self, now: u64) {
        self.console.input.refresh();
        self.ps2_leds = self.console.leds.as_ref().and_then(last_byte).map(|leds| leds & 7).or(self.ps2_leds);
        let leds = self.console.input.lights().or(self.ps2_leds);
        if let Some(shine) = leds.filter(|_| leds != self.leds) {
            self.leds = leds;
            self.locks.lights(shine, now);
        }
    }

    fn type_in(&mut self, events: &[InputEvent], cx: &mut Context) {
        events.iter().for_each(|event| self.console.input.send(*event));
        if !events.is_empty() {
            (self.pace, self.still) = (FAST, 0);
            // Reads the picture soon, because input often changes it.
            self.next = self.next.min(cx.now().saturating_add(FIRST)).max(self.earliest());
            if self.looking && !self.asked {
                cx.timers.set(LOOK, Some(self.next));
            }
        }
    }

    /// Sets the timers: for the picture only while a viewer waits for a change.
    fn timers(&mut self, cx: &mut Context) {
        let wanted = self.viewers.iter().any(|v| v.session.awaits_change());
        if wanted && !self.looking {
            self.asked = false;
            match cx.now() {
                now if now >= self.next => self.ask(cx),
                _ => cx.timers.set(LOOK, Some(self.next)),
            }
        } else if !wanted {
            cx.timers.set(LOOK, None);
        }
        self.looking = wanted;
        // A later request needs a newer picture.
        self.fresh &= wanted;
        let deadline = self.viewers.iter().filter_map(|v| v.session.deadline()).min();
        let verdict = self.next_verdict(cx.now()).map(|(at, _)| at);
        cx.timers.set(HANDSHAKES, deadline.into_iter().chain(verdict).min());
    }

    /// Requests a picture from the display.
    fn ask(&mut self, cx: &mut Context) {
        self.view.request_draw();
        (self.asked, self.waited) = (true, 0);
        // A viewer that reconnects at once does not cause a new picture each time.
        self.next = cx.now().saturating_add(FAST.saturating_sub(FIRST));
        cx.timers.set(LOOK, Some(cx.now().saturating_add(FIRST)));
    }

    /// The earliest time of the next picture that keeps to [`SHARE`].
    fn earliest(&self) -> u64 {
        self.shown.saturating_add(self.spent.saturating_mul(SHARE))
    }

    /// Delays the next picture according to the time spent on the last one.
    fn moderate(&mut self, cx: &mut Context) {
        if self.asked {
            return;
        }
        let earliest = self.earliest();
        if earliest > self.next {
            self.next = earliest;
            if self.looking {
                cx.timers.set(LOOK, Some(self.next));
            }
        }
    }

    /// Requests the picture, or reads it.
    fn poll_picture(&mut self, cx: &mut Context) {
        if !self.asked {
            self.ask(cx);
            return;
        }
        self.looks = self.looks.saturating_add(1);
        let (mut hurries, mut slowest) = (false, IDLE);
        let updated = self.view.update();
        if updated {
            let change = self.screen.compare(&*self.view);
            hurries = change.hurries();
            if change != Change::default() {
                slowest = SLOW;
                if self.pace > SLOW {
                    (self.pace, self.still) = (SLOW, 0);
                }
                self.viewers.iter_mut().filter(|v| v.session.handshake_done()).for_each(|v| v.session.changed(&change));
            }
        }
        if hurries {
            (self.pace, self.still) = (FAST, 0);
        } else {
            self.still = self.still.saturating_add(1);
            if self.still >= PATIENCE {
                (self.pace, self.still) = (self.pace.saturating_mul(2).min(slowest), 0);
            }
        }
        if updated && self.view.fresh() || self.waited >= LATE {
            // If the display has stopped or died, its viewers get the last picture.
            self.fresh = true;
        }
        if self.fresh {
            self.asked = false;
            // `moderate` may delay this once the time of this read and its updates is known.
            (self.shown, self.spent) = (cx.now(), 0);
            self.next = self.shown.saturating_add(self.pace.saturating_sub(FIRST));
            cx.timers.set(LOOK, Some(self.next));
        } else {
            self.waited = self.waited.saturating_add(1);
            cx.timers.set(LOOK, Some(cx.now().saturating_add(FIRST)));
        }
    }
}

/// Random bytes of the kernel.
fn random() -> Option<[u8; CHALLENGE]> {
    let mut bytes = [0; CHALLENGE];
    let n = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).ok()?;
    (n == bytes.len()).then_some(bytes)
}

impl Auxiliary for Vnc {
    fn start(&mut self, cx: &mut Context) {
        self.console.input.begin();
        self.serve(cx);
    }

    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        let begun = cx.now();
        match ready {
            Ready::Timer(LOOK) => self.poll_picture(cx),
            Ready::Timer(DOOR) => self.accept(cx),
            Ready::Timer(_) => {}
            Ready::Fd(_) | Ready::Again => {
                // The events are not evaluated, because all sockets are tried; they are fetched so that the next edge is reported.
                let mut events = Vec::with_capacity(VIEWERS.saturating_add(2));
                let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
                let _ = epoll::wait(&self.ready, rustix::buffer::spare_capacity(&mut events), Some(&now));
                self.lights(cx.now());
                self.accept(cx);
            }
        }
        self.serve(cx);
        // Time spent on input at other times does not reduce the rate of pictures.
        if ready == Ready::Timer(LOOK) {
            self.spent = self.spent.saturating_add(cx.now().saturating_sub(begun));
            self.moderate(cx);
        }
    }

    fn viewers(&mut self) -> Option<&mut dyn Viewers> {
        Some(self)
    }

    fn inspect(&self, out: &mut Inspect) {
        let (width, height) = self.screen.size();
        out.value("picture", format_args!("{width}x{height}"))
            .value("looks", self.looks)
            .value("pace, ms", self.pace.div_euclid(1_000_000));
        out.value("connections", self.accepted).value("connections turned away", self.turned_away);
        out.value("wrong passwords", self.wrong_passwords).value("addresses that failed", self.addresses.len());
        out.value("layout", self.layout.name);
        out.value("input events", self.console.input.sent).value("input events dropped", self.console.input.dropped);
        if let Some((number, why)) = self.last_end {
            out.value("last viewer disconnected", format_args!("{number}: {why}"));
        }
        for viewer in &self.viewers {
            out.group(&format!("viewer{}", viewer.number), |out| {
                out.value("address", viewer.address).value("in", viewer.session.handshake_done());
                out.value("encoding", format_args!("{:?}", viewer.session.encoding()));
                out.value("updates", viewer.session.updates).value("bytes", viewer.session.bytes);
            });
        }
    }
}

impl Viewers for Vnc {
    fn set_surface(&mut self, surface: OwnedFd) {
        self.view.renew(surface);
    }

    fn set_password(&mut self, password: &[u8]) -> Result<(), PasswordError> {
        if self.password == Password::None {
            return Err(PasswordError::Off);
        }
        self.password = Password::new(password);
        Ok(())
    }

    fn connected(&self) -> Vec<ViewerAddress> {
        self.viewers.iter().map(|v| v.address).collect()
    }
}

#[cfg(test)]
mod handshakes;
#[cfg(test)]
mod regressions;
#[cfg(test)]
mod tests;
