//! A viewer's session for its fuzz target and its corpus test: what the viewer says, what its socket takes, and what changes on the
//! server's side.
mod recipes;

use super::auth::{CHALLENGE, Password};
use super::input::Input;
use super::layouts::LAYOUTS;
use super::locks::Locks;
use super::screen::Screen;
use super::session::{FULL, SessionContext, ViewerSession, check_cuts};
use crate::fbdev::View;
use bulkhead_bus::exercise::{Host, SETTINGS, Target};
use bulkhead_bus::{Auxiliary, Context, Device, InputEvent, Inspect, Ready, Unseen};
use rustix::fd::OwnedFd;

/// Most unsent bytes: the limit at which the server stops reading, and the answers to one more piece of input.
const WAITS: usize = FULL + (64 << 10);

/// Bytes of messages that an earlier piece has begun.
const LEFT: usize = 512;

/// A picture with noise or with uniform areas.
struct Picture {
    width: usize,
    height: usize,
    seed: u32,
    row: Vec<u8>,
    dirty: Vec<usize>,
}

impl Picture {
    fn draw(&mut self, seed: u8) {
        self.seed = u32::from(seed);
        self.row = (0..self.width as u32)
            .flat_map(|x| (x.wrapping_mul(self.seed) & if seed & 1 == 0 { 0xff_00ff } else { u32::MAX }).to_le_bytes())
            .collect();
        self.dirty = (0..self.height).filter(|y| seed & 2 == 0 || y & 7 == 0).collect();
    }
}

impl View for Picture {
    fn request_draw(&mut self) {}
    fn update(&mut self) -> bool {
        true
    }
    fn renew(&mut self, _: OwnedFd) {}
    fn fresh(&self) -> bool {
        true
    }
    fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }
    fn dirty(&self) -> &[usize] {
        &self.dirty
    }
    fn row(&self, y: usize) -> &[u8] {
        if y < self.height { &self.row } else { &[] }
    }
}

/// The password of sessions that need one, and every challenge.
const PASSWORD: &[u8] = b"secret";
const CHALLENGED: [u8; CHALLENGE] = [7; CHALLENGE];

/// What happens to a session.
#[repr(u8)]
enum Action {
    /// The viewer says the data.
    Say,
    /// The guest draws.
    Draw,
    /// The picture loses `value` lines.
    Shrink,
    /// The keyboard's LEDs become `value`.
    Leds,
    /// Other viewers hold the modifiers `value`.
    Others,
    /// The server has as many viewers as it accepts, or not any more.
    Full,
    /// The server judges an answer.
    Judge,
    /// The viewer's socket takes nothing, or everything again.
    Socket,
    /// So many milliseconds pass.
    Wait,
    /// Another viewer connects.
    Connect,
}
const ACTIONS: u8 = Action::Connect as u8 + 1;

/// A viewer's session under test. Setting 0: bit 0 a password, bits 1 to 3 the layout, bits 4 and 6 the picture's width.
pub static TARGET: Target = Target {
    actions: ACTIONS,
    recipes: recipes::ALL,
    ..Target::new("vnc", |stage| Box::new(Server::new(stage.settings)))
};

/// The rest of the server around a session.
struct Server {
    settings: [u8; SETTINGS],
    picture: Picture,
    screen: Screen,
    password: Password,
    session: ViewerSession,
    /// The session has ended.
    ended: bool,
    locks: Locks,
    others: u8,
    full: bool,
    blocked: bool,
    now: u64,
    wrong: Option<String>,
}

/// The session has no registers.
struct Nothing;

impl Auxiliary for Nothing {
    fn poll(&mut self, _: Ready, _: &mut Context) {}
    fn inspect(&self, _: &mut Inspect) {}
}

impl Server {
    fn new(settings: [u8; SETTINGS]) -> Self {
        let [first, ..] = settings;
        let width = 16usize << (first >> 4 & 5);
        let mut picture = Picture { width, height: 100, seed: 0, row: Vec::new(), dirty: Vec::new() };
        picture.draw(first);
        Self {
            settings,
            picture,
            screen: Screen::default(),
            password: if first & 1 == 0 { Password::None } else { Password::new(PASSWORD) },
            session: Self::session(settings, 0),
            ended: false,
            locks: Locks::default(),
            others: 0,
            full: false,
            blocked: false,
            now: 0,
            wrong: None,
        }
    }

