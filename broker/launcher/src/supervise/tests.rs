//! The launcher's loop with processes that are no roles: a test plays each one's part on its socket.
mod xenstored;

use super::disk_changes::DiskChanges;
use super::requests::REQUESTS;
use super::*;
use crate::callers::Served;
use crate::machine::images::{ImageRules, Writable};
use crate::phase::{Late, START_TICKS};
use crate::resource::{ReceiveFault, Resource};
use crate::slot::Life;
use bulkhead_bus::WhenFull;
use bulkhead_plan::{Ask, BROKER, DeviceConfig, DeviceSlot, FdUse, FromProcess, kind};
use bulkhead_policy::{Ids, Spawned};
use bulkhead_xen::XenstoreQueue;
use rustix::event::epoll::{CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use xenstored::{connect, open_stream};

const PS2: Slot = 2;
pub(super) const SERIAL: Slot = 3;
const QDISK: Slot = 4;

/// A machine that runs, without a process yet. What it starts again ends at once: `cat` at the end of /dev/null.
pub(super) fn launcher() -> Launcher {
    use rustix::fs::{Mode as FileMode, OFlags};
    let open = |path, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, FileMode::empty()).unwrap();
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    let signals = crate::slot::doorbell().unwrap();
    epoll::add(&epoll, &signals, EventData::new_u64(SIGNALS), EventFlags::IN).unwrap();
    let disk = bulkhead_plan::DriveConfig {
        at: bulkhead_plan::DriveId::PV,
        cdrom: false,
        read_only: false,
        size: None,
        id: String::new(),
        file: None,
        formats: Vec::new(),
        full: WhenFull::Report,
        identity: bulkhead_bus::DiskIdentity::default(),
        geometry: None,
        grows_to: 0,
    };
    let devices = [
        (PS2, DeviceConfig::Ps2),
        (SERIAL, DeviceConfig::Serial { index: 0, listens: false, limit: None }),
        (QDISK, DeviceConfig::Qdisk { devid: 768, disk, emulated: None, discard: false }),
    ];
    let mut slots = Slots::default();
    slots.push(SlotState::new(CONTROL, "control".into(), &kind::CONTROL, None, Vec::new()).unwrap());
    slots.push(SlotState::new(BROKER, "broker".into(), &kind::BROKER, None, Vec::new()).unwrap());
    for (slot, config) in &devices {
        let mut state = SlotState::new(*slot, config.name(), config.kind(), None, Vec::new()).unwrap();
        state.without_broker = *slot == QDISK;
        slots.push(state);
    }
    let plan = MachinePlan {
        domid: 1,
        name: "x".into(),
        vcpus: 1,
        online: 1,
        mode: bulkhead_plan::Mode::Sim,
        level: Level::Kernel,
        devices: devices.map(|(slot, config)| DeviceSlot { slot, name: config.name(), config }).into(),
        chardevs: Vec::new(),
        paused: false,
        clock: 0,
        boot: String::new(),
        stopped: false,
        dump_dir: None,
        log_begins: 0,
    };
    Launcher {
        plan,
        manner: Manner { probe: false, attach: false, stubdom: false, restricted: false, groups_required: false },
        slots,
        spawner: Spawner {
            starter: Starter::new(open("/bin/cat", OFlags::PATH), open("/dev/null", OFlags::RDWR)).unwrap().into(),
            shape: Shape::new(1).unwrap(),
            user: None,
        },
        events: Events { ticks: Ticks::new(&epoll).unwrap(), epoll, signals },
        held: Held { open: Vec::new(), paths: Vec::new(), rules: Vec::new() },
        xen: XenEnds { privcmd: None, xenstore: None, report: Vec::new(), open_stream: Box::new(open_stream) },
        pv: Pv {
            watched: None,
            changes: DiskChanges::new(ImageRules::default()),
            store: Store::new(Some(Box::new(connect))),
        },
        requests: Requests { next_token: 1, hot_plug: None, dumps: Dumps::default() },
        place: None,
        groups: Err(crate::groups::NoGroups::Off),
        promises: None,
        shown: Vec::new(),
        running: true,
    }
}

