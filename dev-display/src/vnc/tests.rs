//! The server with real sockets and a fake picture.
mod input;

use super::*;
use bulkhead_bus::NoMemory;
use proptest::prelude::*;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
    dirty: Vec<usize>,
    wanted: usize,
    /// The display has stopped drawing.
    dead: bool,
}

#[derive(Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Picture>>);

impl Shared {
    pub(super) fn draw(&self, width: usize, height: usize, of: impl Fn(usize, usize) -> u32) {
        let pixels: Vec<u8> = (0..height)
            .flat_map(|y| (0..width).map(move |x| (x, y)))
            .flat_map(|(x, y)| of(x, y).to_le_bytes())
            .collect();
        *self.0.lock().unwrap() = Picture { width, height, pixels, dirty: (0..height).collect(), ..Picture::default() };
    }
}

/// The picture at the server's last read.
struct Fake {
    shared: Shared,
    seen: Picture,
}

impl View for Fake {
    fn request_draw(&mut self) {
        self.shared.0.lock().unwrap().wanted += 1;
    }
    fn update(&mut self) -> bool {
        let mut now = self.shared.0.lock().unwrap();
        self.seen = Picture {
            width: now.width,
            height: now.height,
            pixels: now.pixels.clone(),
            dirty: std::mem::take(&mut now.dirty),
            wanted: 0,
            dead: now.dead,
        };
        true
    }
    fn renew(&mut self, _: OwnedFd) {}
    fn fresh(&self) -> bool {
        !self.seen.dead
    }
    fn size(&self) -> (usize, usize) {
        (self.seen.width, self.seen.height)
    }
    fn dirty(&self) -> &[usize] {
        &self.seen.dirty
    }
    fn row(&self, y: usize) -> &[u8] {
        self.seen.pixels.chunks(self.seen.width.max(1) * 4).nth(y).unwrap_or_default()
    }
}

pub(super) struct Bench {
    pub(super) vnc: Vnc,
    pub(in crate::vnc) cx: Context,
    pub(super) picture: Shared,
    pub(in crate::vnc) path: std::path::PathBuf,
    typed: OwnedFd,
    pub(super) lights: OwnedFd,
    placed: OwnedFd,
    pub(super) taken: OwnedFd,
    wishes: OwnedFd,
    now: u64,
    _dir: tempfile::TempDir,
}

impl Bench {
    pub(super) fn new(password: Password) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vnc");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let picture = Shared::default();
        picture.draw(200, 100, |x, y| (x * 0x010101 + y) as u32 & 0xff_ffff);
        let (typed, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let (leds, lights) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let (placed, usb) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let (wishes, wish) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let (takes, taken) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let config = Config { name: "guest".into(), layout: &LAYOUTS[0], password };
        let view = Fake { shared: picture.clone(), seen: Picture::default() };
        let mut b = Self {
            vnc: Vnc::new(
                Box::new(view),
                vec![listener.into()],
                Console {
                    input: Sinks::new(Some(write), vec![crate::sinks::Sink::new(usb, takes)]),
                    leds: Some(leds),
                    wishes: Some(wish),
                },
                config,
            )
            .unwrap(),
            cx: Context::new(Arc::new(NoMemory)),
            picture,
            path,
            typed,
            lights,
            placed,
            taken,
            wishes,
            now: 1,
            _dir: dir,
        };
        b.cx.clock = bulkhead_bus::Clock::Driven(b.now);
        b.vnc.start(&mut b.cx);
        for pipe in [&b.typed, &b.placed] {
            assert_eq!(records(pipe), [InputEvent::ViewersBegin], "it asks for what it does not know");
        }
        b
    }

    pub(super) fn connect(&mut self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_nonblocking(true).unwrap();
        self.turn();
        stream
    }

