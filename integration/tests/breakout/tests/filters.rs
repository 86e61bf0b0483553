//! Whose filter a process has: what /proc says of it, and what the kernel shows of it to root.
use bulkhead_breakout::Hostile;
use bulkhead_policy::verify::{self, Observed, OwnLimits};
use bulkhead_policy::{PROFILES, installed, profile};
use rustix::fd::AsFd;

fn start(role: &str, layer: &str) -> Hostile {
    // The stub domain's debugging image has it at another path.
    let path = std::env::var("BULKHEAD_HOSTILE").unwrap_or(env!("CARGO_BIN_EXE_bulkhead-hostile").into());
    let executable = std::fs::File::open(path).unwrap();
    let hostile = bulkhead_breakout::start(executable.as_fd(), role, None, layer, "wait", None, None).unwrap();
    assert!(hostile.waits().unwrap(), "{role}: {layer}");
    hostile
}

/// This process, and how many filters it has.
fn own() -> (Observed, u32) {
    let own = verify::observe(i32::try_from(std::process::id()).unwrap()).unwrap();
    let filters = own.status["Seccomp_filters"].parse().unwrap();
    (own, filters)
}

/// What /proc says against the filters of a process whose launcher has `inherited` filters.
fn wrong(pid: i32, role: &str, inherited: u32) -> Vec<String> {
    let (mut own, _) = own();
    own.status.insert("Seccomp_filters".into(), inherited.to_string());
    let observed = verify::observe(pid).unwrap();
    let wrong = verify::check(&observed, &own, profile(role).unwrap(), OwnLimits::default());
    wrong.into_iter().filter(|w| w.starts_with("Seccomp")).collect()
}

/// Whether the kernel shows filters to this process: a kernel with CONFIG_CHECKPOINT_RESTORE, which has this file, and to root
/// without a filter.
fn shown() -> bool {
    let (own, filters) = own();
    let root = own.status["Uid"].split_whitespace().nth(1) == Some("0");
    root && filters == 0 && std::path::Path::new("/proc/sys/kernel/ns_last_pid").exists()
}

#[test]
fn a_process_of_every_role_has_the_starters_filter_and_its_own() {
    let (_, filters) = own();
    for profile in PROFILES {
        let role = profile.role;
        let hostile = start(role, "cage,filter");
        assert_eq!(wrong(hostile.pid(), role, filters + 1), Vec::<String>::new(), "{role}");
        assert_eq!(installed::check(hostile.pid(), profile).is_ok(), shown(), "{role}");
        if shown() {
            assert_eq!(installed::check(hostile.pid(), profile).unwrap(), Vec::<String>::new(), "{role}");
            let other = PROFILES.iter().find(|p| p.role != role && p.syscalls != profile.syscalls).unwrap();
            assert_eq!(installed::check(hostile.pid(), other).unwrap().len(), 1, "{role} is not {}", other.role);
            assert_eq!(installed::check_starter(hostile.pid()).unwrap().len(), 1, "{role} is not the starter");
            assert!(!installed::check_launcher(hostile.pid()).unwrap().is_empty(), "{role} is not the launcher");
        }
        assert_eq!(hostile.end().unwrap().and_then(|s| s.exit_status()), Some(0), "{role} goes on");
    }
}

/// It has a filter, but not one of its own.
#[test]
fn a_process_that_has_only_inherited_filters_is_found() {
    let (_, filters) = own();
    let hostile = start("ps2", "cage");
    assert_eq!(verify::observe(hostile.pid()).unwrap().status["Seccomp"], "2");
    let found = wrong(hostile.pid(), "ps2", filters + 1);
    assert!(found.len() == 1 && found[0].starts_with("Seccomp_filters"), "{found:?}");
    if shown() {
        assert_eq!(installed::check(hostile.pid(), profile("ps2").unwrap()).unwrap().len(), 2);
        assert_eq!(installed::check_starter(hostile.pid()).unwrap(), Vec::<String>::new());
    }
    hostile.end().unwrap();
}

#[test]
fn a_thread_without_the_filter_is_found() {
    let (_, filters) = own();
    let hostile = start("ps2", "one-thread");
    let observed = verify::observe(hostile.pid()).unwrap();
    assert_eq!((observed.status["Seccomp"].as_str(), observed.threads.len()), ("2", 2));
    let found = wrong(hostile.pid(), "ps2", filters);
    assert!(found.len() == 2 || filters > 0, "the other thread has none: {found:?}");
    assert!(found.iter().any(|w| w.starts_with("Seccomp_filters")), "{found:?}");
    hostile.end().unwrap();
}
