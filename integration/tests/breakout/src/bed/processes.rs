//! A device model's processes: their sandboxes, their threads, who has which file.
use crate::Done;
use bulkhead_plan::{Memory, kind};
use bulkhead_policy::verify::OwnLimits;
use bulkhead_policy::{STARTER, installed, profile, verify};
use std::io::Read as _;

/// The launcher and every child of it, with its profile.
pub(crate) fn processes(launcher: i32) -> Done {
    let all = || std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let all = || all().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let role_of = |pid| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    // (A stub domain's kernel lists nobody's children.)
    let is_child = |pid: &i32| {
        let state = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        state.contains(&format!("PPid:\t{launcher}\n"))
    };
    let starter = all().find(|pid| role_of(*pid) == b"starter\0" && is_child(pid)).ok_or("there is no starter")?;
    // What they have inherited is the starter's.
    let own = verify::observe(starter)?;
    let mut wrong = Vec::new();
    // As the first process of a stub domain the launcher has capabilities of its own, and its starter too.
    if launcher != 1 {
        wrong.extend(verify::check_starter(&own));
        wrong.extend(verify::check_launcher(&verify::observe(launcher)?));
    }
    for pid in all().collect::<Vec<_>>() {
        // The debugging image's shell, and what has ended, are no part of the machine.
        let state = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        if !state.contains(&format!("PPid:\t{launcher}\n")) {
            continue;
        }
        if state.contains("State:\tZ") || std::fs::read_link(format!("/proc/{pid}/exe"))? == std::env::current_exe()? {
            continue;
        }
        let role = std::fs::read(format!("/proc/{pid}/cmdline"))?;
        let role = String::from_utf8_lossy(&role).trim_end_matches('\0').to_owned();
        if role == STARTER {
            continue;
        }
        let observed = verify::observe(pid)?;
        let profile = profile(&role).ok_or_else(|| format!("no profile for {role}"))?;
        if observed.descriptors.as_ref().is_none_or(|d| d.is_empty())
            || observed.mappings.is_empty()
            || observed.namespaces.len() != 7
        {
            wrong.push(format!("{role}: /proc does not tell enough"));
        }
        // The bed's guests have the usual video RAM.
        let draws = kind::of_role(&role).is_some_and(|k| k.memory == Memory::VideoRam);
        let guest_memory = dirty_maps(pid)? + if draws { 16 << 20 } else { 0 };
        let life = OwnLimits { guest_memory, ..OwnLimits::default() };
        // A kernel without CONFIG_CHECKPOINT_RESTORE, as the stub domain's, shows no filters, and has no such file.
        if std::path::Path::new("/proc/sys/kernel/ns_last_pid").exists() {
            wrong.extend(installed::check(pid, profile)?.into_iter().map(|w| format!("{role}: {w}")));
        }
        wrong.extend(verify::check(&observed, &own, profile, life).into_iter().map(|w| format!("{role}: {w}")));
        let mut kinds: Vec<&str> = observed.descriptors.iter().flatten().map(|(_, link)| verify::kind(link)).collect();
        kinds.sort_unstable();
        println!("{role} {pid}: descriptors {}; {} mappings", kinds.join(" "), observed.mappings.len());
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// Bytes of a process's maps of written pages.
fn dirty_maps(pid: i32) -> Result<u64, Box<dyn std::error::Error>> {
    let mut all = 0;
    for line in std::fs::read_to_string(format!("/proc/{pid}/maps"))?.lines().filter(|l| l.contains("/memfd:dirty")) {
        let (from, to) = line.split_whitespace().next().and_then(|range| range.split_once('-')).ok_or("maps")?;
        all += u64::from_str_radix(to, 16)? - u64::from_str_radix(from, 16)?;
    }
    Ok(all)
}

/// Stops single threads, which signals cannot: by ptrace.
pub(crate) fn hold(pids: &[i32]) -> Done {
    let mut held = Vec::new();
    for pid in pids {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let name = std::fs::read_to_string(task.path().join("comm"))?;
            let tid: i32 = task.file_name().to_string_lossy().parse()?;
            if name.trim() != "control" || tid == *pid {
                continue;
            }
            // SAFETY: ptrace on another thread; this process has no memory in it.
            // (PTRACE_SEIZE, then PTRACE_INTERRUPT: the thread stops without a signal that its process could see.)
            let stopped = unsafe {
                libc::ptrace(libc::PTRACE_SEIZE, tid, 0, 0) == 0
                    && libc::ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0) == 0
                    && libc::waitpid(tid, std::ptr::null_mut(), libc::__WALL) == tid
            };
            if !stopped {
                return Err(format!("thread {tid} of {pid}: {}", std::io::Error::last_os_error()).into());
            }
            held.push(tid);
        }
    }
    println!("held {}", held.len());
    let _ = std::io::stdin().read(&mut [0]);
    // They go on when this process ends.
    Ok(())
}

/// The launcher and its children: what each is (its program's first word) and its pid.
pub(crate) fn machine(launcher: i32) -> Result<Vec<(String, i32)>, Box<dyn std::error::Error>> {
    // (A stub domain's kernel has no file with the children.)
    let parent = |pid: i32| -> Option<i32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let entries = std::fs::read_dir("/proc")?.flatten();
    let mut children: Vec<i32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    children.retain(|pid| parent(*pid) == Some(launcher));
    children.sort_unstable();
    let mut all = vec![("launcher".to_owned(), launcher)];
    for pid in children {
        // One that has ended meanwhile is left out.
        let Ok(words) = std::fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let role = words.split(|b| *b == 0).next().unwrap_or_default();
        all.push((String::from_utf8_lossy(role).into_owned(), pid));
    }
    Ok(all)
}

/// Prints them, a process a line; of one role only their pids.
pub(crate) fn tree(launcher: i32, role: Option<&String>) -> Done {
    for (name, pid) in machine(launcher)? {
        match role {
            Some(role) if role == &name => println!("{pid}"),
            Some(_) => {}
            None => println!("{name} {pid}"),
        }
    }
    Ok(())
}

/// Prints which of them have a file open whose name begins so, a process a line.
pub(crate) fn holders(launcher: i32, file: &str) -> Done {
    for (name, pid) in machine(launcher)? {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        if open.filter_map(|e| std::fs::read_link(e.path()).ok()).any(|l| l.to_string_lossy().starts_with(file)) {
            println!("{name} {pid}");
        }
    }
    Ok(())
}

/// Every one of them is this user's and this group's alone, and has no capability.
pub(crate) fn owned(launcher: i32, user: i32, group: i32) -> Done {
    let mut wrong = Vec::new();
    for (name, pid) in machine(launcher)? {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        for (key, value) in status.lines().filter_map(|l| l.split_once(':')) {
            let good = match key {
                "Uid" => value.split_whitespace().all(|id| id == user.to_string()),
                "Gid" => value.split_whitespace().all(|id| id == group.to_string()),
                "CapPrm" | "CapEff" | "CapInh" | "CapAmb" => value.trim().bytes().all(|b| b == b'0'),
                _ => true,
            };
            if !good {
                wrong.push(format!("{name} {pid}: {key}:{value}"));
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}
