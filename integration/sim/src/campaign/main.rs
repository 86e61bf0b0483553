//! `bulkhead-faults`: random faults in the simulated machine. Each one must come to a row of the failure table of docs/architecture.md, and
//! no write that the guest was told is done may be lost. `integration/campaign faults` runs it.
//!
//!     bulkhead-faults [--seed N] [--count N] [--jobs N] [--only K] [--done FILE]
//!
//! Fault K of seed N is always the same. A batch of them shares its machines; `--only K` runs the batch of K up to K. A line of FILE is a
//! result; faults that have a good one are not run again.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test: what is wrong in it ends it"
)]

mod batch;
mod dice;
mod disk;
mod fault;
mod guest;
mod judge;
mod outcome;
mod strikes;
mod victim;

use crate::batch::Batch;
use crate::dice::Dice;
use crate::fault::Fault;
use crate::outcome::Outcome;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;

/// Faults that share their machines.
const BATCH: u64 = 25;

/// What the arguments ask for.
#[derive(Clone, Debug)]
struct Wanted {
    seed: u64,
    count: u64,
    jobs: usize,
    only: Option<u64>,
    done: Option<String>,
    /// The batch that this process runs.
    batch: Option<u64>,
}

impl Wanted {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut wanted = Self { seed: 1, count: 10_000, jobs: 6, only: None, done: None, batch: None };
        for pair in arguments.chunks(2) {
            let [option, value] = pair else { return Err(format!("{pair:?}: a value must follow")) };
            let number = || value.parse::<u64>().map_err(|_| format!("{option} {value}: a number"));
            match option.as_str() {
                "--seed" => wanted.seed = number()?,
                "--count" => wanted.count = number()?,
                "--jobs" => wanted.jobs = number()?.clamp(1, 64) as usize,
                "--only" => wanted.only = Some(number()?),
                "--batch" => wanted.batch = Some(number()?),
                "--done" => wanted.done = Some(value.clone()),
                _ => return Err(format!("{option}: see the top of integration/sim/src/campaign/main.rs")),
            }
        }
        Ok(wanted)
    }
}

fn main() -> ExitCode {
    bulkhead_policy::end_on_panic();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let good = Wanted::parse(&arguments).and_then(|wanted| match wanted.batch {
        Some(number) => run_batch(&wanted, number).map(|()| true),
        None => campaign(&wanted),
    });
    match good {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("bulkhead-faults: {e}");
            ExitCode::FAILURE
        }
    }
}

/// A line of results, with tabs: index, title, the outcome's row or `-`, the parts that stay dead, what is wrong.
fn say(fields: &[&str]) {
    let line = fields.iter().map(|f| f.replace(['\n', '\t'], " | ")).collect::<Vec<_>>().join("\t");
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Runs the faults of a batch in this process, which has mounts and orphans of its own.
fn run_batch(wanted: &Wanted, number: u64) -> Result<(), String> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|e| e.to_string())?;
    let mut batch = Batch::new()?;
    let first = number * BATCH;
    let end = wanted.only.map_or(wanted.count, |k| k + 1).min(first + BATCH);
    for index in first..end {
        let fault = Fault::of(wanted.seed, index);
        let (title, key) = (fault.title(), index.to_string());
        let mut verdict = batch.fault(&fault, Dice::new(!wanted.seed, index));
        if index + 1 == end && verdict.is_ok() {
            // What is wrong at the end is said of the last one.
            verdict = batch.end().and(verdict);
        }
        match verdict {
            Ok(verdict) => {
                let dead: Vec<_> = verdict.dead.iter().map(|p| p.role()).collect();
                say(&[&key, &title, verdict.outcome.failure(), &dead.join(" "), ""]);
            }
            Err(why) => {
                let log = batch.victim.as_ref().map(|v| v.sim.log()).unwrap_or_default();
                let last: Vec<_> = log.lines().rev().take(12).collect();
                let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
                say(&[&key, &title, "-", "", &format!("{:?}: {why}\nlog:\n{last}", fault.strikes)]);
                batch.discard()?;
            }
        }
    }
    batch.end()
}

