//! Looks at a xenstored that a test plays.
use super::*;
use crate::nodes::Nodes as _;
use bulkhead_xen::FakeXenstored;
use std::cell::RefCell;

thread_local! {
    /// The xenstoreds of the connections that were made.
    static MADE: RefCell<Vec<FakeXenstored>> = const { RefCell::new(Vec::new()) };
}

fn connect() -> Result<XenstoreQueue, XenError> {
    let (fake, near) = FakeXenstored::pair().unwrap();
    MADE.with_borrow_mut(|made| made.push(fake));
    Ok(XenstoreQueue::over_socket(near))
}

fn refuse() -> Result<XenstoreQueue, XenError> {
    Err(XenError { what: "xenstored's socket", source: std::io::ErrorKind::WouldBlock.into() })
}

/// A connection with one watch, and nodes that lead to each other.
struct Bed {
    store: Store,
    fake: FakeXenstored,
    fired: Vec<String>,
    /// Complete looks, and what they have found.
    found: Vec<(Subject, Option<String>)>,
    given_up: Vec<u32>,
}

impl Bed {
    fn new(connect: Option<Connect>) -> Self {
        let (mut fake, near) = FakeXenstored::pair().unwrap();
        for (path, value) in [("/top/7/front", "/there"), ("/there/state", "4"), ("/top/7/state", "1")] {
            fake.put(path, value);
        }
        let mut store = Store::new(connect);
        store.watch(XenstoreQueue::over_socket(near), vec![("/there".into(), "token")]).unwrap();
        Self { store, fake, fired: Vec::new(), found: Vec::new(), given_up: Vec::new() }
    }

    /// What a look is for: three rounds, one after the other, and a write.
    fn look(seen: &mut Seen) -> Option<String> {
        let id = seen.names("/top").pop()?;
        let front = seen.value(&format!("/top/{id}/front"))?;
        seen.value(&format!("{front}/state"))
    }

    fn turn(&mut self) {
        self.fired.extend(self.store.hear());
        while let Some((subject, mut seen)) = self.store.next_round() {
            Self::look(&mut seen);
            let Some(mut seen) = self.store.complete(seen) else { continue };
            let state = Self::look(&mut seen);
            self.found.push((subject, state.clone()));
            let write =
                |value| Write { there: "/top/7/front".into(), path: "/top/7/state".into(), value, lines: [None, None] };
            self.store.finish(state.map(write).into_iter().collect());
        }
    }

    fn settle(&mut self) {
        self.turn();
        while self.fake.work() {
            self.turn();
        }
    }

    fn tick(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.given_up.extend(self.store.tick());
            self.turn();
        }
    }

    /// xenstored ends. A child of another test may hold a copy of its socket until its exec.
    fn ends(&mut self) {
        self.fake = FakeXenstored::pair().unwrap().0;
        self.loses();
    }

    fn loses(&mut self) {
        while self.store.queue.is_some() {
            self.turn();
            assert!(MADE.with_borrow(Vec::is_empty), "another one at once");
        }
    }

    fn state(&self) -> &str {
        &self.fake.nodes["/top/7/state"]
    }
}

const DISKS: (Subject, Option<&str>) = (Subject::Disks { changed: true }, Some("4"));

fn found(bed: &mut Bed) -> Vec<(Subject, Option<&str>)> {
    bed.found.iter().map(|(subject, state)| (subject.clone(), state.as_deref())).collect()
}

#[test]
fn a_look_is_complete_before_anything_is_done_and_its_writes_before_the_next() {
    let mut bed = Bed::new(None);
    bed.fake.halves = true;
    assert!(
        bed.store.look(Subject::Disks { changed: true })
            && bed.store.look(Subject::Disks { changed: true })
            && bed.store.look(Subject::Viewer)
    );
    bed.settle();
    // The rest of the last message.
    bed.fake.halves = false;
    bed.fake.work();
    bed.settle();
    assert_eq!(found(&mut bed), [DISKS, (Subject::Viewer, Some("4"))], "one for two that wait");
    assert_eq!((bed.state(), bed.fake.open.len(), bed.fired.contains(&"token".to_owned())), ("4", 0, true));
    assert!(!bed.store.is_timed());
}

/// The launcher waited five seconds for each look, and served nobody meanwhile.
#[test]
fn a_silent_xenstored_is_waited_for_by_nobody_and_asked_nothing_more() {
    // It falls silent before each of its answers: to the questions, and to the calls of the write.
    for answers in 0..7 {
        let mut bed = Bed::new(None);
        bed.settle();
        bed.store.look(Subject::Disks { changed: true });
        bed.turn();
        for _ in 0..answers {
            assert!(bed.fake.work_once(), "{answers}");
            bed.turn();
        }
        bed.fake.silent = true;
        let asked = bed.fake.calls;
        bed.tick(LATE_TICKS - 1);
        assert!(bed.store.is_timed() && !bed.store.silent);
        bed.tick(1);
        assert!(bed.store.silent && !bed.store.is_timed(), "no ticks for a xenstored that is silent for ever");
        // Its guest's disks go on changing.
        for serial in 0..100 {
            bed.store.look(Subject::Disks { changed: true });
            assert!(!bed.store.look(Subject::Media { serial, known: 0 }), "control is told at once");
            bed.tick(1);
        }
        let before = bed.found.len();
        bed.fake.put("/there/state", "6");
        bed.fake.silent = false;
        bed.fake.work();
        assert_eq!(bed.fake.calls, asked + 1, "{answers}: what was asked before, and nothing more");
        bed.settle();
        assert!(!bed.store.silent);
        assert_eq!(found(&mut bed)[before..], [(Subject::Disks { changed: true }, Some("6"))], "{answers}: a new look");
        assert_eq!((bed.state(), bed.fake.open.len()), ("6", 0), "{answers}");
    }
}