/// Gives a slot a process that does nothing, in a phase. Returns the process's end of its socket.
#[expect(clippy::zombie_processes, reason = "the launcher, or its `drop`, waits for it by its pidfd")]
pub(super) fn lives(launcher: &mut Launcher, slot: Slot, phase: Phase) -> OwnedFd {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let pidfd = rustix::process::pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    let number = u64::from(slot);
    epoll::add(&launcher.events.epoll, &pidfd, EventData::new_u64(number | PIDFD), EventFlags::IN).unwrap();
    epoll::add(&launcher.events.epoll, &ours, EventData::new_u64(number), EventFlags::IN).unwrap();
    let state = launcher.slots.get_mut(slot).unwrap();
    state.begin(Life { spawned: Spawned { pid, pidfd }, resource: Resource::new(ours), file_size: None });
    for next in [Phase::Entering, Phase::Attaching, Phase::Running] {
        if state.phase() != phase && (next == phase || state.phase().may_become(next)) {
            state.enter(next);
        }
    }
    assert_eq!(state.phase(), phase);
    theirs
}

fn pid(launcher: &Launcher, slot: Slot) -> Option<i32> {
    Some(launcher.slots.get(slot)?.life.as_ref()?.spawned.pid)
}

/// What the launcher would say of the process's end.
pub(super) fn reason(launcher: &Launcher, slot: Slot) -> Option<String> {
    launcher.slots.get(slot).unwrap().reason.borrow().as_ref().map(ToString::to_string)
}

/// Handles what there is, without waiting.
pub(super) fn turn(launcher: &mut Launcher) -> Result<bool, Failure> {
    launcher.wait_once(Some(Duration::ZERO)).map(|end| end.is_some())
}

/// Waits for the exit of a slot's process, and handles it. Returns whether another one has been started.
fn exits(launcher: &mut Launcher, slot: Slot) -> bool {
    let old = pid(launcher, slot).unwrap();
    let pidfd = rustix::io::dup(&launcher.slots.get(slot).unwrap().life.as_ref().unwrap().spawned.pidfd).unwrap();
    rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
    launcher.exited(slot).unwrap();
    pid(launcher, slot).is_some_and(|new| new != old)
}

fn ticks(launcher: &mut Launcher, number: u32) {
    for _ in 0..number {
        launcher.tick();
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        for life in self.slots.iter_mut().filter_map(|s| s.life.take()) {
            let _ = rustix::process::pidfd_send_signal(&life.spawned.pidfd, Signal::KILL);
            let _ = rustix::process::waitid(WaitId::PidFd(life.spawned.pidfd.as_fd()), WaitIdOptions::EXITED);
        }
    }
}

/// Landlock's rules come from here: the directory of an image that is written, and nothing of one that is read or has no name any more.
#[test]
fn the_launcher_reaches_the_directories_of_the_images_that_it_writes_and_no_others() {
    let all = std::env::temp_dir().join(format!("bulkhead-reach-{}", std::process::id()));
    std::fs::create_dir_all(&all).unwrap();
    let dir = |name: &str| all.join(name);
    let image = |name: &str, write: bool| {
        std::fs::create_dir(dir(name)).unwrap();
        std::fs::write(dir(name).join("image"), "").unwrap();
        let open = std::fs::File::options().read(true).write(write).open(dir(name).join("image")).unwrap();
        (FdUse::Drive(bulkhead_plan::DriveId::PV), OwnedFd::from(open))
    };
    // What a process has open for its output is no image.
    let (_, log) = image("log", true);
    let kept = vec![image("written", true), image("read", false), image("removed", true), (FdUse::LogFile, log)];
    std::fs::remove_file(dir("removed").join("image")).unwrap();
    let mut launcher = launcher();
    launcher.plan.dump_dir = Some(dir("pictures").display().to_string());
    launcher.slots.get_mut(QDISK).unwrap().kept = kept;
    let always = ["/dev/null", "/dev/xen", "/proc/irq"].map(PathBuf::from);
    let sorted = |more: &[PathBuf]| {
        let mut all = [&always, more].concat();
        all.sort();
        all
    };
    let reach = launcher.reach(&Writable::default());
    assert_eq!(reach.written, sorted(&[dir("written")]));
    assert_eq!(reach.made, [dir("pictures")]);
    let named = launcher.reach(&Writable::Directories(vec!["/srv/images".into()]));
    assert_eq!(named.written, sorted(&["/srv/images".into(), dir("written")]));
    assert_eq!(launcher.reach(&Writable::Any).written, sorted(&["/".into()]));
    std::fs::remove_dir_all(&all).unwrap();
}

