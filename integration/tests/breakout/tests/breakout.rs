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

/// The same for a process whose files may have `file_size` bytes at most.
fn run_limited(role: &str, layer: &str, attempt: &str, fd: BorrowedFd<'_>, file_size: u64) -> Outcome {
    let path = std::env::var("BULKHEAD_HOSTILE").unwrap_or(env!("CARGO_BIN_EXE_bulkhead-hostile").into());
    let executable = std::fs::File::open(path).unwrap();
    bulkhead_breakout::run_limited(executable.as_fd(), role, ids(), layer, attempt, Some(fd), Some(file_size)).unwrap()
}

/// More bytes than any profile's limit of address space.
const BEYOND: u64 = 512 << 20;
/// Kinds of memory that no process has a use for. RLIMIT_DATA does not count them.
const OTHER_MEMORY: [&str; 2] = ["shared memory", "memory that grows down"];
/// The ways to memory that the allocator uses.
const PRIVATE_MEMORY: [&str; 4] = ["private memory", "private memory in pieces", "memory by mremap", "memory by brk"];

/// Whether this machine has room for the control runs that really take [`BEYOND`] bytes. A stub domain has not; there only the
/// sandboxed runs are made, which take nothing.
fn room() -> bool {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = memory.lines().find_map(|l| l.strip_prefix("MemTotal:")).unwrap();
    total.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10 > 2 * BEYOND
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
        "memory at a chosen address",
        "move memory to a chosen address",
        "leave memory where it moves from",
        "change the protection of memory",
        "a memfd",
        "a larger pipe",
        "a larger socket buffer",
        "a lock on a file",
    ]
    .map(str::to_owned)
    .into();
    for kind in OTHER_MEMORY {
        all.push(format!("{kind}={BEYOND}"));
    }
    all.push(format!("signal another process={sibling}"));
    all
}

