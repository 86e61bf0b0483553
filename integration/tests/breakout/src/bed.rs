//! What the test bed's suite runs in dom0 and a shell cannot do. Prints lines that the suite reads.
//!
//!     bulkhead-bed breakout DOMID     attempts on Xen's interfaces of a hostile program in the place of each role
//!     bulkhead-bed processes PID      looks at every process of the machine whose launcher is PID
//!     bulkhead-bed hold PID...        stops the control threads of these processes until standard input ends
//!     bulkhead-bed limits             what dm_restrict's limits do to memfds and namespaces (docs/decisions/0005)
//!     bulkhead-bed crash DOMID        ends a domain as if it had crashed
//!     bulkhead-bed native-tsc DOMID   this domain reads the processor's own time stamp counter
//!     bulkhead-bed terminal COMMAND...    runs it on a terminal of its own, with standard input and output as its other end
//!     bulkhead-bed line SOCKET        standard input and output are the other end of a Unix socket
//!     bulkhead-bed commands           in a stub domain: runs what dom0 writes to its data/bulkhead-debug/command
//!     bulkhead-bed same-picture PNG PPM   whether two pictures have the same pixels
//!     bulkhead-bed vnc ADDRESS WORD...    sees and touches a guest by VNC (vnc.rs)
//!     bulkhead-bed spoof, spoof-fd, watch, flood, tcp      frames that a guest may not send (frames.rs)
//!     bulkhead-bed ports PORT COUNT           in a guest: times reads of a port, prints their median and the longest
//!     bulkhead-bed outw PORT VALUE            in a guest: writes 16 bits to a port
//!     bulkhead-bed qmp-noise SOCKET   lines of which half are mutations of valid ones; after each block a valid one answers
mod frames;
mod vnc;

use bulkhead_breakout::{Outcome, ids, run};
use bulkhead_policy::{PROFILES, profile, verify};
use bulkhead_xen_abi::{domctl, ioctl};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

