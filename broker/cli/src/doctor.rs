//! `doctor`: checks the host against the requirements of guests.
use crate::{Done, Failure, out};
use bulkhead_launcher::groups::{self, Choice, Places};
use bulkhead_xen::{Scheduler, XenError};
use serde_json::{Value, json};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Good,
    /// Guests start, with less protection or speed than the host could give.
    Less,
    /// Guests cannot start.
    Wrong,
}

/// One check of the host, with its result.
struct Finding {
    what: String,
    state: State,
    /// The observed value, or the error.
    seen: String,
    /// The operator's action, if the state is not good.
    remedy: &'static str,
}

fn finding(what: &str, state: State, seen: impl Into<String>, remedy: &'static str) -> Finding {
    Finding { what: what.to_owned(), state, seen: seen.into(), remedy }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|t| t.trim().to_owned())
}

fn node(path: &str, remedy: &'static str) -> Finding {
    match std::fs::metadata(path) {
        Ok(m) if m.file_type().is_char_device() => finding(path, State::Good, "there", remedy),
        Ok(_) => finding(path, State::Wrong, "not a device", remedy),
        Err(e) => finding(path, State::Wrong, e.to_string(), remedy),
    }
}

/// Looks for the first existing file of `paths`.
fn firmware(what: &str, paths: &[&str], state: State, remedy: &'static str) -> Finding {
    match paths.iter().find(|p| Path::new(p).is_file()) {
        Some(path) => finding(what, State::Good, *path, remedy),
        None => finding(what, state, format!("none of {}", paths.join(", ")), remedy),
    }
}

fn kernel() -> Finding {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-', '+']).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let state = if version >= (5, 13) { State::Good } else { State::Wrong };
    finding("kernel", state, release, "Linux 5.13 or later: clone3, Landlock, seccomp")
}

fn landlock() -> Finding {
    let remedy = "Linux 6.12 or later for level=strict; Landlock must be in the kernel's list of security modules (lsm=landlock,…)";
    match bulkhead_policy::landlock_abi() {
        abi if abi >= 6 => finding("Landlock", State::Good, format!("ABI {abi}: level strict"), remedy),
        abi if abi >= 1 => finding("Landlock", State::Less, format!("ABI {abi}: level kernel, strict needs 6"), remedy),
        _ => finding("Landlock", State::Less, "absent: the sandbox relies on its other layers", remedy),
    }
}

/// The control groups that guests get by the settings, in words, and what is wrong with them.
fn control_groups() -> Finding {
    const REMEDY: &str = "mount cgroup2 on /sys/fs/cgroup (with systemd: systemd.unified_cgroup_hierarchy=1 on the kernel's command line, and systemctl enable --now bulkhead.service), or set cgroup in [sandbox]";
    let settings = bulkhead_launcher::settings::read(Path::new(bulkhead_launcher::settings::FILE)).unwrap_or_default();
    let value = settings.iter().skip_while(|a| *a != "-cgroup").nth(1);
    let choice = value.and_then(|v| Choice::try_from(v.as_str()).ok()).unwrap_or_default();
    groups_finding(&choice, Places::here(), REMEDY)
}

fn groups_finding(choice: &Choice, places: Places<'_>, remedy: &'static str) -> Finding {
    const WHAT: &str = "control groups";
    let base = match groups::base(choice, places) {
        Ok(base) => base,
        // Guests do not start without the group that the settings name.
        Err(e) if matches!(choice, Choice::In(_)) => return finding(WHAT, State::Wrong, e.to_string(), remedy),
        Err(e) => return finding(WHAT, State::Less, format!("none: {e}"), remedy),
    };
    let there = read(&base.join("cgroup.controllers").display().to_string()).unwrap_or_default();
    let (has, lacks): (Vec<_>, Vec<_>) =
        groups::CONTROLLERS.into_iter().partition(|name| there.split_whitespace().any(|c| c == *name));
    let place = base.display();
    match (has.as_slice(), lacks.as_slice()) {
        (all, []) => finding(WHAT, State::Good, format!("{} in {place}", all.join(", ")), remedy),
        ([], _) => {
            finding(WHAT, State::Less, format!("none: {place} has no controller of {}", lacks.join(", ")), remedy)
        }
        (has, lacks) => {
            finding(WHAT, State::Less, format!("{} in {place}, not {}", has.join(", "), lacks.join(", ")), remedy)
        }
    }
}

