//! `bulkhead audit` finds each thing that can be weaker, and says so by its exit status.
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A launcher with a process of which one thing is weaker.
struct Weak(Child);

/// A directory with the program by the name by which `audit` knows a launcher.
fn with_launcher() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_bulkhead-weak"), dir.path().join("bulkhead-dm")).unwrap();
    dir
}

impl Weak {
    fn start(dir: &Path, thing: &str, domid: &str) -> Self {
        let program = dir.join("bulkhead-dm");
        let mut child = Command::new(program)
            .args(["-name", &format!("weak-{thing}"), "-xen-domid", domid])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // The process inherits it: a pipe, as a launcher's logs are.
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{thing}");
        Self(child)
    }
}

impl Drop for Weak {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn bulkhead() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_bulkhead-weak")).with_file_name("bulkhead")
}

/// Exit status, what is weaker of the launcher and of its process, and the guest's whole row.
fn audit(domid: &str, filters: bool) -> (Option<i32>, Vec<String>, Vec<String>, Value) {
    let mut command = Command::new(bulkhead());
    command.args(["--json", "audit", domid]).args(filters.then_some("--filters"));
    let out = command.output().unwrap();
    let all: Value =
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out.stderr)));
    let weaker = |own: fn(&str) -> bool| {
        let of = |p: &&Value| own(p["process"].as_str().unwrap());
        let all = all[0]["processes"].as_array().unwrap().iter().filter(of);
        let list = all.flat_map(|p| p["weaker"].as_array().unwrap());
        list.map(|w| w.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let ours = |name: &str| name == "launcher" || name == "starter";
    (out.status.code(), weaker(ours), weaker(|name| name != "launcher" && name != "starter"), all[0].clone())
}

fn has(weaker: &[String], words: &str) -> bool {
    weaker.iter().any(|w| w.contains(words))
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").unwrap().lines().any(|l| l.starts_with("Uid:\t0\t"))
}

/// Whether this process sees the filters of others: root without a filter, on a kernel with CONFIG_CHECKPOINT_RESTORE.
fn sees_filters() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    is_root() && status.contains("Seccomp_filters:\t0\n") && Path::new("/proc/sys/kernel/ns_last_pid").exists()
}

#[test]
#[ignore = "needs root"]
fn each_thing_that_is_weaker_is_found_in_the_process_that_has_it() {
    // A launcher that is no root's has a process with its own user and groups.
    assert!(is_root());
    let dir = with_launcher();
    let found = |thing: &str| {
        let weak = Weak::start(dir.path(), thing, "30077");
        let result = audit("30077", false);
        drop(weak);
        result
    };
    let (status, launcher, process, row) = found("good");
    assert_eq!((status, launcher, process), (Some(0), vec![], vec![]), "{row}");
    for (thing, words) in [
        ("unfiltered", &["Seccomp_filters of thread"][..]),
        (
            "nothing",
            &["CapEff", "CapBnd", "Max open files", "Max data size", "Max address space", "Max core file size"],
        ),
        ("namespaces", &["net namespace is the launcher's", "user namespace is the launcher's", "Uid of thread"]),
        ("descriptor", &["a file"]),
        ("threads", &["3 threads, not at most 2"]),
        ("file-size", &["Max file size is 1073741824, not at most 4194304"]),
        ("group", &["its control group is"]),
        ("no-group", &["no control group of its own"]),
        ("unknown", &["its launcher does not know it"]),
    ] {
        let (status, launcher, process, row) = found(thing);
        assert_eq!(status, Some(4), "{thing}: {row}");
        assert!(words.iter().all(|w| has(&process, w)), "{thing}: {process:?}");
        assert_eq!(launcher, Vec::<String>::new(), "{thing}");
    }
    // Of launchers that are in no cage.
    for (thing, words) in
        [("root", &["Uid of thread", "Gid of thread"][..]), ("executable", &["executable memory: r-xp"])]
    {
        let (status, _, process, row) = found(thing);
        assert!(status == Some(4) && words.iter().all(|w| has(&process, w)), "{row}");
    }
    for (thing, words) in [("uncaged", "Seccomp is"), ("guests-group", "memory.max of its control group")] {
        let (status, launcher, _, row) = found(thing);
        assert!(status == Some(4) && has(&launcher, words), "{thing}: {row}");
    }
    let (status, _, _, row) = found("silent");
    let silent = row["not-compared"].as_array().unwrap().iter().any(|u| u.as_str().unwrap().contains("says nothing"));
    assert!(status == Some(0) && silent, "an older launcher: {row}");
}

/// Each process has inherited the starter's filter. Without the starter each one had a filter too many.
#[test]
#[ignore = "needs root and a kernel that shows filters"]
fn a_guest_whose_starter_has_ended_is_not_weaker() {
    assert!(sees_filters());
    let dir = with_launcher();
    let weak = Weak::start(dir.path(), "good", "30079");
    let launcher = weak.0.id();
    let children = std::fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap();
    let is_starter = |pid: &&str| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c == b"starter\0");
    let starter = children.split_whitespace().find(is_starter).unwrap().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(starter).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    while std::fs::read(format!("/proc/{starter}/cmdline")).is_ok_and(|c| !c.is_empty()) {
        std::thread::yield_now();
    }
    let (status, launcher, process, row) = audit("30079", true);
    assert_eq!((status, launcher, process), (Some(0), vec![], vec![]), "{row}");
    let unseen = row["not-compared"].as_array().unwrap();
    assert!(unseen.iter().any(|u| u.as_str().unwrap().starts_with("the starter, which")), "{row}");
}

#[test]
#[ignore = "needs root and a kernel that shows filters"]
fn a_filter_of_another_role_is_found_by_its_contents_alone() {
    assert!(sees_filters());
    let dir = with_launcher();
    let weak = Weak::start(dir.path(), "good", "30078");
    let (status, launcher, process, _) = audit("30078", true);
    assert_eq!((status, launcher, process), (Some(0), vec![], vec![]));
    drop(weak);
    let _weak = Weak::start(dir.path(), "other-filter", "30078");
    let (status, _, process, row) = audit("30078", false);
    assert!(status == Some(0) && process.is_empty(), "their number is right: {row}");
    let (status, launcher, process, row) = audit("30078", true);
    assert!(status == Some(4) && has(&process, "does not have the filter of ps2"), "{row}");
    assert_eq!(launcher, Vec::<String>::new());
}
