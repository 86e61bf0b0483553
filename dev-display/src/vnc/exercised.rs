//! A viewer's session for its fuzz target and its property test.
use super::auth::{CHALLENGE, Password};
use super::input::Input;
use super::layouts::LAYOUTS;
use super::locks::Locks;
use super::screen::Screen;
use super::session::{FULL, SessionContext, ViewerSession, check_cuts};
use crate::fbdev::View;
use bulkhead_bus::InputEvent;
use rustix::fd::OwnedFd;

/// Most unsent bytes: the limit at which the server stops reading, and the answers to one more piece of input.
const WAITS: usize = FULL + (64 << 10);

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

/// Runs a session. The first byte selects password and picture; then pieces follow, each with a byte for its length and other
/// events, and that many bytes of the viewer.
///
/// # Errors
/// The broken invariant: the meaning of a message depends on the socket's cuts, too many bytes are unsent, or the viewer causes
/// more input events than its bytes allow.
pub fn exercise_session(bytes: &[u8]) -> Result<(), String> {
    let Some((first, mut rest)) = bytes.split_first() else { return Ok(()) };
    let mut picture =
        Picture { width: 16usize << (first >> 4 & 5), height: 100, seed: 0, row: Vec::new(), dirty: Vec::new() };
    picture.draw(*first);
    let mut screen = Screen::default();
    let password = if first & 1 == 0 { Password::None } else { Password::new(b"secret") };
    let Some(layout) = LAYOUTS.iter().cycle().nth(usize::from(first >> 1 & 7)) else { return Ok(()) };
    let mut session = ViewerSession::new(Input::new(layout), "fuzz".into(), 0);
    let mut input: Vec<InputEvent> = Vec::new();
    let mut locks = Locks::default();
    let mut now = 0u64;
    while let Some((what, after)) = rest.split_first() {
        let (said, after) = after.split_at_checked(usize::from(what & 0x3f)).unwrap_or((after, &[]));
        rest = after;
        check_cuts(said).map_err(|e| e.to_string())?;
        now = now.saturating_add(1_000_000_000);
        if what & 0x40 != 0 {
            picture.draw(what.wrapping_add(now as u8));
            if what & 0x20 != 0 {
                picture.height = picture.height.saturating_sub(7).max(20);
            }
            let change = screen.compare(&picture);
            session.changed(&change);
        }
        if what & 0x10 != 0 {
            locks.lights(what & 7, now);
            session.set_leds(what & 7);
        }
        input.clear();
        let mut context = SessionContext {
            needs_password: password != Password::None,
            now,
            random: &|| Some([7; CHALLENGE]),
            wish: &|_, _| true,
            input: &mut input,
            alone: false,
            full: what & 0x3f == 0x3f,
            locks: &mut locks,
            others: what & 7,
        };
        // As the server does, this reads nothing while a verdict is awaited.
        let open = !session.output_full() && session.processes_input();
        if open && session.receive(said, &mut context).is_err() || session.time(now).is_err() {
            break;
        }
        if what & 8 == 0 && (session.judge(&password, now).is_err() || session.receive(&[], &mut context).is_err()) {
            break;
        }
        // An event takes at least six bytes; a character may need Caps Lock and a dead key, each with modifiers.
        if input.len() > said.len().saturating_add(64).saturating_mul(5) {
            return Err(format!("{} events of {} bytes", input.len(), said.len()));
        }
        while session.produce(&picture, (what & 0x80 == 0).then(|| screen.size())) {}
        if session.unsent().len() > WAITS {
            return Err(format!("{} bytes wait", session.unsent().len()));
        }
        // The socket accepts all bytes or none.
        if what & 0x80 == 0 {
            session.sent(session.unsent().len());
        }
    }
    session.leave(0, &mut input);
    Ok(())
}