#[test]
fn without_the_sandbox_every_attempt_works() {
    let takes_too_much = |attempt: &String| attempt.ends_with(&format!("={BEYOND}")) && !room();
    for attempt in attempts().into_iter().filter(|a| !takes_too_much(a)) {
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

/// The limits alone, without the filter, hold for memory of every kind. With the filter they hold too, and the allocator's ways
/// stay open.
#[test]
fn memory_of_every_kind_is_limited_for_every_role() {
    for kind in OTHER_MEMORY.into_iter().chain(PRIVATE_MEMORY) {
        let (beyond, little) = (format!("{kind}={BEYOND}"), format!("{kind}={}", 2 << 20));
        if room() {
            assert_eq!(run("serial", None, "none", &beyond), Outcome::Worked, "control run: {kind}");
        }
        for profile in PROFILES {
            assert!(profile.limits.address_space < BEYOND, "{}", profile.role);
            let refused = Outcome::Refused(libc::ENOMEM as u8);
            assert_eq!(run(profile.role, ids(), "confined", &beyond), refused, "{}: {kind}", profile.role);
            if PRIVATE_MEMORY.contains(&kind) {
                assert_eq!(run(profile.role, ids(), "all", &beyond), refused, "{}: {kind}", profile.role);
                assert_eq!(run(profile.role, ids(), "all", &little), Outcome::Worked, "{}: {kind}", profile.role);
            }
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
        assert_eq!(run("serial", ids(), "namespaces", attempt), Outcome::Refused(errno as u8), "{attempt}");
        // If the kernel has Landlock, it refuses before the empty root is searched.
        let both = run("serial", ids(), "confined", attempt);
        let errors = [errno, libc::EACCES, libc::EPERM].map(|e| Outcome::Refused(e as u8));
        assert!(errors.contains(&both), "{attempt}: {both:?}");
    }
}

/// When the machine is prepared the launcher can neither start processes nor mount, whatever its capabilities are, and Landlock keeps
/// it from writing where none of its files are.
#[test]
fn the_launcher_of_a_prepared_machine_starts_nothing_and_writes_where_its_files_are() {
    for call in [
        libc::SYS_execveat,
        libc::SYS_clone,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_unshare,
        libc::SYS_setresuid,
        libc::SYS_prctl,
        libc::SYS_seccomp,
        libc::SYS_connect,
        libc::SYS_listen,
        libc::SYS_bind,
        libc::SYS_shutdown,
        libc::SYS_fchmod,
        libc::SYS_fchownat,
    ] {
        let attempt = format!("reach a call={call}");
        assert_eq!(run("launcher", None, "closed", &attempt), Outcome::Refused(libc::EPERM as u8), "{attempt}");
        assert_eq!(run("launcher", None, "cage", &attempt), Outcome::Worked, "{attempt}: control run");
    }
    // No service of the host is called: that of systemd, for one, starts programs.
    // Nor by a flag or an address of a message, on a socket that it has.
    let denied = Outcome::Refused(libc::EPERM as u8);
    for attempt in [
        "fork",
        "a unix socket",
        "an internet socket",
        "connect by sending",
        "send to a local address",
        "a netlink of another protocol",
    ] {
        assert_eq!(run("launcher", None, "closed", attempt), denied, "{attempt}");
        // The kernel of a stub domain knows no internet, and some of these fail otherwise.
        assert_ne!(run("launcher", None, "cage", attempt), denied, "{attempt}: control run");
    }
    assert_eq!(run("launcher", None, "closed", "routes' netlink"), Outcome::Worked);
    let datagrams = "a pair of datagram sockets";
    assert_eq!(run("launcher", None, "closed", datagrams), Outcome::Refused(libc::EPERM as u8));
    assert_eq!(run("launcher", None, "none", datagrams), Outcome::Worked, "control run");
    let abi = bulkhead_policy::landlock_abi();
    let truncated = std::fs::write("/var/bulkhead-truncated", "the host's").is_ok();
    let root = rustix::process::geteuid().is_root();
    let mut proved = 0;
    for attempt in [
        "make a file elsewhere",
        "write to a file of the host",
        "write to a setting of the kernel",
        "write to a setting of its own",
        "truncate a file of the host",
        "an ioctl of a device",
    ] {
        // What this kernel's Landlock does not have yet.
        let since = match attempt {
            "truncate a file of the host" => 3,
            "an ioctl of a device" => 5,
            _ => 1,
        };
        let without = run("launcher", None, "cage", attempt);
        // A container may have mounted some of them read-only, and a stub domain does not have all of them.
        let absent = [libc::EROFS, libc::ENOENT].map(|e| Outcome::Refused(e as u8)).contains(&without);
        assert!(without == Outcome::Worked || !root || absent, "{attempt}: {without:?}");
        proved += u32::from(without == Outcome::Worked);
        let closed = run("launcher", None, "closed", attempt);
        if abi >= since && without == Outcome::Worked {
            assert_eq!(closed, Outcome::Refused(libc::EACCES as u8), "{attempt}");
        } else if abi > 0 && abi < since {
            let word = if since == 3 { "truncating" } else { "ioctl" };
            assert!(
                bulkhead_policy::not_confined(abi).is_some_and(|t| t.contains(word)),
                "{attempt}: the launcher says it"
            );
        }
    }
    if truncated {
        std::fs::remove_file("/var/bulkhead-truncated").unwrap();
    }
    assert!(proved > 0 || !root, "nothing that Landlock refuses works without it");
    for attempt in ["open a file", "make a file"] {
        assert_eq!(run("launcher", None, "closed", attempt), Outcome::Worked, "{attempt}");
    }
}

/// The launcher is root and starts processes. What nobody needs for that is denied to it, whatever its capabilities are. A host may
/// deny some of these calls itself, so only the calls that work without the cage prove anything.
#[test]
fn the_launchers_cage_denies_what_nobody_needs_who_starts_processes() {
    let mut attempts: Vec<String> = [
        libc::SYS_bpf,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_ptrace,
        libc::SYS_io_uring_setup,
        libc::SYS_perf_event_open,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_userfaultfd,
        libc::SYS_open_by_handle_at,
        libc::SYS_process_vm_readv,
        libc::SYS_pidfd_getfd,
        libc::SYS_setns,
        libc::SYS_swapon,
        libc::SYS_mknod,
        libc::SYS_fsopen,
        libc::SYS_move_mount,
        libc::SYS_execve,
    ]
    .map(|call| format!("reach a call={call}"))
    .into();
    attempts.push("a socket of another family".to_owned());
    let mut proved = 0;
    for attempt in &attempts {
        let without = run("launcher", None, "none", attempt);
        proved += u32::from(without == Outcome::Worked);
        let outcome = run("launcher", None, "cage", attempt);
        assert_eq!(outcome, Outcome::Refused(libc::EPERM as u8), "{attempt}; without the cage: {without:?}");
    }
    assert!(proved >= 8, "without the cage only {proved} of {} calls reach the kernel", attempts.len());
    // What a launcher needs goes on.
    for attempt in ["open a file", "a unix socket", "an internet socket", "fork"] {
        assert_eq!(run("launcher", None, "cage", attempt), run("launcher", None, "none", attempt), "{attempt}");
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

/// A file of `len` bytes, of which none is allocated.
fn image(len: u64) -> std::fs::File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    file
}

/// Bytes of a file, and bytes that it takes on the disk.
fn takes(file: &std::fs::File) -> (u64, u64) {
    let of = std::os::unix::fs::MetadataExt::blocks;
    let data = file.metadata().unwrap();
    (data.len(), of(&data) * 512)
}

/// fallocate's modes that allocate: none, KEEP_SIZE, ZERO_RANGE, both; INSERT_RANGE moves the rest of the file back.
const ALLOCATING: [i32; 5] = [
    0,
    libc::FALLOC_FL_KEEP_SIZE,
    libc::FALLOC_FL_ZERO_RANGE,
    libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
    libc::FALLOC_FL_INSERT_RANGE,
];

/// Whether a call of fallocate was carried out, if the file system knows its mode: that of the stub domain's files does not.
fn worked(outcome: &Outcome) -> bool {
    [Outcome::Worked, Outcome::Refused(libc::EOPNOTSUPP as u8)].contains(outcome)
}

/// A compromised process of a disk could fill dom0's disk: it holds its image open for writing, and nothing but its own honesty kept
/// it inside.
#[test]
fn an_image_takes_no_more_of_the_hosts_disk_than_the_disk_that_it_is() {
    const LEN: u64 = 1 << 20;
    let written = ["write a file far beyond its end", "write a file beyond its end", "lengthen a file"];
    for attempt in written {
        let file = image(LEN);
        assert_eq!(
            run_with("ide", None, "none", attempt, Some(file.as_fd())),
            Outcome::Worked,
            "control run: {attempt}"
        );
        assert!(takes(&file).0 > LEN, "control run: {attempt}");
        for role in ["ide", "qdisk"] {
            // The limit is the kernel's: it holds before the filter is on, and without it.
            for layer in ["none", "all"] {
                let file = image(LEN);
                let outcome = run_limited(role, layer, attempt, file.as_fd(), LEN);
                assert_eq!(outcome, Outcome::Refused(libc::EFBIG as u8), "{role}, {layer}: {attempt}");
                assert_eq!(takes(&file), (LEN, 0), "{role}, {layer}: {attempt}");
            }
        }
    }
    for mode in ALLOCATING {
        let attempt = format!("allocate={mode}");
        if mode != libc::FALLOC_FL_INSERT_RANGE {
            let file = image(LEN);
            let outcome = run_with("ide", None, "none", &attempt, Some(file.as_fd()));
            assert!(worked(&outcome), "control run: {attempt}: {outcome:?}");
            assert!(outcome != Outcome::Worked || takes(&file).1 > 0, "control run: {attempt}");
        }
        for role in ["ide", "qdisk"] {
            let file = image(LEN);
            let outcome = run_limited(role, "all", &attempt, file.as_fd(), LEN);
            assert_eq!(outcome, Outcome::Killed(libc::SIGSYS), "{role}: {attempt}");
            assert_eq!(takes(&file), (LEN, 0), "{role}: {attempt}");
        }
    }
    // The two that keep the file's length pass the kernel's limit: only the filter holds them.
    let file = image(LEN);
    let attempt = format!("allocate={}", libc::FALLOC_FL_KEEP_SIZE);
    let outcome = run_limited("ide", "none", &attempt, file.as_fd(), LEN);
    // A stub domain's files are in its memory, which is no file system that an image lies on.
    assert!(worked(&outcome) || !room(), "control run: {attempt}: {outcome:?}");
    // What the guest's TRIM needs still works.
    let file = image(LEN);
    let attempt = format!("allocate={}", libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE);
    for role in ["ide", "qdisk"] {
        assert!(worked(&run_limited(role, "all", &attempt, file.as_fd(), LEN)), "{role}");
    }
}

/// A compromised process of a serial port or a console could fill dom0's disk by the file that takes the output.
#[test]
fn a_console_takes_no_more_of_the_hosts_disk_than_its_limit() {
    const LIMIT: u64 = 1 << 20;
    let file = image(0);
    assert_eq!(run_with("serial", None, "none", "fill the disk", Some(file.as_fd())), Outcome::Worked, "control run");
    assert!(takes(&file).0 > LIMIT, "control run");
    for role in ["serial", "console"] {
        for layer in ["none", "all"] {
            let file = image(0);
            let outcome = run_limited(role, layer, "fill the disk", file.as_fd(), LIMIT);
            assert_eq!(outcome, Outcome::Refused(libc::EFBIG as u8), "{role}, {layer}");
            assert_eq!(takes(&file).0, LIMIT, "{role}, {layer}");
        }
        // It may empty its files, and not make them longer in another way.
        let file = image(5);
        assert_eq!(run_limited(role, "all", "cut the area", file.as_fd(), LIMIT), Outcome::Worked, "{role}");
        for attempt in ["lengthen a file".to_owned(), format!("allocate={}", libc::FALLOC_FL_KEEP_SIZE)] {
            let file = image(0);
            let outcome = run_limited(role, "all", &attempt, file.as_fd(), LIMIT);
            assert_eq!(outcome, Outcome::Killed(libc::SIGSYS), "{role}: {attempt}");
            assert_eq!(takes(&file), (0, 0), "{role}: {attempt}");
        }
    }
}