/// A process that was started while the machine ran had no time limit: its device was away for ever.
#[test]
fn a_process_that_stops_in_a_phase_of_its_start_is_killed_and_started_again() {
    for (slot, phase, late) in [
        (PS2, Phase::Starting, Late::Areas),
        (PS2, Phase::Entering, Late::Sandbox),
        (PS2, Phase::Attaching, Late::Channel),
        // Started by a hand-off, or for a disk that was added.
        (QDISK, Phase::Starting, Late::Areas),
        (QDISK, Phase::Entering, Late::Sandbox),
        (CONTROL, Phase::Starting, Late::Areas),
    ] {
        let mut launcher = launcher();
        let _socket = lives(&mut launcher, slot, phase);
        let _others = lives(&mut launcher, SERIAL, Phase::Running);
        ticks(&mut launcher, START_TICKS - 1);
        assert_eq!(reason(&launcher, slot), None, "{slot} {phase:?}");
        ticks(&mut launcher, 1);
        assert_eq!(reason(&launcher, slot), Some(late.to_string()), "{slot} {phase:?}");
        assert!(exits(&mut launcher, slot), "{slot} {phase:?}");
        let state = launcher.slots.get(slot).unwrap();
        assert_eq!((state.restarts(), state.phase()), (1, Phase::Starting), "{slot} {phase:?}");
        assert_eq!(reason(&launcher, SERIAL), None);
    }
}

/// A process that waits for `Go` dies of any other message.
#[test]
fn a_server_of_back_ends_hears_go_before_it_hears_of_their_processes() {
    let mut launcher = launcher();
    let server = lives(&mut launcher, SERIAL, Phase::Attaching);
    launcher.slots.get_mut(QDISK).unwrap().served = Some(Served { xenbus: SERIAL, grant: SERIAL, number: 0 });
    launcher.slots.connect_back_end(QDISK).unwrap();
    launcher.attached(SERIAL).unwrap();
    let mut told = Vec::new();
    let mut bytes = [0; 4096];
    while let Ok((_, n)) = rustix::net::recv(&server, &mut bytes[..], rustix::net::RecvFlags::DONTWAIT) {
        told.push(serde_json::from_slice::<ToProcess>(&bytes[..n]).unwrap());
    }
    assert_eq!(told.first(), Some(&ToProcess::Go), "{told:?}");
    assert!(told.len() > 1 && told.iter().skip(1).all(|t| matches!(t, ToProcess::Life { caller: 0 })), "{told:?}");
}

#[test]
fn an_overrun_kills_the_back_end_alone_and_only_who_serves_back_ends_may_report_one() {
    const XENBUS: Slot = 5;
    let mut launcher = launcher();
    let mut state = SlotState::new(XENBUS, "xenbus".into(), &kind::XENBUS, None, Vec::new()).unwrap();
    state.without_broker = true;
    launcher.slots.push(state);
    let xenbus = lives(&mut launcher, XENBUS, Phase::Running);
    let [_disk, ps2] = [QDISK, PS2].map(|slot| lives(&mut launcher, slot, Phase::Running));
    launcher.slots.get_mut(QDISK).unwrap().served = Some(Served { xenbus: XENBUS, grant: XENBUS, number: 3 });
    let mut report = |from: &OwnedFd, caller| {
        let bytes = FromProcess::from(Ask::Overrun { caller }).to_bytes();
        rustix::net::send(from, &bytes, SendFlags::empty()).unwrap();
        assert!(!turn(&mut launcher).unwrap());
        [QDISK, XENBUS, PS2].map(|slot| reason(&launcher, slot))
    };
    assert_eq!(report(&xenbus, 9), [None, None, None], "one that has just been removed");
    let overrun = Some("made more calls to xenbus than it may".to_owned());
    assert_eq!(report(&xenbus, 3), [overrun.clone(), None, None]);
    assert_eq!(report(&ps2, 3), [overrun, None, Some("asked for what it may not".to_owned())]);
    assert!(exits(&mut launcher, QDISK), "it is started again");
}

