//! What a process of a stub domain takes through its descriptors: the hostile program begins inside, by the debugging image's shell; what
//! others notice of it is counted here, in dom0.
use super::held::{accesses, rate, wait};
use super::{Table, figures};
use crate::Done;
use bulkhead_breakout::consumption::{Bound, Place, RESOURCES, Resource};
use bulkhead_plan::kind::{BROKER, CONTROL};
use bulkhead_policy::{Profile, profile};
use bulkhead_xen::Xenstore;
use std::time::{Duration, Instant};

type Faults<T> = Result<T, Box<dyn std::error::Error>>;

/// The tests' program inside.
const BED: &str = "/usr/lib/bulkhead-tests/bulkhead-bed";
/// The launcher has the first process's place there.
const LAUNCHER: i32 = 1;

/// A guest whose device model is in a stub domain, and a guest beside it whose device model is here.
struct Stub {
    domid: u16,
    /// Number of the stub domain.
    stub: u16,
    other: u16,
    /// The file to which its first console goes.
    log: String,
    store: Xenstore,
    commands: u32,
    /// Role and pid of its processes, as they were at first.
    all: Vec<(String, i32)>,
    table: Table,
}

/// These resources, all that are measured beside a running guest if none is named.
pub(super) fn inside(domid: u16, stub: u16, other: u16, log: &str, resources: &[&str]) -> Done {
    let place = Place { stub: true, socket: 0, file_size: 0, processes: 0 };
    let (log, store) = (log.to_owned(), Xenstore::connect()?);
    let mut stub = Stub { domid, stub, other, log, store, commands: 0, all: Vec::new(), table: Table::new(place) };
    stub.all = stub.processes()?;
    stub.table.place.processes = stub.all.iter().filter(|(role, _)| profile(role).is_some()).count() as u64;
    for (resource, name) in RESOURCES {
        if !resources.is_empty() && !resources.contains(&name) {
            continue;
        }
        let mut roles: Vec<&'static Profile> = stub.all.iter().filter_map(|(role, _)| profile(role)).collect();
        // The guest ends with its broker.
        roles.sort_by_key(|profile| (profile.role == BROKER.role, profile.role));
        roles.dedup_by_key(|profile| profile.role);
        for profile in roles {
            let done = match resource {
                Resource::Frames => stub.frames(profile),
                Resource::Processor => stub.processor(profile),
                Resource::Broker => stub.bells(profile),
                Resource::Log => stub.log(profile),
                Resource::Launcher => stub.requests(profile),
                _ => continue,
            };
            done.map_err(|e| format!("{}: {name}: {e}", profile.role))?;
        }
        println!("during, after {name}: {}", figures::now());
    }
    stub.table.end()
}

impl Stub {
    /// Runs a command inside; what it printed.
    fn run(&mut self, command: &str) -> Faults<String> {
        let node = format!("/local/domain/{}/data/bulkhead-debug", self.stub);
        self.commands += 1;
        self.store.write(&format!("{node}/answer"), "")?;
        self.store.write(&format!("{node}/command"), &format!("{command} # {}", self.commands))?;
        let mut said = String::new();
        let answer = format!("{node}/answer");
        wait(&format!("an answer to {command}"), || {
            said = self.store.read(&answer).unwrap_or_default();
            Ok(!said.is_empty())
        })?;
        match said.trim_end().strip_suffix("status 0") {
            Some(text) => Ok(text.trim().to_owned()),
            None => Err(format!("{command}: {said}").into()),
        }
    }

    fn processes(&mut self) -> Faults<Vec<(String, i32)>> {
        let text = self.run(&format!("{BED} tree {LAUNCHER}"))?;
        let rows = text.lines().filter_map(|line| line.split_once(' '));
        Ok(rows.filter_map(|(role, pid)| Some((role.to_owned(), pid.parse().ok()?))).collect())
    }