fn main() {
    if std::process::id() == 1 {
        eprintln!("bulkhead-bed: {}", init());
        return;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<i32> = arguments.iter().skip(1).filter_map(|a| a.parse().ok()).collect();
    let done = match (arguments.first().map(String::as_str), numbers.as_slice()) {
        (Some("breakout"), [domid]) => breakout(u16::try_from(*domid).unwrap_or(0)),
        (Some("processes"), [launcher]) => processes(*launcher),
        (Some("hold"), [_, ..]) => hold(&numbers),
        (Some("limits"), []) => limits(),
        (Some("crash"), [domid]) => crash(u16::try_from(*domid).unwrap_or(0)),
        (Some("native-tsc"), [domid]) => native_tsc(u16::try_from(*domid).unwrap_or(0)),
        (Some("commands"), []) => commands(),
        (Some("same-picture"), []) => same_picture(arguments.get(1).map_or("", String::as_str), arguments.get(2).map_or("", String::as_str)),
        (Some("line"), _) if arguments.len() == 2 => line(&arguments[1]),
        (Some("terminal"), _) => terminal(arguments.get(1..).unwrap_or_default()),
        (Some("spoof"), _) if arguments.len() == 4 => frames::spoof(&arguments[1], &arguments[2], &arguments[3]),
        (Some("spoof-fd"), [pid, ..]) if arguments.len() == 4 => frames::spoof_fd(*pid, &arguments[2], &arguments[3]),
        (Some("watch"), []) if arguments.len() == 2 => frames::watch(&arguments[1]),
        (Some("tcp"), _) if arguments.len() >= 4 => {
            let bytes = arguments.get(4).and_then(|n| n.parse().ok()).filter(|_| arguments[3] == "send");
            frames::tcp(&arguments[1], &arguments[2], bytes, arguments.last().is_some_and(|w| w == "checked"))
        }
        (Some("flood"), [seconds]) if arguments.len() == 3 => frames::flood(&arguments[1], u64::try_from(*seconds).unwrap_or(0)),
        (Some("ports"), [port, count]) => ports(*port, *count),
        (Some("outw"), [port, value]) => outw(*port, *value),
        (Some("vnc"), _) => vnc::run(arguments.get(1..).unwrap_or_default()),
        (Some("qmp-noise"), []) => qmp_noise(arguments.get(1).map_or("", String::as_str)),
        _ => Err("usage: bulkhead-bed breakout DOMID | processes PID | hold PID... | limits | crash DOMID | native-tsc DOMID | terminal COMMAND... | line SOCKET | commands | same-picture PNG PPM | vnc ADDRESS WORD... | spoof INTERFACE MAC IP | spoof-fd PID MAC IP | watch INTERFACE | flood INTERFACE SECONDS | tcp listen/connect ADDRESS send BYTES/receive | qmp-noise SOCKET".into()),
    };
    if let Err(e) = done {
        eprintln!("bulkhead-bed: {e}");
        std::process::exit(1);
    }
}

type Done = Result<(), Box<dyn std::error::Error>>;

/// Compares our picture (PNG, RGB) with QEMU's (PPM: "P6", width, height, 255, RGB).
fn same_picture(png: &str, ppm: &str) -> Done {
    let mut reader = png::Decoder::new(BufReader::new(std::fs::File::open(png)?)).read_info()?;
    let mut ours = vec![0; reader.output_buffer_size().ok_or("the picture is too large")?];
    let info = reader.next_frame(&mut ours)?;
    ours.truncate(info.buffer_size());
    let theirs = std::fs::read(ppm)?;
    let mut rest = theirs.as_slice();
    let mut header = Vec::new();
    while header.len() < 4 {
        let end = rest.iter().position(u8::is_ascii_whitespace).ok_or("no PPM")?;
        header.push(String::from_utf8_lossy(&rest[..end]).into_owned());
        rest = &rest[end + 1..];
    }
    let wanted = ["P6".to_owned(), info.width.to_string(), info.height.to_string(), "255".to_owned()];
    if header != wanted || info.color_type != png::ColorType::Rgb {
        return Err(format!("{ppm} is {header:?}, {png} {wanted:?}").into());
    }
    let different = ours.chunks(3).zip(rest.chunks(3)).filter(|(a, b)| a != b).count();
    if ours.len() != rest.len() || different != 0 {
        return Err(format!("{different} of {} pixels are different", ours.len() / 3).into());
    }
    Ok(())
}

/// SCHEDOP_remote_shutdown (public/sched.h), which toolstacks use.
fn crash(domid: u16) -> Done {
    let fd = node("/dev/xen/privcmd", None)?;
    let what = [u32::from(domid), 3];
    let call = ioctl::Hypercall { op: 29, arg: [4, what.as_ptr() as u64, 0, 0, 0] };
    // SAFETY: Xen reads a sched_remote_shutdown: a domid and a reason.
    match unsafe { libc::ioctl(fd.as_raw_fd(), u64::from(ioctl::PRIVCMD_HYPERCALL), &raw const call) } {
        0.. => Ok(()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

/// XEN_DOMCTL_settscinfo (public/domctl.h) with TSC_MODE_NEVER_EMULATE. A processor with an invariant counter gives PV domains
/// that by itself; the one that the bed emulates has none, and Xen then emulates every RDTSC.
fn native_tsc(domid: u16) -> Done {
    let fd = node("/dev/xen/privcmd", None)?;
    for version in domctl::VERSIONS.rev() {
        let mut arg = [0u64; 18];
        arg[..5].copy_from_slice(&[60 | u64::from(version) << 32, u64::from(domid), 2, 0, 0]);
        let call = ioctl::Hypercall { op: domctl::HYPERVISOR_DOMCTL, arg: [arg.as_mut_ptr() as u64, 0, 0, 0, 0] };
        // SAFETY: Xen reads one xen_domctl: command and version, domain, mode, frequency and incarnation, elapsed time.
        if unsafe { libc::ioctl(fd.as_raw_fd(), u64::from(ioctl::PRIVCMD_HYPERCALL), &raw const call) } == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EACCES) {
            return Err(error.into());
        }
    }
    Err("this Xen's interface version is not known".into())
}

/// Ends when the other end does.
fn line(socket: &str) -> Done {
    let mut socket = UnixStream::connect(socket)?;
    let mut write = socket.try_clone()?;
    std::thread::spawn(move || std::io::copy(&mut std::io::stdin(), &mut write));
    std::io::copy(&mut socket, &mut std::io::stdout())?;
    Ok(())
}

/// `xl console` sends what is typed only if it has a terminal.
fn terminal(command: &[String]) -> Done {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let (program, arguments) = command.split_first().ok_or("which command?")?;
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = std::fs::File::options().read(true).write(true).open(ptsname(&master, Vec::new())?.to_str()?)?;
    let mut modes = rustix::termios::tcgetattr(&slave)?;
    modes.make_raw();
    rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &modes)?;
    let mut child = std::process::Command::new(program);
    let mut child = child.args(arguments).stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave).spawn()?;
    let mut write = std::fs::File::from(rustix::io::dup(&master)?);
    std::thread::spawn(move || std::io::copy(&mut std::io::stdin(), &mut write));
    // Ends with EIO when nobody has the terminal open any more.
    // Line by line, so that who looks at the output sees whole ones; a prompt, which has no end, after a while.
    let patience = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
    let (mut line, mut bytes) = (Vec::new(), [0; 4096]);
    let mut out = std::io::stdout().lock();
    loop {
        let mut fds = [rustix::event::PollFd::new(&master, rustix::event::PollFlags::IN)];
        if rustix::event::poll(&mut fds, Some(&patience))? > 0 {
            let Ok(n @ 1..) = rustix::io::read(&master, &mut bytes) else { break };
            line.extend_from_slice(&bytes[..n]);
            let whole = line.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            out.write_all(&line[..whole])?;
            line.drain(..whole);
        } else {
            out.write_all(&line)?;
            line.clear();
        }
        out.flush()?;
    }
    out.write_all(&line)?;
    out.flush()?;
    child.wait()?;
    Ok(())
}

/// The debugging image's first process: a shell's programs, room for files, the tests' command loop; then the launcher takes this
/// process's place. Returns why it did not. (The kernel knows ELF programs only, so this is no script.)
fn init() -> std::io::Error {
    use std::os::unix::process::CommandExt as _;
    for (kind, place) in
        [(c"proc", c"/proc"), (c"sysfs", c"/sys"), (c"devtmpfs", c"/dev"), (c"tmpfs", c"/run"), (c"tmpfs", c"/tmp")]
    {
        // SAFETY: constant strings.
        if unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) } != 0 {
            return std::io::Error::last_os_error();
        }
    }
    let installed = std::process::Command::new("/bin/busybox").args(["--install", "-s", "/bin"]).status();
    match installed
        .and_then(|_| std::process::Command::new("/usr/lib/bulkhead-tests/bulkhead-bed").arg("commands").spawn())
    {
        Ok(_) => std::process::Command::new("/usr/lib/bulkhead/bulkhead-dm").exec(),
        Err(e) => e,
    }
}

