//! What has become of a fault: waits until the machine is as it must be, and finds the row of the failure table.
use crate::batch::{Batch, Verdict};
use crate::fault::{Part, Strike};
use crate::guest::Stop;
use crate::outcome::Outcome;
use crate::victim::{DISCS, Victim};
use std::time::{Duration, Instant};

/// Longest time until the machine is as it must be: a start that stops thrice, and then some.
const PATIENCE: Duration = Duration::from_secs(120);
/// Open files that a process of the machine may have more than at its start.
const SPARE: usize = 4;
/// Restarts in a minute after which a process stays dead.
const RESTARTS: usize = 5;

/// The machine before a fault.
pub struct Before {
    processes: Vec<(Part, i32)>,
    log: usize,
}

impl Before {
    /// As it is now.
    pub fn of(victim: &Victim) -> Self {
        Self { processes: victim.processes(), log: victim.sim.log().len() }
    }
}

/// Lines of the launcher's log about a part's processes that have died.
fn deaths(log: &str, part: Part) -> Vec<&str> {
    let begins = |line: &&str| {
        let line = line.strip_prefix("bulkhead-dm: ").unwrap_or("");
        let line = if line.starts_with("BH-") { line.get(9..).unwrap_or("") } else { line };
        line.strip_prefix(part.name()).is_some_and(|rest| rest.starts_with(" (pid "))
    };
    log.lines().filter(begins).collect()
}

/// Whether the launcher says that the part stays dead.
fn stays_dead(log: &str, part: Part) -> bool {
    log.lines().any(|l| {
        let line = l.strip_prefix("bulkhead-dm: ").unwrap_or("");
        let line = if line.starts_with("BH-") { line.get(9..).unwrap_or("") } else { line };
        line.strip_prefix(part.name()).is_some_and(|rest| rest.contains("died too often"))
    })
}

/// Children of this program that it does not know: processes that a machine has left behind.
pub fn orphans() -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut left = Vec::new();
        for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            left.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
        for pid in left.iter().filter_map(|pid| rustix::process::Pid::from_raw(*pid)) {
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
        }
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > end {
            let names: Vec<_> = left
                .iter()
                .map(|pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default())
                .collect();
            for pid in left.iter().filter_map(|pid| rustix::process::Pid::from_raw(*pid)) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            return Err(format!("processes are left: {names:?}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits for a condition; the log helps whoever looks for the reason.
fn until(
    what: &str,
    batch: &mut Batch,
    mut holds: impl FnMut(&mut Batch) -> Result<bool, String>,
) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    while !holds(batch)? {
        let victim = batch.victim()?;
        if Instant::now() > end {
            return Err(format!("{what}: not in {} s", PATIENCE.as_secs()));
        }
        if victim.sim.ended().is_some() {
            return Err(format!("{what}: the machine has ended"));
        }
        victim.sim.grown(Duration::from_millis(2));
    }
    Ok(())
}

/// Takes a failure of the campaign out of what the guest has met.
fn met<T>(result: Result<T, Stop>) -> Result<Option<T>, String> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Stop::Away | Stop::Error(_)) => Ok(None),
        Err(Stop::Gone(why) | Stop::Wrong(why)) => Err(why),
    }
}

/// Waits until the machine is as it must be after these strikes, and judges.
pub fn settle(batch: &mut Batch, strikes: &[Strike], before: &Before, dies: &[i32]) -> Result<Verdict, String> {
    let ends = strikes.iter().any(|s| matches!(s, Strike::Kill(Part::Broker | Part::Launcher)));
    if ends {
        return ended(batch, strikes);
    }
    if batch.victim()?.sim.ended().is_some() {
        return Err("the machine has ended".to_owned());
    }
    if strikes.contains(&Strike::Kill(Part::Starter)) {
        return unstarted(batch, strikes, before);
    }
    for pid in dies {
        let line = format!("(pid {pid}): ");
        until(&format!("the end of {pid} is in the log"), batch, |b| Ok(b.victim()?.sim.log().contains(&line)))?;
    }
    let spoiled = strikes.iter().any(|s| s.spoils());
    let mut dead = Vec::new();
    for part in Part::RESTARTED {
        let aimed = strikes.iter().any(|s| s.part() == Some(part));
        // The guest cannot know what a process that has lied has made of its device.
        let lied = aimed && spoiled;
        until(&format!("{part:?} is there"), batch, |b| {
            let log = b.victim()?.sim.log();
            if stays_dead(&log, part) {
                dead.push(part);
                return Ok(true);
            }
            let log = log.get(before.log..).unwrap_or("");
            let reset = log.lines().any(|l| l.contains(part.name()) && l.contains("the next one starts from reset"));
            answers(b, part, reset, lied)
        })?;
    }
    let log = batch.victim()?.sim.log();
    for part in &dead {
        let all = deaths(&log, *part).len();
        if all <= RESTARTS {
            return Err(format!("{part:?} stays dead after {all} deaths"));
        }
    }
    let log = log.get(before.log..).unwrap_or("").to_owned();
    collateral(batch, strikes, before, &log)?;
    leaks(batch)?;
    let ide = strikes.iter().any(|s| s.part() == Some(Part::Ide)) && spoiled;
    if !dead.contains(&Part::Ide) && !ide {
        reread(batch)?;
    }
    let storage = strikes.iter().any(|s| s.part().is_none() || s.part() == Some(Part::Ide));
    if !storage && (batch.met.errors > 0 || batch.met.away > 0) {
        return Err(format!("the disks have failed for no reason: {:?}", batch.met));
    }
    let mut outcome = None;
    for strike in strikes {
        let found = row(batch, *strike, strikes, &log)?;
        outcome = outcome.or(Some(found));
    }
    let outcome = outcome.ok_or("no strike")?;
    if spoiled || !dead.is_empty() {
        finish(batch, strikes)?;
    }
    Ok(Verdict { outcome, dead })
}