    /// The pid of the first process of a role, once as many are there as at first and `old` is not.
    fn pid(&mut self, role: &str, old: i32) -> Faults<i32> {
        let (begin, many) = (Instant::now(), self.all.iter().filter(|(r, _)| r == role).count());
        loop {
            let mut all = self.processes()?;
            all.retain(|(r, _)| r == role);
            match all.first() {
                Some((_, pid)) if all.len() >= many && all.iter().all(|(_, pid)| *pid != old) => return Ok(*pid),
                _ if begin.elapsed() > Duration::from_secs(180) => {
                    return Err(format!("no other process of {role}").into());
                }
                _ => {}
            }
        }
    }

    /// Begins an attempt in a process's place, which goes on inside until [`Self::let_go`]; what it took.
    fn take(&mut self, what: &str, pid: i32) -> Faults<u64> {
        self.run(&format!(
            "rm -f /run/take; {BED} consume take '{what}' {pid} >/run/take 2>&1 </dev/null & echo $! >/run/take.pid"
        ))?;
        let begin = Instant::now();
        loop {
            let said = self.run("cat /run/take; true")?;
            match said.lines().find_map(|line| line.strip_prefix("took ")) {
                Some(amount) => return Ok(amount.parse()?),
                None if begin.elapsed() > Duration::from_secs(60) => return Err(format!("{what}: {said}").into()),
                None => {}
            }
        }
    }

    fn let_go(&mut self) -> Done {
        self.run("kill $(cat /run/take.pid); true").map(|_| ())
    }