    /// A client that connects from this address.
    pub(super) fn connect_from(&mut self, address: ViewerAddress) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        self.vnc.admit(theirs.into(), address, self.now);
        self.turn();
        ours
    }

    /// Nanoseconds on the driven clock.
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    pub(super) fn turn(&mut self) {
        self.vnc.poll(Ready::Fd(READY), &mut self.cx);
        while self.cx.take_again() {
            self.vnc.poll(Ready::Again, &mut self.cx);
        }
    }

    /// Advances the time and runs due timers.
    pub(super) fn wait(&mut self, ns: u64) {
        let end = self.now + ns;
        while self.now < end {
            self.now = end.min(self.cx.timers.next().map_or(end, |at| at.max(self.now + 1)));
            self.cx.clock = bulkhead_bus::Clock::Driven(self.now);
            while let Some(id) = self.cx.timers.take_due(self.now) {
                self.vnc.poll(Ready::Timer(id), &mut self.cx);
            }
            self.turn();
        }
    }

    pub(super) fn say(&mut self, client: &mut UnixStream, bytes: &[u8]) {
        client.write_all(bytes).unwrap();
        self.turn();
    }

    /// All bytes that the client has received.
    pub(super) fn heard(&mut self, client: &mut UnixStream) -> Vec<u8> {
        let (mut all, mut part) = (Vec::new(), [0; 65536]);
        loop {
            self.turn();
            match client.read(&mut part) {
                Ok(0) => return all,
                Ok(n) => all.extend_from_slice(&part[..n]),
                Err(_) => return all,
            }
        }
    }

    pub(super) fn closed(&mut self, client: &mut UnixStream) -> bool {
        self.turn();
        let mut part = [0; 4096];
        loop {
            match client.read(&mut part) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) => return e.kind() != std::io::ErrorKind::WouldBlock,
            }
        }
    }

    /// A viewer that has completed its handshake.
    pub(super) fn viewer(&mut self, encodings: &[i32]) -> UnixStream {
        let mut client = self.connect();
        self.say(&mut client, b"RFB 003.008\n\x01\x01");
        self.wait(FAST);
        let hello = self.heard(&mut client);
        assert_eq!(&hello[..14], b"RFB 003.008\n\x01\x01");
        assert_eq!(&hello[14..18], [0; 4]);
        let (w, h) = self.vnc.screen.size();
        assert_eq!(&hello[18..22], [(w >> 8) as u8, w as u8, (h >> 8) as u8, h as u8]);
        assert_eq!(&hello[38..], b"\0\0\0\x05guest");
        let mut list = vec![2, 0, 0, encodings.len() as u8];
        encodings.iter().for_each(|e| list.extend_from_slice(&e.to_be_bytes()));
        self.say(&mut client, &list);
        client
    }

    pub(super) fn keys(&mut self) -> Vec<InputEvent> {
        records(&self.typed)
    }
}

fn records(pipe: &OwnedFd) -> Vec<InputEvent> {
    let mut bytes = [0; 4096];
    let n = rustix::io::read(pipe, &mut bytes).unwrap_or(0);
    bytes[..n].chunks(8).map(|r| InputEvent::from_bytes(r.try_into().unwrap()).unwrap()).collect()
}

pub(super) fn request(incremental: bool) -> [u8; 10] {
    [3, u8::from(incremental), 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]
}

/// Applies an update's raw rectangles and moves to a viewer's picture. Returns the pseudo-rectangles.
fn apply(bytes: &[u8], picture: &mut Vec<u32>, width: &mut usize) -> Vec<(i32, [usize; 4])> {
    let (mut at, mut notes) = (0, Vec::new());
    while at < bytes.len() {
        assert_eq!(bytes[at], 0, "an update at {at}");
        let count = u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]);
        at += 4;
        for _ in 0..count {
            let n = |i: usize| usize::from(u16::from_be_bytes([bytes[at + i], bytes[at + i + 1]]));
            let (x, y, w, h) = (n(0), n(2), n(4), n(6));
            let encoding = i32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap());
            at += 12;
            match encoding {
                0 => {
                    for (i, p) in bytes[at..at + w * h * 4].chunks(4).enumerate() {
                        picture[(y + i / w) * *width + x + i % w] = u32::from_le_bytes(p.try_into().unwrap());
                    }
                    at += w * h * 4;
                }
                1 => {
                    let from = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
                    let old = picture.clone();
                    picture[y * *width..(y + h) * *width].copy_from_slice(&old[from * *width..(from + h) * *width]);
                    notes.push((1, [from, y, w, h]));
                    at += 4;
                }
                -223 | -308 => {
                    if encoding == -308 {
                        assert_eq!(bytes[at], 1);
                        at += 20;
                    }
                    if x != 1 {
                        *width = w;
                        *picture = vec![0; w * h];
                    }
                    notes.push((encoding, [x, y, w, h]));
                }
                -261 => {
                    notes.push((-261, [usize::from(bytes[at]), 0, 0, 0]));
                    at += 1;
                }
                -239 | -257 | -258 => notes.push((encoding, [x, y, w, h])),
                _ => panic!("encoding {encoding}"),
            }
        }
    }
    notes
}