/// The debugging image's shell: one command after the other; output and status go to data/bulkhead-debug/answer.
fn commands() -> Done {
    let mut xenstore = bulkhead_xen::Xenstore::connect()?;
    xenstore.write("data/bulkhead-debug/answer", "")?;
    xenstore.watch("data/bulkhead-debug/command")?;
    let mut last = String::new();
    loop {
        rustix::event::poll(&mut [rustix::event::PollFd::new(&xenstore.as_fd(), rustix::event::PollFlags::IN)], None)?;
        xenstore.changed()?;
        let command = xenstore.read("data/bulkhead-debug/command").unwrap_or_default();
        if command == last || command.is_empty() {
            continue;
        }
        last.clone_from(&command);
        let out = std::process::Command::new("/bin/sh").args(["-c", &command]).output()?;
        let mut text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        text.truncate(text.floor_char_boundary(3000));
        xenstore.write("data/bulkhead-debug/answer", &format!("{text}\nstatus {}", out.status.code().unwrap_or(-1)))?;
    }
}

fn node(path: &str, restrict: Option<(u32, u16)>) -> Result<OwnedFd, Box<dyn std::error::Error>> {
    let file = std::fs::File::options().read(true).write(true).open(path)?;
    if let Some((request, domid)) = restrict {
        // SAFETY: the request reads one domid.
        if unsafe { libc::ioctl(file.as_raw_fd(), u64::from(request), &raw const domid) } < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
    }
    Ok(file.into())
}