    fn session([first, ..]: [u8; SETTINGS], now: u64) -> ViewerSession {
        let layout = LAYOUTS.iter().cycle().nth(usize::from(first >> 1 & 7));
        // There are layouts.
        let Some(layout) = layout else { std::process::abort() };
        ViewerSession::new(Input::new(layout), "fuzz".into(), now)
    }

    fn connect(&mut self) {
        self.session.leave(0, &mut Vec::new());
        self.session = Self::session(self.settings, self.now);
        self.ended = false;
    }

    /// Gives the session bytes, and a verdict if `judged`, as the server does.
    fn receive(&mut self, said: &[u8], judged: bool) -> Result<(), String> {
        check_cuts(said).map_err(|e| e.to_string())?;
        let mut input: Vec<InputEvent> = Vec::new();
        let mut context = SessionContext {
            needs_password: self.password != Password::None,
            now: self.now,
            random: &|| Some(CHALLENGED),
            wish: &|_, _| true,
            input: &mut input,
            alone: false,
            full: self.full,
            locks: &mut self.locks,
            others: self.others,
        };
        if judged
            && (self.session.judge(&self.password, self.now).is_err()
                || self.session.receive(&[], &mut context).is_err())
        {
            self.ended = true;
            return Ok(());
        }
        // Nothing is read while a verdict is awaited, or too much is unsent.
        let open = !self.session.output_full() && self.session.processes_input();
        if open && self.session.receive(said, &mut context).is_err() || self.session.time(self.now).is_err() {
            self.ended = true;
        }
        // An event takes at least six bytes; a character may need Caps Lock and a dead key, each with modifiers.
        if input.len() > said.len().saturating_add(LEFT).saturating_mul(5) {
            return Err(format!("{} events of {} bytes", input.len(), said.len()));
        }
        Ok(())
    }

    /// The session sends what it can.
    fn produce(&mut self) -> Result<(), String> {
        while self.session.produce(&self.picture, (!self.blocked).then(|| self.screen.size())) {}
        if self.session.unsent().len() > WAITS {
            return Err(format!("{} bytes wait", self.session.unsent().len()));
        }
        // The socket accepts all bytes or none.
        if !self.blocked {
            self.session.sent(self.session.unsent().len());
        }
        Ok(())
    }

    fn happens(&mut self, action: u8, value: u64, data: &[u8]) -> Result<(), String> {
        let (mut said, mut judged) = (&[][..], false);
        match action {
            a if a == Action::Say as u8 => said = data,
            a if a == Action::Draw as u8 => {
                self.picture.draw(value as u8);
                let change = self.screen.compare(&self.picture);
                self.session.changed(&change);
            }
            a if a == Action::Shrink as u8 => {
                self.picture.height = self.picture.height.saturating_sub(value as usize & 31).max(20);
                self.picture.draw(value as u8);
                let change = self.screen.compare(&self.picture);
                self.session.changed(&change);
            }
            a if a == Action::Leds as u8 => {
                self.locks.lights(value as u8 & 7, self.now);
                self.session.set_leds(value as u8 & 7);
            }
            a if a == Action::Others as u8 => self.others = value as u8,
            a if a == Action::Full as u8 => self.full = !self.full,
            a if a == Action::Judge as u8 => judged = true,
            a if a == Action::Socket as u8 => self.blocked = !self.blocked,
            a if a == Action::Wait as u8 => {
                self.now = self.now.saturating_add((value & 0xffff).saturating_mul(1_000_000));
            }
            a if a == Action::Connect as u8 => self.connect(),
            _ => {}
        }
        if self.ended {
            return Ok(());
        }
        self.now = self.now.saturating_add(1_000_000);
        self.receive(said, judged)?;
        if self.ended { Ok(()) } else { self.produce() }
    }
}

impl Host for Server {
    /// The server's process starts, or another one takes its place: the viewer connects anew.
    fn device(&mut self) -> Box<dyn Device> {
        self.connect();
        Box::new(Unseen(Nothing))
    }

    fn act(&mut self, action: u8, value: u64, data: &[u8], _: &mut dyn Device, _: &mut Context) {
        self.wrong = self.happens(action, value, data).err();
    }

    fn check(&mut self) -> Result<(), String> {
        self.wrong.take().map_or(Ok(()), Err)
    }
}
