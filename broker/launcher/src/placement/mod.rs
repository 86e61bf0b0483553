//! Keeps the threads that carry out a guest's register accesses on one of the host's CPUs. Decision 23 has the reasons.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the setting, and the guest's threads on one CPU |
//! | `choose.rs` | the choice of the CPU |
//! | `host.rs` | the kernel's figures and calls |
mod choose;
mod host;
#[cfg(test)]
mod tests;

use choose::Load;
use host::{Host, Kernel, Spent};
use rustix::thread::CpuSet;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Least time between two checks of the load. There are none while the guest makes no accesses.
const LOOK: Duration = Duration::from_millis(400);
/// Age at which the last figures say nothing about the present load.
const STALE: Duration = Duration::from_secs(3);

/// The setting: where a guest's data threads run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Together, on any one CPU at a time.
    #[default]
    Together,
    /// Each where the kernel's scheduler puts it.
    Free,
    /// Together, on one of these CPUs at a time.
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

/// The source of a guest's requests, which is kept on the same CPU as the threads that answer them.
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
    /// It serves one device, so the other threads can run on another CPU than it.
    pub(crate) device: bool,
}

/// Figures of one check.
struct Look {
    at: Instant,
    spent: HashMap<i32, Spent>,
    /// Loads of the CPUs; read only if the threads have waited for other work.
    loads: Option<Vec<(usize, Load)>>,
}

/// One guest's place.
pub(crate) struct Place<H = Kernel> {
    host: H,
    among: Option<Vec<usize>>,
    /// A number that differs between guests, so that they do not all choose the same idle CPU.
    turn: usize,
    source: Source,
    cpu: Option<usize>,
    /// Process numbers of devices that work without pause, which run on the other CPUs.
    busy: Vec<i32>,
    /// Checks in a row that have found a better CPU.
    wished: usize,
    begin: Vec<(usize, Load)>,
    last: Option<Look>,
    /// The kernel has refused; the log has the line.
    given_up: bool,
}

impl Place {
    /// A place on this host; `None` if the setting leaves it to the scheduler. No thread is moved yet.
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

    /// Moves the main thread of a process that is about to serve to the place. Its other threads stay. Returns a line for the log.
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
            // The process and the interrupts are there already.
            return line;
        }
        if let Err(e) = self.host.keep(member.pid, &[cpu]) {
            return self.refused(&e);
        }
        // The interrupts exist when the broker has come, which need not be the first process.
        if !member.device || old != self.cpu {
            self.bring_source(cpu);
        }
        line
    }

    /// Checks the load while the guest makes accesses, and moves all threads if another CPU is clearly better. Returns a line for
    /// the log.
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
            // With one CPU there is no choice and nothing to measure.
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
            // The allowed set of CPUs has changed, or the CPU is offline.
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

    /// Moves all threads to this CPU. Each thread is checked, because the kernel moves threads when the allowed set changes or a
    /// CPU goes offline.
    fn bring(&mut self, members: &[Member], cpu: usize) -> std::io::Result<()> {
        let moves = self.cpu != Some(cpu);
        let mut gone = moves;
        self.cpu = Some(cpu);
        for member in members.iter().filter(|m| !self.busy.contains(&m.pid)) {
            if moves || !self.host.is_kept(member.pid, cpu) {
                gone = true;
                match self.host.keep(member.pid, &[cpu]) {
                    // The process has just exited.
                    Err(e) if e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
                    other => other?,
                }
            }
        }
        if gone {
            // The kernel has moved the interrupts together with the threads.
            self.bring_source(cpu);
        }
        Ok(())
    }

    /// Moves the source of requests. Errors are ignored: without the right, or without such interrupts, an access costs more.
    fn bring_source(&self, cpu: usize) {
        match &self.source {
            Source::Interrupts(name) => self.host.bind_interrupts(name, cpu),
            Source::Thread(tid) => drop(self.host.keep(*tid, &[cpu])),
            Source::Unknown => {}
        }
    }

    /// Moves a device that works without pause (`busy`) to the other CPUs, where it does not take the other threads' time, or back.
    fn set_busy(&mut self, pid: i32, busy: bool, candidates: &[usize]) {
        let Some(cpu) = self.cpu else { return };
        self.busy.retain(|p| *p != pid);
        let others: Vec<usize> = candidates.iter().copied().filter(|c| *c != cpu).collect();
        let kept = if busy { self.host.keep(pid, &others) } else { self.host.keep(pid, &[cpu]) };
        if kept.is_ok() && busy {
            self.busy.push(pid);
        }
    }

    /// The CPUs that may be used now. The launcher's own set counts: all its processes have the same.
    fn candidates(&self) -> Vec<usize> {
        let allowed = self.host.allowed();
        let named = |cpu: &usize| self.among.as_ref().is_none_or(|among| among.contains(cpu));
        let candidates: Vec<usize> = allowed.iter().copied().filter(named).collect();
        if candidates.is_empty() { allowed } else { candidates }
    }

    fn refused(&mut self, e: &std::io::Error) -> Option<String> {
        match e.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
            // The allowed set has changed since it was read, or the process has just exited: the next check reads again.
            Some(rustix::io::Errno::INVAL | rustix::io::Errno::SRCH) => None,
            _ => {
                self.given_up = true;
                Some(format!("-placement: {e}; the scheduler places the processes"))
            }
        }
    }
}
