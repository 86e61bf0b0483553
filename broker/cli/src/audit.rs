//! `audit`: compares the processes of running guests with their profiles, and with what their launcher has promised beyond these. It
//! makes the launcher's checks again, so it finds what has become weaker since the start. It reads /proc, the control groups, and a file
//! in the launcher's memory that nobody else has, and depends on no report of the processes. Only of a guest in a stub domain, whose
//! /proc is another domain's, it compares the process table that the guest's control passes on.
use crate::guest::Guest;
use crate::{Done, Failure, out};
use bulkhead_launcher::{argv, settings};
use bulkhead_plan::promise::{self, Promise, PromisedGroup, PromisedLimits, Promises};
use bulkhead_plan::{Memory, ProcessRow, kind};
use bulkhead_policy::{GroupLimits, LAUNCHER, STARTER, group, installed, profile, verify};
use serde_json::{Value, json};
use std::path::Path;

/// A device model of this domain.
struct Found {
    launcher: i32,
    name: String,
    domid: String,
    arguments: Vec<String>,
}

/// A process, and where it is weaker than its profile promises.
struct Audited {
    role: String,
    pid: i32,
    weaker: Vec<String>,
}

/// A guest's processes.
struct Guests {
    name: String,
    domid: String,
    processes: Vec<Audited>,
    /// The directory of its control group.
    group: Option<String>,
    /// What has not been compared, and why.
    unseen: Vec<String>,
}

/// Audits the guest with this name or number, or all guests whose device model runs in this domain. `filters`: the contents of the
/// system call filters too, for which each thread is stopped for a moment.
pub(crate) fn run(guest: Option<&str>, filters: bool, json: bool) -> Done {
    let mut audited = Vec::new();
    for found in device_models()? {
        if guest.is_none_or(|g| g == found.name || g == found.domid) {
            match audit(&found, filters) {
                Ok(one) => audited.push(one),
                // A launcher that has exited meanwhile is no guest any more.
                Err(Failure::Proc(_)) => {}
                Err(e) => return Err(e),
            }
        }
    }
    if let (Some(guest), true) = (guest, audited.is_empty()) {
        audited.push(elsewhere(guest)?);
    }
    let good = audited.iter().flat_map(|guest| &guest.processes).all(|p| p.weaker.is_empty());
    if json {
        out::json(&Value::Array(audited.iter().map(as_json).collect()))?;
    } else {
        for guest in &audited {
            out::line(format_args!("guest {} (domid {})", guest.name, guest.domid));
            for Audited { role, pid, weaker } in &guest.processes {
                let verdict = if weaker.is_empty() { "as its profile says".to_owned() } else { weaker.join("; ") };
                out::line(format_args!("  {role:<10} {pid:>7}  {verdict}"));
            }
            out::line(format_args!("  control group: {}", guest.group.as_deref().unwrap_or("none")));
            for unseen in &guest.unseen {
                out::line(format_args!("  not compared: {unseen}"));
            }
        }
    }
    if good { Ok(()) } else { Err(Failure::Wrong) }
}

fn as_json(guest: &Guests) -> Value {
    let rows: Vec<_> =
        guest.processes.iter().map(|p| json!({ "process": p.role, "pid": p.pid, "weaker": p.weaker })).collect();
    json!({
        "name": guest.name, "domid": guest.domid, "processes": rows, "group": guest.group, "not-compared": guest.unseen,
    })
}

/// The device models that run in this domain.
fn device_models() -> Result<Vec<Found>, Failure> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc").map_err(Failure::Proc)?.flatten() {
        let Some(launcher) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        if std::fs::read_to_string(format!("/proc/{launcher}/comm")).is_ok_and(|c| c.trim() == "bulkhead-dm") {
            let arguments: Vec<String> = crate::ps::arguments(launcher).into_iter().skip(1).collect();
            let of = |flag: &str| arguments.iter().skip_while(|a| *a != flag).nth(1).cloned().unwrap_or_default();
            all.push(Found { launcher, name: of("-name"), domid: of("-xen-domid"), arguments });
        }
    }
    Ok(all)
}

