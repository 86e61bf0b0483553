//! The domain's own figures: what there is and what is used.
use bulkhead_xen::Xenstore;
use bulkhead_xen_abi::ioctl;
use rustix::fd::AsRawFd;

/// Some figures of this domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Figures {
    /// MemAvailable, kB.
    pub(crate) memory: u64,
    /// Processes and threads of the kernel's count.
    pub(crate) processes: u64,
    /// Open files of all processes.
    pub(crate) files: u64,
    /// Nodes of xenstore, as far as this domain may read them.
    pub(crate) nodes: u64,
    /// Event channels of this domain that are in use.
    pub(crate) event_channels: u64,
    /// kB in use on the file system of /run.
    pub(crate) disk: u64,
    /// The load of the last minute.
    load: String,
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { memory, processes, files, nodes, event_channels, disk, load } = self;
        write!(f, "free {memory} kB, load {load}, processes {processes}, open files {files}, ")?;
        write!(f, "xenstore nodes {nodes}, event channels {event_channels}, /run {disk} kB")
    }
}

/// A number of a file whose lines are `KEY: NUMBER ...`.
pub(crate) fn number(file: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn words(file: &str) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// Nodes below a path, itself included.
fn nodes(store: &mut Xenstore, path: &str, depth: u32) -> u64 {
    let below = if depth == 0 { Vec::new() } else { store.directory(path) };
    let slash = if path == "/" { "" } else { "/" };
    1 + below.iter().map(|name| nodes(store, &format!("{path}{slash}{name}"), depth - 1)).sum::<u64>()
}

/// EVTCHNOP_status (public/event_channel.h) of each port of this domain.
fn event_channels() -> std::io::Result<u64> {
    #[repr(C)]
    struct Status {
        domid: u16,
        port: u32,
        /// 0 closed.
        status: u32,
        vcpu: u32,
        more: [u32; 4],
    }
    /// DOMID_SELF.
    const OWN: u16 = 0x7ff0;
    let privcmd = std::fs::File::options().read(true).write(true).open("/dev/xen/privcmd")?;
    let mut used = 0;
    for port in 0..=u32::from(u16::MAX) {
        let mut status = Status { domid: OWN, port, status: 0, vcpu: 0, more: [0; 4] };
        let call = ioctl::Hypercall { op: 32, arg: [5, (&raw mut status) as u64, 0, 0, 0] };
        // SAFETY: Xen reads and writes one evtchn_status, which is not longer.
        if unsafe { libc::ioctl(privcmd.as_raw_fd(), u64::from(ioctl::PRIVCMD_HYPERCALL), &raw const call) } < 0 {
            break;
        }
        used += u64::from(status.status != 0);
    }
    Ok(used)
}

/// Event channels of this domain that are in use, 0 without Xen.
pub(crate) fn event_channels_now() -> u64 {
    event_channels().unwrap_or(0)
}

/// kB that are available, for a look while an attempt holds what it has.
pub(crate) fn free() -> u64 {
    number("/proc/meminfo", "MemAvailable")
}

/// The figures at this moment.
pub(crate) fn now() -> Figures {
    let (load, xen) = (words("/proc/loadavg"), std::path::Path::new("/dev/xen/privcmd").exists());
    let processes = load.get(3).and_then(|w| w.split_once('/')?.1.parse().ok()).unwrap_or(0);
    let disk = rustix::fs::statvfs("/run").map_or(0, |s| ((s.f_blocks - s.f_bfree) * s.f_frsize) >> 10);
    Figures {
        memory: free(),
        processes,
        files: words("/proc/sys/fs/file-nr").first().and_then(|w| w.parse().ok()).unwrap_or(0),
        // (A connection waits for a xenstored that is not there.)
        nodes: if xen { Xenstore::connect().map_or(0, |mut store| nodes(&mut store, "/", 12)) } else { 0 },
        event_channels: event_channels_now(),
        disk,
        load: load.first().cloned().unwrap_or_default(),
    }
}

/// What is not as it was, beyond what the kernel keeps for a while.
pub(crate) fn leaks(before: &Figures, after: &Figures) -> Vec<String> {
    let mut wrong = Vec::new();
    for (what, was, is, slack) in [
        // The kernel's caches, and pages of the log.
        ("kB in use", 0, before.memory.saturating_sub(after.memory), 24 << 10),
        ("processes", before.processes, after.processes, 4),
        ("open files", before.files, after.files, 64),
        ("xenstore nodes", before.nodes, after.nodes, 0),
        ("event channels", before.event_channels, after.event_channels, 0),
        ("kB of /run", before.disk, after.disk, 1 << 10),
    ] {
        if is > was + slack {
            wrong.push(format!("{what}: {was} before, {is} after"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_a_leak_and_what_the_kernel_keeps_is_not() {
        let figures = Figures {
            memory: 100_000,
            processes: 80,
            files: 500,
            nodes: 300,
            event_channels: 60,
            disk: 9,
            load: String::new(),
        };
        assert_eq!(leaks(&figures, &Figures { memory: 90_000, processes: 82, ..figures.clone() }), [""; 0]);
        assert_eq!(leaks(&figures, &Figures { nodes: 301, ..figures.clone() }).len(), 1);
        assert_eq!(leaks(&figures, &Figures { memory: 60_000, event_channels: 61, ..figures.clone() }).len(), 2);
    }
}
