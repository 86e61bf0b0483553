//! What a process takes by itself, with the descriptors of its role in its hands. Each attempt has a process of its own, and each a
//! control run without the sandbox, which gets more than any role's bound.
use super::{Table, figures, profiles};
use crate::Done;
use bulkhead_breakout::consumption::{Bound, Place, Resource};
use bulkhead_breakout::{Hostile, begin, ids};
use bulkhead_policy::{PROFILES, Profile};
use bulkhead_xen_abi::ioctl;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use std::os::unix::fs::MetadataExt as _;

type Faults<T> = Result<T, Box<dyn std::error::Error>>;

/// Size limit of the files that the attempts fill, in the place of an image's.
const FILE: u64 = 1 << 20;
/// Where those files are.
const FILES: &str = "/run/consume";
/// The control group of attempts in a stub domain.
const GROUP: &str = "/sys/fs/cgroup/consume";
/// Most bytes that a hostile program needs for itself.
const OWN_MEMORY: u64 = 1 << 20;
/// DOMID_SELF.
const OWN: u16 = 0x7ff0;

/// Every attempt, by the resource that it is for.
const ATTEMPTS: [(Resource, &[&str]); 9] = [
    (Resource::Memory, &["private memory", "memory by mremap", "memory by brk"]),
    (Resource::OtherMemory, &["shared memory", "memory that grows down", "memory of a memfd"]),
    (Resource::Buffers, &["buffers", "larger buffers"]),
    (Resource::Descriptors, &["descriptors by dup", "descriptors received"]),
    (Resource::Processes, &["processes", "threads"]),
    (Resource::Disk, &["disk by write", "disk by pwrite", "disk by truncation", "disk by allocation"]),
    (Resource::Grants, &["grants"]),
    (Resource::EventChannels, &["event channels", "new event channels"]),
    // A process reaches no more of these by itself than it can open.
    (Resource::Frames, &["nodes of devices"]),
];

/// One attempt's surroundings.
struct Attempt<'a> {
    resource: Resource,
    what: &'a str,
    /// More than any bound; the attempt stops there.
    most: u64,
    domid: u16,
    /// Memory limit of its control group.
    group: Option<u64>,
}

struct Got {
    /// As it is seen from outside while the process holds it, or after it has died of it.
    amount: u64,
    /// How it ended.
    how: String,
    /// kB that this domain had available meanwhile.
    free: u64,
}

/// Everything for these roles, next to the guest `domid`.
pub(super) fn alone(stub: bool, domid: u16, roles: &[&str]) -> Done {
    let socket = std::fs::read_to_string("/proc/sys/net/core/wmem_default")?.trim().parse()?;
    let mut table = Table::new(Place { stub, socket, file_size: FILE, processes: 1 });
    std::fs::create_dir_all(FILES)?;
    // Without Xen this is a machine on which the rest is tried.
    let xen = std::path::Path::new("/dev/xen/privcmd").exists();
    if xen {
        // As if the guest had made as many event channels for this domain as it may.
        println!("the guest has {} more event channels, which may be bound", unbound_ports(domid)?);
    }
    // The largest bound of each resource, which the control runs exceed.
    let mut tries = Vec::new();
    for (resource, attempts) in ATTEMPTS {
        if !xen && matches!(resource, Resource::Grants | Resource::EventChannels | Resource::Frames) {
            continue;
        }
        let mut largest = 0;
        for profile in PROFILES {
            largest = largest.max(table.bound(profile, resource)?.most());
        }
        for what in attempts {
            let most = largest + most_beyond(resource);
            let attempt = Attempt { resource, what, most, domid, group: None };
            let room = match resource {
                Resource::Memory | Resource::OtherMemory => figures::free() > (most >> 10) * 3 / 2,
                // It may have no more itself than its guest.
                Resource::EventChannels => !stub,
                _ => true,
            };
            if room {
                let got = attempt.make("serial", "none")?;
                let good = got.amount > largest;
                println!(
                    "control run: {what}: {} (bounds up to {largest}) {}{}",
                    got.amount,
                    got.how,
                    if good { "" } else { " WRONG" }
                );
                if !good {
                    table.wrong.push(format!("control run: {what} got {}, which is within {largest}", got.amount));
                }
            } else {
                println!("no control run here: {what}: there is no room");
            }
            tries.push(attempt);
        }
    }
    let before = figures::now();
    println!("before: {before}");
    let mut lowest = before.memory;
    for profile in profiles(roles)? {
        let mut cells: Vec<(Resource, u64, String)> = Vec::new();
        for attempt in &tries {
            let group = (stub && matches!(attempt.resource, Resource::Memory | Resource::OtherMemory))
                .then_some(profile.limits.memory);
            let got = Attempt { group, ..*attempt }.make(profile.role, "all")?;
            println!("{}: {}: {} {}; free {} kB", profile.role, attempt.what, got.amount, got.how, got.free);
            lowest = lowest.min(got.free);
            match cells.iter_mut().find(|(resource, _, _)| *resource == attempt.resource) {
                Some((_, most, _)) if *most >= got.amount => {}
                Some(cell) => (cell.1, cell.2) = (got.amount, got.how),
                None => cells.push((attempt.resource, got.amount, got.how)),
            }
        }
        for (resource, amount, _) in cells {
            judge(&mut table, profile, resource, amount)?;
        }
    }
    println!("during: free {lowest} kB at least");
    std::fs::remove_dir_all(FILES)?;
    let after = figures::now();
    println!("after: {after}");
    // Others work on a machine without Xen too.
    if xen {
        table.wrong.extend(figures::leaks(&before, &after));
    }
    table.end()
}

