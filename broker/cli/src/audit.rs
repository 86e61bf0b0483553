//! `audit`: compares the processes of running guests with their profiles, from /proc alone. It makes the launcher's checks again, so
//! it finds what has become weaker since the start, and does not depend on any report of the processes. It knows a profile's limit on
//! the size of files, not the lower one that a process has by its images.
use crate::{Done, Failure, out};
use bulkhead_launcher::{argv, settings};
use bulkhead_plan::{Memory, kind};
use bulkhead_policy::{LAUNCHER, STARTER, profile, verify};
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

/// Audits the guest with this name or number, or all guests whose device model runs in this domain.
pub(crate) fn run(guest: Option<&str>, json: bool) -> Done {
    let mut audited = Vec::new();
    for found in device_models()? {
        if guest.is_none_or(|g| g == found.name || g == found.domid) {
            // A launcher that has exited meanwhile is no guest any more.
            audited.extend(audit(&found).ok().map(|processes| (found, processes)));
        }
    }
    if let (Some(guest), true) = (guest, audited.is_empty()) {
        return Err(Failure::NoDeviceModel(guest.to_owned()));
    }
    let good = audited.iter().flat_map(|(_, processes)| processes).all(|p| p.weaker.is_empty());
    if json {
        out::json(&Value::Array(audited.iter().map(|(found, processes)| as_json(found, processes)).collect()))?;
    } else {
        for (found, processes) in &audited {
            out::line(format_args!("guest {} (domid {})", found.name, found.domid));
            for Audited { role, pid, weaker } in processes {
                let verdict = if weaker.is_empty() { "as its profile says".to_owned() } else { weaker.join("; ") };
                out::line(format_args!("  {role:<10} {pid:>7}  {verdict}"));
            }
        }
        out::line("  (Landlock: the kernel shows a process's rules in no file)");
    }
    if good { Ok(()) } else { Err(Failure::Wrong) }
}

fn as_json(found: &Found, processes: &[Audited]) -> Value {
    let rows: Vec<_> =
        processes.iter().map(|p| json!({ "process": p.role, "pid": p.pid, "weaker": p.weaker })).collect();
    json!({ "name": found.name, "domid": found.domid, "processes": rows })
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

fn audit(found: &Found) -> Result<Vec<Audited>, Failure> {
    let launcher = verify::observe(found.launcher).map_err(Failure::Proc)?;
    let mut all =
        vec![Audited { role: LAUNCHER.to_owned(), pid: found.launcher, weaker: verify::check_launcher(&launcher) }];
    let guest_memory = guest_memory(&found.arguments);
    let children = format!("/proc/{0}/task/{0}/children", found.launcher);
    let children = std::fs::read_to_string(children).map_err(Failure::Proc)?;
    let children: Vec<i32> = children.split_whitespace().filter_map(|p| p.parse().ok()).collect();
    let role_of = |pid| crate::ps::arguments(pid).into_iter().next().unwrap_or_default();
    // Each process has inherited the starter's filter and namespaces, or, before there is a starter, the launcher's.
    let starter = children.iter().copied().find(|pid| role_of(*pid) == STARTER);
    let own = starter.and_then(|pid| verify::observe(pid).ok()).unwrap_or(launcher);
    all.extend(starter.map(|pid| Audited { role: STARTER.to_owned(), pid, weaker: verify::check_starter(&own) }));
    for pid in children {
        let role = role_of(pid);
        // `intake` lives for a moment, and has been checked before it got its image.
        if role == kind::INTAKE.role || role == STARTER {
            continue;
        }
        let weaker = match (verify::observe(pid), profile(&role)) {
            (Ok(observed), Some(profile)) => {
                let maps = kind::of_role(&role).map_or(Memory::None, |k| k.memory);
                let guest_memory = if maps == Memory::None { 0 } else { guest_memory };
                verify::check(&observed, &own, profile, verify::OwnLimits { guest_memory, ..Default::default() })
            }
            // It has exited meanwhile.
            (Err(_), _) => continue,
            (Ok(_), None) => vec!["there is no profile for it".to_owned()],
        };
        all.push(Audited { role, pid, weaker });
    }
    Ok(all)
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