/// Every attempt with its control run. `domid` is a guest that exists; a descriptor that is restricted to another number
/// stands for a device of another guest.
fn breakout(domid: u16) -> Done {
    let beside = std::env::current_exe()?.with_file_name("bulkhead-hostile");
    let executable = std::fs::File::open(beside)?;
    let own = Some((ioctl::PRIVCMD_RESTRICT, domid));
    let other = Some((ioctl::PRIVCMD_RESTRICT, domid + 1000));
    let (dm_op, map) = (format!("device model operation={domid}"), format!("map guest memory={domid}"));
    let bind = format!("bind an event channel={domid}");
    let (privcmd, evtchn) = ("/dev/xen/privcmd", "/dev/xen/evtchn");
    let killed = Outcome::Killed(libc::SIGSYS);
    let mut failed = false;
    let mut check = |path: &str, restrict, role: &str, layer: &str, attempt: &str, want: &[Outcome]| -> Done {
        let fd = node(path, restrict)?;
        let ids = if layer == "none" { None } else { ids() };
        let outcome = run(executable.as_fd(), role, ids, layer, attempt, Some(fd.as_fd()))?;
        let good = want.contains(&outcome);
        failed |= !good;
        println!(
            "{} {role}, layer {layer}, restricted to {restrict:?}: {attempt}: {outcome:?}",
            if good { "as wanted:" } else { "WRONG:" }
        );
        Ok(())
    };
    // Control runs: without the layer in question, the attempt succeeds.
    check(privcmd, None, "ide", "none", "hypercall", &[Outcome::Worked])?;
    check(privcmd, own, "ide", "none", &dm_op, &[Outcome::Worked])?;
    check(privcmd, own, "ide", "none", &map, &[Outcome::Worked])?;
    check(evtchn, None, "broker", "none", &bind, &[Outcome::Worked])?;
    // (Nothing restricts a grant device: only the filter stands between a back end and every domain's grants.)
    let gntdev = "/dev/xen/gntdev";
    let (name, copy) = (format!("name a granted page={domid}"), format!("copy a granted page={domid}"));
    check(gntdev, None, "qdisk", "none", &name, &[Outcome::Worked])?;
    check(gntdev, None, "qdisk", "none", &copy, &[Outcome::Worked])?;
    // The kernel's restriction alone.
    let refused = [Outcome::Refused(libc::EPERM as u8), Outcome::Refused(libc::EACCES as u8)];
    check(privcmd, own, "ide", "none", "hypercall", &refused)?;
    check(privcmd, other, "ide", "none", &dm_op, &refused)?;
    check(privcmd, other, "ide", "none", &map, &refused)?;
    check(evtchn, Some((ioctl::EVTCHN_RESTRICT_DOMID, domid + 1000)), "broker", "none", &bind, &refused)?;
    // The filter alone, on a descriptor that the kernel has not restricted, and everything together.
    for layer in ["filter", "all"] {
        for profile in PROFILES {
            check(privcmd, None, profile.role, layer, "hypercall", std::slice::from_ref(&killed))?;
            // Restricted, as in a running machine: what may a role that has the descriptor do with it?
            let may_op = if profile.role == "broker" { Outcome::Worked } else { Outcome::Killed(libc::SIGSYS) };
            check(privcmd, own, profile.role, layer, &dm_op, &[may_op])?;
            let may_map = if bulkhead_plan::kind::of_role(profile.role).is_some_and(|k| k.memory.maps()) {
                Outcome::Worked
            } else {
                Outcome::Killed(libc::SIGSYS)
            };
            check(privcmd, own, profile.role, layer, &map, &[may_map])?;
            for attempt in [&name, &copy] {
                let may_grant = if profile.role == "grant" { Outcome::Worked } else { Outcome::Killed(libc::SIGSYS) };
                check(gntdev, None, profile.role, layer, attempt, &[may_grant])?;
            }
            let may_bind = if ["qdisk", "vkbd", "console", "vfb"].contains(&profile.role) {
                Outcome::Worked
            } else {
                Outcome::Killed(libc::SIGSYS)
            };
            check(evtchn, Some((ioctl::EVTCHN_RESTRICT_DOMID, domid)), profile.role, layer, &bind, &[may_bind])?;
        }
        check(privcmd, other, "broker", layer, &dm_op, &refused)?;
        check(privcmd, other, "ide", layer, &map, &refused)?;
    }
    if failed { Err("an attempt did not end as it must".into()) } else { Ok(()) }
}