/// Prints the cell, if the whole of it is measured here.
fn judge(table: &mut Table, profile: &Profile, resource: Resource, amount: u64) -> Done {
    match (resource, table.bound(profile, resource)?) {
        // Who reaches it through another process, or has a descriptor of its own, is measured with a running guest; by itself nobody
        // gets anything.
        (Resource::Grants, Bound::Count(1..)) if amount == 0 => Ok(()),
        (Resource::Frames, frames) => {
            if amount > 0 || matches!(frames, Bound::Count(_)) {
                table.cell(profile, Resource::Frames, amount, "")?;
            }
            match table.bound(profile, Resource::Nodes)? {
                Bound::Count(0) => table.cell(profile, Resource::Nodes, amount, ""),
                _ => Ok(()),
            }
        }
        (_, _) => table.cell(profile, resource, amount, ""),
    }
}

/// How much further than the bound an attempt goes.
fn most_beyond(resource: Resource) -> u64 {
    match resource {
        Resource::Memory | Resource::OtherMemory => 16 << 20,
        Resource::Buffers => 512 << 10,
        Resource::Disk => 4 << 20,
        Resource::Grants | Resource::EventChannels => 1024,
        Resource::Descriptors => 300,
        _ => 16,
    }
}

/// EVTCHNOP_alloc_unbound (public/event_channel.h) until the guest has no more: what a guest can do for its compromised back end.
fn unbound_ports(domid: u16) -> Faults<u64> {
    #[repr(C)]
    struct AllocUnbound {
        domid: u16,
        remote: u16,
        port: u32,
    }
    let privcmd = std::fs::File::options().read(true).write(true).open("/dev/xen/privcmd")?;
    for count in 0..100_000 {
        let mut arg = AllocUnbound { domid, remote: OWN, port: 0 };
        let call = ioctl::Hypercall { op: 32, arg: [6, (&raw mut arg) as u64, 0, 0, 0] };
        // SAFETY: Xen reads and writes one evtchn_alloc_unbound.
        if unsafe { libc::ioctl(privcmd.as_raw_fd(), u64::from(ioctl::PRIVCMD_HYPERCALL), &raw const call) } < 0 {
            println!("its event channels end with: {}", std::io::Error::last_os_error());
            return Ok(count);
        }
    }
    Err("the guest's event channels have no end".into())
}

/// A descriptor of a device, restricted to the domain if the kernel can do that.
fn device(path: &str, restrict: Option<(u32, u16)>) -> Faults<OwnedFd> {
    let file = std::fs::File::options().read(true).write(true).open(path)?;
    if let Some((request, domid)) = restrict {
        // SAFETY: the request reads one domid.
        if unsafe { libc::ioctl(file.as_raw_fd(), u64::from(request), &raw const domid) } < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
    }
    Ok(file.into())
}

