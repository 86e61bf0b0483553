//! `bulkhead-weak`, for the test of `bulkhead audit`: a launcher with one process, of which one thing is weaker than its profile or
//! its launcher promises. Started as `bulkhead-dm -name weak-THING -xen-domid NUMBER` it is the launcher, otherwise the process.
use bulkhead_plan::Level;
use bulkhead_plan::promise::{FILE, Promise, PromisedGroup, PromisedLimits, Promises};
use bulkhead_policy::{FIRST_UID, Ids, Order, STARTER, Sandbox, SandboxError, Starter, Users, profile, serve_starter};
use rustix::fd::{FromRawFd, OwnedFd};
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::error::Error;
use std::io::{Read as _, Write as _};

fn main() -> Result<(), Box<dyn Error>> {
    let role = std::env::args().next().unwrap_or_default();
    match role.as_str() {
        STARTER => Ok(serve_starter(|| Err(std::io::ErrorKind::Unsupported.into()))?),
        launcher if launcher.ends_with("bulkhead-dm") => self::launcher(),
        _ => process(&role),
    }
}

fn launcher() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().skip_while(|a| a != "-name").nth(1).unwrap_or_default();
    let thing = name.strip_prefix("weak-").unwrap_or_default();
    let executable = std::fs::File::open("/proc/self/exe")?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    // A launcher in its cage cannot have a process with the user root, or with executable memory of its own.
    if !matches!(thing, "uncaged" | "root" | "executable") {
        bulkhead_policy::enter_cage(false)?;
    }
    let starter = Starter::new(executable.into(), null.into())?;
    // What a starter refuses is started by this process, as before there is a starter.
    if !matches!(thing, "uncaged" | "root" | "executable" | "namespaces") {
        starter.hand_over(Users { first: FIRST_UID, count: 1 << 20 }, &[])?;
    }
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // The one whose profile lets it write a file.
    let role = if thing == "file-size" { "serial" } else { "ps2" };
    let spawned = starter.start(Order {
        role,
        socket: theirs,
        log: rustix::stdio::stderr(),
        ids: match thing {
            "namespaces" => None,
            "root" => Some(Ids { uid: 0, gid: 0 }),
            _ => bulkhead_breakout::ids(),
        },
        outlives: false,
        file_size: None,
        group: None,
    })?;
    if !matches!(thing, "uncaged" | "root" | "executable") {
        bulkhead_policy::close_cage(false, None)?;
    }
    rustix::net::send(&ours, thing.as_bytes(), SendFlags::empty())?;
    let mut ready = [0];
    if rustix::net::recv(&ours, &mut ready, RecvFlags::empty())?.0 != 1 {
        return Err("the process has exited".into());
    }
    let limits = PromisedLimits { memory: 1 << 20, tasks: 2 };
    let promised = Promise {
        pid: spawned.pid,
        name: role.to_owned(),
        file_size: (thing == "file-size").then_some(4 << 20),
        guest_memory: 0,
        group: (thing != "no-group").then_some(limits),
    };
    let grouped = matches!(thing, "group" | "no-group" | "guests-group");
    let path = "/sys/fs/cgroup/bulkhead-77-none".to_owned();
    let controllers = if thing == "guests-group" { vec!["memory".to_owned()] } else { Vec::new() };
    let promises = Promises {
        group: grouped.then_some(PromisedGroup { path, controllers, limits }),
        processes: if thing == "unknown" { Vec::new() } else { vec![promised] },
    };
    let file = rustix::fs::memfd_create(FILE, rustix::fs::MemfdFlags::CLOEXEC)?;
    if thing != "silent" {
        rustix::io::write(&file, &serde_json::to_vec(&promises)?)?;
    }
    let mut out = std::io::stdout();
    out.write_all(b"ready\n")?;
    out.flush()?;
    // The process dies with this one.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn process(role: &str) -> Result<(), Box<dyn Error>> {
    // SAFETY: the launcher passes the socket as descriptor 3.
    let socket = unsafe { OwnedFd::from_raw_fd(3) };
    let mut bytes = [0; 64];
    let (n, _) = rustix::net::recv(&socket, &mut bytes, RecvFlags::empty())?;
    let thing = String::from_utf8_lossy(&bytes[..n]).into_owned();
    let file = (thing == "descriptor").then(|| std::fs::File::open("/proc/self/exe")).transpose()?;
    enter(role, &thing)?;
    rustix::io::write(&socket, &[1])?;
    // A system call that every profile has.
    let mut nothing = RecvAncillaryBuffer::default();
    let mut end = [0];
    let _ = rustix::net::recvmsg(&socket, &mut [std::io::IoSliceMut::new(&mut end)], &mut nothing, RecvFlags::empty());
    drop(file);
    Ok(())
}

/// Enters the sandbox, but for the thing that is weaker.
fn enter(role: &str, thing: &str) -> Result<(), Box<dyn Error>> {
    let of = |role: &str| profile(role).map(|p| Sandbox::new(p, Level::Kernel, 0)).ok_or("no profile");
    let own = of(role)?;
    let confine = |own: &Sandbox| -> Result<(), SandboxError> { own.confine().map(drop) };
    match thing {
        "nothing" => return Ok(()),
        // It has the launcher's mount namespace, so it must not change its root.
        "namespaces" => return Ok(own.filter_alone()?),
        "unfiltered" => return Ok(confine(&own)?),
        "other-filter" => {
            confine(&own)?;
            return Ok(of("vnc")?.filter_alone()?);
        }
        _ => confine(&own)?,
    }
    match thing {
        "threads" => {
            // A thread that starts behind the filter makes calls that end the process.
            let run = std::sync::Arc::new(std::sync::Barrier::new(3));
            for _ in 0..2 {
                let run = run.clone();
                std::thread::spawn(move || {
                    run.wait();
                    loop {
                        std::thread::park();
                    }
                });
            }
            run.wait();
        }
        // SAFETY: a new mapping that replaces nothing.
        "executable" => unsafe {
            let prot = libc::PROT_READ | libc::PROT_EXEC;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let page = libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0);
            if page == libc::MAP_FAILED {
                return Err(std::io::Error::last_os_error().into());
            }
        },
        _ => {}
    }
    Ok(own.seal()?)
}
