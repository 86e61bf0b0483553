//! Limits of a stub domain's processes: a control group with a memory limit, the OOM score, and the scheduling class. A device that
//! leaks memory dies alone, in its own group.
use bulkhead_plan::{BROKER, CONTROL, Kind, Slot};
use bulkhead_policy::{profile, set_fifo};
use std::path::{Path, PathBuf};

/// Mount point of the control groups.
pub(crate) const CGROUP: &str = "/sys/fs/cgroup";
/// SCHED_FIFO priorities: the launcher is above the devices, and these above the broker, so that a device which the broker wakes
/// runs at once. A stub domain can starve its own guest alone.
pub(crate) const LAUNCHER: u32 = 7;
const DEVICE: u32 = 6;
const BROKER_FIFO: u32 = 5;

/// Sets the limits of a new process.
pub(crate) fn set(pid: i32, name: &str, kind: &Kind, slot: Slot) -> Result<(), BudgetFault> {
    let group: PathBuf = Path::new(CGROUP).join(name);
    std::fs::create_dir_all(&group).map_err(|source| BudgetFault::Group { path: group.clone(), source })?;
    let limit = profile(kind.role).map_or(0, |p| p.limits.memory);
    for (file, value) in
        [("memory.max", limit.to_string()), ("memory.oom.group", "1".to_owned()), ("cgroup.procs", pid.to_string())]
    {
        write_group(group.join(file), &value)?;
    }
    // The guest cannot live without its broker. Displays, viewers and control are killed first.
    let score = match slot {
        BROKER => -900,
        CONTROL => 300,
        _ if kind.urgent => 100,
        _ => 500,
    };
    std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
        .map_err(|source| BudgetFault::OomScore { of: format!(" of {name}"), source })?;
    let priority = match slot {
        BROKER => Some(BROKER_FIFO),
        _ => kind.urgent.then_some(DEVICE),
    };
    match priority {
        Some(priority) => set_fifo(pid, priority).map_err(|source| BudgetFault::Fifo { who: name.to_owned(), source }),
        None => Ok(()),
    }
}

/// Sets the launcher's own limits: it is killed last and runs first.
pub(crate) fn own() -> Result<(), BudgetFault> {
    std::fs::write("/proc/self/oom_score_adj", "-1000")
        .map_err(|source| BudgetFault::OomScore { of: String::new(), source })?;
    write_group(Path::new(CGROUP).join("cgroup.subtree_control"), "+memory")?;
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    set_fifo(pid, LAUNCHER).map_err(|source| BudgetFault::Fifo { who: "the launcher".to_owned(), source })
}

/// Lets a process run before the devices, as the launcher does: it starts their successors.
pub(crate) fn urgent(pid: i32, name: &str) -> Result<(), BudgetFault> {
    set_fifo(pid, LAUNCHER).map_err(|source| BudgetFault::Fifo { who: name.to_owned(), source })
}

fn write_group(path: PathBuf, value: &str) -> Result<(), BudgetFault> {
    std::fs::write(&path, value).map_err(|source| BudgetFault::Group { path, source })
}

/// Which limit of a process cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum BudgetFault {
    /// The kernel refuses a limit of the process's control group.
    #[error("{}: {source}", .path.display())]
    Group {
        /// The group's directory, or a file in it.
        path: PathBuf,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// Its place in the order in which the kernel kills.
    #[error("oom_score_adj{of}: {source}")]
    OomScore {
        /// ` of` and the process; nothing for the launcher.
        of: String,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The kernel refuses SCHED_FIFO for the process.
    #[error("SCHED_FIFO for {who}: {source}")]
    Fifo {
        /// The process's name in logs.
        who: String,
        /// The kernel's error.
        source: std::io::Error,
    },
}