/// How long reads of a port take, ns: each is a round trip to whoever emulates it.
fn ports(port: i32, count: i32) -> Done {
    let file = std::fs::File::open("/dev/port")?;
    let mut times = Vec::new();
    for _ in 0..count.max(1) {
        let start = std::time::Instant::now();
        rustix::io::pread(&file, &mut [0u8; 1], u64::try_from(port)?)?;
        times.push(start.elapsed().as_nanos());
    }
    times.sort_unstable();
    println!("ports: median {} longest {}", times[times.len() / 2], times[times.len() - 1]);
    Ok(())
}

fn outw(port: i32, value: i32) -> Done {
    // SAFETY: the ports of this guest; the instruction touches no memory.
    unsafe {
        if libc::iopl(3) != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        std::arch::asm!("out dx, ax", in("dx") u16::try_from(port)?, in("ax") u16::try_from(value)?, options(nomem, nostack, preserves_flags));
    }
    Ok(())
}

/// Every child of the launcher, with its profile.
fn processes(launcher: i32) -> Done {
    let own = verify::observe(launcher)?;
    let mut wrong = Vec::new();
    let pids = std::fs::read_dir("/proc")?.flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    for pid in pids.collect::<Vec<_>>() {
        // The debugging image's shell, and what has ended, are no part of the machine.
        let state = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        if !state.contains(&format!("PPid:\t{launcher}\n")) {
            continue;
        }
        if state.contains("State:\tZ") || std::fs::read_link(format!("/proc/{pid}/exe"))? == std::env::current_exe()? {
            continue;
        }
        let role = std::fs::read(format!("/proc/{pid}/cmdline"))?;
        let role = String::from_utf8_lossy(&role).trim_end_matches('\0').to_owned();
        let observed = verify::observe(pid)?;
        let profile = profile(&role).ok_or_else(|| format!("no profile for {role}"))?;
        if observed.descriptors.as_ref().is_none_or(|d| d.is_empty())
            || observed.mappings.is_empty()
            || observed.namespaces.len() != 7
        {
            wrong.push(format!("{role}: /proc does not tell enough"));
        }
        wrong.extend(verify::check(&observed, &own, profile).into_iter().map(|w| format!("{role}: {w}")));
        let mut kinds: Vec<&str> = observed.descriptors.iter().flatten().map(|(_, link)| verify::kind(link)).collect();
        kinds.sort_unstable();
        println!("{role} {pid}: descriptors {}; {} mappings", kinds.join(" "), observed.mappings.len());
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// Stops single threads, which signals cannot: by ptrace.
fn hold(pids: &[i32]) -> Done {
    let mut held = Vec::new();
    for pid in pids {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let name = std::fs::read_to_string(task.path().join("comm"))?;
            let tid: i32 = task.file_name().to_string_lossy().parse()?;
            if name.trim() != "control" || tid == *pid {
                continue;
            }
            // SAFETY: ptrace on another thread; this process has no memory in it.
            // (PTRACE_SEIZE, then PTRACE_INTERRUPT: the thread stops without a signal that its process could see.)
            let stopped = unsafe {
                libc::ptrace(libc::PTRACE_SEIZE, tid, 0, 0) == 0
                    && libc::ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0) == 0
                    && libc::waitpid(tid, std::ptr::null_mut(), libc::__WALL) == tid
            };
            if !stopped {
                return Err(format!("thread {tid} of {pid}: {}", std::io::Error::last_os_error()).into());
            }
            held.push(tid);
        }
    }
    println!("held {}", held.len());
    let _ = std::io::stdin().read(&mut [0]);
    // They go on when this process ends.
    Ok(())
}

/// Runs `attempt` in a child; its result, or the signal that it died of.
fn in_child(attempt: impl FnOnce() -> std::io::Result<()>) -> String {
    // SAFETY: a single-threaded process; the child runs `attempt` and ends.
    unsafe {
        match libc::fork() {
            0 => {
                let errno = attempt().err().map_or(0, |e| e.raw_os_error().unwrap_or(255));
                libc::_exit(errno)
            }
            pid => {
                let mut status = 0;
                libc::waitpid(pid, &raw mut status, 0);
                if libc::WIFSIGNALED(status) {
                    return format!("signal {}", libc::WTERMSIG(status));
                }
                match libc::WEXITSTATUS(status) {
                    0 => "works".into(),
                    errno => std::io::Error::from_raw_os_error(errno).to_string(),
                }
            }
        }
    }
}

