use super::*;
use bulkhead_bus::fake::{self, FakeFrontend};
use proptest::prelude::*;
use std::sync::Mutex;

/// The host's character device: received bytes, most bytes of a write, bytes to send.
#[derive(Default)]
struct Host {
    took: Vec<u8>,
    takes: usize,
    gives: Vec<u8>,
    /// It accepts nothing because output comes too fast.
    slow: bool,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Host>>);

impl Backend for Fake {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut host = self.0.lock().unwrap();
        let n = if host.slow { 0 } else { bytes.len().min(host.takes) };
        host.took.extend_from_slice(&bytes[..n]);
        n
    }
    fn read(&mut self, bytes: &mut [u8]) -> usize {
        let mut host = self.0.lock().unwrap();
        let n = bytes.len().min(host.gives.len());
        bytes[..n].copy_from_slice(&host.gives.drain(..n).collect::<Vec<_>>());
        n
    }
    fn retry(&self) -> Option<std::time::Duration> {
        self.0.lock().unwrap().slow.then_some(std::time::Duration::from_millis(10))
    }
}

struct Bed {
    console: Console,
    cx: Context,
    guest: FakeFrontend,
    host: Fake,
}

fn bed(first: bool) -> Bed {
    let guest = FakeFrontend::new(PAGES, &[0, 8]);
    let host = Fake::default();
    host.0.lock().unwrap().takes = usize::MAX;
    let console = Console::new(Box::new(guest.clone()), guest.memory.clone(), Box::new(host.clone()), first);
    let mut bed = Bed { console, cx: fake::context(0), guest, host };
    bed.guest.put(true, "state", "1");
    bed.guest.put(false, "port", "3");
    if !first {
        bed.guest.put(false, "ring-ref", "8");
        bed.guest.put(false, "state", "1");
    }
    bed.console.start(&mut bed.cx);
    assert_eq!((bed.guest.with(|w| w.asked), bed.guest.with(|w| w.mapped)), (0, 0), "the sandbox is not closed yet");
    bed.console.poll(Ready::Again, &mut bed.cx);
    if !first {
        bed.guest.put(false, "state", "3");
        bed.console.poll(Ready::Fd(NODES), &mut bed.cx);
    }
    assert_eq!((bed.guest.back_end_node("state").as_deref(), bed.guest.with(|w| w.bound)), (Some("4"), Some(3)));
    bed
}

impl Bed {
    fn signal(&mut self) {
        self.console.poll(Ready::Fd(EVENTS), &mut self.cx);
        for _ in 0..100 {
            if self.cx.take_again() {
                self.console.poll(Ready::Again, &mut self.cx);
            }
        }
    }
    /// The domain writes as much as fits.
    fn says(&self, bytes: &[u8]) {
        for byte in bytes {
            let prod = self.guest.word(page::OUT_PROD);
            self.guest.memory.write((page::OUT + (prod & 2047) as usize) as u64, &[*byte]).unwrap();
            self.guest.set_word(page::OUT_PROD, prod.wrapping_add(1));
        }
    }
    /// The domain reads all bytes.
    fn hears(&self) -> Vec<u8> {
        let (cons, prod) = (self.guest.word(page::IN_CONS), self.guest.word(page::IN_PROD));
        self.guest.set_word(page::IN_CONS, prod);
        let byte = |at: u32| {
            let mut byte = [0];
            self.guest.memory.read(u64::from(at & 1023), &mut byte).unwrap();
            byte[0]
        };
        (0..prod.wrapping_sub(cons)).map(|i| byte(cons.wrapping_add(i))).collect()
    }
}

