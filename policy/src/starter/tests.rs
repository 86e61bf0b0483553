use super::packets::{REMOVE, START};
use super::serve::serve_over;
use super::*;
use crate::{FIRST_UID, LAUNCHER};
use rustix::process::{WaitId, WaitIdOptions};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command};

const USERS: Users = Users { first: FIRST_UID, count: 64 };

fn pair() -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

/// The launcher's end of a starter's process that is `child` and answers at the other end.
fn process(child: &Child, patience: u32) -> (Process, OwnedFd) {
    let pid = child.id() as i32;
    let pidfd = rustix::process::pidfd_open(Pid::from_raw(pid).unwrap(), rustix::process::PidfdFlags::empty()).unwrap();
    let (socket, far) = pair();
    (Process { spawned: Spawned { pid, pidfd }, socket, patience, state: Cell::new(State::Serves) }, far)
}

fn sleeper() -> Child {
    Command::new("/bin/sleep").arg("1000").spawn().unwrap()
}

/// A late answer would be taken for that to the next packet: the launcher would wait for another process than it has started.
#[test]
fn a_starter_that_does_not_answer_in_time_is_killed_and_never_asked_again() {
    let mut child = sleeper();
    let (process, far) = process(&child, 1);
    let asked = |packet: u8| process.ask(&[packet], &[]).map_err(|e| e.kind());
    assert_eq!(asked(REMOVE).unwrap_err(), ErrorKind::TimedOut);
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    // The late answer is not taken, and nothing more is sent.
    send(&far, &Answer::Done(7).to_bytes(), &[]).unwrap();
    assert_eq!(asked(CHECK).unwrap_err(), ErrorKind::BrokenPipe);
    assert_eq!(receive(&far, 16).unwrap().0, [REMOVE]);
    drop(process);
    assert!(receive(&far, 16).is_err(), "one packet");
}

#[test]
fn a_starter_that_ends_or_takes_no_packet_is_an_error_at_once() {
    let mut child = sleeper();
    let (gone, far) = process(&child, PATIENCE);
    drop(far);
    assert!(gone.ask(&[REMOVE], &[]).is_err());
    assert_eq!(gone.ask(&[REMOVE], &[]).unwrap_err().kind(), ErrorKind::BrokenPipe);
    child.wait().unwrap();
    // A socket that nobody reads is full one day; the launcher does not wait for that.
    let mut child = sleeper();
    let (full, _far) = process(&child, PATIENCE);
    while send(&full.socket, &[REMOVE], &[]).is_ok() {}
    assert_eq!(full.ask(&[REMOVE], &[]).unwrap_err().kind(), ErrorKind::WouldBlock);
    child.wait().unwrap();
}

#[test]
fn an_answer_in_time_is_taken() {
    let mut child = sleeper();
    let (process, far) = process(&child, PATIENCE);
    std::thread::scope(|s| {
        s.spawn(|| {
            assert_eq!(receive(&far, 16).unwrap().0, [CHECK]);
            send(&far, &Answer::Done(9).to_bytes(), &[far.as_fd()]).unwrap();
        });
        let (bytes, fd) = process.ask(&[CHECK], &[]).unwrap();
        assert!(Answer::from_bytes(&bytes) == Some(Answer::Done(9)) && fd.is_some());
    });
    process.kill();
    child.wait().unwrap();
}

/// The starter's end in a thread. Its launcher is this process's parent; it starts none of what is asked here.
struct Served {
    socket: OwnedFd,
    thread: std::thread::JoinHandle<Result<()>>,
}

impl Served {
    fn new(begin: &[u8]) -> Self {
        let (socket, far) = pair();
        let thread = std::thread::spawn(move || serve_over(&far, || Err(Error::other("xenstored takes nobody"))));
        let open = |path| std::fs::File::options().read(true).open(path).unwrap();
        let (executable, null) = (open("/bin/true"), open("/dev/null"));
        send(&socket, begin, &[executable.as_fd(), null.as_fd()]).unwrap();
        Self { socket, thread }
    }

    fn begun() -> Self {
        let served = Self::new(&[&[BEGIN][..], &USERS.to_bytes()].concat());
        assert_eq!(served.answer(), Some(Answer::Done(0)));
        served
    }

    fn answer(&self) -> Option<Answer> {
        receive(&self.socket, MOST_ANSWER).ok().and_then(|(bytes, _)| Answer::from_bytes(&bytes))
    }

