//! The process table, read from /proc: what the kernel says, not what the processes say.
use bulkhead_policy::{profile, verify};
use std::collections::BTreeSet;

struct Row {
    role: String,
    pid: i32,
    columns: Vec<String>,
}

/// Prints a table for every guest.
pub(crate) fn print() -> Result<(), String> {
    let own = verify::observe(i32::try_from(std::process::id()).unwrap_or(0)).map_err(|e| format!("/proc: {e}"))?;
    let mut launchers = Vec::new();
    for entry in std::fs::read_dir("/proc").map_err(|e| format!("/proc: {e}"))?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        if std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == "bulkhead-dm") {
            launchers.push(pid);
        }
    }
    if launchers.is_empty() {
        println!("no guest has Bulkhead as its device model");
    }
    for launcher in launchers {
        let arguments = arguments(launcher);
        let of = |flag: &str| arguments.iter().skip_while(|a| *a != flag).nth(1).cloned().unwrap_or_default();
        println!("guest {} (domid {})", of("-name"), of("-xen-domid"));
        let mut rows = vec![row("launcher", launcher, &own)];
        let children = std::fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap_or_default();
        for pid in children.split_whitespace().filter_map(|p| p.parse().ok()) {
            let role = self::arguments(pid).into_iter().next().unwrap_or_default();
            rows.push(row(&role, pid, &own));
        }
        let header = ["uid", "seccomp", "syscalls", "no new privs", "capabilities", "own namespaces", "threads", "PSS kB"];
        println!("  {:<10} {:>7}  {}", "process", "pid", header.map(|h| format!("{h:>14}")).join(" "));
        for row in rows {
            println!("  {:<10} {:>7}  {}", row.role, row.pid, row.columns.iter().map(|c| format!("{c:>14}")).collect::<Vec<_>>().join(" "));
        }
        println!("  Landlock: the kernel's ABI is {} (a domain without any rule; the kernel shows it in no file)", bulkhead_policy::landlock_abi());
    }
    Ok(())
}

/// Prints the table that the guest's launcher has, over QMP: the only one that there is of a stub domain.
pub(crate) fn remote(guest: &str) -> Result<(), String> {
    let answer = crate::qmp::exchange(guest, r#"{"execute":"x-bulkhead-processes"}"#)?;
    let table = crate::qmp::returned(&answer)?;
    let text = |value: &serde_json::Value, key: &str| value.get(key).map_or("?".to_owned(), |v| v.as_str().map_or(v.to_string(), str::to_owned));
    println!("guest {} (domid {}), sandbox level {}, Landlock ABI {}", text(table, "name"), text(table, "domid"), text(table, "level"), text(table, "landlock"));
    let columns = ["name", "pid", "uid", "seccomp", "syscalls", "no_new_privs", "capabilities", "namespaces", "threads", "pss_kb", "restarts"];
    println!("  {}", columns.map(|c| format!("{c:>12}")).join(" "));
    for row in table.get("processes").and_then(serde_json::Value::as_array).into_iter().flatten() {
        println!("  {}", columns.map(|c| format!("{:>12}", text(row, c))).join(" "));
    }
    Ok(())
}

fn arguments(pid: i32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect()
}

fn row(role: &str, pid: i32, own: &verify::Observed) -> Row {
    let Ok(observed) = verify::observe(pid) else { return Row { role: role.to_owned(), pid, columns: vec!["gone".to_owned()] } };
    let field = |name: &str| observed.status.get(name).map_or("?", String::as_str);
    let seccomp = match field("Seccomp") {
        "2" => "filter",
        "0" => "none",
        other => other,
    };
    let namespaces: BTreeSet<&str> = observed
        .namespaces
        .iter()
        .filter(|(name, link)| own.namespaces.get(*name) != Some(link))
        .map(|(name, _)| name.as_str())
        .collect();
    let pss = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let pss = pss.lines().find_map(|l| l.strip_prefix("Pss:")).map_or("?", |v| v.trim().trim_end_matches(" kB"));
    let columns = vec![
        field("Uid").split_whitespace().next().unwrap_or("?").to_owned(),
        seccomp.to_owned(),
        profile(role).map_or("all".to_owned(), |p| p.syscalls.len().to_string()),
        field("NoNewPrivs").to_owned(),
        if field("CapEff").bytes().all(|b| b == b'0') { "none".to_owned() } else { "some".to_owned() },
        if namespaces.len() == 7 { "all 7".to_owned() } else { namespaces.len().to_string() },
        field("Threads").to_owned(),
        pss.to_owned(),
    ];
    Row { role: role.to_owned(), pid, columns }
}