/// Ends a machine that is not worth watching any more.
fn finish(batch: &mut Batch, strikes: &[Strike]) -> Result<(), String> {
    let cut = strikes.iter().any(|s| matches!(s, Strike::TruncatedFormat(_)));
    if cut {
        // Its contents are gone: a new one takes its place.
        if let Some(mut victim) = batch.victim.take() {
            let status = victim.sim.end().map_err(|e| e.to_string())?;
            if !status.success() {
                return Err(format!("the launcher ends with {status}"));
            }
        }
        orphans()?;
        return batch.format();
    }
    batch.end()
}

/// The machine must have ended, and left nothing.
fn ended(batch: &mut Batch, strikes: &[Strike]) -> Result<Verdict, String> {
    let victim = batch.victim()?;
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = victim.sim.ended() {
            break status;
        }
        if Instant::now() > end {
            return Err("the launcher does not end".to_owned());
        }
        victim.sim.grown(Duration::from_millis(2));
    };
    orphans()?;
    let victim = batch.victim()?;
    victim.sim.catch_up();
    let launcher = strikes.contains(&Strike::Kill(Part::Launcher));
    let crashed = victim.sim.trace_lines.iter().any(|l| l == "shutdown 3");
    let log = victim.sim.log();
    let told = if launcher { crashed } else { log.contains("the broker is dead") };
    if status.success() || !told {
        return Err(format!("the guest is not reported crashed; the launcher's status: {status}"));
    }
    batch.end()?;
    Ok(Verdict { outcome: if launcher { Outcome::Launcher } else { Outcome::Broker }, dead: Vec::new() })
}

/// The machine must go on, all of it, and a process that dies then must stay dead.
fn unstarted(batch: &mut Batch, strikes: &[Strike], before: &Before) -> Result<Verdict, String> {
    until("the log says it", batch, |b| Ok(b.victim()?.sim.log().contains("BH-0503")))?;
    for part in Part::RESTARTED {
        until(&format!("{part:?} is there"), batch, |b| answers(b, part, false, false))?;
    }
    let log = batch.victim()?.sim.log();
    collateral(batch, strikes, before, log.get(before.log..).unwrap_or(""))?;
    let last = batch.dice.pick(&Part::RESTARTED);
    let hands = batch.victim()?.hands.clone();
    let pid = hands.process(last).and_then(rustix::process::Pid::from_raw).ok_or("it does not run")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).map_err(|e| e.to_string())?;
    until(&format!("{last:?} stays dead"), batch, |b| Ok(stays_dead(&b.victim()?.sim.log(), last)))?;
    for part in Part::RESTARTED.into_iter().filter(|part| *part != last) {
        until(&format!("{part:?} is there without {last:?}"), batch, |b| answers(b, part, false, false))?;
    }
    batch.end()?;
    Ok(Verdict { outcome: Outcome::Starter, dead: vec![last] })
}