#[test]
fn requests_of_control_are_bounded_and_given_up() {
    let mut bed = Bed::new(None);
    bed.settle();
    bed.fake.silent = true;
    bed.store.look(Subject::Disks { changed: true });
    bed.turn();
    let taken = (0..1000).filter(|serial| bed.store.look(Subject::Media { serial: *serial, known: 0 })).count();
    assert_eq!(taken, WAITING);
    assert!(bed.store.look(Subject::Release { block: "xvda".into() }), "nobody asks for it again");
    bed.tick(LATE_TICKS);
    assert_eq!(bed.given_up.len(), WAITING);
    bed.fake.silent = false;
    bed.settle();
    assert_eq!(bed.found.len(), 2);
}

#[test]
fn a_connection_that_is_lost_is_replaced_with_its_watches_and_the_look_repeated() {
    let mut bed = Bed::new(Some(Box::new(connect)));
    bed.settle();
    bed.store.look(Subject::Disks { changed: true });
    bed.turn();
    // xenstored ends, and each connection after it.
    let nodes = bed.fake.nodes.clone();
    bed.ends();
    for _ in 0..5 {
        bed.tick(CONNECT_TICKS - 2);
        assert!(MADE.take().is_empty(), "not more than one in a second");
        bed.tick(1);
        assert_eq!(MADE.take().len(), 1);
        bed.loses();
    }
    bed.tick(CONNECT_TICKS);
    bed.fake = MADE.take().pop().unwrap();
    bed.fired.clear();
    bed.fake.nodes = nodes;
    bed.settle();
    assert_eq!(found(&mut bed), [DISKS]);
    assert_eq!((bed.fake.watches.len(), bed.fired.as_slice()), (1, &["token".to_owned()][..]));
}

/// Over a domain's ring the next call waits for the last answer. One that never comes stopped the queue for ever.
#[test]
fn an_answer_that_is_lost_on_a_domains_ring_ends_that_connection() {
    let mut bed = Bed::new(Some(Box::new(connect)));
    let (fake, near) = FakeXenstored::pair().unwrap();
    bed.store.begin(XenstoreQueue::over_device(near)).unwrap();
    let nodes = std::mem::replace(&mut bed.fake, fake).nodes;
    bed.fake.nodes.clone_from(&nodes);
    bed.settle();
    bed.store.look(Subject::Disks { changed: true });
    bed.turn();
    bed.fake.silent = true;
    bed.tick(LOST_TICKS - 1);
    assert!(bed.store.silent && bed.store.is_timed() && MADE.take().is_empty());
    bed.tick(1 + CONNECT_TICKS);
    bed.fake = MADE.take().pop().unwrap();
    bed.fake.nodes = nodes;
    bed.settle();
    assert_eq!(found(&mut bed), [DISKS]);
    assert!(!bed.store.silent);
}

/// In a stub domain nothing is watched. Its launcher was silent for ever, and refused each change of a CD.
#[test]
fn after_a_ring_that_was_given_up_control_is_answered_again_and_the_log_is_short() {
    let (mut fake, near) = FakeXenstored::pair().unwrap();
    let mut store = Store::new(Some(Box::new(|| {
        let (fake, near) = FakeXenstored::pair().unwrap();
        MADE.with_borrow_mut(|made| made.push(fake));
        Ok(XenstoreQueue::over_device(near))
    })));
    store.begin(XenstoreQueue::over_device(near)).unwrap();
    let mut ticks = 0;
    // Each connection is given twice the time of the last one.
    for lost in 0..4 {
        assert!(
            store.look(Subject::Media { serial: lost, known: 0 }),
            "{lost}: nothing is known against this connection"
        );
        while store.queue.is_some() || store.is_timed() {
            if let Some((_, mut seen)) = store.next_round() {
                seen.value("/there");
                store.complete(seen);
            }
            store.tick();
            ticks += 1;
            if store.queue.is_none() {
                break;
            }
        }
        assert_eq!((store.given_up, store.silent), (lost + 1, false));
        assert!(ticks >= LOST_TICKS << lost, "{ticks}");
        ticks = 0;
        // The next look makes another connection.
        store.look(Subject::Disks { changed: false });
        for _ in 0..CONNECT_TICKS {
            store.tick();
        }
        fake = MADE.take().pop().unwrap();
    }
    while let Some((_, mut seen)) = store.next_round() {
        seen.value("/there");
        if store.complete(seen).is_some() {
            store.finish(Vec::new());
        }
        fake.work();
        store.hear();
    }
    assert_eq!(store.given_up, 0, "it has answered");
}

#[test]
fn without_a_right_to_another_connection_the_loss_is_final_and_costs_nothing() {
    let mut bed = Bed::new(Some(Box::new(refuse)));
    bed.store.keep_connection();
    bed.ends();
    bed.store.look(Subject::Disks { changed: true });
    bed.tick(100);
    assert!(!bed.store.is_timed() && bed.found.is_empty() && bed.store.fd().is_none());
    assert!(!bed.store.look(Subject::Media { serial: 1, known: 0 }));
    let mut later = Bed::new(Some(Box::new(refuse)));
    later.ends();
    later.tick(1000);
    assert!(later.store.is_timed(), "it is tried again and again");
}
