//! The process table, for control: what the kernel says in /proc.
use super::Launcher;
use bulkhead_bus::plan::ProcessRow;
use bulkhead_policy::{profile, verify};

impl Launcher {
    /// All processes, this one first.
    pub(super) fn table(&self) -> Vec<ProcessRow> {
        let own = row("launcher", "", rustix::process::getpid().as_raw_nonzero().get(), &self.own, 0);
        let slots = self.slots.iter().map(|s| {
            let pid = s.life.as_ref().map_or(0, |l| l.spawned.pid);
            row(&s.name, s.role, pid, &self.own, s.restarts())
        });
        std::iter::once(own).chain(slots).collect()
    }
}

fn row(name: &str, role: &str, pid: i32, own: &verify::Observed, restarts: u32) -> ProcessRow {
    let observed = verify::observe(pid).ok();
    let field = |key: &str| observed.as_ref().and_then(|o| o.status.get(key)).map_or("", String::as_str);
    let number = |key: &str| field(key).split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0u32);
    let other = |(name, link): (&String, &String)| own.namespaces.get(name) != Some(link);
    ProcessRow {
        name: name.to_owned(),
        pid: pid.unsigned_abs(),
        uid: number("Uid"),
        seccomp: number("Seccomp") as u8,
        syscalls: profile(role).map(|p| p.syscalls.len() as u32),
        no_new_privs: number("NoNewPrivs") == 1,
        capabilities: field("CapEff").bytes().any(|b| b != b'0'),
        namespaces: observed.as_ref().map_or(0, |o| o.namespaces.iter().filter(|n| other(*n)).count() as u8),
        threads: number("Threads"),
        pss_kb: verify::pss_kb(pid).unwrap_or(0),
        restarts,
    }
}
