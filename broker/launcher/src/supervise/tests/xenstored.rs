//! The launcher's loop beside a xenstored that is silent or ends.
use super::*;
use crate::supervise::back_ends::has_lost_xenstore;
use bulkhead_plan::FdUse;
use bulkhead_xen::FakeXenstored;
use std::cell::RefCell;

const XENBUS: Slot = 5;

thread_local! {
    /// xenstored takes connections; each one's other end.
    static TAKES: RefCell<bool> = const { RefCell::new(true) };
    static TAKEN: RefCell<Vec<FakeXenstored>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn open_stream() -> Result<OwnedFd, XenError> {
    if !TAKES.with_borrow(|takes| *takes) {
        return Err(XenError { what: "xenstored's socket", source: std::io::ErrorKind::WouldBlock.into() });
    }
    let (fake, near) = FakeXenstored::pair().unwrap();
    TAKEN.with_borrow_mut(|taken| taken.push(fake));
    Ok(near)
}

pub(super) fn connect() -> Result<XenstoreQueue, XenError> {
    open_stream().map(XenstoreQueue::over_socket)
}

/// A machine with a `xenbus` that has a connection.
fn with_xenbus() -> Launcher {
    let mut launcher = launcher();
    let kept = vec![(FdUse::Xenstore, open_stream().unwrap())];
    let mut state = SlotState::new(XENBUS, "xenbus".into(), &kind::XENBUS, None, kept).unwrap();
    state.without_broker = true;
    launcher.slots.push(state);
    launcher
}

fn connection(launcher: &Launcher) -> u64 {
    let kept = &launcher.slots.get(XENBUS).unwrap().kept;
    let [(_, socket)] = kept.iter().filter(|(what, _)| *what == FdUse::Xenstore).collect::<Vec<_>>()[..] else {
        panic!()
    };
    rustix::fs::fstat(socket).unwrap().st_ino
}

/// xenstored ends. A child of another test may hold a copy of its socket until its exec.
fn xenstored_ends(launcher: &Launcher) {
    TAKEN.take();
    while !has_lost_xenstore(launcher.slots.get(XENBUS).unwrap()) {
        std::thread::yield_now();
    }
}

/// The process in the slot ends. Returns whether another one has been started.
fn dies(launcher: &mut Launcher) -> bool {
    let state = launcher.slots.get(XENBUS).unwrap();
    rustix::process::pidfd_send_signal(&state.life.as_ref().unwrap().spawned.pidfd, Signal::KILL).unwrap();
    exits(launcher, XENBUS)
}

/// Takes the place of the process that the launcher has started: `cat`, which has ended.
fn stands_in(launcher: &mut Launcher, phase: Phase) -> OwnedFd {
    if let Some(life) = launcher.slots.get_mut(XENBUS).unwrap().life.take() {
        rustix::process::waitid(WaitId::PidFd(life.spawned.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
    }
    lives(launcher, XENBUS, phase)
}

/// Five such ends in a minute left all PV disks without `xenbus` for ever.
#[test]
fn a_xenstored_that_ends_uses_up_no_restarts_however_often() {
    let mut launcher = with_xenbus();
    let mut socket = lives(&mut launcher, XENBUS, Phase::Running);
    for _ in 0..20 {
        xenstored_ends(&launcher);
        assert!(!dies(&mut launcher), "not at once");
        ticks(&mut launcher, 9);
        assert_eq!((pid(&launcher, XENBUS), TAKEN.with_borrow(Vec::len)), (None, 0), "one connection in a second");
        ticks(&mut launcher, 1);
        assert!(pid(&launcher, XENBUS).is_some());
        let state = launcher.slots.get(XENBUS).unwrap();
        assert_eq!((state.restarts(), state.phase()), (0, Phase::Starting));
        socket = stands_in(&mut launcher, Phase::Running);
    }
    drop(socket);
}

#[test]
fn a_xenbus_that_dies_by_itself_is_counted_and_gets_a_new_connection() {
    let mut launcher = with_xenbus();
    let _socket = lives(&mut launcher, XENBUS, Phase::Running);
    let first = connection(&launcher);
    assert!(dies(&mut launcher));
    assert_eq!(launcher.slots.get(XENBUS).unwrap().restarts(), 1);
    assert_ne!(connection(&launcher), first);
}

#[test]
fn a_xenstored_that_takes_no_connection_is_waited_for_without_counting() {
    let mut launcher = with_xenbus();
    let _socket = lives(&mut launcher, XENBUS, Phase::Running);
    TAKES.set(false);
    assert!(!dies(&mut launcher));
    for _ in 0..600 {
        ticks(&mut launcher, 10);
    }
    let state = launcher.slots.get(XENBUS).unwrap();
    assert_eq!(
        (state.restarts(), state.phase(), pid(&launcher, XENBUS)),
        (1, Phase::Starting, None),
        "ten minutes later"
    );
    TAKES.set(true);
    ticks(&mut launcher, 10);
    assert!(pid(&launcher, XENBUS).is_some());
    assert_eq!(launcher.slots.get(XENBUS).unwrap().restarts(), 1);
}

#[test]
fn with_dm_restrict_the_connection_is_kept_and_its_loss_is_final() {
    let mut launcher = with_xenbus();
    launcher.manner.restricted = true;
    let _socket = lives(&mut launcher, XENBUS, Phase::Running);
    let first = connection(&launcher);
    assert!(dies(&mut launcher));
    assert_eq!((connection(&launcher), launcher.slots.get(XENBUS).unwrap().restarts()), (first, 1));
    let _socket = stands_in(&mut launcher, Phase::Running);
    xenstored_ends(&launcher);
    assert!(!dies(&mut launcher));
    assert_eq!(launcher.slots.phase(XENBUS), Some(Phase::Dead));
}

/// Nobody makes another connection. The process was started again once a second for ever, and no start was counted.
#[test]
fn without_a_starter_the_loss_of_a_connection_is_final() {
    for waits in [false, true] {
        let mut launcher = with_xenbus();
        let _socket = lives(&mut launcher, XENBUS, Phase::Running);
        if waits {
            // It waits for xenstored already when the starter ends.
            TAKES.set(false);
            xenstored_ends(&launcher);
            assert!(!dies(&mut launcher));
            TAKES.set(true);
        }
        launcher.spawner.starter.prepare().unwrap();
        launcher.spawner.starter.exited();
        if !waits {
            xenstored_ends(&launcher);
            assert!(!dies(&mut launcher));
            assert_eq!(launcher.slots.phase(XENBUS), Some(Phase::Dead), "at once, without an attempt");
        }
        for _ in 0..100 {
            ticks(&mut launcher, 10);
        }
        assert_eq!(launcher.slots.phase(XENBUS), Some(Phase::Dead), "{waits}");
    }
}

/// The nodes of a disk of the machine's domain.
fn disk(fake: &mut FakeXenstored, devid: u32, front: &str) {
    let back = format!("/local/domain/0/backend/qdisk/1/{devid}");
    let there = format!("/local/domain/1/device/vbd/{devid}");
    for (name, value) in [("frontend", there.as_str()), ("online", "1"), ("state", "2"), ("params", "")] {
        fake.put(&format!("{back}/{name}"), value);
    }
    fake.put(&format!("{there}/state"), front);
}

/// A machine whose disks are watched, and its xenstored.
fn watching() -> (Launcher, FakeXenstored) {
    let mut launcher = launcher();
    let (fake, near) = FakeXenstored::pair().unwrap();
    let disks = ("/local/domain/0/backend/qdisk/1".to_owned(), "disks");
    launcher.pv.store.watch(XenstoreQueue::over_socket(near), vec![disks]).unwrap();
    launcher.pv.store.register(&launcher.events.epoll, WATCH).unwrap();
    launcher.pv.watched = Some(Watch::of(1, None));
    (launcher, fake)
}

/// Looks at the disks now, however short a time ago it was done.
fn look(launcher: &mut Launcher) {
    launcher.pv.store.look(Subject::Disks { changed: true });
    launcher.look_on();
}

/// The launcher and xenstored work until neither has anything to do.
fn settle(launcher: &mut Launcher, fake: &mut FakeXenstored) {
    loop {
        turn(launcher).unwrap();
        launcher.look_on();
        if !fake.work() {
            break;
        }
    }
}

/// The launcher was blocked for five seconds, and then said that the disk had gone, or served nobody.
#[test]
fn a_silent_xenstored_delays_no_restart_and_removes_no_disk() {
    let (mut launcher, mut fake) = watching();
    disk(&mut fake, 768, "1");
    look(&mut launcher);
    settle(&mut launcher, &mut fake);
    fake.silent = true;
    let _ps2 = lives(&mut launcher, PS2, Phase::Running);
    let _disk = lives(&mut launcher, QDISK, Phase::Running);
    for _ in 0..300 {
        look(&mut launcher);
        turn(&mut launcher).unwrap();
        ticks(&mut launcher, 1);
    }
    launcher.slots.get(PS2).unwrap().kill(KillReason::RestartRequest);
    assert!(exits(&mut launcher, PS2), "at once");
    assert_eq!(reason(&launcher, QDISK), None);
    // It answers: another disk is there by now, and this one has gone.
    fake.nodes.retain(|path, _| !path.contains("/768/"));
    fake.silent = false;
    settle(&mut launcher, &mut fake);
    assert_eq!(reason(&launcher, QDISK).as_deref(), Some("its disk was taken away"));
}

/// A disk that came or went while a look was under way was lost with that look's end: the next one found nothing to do.
#[test]
fn what_changes_during_a_look_is_looked_at_again() {
    let mut answers = 0;
    loop {
        let (mut launcher, mut fake) = watching();
        disk(&mut fake, 768, "1");
        settle(&mut launcher, &mut fake);
        let _disk = lives(&mut launcher, QDISK, Phase::Running);
        launcher.pv.changes = DiskChanges::new(ImageRules::default());
        launcher.pv.changes.notify(Instant::now(), true);
        launcher.scan();
        let under_way = (0..answers).all(|_| {
            let worked = fake.work_once();
            turn(&mut launcher).unwrap();
            launcher.look_on();
            worked
        });
        if !under_way {
            break;
        }
        fake.nodes.retain(|path, _| !path.contains("/768/"));
        fake.put("/local/domain/0/backend/qdisk/1/768", "");
        turn(&mut launcher).unwrap();
        launcher.look_on();
        let due = Instant::now().checked_add(Duration::from_secs(1)).unwrap();
        assert!(launcher.pv.changes.take_due(due), "{answers}: the event");
        let changed = launcher.pv.changes.take_disks();
        launcher.pv.store.look(Subject::Disks { changed });
        settle(&mut launcher, &mut fake);
        // Its process is being killed, or has exited and the slot is gone.
        let removed = launcher.slots.get(QDISK).is_none_or(|s| s.phase() == Phase::Unplugged);
        assert!(removed, "after {answers} answers");
        answers += 1;
    }
    assert!(answers > 5, "{answers}");
}

#[test]
fn a_driver_that_comes_early_is_answered_when_xenstored_answers() {
    let (mut launcher, mut fake) = watching();
    let state = |fake: &FakeXenstored| fake.nodes["/local/domain/0/backend/qdisk/1/832/state"].clone();
    settle(&mut launcher, &mut fake);
    disk(&mut fake, 832, "4");
    fake.silent = true;
    look(&mut launcher);
    ticks(&mut launcher, 100);
    assert_eq!(state(&fake), "2");
    fake.silent = false;
    settle(&mut launcher, &mut fake);
    assert_eq!((state(&fake).as_str(), fake.open.len()), ("6", 0));
    assert_eq!(launcher.pv.changes.answered, [(1, 832)]);
}

#[test]
fn control_hears_at_once_that_a_silent_xenstored_has_no_answer() {
    let (mut launcher, mut fake) = watching();
    launcher.manner.stubdom = true;
    settle(&mut launcher, &mut fake);
    let control = lives(&mut launcher, CONTROL, Phase::Running);
    fake.silent = true;
    look(&mut launcher);
    let asks = |launcher: &mut Launcher, serial| {
        let ask = FromProcess { serial, ask: Ask::Disks { known: 0 } };
        rustix::net::send(&control, &ask.to_bytes(), SendFlags::empty()).unwrap();
        turn(launcher).unwrap();
        launcher.look_on();
    };
    let answer = || {
        let mut bytes = [0; 4096];
        let (n, _) = rustix::net::recv(&control, &mut bytes[..], rustix::net::RecvFlags::DONTWAIT).ok()?;
        Some(serde_json::from_slice::<ToProcess>(&bytes[..n]).unwrap())
    };
    asks(&mut launcher, 7);
    assert_eq!(answer(), None);
    ticks(&mut launcher, 100);
    assert!(matches!(answer(), Some(ToProcess::Answer { serial: 7, result: Err(_) })));
    asks(&mut launcher, 8);
    assert!(matches!(answer(), Some(ToProcess::Answer { serial: 8, result: Err(_) })));
    fake.silent = false;
    settle(&mut launcher, &mut fake);
    asks(&mut launcher, 9);
    settle(&mut launcher, &mut fake);
    assert!(matches!(answer(), Some(ToProcess::Disks { serial: 9, .. })));
}