/// Whether a part does its work. `reset`: what its registers had is gone, and the guest gives it its addresses again. `lied`: the same,
/// and it may have no addresses any more.
fn answers(batch: &mut Batch, part: Part, reset: bool, lied: bool) -> Result<bool, String> {
    let hands = batch.victim()?.hands.clone();
    let reset = reset || lied;
    if hands.process(part).is_none() || !batch.files.understudies().is_over(part.role()) {
        return Ok(false);
    }
    match part {
        Part::Vnc => return Ok(hands.connect().is_ok()),
        Part::Control => {
            let answer = hands.qmp(r#"{"execute":"query-status"}"#);
            return Ok(answer.is_ok_and(|a| a["return"]["status"] == "running"));
        }
        Part::Ps2 => return Ok(met(batch.guest(|g| g.keyboard()))? == Some(true)),
        Part::Ide if reset => {
            met(batch.guest(|g| g.configure()))?;
            return Ok(met(batch.guest(|g| g.touch(part)))?.is_some());
        }
        Part::Ide => {
            met(batch.guest(|g| g.recover()))?;
            let read = met(batch.read(0, 0, 1, true))? == Some(true) && met(batch.read(1, 0, 1, false))? == Some(true);
            return Ok(read && has_disc(batch)?);
        }
        _ => {}
    }
    if reset {
        batch.registers.remove(part.name());
        met(batch.guest(|g| g.configure()))?;
    }
    let Some(read) = met(batch.guest(|g| g.scratch(part)))?.flatten() else { return Ok(false) };
    if read & 0xff == 0xff {
        return Ok(lied);
    }
    met(batch.seen(part, read))?;
    Ok(true)
}

/// Whether the CD's drive has the disc that it must have.
fn has_disc(batch: &mut Batch) -> Result<bool, String> {
    let has = met(batch.guest(|g| g.disc()))?;
    let good = match (has, batch.disc) {
        (Some(Ok(word)), Some(want)) => word == want,
        (Some(Err([2, 0x3a, _])), None) => true,
        _ => false,
    };
    if let Some(Ok(word)) = has
        && !DISCS.contains(&word)
    {
        return Err(format!("the CD has {word:#x}"));
    }
    if !good {
        met(batch.guest(|g| g.recover_disc()))?;
    }
    Ok(good)
}

/// Nobody else has died.
fn collateral(batch: &mut Batch, strikes: &[Strike], before: &Before, log: &str) -> Result<(), String> {
    let now = batch.victim()?.processes();
    for (part, pid) in &before.processes {
        let aimed = strikes.iter().any(|s| s.part() == Some(*part));
        // A viewer that starts while the display does is started with the new picture.
        let picture = *part == Part::Vnc && strikes.iter().any(|s| s.part() == Some(Part::Vga));
        // A drive whose image is cut may give up.
        let image = *part == Part::Ide
            && strikes.iter().any(|s| matches!(s, Strike::TruncatedFormat(_) | Strike::Truncated(..)));
        if !(aimed || picture || image || now.contains(&(*part, *pid))) {
            return Err(format!("{part:?} (pid {pid}) has died too: {:?}", deaths(log, *part)));
        }
    }
    Ok(())
}

/// Nobody keeps more files open than at the start, once what was in progress is done.
fn leaks(batch: &mut Batch) -> Result<(), String> {
    let victim = batch.victim()?;
    let start = victim.open.clone();
    let what = format!("no more than {SPARE} open files more than {start:?}");
    until(&what, batch, |b| {
        let now = b.victim()?.open_files();
        Ok(start.iter().all(|(role, count)| now.get(role).is_some_and(|n| *n <= count + SPARE)))
    })
}

/// The guest reads what it has written, here and there.
fn reread(batch: &mut Batch) -> Result<(), String> {
    for disk in [0, 1] {
        for _ in 0..2 {
            let lba = batch.dice.below(64) as u32;
            let dma = batch.dice.chance(50);
            if met(batch.read(disk, lba, 1, dma))? != Some(true) && batch.met.errors > 100 {
                return Err(format!("disk {disk} cannot be read: {:?}", batch.met));
            }
        }
    }
    Ok(())
}

/// The row of the failure table that a strike has led to.
fn row(batch: &Batch, strike: Strike, strikes: &[Strike], log: &str) -> Result<Outcome, String> {
    let lines = strike.part().map(|part| deaths(log, part)).unwrap_or_default();
    let says = |words: &str| lines.iter().any(|l| l.contains(words));
    // Two may be aimed at the same process.
    let same: Vec<_> = strikes.iter().filter(|s| s.part() == strike.part()).collect();
    let ends = strike.part().is_some() && same.iter().any(|s| !matches!(s, Strike::Pause(..) | Strike::Freeze(_)));
    let failed = batch.met.errors > 0 || batch.met.away > 0;
    let found = match strike {
        _ if strike.part() == Some(Part::Control) && !lines.is_empty() => Outcome::Control,
        Strike::Pause(..) | Strike::Freeze(_) if lines.is_empty() => Outcome::Late,
        Strike::Freeze(_) if says("did not answer in time") => Outcome::NoAnswer,
        _ if ends && says("does not end it") => Outcome::NotEnding,
        _ if ends && says("BH-0502") => Outcome::StoppedInStart,
        Strike::Start(..) | Strike::KillAgain(..) if lines.len() > 1 => Outcome::DiedInStart,
        _ if ends && says("closed its socket") => Outcome::ClosedSocket,
        _ if ends && says("did not answer in time") => Outcome::NoAnswer,
        _ if ends && !lines.is_empty() => Outcome::Ended,
        Strike::Fails(..) | Strike::Full(_) | Strike::Truncated(..) if failed => Outcome::StorageFailed,
        Strike::TruncatedFormat(_) => Outcome::StorageFailed,
        Strike::Slow(..) | Strike::Held(..) => Outcome::StorageLate,
        Strike::Medium(_) => Outcome::Medium,
        Strike::Viewer(_) => Outcome::Viewer,
        _ => return Err(format!("{strike:?} has no outcome: {lines:?}, {:?}", batch.met)),
    };
    if same.iter().any(|s| s.may().contains(&found)) {
        Ok(found)
    } else {
        Err(format!("{strike:?} has led to: {}; {lines:?}", found.failure()))
    }
}