impl Attempt<'_> {
    /// Makes it in the place of `role`, in these layers of the sandbox.
    fn make(&self, role: &str, layer: &str) -> Faults<Got> {
        let control = layer == "none";
        let (mut near, mut given): (Vec<OwnedFd>, Vec<OwnedFd>) = (Vec::new(), Vec::new());
        let path = format!("{FILES}/{role}");
        let mut argument = self.most.to_string();
        match self.resource {
            Resource::Disk => {
                let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
                given.push(file.into());
            }
            Resource::Buffers => {
                let flags = SocketFlags::CLOEXEC;
                let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
                let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
                for fd in [&read, &write] {
                    rustix::fs::fcntl_setfl(fd, OFlags::NONBLOCK)?;
                }
                near.extend([ours, read]);
                given.extend([theirs, write]);
            }
            Resource::EventChannels => {
                // The control run is that of a process which the kernel does not restrict.
                let restrict = (!control).then_some((ioctl::EVTCHN_RESTRICT_DOMID, self.domid));
                given.push(device("/dev/xen/evtchn", restrict)?);
                argument = format!("{}@{}", self.most, if control { OWN } else { self.domid });
            }
            Resource::Grants => {
                given.push(device("/dev/xen/gntdev", None)?);
                argument = format!("{}@{}", self.most, self.domid);
            }
            _ => {}
        }
        // Control runs of attempts that only the kernel limits, whoever makes them: by the way that a process without a sandbox has.
        let what = match self.what {
            "event channels" if control => "new event channels",
            "buffers" if control => "larger buffers",
            what => what,
        };
        let channels = figures::event_channels_now();
        let beside = std::env::current_exe()?.with_file_name("bulkhead-hostile");
        let executable = std::fs::File::open(beside)?;
        let hostile = begin(executable.as_fd(), role, if control { None } else { ids() }, (!control).then_some(FILE))?;
        if let Some(most) = self.group {
            std::fs::create_dir_all(GROUP)?;
            for (file, value) in [("memory.max", most), ("memory.oom.group", 1), ("cgroup.procs", hostile.pid() as u64)]
            {
                std::fs::write(format!("{GROUP}/{file}"), value.to_string())?;
            }
        }
        let fds: Vec<BorrowedFd<'_>> = given.iter().map(AsFd::as_fd).collect();
        hostile.order(layer, &format!("take {what}={argument}"), &fds)?;
        drop(fds);
        // The copies here would keep what it has made of them.
        if self.resource != Resource::Disk {
            given.clear();
        }
        if self.what == "descriptors received" {
            let null = std::fs::File::open("/dev/null")?;
            for _ in 0..6 {
                // It may be dead already.
                let _ = hostile.give(&[null.as_fd(); 100]);
            }
            let _ = hostile.give(&[]);
        }
        let taken = hostile.taken()?;
        let free = figures::free();
        let mut amount = match (self.resource, taken) {
            (Resource::Disk | Resource::Buffers, _) => 0,
            (_, None) => 0,
            (Resource::Memory, Some(_)) if self.group.is_some() => {
                std::fs::read_to_string(format!("{GROUP}/memory.current"))?.trim().parse()?
            }
            (Resource::Memory, Some(_)) => resident(hostile.pid()),
            // A memfd's pages are not among the process's.
            (Resource::OtherMemory, Some(taken)) => taken.amount,
            (Resource::Descriptors, Some(_)) => descriptors(hostile.pid()),
            (Resource::Processes, Some(_)) => others(hostile.pid()),
            (Resource::EventChannels, Some(_)) => figures::event_channels_now().saturating_sub(channels),
            (_, Some(taken)) => taken.amount,
        };
        let how = ended(hostile, taken)?;
        match self.resource {
            Resource::Disk => {
                let data = std::fs::metadata(&path)?;
                amount = data.len().max(data.blocks() * 512);
                std::fs::remove_file(&path)?;
            }
            Resource::Buffers => amount = drain(&near),
            Resource::Memory | Resource::OtherMemory if self.group.is_some() => {
                // What it had when it was killed; kernels before 5.19 do not say that.
                let peak = std::fs::read_to_string(format!("{GROUP}/memory.peak")).unwrap_or_default();
                let peak = peak.trim().parse().unwrap_or(0);
                // Its own stack, heap and code are there too.
                if self.resource == Resource::Memory || peak > OWN_MEMORY {
                    amount = amount.max(peak);
                }
                std::fs::remove_dir(GROUP)?;
            }
            _ => {}
        }
        Ok(Got { amount, how, free })
    }
}

/// Lets it go, and says how it has ended.
pub(super) fn ended(hostile: Hostile, taken: Option<bulkhead_breakout::Taken>) -> Faults<String> {
    let status = hostile.end()?;
    Ok(match (taken, status.and_then(|s| s.terminating_signal())) {
        (_, Some(signal)) => format!("killed by signal {signal}"),
        (Some(taken), None) if taken.errno != 0 => {
            format!("then: {}", std::io::Error::from_raw_os_error(i32::from(taken.errno)))
        }
        (Some(_), None) => "and no more was asked for".to_owned(),
        (None, None) => return Err("it has ended without a word".into()),
    })
}

/// Bytes of a process that are in memory, its page tables included.
fn resident(pid: i32) -> u64 {
    let file = format!("/proc/{pid}/status");
    (figures::number(&file, "VmRSS") + figures::number(&file, "VmPTE")) << 10
}

fn descriptors(pid: i32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |all| all.count() as u64)
}

/// Threads of a process but the first, and its children.
fn others(pid: i32) -> u64 {
    // (A stub domain's kernel has no file with the children.)
    let parent =
        |stat: String| stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let stats = all.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    let children = stats.filter(|stat| parent(stat.clone()) == Some(pid)).count() as u64;
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(1, |all| all.count() as u64);
    children + threads.saturating_sub(1)
}

/// Reads what is in a socket and a pipe; bytes.
fn drain(near: &[OwnedFd]) -> u64 {
    let mut amount = 0;
    let mut buffer = vec![0; 1 << 16];
    for fd in near {
        loop {
            let got = match rustix::net::recv(fd, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Err(rustix::io::Errno::NOTSOCK) => rustix::io::read(fd, buffer.as_mut_slice()),
                other => other.map(|(n, _)| n),
            };
            match got {
                Ok(n @ 1..) => amount += n as u64,
                _ => break,
            }
        }
    }
    amount
}
