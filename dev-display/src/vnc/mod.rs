//! The viewer of the host's people: an RFB server (RFC 6143). It holds the picture to look at, a pipe into the keyboard and sockets that
//! listen; it never holds guest memory. Not an emulated device: the guest sees nothing of it.
//!
//! | file | what |
//! |---|---|
//! | `spec.rs` | the protocol's numbers |
//! | `session.rs`, `session/` | one viewer, without its socket: how it comes in, what it says as messages, what these do, what it is told |
//! | `screen.rs` | what has changed in the picture, and what has only moved |
//! | `encode/`, `pixel.rs` | rectangles as bytes |
//! | `input.rs` | keys and pointer |
//! | `keys.rs`, `layouts.rs`, `locks.rs`, `typing/` | what a keysym means, where a layout has it, what is locked, how it is typed |
//! | `auth.rs`, `complaints.rs` | passwords; what the log says of who is sent away |
//!
//! Nobody looks at the picture without a viewer that waits for a change, so without one there is no timer and the display draws nothing.
//! How often it is looked at adapts: [`FAST`] while something changes or somebody types, down to [`SLOW`].
mod auth;
mod complaints;
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
mod typing;

use crate::fbdev::View;
use crate::sinks::{Sinks, last_byte};
pub use auth::Password;
use auth::{CHALLENGE, Gate};
use bulkhead_bus::InputEvent;
use bulkhead_bus::{Auxiliary, Context, Inspect, PasswordError, Ready, TimerId, Viewers};
use complaints::Complaints;
pub use exercised::exercise_session;
use input::Input;
pub use layouts::{LAYOUTS, Layout};
use locks::Locks;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, acceptfrom_with};
use screen::{Change, Screen};
use session::{Host, ViewerError, ViewerSession};
use std::sync::Arc;

/// The descriptor that becomes ready when any socket does.
pub const READY: u32 = 0;
/// Nanoseconds between two looks while something happens, and after a while in which nothing did.
const FAST: u64 = 33_000_000;
const SLOW: u64 = 330_000_000;
/// The same if nothing at all did, not even a cursor's blinking.
const IDLE: u64 = 1_000_000_000;
/// Nanoseconds from the wish for a picture to the first look at it.
const FIRST: u64 = 8_000_000;
/// A look, and telling viewers of it, may take one part of this many of the time: where the processor is slow or busy they see fewer
/// pictures, and the guest does not wait for them.
const SHARE: u64 = 24;
/// Looks without change before the pace is halved.
const PATIENCE: u32 = 12;
/// Looks at a picture that was asked for and is not drawn yet, before it is taken to be the last.
const LATE: u32 = 30;
/// Viewers that have come in, and beside them such as have not yet.
const VIEWERS: usize = 16;
const STRANGERS: usize = 8;
/// Connections that are taken before others get their turn.
const ACCEPTED: usize = 16;
/// Bytes that a viewer may say or be told before others get their turn.
const SAID: usize = 8 << 10;
const TOLD: usize = 512 << 10;

const LOOK: TimerId = 0;
const HANDSHAKES: TimerId = 1;

/// What a server is made of.
pub struct Config {
    /// What viewers show in their title.
    pub name: String,
    /// Where keysyms are looked up.
    pub layout: &'static Layout,
    /// Who gets in.
    pub password: Password,
}

/// The ways to the guest's keyboard and pointer, its display, and back. None of them blocks.
#[derive(Debug, Default)]
pub struct Console {
    /// Takes what is typed and pointed at.
    pub input: Sinks,
    /// Gives a byte whenever the keyboard's lights change: bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock.
    pub leds: Option<OwnedFd>,
    /// Takes viewers' wishes for another size, to the display: width and height, four bytes.
    pub wishes: Option<OwnedFd>,
}

struct Viewer {
    socket: OwnedFd,
    session: ViewerSession,
    address: String,
    number: u64,
}

