//! Verifies a process from outside, in /proc.
use crate::{Cage, Profile, RUNNING, STARTING};
use bulkhead_plan::ProcessRow;
use std::collections::BTreeMap;
use std::path::Path;

/// The contents of /proc for one process.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Lines of `status`.
    pub status: BTreeMap<String, String>,
    /// Lines of the `status` of each thread, the first one's among them: rights and filters are properties of threads.
    pub threads: Vec<BTreeMap<String, String>>,
    /// Namespaces: name → identity, as far as they are readable.
    pub namespaces: BTreeMap<String, String>,
    /// Descriptors: number → link (see [`kind`]); `None` if this process may not read them.
    pub descriptors: Option<BTreeMap<i32, String>>,
    /// Hard limits by the kernel's name; `None` is unlimited.
    pub limits: BTreeMap<String, Option<u64>>,
    /// Mappings: permissions and path; empty if this process may not read them.
    pub mappings: Vec<(String, String)>,
}

/// The namespaces of a process, by the kernel's names.
const NAMESPACES: [&str; 7] = ["user", "mnt", "net", "ipc", "uts", "pid", "cgroup"];

/// The kind of a descriptor, from its link in /proc: the words that profiles use.
pub fn kind(link: &str) -> &str {
    match link {
        // Without /dev: a path of a mount that this launcher has left (dm_restrict).
        "/dev/null" | "/null" => "null",
        "/dev/net/tun" | "/net/tun" => "tap",
        "/dev/xen/privcmd" | "/xen/privcmd" => "privcmd",
        "/dev/xen/evtchn" | "/xen/evtchn" => "evtchn",
        "/dev/xen/gntdev" | "/xen/gntdev" => "gntdev",
        _ if link.starts_with("/dev/fb") => "fb",
        _ if link.starts_with("/dev/input/event") => "evdev",
        _ if link.starts_with("socket:") => "socket",
        _ if link.starts_with("pipe:") => "pipe",
        _ if link.starts_with("/memfd:") => "memfd",
        _ if link.starts_with("/dev/hvc")
            || link.starts_with("/dev/ptmx")
            || link.starts_with("/dev/pts/")
            || link.starts_with("/ptmx") =>
        {
            "terminal"
        }
        _ => link.strip_prefix("anon_inode:").map_or("file", |name| name.trim_matches(['[', ']'])),
    }
}

/// Reads /proc of a process.
pub fn observe(pid: i32) -> std::io::Result<Observed> {
    let fields = |path: &Path| -> std::io::Result<BTreeMap<String, String>> {
        let status = std::fs::read_to_string(path)?;
        let pairs = status.lines().filter_map(|line| line.split_once(':'));
        Ok(pairs.map(|(k, v)| (k.to_owned(), v.trim().to_owned())).collect())
    };
    let status = fields(Path::new(&format!("/proc/{pid}/status")))?;
    // A thread that has ended meanwhile is left out.
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
    let threads = threads.filter_map(|thread| fields(&thread.path().join("status")).ok()).collect();
    let mut namespaces = BTreeMap::new();
    for name in NAMESPACES {
        if let Ok(link) = std::fs::read_link(format!("/proc/{pid}/ns/{name}")) {
            namespaces.insert(name.to_owned(), link.to_string_lossy().into_owned());
        }
    }
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok().map(|entries| {
        let link = |e: std::fs::DirEntry| {
            let number = e.file_name().to_str()?.parse().ok()?;
            Some((number, std::fs::read_link(e.path()).ok()?.to_string_lossy().into_owned()))
        };
        entries.flatten().filter_map(link).collect()
    });
    // "Max open files            64                   64                   files": name, soft, hard, unit.
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let limits = limits.lines().skip(1).filter_map(|line| {
        let (name, rest) = line.split_at_checked(26)?;
        let hard = rest.split_whitespace().nth(1)?;
        Some((name.trim().to_owned(), hard.parse().ok()))
    });
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let mappings = maps.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let permissions = words.nth(1)?.to_owned();
        Some((permissions, words.skip(3).collect::<Vec<_>>().join(" ")))
    });
    Ok(Observed { status, threads, namespaces, descriptors, limits: limits.collect(), mappings: mappings.collect() })
}

