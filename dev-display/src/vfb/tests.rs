use super::exercised::{Domain, FRAMES};
use super::*;
use bulkhead_bus::fake::{self, FakeFrontend, FakeMemory};
use proptest::prelude::*;

#[derive(Default)]
struct Shown {
    size: (usize, usize),
    lines: Vec<Vec<u8>>,
    drawn: usize,
}

impl Surface for Shown {
    fn begin(&mut self, width: usize, height: usize) -> bool {
        self.size = (width, height);
        self.lines.resize(height, Vec::new());
        true
    }
    fn line(&mut self, y: usize, pixels: &[u32]) {
        assert_eq!(pixels.len(), self.size.0);
        self.lines[y] = pixels.iter().flat_map(|p| p.to_be_bytes()[1..].to_vec()).collect();
        self.drawn += 1;
    }
    fn end(&mut self) {}
}

struct Bed {
    vfb: Vfb,
    cx: Context,
    guest: FakeFrontend,
    memory: Arc<FakeMemory>,
}

/// The shared page is frame 5, the directory frame 6, and the picture's frames descend from 900.
fn bed() -> Bed {
    let (guest, memory) = (FakeFrontend::new(1, &[]), FakeMemory::new(FRAMES as usize * 4096));
    let mut bed = Bed {
        vfb: Vfb::new(Box::new(guest.clone()), Box::new(Domain(memory.clone()))),
        cx: fake::context(0),
        guest,
        memory,
    };
    bed.guest.put(true, "state", "1");
    bed.guest.put(false, "state", "1");
    bed.vfb.start(&mut bed.cx);
    assert_eq!(bed.guest.with(|w| w.asked), 0, "the sandbox is not closed yet");
    bed.vfb.poll(Ready::Again, &mut bed.cx);
    assert_eq!(bed.guest.back_end_node("request-update").as_deref(), Some("1"));
    for (at, value) in [
        (page::WIDTH, 800u32),
        (page::HEIGHT, 600),
        (page::LINE_LENGTH, 3200),
        (page::MEM_LENGTH, 2 << 20),
        (page::DEPTH, 32),
        (page::DIRECTORY, 6),
    ] {
        bed.word(at, value);
    }
    for i in 0..512u64 {
        bed.memory.write(6 * 4096 + i * 8, &(900 - i).to_le_bytes()).unwrap();
    }
    bed.guest.put(false, "page-ref", "5");
    bed.guest.put(false, "event-channel", "4");
    bed
}

impl Bed {
    fn word(&self, at: usize, value: u32) {
        self.memory.write(5 * 4096 + at as u64, &value.to_le_bytes()).unwrap();
    }
    fn connect(&mut self) -> String {
        self.guest.put(false, "state", "3");
        self.vfb.poll(Ready::Fd(NODES), &mut self.cx);
        self.guest.back_end_node("state").unwrap()
    }
    fn pixel(&self, byte: u64, value: &[u8]) {
        self.memory.write((900 - byte / 4096) * 4096 + byte % 4096, value).unwrap();
    }
    fn event(&mut self, words: &[u32]) {
        let mut prod = [0; 4];
        self.memory.read(5 * 4096 + page::OUT_PROD as u64, &mut prod).unwrap();
        let prod = u32::from_le_bytes(prod);
        for (i, word) in words.iter().enumerate() {
            self.word(page::OUT + (prod % 51) as usize * 40 + i * 4, *word);
        }
        self.word(page::OUT_PROD, prod + 1);
        self.vfb.poll(Ready::Fd(EVENTS), &mut self.cx);
    }
}

