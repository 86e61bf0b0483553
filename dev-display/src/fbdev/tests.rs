use super::*;
use bulkhead_bus::InputEvent;
use bulkhead_bus::fake;
use proptest::prelude::*;
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Shared {
    size: (usize, usize),
    dirty: Vec<usize>,
    wanted: usize,
    row: Vec<u8>,
    visible: (usize, usize),
    written: Vec<(usize, Vec<u8>)>,
    fixed: bool,
}

struct Fake(Arc<Mutex<Shared>>, Vec<usize>, (usize, usize), Vec<u8>);

impl View for Fake {
    fn request_draw(&mut self) {
        self.0.lock().unwrap().wanted += 1;
    }
    fn update(&mut self) -> bool {
        let mut s = self.0.lock().unwrap();
        (self.1, self.2, self.3) = (std::mem::take(&mut s.dirty), s.size, s.row.clone());
        true
    }
    fn renew(&mut self, _: OwnedFd) {}
    fn fresh(&self) -> bool {
        true
    }
    fn size(&self) -> (usize, usize) {
        self.2
    }
    fn dirty(&self) -> &[usize] {
        &self.1
    }
    fn row(&self, _: usize) -> &[u8] {
        &self.3
    }
}

impl Screen for Fake {
    fn limits(&self) -> (usize, usize) {
        (8, 4)
    }
    fn resize(&mut self, width: usize, height: usize) -> bool {
        let mut s = self.0.lock().unwrap();
        s.visible = (width, height);
        !s.fixed
    }
    fn write(&mut self, y: usize, pixels: &[u8]) {
        self.0.lock().unwrap().written.push((y, pixels.to_vec()));
    }
}

fn viewer() -> (Fbdev, Arc<Mutex<Shared>>, Context, [OwnedFd; 2]) {
    let shared = Arc::new(Mutex::new(Shared::default()));
    let fake = || Box::new(Fake(shared.clone(), Vec::new(), (0, 0), Vec::new()));
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    let (events, make) = pipe();
    let (take, input) = pipe();
    let device = Fbdev::new(fake(), fake(), vec![events], Sinks::new(Some(input), Vec::new()));
    (device, shared, fake::context(0), [make, take])
}

fn record(kind: u16, code: u16, value: i32) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(&code.to_le_bytes());
    bytes.extend_from_slice(&value.to_le_bytes());
    bytes
}

fn taken(pipe: &OwnedFd) -> Vec<InputEvent> {
    let mut bytes = [0; 800];
    let n = rustix::io::read(pipe, &mut bytes).unwrap_or(0);
    bytes[..n].as_chunks().0.iter().map(|r| InputEvent::from_bytes(*r).unwrap()).collect()
}

#[test]
fn changed_lines_go_to_the_screen_and_the_pace_follows() {
    let (mut device, shared, mut cx, _) = viewer();
    device.start(&mut cx);
    assert_eq!((cx.timers.get(LOOK), shared.lock().unwrap().wanted), (Some(FAST), 1));
    *shared.lock().unwrap() = Shared { size: (2, 2), dirty: vec![0, 1], row: vec![1; 8], ..Shared::default() };
    device.poll(Ready::Timer(LOOK), &mut cx);
    assert_eq!(shared.lock().unwrap().visible, (2, 2));
    assert_eq!(shared.lock().unwrap().written, [(0, vec![1; 8]), (1, vec![1; 8])]);
    for _ in 0..200 {
        device.poll(Ready::Timer(LOOK), &mut cx);
    }
    assert_eq!(cx.timers.get(LOOK), Some(SLOW), "nothing changes");
    assert_eq!(shared.lock().unwrap().written.len(), 2);
    shared.lock().unwrap().dirty = vec![1];
    device.poll(Ready::Timer(LOOK), &mut cx);
    assert_eq!(cx.timers.get(LOOK), Some(FAST));
}

#[test]
fn a_picture_that_is_too_large_is_cut_and_one_that_is_smaller_has_a_black_border() {
    let (mut device, shared, mut cx, _) = viewer();
    *shared.lock().unwrap() =
        Shared { size: (20, 10), dirty: (0..10).collect(), row: vec![7; 80], ..Shared::default() };
    device.poll(Ready::Timer(LOOK), &mut cx);
    let written = std::mem::take(&mut shared.lock().unwrap().written);
    assert_eq!(shared.lock().unwrap().visible, (8, 4));
    assert!(written.len() == 4 && written.iter().all(|(y, row)| *y < 4 && row.len() == 32));
    *shared.lock().unwrap() =
        Shared { size: (2, 2), dirty: vec![0], row: vec![7; 8], fixed: true, ..Shared::default() };
    device.poll(Ready::Timer(LOOK), &mut cx);
    let written = std::mem::take(&mut shared.lock().unwrap().written);
    assert_eq!((written.len(), &written[0], &written[4]), (5, &(0, vec![0; 32]), &(0, vec![7; 8])));
}