/// The server.
pub struct Vnc {
    view: Box<dyn View>,
    screen: Screen,
    listen: Vec<OwnedFd>,
    ready: OwnedFd,
    console: Console,
    /// The lights of the keyboard that takes keys, and the PS/2 keyboard's.
    leds: Option<u8>,
    ps2_leds: Option<u8>,
    locks: Locks,
    name: Arc<str>,
    layout: &'static Layout,
    gate: Gate,
    viewers: Vec<Viewer>,
    accepted: u64,
    turned_away: u64,
    pace: u64,
    still: u32,
    looks: u64,
    /// A viewer waits for a change, and the timer runs.
    looking: bool,
    /// The display was asked for a picture.
    asked: bool,
    /// Looks since then without a picture that was drawn since then.
    waited: u32,
    /// When it may be asked next.
    next: u64,
    /// When the last picture was taken, and nanoseconds that were spent since.
    shown: u64,
    spent: u64,
    /// What is known of the picture is new enough for an update.
    fresh: bool,
    last_end: Option<(u64, ViewerError)>,
    complaints: Complaints,
}

impl Vnc {
    /// A server of `view` for who connects to `listen`, sockets that do not block.
    ///
    /// # Errors
    /// If the kernel has no room for another epoll instance.
    pub fn new(view: Box<dyn View>, listen: Vec<OwnedFd>, console: Console, config: Config) -> Result<Self, Errno> {
        let ready = epoll::create(CreateFlags::CLOEXEC)?;
        for socket in listen.iter().chain(&console.leds).chain(console.input.changes()) {
            epoll::add(&ready, socket, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?;
        }
        let gate = Gate::new(config.password);
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
            gate,
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
            complaints: Complaints::default(),
        })
    }

    /// Polled for reading, edge-triggered, as [`READY`].
    pub fn ready(&self) -> impl AsFd {
        &self.ready
    }

    /// Takes connections. The oldest stranger makes room for a newer one, so that who only connects keeps nobody out.
    fn accept(&mut self, cx: &mut Context) {
        let mut left = ACCEPTED;
        for i in 0..self.listen.len() {
            while let Some((socket, address)) =
                self.listen.get(i).and_then(|l| acceptfrom_with(l, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok())
            {
                self.accepted = self.accepted.saturating_add(1);
                let strangers = self.viewers.iter().filter(|v| !v.session.handshake_done()).count();
                if strangers >= STRANGERS {
                    self.turned_away = self.turned_away.saturating_add(1);
                    if let Some(oldest) = self.viewers.iter().position(|v| !v.session.handshake_done()) {
                        self.viewers.remove(oldest);
                    }
                }
                let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
                if epoll::add(&self.ready, &socket, EventData::new_u64(0), flags).is_ok() {
                    let address = address
                        .and_then(|a| std::net::SocketAddr::try_from(a).ok())
                        .map_or("unix".to_owned(), |a| a.to_string());
                    let session = ViewerSession::new(Input::new(self.layout), self.name.clone(), cx.now());
                    self.viewers.push(Viewer { socket, session, address, number: self.accepted });
                }
                left = left.saturating_sub(1);
                if left == 0 {
                    cx.again();
                    return;
                }
            }
        }
    }

    /// Everybody's turn: hears what they say, tells them what is due.
    fn serve(&mut self, cx: &mut Context) {
        let mut events = Vec::new();
        let mut gone = Vec::new();
        let mut alone = None;
        let size = self.fresh.then(|| self.screen.size());
        let mut held: Vec<u8> = self.viewers.iter().map(|v| v.session.held()).collect();
        let mut inside = self.viewers.iter().filter(|v| v.session.handshake_done()).count();
        for (n, viewer) in self.viewers.iter_mut().enumerate() {
            self.leds.inspect(|leds| viewer.session.set_leds(*leds));
            viewer.session.set_absolute_pointer(self.console.input.places());
            let wish = |width: u16, height: u16| {
                let ([w0, w1], [h0, h1]) = (width.to_le_bytes(), height.to_le_bytes());
                self.console.wishes.as_ref().is_some_and(|pipe| rustix::io::write(pipe, &[w0, w1, h0, h1]).is_ok())
            };
            let mut host = Host {
                gate: &mut self.gate,
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
            let heard = hear(viewer, &mut host);
            held.iter_mut().skip(n).take(1).for_each(|h| *h = viewer.session.held());
            inside = inside.saturating_add(usize::from(!came && viewer.session.handshake_done()));
            if host.alone {
                alone = Some(viewer.number);
            }
            let served = heard.and_then(|more| Ok(tell(viewer, &*self.view, size)? | more));
            if served == Ok(true)
                || viewer.session.processes_input() != listened
                || viewer.session.output_full() != full
            {
                cx.again();
            }
            let end = served.err().or_else(|| viewer.session.time(cx.now()).err().map(Some));
            if let Some(why) = end {
                // Why, if there is room for it.
                let _ = send(viewer);
                if let Some(why) = why {
                    self.complaints.about(cx.now(), viewer.number, &viewer.address, why);
                }
                let others = held.iter().enumerate().filter(|(other, _)| *other != n).fold(0, |all, (_, h)| all | h);
                viewer.session.leave(others, &mut events);
                held.iter_mut().skip(n).take(1).for_each(|h| *h = 0);
                gone.push((viewer.number, why));
            }
        }
        for (number, why) in gone {
            self.viewers.retain(|v| v.number != number);
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

    /// The keyboard's lights have changed, or what USB devices are for: the last word counts. Who says more than a page's worth at once waits for the next turn.
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
            // What that changes is looked for soon, not when it was going to be.
            self.next = self.next.min(cx.now().saturating_add(FIRST)).max(self.earliest());
            if self.looking && !self.asked {
                cx.timers.set(LOOK, Some(self.next));
            }
        }
    }

    /// Looks only while a viewer waits for a change.
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
        // Who asks later gets what is there later.
        self.fresh &= wanted;
        let deadline = self.viewers.iter().filter(|v| !v.session.handshake_done()).map(|v| v.session.deadline).min();
        cx.timers.set(HANDSHAKES, deadline);
    }

    /// Asks the display for the picture.
    fn ask(&mut self, cx: &mut Context) {
        self.view.want();
        (self.asked, self.waited) = (true, 0);
        // Who goes and comes again at once has no picture drawn each time.
        self.next = cx.now().saturating_add(FAST.saturating_sub(FIRST));
        cx.timers.set(LOOK, Some(cx.now().saturating_add(FIRST)));
    }

    /// Before this, the next picture would take too much of the time.
    fn earliest(&self) -> u64 {
        self.shown.saturating_add(self.spent.saturating_mul(SHARE))
    }

    /// What has been spent since the last picture puts the next one off.
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

    /// Asks for the picture, or looks at it.
    fn look(&mut self, cx: &mut Context) {
        if !self.asked {
            self.ask(cx);
            return;
        }
        self.looks = self.looks.saturating_add(1);
        let (mut hurries, mut slowest) = (false, IDLE);
        let updated = self.view.update();
        if updated {
            let change = self.screen.look(&*self.view);
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
            // A display that draws no more, or dies, leaves its viewers the last picture.
            self.fresh = true;
        }
        if self.fresh {
            self.asked = false;
            // When it is known what this look and its update take, maybe later.
            (self.shown, self.spent) = (cx.now(), 0);
            self.next = self.shown.saturating_add(self.pace.saturating_sub(FIRST));
            cx.timers.set(LOOK, Some(self.next));
        } else {
            self.waited = self.waited.saturating_add(1);
            cx.timers.set(LOOK, Some(cx.now().saturating_add(FIRST)));
        }
    }
}