/// What guests of this host get, in one line.
fn summary(abi: i32, groups: &Finding) -> Finding {
    let level = if abi >= 6 { "strict" } else { "kernel" };
    let with = if groups.seen.starts_with("none") || groups.state == State::Wrong { "without" } else { "with" };
    let state = if abi >= 6 && groups.state == State::Good { State::Good } else { State::Less };
    finding(
        "sandbox of guests here",
        state,
        format!("level {level}, {with} control groups"),
        "the lines Landlock and control groups say what to change",
    )
}

fn namespaces() -> Finding {
    let max = read("/proc/sys/user/max_user_namespaces").and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let state = if max >= 64 { State::Good } else { State::Wrong };
    finding(
        "user namespaces",
        state,
        format!("at most {max}"),
        "set the sysctl user.max_user_namespaces to some hundreds: each process has a namespace",
    )
}

fn installed() -> Vec<Finding> {
    // The second is a link to the first, whose path libvirt may use.
    let dm = ["/usr/lib/xen/bin/bulkhead-dm", "/usr/lib/bulkhead/bulkhead-dm"];
    let remedy = "install Bulkhead's package, or integration/install --destdir /";
    dm.into_iter()
        .chain(["/usr/lib/bulkhead/bulkhead-roles"])
        .map(|path| match std::fs::metadata(path) {
            Ok(m) if m.uid() == 0 && m.mode() & 0o022 == 0 && m.mode() & 0o111 != 0 => {
                finding(path, State::Good, "there", remedy)
            }
            Ok(_) => {
                finding(path, State::Wrong, "must belong to root, be executable, and be writable by root only", remedy)
            }
            Err(e) => finding(path, State::Wrong, e.to_string(), remedy),
        })
        .collect()
}

fn xen() -> Vec<Finding> {
    let remedy = "boot under Xen, with the modules xen-privcmd and xen-evtchn";
    let grants = "load the module xen-gntdev: PV disks and keyboards need it";
    let mut all =
        vec![node("/dev/xen/privcmd", remedy), node("/dev/xen/evtchn", remedy), node("/dev/xen/gntdev", grants)];
    let version = read("/sys/hypervisor/version/major").zip(read("/sys/hypervisor/version/minor"));
    let numbers = version.as_ref().and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u32>().ok()?)));
    all.push(match numbers {
        Some(v) if v >= (4, 11) => finding("Xen", State::Good, format!("{}.{}", v.0, v.1), ""),
        Some(v) => finding(
            "Xen",
            State::Wrong,
            format!("{}.{}", v.0, v.1),
            "Xen 4.11 or later: device model operations, resource mapping",
        ),
        None => finding("Xen", State::Wrong, "not there", remedy),
    });
    if numbers.is_some() {
        all.push(rate_limit(&bulkhead_xen::scheduler()));
    }
    let connected = bulkhead_xen::Xenstore::connect();
    all.push(match connected {
        Ok(_) => finding("xenstore", State::Good, "answers", ""),
        Err(e) => finding("xenstore", State::Wrong, e.to_string(), "start xenstored"),
    });
    all
}

/// Checks Xen's rate limit, which delays register accesses: dom0, woken by an access, cannot preempt a guest that has just started
/// to run, and the guest cannot preempt dom0.
fn rate_limit(scheduler: &Result<Scheduler, XenError>) -> Finding {
    const REMEDY: &str = "sched_ratelimit_us=0 on Xen's command line, or \"xl sched-credit2 -s -r 0\" (sched-credit for credit) now: a register access costs about a third less (docs/operations.md)";
    let (state, seen) = match scheduler {
        Ok(Scheduler::Credit(0) | Scheduler::Credit2(0)) => (State::Good, "no rate limit".to_owned()),
        Ok(Scheduler::Credit(us) | Scheduler::Credit2(us)) => {
            (State::Less, format!("rate limit of {us} us: register accesses cost more"))
        }
        Ok(Scheduler::Other(number)) => (State::Good, format!("number {number}, which has no rate limit")),
        Err(e) => (State::Less, format!("not known: {e}")),
    };
    finding("Xen's scheduler", state, seen, REMEDY)
}