/// libxl's child sets RLIMIT_FSIZE to 256 KiB, and QEMU then changes its root and its user. What of that stands in the way of
/// shared memory and of the processes' namespaces?
fn limits() -> Done {
    let check = |result: i32| if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) };
    let limit = |soft: u64, hard: u64| {
        let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
        // SAFETY: reads one rlimit.
        check(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) })
    };
    let memfd = |bytes: u64| {
        let fd = rustix::fs::memfd_create("spike", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&fd, bytes)?;
        std::io::Result::Ok(())
    };
    // SAFETY of this and the calls below: system calls on integers and constant strings, in a child that ends afterwards. What is
    // tried is the kernel's answer to them, so they are called as they are.
    let namespaces = || {
        check(unsafe {
            libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET)
        })
    };
    const LIMIT: u64 = 256 << 10;
    std::fs::create_dir_all("/run/spike-root")?;
    let user = || {
        check(unsafe { libc::setresgid(65534, 65534, 65534) })
            .and_then(|()| check(unsafe { libc::setresuid(65534, 65534, 65534) }))
    };
    let results = [
        (
            "a memfd of 200 KiB under the limit",
            "works",
            in_child(|| limit(LIMIT, LIMIT).and_then(|()| memfd(200 << 10))),
        ),
        (
            "a memfd of 64 MiB under the limit",
            "signal 25",
            in_child(|| limit(LIMIT, LIMIT).and_then(|()| memfd(64 << 20))),
        ),
        (
            "a memfd of 64 MiB after root has raised the limit",
            "works",
            in_child(|| {
                limit(LIMIT, LIMIT)?;
                limit(libc::RLIM_INFINITY, libc::RLIM_INFINITY)?;
                memfd(64 << 20)
            }),
        ),
        (
            "raising the limit as another user",
            "Operation not permitted (os error 1)",
            in_child(|| {
                limit(LIMIT, LIMIT)?;
                user()?;
                limit(libc::RLIM_INFINITY, libc::RLIM_INFINITY)
            }),
        ),
        (
            "writing a mapping of a memfd made before the limit",
            "works",
            in_child(|| {
                let area = rustix::fs::memfd_create("spike", rustix::fs::MemfdFlags::CLOEXEC)?;
                rustix::fs::ftruncate(&area, 1 << 20)?;
                limit(LIMIT, LIMIT)?;
                // SAFETY: a new mapping of a memfd of 1 MiB, written inside.
                unsafe {
                    let at = libc::mmap(
                        std::ptr::null_mut(),
                        1 << 20,
                        libc::PROT_READ | libc::PROT_WRITE,
                        libc::MAP_SHARED,
                        area.as_raw_fd(),
                        0,
                    );
                    if at == libc::MAP_FAILED {
                        return Err(std::io::Error::last_os_error());
                    }
                    at.cast::<u8>().add(512 << 10).write_volatile(1);
                }
                Ok(())
            }),
        ),
        ("new namespaces as root", "works", in_child(namespaces)),
        (
            "new namespaces after chroot",
            "Operation not permitted (os error 1)",
            in_child(|| {
                check(unsafe { libc::chroot(c"/run/spike-root".as_ptr()) })?;
                check(unsafe { libc::chdir(c"/".as_ptr()) })?;
                namespaces()
            }),
        ),
        ("new namespaces as another user", "works", in_child(|| user().and_then(|()| namespaces()))),
        (
            "new namespaces with an empty root that a mount was moved to, in a namespace of its own",
            "works",
            in_child(|| {
                check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
                let none = std::ptr::null();
                check(unsafe { libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) })?;
                check(unsafe {
                    libc::mount(c"none".as_ptr(), c"/run/spike-root".as_ptr(), c"tmpfs".as_ptr(), 0, none.cast())
                })?;
                check(unsafe { libc::chdir(c"/run/spike-root".as_ptr()) })?;
                // SAFETY: changes this child's root; the old one is left mounted below nothing.
                let pivoted = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
                if pivoted == 0 {
                    check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) })?;
                } else {
                    // The initial RAM file system cannot be pivoted away.
                    check(unsafe { libc::mount(c".".as_ptr(), c"/".as_ptr(), none, libc::MS_MOVE, none.cast()) })?;
                    check(unsafe { libc::chroot(c".".as_ptr()) })?;
                }
                check(unsafe { libc::chdir(c"/".as_ptr()) })?;
                namespaces()
            }),
        ),
    ];
    let mut wrong = 0;
    for (what, want, got) in results {
        println!("{what}: {got}");
        if want != got {
            println!("  (expected: {want})");
            wrong += 1;
        }
    }
    if wrong == 0 { Ok(()) } else { Err(format!("{wrong} results are not as docs/decisions/0005 says").into()) }
}

