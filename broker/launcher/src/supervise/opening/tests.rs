use super::*;
use crate::machine::disk::Properties;
use crate::machine::drives::MachineDrive;
use crate::machine::images::ImageFault;
use crate::phase::Phase;
use crate::resource::Resource;
use crate::supervise::disk_changes::DiskChanges;
use crate::supervise::tests::{SERIAL, launcher, lives, reason, turn};
use bulkhead_plan::intake::{Answer, Question};
use bulkhead_plan::{Ask, CONTROL, DriveId, FromProcess, ImageFormat, PvNodes};
use bulkhead_policy::Spawned;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags};
use std::process::{Command, Stdio};
use std::time::Duration;

fn disk(devid: u32, file: &OwnedFd) -> PvDisk {
    let drive = MachineDrive {
        at: None,
        cdrom: false,
        read_only: false,
        file: Some(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file))),
        format: ImageFormat::Raw,
        id: "x".to_owned(),
        properties: Properties::default(),
    };
    let nodes = PvNodes { front: "f".into(), back: "b".into() };
    PvDisk { devid, nodes, drive, discard: false }
}

fn image() -> OwnedFd {
    let image = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&image, 1 << 20).unwrap();
    image
}

/// Opens a disk's image, up to the question of what is in it. A child of another test may hold a copy of an earlier descriptor, and with
/// it the image's lock, until its exec.
fn begun(launcher: &Launcher, disk: &PvDisk) -> (Opening, Question) {
    loop {
        let mut opening = Opening::new(disk.drive.clone(), launcher.pv.changes.images);
        match opening.go_on(None) {
            Err(Failure::Image { fault: ImageFault::Locked, .. }) => std::thread::yield_now(),
            other => {
                assert_eq!(other.unwrap(), Some(Question::Partitions { sectors: 2048 }));
                return (opening, Question::Partitions { sectors: 2048 });
            }
        }
    }
}

/// Lets the launcher look into the images of a disk by a process that does nothing. Returns that process's pid, and its socket.
#[expect(clippy::zombie_processes, reason = "the launcher waits for it by its pidfd")]
fn looked(launcher: &mut Launcher, domid: u16, disk: &PvDisk) -> (i32, OwnedFd) {
    let (opening, question) = begun(launcher, disk);
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let (log, _) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let pidfd = rustix::process::pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    let image = rustix::io::fcntl_dupfd_cloexec(opening.image().unwrap(), 0).unwrap();
    let look = Looking::of(Spawned { pid, pidfd }, Resource::new(ours), log, image, question);
    for end in [look.socket().unwrap(), look.pidfd()] {
        epoll::add(&launcher.events.epoll, end, EventData::new_u64(LOOK), EventFlags::IN).unwrap();
    }
    launcher.pv.changes.opening.now =
        Some((Added::new(domid, disk), Stage::Looked(Box::new(Looked { opening, look, ticks: 0 }))));
    (pid, theirs)
}

/// Handles events until the killed process has been waited for.
fn reaped(launcher: &mut Launcher, pid: i32) {
    while std::path::Path::new(&format!("/proc/{pid}")).exists() {
        launcher.wait_once(Some(Duration::from_millis(100))).unwrap();
    }
    assert!(launcher.pv.changes.opening.ending.is_empty());
}

fn is_due(changes: &mut DiskChanges) -> bool {
    changes.take_due(Instant::now()) && changes.take_disks()
}

/// The launcher waited ten seconds for each image of an added disk: nobody else was heard in that time.
#[test]
fn a_look_that_is_not_answered_keeps_nobody_and_ends() {
    let (mut launcher, file) = (launcher(), image());
    let (first, second) = (disk(768, &file), disk(832, &file));
    let (looking, _socket) = looked(&mut launcher, 1, &first);
    let control = lives(&mut launcher, CONTROL, Phase::Running);
    let _serial = lives(&mut launcher, SERIAL, Phase::Running);
    let ask = FromProcess::from(Ask::Restart { slot: SERIAL }).to_bytes();
    rustix::net::send(&control, &ask, SendFlags::NOSIGNAL).unwrap();
    turn(&mut launcher).unwrap();
    assert!(reason(&launcher, SERIAL).is_some(), "others are heard meanwhile");
    assert!(launcher.open_images(&second, 1).unwrap().is_none(), "one after the other");
    (1..LOOK_TICKS).for_each(|_| launcher.tick());
    assert!(launcher.pv.changes.opening.is_timed() && !is_due(&mut launcher.pv.changes));
    launcher.tick();
    assert!(!launcher.pv.changes.opening.is_timed());
    let note = launcher.pv.changes.failed_lately(1, 768, first.drive.file.as_deref(), Instant::now()).unwrap();
    assert!(note.ends_with("intake has not answered in 10 s"), "{note}");
    assert!(is_due(&mut launcher.pv.changes), "the next disk has its turn");
    reaped(&mut launcher, looking);
}

#[test]
fn answers_that_are_none_end_the_look_and_a_disk_that_is_gone_too() {
    let (mut launcher, file) = (launcher(), image());
    let disk = disk(768, &file);
    for (says, fault) in
        [(&[][..], "intake: it has exited"), (b"nonsense", "intake has sent no answer to the question")]
    {
        let (looking, socket) = looked(&mut launcher, 1, &disk);
        match says {
            [] => drop(socket),
            bytes => drop(rustix::net::send(&socket, bytes, SendFlags::NOSIGNAL).unwrap()),
        }
        while launcher.pv.changes.opening.is_timed() {
            turn(&mut launcher).unwrap();
        }
        let note = launcher.pv.changes.failed_lately(1, 768, disk.drive.file.as_deref(), Instant::now()).unwrap();
        assert!(note.ends_with(fault), "{note}");
        assert!(is_due(&mut launcher.pv.changes));
        reaped(&mut launcher, looking);
    }
    let (looking, _socket) = looked(&mut launcher, 1, &disk);
    launcher.keep_opening(|added| added.is(1, &disk));
    assert!(launcher.pv.changes.opening.is_timed());
    launcher.keep_opening(|added| added.is(2, &disk));
    assert!(!launcher.pv.changes.opening.is_timed());
    reaped(&mut launcher, looking);
}

/// One image after the other is locked from its opening on, whoever looks into it and however long that takes.
#[test]
fn what_is_opened_for_a_disk_is_that_disks_alone() {
    let (mut launcher, file) = (launcher(), image());
    let (disk, other) = (disk(768, &file), disk(768, &image()));
    let (mut opening, _) = begun(&launcher, &disk);
    let lock = || rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared);
    assert!(opening.go_on(None).is_err(), "an answer is due");
    drop(opening);
    let (mut opening, _) = begun(&launcher, &disk);
    assert!(lock().is_err());
    assert_eq!(opening.go_on(Some(Answer::Partitions(None))).unwrap(), None);
    launcher.pv.changes.opening.now = Some((Added::new(1, &disk), Stage::Open(opening.images())));
    assert!(launcher.open_images(&other, 1).unwrap().is_none());
    assert!(launcher.open_images(&disk, 2).unwrap().is_none());
    assert!(lock().is_err(), "it waits for its own disk");
    let (fds, config) = launcher.open_images(&disk, 1).unwrap().unwrap();
    assert_eq!((config.at, config.size, fds.len()), (DriveId::PV, Some(1 << 20), 1));
    assert!(config.geometry.is_some());
    drop(fds);
    lock().unwrap();
}
