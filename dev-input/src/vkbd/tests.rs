use super::*;
use bulkhead_bus::fake::{self, FakeFrontend};
use proptest::prelude::*;
use rustix::pipe::{PipeFlags, pipe_with};

struct Bed {
    vkbd: Vkbd,
    cx: Context,
    fake: FakeFrontend,
    viewer: OwnedFd,
    wishes: OwnedFd,
}

fn bed(places: bool) -> Bed {
    let fake = FakeFrontend::new(PAGES, &[8]);
    let pipe = || pipe_with(PipeFlags::NONBLOCK).unwrap();
    let ((input, viewer), (wishes, takes)) = (pipe(), pipe());
    let mut bed = Bed {
        vkbd: Vkbd::new(Box::new(fake.clone()), Some(input), Some(takes)),
        cx: fake::context(0),
        fake,
        viewer,
        wishes,
    };
    bed.node(true, "state", "1");
    bed.node(false, "state", "1");
    bed.vkbd.start(&mut bed.cx);
    assert_eq!(bed.fake.with(|w| w.asked), 0, "the sandbox is not closed yet");
    bed.vkbd.poll(Ready::Again, &mut bed.cx);
    for (name, value) in [
        ("page-gref", "8"),
        ("event-channel", "5"),
        ("request-abs-pointer", if places { "1" } else { "0" }),
        ("state", "3"),
    ] {
        bed.node(false, name, value);
    }
    bed.vkbd.poll(Ready::Fd(NODES), &mut bed.cx);
    assert_eq!(bed.fake.back_end_node("state").as_deref(), Some("4"));
    bed
}

impl Bed {
    fn node(&self, back: bool, name: &str, value: &str) {
        self.fake.put(back, name, value);
    }
    fn input(&mut self, events: &[InputEvent]) {
        for event in events {
            rustix::io::write(&self.viewer, &event.to_bytes()).unwrap();
        }
        self.vkbd.poll(Ready::Fd(INPUT), &mut self.cx);
        while self.cx.take_again() {
            self.vkbd.poll(Ready::Again, &mut self.cx);
        }
    }
    fn word(&self, at: usize) -> u32 {
        self.fake.word(at)
    }
    fn event(&self, n: usize) -> [u32; 4] {
        std::array::from_fn(|i| self.word(page::IN + n % 51 * 40 + i * 4))
    }
    fn wishes(&self) -> Vec<u8> {
        let mut bytes = [0; 100];
        let n = rustix::io::read(&self.wishes, &mut bytes).unwrap_or(0);
        bytes[..n].to_vec()
    }
}

const KEY_A: u16 = 30;

#[test]
fn keys_buttons_places_and_movement_are_in_the_ring_as_the_guest_reads_them() {
    let mut bed = bed(true);
    assert_eq!(bed.wishes(), [0, 3], "places and keys are taken here");
    bed.input(&[
        InputEvent::Key { code: KEY_A, down: true },
        InputEvent::Key { code: KEY_A, down: false },
        InputEvent::At { x: 0x7fff, y: 3 },
        InputEvent::Button { button: 4, down: true },
        InputEvent::Move { dx: -2, dy: 3, dz: 1 },
    ]);
    assert_eq!([bed.event(0), bed.event(1)], [[0x103, 30, 0, 0], [3, 30, 0, 0]]);
    assert_eq!(
        [bed.event(2), bed.event(3), bed.event(4)],
        [[4, 0x7fff, 3, 0], [0x103, 0x114, 0, 0], [1, -2i32 as u32, 3, 1]]
    );
    assert_eq!((bed.word(page::IN_PROD), bed.fake.with(|w| w.notified)), (5, 1));
}

#[test]
fn a_guest_that_wants_movement_gets_no_places() {
    let mut bed = bed(false);
    assert_eq!(bed.wishes(), [0, 6]);
    bed.input(&[InputEvent::At { x: 1, y: 1 }, InputEvent::Move { dx: 1, dy: 1, dz: 0 }]);
    assert_eq!((bed.word(page::IN_PROD), bed.event(0)[0]), (1, kind::MOTION));
}

#[test]
fn no_key_stays_down_in_a_guest_that_is_slow() {
    let mut bed = bed(true);
    let key = |code, down| InputEvent::Key { code, down };
    bed.input(&[key(42, true)]);
    let flood: Vec<_> = (0..WAITING as u16 + 60).map(|i| key(100 + i % 600, true)).collect();
    bed.input(&flood);
    let lost = bed.vkbd.lost;
    assert!(lost > 0 && bed.vkbd.waiting.len() == WAITING);
    bed.input(
        &flood
            .iter()
            .map(|e| if let InputEvent::Key { code, .. } = e { key(*code, false) } else { *e })
            .collect::<Vec<_>>(),
    );
    bed.input(&[key(42, false), key(0x300, true), key(0x300, false)]);
    // The guest reads all events.
    let mut down = std::collections::BTreeSet::new();
    let mut read = 0;
    while read != bed.word(page::IN_PROD) {
        let [what, code, ..] = bed.event(read as usize);
        if what >> 8 != 0 {
            down.insert(code)
        } else {
            down.remove(&code)
        };
        read += 1;
        bed.fake.set_word(page::IN_CONS, read);
        bed.vkbd.poll(Ready::Fd(EVENTS), &mut bed.cx);
    }
    assert!(down.is_empty(), "{down:?}");
    assert!(bed.vkbd.down.is_empty() && bed.vkbd.waiting.is_empty());
}

