//! Looking at a process from outside, in /proc.
use std::collections::BTreeMap;

/// What /proc says of a process.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Lines of `status`.
    pub status: BTreeMap<String, String>,
    /// Namespaces: name → identity, where they can be read.
    pub namespaces: BTreeMap<String, String>,
}

/// Reads /proc.
pub fn observe(pid: i32) -> std::io::Result<Observed> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let pairs = status.lines().filter_map(|line| line.split_once(':'));
    let status = pairs.map(|(k, v)| (k.to_owned(), v.trim().to_owned())).collect();
    let mut namespaces = BTreeMap::new();
    for name in ["user", "mnt", "net", "ipc", "uts", "pid", "cgroup"] {
        if let Ok(link) = std::fs::read_link(format!("/proc/{pid}/ns/{name}")) {
            namespaces.insert(name.to_owned(), link.to_string_lossy().into_owned());
        }
    }
    Ok(Observed { status, namespaces })
}

/// Checks that a process is in its sandbox: filter on, no capabilities, no new privileges, not root, own namespaces.
/// Returns what is wrong.
pub fn check(observed: &Observed, own: &Observed) -> Vec<String> {
    let mut wrong = Vec::new();
    let field = |name: &str| observed.status.get(name).map_or("", String::as_str);
    for (name, want) in [("Seccomp", "2"), ("NoNewPrivs", "1")] {
        if field(name) != want {
            wrong.push(format!("{name} is {:?}, not {want}", field(name)));
        }
    }
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        if field(name).is_empty() || field(name).bytes().any(|b| b != b'0') {
            wrong.push(format!("{name} is {}", field(name)));
        }
    }
    for name in ["Uid", "Gid"] {
        if field(name).split_whitespace().any(|id| id == "0") {
            wrong.push(format!("{name} is {}", field(name)));
        }
    }
    for (name, link) in &observed.namespaces {
        if own.namespaces.get(name) == Some(link) {
            wrong.push(format!("the {name} namespace is the launcher's"));
        }
    }
    wrong
}
