//! A directory takes the place of the control groups: files that are written are there afterwards. In a real hierarchy a directory
//! comes with its files and goes with them.
use super::*;
use rustix::process::{Pid, Signal};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

/// A directory that is removed at the end.
struct Root(PathBuf);

impl Root {
    /// A hierarchy with these controllers.
    fn new(controllers: &str) -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("bulkhead-groups-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("cgroup.controllers"), controllers).unwrap();
        Self(path)
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.0.join(file)).unwrap_or_default()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const PS2: GroupLimits = GroupLimits { memory: 6 << 20, tasks: 2 };
const IDE: GroupLimits = GroupLimits { memory: 16 << 20, tasks: 4 };

#[test]
fn a_guest_and_each_process_have_limits_and_the_guests_are_their_sum() {
    let root = Root::new("cpuset cpu io memory hugetlb pids\n");
    let mut groups = Groups::begin(&root.0, 7, 1234).unwrap();
    assert_eq!((groups.controllers(), groups.missing()), (&["memory", "pids", "cpu"][..], Vec::new()));
    groups.make("ps2", PS2).unwrap();
    groups.make("ide", IDE).unwrap();
    for (file, value) in [
        ("cgroup.subtree_control", "+cpu"),
        ("bulkhead-7-1234/cgroup.subtree_control", "+pids"),
        ("bulkhead-7-1234/cpu.weight", "100"),
        ("bulkhead-7-1234/memory.max", "23068672"),
        ("bulkhead-7-1234/pids.max", "6"),
        ("bulkhead-7-1234/ps2/memory.max", "6291456"),
        ("bulkhead-7-1234/ps2/memory.oom.group", "1"),
        ("bulkhead-7-1234/ps2/pids.max", "2"),
        ("bulkhead-7-1234/ide/memory.max", "16777216"),
        ("bulkhead-7-1234/ide/pids.max", "4"),
        // Not in this kernel.
        ("bulkhead-7-1234/ide/memory.swap.max", ""),
    ] {
        assert_eq!(root.read(file), value, "{file}");
    }
    assert!(matches!(groups.of("ide"), Some(Group::Directory(_))) && groups.of("vga").is_none());
    // Another life of the same process, after somebody has changed its limit.
    std::fs::write(groups.path().join("ps2/memory.max"), "max").unwrap();
    groups.make("ps2", PS2).unwrap();
    assert_eq!((groups.limits(), root.read("bulkhead-7-1234/ps2/memory.max").as_str()), (PS2.and(IDE), "6291456"));
    assert_eq!(groups.limits_of("ps2"), Some(PS2));
    groups.forget("ide");
    assert_eq!((groups.limits(), root.read("bulkhead-7-1234/memory.max").as_str()), (PS2, "6291456"));
}

#[test]
fn without_swap_where_the_kernel_counts_it() {
    let root = Root::new("memory");
    let mut groups = Groups::begin(&root.0, 7, 1).unwrap();
    std::fs::create_dir(groups.path().join("ps2")).unwrap();
    std::fs::write(groups.path().join("ps2/memory.swap.max"), "max").unwrap();
    groups.make("ps2", PS2).unwrap();
    assert_eq!(root.read("bulkhead-7-1/ps2/memory.swap.max"), "0");
}

#[test]
fn what_the_host_does_not_have_is_missing_and_said() {
    let root = Root::new("memory pids");
    let mut groups = Groups::begin(&root.0, 7, 1).unwrap();
    assert_eq!((groups.controllers(), groups.missing()), (&["memory", "pids"][..], vec!["cpu"]));
    groups.make("ps2", PS2).unwrap();
    assert_eq!(root.read("bulkhead-7-1/cpu.weight"), "");
    let none = Root::new("hugetlb\n");
    assert!(matches!(Groups::begin(&none.0, 7, 1), Err(NoGroups::NoController(_))));
    // A group that may not be changed.
    let closed = Root::new("memory");
    std::fs::create_dir(closed.0.join("cgroup.subtree_control")).unwrap();
    assert!(matches!(Groups::begin(&closed.0, 7, 1), Err(NoGroups::Refused { .. })));
    assert!(std::fs::read_dir(&closed.0).unwrap().count() == 2, "nothing is left behind");
}

#[test]
fn groups_of_dead_launchers_are_removed_and_others_are_left_alone() {
    let root = Root::new("memory");
    let dead = root.0.join("bulkhead-5-99");
    std::fs::create_dir_all(dead.join("ide")).unwrap();
    std::fs::create_dir_all(dead.join("ps2")).unwrap();
    let others = root.0.join("machine.slice");
    std::fs::create_dir(&others).unwrap();
    let alive = root.0.join("bulkhead-6-98");
    std::fs::create_dir(&alive).unwrap();
    let held = lock(&alive).unwrap();
    let _groups = Groups::begin(&root.0, 7, 1).unwrap();
    assert_eq!((dead.exists(), alive.exists(), others.exists()), (false, true, true));
    drop(held);
    let _more = Groups::begin(&root.0, 8, 2).unwrap();
    assert_eq!((alive.exists(), root.0.join("bulkhead-7-1").exists()), (false, true));
}

#[test]
fn a_group_that_another_launcher_removes_meanwhile_is_not_locked() {
    let root = Root::new("memory");
    let path = root.0.join("bulkhead-7-1");
    std::fs::create_dir(&path).unwrap();
    let ours = open_directory(&path).unwrap();
    std::fs::remove_dir(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(lock(&path).is_some());
    rustix::fs::flock(&ours, FlockOperation::NonBlockingLockExclusive).unwrap();
    let locked = lock(&path).unwrap();
    assert!(lock(&path).is_none(), "it is held");
    drop(locked);
    assert!(make_locked(&path).is_ok());
}

#[test]
fn where_groups_are_made_depends_on_who_owns_the_hierarchy() {
    let (root, elsewhere) = (Root::new("memory"), Root::new("memory"));
    let (none, systemd) = (root.0.join("no"), root.0.join("run"));
    let at = |choice: &str, root: &Path| {
        base(&Choice::try_from(choice).unwrap(), Places { root, systemd: &systemd }).map_err(|e| e.to_string())
    };
    let path = elsewhere.0.display().to_string();
    assert_eq!(at("auto", &root.0), Ok(root.0.clone()), "a host without systemd");
    assert_eq!(at(&path, &root.0), Ok(elsewhere.0.clone()));
    assert_eq!(at("none", &root.0), Err("-cgroup none".into()));
    assert!(at("auto", &none).unwrap_err().contains("no cgroup2"));
    assert!(at(&none.display().to_string(), &root.0).unwrap_err().contains("no cgroup2"));
    std::fs::create_dir(&systemd).unwrap();
    assert!(at("auto", &root.0).unwrap_err().contains("systemctl enable --now"));
    assert_eq!(at(&path, &root.0), Ok(elsewhere.0.clone()), "the operator knows");
    let unit = root.0.join("bulkhead.service");
    std::fs::create_dir(&unit).unwrap();
    std::fs::write(unit.join("cgroup.controllers"), "memory").unwrap();
    assert_eq!(at("auto", &root.0), Ok(unit));
    for wrong in ["", "here", "sys/fs/cgroup", "/sys/fs/cgroup/../../etc"] {
        assert!(Choice::try_from(wrong).is_err(), "{wrong:?}");
    }
}

/// A group in the hierarchy of this machine; its controllers are somebody else's.
fn real() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let mount = mounts.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2")).expect("a hierarchy of version 2");
    let path = mount.split(' ').nth(1).unwrap();
    let root = PathBuf::from(path).join(format!("bulkhead-test-{}", std::process::id()));
    std::fs::create_dir(&root).expect("the right to make groups");
    root
}

#[test]
#[ignore = "needs root and groups of version 2"]
fn a_process_starts_in_its_group_and_the_groups_go_with_the_guest() {
    let root = real();
    let guest = root.join("bulkhead-7-1");
    let mut groups = Groups {
        _lock: make_locked(&guest).unwrap(),
        guest: guest.clone(),
        controllers: Vec::new(),
        made: BTreeMap::new(),
    };
    groups.make("ps2", PS2).unwrap();
    groups.make("ide", IDE).unwrap();
    for keeps in [false, true] {
        if keeps {
            groups.keep().unwrap();
        }
        let (executable, null) = (open("/bin/sleep"), open("/dev/null"));
        let (socket, _far) = std::os::unix::net::UnixStream::pair().unwrap();
        let group = groups.of("ide");
        assert_eq!(matches!(group, Some(Group::Procs(_))), keeps);
        let spawned = bulkhead_policy::spawn(bulkhead_policy::Spec {
            executable: executable.as_fd(),
            role: "sleep",
            socket: socket.into(),
            log: null.as_fd(),
            null: null.as_fd(),
            ids: None,
            outlives: false,
            file_size: None,
            group,
        })
        .unwrap();
        let of = std::fs::read_to_string(format!("/proc/{}/cgroup", spawned.pid)).unwrap();
        let _ = rustix::process::pidfd_send_signal(&spawned.pidfd, Signal::KILL);
        rustix::process::waitpid(Pid::from_raw(spawned.pid), rustix::process::WaitOptions::empty()).unwrap();
        assert!(of.lines().any(|l| l.starts_with("0::") && l.ends_with("/bulkhead-7-1/ide")), "{of}");
    }
    // What has a process stays, and is removed when the next guest starts.
    let mut left = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    std::fs::write(guest.join("ps2/cgroup.procs"), left.id().to_string()).unwrap();
    drop(groups);
    let after = (guest.join("ide").exists(), guest.join("ps2").exists());
    left.kill().unwrap();
    let signal = left.wait().unwrap().signal();
    remove_left(&root);
    let gone = !guest.exists();
    std::fs::remove_dir(&root).unwrap();
    assert_eq!((after, signal, gone), ((false, true), Some(9), true));
}

fn open(path: &str) -> OwnedFd {
    std::fs::File::options().read(true).write(path == "/dev/null").open(path).unwrap().into()
}