/// Commands that leave the machine as it is.
const HARMLESS: &[&str] = &[
    r#"{"execute":"query-status","id":1}"#,
    r#"{"execute":"query-version"}"#,
    r#"{"execute":"query-chardev","id":{"a":[1,2,3]}}"#,
    r#"{"execute":"query-vnc","arguments":{}}"#,
    r#"{"execute":"stop","id":"x"}"#,
    r#"{"execute":"cont"}"#,
    r#"{"execute":"query-block"}"#,
    r#"{"execute":"send-key","arguments":{"keys":[{"type":"qcode","data":"a"}],"hold-time":1}}"#,
    r#"{"execute":"input-send-event","arguments":{"events":[{"type":"rel","data":{"axis":"x","value":3}}]}}"#,
    r#"{"execute":"no-such-command","id":18446744073709551615}"#,
    r#"{"execute":"remove-fd","arguments":{"fdset-id":99}}"#,
    r#"{"execute":"screendump","arguments":{"filename":"/etc/shadow"}}"#,
];

/// Connects and says the first words.
fn qmp_connect(path: &str) -> Result<BufReader<UnixStream>, Box<dyn std::error::Error>> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if !line.contains("\"QMP\"") {
        return Err(format!("no greeting: {line}").into());
    }
    reader.get_mut().write_all(b"{\"execute\":\"qmp_capabilities\"}\r\n")?;
    reader.read_line(&mut line)?;
    Ok(reader)
}

fn qmp_noise(path: &str) -> Done {
    // xorshift64, always the same.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let (mut lines, mut mutated, mut closed) = (0u32, 0u32, 0u32);
    let mut connection = qmp_connect(path)?;
    for block in 0..40 {
        for _ in 0..25 {
            let mut line = HARMLESS[random(HARMLESS.len())].as_bytes().to_vec();
            if random(2) == 0 {
                mutated += 1;
                for _ in 0..=random(4) {
                    let at = random(line.len().max(1));
                    match random(5) {
                        0 if !line.is_empty() => line[at] = random(256) as u8,
                        1 if !line.is_empty() => drop(line.remove(at)),
                        2 => line.insert(at.min(line.len()), b"{}[]\",:\\\0\xff\r"[random(11)]),
                        3 => line.truncate(at),
                        _ => {
                            let again = line.clone();
                            line.splice(at.min(again.len()).., again);
                        }
                    }
                }
            }
            line.extend_from_slice(b"\r\n");
            lines += 1;
            if connection.get_mut().write_all(&line).is_err() {
                closed += 1;
                connection = qmp_connect(path)?;
            }
        }
        // A valid command, on a line of its own: whatever the noise has left open is closed by it or by an error.
        let id = 1_000_000 + block;
        let mut tries = 0;
        'answer: loop {
            tries += 1;
            if tries > 3 {
                return Err(format!("block {block}: query-status is not answered").into());
            }
            let command = format!("\r\n{{\"execute\":\"query-status\",\"id\":{id}}}\r\n");
            if connection.get_mut().write_all(command.as_bytes()).is_ok() {
                let mut line = Vec::new();
                while matches!(connection.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    if text.contains(&format!("\"id\":{id}"))
                        && text.contains("\"return\"")
                        && text.contains("\"status\"")
                    {
                        break 'answer;
                    }
                    line.clear();
                }
            }
            closed += 1;
            connection = qmp_connect(path)?;
        }
    }
    connection.get_mut().write_all(b"{\"execute\":\"cont\"}\r\n")?;
    println!("{lines} lines, {mutated} of them mutated, the connection was closed {closed} times");
    Ok(())
}