#[test]
fn bytes_go_both_ways_and_around_the_end() {
    for first in [true, false] {
        let mut bed = bed(first);
        let mut all = Vec::new();
        for round in 0..9u8 {
            let text: Vec<u8> = (0..700u32).map(|i| (i as u8).wrapping_mul(3) ^ round).collect();
            bed.says(&text);
            bed.host.0.lock().unwrap().gives.extend_from_slice(&text);
            bed.signal();
            all.extend_from_slice(&text);
            assert_eq!(bed.hears(), text, "{round}");
        }
        assert_eq!(bed.host.0.lock().unwrap().took, all);
        assert!(bed.guest.with(|w| w.notified) > 0);
    }
}

#[test]
fn unread_output_stays_in_the_page_and_unread_input_at_the_host() {
    let mut bed = bed(true);
    bed.host.0.lock().unwrap().takes = 0;
    bed.host.0.lock().unwrap().gives = vec![7; 5000];
    bed.says(&[1; 2048]);
    bed.signal();
    assert_eq!((bed.guest.word(page::OUT_CONS), bed.guest.word(page::IN_PROD)), (0, 1024));
    bed.host.0.lock().unwrap().takes = 100;
    bed.console.poll(Ready::Fd(HOST), &mut bed.cx);
    bed.signal();
    assert_eq!(bed.host.0.lock().unwrap().took.len(), 2048);
    assert_eq!((bed.hears().len(), bed.host.0.lock().unwrap().gives.len()), (1024, 3976));
}

/// A file is no terminal that becomes ready, so without a timer the domain would wait for ever.
#[test]
fn output_that_comes_too_fast_waits_in_the_page_and_is_taken_later() {
    let mut bed = bed(true);
    bed.host.0.lock().unwrap().slow = true;
    bed.says(&[1; 2048]);
    bed.signal();
    assert_eq!((bed.guest.word(page::OUT_CONS), bed.cx.timers.get(RETRY_TIMER)), (0, Some(10_000_000)));
    bed.host.0.lock().unwrap().slow = false;
    bed.console.poll(Ready::Timer(RETRY_TIMER), &mut bed.cx);
    assert_eq!((bed.guest.word(page::OUT_CONS), bed.cx.timers.get(RETRY_TIMER)), (2048, None));
}

#[test]
fn impossible_counters_end_the_console() {
    for (at, value) in [(page::OUT_PROD, 2049), (page::OUT_CONS, 1), (page::IN_PROD, 1025), (page::IN_CONS, 1)] {
        let mut bed = bed(false);
        bed.guest.set_word(at, value);
        bed.signal();
        assert_eq!(
            (bed.guest.back_end_node("state").as_deref(), bed.guest.with(|w| (w.bound, w.mapped))),
            (Some("5"), (None, 0)),
            "{at}"
        );
    }
}

#[test]
fn a_restarted_process_continues_with_its_port() {
    let bed = bed(true);
    bed.says(b"unheard");
    let (guest, host) = (bed.guest.clone(), bed.host.clone());
    drop(bed);
    let mut cx = fake::context(0);
    cx.marks.after(bulkhead_bus::pv::PORT, 3);
    let mut next = Console::new(Box::new(guest.clone()), guest.memory.clone(), Box::new(host.clone()), true);
    next.start(&mut cx);
    cx.marks.forget();
    next.poll(Ready::Again, &mut cx);
    assert_eq!((guest.with(|w| w.adopted), host.0.lock().unwrap().took.as_slice()), (Some(3), &b"unheard"[..]));
}

proptest! {
    #[test]
    fn a_hostile_page_is_survived(rounds in proptest::collection::vec((0usize..4, any::<u32>(), any::<bool>(), 0u8..9), 1..60)) {
        let mut bed = bed(false);
        for (which, value, near, state) in rounds {
            let at = page::IN_CONS + which * 4;
            let value = if near { bed.guest.word(at).wrapping_add(value % 3000) } else { value };
            bed.guest.set_word(at, value);
            bed.host.0.lock().unwrap().gives.resize(300, 1);
            if state < 7 {
                bed.guest.put(false, "state", &state.to_string());
                bed.console.poll(Ready::Fd(NODES), &mut bed.cx);
            }
            bed.signal();
        }
    }
}