/// Bytes nobody can guess.
fn random() -> Option<[u8; CHALLENGE]> {
    let mut bytes = [0; CHALLENGE];
    let n = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).ok()?;
    (n == bytes.len()).then_some(bytes)
}

/// Takes what a viewer says. True: there may be more. `Err`: it has gone, or must go.
fn hear(viewer: &mut Viewer, host: &mut Host<'_>) -> Result<bool, Option<ViewerError>> {
    // What it had said before it was told the picture's size.
    viewer.session.receive(&[], host).map_err(Some)?;
    let mut bytes = [0; 4096];
    for _ in 0..SAID.div_euclid(bytes.len()) {
        // Who takes nothing is not heard: answers to what it says would pile up.
        if !viewer.session.processes_input() || viewer.session.output_full() {
            return Ok(false);
        }
        match rustix::net::recv(&viewer.socket, &mut bytes[..], RecvFlags::empty()) {
            Ok((0, _)) => return Err(None),
            Ok((n, _)) => viewer.session.receive(bytes.get(..n).unwrap_or_default(), host).map_err(Some)?,
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(_) => return Err(None),
        }
    }
    Ok(true)
}

/// Sends what waits. True: all of it has gone.
fn send(viewer: &mut Viewer) -> Result<bool, Option<ViewerError>> {
    while !viewer.session.unsent().is_empty() {
        match rustix::net::send(&viewer.socket, viewer.session.unsent(), SendFlags::NOSIGNAL) {
            Ok(n) => viewer.session.sent(n),
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(_) => return Err(None),
        }
    }
    Ok(true)
}