/// Odd widths: a row has the picture's length, independent of the frame buffer's stride.
#[test]
fn an_odd_width_is_shown_as_it_is() {
    for fixed in [false, true] {
        let (mut device, shared, mut cx, _) = viewer();
        *shared.lock().unwrap() =
            Shared { size: (7, 3), dirty: vec![0, 1, 2], row: (0..28).collect(), fixed, ..Shared::default() };
        device.poll(Ready::Timer(LOOK), &mut cx);
        let s = shared.lock().unwrap();
        assert_eq!(s.visible, (7, 3));
        let rows: Vec<_> = s.written.iter().filter(|(_, row)| row.len() == 28).collect();
        assert_eq!(
            (rows.len(), s.written.len()),
            (3, if fixed { 7 } else { 3 }),
            "before them a black screen, if it is larger"
        );
        assert!(rows.iter().all(|(_, row)| *row == (0..28).collect::<Vec<u8>>()));
    }
}

#[test]
fn keys_buttons_and_movement_reach_the_pipe() {
    let (mut device, _, mut cx, [make, take]) = viewer();
    let all = [
        record(1, 30, 1),
        record(0, 0, 0),
        record(1, 30, 2),
        record(1, 30, 0),
        record(0, 0, 0),
        record(1, 0x111, 1),
        record(0, 0, 0),
        // Absolute: the first report sets the position, the next ones are movement.
        record(3, 0, 100),
        record(3, 1, 50),
        record(0, 0, 0),
        record(3, 0, 90),
        record(3, 1, 60),
        record(0, 0, 0),
        record(2, 0, 3),
        record(2, 0, 4),
        record(0, 0, 0),
        record(2, 8, -1),
        record(0, 0, 0),
    ];
    rustix::io::write(&make, &all.concat()).unwrap();
    device.poll(Ready::Fd(0), &mut cx);
    assert_eq!(
        taken(&take),
        [
            InputEvent::Key { code: 30, down: true },
            InputEvent::Key { code: 30, down: true },
            InputEvent::Key { code: 30, down: false },
            InputEvent::Button { button: 1, down: true },
            InputEvent::Move { dx: -10, dy: 10, dz: 0 },
            InputEvent::Move { dx: 7, dy: 0, dz: 0 },
            InputEvent::Move { dx: 0, dy: 0, dz: 1 },
        ]
    );
}

#[test]
fn places_go_to_a_tablet_that_the_guest_uses() {
    let (mut device, shared, mut cx, [make, take]) = viewer();
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    let ((placed, usb), (takes, taken_here), (rest, ps2)) = (pipe(), pipe(), pipe());
    drop((take, rest));
    device.input = Sinks::new(Some(ps2), vec![crate::sinks::Sink::new(usb, takes)]);
    *shared.lock().unwrap() = Shared { size: (8, 4), dirty: vec![0], row: vec![7; 32], ..Shared::default() };
    device.poll(Ready::Timer(LOOK), &mut cx);
    rustix::io::write(&taken_here, &[1]).unwrap();
    device.poll(Ready::Fd(1), &mut cx);
    let all = [
        record(3, 0, 7),
        record(3, 1, 3),
        record(0, 0, 0),
        record(1, 0x110, 1),
        record(0, 0, 0),
        record(2, 8, 1),
        record(0, 0, 0),
    ];
    rustix::io::write(&make, &all.concat()).unwrap();
    device.poll(Ready::Fd(0), &mut cx);
    let want = [
        InputEvent::At { x: 0x7fff, y: 0x7fff },
        InputEvent::Button { button: 0, down: true },
        InputEvent::Move { dx: 0, dy: 0, dz: -1 },
    ];
    assert_eq!(taken(&placed), want);
}

#[test]
fn a_full_pipe_costs_events_and_nothing_else() {
    let (mut device, _, mut cx, [make, _take]) = viewer();
    for _ in 0..300 {
        rustix::io::write(&make, &[record(1, 30, 1), record(1, 30, 0)].concat().repeat(32)).unwrap();
        device.poll(Ready::Fd(0), &mut cx);
    }
    assert!(device.input.dropped > 0 && device.input.sent + device.input.dropped == 300 * 64);
}

proptest! {
    #[test]
    fn any_records_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let (mut device, _, mut cx, [make, _take]) = viewer();
        rustix::io::write(&make, &bytes).unwrap();
        device.poll(Ready::Fd(0), &mut cx);
        device.poll(Ready::Again, &mut cx);
    }
}
