//! Control groups (v2) in dom0: the limits of a process's group, and a look at the group in which a process is.
//!
//! Some memory is counted for the group that touches it first: private memory, areas of channels and surfaces (memfds), the page
//! cache of files, and what the kernel keeps for the process. Pages of a guest are not counted: they are other domains' frames.
use crate::Limits;
use std::path::{Path, PathBuf};

/// The mount point of the control groups.
pub const ROOT: &str = "/sys/fs/cgroup";

/// Most bytes of page cache that a process's limit has room for. The kernel takes the page cache back when the limit is reached, so
/// this is about speed: a fifth of it may wait to be written.
const CACHE: u64 = 256 << 20;

/// The limits of a process's control group in dom0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupLimits {
    /// memory.max, bytes.
    pub memory: u64,
    /// pids.max: threads.
    pub tasks: u64,
}

impl GroupLimits {
    /// The limits by a profile. `file_size`: the process's own RLIMIT_FSIZE, if it is below the profile's. `in_memory`: number of the
    /// files that it writes on a file system without storage (tmpfs), whose pages the kernel cannot take back.
    pub fn new(limits: &Limits, file_size: Option<u64>, in_memory: u64) -> Self {
        let file = file_size.unwrap_or(u64::MAX).min(limits.file_size);
        // Two: a console's file and its predecessor, a display's pictures.
        let cache = file.saturating_mul(2).min(CACHE);
        let kept = file.saturating_mul(in_memory);
        Self { memory: limits.memory.saturating_add(cache).saturating_add(kept), tasks: limits.threads }
    }

    /// Both limits together with another group's.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { memory: self.memory.saturating_add(other.memory), tasks: self.tasks.saturating_add(other.tasks) }
    }
}

/// The group (v2) in which a process is, below `root`, the mount point; `None` if there is none, or the process has exited.
pub fn of_process(root: &Path, pid: i32) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(root.join(path))
}

/// Compares a process's group with the limits that it has been promised: it is in `group`, with these limits and without swap.
/// Returns the violations.
pub fn check(root: &Path, pid: i32, group: &Path, limits: GroupLimits, controllers: &[String]) -> Vec<String> {
    let Some(seen) = of_process(root, pid) else { return vec!["it is in no control group".to_owned()] };
    let mut wrong = Vec::new();
    if seen != group {
        wrong.push(format!("its control group is {}, not {}", seen.display(), group.display()));
    }
    wrong.extend(check_limits(&seen, limits, controllers));
    // The limit of memory does not count what is in swap.
    if let Ok(swap) = std::fs::read_to_string(seen.join("memory.swap.max"))
        && swap.trim() != "0"
    {
        wrong.push(format!("memory.swap.max of its control group is {:?}, not 0", swap.trim()));
    }
    wrong
}

/// Compares a group's limits with those that were promised. Returns the violations.
pub fn check_limits(group: &Path, limits: GroupLimits, controllers: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    let read = |file: &str| std::fs::read_to_string(group.join(file)).map(|text| text.trim().to_owned());
    for (controller, file, most) in [("memory", "memory.max", limits.memory), ("pids", "pids.max", limits.tasks)] {
        if !controllers.iter().any(|c| c == controller) {
            continue;
        }
        match read(file) {
            // "max" is no number.
            Ok(text) if text.parse::<u64>().is_ok_and(|limit| limit <= most) => {}
            Ok(text) => wrong.push(format!("{file} of its control group is {text:?}, not at most {most}")),
            Err(e) => wrong.push(format!("{file} of its control group: {e}")),
        }
    }
    wrong
}

/// `cpu.weight` of each guest's group, the kernel's default: guests share the CPUs equally. It is on the guest's group alone: each
/// level costs every switch between processes time, and nice values tell the guest's own processes apart.
pub const WEIGHT: &str = "100";