/// Tells a viewer what is due; `size` is the picture's, if it is new enough to begin an update with. True: more is, in another turn.
fn tell(viewer: &mut Viewer, view: &dyn View, size: Option<(usize, usize)>) -> Result<bool, Option<ViewerError>> {
    let before = viewer.session.bytes;
    while send(viewer)? {
        if viewer.session.bytes.saturating_sub(before) > TOLD as u64 {
            return Ok(true);
        }
        if !viewer.session.produce(view, size) {
            return Ok(false);
        }
        while viewer.session.produce(view, size) {}
    }
    Ok(false)
}

impl Auxiliary for Vnc {
    fn start(&mut self, cx: &mut Context) {
        self.console.input.begin();
        self.serve(cx);
    }

    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        let begun = cx.now();
        match ready {
            Ready::Timer(LOOK) => self.look(cx),
            Ready::Timer(_) => {}
            Ready::Fd(_) | Ready::Again => {
                // What has happened is looked at by trying, but must be taken for the next event to be seen.
                let mut events = Vec::with_capacity(VIEWERS.saturating_add(2));
                let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
                let _ = epoll::wait(&self.ready, rustix::buffer::spare_capacity(&mut events), Some(&now));
                self.lights(cx.now());
                self.accept(cx);
            }
        }
        self.serve(cx);
        // What somebody says at other times is no reason to show others less.
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
        out.value("wrong passwords", self.gate.refused).value("layout", self.layout.name);
        out.value("input events", self.console.input.sent).value("input events dropped", self.console.input.dropped);
        if let Some((number, why)) = self.last_end {
            out.value("last viewer sent away", format_args!("{number}: {why}"));
        }
        for viewer in &self.viewers {
            out.group(&format!("viewer{}", viewer.number), |out| {
                out.value("address", &viewer.address).value("in", viewer.session.handshake_done());
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
        if self.gate.password == Password::None {
            return Err(PasswordError::Off);
        }
        self.gate.password = Password::new(password);
        Ok(())
    }

    fn connected(&self) -> Vec<String> {
        self.viewers.iter().map(|v| v.address.clone()).collect()
    }
}

#[cfg(test)]
mod handshakes;
#[cfg(test)]
mod regressions;
#[cfg(test)]
mod tests;