impl Observed {
    /// Whether it has exited, and its parent has not waited for it yet.
    pub fn has_exited(&self) -> bool {
        self.status.get("State").is_some_and(|state| state.starts_with('Z'))
    }
}

/// A launcher, as its children have it: without the filter that it has added when it had handed over the start of processes. Its
/// starter has ended.
pub fn before_closing(mut launcher: Observed) -> Observed {
    if let Some(filters) = launcher.status.get_mut("Seccomp_filters").filter(|filters| *filters == "2") {
        "1".clone_into(filters);
    }
    launcher
}

/// A process's row in the process table, read from /proc of `pid` (0: it is dead) and compared with `own`, the reader's.
pub fn row(name: &str, role: &str, pid: i32, own: &Observed, restarts: u32) -> ProcessRow {
    let observed = observe(pid).ok();
    let field = |key: &str| observed.as_ref().and_then(|o| o.status.get(key)).map_or("", String::as_str);
    let number = |key: &str| field(key).split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0u32);
    let other = |(name, link): (&String, &String)| own.namespaces.get(name) != Some(link);
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let pss = rollup.lines().find_map(|l| l.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse().ok());
    ProcessRow {
        name: name.to_owned(),
        pid: pid.unsigned_abs(),
        uid: number("Uid"),
        seccomp: number("Seccomp") as u8,
        syscalls: crate::syscalls(role).map(|n| n as u32),
        no_new_privs: number("NoNewPrivs") == 1,
        capabilities: field("CapEff").bytes().any(|b| b != b'0'),
        namespaces: observed.as_ref().map_or(0, |o| o.namespaces.iter().filter(|n| other(*n)).count() as u8),
        threads: number("Threads"),
        pss_kb: pss.unwrap_or(0),
        restarts,
    }
}

/// Limits of one process that are not its profile's.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnLimits {
    /// RLIMIT_FSIZE, if it is below the profile's.
    pub file_size: Option<u64>,
    /// Bytes of mappings that [`crate::guest_memory`] counts, above the profile's.
    pub guest_memory: u64,
}

/// Checks that a process is in its sandbox: a filter of its own and no new privileges, no capabilities, not root, no supplementary
/// groups in any thread, own namespaces, only the kinds of descriptors and the limits of its profile, no memory that can be written
/// and executed, nothing executable but its program. Returns the violations.
pub fn check(observed: &Observed, own: &Observed, profile: &Profile, life: OwnLimits) -> Vec<String> {
    let mut wrong: Vec<String> = observed.threads.iter().flat_map(|thread| check_thread(thread, &own.status)).collect();
    if observed.threads.is_empty() {
        wrong.push("it has no thread".into());
    }
    // Root reads everything of a process. What it cannot read has not been checked.
    let root = own.status.get("Uid").is_some_and(|u| u.split_whitespace().nth(1) == Some("0"));
    let hidden = observed.namespaces.len() != NAMESPACES.len() || observed.descriptors.is_none();
    if root && (hidden || observed.mappings.is_empty()) {
        wrong.push("its namespaces, descriptors or mappings cannot be read".into());
    }
    if observed.threads.len() as u64 > profile.limits.threads {
        wrong.push(format!("it has {} threads, not at most {}", observed.threads.len(), profile.limits.threads));
    }
    for (name, link) in &observed.namespaces {
        if own.namespaces.get(name) == Some(link) {
            wrong.push(format!("the {name} namespace is the launcher's"));
        }
    }
    for (number, link) in observed.descriptors.iter().flatten() {
        if !profile.descriptors.contains(&kind(link)) {
            wrong.push(format!("descriptor {number} is {link}, a {}", kind(link)));
        }
    }
    let limits = &profile.limits;
    for (name, most) in [
        ("Max open files", limits.files),
        ("Max file size", life.file_size.unwrap_or(u64::MAX).min(limits.file_size)),
        ("Max data size", limits.data),
        ("Max address space", limits.address_space.saturating_add(life.guest_memory)),
        ("Max core file size", 0),
        ("Max locked memory", 0),
        ("Max msgqueue size", 0),
    ] {
        match observed.limits.get(name) {
            Some(Some(hard)) if *hard <= most => {}
            Some(Some(hard)) => wrong.push(format!("{name} is {hard}, not at most {most}")),
            Some(None) => wrong.push(format!("{name} is unlimited, not at most {most}")),
            None => wrong.push(format!("{name} is not known, not at most {most}")),
        }
    }
    let mut programs: Vec<&str> = Vec::new();
    for (permissions, what) in &observed.mappings {
        if permissions.contains('x') && !what.starts_with("[v") {
            programs.push(what);
            if permissions.contains('w') || what.is_empty() || !what.starts_with('/') {
                wrong.push(format!("executable memory: {permissions} {what}"));
            }
        }
    }
    programs.dedup();
    if programs.len() > 1 {
        wrong.push(format!("executable memory of more than one file: {}", programs.join(", ")));
    }
    wrong
}