#[test]
fn each_phase_has_its_own_time() {
    let mut launcher = launcher();
    let _socket = lives(&mut launcher, PS2, Phase::Starting);
    for next in [Phase::Entering, Phase::Attaching, Phase::Running] {
        ticks(&mut launcher, START_TICKS - 1);
        launcher.slots.get_mut(PS2).unwrap().enter(next);
    }
    ticks(&mut launcher, START_TICKS * 3);
    assert_eq!(reason(&launcher, PS2), None, "a process that runs may be silent");
    assert!(!launcher.slots.iter().any(|s| s.is_timed(true)), "and costs no tick");
}

#[test]
fn five_processes_that_stop_are_enough() {
    let mut launcher = launcher();
    let _socket = lives(&mut launcher, PS2, Phase::Entering);
    let mut sockets = Vec::new();
    for _ in 0..5 {
        ticks(&mut launcher, START_TICKS);
        assert!(exits(&mut launcher, PS2));
        // The one that was started ends by itself; another one takes its place.
        let state = launcher.slots.get_mut(PS2).unwrap();
        let life = state.life.take().unwrap();
        rustix::process::waitid(WaitId::PidFd(life.spawned.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
        sockets.push(lives(&mut launcher, PS2, Phase::Entering));
    }
    ticks(&mut launcher, START_TICKS);
    assert!(!exits(&mut launcher, PS2));
    assert_eq!(launcher.slots.phase(PS2), Some(Phase::Dead));
}

/// Each further request of a process that had asked for what it may not was a line in the log, until it had exited.
#[test]
fn nothing_more_is_heard_of_a_process_that_was_killed() {
    let mut launcher = launcher();
    let ps2 = lives(&mut launcher, PS2, Phase::Running);
    for _ in 0..40 {
        rustix::net::send(&ps2, &FromProcess::from(Ask::Processes).to_bytes(), SendFlags::NOSIGNAL).unwrap();
    }
    for _ in 0..3 {
        turn(&mut launcher).unwrap();
    }
    assert_eq!(reason(&launcher, PS2).as_deref(), Some("asked for what it may not"));
    let life = launcher.slots.get(PS2).unwrap().life.as_ref().unwrap();
    let left = std::iter::from_fn(|| life.resource.receive().ok().flatten()).count();
    assert_eq!(left, 39, "the first one was enough");
    assert!(exits(&mut launcher, PS2));
}

/// A control that asked for the process table without a pause had sixteen of them in each turn, each of which asks the starter for every
/// process: a process that had been killed was not back for longer than its start may take.
#[test]
fn who_asks_for_tables_without_a_pause_has_one_in_each_turn() {
    let mut launcher = launcher();
    let control = lives(&mut launcher, CONTROL, Phase::Running);
    let answers = || std::iter::from_fn(|| rustix::net::recv(&control, &mut [0; 4096][..], RecvFlags::DONTWAIT).ok());
    let asks = |ask: Ask| rustix::net::send(&control, &FromProcess::from(ask).to_bytes(), SendFlags::NOSIGNAL).unwrap();
    for _ in 0..4 {
        asks(Ask::Processes);
    }
    for _ in 0..3 {
        turn(&mut launcher).unwrap();
        assert_eq!(answers().count(), 1);
    }
    // Requests that cost little have more of a turn.
    for _ in 0..REQUESTS {
        asks(Ask::Restart { slot: SERIAL });
    }
    turn(&mut launcher).unwrap();
    turn(&mut launcher).unwrap();
    assert_eq!(answers().count(), 1 + REQUESTS);
    for _ in 0..REQUESTS + 3 {
        asks(Ask::Restart { slot: SERIAL });
    }
    turn(&mut launcher).unwrap();
    assert_eq!(answers().count(), REQUESTS, "but not all of it");
    turn(&mut launcher).unwrap();
    assert_eq!(answers().count(), 3);
}

/// The launcher waited a second for the exit, in which it served nobody.
#[test]
fn a_process_that_closes_its_socket_and_stays_delays_nobody() {
    let mut launcher = launcher();
    drop(lives(&mut launcher, PS2, Phase::Running));
    let control = lives(&mut launcher, CONTROL, Phase::Running);
    rustix::net::send(&control, &FromProcess::from(Ask::Restart { slot: SERIAL }).to_bytes(), SendFlags::empty())
        .unwrap();
    // A child of another test may hold a copy of the socket until its exec.
    while !launcher.slots.get(PS2).unwrap().is_timed(true) {
        turn(&mut launcher).unwrap();
    }
    let mut answer = [0; 4096];
    assert!(rustix::net::recv(&control, &mut answer[..], rustix::net::RecvFlags::DONTWAIT).is_ok());
    assert_eq!(reason(&launcher, PS2), None, "it has not been waited for");
    ticks(&mut launcher, 9);
    assert_eq!(reason(&launcher, PS2), None);
    ticks(&mut launcher, 1);
    assert_eq!(reason(&launcher, PS2).as_deref(), Some("closed its socket"));
    assert!(exits(&mut launcher, PS2));
}

/// A process whose start failed, for want of memory or of a process number, was never started again.
#[test]
fn a_process_that_cannot_be_started_is_tried_again_and_counted() {
    let mut launcher = launcher();
    let _socket = lives(&mut launcher, PS2, Phase::Running);
    let state = launcher.slots.get_mut(PS2).unwrap();
    // No namespace can have this user, for the kernel it is none.
    state.ids = Some(Ids { uid: u32::MAX, gid: u32::MAX });
    state.kill(KillReason::RestartRequest);
    assert!(!exits(&mut launcher, PS2));
    for restarts in 1..=4 {
        assert_eq!(launcher.slots.get(PS2).unwrap().restarts(), restarts);
        assert_eq!(launcher.slots.phase(PS2), Some(Phase::Starting));
        ticks(&mut launcher, 10);
    }
    launcher.slots.get_mut(PS2).unwrap().ids = None;
    assert_eq!(pid(&launcher, PS2), None);
    ticks(&mut launcher, 10);
    assert_eq!(launcher.slots.phase(PS2), Some(Phase::Dead), "five starts in a minute");
    let _socket = lives(&mut launcher, SERIAL, Phase::Running);
    let state = launcher.slots.get_mut(SERIAL).unwrap();
    state.ids = Some(Ids { uid: u32::MAX, gid: u32::MAX });
    state.kill(KillReason::RestartRequest);
    assert!(!exits(&mut launcher, SERIAL));
    launcher.slots.get_mut(SERIAL).unwrap().ids = None;
    ticks(&mut launcher, 10);
    assert!(pid(&launcher, SERIAL).is_some());
}

fn line(cause: Cause, last: Option<&str>) -> String {
    StartFault::Exited(EarlyExit { name: "ide".into(), pid: 7, cause, last: last.map(str::to_owned) }).to_string()
}

#[test]
fn a_process_that_exits_early_is_named_with_its_own_words_or_its_exit() {
    let killed = || Cause { reason: Some(KillReason::Receive(ReceiveFault::Closed)), exit: Exit::Signal(9) };
    let exited = Cause { reason: None, exit: Exit::Status(2) };
    assert_eq!(line(exited, None), "ide (pid 7): ended with status 2 (before the machine was ready)");
    assert_eq!(
        line(killed(), None),
        "ide (pid 7): closed its socket (killed by signal 9) (before the machine was ready)"
    );
    assert_eq!(line(killed(), Some("no image")), "ide: no image (before the machine was ready)");
    let filtered = Cause { reason: None, exit: Exit::Filter };
    assert!(line(filtered, None).contains("system call filter (SIGSYS)"));
}