    fn frames(&mut self, profile: &'static Profile) -> Done {
        if !matches!(self.table.bound(profile, Resource::Frames)?, Bound::Unbounded(_)) {
            return Ok(());
        }
        const FRAMES: u64 = 2000;
        let of = format!("vif{}.", self.stub);
        let count = || -> u64 {
            let all = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
            let lines = all.lines().filter(|l| l.trim_start().starts_with(&of));
            lines.filter_map(|l| l.split(':').nth(1)?.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
        };
        let (pid, before) = (self.pid(profile.role, 0)?, count());
        let sent = self.take(&format!("frames={FRAMES}"), pid)?;
        self.let_go()?;
        let text = format!("{sent} of the {FRAMES} that it tried, {} came to dom0", count() - before);
        self.table.say(profile, Resource::Frames, &text, sent > 0)
    }

    fn processor(&mut self, profile: &'static Profile) -> Done {
        let alone = rate(self.other, None)?;
        self.run("{ while :; do :; done; } </dev/null >/dev/null 2>&1 & echo $! >/run/any.pid")?;
        let ordinary = rate(self.other, None);
        self.run("kill $(cat /run/any.pid)")?;
        let ordinary = ordinary?;
        let pid = self.pid(profile.role, 0)?;
        self.take("cpu", pid)?;
        let beside = rate(self.other, None)?;
        self.let_go()?;
        let factor = ordinary / beside.max(0.01);
        let text = format!(
            "{alone:.0} a second, beside any process that spins {ordinary:.0}, beside it {beside:.0}: factor {factor:.1}"
        );
        let good = self.table.bound(profile, Resource::Processor)?.holds(factor.ceil() as u64);
        self.table.say(profile, Resource::Processor, &text, good)
    }

    fn bells(&mut self, profile: &'static Profile) -> Done {
        if profile.role == BROKER.role || profile.role == CONTROL.role {
            return self.table.say(profile, Resource::Broker, "it has no bell of the broker's", true);
        }
        let quiet = rate(self.domid, None)?;
        let pid = self.pid(profile.role, 0)?;
        if self.take("bells", pid).is_err() {
            return self.table.say(profile, Resource::Broker, "it has no bell of the broker's", true);
        }
        let ringing = rate(self.domid, None)?;
        let before = accesses(self.domid)?;
        wait("accesses go on", || Ok(accesses(self.domid)? >= before + 100))?;
        self.let_go()?;
        let killed = self.processes()?.iter().all(|(_, p)| *p != pid);
        self.pid(profile.role, if killed { pid } else { 0 })?;
        let quiet = quiet.min(rate(self.domid, None)?);
        let factor = quiet / ringing.max(0.01);
        let holds = self.table.bound(profile, Resource::Broker)?.holds(factor.ceil() as u64);
        let text = format!("{quiet:.0} a second, while it rings {ringing:.0}: factor {factor:.1}");
        let text = if killed { format!("{text}; it was killed") } else { text };
        self.table.say(profile, Resource::Broker, &text, holds || killed)
    }

    fn log_bytes(&self) -> Faults<u64> {
        Ok(std::fs::metadata(&self.log)?.len())
    }

    /// Bytes that the log has got since it had `last` of them. Dom0 keeps a full log beside, and begins another.
    fn grown(&self, last: &mut u64) -> Faults<u64> {
        let bytes = self.log_bytes()?;
        let more = if bytes >= *last {
            bytes - *last
        } else {
            let full = std::fs::metadata(format!("{}.old", self.log))?.len();
            full.saturating_sub(*last) + bytes
        };
        *last = bytes;
        Ok(more)
    }

    fn log(&mut self, profile: &'static Profile) -> Done {
        let (pid, mut last) = (self.pid(profile.role, 0)?, self.log_bytes()?);
        self.take("log", pid)?;
        // Its share is used up when nothing more comes.
        let (mut all, mut since) = (0, Instant::now());
        wait("its share is used up", || {
            let more = self.grown(&mut last)?;
            all += more;
            if more > 0 {
                since = Instant::now();
            }
            Ok(all > 2000 && since.elapsed() > Duration::from_secs(4))
        })?;
        self.let_go()?;
        all += self.grown(&mut last)?;
        self.table.cell(profile, Resource::Log, all, "")
    }

    /// Lines of the log that say a forbidden request.
    fn forbidden(&self, from: u64) -> Faults<usize> {
        let log = std::fs::read(&self.log)?;
        // All of it, if it is another one.
        let from = if log.len() < from as usize { 0 } else { from as usize };
        let new = String::from_utf8_lossy(log.get(from..).unwrap_or_default()).into_owned();
        Ok(new.lines().filter(|l| l.contains("asked for Processes, which it may not")).count())
    }

    fn requests(&mut self, profile: &'static Profile) -> Done {
        let (pid, before) = (self.pid(profile.role, 0)?, self.log_bytes()?);
        if profile.role == CONTROL.role {
            self.take("requests", pid)?;
            let victim = self.pid("ps2", 0)?;
            self.run(&format!("kill -STOP {pid}; kill -KILL {victim}"))?;
            self.pid("ps2", victim)?;
            self.let_go()?;
            self.run(&format!("kill -CONT {pid}; kill -KILL {pid}; true"))?;
            self.pid(profile.role, pid)?;
            return self.table.say(profile, Resource::Launcher, "a killed device is started again meanwhile", true);
        }
        if profile.role == BROKER.role {
            // The domain ends, and says no more.
            let _ = self.take("requests", pid);
            let node = format!("/local/domain/{}", self.stub);
            wait("the stub domain ends", || {
                Ok(self.store.read(&format!("{node}/name")).is_err() || self.forbidden(before)? > 0)
            })?;
            let asked = self.forbidden(before)?;
            return self.table.say(
                profile,
                Resource::Launcher,
                &format!("{asked} request; the guest is reported crashed"),
                asked == 1,
            );
        }
        self.take("requests", pid)?;
        self.pid(profile.role, pid)?;
        self.let_go()?;
        let requests = self.forbidden(before)?;
        let text = format!("{requests} request, then it was killed and started again");
        self.table.say(profile, Resource::Launcher, &text, requests == 1)
    }
}
