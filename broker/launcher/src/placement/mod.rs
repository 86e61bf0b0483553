//! On which of the host's CPUs a guest's register accesses are carried out. Decision 23 says why.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the setting, and the guest's threads on one CPU |
//! | `choose.rs` | which CPU it is |
//! | `host.rs` | what the kernel says and is told |
mod choose;
mod host;
#[cfg(test)]
mod tests;

use choose::Load;
use host::{Host, Kernel, Spent};
use rustix::thread::CpuSet;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often the load is looked at, at most. Nobody looks while the guest asks for nothing.
const LOOK: Duration = Duration::from_millis(400);
/// What is older says nothing of the load of now.
const STALE: Duration = Duration::from_secs(3);

/// Where a guest's data threads run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// All on one CPU at a time.
    #[default]
    Together,
    /// Wherever the kernel's scheduler puts each.
    Free,
    /// All on one of these CPUs at a time.
    Among(Vec<usize>),
}

impl TryFrom<&str> for Placement {
    type Error = &'static str;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        const WRONG: &str = "together, free, or a list of CPUs like 0-3,6";
        match text {
            "together" => return Ok(Self::Together),
            "free" => return Ok(Self::Free),
            _ => {}
        }
        let number = |text: &str| text.parse::<usize>().ok().filter(|n| *n < CpuSet::MAX_CPU).ok_or(WRONG);
        let mut all = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return Err(WRONG);
            }
            all.extend(first..=last);
        }
        all.sort_unstable();
        all.dedup();
        Ok(Self::Among(all))
    }
}

/// Where requests come from: it has its place beside those that answer them.
#[derive(Debug)]
pub(crate) enum Source {
    /// Event channels: the name of their interrupts in /proc/interrupts.
    Interrupts(String),
    /// The simulated machine's thread.
    Thread(i32),
    /// Not known.
    Unknown,
}

/// A process that takes part in register accesses, by its main thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) pid: i32,
    /// It serves one device; the others do without it if they have to.
    pub(crate) device: bool,
}

/// What was seen the last time.
struct Look {
    at: Instant,
    spent: HashMap<i32, Spent>,
    /// Taken only when the threads have waited for others.
    loads: Option<Vec<(usize, Load)>>,
}

/// One guest's place.
pub(crate) struct Place<H = Kernel> {
    host: H,
    among: Option<Vec<usize>>,
    /// Differs from guest to guest, so that equally idle CPUs are shared out.
    turn: usize,
    source: Source,
    cpu: Option<usize>,
    /// Devices that work without pause, which run beside the others.
    busy: Vec<i32>,
    /// Looks at which another CPU was better, one after another.
    wished: usize,
    begin: Vec<(usize, Load)>,
    last: Option<Look>,
    /// The host does not let it, and has been heard to say so.
    given_up: bool,
}

impl Place {
    /// The place on this host that the setting asks for, if it asks for one; nothing is done yet.
    pub(crate) fn new(placement: &Placement, turn: usize, source: Source) -> Option<Self> {
        Self::on(Kernel, placement, turn, source)
    }
}

impl<H: Host> Place<H> {
    fn on(host: H, placement: &Placement, turn: usize, source: Source) -> Option<Self> {
        let among = match placement {
            Placement::Free => return None,
            Placement::Together => None,
            Placement::Among(cpus) => Some(cpus.clone()),
        };
        let begin = host.loads();
        Some(Self {
            host,
            among,
            turn,
            source,
            cpu: None,
            busy: Vec::new(),
            wished: 0,
            begin,
            last: None,
            given_up: false,
        })
    }

    /// A process is about to serve: its main thread takes its place. Threads that it has made already stay where they are.
    /// Returns what is worth saying.
    pub(crate) fn take(&mut self, member: Member) -> Option<String> {
        let candidates = self.candidates();
        if self.given_up {
            return None;
        }
        let (old, mut line) = (self.cpu, None);
        let cpu = match old.filter(|cpu| candidates.contains(cpu)) {
            Some(cpu) => cpu,
            None => {
                let loads = || choose::since(&self.begin, &self.host.loads());
                let cpu = match *candidates {
                    [only] => only,
                    _ => choose::first(&candidates, &loads(), self.turn)?,
                };
                line = self
                    .among
                    .as_ref()
                    .filter(|among| !among.contains(&cpu))
                    .map(|_| format!("-placement: none of these CPUs may be used here; CPU {cpu} is used"));
                self.cpu = Some(cpu);
                cpu
            }
        };
        self.busy.retain(|pid| *pid != member.pid);
        if self.host.allowed().len() < 2 {
            // It was started there, and interrupts come nowhere else.
            return line;
        }
        if let Err(e) = self.host.keep(member.pid, &[cpu]) {
            return self.refused(&e);
        }
        // Its event channels are bound when the broker comes, which is not always the first.
        if !member.device || old != self.cpu {
            self.bring_source(cpu);
        }
        line
    }