/// Runs all batches, several at once, and prints the counts.
fn campaign(wanted: &Wanted) -> Result<bool, String> {
    let mut results: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    if let Some(text) = wanted.done.as_ref().and_then(|path| std::fs::read_to_string(path).ok()) {
        for line in text.lines() {
            let fields: Vec<String> = line.split('\t').map(str::to_owned).collect();
            let good = fields.len() == 5 && fields[2] != "-";
            if let Some(index) = fields.first().and_then(|i| i.parse().ok()).filter(|_| good) {
                results.insert(index, fields);
            }
        }
    }
    let (first, end) = wanted.only.map_or((0, wanted.count), |k| (k / BATCH * BATCH, k + 1));
    let mut batches: BTreeSet<u64> =
        (first..end).filter(|index| !results.contains_key(index)).map(|index| index / BATCH).collect();
    let mut file = match &wanted.done {
        Some(path) => {
            let open = std::fs::File::options().create(true).append(true).open(path);
            Some(open.map_err(|e| format!("{path}: {e}"))?)
        }
        None => None,
    };
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (lines, heard) = mpsc::channel();
    let mut running = 0;
    loop {
        while running < wanted.jobs
            && let Some(number) = batches.pop_first()
        {
            start(wanted, dir.path(), number, lines.clone())?;
            running += 1;
        }
        if running == 0 {
            break;
        }
        match heard.recv().map_err(|e| e.to_string())? {
            Heard::Line(line) => {
                let fields: Vec<String> = line.split('\t').map(str::to_owned).collect();
                let Some(index) = fields.first().and_then(|i| i.parse::<u64>().ok()) else { continue };
                if results.contains_key(&index) {
                    continue;
                }
                if let Some(file) = &mut file {
                    writeln!(file, "{line}").map_err(|e| e.to_string())?;
                }
                if fields.get(2).is_some_and(|o| o == "-") {
                    let why = fields.get(4).map(|w| w.replace(" | ", "\n    ")).unwrap_or_default();
                    println!("not as the table says: --seed {} --only {index}\n    {why}", wanted.seed);
                }
                results.insert(index, fields);
                if results.len().is_multiple_of(100) {
                    println!("{} of {end}", results.len());
                }
            }
            Heard::End(number, good) => {
                running -= 1;
                let missing: Vec<u64> = (number * BATCH..((number + 1) * BATCH).min(end))
                    .filter(|index| !results.contains_key(index))
                    .collect();
                if !good || !missing.is_empty() {
                    println!("not as the table says: batch {number} ends without the results of {missing:?}");
                    for index in missing {
                        let fields = [&index.to_string(), "?", "-", "", "no result"].map(str::to_owned);
                        results.insert(index, fields.to_vec());
                    }
                }
            }
        }
    }
    Ok(table(results.into_iter().filter(|(index, _)| (first..end).contains(index)).map(|(_, fields)| fields)))
}

enum Heard {
    Line(String),
    End(u64, bool),
}

/// Starts a process for a batch, in a mount namespace of its own: there `dir` is in memory, so that no other work of the host delays
/// what the machine does.
fn start(wanted: &Wanted, dir: &std::path::Path, number: u64, lines: mpsc::Sender<Heard>) -> Result<(), String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let (seed, count) = (wanted.seed.to_string(), wanted.count.to_string());
    let mut command = Command::new("unshare");
    let mount = "mount -t tmpfs -o size=1g,mode=1777 bulkhead \"$0\" && exec \"$@\"";
    command.args(["--mount", "--propagation", "private", "--", "sh", "-c", mount]).arg(dir).arg(own).env("TMPDIR", dir);
    command.args(["--seed", &seed, "--count", &count, "--batch", &number.to_string()]);
    if let Some(only) = wanted.only {
        command.args(["--only", &only.to_string()]);
    }
    let mut child: Child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|e| format!("unshare: {e}"))?;
    let out = child.stdout.take().ok_or("no output")?;
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let _ = lines.send(Heard::Line(line));
        }
        let good = child.wait().is_ok_and(|status| status.success());
        let _ = lines.send(Heard::End(number, good));
    });
    Ok(())
}

/// Prints how often each fault has come to each row. True if none has come to another end.
fn table(results: impl Iterator<Item = Vec<String>>) -> bool {
    let mut counts: BTreeMap<(String, Option<Outcome>), u64> = BTreeMap::new();
    let (mut all, mut bad, mut dead) = (0u64, 0u64, 0u64);
    for fields in results {
        let field = |i: usize| fields.get(i).cloned().unwrap_or_default();
        let outcome = Outcome::of(&field(2));
        all += 1;
        bad += u64::from(outcome.is_none());
        dead += u64::from(!field(3).is_empty());
        *counts.entry((field(1), outcome)).or_default() += 1;
    }
    println!("| fault | failure of the table | count |\n|---|---|---|");
    for ((title, outcome), count) in &counts {
        println!("| {title} | {} | {count} |", outcome.map_or("none: see below", Outcome::failure));
    }
    println!("{all} faults, {bad} not as the table says, {dead} after which a process stays dead");
    bad == 0
}