fn audit(found: &Found, filters: bool) -> Result<Guests, Failure> {
    let launcher = verify::observe(found.launcher).map_err(Failure::Proc)?;
    let promises = promises(found.launcher);
    let mut unseen = vec!["Landlock's rules, which the kernel shows nowhere".to_owned()];
    if !filters {
        unseen.push("the contents of system call filters (--filters)".to_owned());
    }
    if promises.is_none() {
        unseen.push("limits of files and control groups, of which this launcher's version says nothing".to_owned());
    }
    if found.arguments.iter().any(|a| a == "-xen-attach") {
        unseen.push("processes inside of this domain, if it is a stub domain (audit its guest)".to_owned());
    }
    let group = promises.as_ref().and_then(|promises| promises.group.as_ref());
    let mut weaker = verify::check_launcher(&launcher);
    if let Some(group) = group {
        weaker.extend(group::check_guest(Path::new(&group.path), limits(&group.limits), &group.controllers));
    }
    if filters {
        weaker.extend(compared(installed::check_launcher(found.launcher))?);
    }
    let mut processes = vec![Audited { role: LAUNCHER.to_owned(), pid: found.launcher, weaker }];
    let children = format!("/proc/{0}/task/{0}/children", found.launcher);
    let children = std::fs::read_to_string(children).map_err(Failure::Proc)?;
    let children: Vec<i32> = children.split_whitespace().filter_map(|p| p.parse().ok()).collect();
    let role_of = |pid| crate::ps::arguments(pid).into_iter().next().unwrap_or_default();
    // Each process has inherited the starter's filter and namespaces, or, before there is a starter, the launcher's.
    let starter = children.iter().copied().find(|pid| role_of(*pid) == STARTER);
    let own = starter.and_then(|pid| verify::observe(pid).ok()).unwrap_or_else(|| verify::before_closing(launcher));
    if starter.is_none() {
        unseen.push(
            "the starter, which has not begun or has ended (BH-0503 in the log): then what dies stays dead".to_owned(),
        );
    }
    if let Some(pid) = starter {
        let mut weaker = verify::check_starter(&own);
        if filters {
            weaker.extend(compared(installed::check_starter(pid))?);
        }
        processes.push(Audited { role: STARTER.to_owned(), pid, weaker });
    }
    for pid in children {
        let role = role_of(pid);
        // `intake` lives for a moment, and has been checked before it got its image.
        if role == kind::INTAKE.role || role == STARTER {
            continue;
        }
        let promise = promises.as_ref().and_then(|all| all.processes.iter().find(|p| p.pid == pid));
        let mut weaker = match (verify::observe(pid), profile(&role)) {
            (Ok(observed), Some(profile)) => verify::check(&observed, &own, profile, own_limits(found, &role, promise)),
            // It has exited meanwhile.
            (Err(_), _) => continue,
            (Ok(observed), _) if observed.has_exited() => continue,
            (Ok(_), None) => vec!["there is no profile for it".to_owned()],
        };
        if promises.is_some() && promise.is_none() {
            weaker.push("its launcher does not know it".to_owned());
        }
        if let (Some(group), Some(promise)) = (group, promise) {
            weaker.extend(check_group(pid, group, promise));
        }
        if let (true, Some(profile)) = (filters, profile(&role)) {
            weaker.extend(compared(installed::check(pid, profile))?);
        }
        processes.push(Audited { role, pid, weaker });
    }
    let (name, domid) = (found.name.clone(), found.domid.clone());
    Ok(Guests { name, domid, processes, group: group.map(|g| g.path.clone()), unseen })
}

