//! Every role's sandbox against every attempt, one process each; every layer alone; and the same attempts without the
//! sandbox, which must succeed, or the test would prove nothing.
use bulkhead_breakout::{Ids, Outcome, ids};
use bulkhead_policy::PROFILES;
use bulkhead_ring::SharedArea;
use rustix::fd::{AsFd, BorrowedFd};

fn run(role: &str, ids: Option<Ids>, layer: &str, attempt: &str) -> Outcome {
    run_with(role, ids, layer, attempt, None)
}

fn run_with(role: &str, ids: Option<Ids>, layer: &str, attempt: &str, fd: Option<BorrowedFd<'_>>) -> Outcome {
    // The stub domain's debugging image has it at another path.
    let path = std::env::var("BULKHEAD_HOSTILE").unwrap_or(env!("CARGO_BIN_EXE_bulkhead-hostile").into());
    let executable = std::fs::File::open(path).unwrap();
    bulkhead_breakout::run(executable.as_fd(), role, ids, layer, attempt, fd).unwrap()
}

fn attempts() -> Vec<String> {
    let sibling = std::process::id();
    let mut all: Vec<String> = [
        "open a file",
        "list the root",
        "make a file",
        "an internet socket",
        "a unix socket",
        "fork",
        "exec",
        "executable memory",
        "io_uring",
        "change O_NONBLOCK",
        "a new namespace",
        "a thread",
    ]
    .map(str::to_owned)
    .into();
    all.push(format!("signal another process={sibling}"));
    all
}

#[test]
fn without_the_sandbox_every_attempt_works() {
    for attempt in attempts() {
        let outcome = run("serial", None, "none", &attempt);
        // io_uring may be disabled on this host; the stub domain's kernel has neither io_uring nor Internet protocols.
        let off: &[i32] = match attempt.as_str() {
            "io_uring" => &[libc::EPERM, libc::ENOSYS],
            "an internet socket" => &[libc::EAFNOSUPPORT],
            _ => &[],
        };
        let off = off.iter().any(|e| outcome == Outcome::Refused(*e as u8));
        assert!(outcome == Outcome::Worked || off, "{attempt}: {outcome:?}");
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
        // If the kernel has Landlock, it refuses files before the empty root is searched.
        match run("serial", ids(), "confined", attempt) {
            Outcome::Refused(e) => {
                assert!([errno, libc::EACCES, libc::EPERM].contains(&i32::from(e)), "{attempt}: {e}")
            }
            other => panic!("{attempt}: {other:?}"),
        }
    }
}

/// A message goes to the socket's peer and to nobody else, wherever in memory another address lies. The filter has to look at the
/// whole pointer: of 4 GiB the lower half is that of no address.
#[test]
fn a_message_to_an_address_ends_every_role_wherever_the_address_lies() {
    use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, bind, recv, socket_with};
    let datagrams = || socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).unwrap();
    let (name, receiver, sender) = (format!("bulkhead-breakout-{}", std::process::id()), datagrams(), datagrams());
    bind(&receiver, &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap()).unwrap();
    let arrived = || recv(&receiver, &mut [0u8; 8], RecvFlags::DONTWAIT).is_ok_and(|(n, _)| n == 3);
    for at in [0x10000u64, 1 << 32, 3 << 32, 0x7000_0000_1000] {
        let attempt = format!("send to an address={at}@{name}");
        assert_eq!(run_with("ps2", None, "none", &attempt, Some(sender.as_fd())), Outcome::Worked, "control: {at:#x}");
        assert!(arrived(), "control run: {at:#x}");
        for profile in PROFILES {
            for layer in ["filter", "all"] {
                let outcome = run_with(profile.role, ids(), layer, &attempt, Some(sender.as_fd()));
                assert_eq!(outcome, Outcome::Killed(libc::SIGSYS), "{}, {layer}: {at:#x}", profile.role);
            }
        }
        assert!(!arrived(), "{at:#x}");
    }
}

/// Each direction of a channel has one writer: the reader's descriptor cannot be used for writing. The memfd's seals enforce this
/// without a sandbox.
#[test]
fn the_peers_area_cannot_be_written_mapped_for_writing_or_cut() {
    let attempts = ["write the area", "map the area for writing", "make the area's mapping writable"];
    for attempt in attempts.into_iter().chain(["cut the area"]) {
        let fd = SharedArea::create("reply", 8192).unwrap();
        assert_eq!(run_with("ps2", None, "none", attempt, Some(fd.as_fd())), Outcome::Worked, "control run: {attempt}");
        let fd = SharedArea::create("reply", 8192).unwrap();
        let _writer = SharedArea::map_writer(&fd, 8192).unwrap();
        for (role, ids, layer) in [("ps2", None, "none"), ("ps2", ids(), "confined")] {
            match run_with(role, ids, layer, attempt, Some(fd.as_fd())) {
                Outcome::Refused(errno) => {
                    assert!([libc::EPERM, libc::EACCES, libc::EFBIG].contains(&i32::from(errno)), "{attempt}: {errno}")
                }
                other => panic!("{attempt}, {layer}: {other:?}"),
            }
        }
    }
    for profile in PROFILES {
        for attempt in attempts {
            let fd = SharedArea::create("reply", 8192).unwrap();
            let _writer = SharedArea::map_writer(&fd, 8192).unwrap();
            match run_with(profile.role, ids(), "all", attempt, Some(fd.as_fd())) {
                Outcome::Refused(errno) => {
                    assert!([libc::EPERM, libc::EACCES, libc::EFBIG].contains(&i32::from(errno)), "{attempt}: {errno}")
                }
                other => assert_eq!(other, Outcome::Killed(libc::SIGSYS), "{}: {attempt}", profile.role),
            }
        }
    }
}
