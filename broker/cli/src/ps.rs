//! `ps`: the process table. For guests of this domain it is read from /proc, so it does not depend on the processes' own reports;
//! for a guest in a stub domain its launcher reads that domain's /proc.
use crate::guest::Guest;
use crate::{Done, Failure, out};
use bulkhead_plan::ProcessRow;
use bulkhead_policy::{LAUNCHER, verify};
use serde_json::{Value, json};

/// Prints the tables of all guests whose device model runs in this domain.
pub(crate) fn all(json: bool) -> Done {
    let own = verify::observe(i32::try_from(std::process::id()).unwrap_or(0)).map_err(Failure::Proc)?;
    let mut launchers = Vec::new();
    for entry in std::fs::read_dir("/proc").map_err(Failure::Proc)?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        if std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == "bulkhead-dm") {
            launchers.push(pid);
        }
    }
    let mut guests = Vec::new();
    for launcher in launchers {
        let arguments = arguments(launcher);
        let of = |flag: &str| arguments.iter().skip_while(|a| *a != flag).nth(1).cloned().unwrap_or_default();
        let mut rows = vec![verify::row(LAUNCHER, LAUNCHER, launcher, &own, 0)];
        let children =
            std::fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap_or_default();
        for pid in children.split_whitespace().filter_map(|p| p.parse().ok()) {
            let role = self::arguments(pid).into_iter().next().unwrap_or_default();
            rows.push(verify::row(&role, &role, pid, &own, 0));
        }
        guests.push((of("-name"), of("-xen-domid"), rows));
    }
    let landlock = bulkhead_policy::landlock_abi();
    if json {
        let guests: Vec<_> = guests
            .iter()
            .map(|(name, domid, rows)| json!({ "name": name, "domid": domid, "landlock": landlock, "processes": rows }))
            .collect();
        return out::json(&Value::Array(guests));
    }
    if guests.is_empty() {
        out::line("no device model of Bulkhead runs in this domain");
    }
    for (name, domid, rows) in &guests {
        out::line(format_args!("guest {name} (domid {domid})"));
        table(rows);
        out::line(format_args!(
            "  Landlock: the kernel's ABI is {landlock} (a domain without any rule; the kernel shows it in no file)"
        ));
    }
    Ok(())
}

/// Prints the table of the guest's launcher, over QMP, which also works for a stub domain.
pub(crate) fn one(guest: &Guest, json: bool) -> Done {
    let all = guest.ask("x-bulkhead-processes", &json!({}))?;
    if json {
        return out::json(&all);
    }
    let text = |key: &str| all.get(key).map_or("?".to_owned(), |v| v.as_str().map_or(v.to_string(), str::to_owned));
    out::line(format_args!("guest {} (domid {})", text("name"), text("domid")));
    let rows = all.get("processes").cloned().unwrap_or(Value::Null);
    table(&serde_json::from_value::<Vec<ProcessRow>>(rows).map_err(|e| guest.bad_answer("the process table", e))?);
    out::line(format_args!("  sandbox level {}, Landlock ABI {}", text("level"), text("landlock")));
    Ok(())
}

fn table(rows: &[ProcessRow]) {
    let header = [
        "uid",
        "seccomp",
        "syscalls",
        "no new privs",
        "capabilities",
        "own namespaces",
        "threads",
        "PSS kB",
        "restarts",
    ];
    out::line(format_args!("  {:<10} {:>7}  {}", "process", "pid", header.map(|h| format!("{h:>14}")).join(" ")));
    for row in rows {
        let columns = [
            row.uid.to_string(),
            if row.seccomp == 2 { "filter" } else { "none" }.to_owned(),
            row.syscalls.map_or("all".to_owned(), |n| n.to_string()),
            u8::from(row.no_new_privs).to_string(),
            if row.capabilities { "some" } else { "none" }.to_owned(),
            if row.namespaces == 7 { "all 7".to_owned() } else { row.namespaces.to_string() },
            row.threads.to_string(),
            row.pss_kb.to_string(),
            row.restarts.to_string(),
        ];
        out::line(format_args!("  {:<10} {:>7}  {}", row.name, row.pid, columns.map(|c| format!("{c:>14}")).join(" ")));
    }
}

/// The arguments of a process, its name first.
pub(crate) fn arguments(pid: i32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    // Each ends with a zero.
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    bytes.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect()
}