/// Checks what is a thread's own, in its `status` and the launcher's.
fn check_thread(thread: &BTreeMap<String, String>, launcher: &BTreeMap<String, String>) -> Vec<String> {
    let mut wrong = Vec::new();
    let field = |name: &str| thread.get(name).map_or("", String::as_str);
    let mut refuse = |name: &str, why: &str| {
        wrong.push(format!("{name} of thread {} is {:?}{why}", field("Pid"), field(name)));
    };
    for (name, want) in [("Seccomp", "2"), ("NoNewPrivs", "1")] {
        if field(name) != want {
            refuse(name, &format!(", not {want}"));
        }
    }
    // A process inherits the launcher's filters, so a filter alone is no sign of its own. It can add one that is stricter and no
    // more: its profile's, which has no call that adds a filter.
    let inherited = launcher.get("Seccomp_filters").and_then(|n| n.parse::<u32>().ok());
    let want = inherited.and_then(|n| n.checked_add(1));
    if want.is_none() || field("Seccomp_filters").parse().ok() != want {
        let want = want.map_or("and the launcher's are not known".to_owned(), |n| format!("not {n}"));
        refuse("Seccomp_filters", &format!(", {want}"));
    }
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        if field(name).is_empty() || field(name).bytes().any(|b| b != b'0') {
            refuse(name, "");
        }
    }
    for name in ["Uid", "Gid"] {
        if field(name).is_empty() || field(name).split_whitespace().any(|id| id == "0") {
            refuse(name, "");
        }
    }
    let groups = |of: &BTreeMap<String, String>| of.get("Groups").is_none_or(|groups| !groups.is_empty());
    // A launcher that is not root cannot give its groups up, and its children cannot either.
    if groups(thread) && !groups(launcher) {
        refuse("Groups", "");
    }
    wrong
}

/// Checks a row of a process table as far as it goes, for processes whose /proc is another domain's. `launcher`: it is the row of
/// the launcher or of the starter. Returns the violations.
pub fn check_row(row: &ProcessRow, launcher: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    if row.seccomp != 2 {
        wrong.push("it has no system call filter".to_owned());
    }
    if !row.no_new_privs {
        wrong.push("it may gain privileges".to_owned());
    }
    // The launcher has those of its profile, no namespaces of its own, and is root.
    if !launcher {
        if row.capabilities {
            wrong.push("it has capabilities".to_owned());
        }
        if row.namespaces != 7 {
            wrong.push(format!("it has {} namespaces of its own, not 7", row.namespaces));
        }
        if row.uid == 0 {
            wrong.push("it is root".to_owned());
        }
    }
    wrong
}