#[test]
fn the_domains_picture_is_drawn_where_it_has_changed() {
    let mut bed = bed();
    assert_eq!(bed.connect(), "4");
    let mut shown = Shown::default();
    bed.pixel(3200 * 7 + 4, &[1, 2, 3, 0]);
    bed.vfb.refresh(&mut shown);
    assert_eq!((shown.size, shown.drawn, &shown.lines[7][..6]), ((800, 600), 600, &[0, 0, 0, 3, 2, 1][..]));
    bed.pixel(3200 * 599 + 799 * 4, &[9, 9, 9, 0]);
    bed.vfb.refresh(&mut shown);
    assert_eq!(shown.drawn, 600, "nobody said that it had changed");
    bed.event(&[u32::from(kind::UPDATE), 0, 0, 800, 600]);
    bed.vfb.refresh(&mut shown);
    assert_eq!((shown.drawn, &shown.lines[599][799 * 3..]), (601, &[9, 9, 9][..]));
    let mut cons = [0; 4];
    bed.memory.read(5 * 4096 + page::OUT_CONS, &mut cons).unwrap();
    assert_eq!(cons, [1, 0, 0, 0]);
    // Another size, 16 bits a pixel, at another offset.
    bed.event(&[u32::from(kind::RESIZE), 640, 480, 1280, 16, 4096]);
    bed.pixel(4096, &0xf81fu16.to_le_bytes());
    bed.vfb.refresh(&mut shown);
    assert_eq!((shown.size, &shown.lines[0][..3]), ((640, 480), &[255, 0, 255][..]));
    assert!(bed.vfb.screenshot().is_some());
}

#[test]
fn a_picture_that_cannot_be_is_refused() {
    for (at, value) in [
        (page::WIDTH, 801u32),
        (page::WIDTH, 0),
        (page::WIDTH, u32::MAX),
        (page::HEIGHT, 656),
        (page::HEIGHT, 1 << 30),
        (page::LINE_LENGTH, 3199),
        (page::LINE_LENGTH, 0x7fff_ffff),
        (page::MEM_LENGTH, 0),
        (page::MEM_LENGTH, (64 << 20) + 1),
        (page::DEPTH, 8),
        (page::DIRECTORY, 4096),
    ] {
        let mut bed = bed();
        bed.word(at, value);
        assert_eq!(bed.connect(), "5", "{at}={value}");
        assert!(bed.guest.back_end_node("error").is_some());
    }
    let mut bed = bed();
    bed.guest.put(false, "page-ref", "5000");
    assert_eq!(bed.connect(), "5");
}

#[test]
fn a_new_size_that_does_not_fit_and_too_many_events_end_the_connection() {
    let mut bed = bed();
    bed.connect();
    bed.event(&[u32::from(kind::RESIZE), 800, 600, 3200, 32, 1 << 20]);
    assert_eq!((bed.guest.back_end_node("state").as_deref(), bed.vfb.mapped.is_none()), (Some("5"), true));
    let mut shown = Shown::default();
    bed.vfb.refresh(&mut shown);
    assert_eq!(shown.size, (640, 400), "black");
    let mut bed = self::bed();
    bed.connect();
    bed.word(page::OUT_PROD, 52);
    bed.vfb.poll(Ready::Fd(EVENTS), &mut bed.cx);
    assert_eq!(bed.guest.back_end_node("state").as_deref(), Some("5"));
}

/// Offsets of the fields that a hostile domain changes.
const PLACES: [usize; 12] = [
    page::OUT_PROD,
    page::WIDTH,
    page::HEIGHT,
    page::LINE_LENGTH,
    page::MEM_LENGTH,
    page::DEPTH,
    page::DIRECTORY,
    page::OUT,
    page::OUT + 4,
    page::OUT + 8,
    page::OUT + 12,
    page::OUT + 20,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn a_hostile_page_is_survived(
        rounds in proptest::collection::vec((0..PLACES.len(), any::<u32>(), any::<bool>(), 0u8..12), 1..40),
    ) {
        let mut bed = bed();
        bed.connect();
        let mut shown = Shown::default();
        for (which, value, small, state) in rounds {
            bed.word(PLACES[which], if small { value % 900 } else { value });
            if state < 7 {
                bed.guest.put(false, "state", &state.to_string());
                bed.vfb.poll(Ready::Fd(NODES), &mut bed.cx);
            }
            bed.vfb.poll(Ready::Fd(EVENTS), &mut bed.cx);
            bed.vfb.refresh(&mut shown);
            prop_assert!(shown.size.0 <= 8192 && shown.size.1 <= 8192);
        }
    }
}