    fn ask(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Option<Answer> {
        send(&self.socket, packet, fds).unwrap();
        self.answer()
    }

    /// Asks for a process. The refusal is made before one is.
    fn refuses(&self, wanted: &[u8]) -> bool {
        let null = std::fs::File::open("/dev/null").unwrap();
        let answer = self.ask(wanted, &[null.as_fd(), null.as_fd()]);
        matches!(answer, Some(Answer::Failed { pid: 0, line }) if line.starts_with("no process that may be started"))
    }
}

#[test]
fn a_taken_over_launcher_gets_no_process_but_the_guests() {
    let served = Served::begun();
    let guest = Ids { uid: FIRST_UID + 5, gid: FIRST_UID + 5 };
    let order = |role: &str, ids, outlives| Wanted::new(role, ids, outlives, None).unwrap().to_bytes();
    assert!(served.refuses(&order("ide", Ids { uid: 0, gid: 0 }, false)), "root");
    assert!(served.refuses(&order("ide", Ids { uid: FIRST_UID + 64, gid: FIRST_UID + 64 }, false)), "another guest's");
    assert!(served.refuses(&order("ide", guest, true)), "one that outlives the launcher");
    for role in ["sh", STARTER, LAUNCHER] {
        assert!(served.refuses(&order(role, guest, false)), "{role}");
    }
    assert!(served.refuses(&[START]), "no order");
    let good = order("ide", guest, false);
    // Without the descriptors of its socket and its log; with a group that is none.
    assert!(matches!(served.ask(&good, &[]), Some(Answer::Failed { pid: 0, .. })));
    let grouped = Wanted::new("ide", guest, false, None).unwrap().in_group(GroupBy::Procs).to_bytes();
    assert!(served.refuses(&grouped), "no descriptor of the group");
    // It still answers.
    let xenstored = served.ask(&[XENSTORED], &[]);
    assert_eq!(xenstored, Some(Answer::Failed { pid: 0, line: "xenstored takes nobody".into() }));
    drop(served.socket);
    served.thread.join().unwrap().unwrap();
}

#[test]
fn the_starter_looks_at_the_launchers_processes_alone() {
    let served = Served::begun();
    let mut child = sleeper();
    let own = std::process::id() as i32;
    let launcher = rustix::process::getppid().expect("a parent in this namespace").as_raw_nonzero().get();
    let look = |kind: u8, pid: i32, role: &str| {
        let look = Look { pid, file_size: None, guest_memory: 0, role: RoleName::new(role).unwrap() };
        served.ask(&look.to_bytes(kind), &[])
    };
    let row = |pid, role: &str| match look(DESCRIBE, pid, role) {
        Some(Answer::Seen(row)) => Some(serde_json::from_str::<ProcessRow>(&row).unwrap()),
        _ => None,
    };
    // Itself, here this process, its launcher, here the parent, and the launcher's children.
    let (starters, launchers) = (row(own, STARTER).unwrap(), row(launcher, LAUNCHER).unwrap());
    assert_eq!((starters.pid, launchers.pid), (own as u32, launcher as u32));
    // Each with the number of its own system calls.
    assert_eq!(starters.syscalls, crate::syscalls(STARTER).map(|n| n as u32));
    assert_eq!(launchers.syscalls, crate::syscalls(LAUNCHER).map(|n| n as u32));
    assert_ne!(starters.syscalls, launchers.syscalls);
    // Its own child is none of the launcher's.
    for pid in [1, child.id() as i32] {
        if pid == launcher {
            continue;
        }
        for kind in [CHECK, DESCRIBE] {
            assert!(matches!(look(kind, pid, "ide"), Some(Answer::Failed { pid: 0, .. })), "{pid}");
        }
    }
    assert_eq!(row(own, "sh"), None);
    child.kill().unwrap();
    child.wait().unwrap();
    drop(served.socket);
    served.thread.join().unwrap().unwrap();
}

#[test]
fn a_first_packet_without_the_guests_users_ends_the_starter() {
    let users = Users { first: 0, count: 64 }.to_bytes();
    for begin in [&[BEGIN][..], &[REMOVE], &[&[BEGIN][..], &users].concat()] {
        let served = Served::new(begin);
        assert_eq!(served.thread.join().unwrap().unwrap_err().kind(), ErrorKind::InvalidData);
    }
}

/// When the launcher has exited, or was killed, the paths of its sockets go.
#[test]
fn the_paths_go_with_the_launcher() {
    let path = std::env::temp_dir().join(format!("bulkhead-starter-end-{}", std::process::id()));
    std::fs::write(&path, "").unwrap();
    let named = [&[BEGIN][..], &USERS.to_bytes(), path.as_os_str().as_encoded_bytes(), &[0]].concat();
    let served = Served::new(&named);
    assert_eq!(served.answer(), Some(Answer::Done(0)));
    assert!(path.exists());
    drop(served.socket);
    served.thread.join().unwrap().unwrap();
    assert!(!path.exists());
}

/// A process that was made and could not be told anything is waited for by its parent.
#[test]
fn a_failed_start_leaves_no_zombie() {
    let mut child = sleeper();
    let (process, far) = process(&child, PATIENCE);
    let open = |path| OwnedFd::from(std::fs::File::open(path).unwrap());
    let starter = Starter::new(open("/bin/true"), open("/dev/null")).unwrap();
    starter.process.set(process).unwrap();
    let made = Command::new("/bin/true").spawn().unwrap().id() as i32;
    let error = std::thread::scope(|s| {
        s.spawn(|| {
            receive(&far, 4096).unwrap();
            send(&far, &Answer::Failed { pid: made, line: "uid_map: no".into() }.to_bytes(), &[]).unwrap();
        });
        let ids = Some(Ids { uid: FIRST_UID, gid: FIRST_UID });
        let (socket, _other) = pair();
        let log = starter.null().as_fd();
        starter
            .start(Order { role: "ide", socket, log, ids, outlives: false, file_size: None, group: None })
            .unwrap_err()
    });
    assert_eq!(error.to_string(), "starter: uid_map: no");
    let left = rustix::process::waitid(
        WaitId::Pid(Pid::from_raw(made).unwrap()),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
    );
    assert_eq!(left.unwrap_err(), Errno::CHILD);
    drop(far);
    starter.end();
    let _ = child.wait();
}