fn want(b: &Bench) -> Vec<u32> {
    b.picture.0.lock().unwrap().pixels.chunks(4).map(|p| u32::from_le_bytes(p.try_into().unwrap())).collect()
}

#[test]
fn a_viewer_sees_the_picture_what_changes_and_what_moves() {
    let mut b = Bench::new(Password::None);
    let mut client = b.viewer(&[0, 1, -223]);
    let (mut seen, mut width) = (vec![0; 200 * 100], 200);
    b.say(&mut client, &request(false));
    b.wait(FAST);
    let first = b.heard(&mut client);
    apply(&first, &mut seen, &mut width);
    assert!(seen == want(&b));
    // No update without a change, and then only of the changed part.
    b.say(&mut client, &request(true));
    b.wait(FAST);
    assert_eq!(b.heard(&mut client), []);
    b.picture.draw(200, 100, |x, y| if (x, y) == (70, 50) { 0x12_3456 } else { (x * 0x010101 + y) as u32 & 0xff_ffff });
    b.wait(FAST);
    let change = b.heard(&mut client);
    assert_eq!(change.len(), 4 + 12 + 64 * 4);
    apply(&change, &mut seen, &mut width);
    assert!(seen == want(&b));
    // A scroll is sent as a move and the new lines.
    b.say(&mut client, &request(true));
    b.picture.draw(200, 100, |x, y| {
        if y < 84 {
            if (x, y + 16) == (70, 50) { 0x12_3456 } else { (x * 0x010101 + y + 16) as u32 & 0xff_ffff }
        } else {
            7
        }
    });
    b.wait(FAST);
    let scroll = b.heard(&mut client);
    assert_eq!(apply(&scroll, &mut seen, &mut width), [(1, [16, 0, 200, 84])]);
    assert!(seen == want(&b) && scroll.len() < 200 * 16 * 4 + 100);
    // A new size is announced first.
    b.say(&mut client, &request(true));
    b.picture.draw(64, 30, |x, y| (x * y) as u32);
    b.wait(FAST);
    let resize = b.heard(&mut client);
    assert_eq!(apply(&resize, &mut seen, &mut width), [(-223, [0, 0, 64, 30])]);
    b.say(&mut client, &request(true));
    b.wait(FAST);
    let after = b.heard(&mut client);
    apply(&after, &mut seen, &mut width);
    assert!(seen == want(&b));
}

#[test]
fn without_a_waiting_viewer_the_picture_is_not_read() {
    let mut b = Bench::new(Password::None);
    let armed = |b: &Bench| b.cx.timers.get(LOOK).is_some();
    assert!(!armed(&b));
    let mut client = b.viewer(&[0]);
    assert!(!armed(&b), "a viewer that asks for nothing");
    b.say(&mut client, &request(false));
    b.wait(FAST);
    b.heard(&mut client);
    b.say(&mut client, &request(true));
    assert!(armed(&b));
    // A stalled viewer: its unsent bytes are bounded, and the picture is not read for it.
    for i in 0..50u32 {
        b.picture.draw(1000, 1000, |x, y| (x * y) as u32 ^ i);
        client.write_all(&request(false)).unwrap();
        b.wait(FAST);
    }
    let waits = b.vnc.viewers[0].session.unsent().len();
    assert!(waits < 400 << 10, "{waits} bytes wait");
    drop(client);
    b.turn();
    assert!(!armed(&b) && b.vnc.viewers.is_empty());
}

#[test]
fn who_asks_after_a_while_gets_the_picture_of_now_and_of_a_dead_display_the_last_one() {
    let mut b = Bench::new(Password::None);
    let mut client = b.viewer(&[0]);
    let (mut seen, mut width) = (vec![0; 200 * 100], 200);
    b.say(&mut client, &request(false));
    b.wait(FAST);
    b.heard(&mut client);
    b.picture.draw(200, 100, |x, _| x as u32);
    // The picture has not been read since. The viewer requests the whole picture once, as a screenshot program does.
    b.say(&mut client, &request(false));
    assert_eq!(b.heard(&mut client), [], "what is known is old");
    b.wait(FAST);
    let bytes = b.heard(&mut client);
    apply(&bytes, &mut seen, &mut width);
    assert!(seen == want(&b));
    b.picture.0.lock().unwrap().dead = true;
    b.say(&mut client, &request(false));
    b.wait(FAST);
    assert_eq!(b.heard(&mut client), [], "it may still come");
    for _ in 0..=LATE {
        b.wait(FAST);
    }
    let bytes = b.heard(&mut client);
    apply(&bytes, &mut seen, &mut width);
    assert!(seen == want(&b));
}

