//! What a process of a stub domain may use: a control group with a limit of memory, its place in the order in which
//! the kernel kills when memory is short, and its scheduling class. A device that leaks dies alone, in its own group.
use bulkhead_plan::{BROKER, CONTROL, Kind, Slot};
use bulkhead_policy::{profile, set_fifo};
use std::path::{Path, PathBuf};

/// Where the control groups are.
pub(crate) const CGROUP: &str = "/sys/fs/cgroup";
/// SCHED_FIFO priorities: the launcher above the devices above the broker, whose wake-up of a device then runs it at once.
/// A stub domain can only starve its own guest.
pub(crate) const LAUNCHER: u32 = 7;
const DEVICE: u32 = 6;
const BROKER_FIFO: u32 = 5;

/// Sets the limits of a process that has just been started.
pub(crate) fn set(pid: i32, name: &str, kind: &Kind, slot: Slot) -> Result<(), String> {
    let group: PathBuf = Path::new(CGROUP).join(name);
    let fail = |what: &str| {
        let what = format!("{}/{what}", group.display());
        move |e: std::io::Error| format!("{what}: {e}")
    };
    std::fs::create_dir_all(&group).map_err(fail(""))?;
    let limit = profile(kind.role).map_or(0, |p| p.limits.memory);
    std::fs::write(group.join("memory.max"), limit.to_string()).map_err(fail("memory.max"))?;
    std::fs::write(group.join("memory.oom.group"), "1").map_err(fail("memory.oom.group"))?;
    std::fs::write(group.join("cgroup.procs"), pid.to_string()).map_err(fail("cgroup.procs"))?;
    // Without the broker the guest is lost; what draws and what talks to people goes first.
    let score = match slot {
        BROKER => -900,
        CONTROL => 300,
        _ if kind.urgent => 100,
        _ => 500,
    };
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
        .map_err(|e| format!("oom_score_adj of {name}: {e}"))?;
    let priority = match slot {
        BROKER => Some(BROKER_FIFO),
        _ => kind.urgent.then_some(DEVICE),
    };
    match priority {
        Some(priority) => set_fifo(pid, priority).map_err(|e| format!("SCHED_FIFO for {name}: {e}")),
        None => Ok(()),
    }
}

/// The launcher's own place: the last to be killed, the first to run.
pub(crate) fn own() -> Result<(), String> {
    std::fs::write("/proc/self/oom_score_adj", "-1000").map_err(|e| format!("oom_score_adj: {e}"))?;
    std::fs::write(format!("{CGROUP}/cgroup.subtree_control"), "+memory")
        .map_err(|e| format!("{CGROUP}/cgroup.subtree_control: {e}"))?;
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    set_fifo(pid, LAUNCHER).map_err(|e| format!("SCHED_FIFO for the launcher: {e}"))
}