#[test]
fn a_guest_that_does_not_read_loses_input_and_a_slow_one_does_not() {
    let mut bed = bed(true);
    let keys: Vec<_> = (0..120u16).map(|i| InputEvent::Key { code: i, down: true }).collect();
    bed.input(&keys);
    assert_eq!((bed.word(page::IN_PROD), bed.vkbd.waiting.len()), (51, 69));
    bed.fake.set_word(page::IN_CONS, 51);
    bed.vkbd.poll(Ready::Fd(EVENTS), &mut bed.cx);
    assert_eq!((bed.word(page::IN_PROD), bed.event(51)[1], bed.event(101)[1]), (102, 51, 101));
    for _ in 0..10 {
        bed.input(&keys);
    }
    assert_eq!(bed.vkbd.waiting.len(), WAITING);
    assert!(bed.vkbd.lost > 900);
}

#[test]
fn a_guest_that_disconnects_returns_the_input_to_the_other_devices() {
    let mut bed = bed(true);
    bed.wishes();
    bed.node(false, "state", "5");
    bed.vkbd.poll(Ready::Fd(NODES), &mut bed.cx);
    assert_eq!(bed.wishes(), [0]);
    bed.input(&[InputEvent::Key { code: KEY_A, down: true }]);
    assert_eq!((bed.word(page::IN_PROD), bed.vkbd.lost), (0, 1));
}

#[test]
fn a_device_that_the_host_takes_away_before_the_guest_has_come_is_closed() {
    let fake = FakeFrontend::new(PAGES, &[8]);
    fake.put(true, "state", "1");
    fake.put(false, "state", "1");
    let (mut vkbd, mut cx) = (Vkbd::new(Box::new(fake.clone()), None, None), fake::context(0));
    vkbd.start(&mut cx);
    vkbd.poll(Ready::Again, &mut cx);
    assert_eq!(fake.back_end_node("state").as_deref(), Some("2"));
    fake.put(true, "state", "5");
    vkbd.poll(Ready::Fd(NODES), &mut cx);
    assert_eq!(fake.back_end_node("state").as_deref(), Some("6"));
}

#[test]
fn a_page_that_is_named_by_its_frame_is_refused() {
    let mut bed = bed(true);
    bed.node(false, "state", "1");
    bed.vkbd.poll(Ready::Fd(NODES), &mut bed.cx);
    bed.fake.with(|w| w.nodes.remove(&(false, "page-gref".to_owned())));
    bed.node(false, "page-ref", "4096");
    bed.node(false, "state", "3");
    bed.vkbd.poll(Ready::Fd(NODES), &mut bed.cx);
    let error = bed.fake.back_end_node("error").unwrap();
    assert!(error.contains("page-gref"), "{error}");
}

/// Both counters, the front end's state, and the viewer's records.
fn round() -> impl Strategy<Value = (u32, u32, u8, Vec<[u8; 8]>)> {
    (any::<u32>(), any::<u32>(), 0u8..8, proptest::collection::vec(any::<[u8; 8]>(), 0..20))
}

proptest! {
    #[test]
    fn a_hostile_page_is_survived(rounds in proptest::collection::vec(round(), 1..60)) {
        let mut bed = bed(true);
        for (cons, prod, state, events) in rounds {
            bed.fake.set_word(page::IN_CONS, cons);
            bed.fake.set_word(page::IN_PROD, prod);
            if state < 7 {
                bed.node(false, "state", &state.to_string());
                bed.vkbd.poll(Ready::Fd(NODES), &mut bed.cx);
            }
            for event in events {
                rustix::io::write(&bed.viewer, &event).unwrap();
            }
            bed.input(&[]);
            bed.vkbd.poll(Ready::Fd(EVENTS), &mut bed.cx);
            prop_assert!(bed.vkbd.waiting.len() <= WAITING);
            bed.wishes();
        }
    }
}

#[test]
fn state_that_is_reported_only_when_it_changes() {
    let mut b = bed(true);
    assert_eq!(b.wishes(), [0, 3]);
    b.input(&[InputEvent::ViewersBegin]);
    assert_eq!((b.wishes(), b.word(page::IN_PROD)), (vec![3], 0), "what is taken, and no event");
}