/// Checks that the launcher of a prepared machine is in its cage: filter on, no new privileges, no capability but those that its
/// profile leaves it. Returns the violations.
pub fn check_launcher(observed: &Observed) -> Vec<String> {
    check_cage(observed, &RUNNING)
}

/// The same for the starter.
pub fn check_starter(observed: &Observed) -> Vec<String> {
    check_cage(observed, &STARTING)
}

fn check_cage(observed: &Observed, cage: &Cage) -> Vec<String> {
    let mut wrong = Vec::new();
    let field = |name: &str| observed.status.get(name).map_or("", String::as_str);
    for (name, want) in [("Seccomp", "2"), ("NoNewPrivs", "1")] {
        if field(name) != want {
            wrong.push(format!("{name} is {:?}, not {want}", field(name)));
        }
    }
    let known = cage.capabilities.iter().filter_map(|name| name.parse::<caps::Capability>().ok());
    let may = known.fold(0u64, |all, capability| all | capability.bitmask());
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        if u64::from_str_radix(field(name), 16).is_ok_and(|has| has & !may == 0) {
            continue;
        }
        wrong.push(format!("{name} is {}", field(name)));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_launchers_capabilities_are_those_of_its_profile() {
        let mut observed = observe(i32::try_from(std::process::id()).unwrap()).unwrap();
        let mut set = |name: &str, value: &str| observed.status.insert(name.into(), value.into());
        for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            // CAP_KILL.
            set(name, "0000000000000020");
        }
        set("Seccomp", "2");
        set("NoNewPrivs", "1");
        assert_eq!(check_launcher(&observed), Vec::<String>::new());
        // CAP_SYS_ADMIN, which it has given up, and CAP_SYS_MODULE.
        let mut other = observed.clone();
        other.status.insert("CapPrm".into(), "0000000000200000".into());
        assert_eq!((check_launcher(&other).len(), check_starter(&other).len()), (1, 0));
        for (name, value) in [("CapBnd", "0000000000010000"), ("Seccomp", "0"), ("NoNewPrivs", "0"), ("CapEff", "")] {
            let mut other = observed.clone();
            other.status.insert(name.into(), value.into());
            assert_eq!(check_launcher(&other).len(), 1, "{name}");
        }
    }

    /// What root cannot read of a process was taken for good.
    #[test]
    fn what_cannot_be_read_is_a_violation_for_root() {
        let mut own = observe(i32::try_from(std::process::id()).unwrap()).unwrap();
        own.status.insert("Uid".into(), "0\t0\t0\t0".into());
        let hidden = |observed: &Observed| {
            let wrong = check(observed, &own, crate::profile("ps2").unwrap(), OwnLimits::default());
            wrong.iter().any(|w| w.contains("cannot be read"))
        };
        assert!(!hidden(&own));
        assert!(hidden(&Observed { descriptors: None, ..own.clone() }));
        assert!(hidden(&Observed { mappings: Vec::new(), ..own.clone() }));
        assert!(hidden(&Observed { namespaces: BTreeMap::new(), ..own.clone() }));
        let mut user = own.clone();
        user.status.insert("Uid".into(), "7\t7\t7\t7".into());
        let wrong = check(
            &Observed { descriptors: None, ..own.clone() },
            &user,
            crate::profile("ps2").unwrap(),
            OwnLimits::default(),
        );
        assert!(!wrong.iter().any(|w| w.contains("cannot be read")), "dm_restrict: a user reads less");
    }

    #[test]
    fn this_test_itself_is_in_no_sandbox() {
        let own = observe(i32::try_from(std::process::id()).unwrap()).unwrap();
        let wrong = check(&own, &own, crate::profile("ps2").unwrap(), OwnLimits::default());
        for what in ["Seccomp", "NoNewPrivs", "Max open files", "Max address space", "namespace is the launcher's"] {
            assert!(wrong.iter().any(|w| w.contains(what)), "{what} in {wrong:?}");
        }
    }

    #[test]
    fn groups_that_the_launcher_does_not_have_are_a_violation() {
        let mut own = observe(i32::try_from(std::process::id()).unwrap()).unwrap();
        let mut other = own.clone();
        let mut check = |theirs: &str, launchers: &str| {
            for thread in &mut other.threads {
                thread.insert("Groups".into(), theirs.into());
            }
            own.status.insert("Groups".into(), launchers.into());
            check(&other, &own, crate::profile("ps2").unwrap(), OwnLimits::default())
                .iter()
                .any(|w| w.starts_with("Groups"))
        };
        assert!(check("6 42", "") && !check("", "") && !check("6", "6"));
    }

    #[test]
    fn a_process_with_more_threads_than_its_profile_has_is_a_violation() {
        let own = observe(i32::try_from(std::process::id()).unwrap()).unwrap();
        let profile = crate::profile("ide").unwrap();
        let wrong = |threads: u64| {
            let threads = (0..threads).map(|_| thread(1)).collect();
            let wrong = check(&Observed { threads, ..own.clone() }, &own, profile, OwnLimits::default());
            wrong.iter().any(|w| w.contains("threads, not at most"))
        };
        assert!(!wrong(profile.limits.threads) && wrong(profile.limits.threads + 1));
    }

    #[test]
    fn a_row_that_is_weaker_is_a_violation() {
        let good = ProcessRow {
            name: "ide".into(),
            pid: 9,
            uid: 7,
            seccomp: 2,
            syscalls: Some(30),
            no_new_privs: true,
            capabilities: false,
            namespaces: 7,
            threads: 2,
            pss_kb: 1,
            restarts: 0,
        };
        assert_eq!(check_row(&good, false), Vec::<String>::new());
        for (bad, of_launcher) in [
            (ProcessRow { seccomp: 0, ..good.clone() }, 1),
            (ProcessRow { no_new_privs: false, ..good.clone() }, 1),
            (ProcessRow { capabilities: true, ..good.clone() }, 0),
            (ProcessRow { namespaces: 6, ..good.clone() }, 0),
            (ProcessRow { uid: 0, ..good.clone() }, 0),
        ] {
            assert_eq!((check_row(&bad, false).len(), check_row(&bad, true).len()), (1, of_launcher), "{bad:?}");
        }
    }

    /// The state of a thread in its sandbox, with `filters` filters.
    fn thread(filters: u32) -> BTreeMap<String, String> {
        let filters = filters.to_string();
        let rights = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|name| (name, "0000000000000000"));
        let more = [("Seccomp", "2"), ("Seccomp_filters", filters.as_str()), ("NoNewPrivs", "1"), ("Groups", "")];
        let ids = [("Uid", "7 7 7 7"), ("Gid", "7 7 7 7")];
        rights.into_iter().chain(more).chain(ids).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    /// What is wrong with the threads of a process whose launcher has `inherited` filters.
    fn wrong_threads(threads: Vec<BTreeMap<String, String>>, inherited: &str) -> Vec<String> {
        let mut own = observe(i32::try_from(std::process::id()).unwrap()).unwrap();
        own.status.insert("Seccomp_filters".into(), inherited.into());
        own.status.insert("Groups".into(), String::new());
        let observed = Observed { threads, ..own.clone() };
        let wrong = check(&observed, &own, crate::profile("ide").unwrap(), OwnLimits::default());
        wrong.into_iter().filter(|w| w.contains("thread")).collect()
    }

    /// The launcher has a filter, and its children inherit it: one that has added none says `Seccomp: 2` too.
    #[test]
    fn a_filter_that_a_process_has_inherited_is_not_its_own() {
        for (filters, inherited, good) in
            [(2, "1", true), (3, "2", true), (1, "0", true), (1, "1", false), (2, "2", false), (3, "1", false)]
        {
            let wrong = wrong_threads(vec![thread(filters)], inherited);
            assert_eq!(wrong.is_empty(), good, "{filters} of which {inherited} inherited: {wrong:?}");
        }
        for unknown in ["", "many"] {
            assert_eq!(wrong_threads(vec![thread(1)], unknown).len(), 1, "a launcher's {unknown:?}");
        }
    }

    #[test]
    fn every_thread_must_be_in_the_sandbox() {
        assert_eq!(wrong_threads(vec![thread(2), thread(2), thread(2)], "1"), Vec::<String>::new());
        assert_eq!(wrong_threads(Vec::new(), "1").len(), 1, "no thread at all");
        for (name, value) in [
            ("Seccomp", "0"),
            ("Seccomp_filters", "1"),
            ("NoNewPrivs", "0"),
            ("CapEff", "0000000000200000"),
            ("CapBnd", ""),
            ("Uid", "7 0 7 7"),
            ("Gid", ""),
            ("Groups", "6"),
        ] {
            let mut other = thread(2);
            other.insert(name.into(), value.into());
            for threads in [vec![other.clone(), thread(2)], vec![thread(2), other]] {
                let wrong = wrong_threads(threads, "1");
                assert!(wrong.len() == 1 && wrong[0].starts_with(name), "{name}: {wrong:?}");
            }
        }
    }

    /// The profile's limit is that of the largest image; a disk's process has its own image's.
    #[test]
    fn a_file_size_limit_above_the_processs_own_is_a_violation() {
        let mut observed = observe(i32::try_from(std::process::id()).unwrap()).unwrap();
        let own = observed.clone();
        let mut wrong = |hard, file_size| {
            let life = OwnLimits { file_size, ..OwnLimits::default() };
            observed.limits.insert("Max file size".into(), hard);
            let wrong = check(&observed, &own, crate::profile("ide").unwrap(), life);
            wrong.iter().any(|w| w.starts_with("Max file size"))
        };
        assert!(!wrong(Some(1 << 20), Some(1 << 20)) && !wrong(Some(0), Some(0)) && !wrong(Some(1 << 40), None));
        assert!(wrong(Some((1 << 20) + 1), Some(1 << 20)), "the profile alone would allow it");
        assert!(wrong(Some(1 << 63), Some(u64::MAX)), "the profile allows less");
        assert!(wrong(None, None) && wrong(None, Some(1)));
    }

    #[test]
    fn address_space_beyond_the_profiles_is_a_violation_but_for_guest_memory() {
        let mut observed = observe(i32::try_from(std::process::id()).unwrap()).unwrap();
        let own = observed.clone();
        let profile = crate::profile("vga").unwrap();
        let mut wrong = |hard, guest_memory| {
            observed.limits.insert("Max address space".into(), hard);
            let life = OwnLimits { guest_memory, ..OwnLimits::default() };
            check(&observed, &own, profile, life).iter().any(|w| w.starts_with("Max address space"))
        };
        let most = profile.limits.address_space;
        assert!(!wrong(Some(most), 0) && !wrong(Some(most + 4096), 4096) && !wrong(Some(most + 4096), u64::MAX));
        assert!(wrong(Some(most + 1), 0) && wrong(Some(most + 4097), 4096) && wrong(None, 4096));
    }

    #[test]
    fn descriptors_have_the_names_that_profiles_use() {
        for (link, word) in [
            ("socket:[12]", "socket"),
            ("pipe:[1]", "pipe"),
            ("anon_inode:[eventfd]", "eventfd"),
            ("anon_inode:[eventpoll]", "eventpoll"),
            ("/memfd:rom (deleted)", "memfd"),
            ("/dev/xen/privcmd", "privcmd"),
            ("/dev/ptmx", "terminal"),
            ("/dev/hvc3", "terminal"),
            ("/dev/fb0", "fb"),
            ("/dev/input/event1", "evdev"),
            ("/var/lib/disk.img", "file"),
        ] {
            assert_eq!(kind(link), word);
        }
    }
}