/// The same for a guest's group, which has a weight too.
pub fn check_guest(group: &Path, limits: GroupLimits, controllers: &[String]) -> Vec<String> {
    let mut wrong = check_limits(group, limits, controllers);
    if controllers.iter().any(|c| c == "cpu") {
        match std::fs::read_to_string(group.join("cpu.weight")) {
            Ok(text) if text.trim() == WEIGHT => {}
            Ok(text) => wrong.push(format!("cpu.weight of its control group is {:?}, not {WEIGHT}", text.trim())),
            Err(e) => wrong.push(format!("cpu.weight of its control group: {e}")),
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile;

    fn limits(role: &str, file_size: Option<u64>, in_memory: u64) -> u64 {
        GroupLimits::new(&profile(role).unwrap().limits, file_size, in_memory).memory
    }

    #[test]
    fn who_writes_files_has_room_for_their_pages_and_nobody_else() {
        let own = |role: &str| profile(role).unwrap().limits.memory;
        assert_eq!(limits("ps2", None, 0), own("ps2"));
        assert_eq!(limits("ps2", Some(1 << 40), 3), own("ps2"), "its profile lets it write no file");
        assert_eq!(limits("serial", Some(4 << 20), 0), own("serial") + (8 << 20));
        assert_eq!(limits("ide", Some(1 << 20), 0), own("ide") + (2 << 20));
        assert_eq!(limits("ide", Some(1 << 40), 0), own("ide") + CACHE);
        assert_eq!(limits("ide", Some(10 << 30), 2), own("ide") + CACHE + (20 << 30), "pages that stay");
        assert_eq!(limits("ide", Some(u64::MAX), u64::MAX), u64::MAX);
    }

    #[test]
    fn another_weight_is_a_violation() {
        let dir = directory("weight");
        let controllers = ["cpu".to_owned()];
        let limits = GroupLimits { memory: 1, tasks: 1 };
        let seen = || check_guest(&dir, limits, &controllers);
        assert!(seen()[0].starts_with("cpu.weight of its control group: "));
        std::fs::write(dir.join("cpu.weight"), "100\n").unwrap();
        assert_eq!(seen(), Vec::<String>::new());
        std::fs::write(dir.join("cpu.weight"), "10000\n").unwrap();
        assert_eq!(seen(), ["cpu.weight of its control group is \"10000\", not 100"]);
        assert_eq!(check_guest(&dir, limits, &[]), Vec::<String>::new(), "a host without this controller");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    /// A directory for a test, empty.
    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("bulkhead-group-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    #[ignore = "needs a kernel with groups of version 2"]
    fn another_group_and_swap_are_violations() {
        let root = directory("root");
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = of_process(&root, pid).expect("a kernel with groups of version 2");
        std::fs::create_dir_all(&own).unwrap();
        let wrong = |group: &Path| check(&root, pid, group, GroupLimits::default(), &[]).len();
        assert_eq!((wrong(&own), wrong(&root.join("other"))), (0, 1));
        std::fs::write(own.join("memory.swap.max"), "max\n").unwrap();
        assert_eq!(wrong(&own), 1);
        std::fs::write(own.join("memory.swap.max"), "0\n").unwrap();
        assert_eq!(wrong(&own), 0);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn limits_that_are_higher_or_not_there_are_violations() {
        let dir = directory("limits");
        let promised = GroupLimits { memory: 1 << 20, tasks: 2 };
        let both = ["memory".to_owned(), "pids".to_owned()];
        let wrong = |memory: &str, tasks: &str, controllers: &[String]| {
            std::fs::write(dir.join("memory.max"), memory).unwrap();
            std::fs::write(dir.join("pids.max"), tasks).unwrap();
            check_limits(&dir, promised, controllers).len()
        };
        assert_eq!(wrong("1048576\n", "2\n", &both), 0);
        assert_eq!(wrong("4096\n", "1\n", &both), 0, "stricter");
        assert_eq!((wrong("1048577\n", "2\n", &both), wrong("1048576\n", "3\n", &both)), (1, 1));
        assert_eq!(wrong("max\n", "max\n", &both), 2);
        assert_eq!(wrong("max\n", "2\n", &both[1..]), 0, "the host has no such controller");
        std::fs::remove_file(dir.join("memory.max")).unwrap();
        assert_eq!(check_limits(&dir, promised, &both).len(), 1);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