    /// The guest has been active: looks at the load, and moves all if another CPU is better. Returns what is worth saying.
    pub(crate) fn look(&mut self, members: &[Member], now: Instant) -> Option<String> {
        let recent = |last: &Look| now.saturating_duration_since(last.at) < LOOK;
        if self.given_up || self.last.as_ref().is_some_and(recent) {
            return None;
        }
        let candidates = self.candidates();
        self.busy.retain(|pid| members.iter().any(|m| m.pid == *pid));
        let last = self.last.take().filter(|l| now.saturating_duration_since(l.at) < STALE);
        let window = last.as_ref().map_or(Duration::ZERO, |l| now.saturating_duration_since(l.at));
        let mut look = Look { at: now, spent: HashMap::new(), loads: None };
        if let [only] = *candidates {
            // There is nothing to choose: nothing is measured.
            self.last = Some(look);
            let result = self.bring(members, only);
            return result.err().and_then(|e| self.refused(&e));
        }
        let (mut ran, mut waited) = (0u64, 0u64);
        let source = if let Source::Thread(tid) = self.source { Some(tid) } else { None };
        for (tid, device) in members.iter().map(|m| (m.pid, m.device)).chain(source.map(|tid| (tid, false))) {
            let Some(spent) = self.host.spent(tid) else { continue };
            look.spent.insert(tid, spent);
            let Some(since) = last.as_ref().and_then(|l| l.spent.get(&tid)).map(|then| spent.since(then)) else {
                continue;
            };
            if device {
                let is_busy = self.busy.contains(&tid);
                if choose::works_alone(since.ran, window, is_busy) != is_busy {
                    self.set_busy(tid, !is_busy, &candidates);
                }
            }
            if !self.busy.contains(&tid) {
                (ran, waited) = (ran.saturating_add(since.ran), waited.saturating_add(since.waited));
            }
        }
        let mut better = None;
        let kept = self.cpu.filter(|cpu| candidates.contains(cpu));
        match kept {
            // The set of CPUs has changed, or a CPU has gone.
            None => {
                let loads = choose::since(&self.begin, &self.host.loads());
                better = choose::first(&candidates, &loads, self.turn);
            }
            Some(cpu) if last.is_some() && choose::waits_for_others(ran, waited, window) => {
                let loads = self.host.loads();
                if let Some(then) = last.as_ref().and_then(|l| l.loads.as_ref()) {
                    let loads = choose::since(then, &loads);
                    better = choose::better(&candidates, &loads, cpu, choose::permille(ran, window));
                    self.wished = if better.is_some() { self.wished.saturating_add(1) } else { 0 };
                    better = better.filter(|_| choose::patient(self.wished, self.turn));
                }
                look.loads = Some(loads);
            }
            Some(_) => self.wished = 0,
        }
        let Some(cpu) = better.or(kept) else {
            self.last = Some(look);
            return None;
        };
        let (old, result) = (self.cpu, self.bring(members, cpu));
        if old != self.cpu {
            self.wished = 0;
            look = Look { at: now, spent: HashMap::new(), loads: None };
        }
        self.last = Some(look);
        result.err().and_then(|e| self.refused(&e))
    }

    /// Brings all to this CPU; those that are there already cost a look each. The kernel takes threads elsewhere when a set of CPUs
    /// changes or a CPU goes.
    fn bring(&mut self, members: &[Member], cpu: usize) -> std::io::Result<()> {
        let moves = self.cpu != Some(cpu);
        let mut gone = moves;
        self.cpu = Some(cpu);
        for member in members.iter().filter(|m| !self.busy.contains(&m.pid)) {
            if moves || !self.host.is_kept(member.pid, cpu) {
                gone = true;
                match self.host.keep(member.pid, &[cpu]) {
                    // It has just ended.
                    Err(e) if e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
                    other => other?,
                }
            }
        }
        if gone {
            // What took a thread away has taken the interrupts too.
            self.bring_source(cpu);
        }
        Ok(())
    }

    /// Without the right to it, or without such interrupts, an access costs more: no reason to do anything else.
    fn bring_source(&self, cpu: usize) {
        match &self.source {
            Source::Interrupts(name) => self.host.bind_interrupts(name, cpu),
            Source::Thread(tid) => drop(self.host.keep(*tid, &[cpu])),
            Source::Unknown => {}
        }
    }

    /// A device that works without pause gains nothing by being where the others are, and takes their time.
    fn set_busy(&mut self, pid: i32, busy: bool, candidates: &[usize]) {
        let Some(cpu) = self.cpu else { return };
        self.busy.retain(|p| *p != pid);
        let others: Vec<usize> = candidates.iter().copied().filter(|c| *c != cpu).collect();
        let kept = if busy { self.host.keep(pid, &others) } else { self.host.keep(pid, &[cpu]) };
        if kept.is_ok() && busy {
            self.busy.push(pid);
        }
    }

    /// The CPUs that may be used now, by what the launcher itself may use: sets of CPUs are the same for all its processes.
    fn candidates(&self) -> Vec<usize> {
        let allowed = self.host.allowed();
        let named = |cpu: &usize| self.among.as_ref().is_none_or(|among| among.contains(cpu));
        let candidates: Vec<usize> = allowed.iter().copied().filter(named).collect();
        if candidates.is_empty() { allowed } else { candidates }
    }

    fn refused(&mut self, e: &std::io::Error) -> Option<String> {
        match e.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            // The set of CPUs has changed since it was read, or the process has just ended: the next look knows better.
            Some(rustix::io::Errno::INVAL | rustix::io::Errno::SRCH) => None,
            _ => {
                self.given_up = true;
                Some(format!("-placement: {e}; the scheduler places the processes"))
            }
        }
    }
}
