//! Every role's sandbox against every attempt, one process each; every layer alone; and the same attempts without the
//! sandbox, which must succeed, or the test would prove nothing.
use bulkhead_policy::{Ids, PROFILES, Spec, spawn};
use rustix::fd::AsFd;
use rustix::process::{WaitId, WaitIdOptions};

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Worked,
    Refused(u8),
    Killed(i32),
}

fn run(role: &str, ids: Option<Ids>, layer: &str, attempt: &str) -> Outcome {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let executable = std::fs::File::open(env!("CARGO_BIN_EXE_bulkhead-hostile")).unwrap();
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let log = std::fs::File::options().write(true).open("/dev/null").unwrap();
    let spawned = spawn(Spec { executable: executable.as_fd(), role, socket: theirs, log: log.as_fd(), ids }).unwrap();
    rustix::io::write(&ours, format!("{layer} {attempt}").as_bytes()).unwrap();
    let mut byte = [254];
    let n = rustix::io::read(&ours, &mut byte).unwrap_or(0);
    let status = rustix::process::waitid(WaitId::PidFd(spawned.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap();
    match (n, byte[0], status.terminating_signal()) {
        (_, _, Some(signal)) => Outcome::Killed(signal),
        (1, 0, _) => Outcome::Worked,
        (1, 255, _) => panic!("{role}: the sandbox was not entered"),
        (_, errno, _) => Outcome::Refused(errno),
    }
}

/// The user of a sandboxed process: of the range if we may choose.
fn ids() -> Option<Ids> {
    let uid = rustix::process::geteuid().as_raw();
    Some(if uid == 0 { Ids { uid: 2_000_000_999, gid: 2_000_000_999 } } else { Ids { uid, gid: rustix::process::getegid().as_raw() } })
}

fn attempts() -> Vec<String> {
    let sibling = std::process::id();
    let mut all: Vec<String> = [
        "open a file", "list the root", "make a file", "an internet socket", "a unix socket", "fork", "exec", "executable memory", "io_uring",
        "change O_NONBLOCK", "a new namespace", "a thread",
    ]
    .map(str::to_owned)
    .into();
    all.push(format!("signal another process={sibling}"));
    all
}

#[test]
fn without_the_sandbox_every_attempt_works() {
    for attempt in attempts() {
        // io_uring may be switched off on the machine that runs this.
        let outcome = run("serial", None, "none", &attempt);
        let io_uring_off = attempt == "io_uring" && outcome == Outcome::Refused(libc::EPERM as u8);
        assert!(outcome == Outcome::Worked || io_uring_off, "{attempt}: {outcome:?}");
    }
    let _ = std::fs::remove_file("/tmp/bulkhead-breakout");
}

#[test]
fn in_the_whole_sandbox_the_filter_ends_every_attempt_of_every_role() {
    for profile in PROFILES {
        for attempt in attempts() {
            let outcome = run(profile.role, ids(), "all", &attempt);
            assert_eq!(outcome, Outcome::Killed(libc::SIGSYS), "{}: {attempt}", profile.role);
        }
    }
}

#[test]
fn the_filter_alone_ends_every_attempt() {
    for profile in PROFILES {
        for attempt in attempts() {
            let outcome = run(profile.role, ids(), "filter", &attempt);
            assert_eq!(outcome, Outcome::Killed(libc::SIGSYS), "{}: {attempt}", profile.role);
        }
    }
}

#[test]
fn landlock_alone_refuses_files() {
    if bulkhead_policy::landlock_abi() == 0 {
        panic!("this kernel has no Landlock: the layer cannot be tested");
    }
    for attempt in ["open a file", "list the root", "make a file"] {
        assert_eq!(run("serial", ids(), "landlock", attempt), Outcome::Refused(libc::EACCES as u8), "{attempt}");
    }
}

#[test]
fn namespaces_and_the_empty_root_alone_leave_nothing_to_reach() {
    let sibling = std::process::id();
    for (attempt, errno) in [
        ("open a file", libc::ENOENT),
        ("make a file", libc::ENOENT),
        (&format!("signal another process={sibling}"), libc::ESRCH),
    ] {
        // Landlock refuses files before the empty root is looked at, where the kernel has it.
        match run("serial", ids(), "confined", attempt) {
            Outcome::Refused(e) => assert!([errno, libc::EACCES, libc::EPERM].contains(&i32::from(e)), "{attempt}: {e}"),
            other => panic!("{attempt}: {other:?}"),
        }
    }
}