/// Runs all checks and prints their results.
pub(crate) fn run(json: bool) -> Done {
    let mut all =
        vec![finding("version", State::Good, crate::VERSION.as_str(), ""), kernel(), landlock(), namespaces()];
    let groups = control_groups();
    let summary = summary(bulkhead_policy::landlock_abi(), &groups);
    all.push(groups);
    all.push(summary);
    all.extend(installed());
    all.extend(xen());
    let tun = node("/dev/net/tun", "the kernel module tun, for guests with emulated network cards");
    all.push(Finding { state: if tun.state == State::Good { State::Good } else { State::Less }, ..tun });
    all.push(firmware(
        "VGA firmware",
        &["/usr/share/bulkhead/vgabios-stdvga.bin", "/usr/share/seabios/vgabios-stdvga.bin"],
        State::Wrong,
        "the package seabios",
    ));
    for card in ["e1000", "rtl8139"] {
        let paths = [
            format!("/usr/lib/ipxe/qemu/efi-{card}.rom"),
            format!("/usr/share/bulkhead/efi-{card}.rom"),
            format!("/usr/share/qemu/efi-{card}.rom"),
        ];
        all.push(firmware(
            &format!("boot firmware of {card}"),
            &paths.each_ref().map(String::as_str),
            State::Less,
            "the package ipxe-qemu, for booting over the network",
        ));
    }
    let word = |state| match state {
        State::Good => "good",
        State::Less => "less",
        State::Wrong => "wrong",
    };
    if json {
        let rows: Vec<Value> = all
            .iter()
            .map(|f| json!({ "what": f.what, "state": word(f.state), "seen": f.seen, "remedy": f.remedy }))
            .collect();
        out::json(&Value::Array(rows))?;
    } else {
        for f in &all {
            out::line(format_args!("{:<6} {:<32} {}", word(f.state), f.what, f.seen));
            if f.state != State::Good {
                out::line(format_args!("       {}", f.remedy));
            }
        }
    }
    if all.iter().any(|f| f.state == State::Wrong) { Err(Failure::Wrong) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_says_its_level_and_whether_it_has_control_groups() {
        let dir = tempfile::tempdir().unwrap();
        let (root, systemd) = (dir.path().join("cgroup"), dir.path().join("systemd"));
        let seen = |choice: &Choice| {
            let groups = groups_finding(choice, Places { root: &root, systemd: &systemd }, "change it");
            (groups.state, groups.seen.clone(), summary(6, &groups).seen, summary(6, &groups).state)
        };
        std::fs::create_dir(&root).unwrap();
        let (state, text, all, whole) = seen(&Choice::Auto);
        assert!(text.starts_with("none: ") && text.ends_with("no cgroup2 mount"), "{text}");
        assert_eq!((state, all.as_str(), whole), (State::Less, "level strict, without control groups", State::Less));
        assert_eq!(seen(&Choice::In(root.clone())).0, State::Wrong, "guests do not start");
        let controllers = |text: &str| std::fs::write(root.join("cgroup.controllers"), text).unwrap();
        controllers("cpuset memory pids\n");
        let (state, text, all, _) = seen(&Choice::Auto);
        assert!(state == State::Less && text.starts_with("memory, pids in ") && text.ends_with(", not cpu"), "{text}");
        assert_eq!(all, "level strict, with control groups");
        controllers("hugetlb\n");
        assert_eq!(seen(&Choice::Auto).2, "level strict, without control groups");
        controllers("cpu memory pids");
        let (state, _, all, whole) = seen(&Choice::Auto);
        assert_eq!((state, all.as_str(), whole), (State::Good, "level strict, with control groups", State::Good));
        assert_eq!(
            summary(5, &groups_finding(&Choice::Auto, Places { root: &root, systemd: &systemd }, "")).seen,
            "level kernel, with control groups"
        );
        std::fs::create_dir(&systemd).unwrap();
        assert!(seen(&Choice::Auto).1.contains("bulkhead.service is not active"));
    }

    #[test]
    fn the_rate_limit_of_xens_scheduler_is_less_than_could_be() {
        for none in [Scheduler::Credit(0), Scheduler::Credit2(0), Scheduler::Other(9)] {
            assert_eq!(rate_limit(&Ok(none)).state, State::Good, "{none:?}");
        }
        let seen = rate_limit(&Ok(Scheduler::Credit2(1000)));
        assert_eq!(seen.state, State::Less, "guests start");
        assert!(seen.seen.contains("1000 us") && seen.remedy.contains("sched_ratelimit_us=0"));
        let refused = XenError { what: "sysctl", source: std::io::ErrorKind::PermissionDenied.into() };
        assert_eq!(rate_limit(&Err(refused)).state, State::Less);
    }
}