#[test]
fn a_stalled_viewer_holds_up_no_other() {
    let mut b = Bench::new(Password::None);
    let mut stalled = b.viewer(&[0]);
    stalled.write_all(&[150, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).unwrap();
    let mut other = b.viewer(&[0, -223]);
    let (mut seen, mut width) = (vec![0; 200 * 100], 200);
    for i in 0..20u32 {
        b.picture.draw(1000, 700, |x, y| (x * y) as u32 ^ i << 4);
        b.say(&mut other, &request(i > 0));
        b.wait(FAST);
        let bytes = b.heard(&mut other);
        apply(&bytes, &mut seen, &mut width);
    }
    b.say(&mut other, &request(true));
    b.wait(FAST);
    let bytes = b.heard(&mut other);
    apply(&bytes, &mut seen, &mut width);
    assert!(seen == want(&b));
}

#[test]
fn hostile_input_is_paused_for_a_viewer_that_does_not_read() {
    let mut b = Bench::new(Password::None);
    let mut client = b.viewer(&[0]);
    // A map of colours for twenty bytes; encodings again and again; fences.
    let mut all = Vec::new();
    for _ in 0..6000 {
        all.extend_from_slice(&[0, 0, 0, 0, 8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        all.extend_from_slice(&[
            2, 0, 0, 2, 0xff, 0xff, 0xfe, 0xcc, 0xff, 0xff, 0xfe, 0xc8, 248, 0, 0, 0, 0x80, 0, 0, 7, 0,
        ]);
    }
    let mut rest = &all[..];
    for _ in 0..400 {
        if let Ok(n) = client.write(&rest[..rest.len().min(4096)]) {
            rest = &rest[n..];
        }
        b.turn();
    }
    let waits = b.vnc.viewers[0].session.unsent().len();
    assert!(waits < 3 << 20 && waits > 1 << 20, "{waits} bytes wait");
    // When its send buffer drains, the rest of its bytes is read.
    let mut heard = 0;
    for _ in 0..4000 {
        heard += b.heard(&mut client).len();
        if rest.is_empty() && b.vnc.viewers[0].session.unsent().is_empty() {
            break;
        }
        if let Ok(n) = client.write(rest) {
            rest = &rest[n..];
        }
    }
    assert!(rest.is_empty() && heard > 6000 * 1542, "{heard} bytes came, {} were not heard", rest.len());
}

#[test]
fn a_blinking_cursor_is_not_urgent() {
    let mut b = Bench::new(Password::None);
    let mut client = b.viewer(&[0]);
    client.write_all(&[150, 1, 0, 0, 0, 0, 0, 200, 0, 100]).unwrap();
    for i in 0..600u32 {
        b.picture.draw(200, 100, |x, y| if x < 9 && (16..32).contains(&y) { i / 8 & 1 } else { 5 });
        b.wait(FAST);
        b.heard(&mut client);
    }
    assert_eq!(b.vnc.pace, SLOW);
    for _ in 0..60 {
        b.wait(SLOW);
        b.heard(&mut client);
    }
    assert_eq!(b.vnc.pace, IDLE, "nothing at all");
    b.picture.draw(200, 100, |x, y| if x < 9 && (16..32).contains(&y) { 3 } else { 5 });
    b.wait(IDLE);
    assert_eq!(b.vnc.pace, SLOW, "it blinks again");
    b.picture.draw(200, 100, |x, y| if y < 50 { x as u32 } else { 5 });
    b.wait(SLOW);
    assert_eq!(b.vnc.pace, FAST);
}

#[test]
fn a_viewer_that_asks_at_once_gets_pictures_at_the_pace_and_fewer_where_they_cost_much() {
    let mut b = Bench::new(Password::None);
    let mut client = b.viewer(&[0]);
    let mut count = |b: &mut Bench, spent| {
        let (looks, updates) = (b.vnc.looks, b.vnc.viewers[0].session.updates);
        for i in 0..125u32 {
            b.picture.draw(200, 100, |x, y| (x * y) as u32 ^ i);
            if b.vnc.viewers[0].session.unsent().is_empty() && !b.vnc.looking {
                client.write_all(&request(true)).unwrap();
            }
            if b.vnc.shown == b.now {
                b.vnc.spent += spent;
                b.vnc.moderate(&mut b.cx);
            }
            b.wait(FIRST);
            b.heard(&mut client);
        }
        (b.vnc.looks - looks, b.vnc.viewers[0].session.updates - updates)
    };
    let (looks, updates) = count(&mut b, 0);
    assert!((20..=30).contains(&updates) && looks <= updates + 1, "{updates} updates of {looks} looks in a second");
    // A twenty-fourth of the time: 10 ms of 240.
    let (_, fewer) = count(&mut b, 10_000_000);
    assert!((3..=7).contains(&fewer), "{fewer} updates");
}

#[test]
fn hostile_viewers_that_ask_and_go_have_no_picture_drawn_for_each() {
    let mut b = Bench::new(Password::None);
    let clients: Vec<_> = (0..10).map(|_| b.viewer(&[0])).collect();
    let before = b.picture.0.lock().unwrap().wanted;
    for mut client in clients {
        b.say(&mut client, &request(true));
        drop(client);
        b.turn();
    }
    let wanted = b.picture.0.lock().unwrap().wanted - before;
    assert!(wanted <= 1, "{wanted} pictures at one moment");
}

#[test]
fn passwords_are_asked_for_and_the_next_answer_waits() {
    let mut b = Bench::new(Password::Unset);
    let try_with = |b: &mut Bench, key: [u8; 8]| {
        let mut client = b.connect();
        b.say(&mut client, b"RFB 003.008\n\x02");
        let hello = b.heard(&mut client);
        assert_eq!(&hello[..14], b"RFB 003.008\n\x01\x02");
        let answer = auth::response(key, hello[14..30].try_into().unwrap());
        b.say(&mut client, &answer);
        client
    };
    let key = *b"secret\0\0";
    let mut early = try_with(&mut b, key);
    assert_eq!(b.heard(&mut early)[..4], [0, 0, 0, 1]);
    assert!(b.closed(&mut early), "no password is set yet");
    b.vnc.set_password(b"secret").unwrap();
    let mut client = try_with(&mut b, key);
    assert_eq!(b.heard(&mut client), [], "the second answer waits, right or wrong");
    b.wait(INTERVAL);
    assert_eq!(b.heard(&mut client), [0; 4]);
    b.say(&mut client, &[1]);
    b.wait(FAST);
    assert!(b.heard(&mut client).ends_with(b"guest"));
    assert!(Bench::new(Password::None).vnc.set_password(b"x").is_err());
    // Version 3.3: the server decides the security type; without a password there is no SecurityResult.
    let mut old = b.connect();
    b.say(&mut old, b"RFB 003.003\n");
    assert_eq!(b.heard(&mut old)[12..16], [0, 0, 0, 2]);
    let mut open = Bench::new(Password::None);
    let mut old = open.connect();
    open.say(&mut old, b"RFB 003.003\n\x01");
    open.wait(FAST);
    assert_eq!(open.heard(&mut old)[12..18], [0, 0, 0, 1, 0, 200]);
    let mut sneak = b.connect();
    b.say(&mut sneak, b"RFB 003.008\n\x01\x01");
    assert!(b.closed(&mut sneak), "a security type that was not offered");
}

#[test]
fn half_open_and_many_connections_do_not_block_new_viewers() {
    let mut b = Bench::new(Password::None);
    let mut first = b.viewer(&[0]);
    let half: Vec<UnixStream> = (0..200).map(|_| b.connect()).collect();
    assert!(b.vnc.viewers.len() <= 1 + strangers::AT_ONE_ADDRESS);
    let mut second = b.viewer(&[0]);
    b.say(&mut second, &request(false));
    b.wait(FAST);
    assert!(b.heard(&mut second).len() > 200 * 100 * 4);
    b.say(&mut first, &request(false));
    b.wait(FAST);
    assert!(b.heard(&mut first).len() > 200 * 100 * 4);
    b.wait(session::HANDSHAKE + 1);
    assert_eq!(b.vnc.viewers.len(), 2, "who does not come in is sent away");
    drop(half);
}

#[test]
fn an_exclusive_viewer_disconnects_the_others_and_held_keys_are_released() {
    let mut b = Bench::new(Password::None);
    let mut first = b.viewer(&[-258, 0]);
    b.say(&mut first, &[255, 0, 0, 1, 0, 0, 0, 0x61, 0, 0, 0, 0x1e, 5, 1, 0, 10, 0, 10]);
    let key = |code, down| InputEvent::Key { code, down };
    assert_eq!(b.keys(), [key(30, true), InputEvent::Button { button: 0, down: true }]);
    let mut alone = b.connect();
    b.say(&mut alone, b"RFB 003.008\n\x01\x00");
    assert!(b.closed(&mut first));
    assert_eq!(b.keys(), [key(30, false), InputEvent::Button { button: 0, down: false }]);
    assert_eq!(b.vnc.viewers.len(), 1);
}

#[test]
fn extensions_are_announced_and_answered() {
    let mut b = Bench::new(Password::None);
    let mut client = b.viewer(&[0, -223, -308, -258, -239, -257, -312, -313]);
    // The server announces both extensions by a fence and by the end of continuous updates.
    assert_eq!(b.heard(&mut client), [248, 0, 0, 0, 0x80, 0, 0, 0, 0, 150]);
    let (mut seen, mut width) = (vec![0; 200 * 100], 200);
    b.say(&mut client, &request(false));
    b.wait(FAST);
    let bytes = b.heard(&mut client);
    let notes = apply(&bytes, &mut seen, &mut width);
    assert_eq!(notes, [(-308, [0, 0, 200, 100]), (-258, [0; 4]), (-239, [0; 4]), (-257, [0, 0, 200, 100])]);
    assert!(seen == want(&b));
    // A fence is answered without its unknown bits.
    b.say(&mut client, &[248, 0, 0, 0, 0x80, 0, 0, 0x0f, 3, 7, 8, 9]);
    assert_eq!(b.heard(&mut client), [248, 0, 0, 0, 0, 0, 0, 7, 3, 7, 8, 9]);
    // A requested size is forwarded; one with two screens is refused.
    b.say(&mut client, &[251, 0, 4, 0, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 3, 0, 0, 0, 0, 0]);
    b.wait(FAST);
    let bytes = b.heard(&mut client);
    assert_eq!(apply(&bytes, &mut seen, &mut width), [(-308, [1, 4, 200, 100])]);
    let mut wish = [0; 8];
    assert_eq!((rustix::io::read(&b.wishes, &mut wish), wish[..4].to_vec()), (Ok(4), vec![0, 4, 0, 3]));
    let mut two = vec![251, 0, 4, 0, 3, 0, 2, 0];
    two.extend([0; 32]);
    b.say(&mut client, &two);
    b.wait(FAST);
    let bytes = b.heard(&mut client);
    assert_eq!(apply(&bytes, &mut seen, &mut width), [(-308, [1, 1, 200, 100])]);
    // Continuous updates need no requests; their end is announced.
    b.say(&mut client, &[150, 1, 0, 0, 0, 0, 0, 200, 0, 100]);
    for i in 0..3u32 {
        b.picture.draw(200, 100, |x, y| (x * y) as u32 ^ i);
        b.wait(FAST);
        let bytes = b.heard(&mut client);
        apply(&bytes, &mut seen, &mut width);
        assert!(seen == want(&b), "{i}");
    }
    b.say(&mut client, &[150, 0, 0, 0, 0, 0, 0, 200, 0, 100]);
    assert_eq!(b.heard(&mut client), [150]);
    // Cut text of any length is skipped, and later messages are handled.
    let mut cut = vec![6, 0, 0, 0, 0, 0, 0x20, 0];
    cut.resize(8 + 0x2000, b'x');
    cut.extend_from_slice(&[4, 1, 0, 0, 0, 0, 0xff, 0x0d]);
    b.say(&mut client, &cut);
    assert_eq!(b.keys(), [InputEvent::Key { code: 28, down: true }]);
    for bad in [
        &[9u8, 9][..],
        &[255, 1, 0, 0],
        &[248, 0, 0, 0, 0x80, 0, 0, 0, 65],
        &[0, 0, 0, 0, 24, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0],
    ] {
        let mut client = b.viewer(&[0]);
        b.say(&mut client, bad);
        assert!(b.closed(&mut client), "{bad:?}");
    }
}