/// The result of a comparison of filters. A thread that has ended meanwhile has no filters.
fn compared(result: std::io::Result<Vec<String>>) -> Result<Vec<String>, Failure> {
    /// ESRCH.
    const GONE: i32 = 3;
    match result {
        Err(e) if e.raw_os_error() == Some(GONE) || e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(Failure::Filters),
    }
}

fn limits(of: &PromisedLimits) -> GroupLimits {
    GroupLimits { memory: of.memory, tasks: of.tasks }
}

fn check_group(pid: i32, guest: &PromisedGroup, promise: &Promise) -> Vec<String> {
    let Some(own) = &promise.group else { return vec!["it has no control group of its own".to_owned()] };
    let path = Path::new(&guest.path).join(&promise.name);
    group::check(Path::new(group::ROOT), pid, &path, limits(own), &guest.controllers)
}

/// What a launcher has promised. `None`: it says nothing, as older ones.
fn promises(launcher: i32) -> Option<Promises> {
    let name = format!("/memfd:{} (deleted)", promise::FILE);
    let file = std::fs::read_dir(format!("/proc/{launcher}/fd"))
        .ok()?
        .flatten()
        .find(|entry| std::fs::read_link(entry.path()).is_ok_and(|link| *link == *name))?;
    // The launcher may just be writing it.
    (0..100).find_map(|_| serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok())
}

/// The limits that are the process's own: as the launcher says, or as far as its arguments tell.
fn own_limits(found: &Found, role: &str, promise: Option<&Promise>) -> verify::OwnLimits {
    if let Some(promise) = promise {
        return verify::OwnLimits { file_size: promise.file_size, guest_memory: promise.guest_memory };
    }
    let maps = kind::of_role(role).map_or(Memory::None, |k| k.memory);
    let guest_memory = if maps == Memory::None { 0 } else { guest_memory(&found.arguments) };
    verify::OwnLimits { guest_memory, ..Default::default() }
}

/// Bytes of guest memory that a process may map as a whole, which its profile does not count: video RAM; in the simulated machine,
/// whose RAM is a file of unknown size, any number.
fn guest_memory(arguments: &[String]) -> u64 {
    let all =
        settings::read(Path::new(settings::FILE)).unwrap_or_default().into_iter().chain(arguments.iter().cloned());
    match argv::parse(all.collect::<Vec<_>>()) {
        Ok(parsed) if parsed.machine.sim.is_some() => u64::MAX,
        Ok(parsed) => parsed.machine.video.map_or(0, |v| u64::from(v.mib) << 20),
        Err(_) => 0,
    }
}

/// Audits a guest whose device model runs in another domain, by the process table of its launcher.
fn elsewhere(name: &str) -> Result<Guests, Failure> {
    let guest = Guest::find(name).map_err(|_| Failure::NoDeviceModel(name.to_owned()))?;
    let all = guest.ask("x-bulkhead-processes", &json!({})).map_err(|e| match e {
        Failure::Unreachable(_) => Failure::NoDeviceModel(name.to_owned()),
        other => other,
    })?;
    let rows = all.get("processes").cloned().unwrap_or(Value::Null);
    let rows: Vec<ProcessRow> = serde_json::from_value(rows).map_err(|e| guest.bad_answer("the process table", e))?;
    let text = |key: &str| all.get(key).map_or("?".to_owned(), |v| v.as_str().map_or(v.to_string(), str::to_owned));
    let processes = rows.iter().enumerate().map(|(i, row)| Audited {
        role: row.name.clone(),
        pid: i32::try_from(row.pid).unwrap_or(0),
        // A process that is dead has no sandbox.
        weaker: if row.pid == 0 { Vec::new() } else { verify::check_row(row, i == 0 || row.name == STARTER) },
    });
    let unseen = vec![
        "limits, descriptors, control groups and filters: the device model runs in a domain of its own, whose processes are not visible from here".to_owned(),
        "whether control, which passes this table on, tells the truth".to_owned(),
    ];
    Ok(Guests { name: text("name"), domid: text("domid"), processes: processes.collect(), group: None, unseen })
}
