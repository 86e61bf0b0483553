//! libFuzzer: builds a target with its instrumentation, runs it in several processes, and shows one line of progress.
use crate::instrument;
use crate::targets::Entry;
use crate::violation;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the targets are built for.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Most bytes of an input: some sixty records. Longer ones cover no more in the same time (decision 35).
const LONGEST: u32 = 1024;
/// Most bytes of an input that is kept.
const LONGEST_KEPT: u32 = 4096;
/// Most findings of one job; then it stops.
const FINDINGS: u32 = 200;
/// How often the line of progress is printed.
const BEAT: Duration = Duration::from_secs(10);

/// Where a campaign keeps its files.
pub struct Folders {
    /// The campaign's folder.
    pub out: PathBuf,
}

impl Folders {
    /// The corpus of a target.
    pub fn corpus(&self, entry: &Entry) -> PathBuf {
        self.out.join("corpus").join(entry.name)
    }

    /// The inputs that violate something.
    pub fn findings(&self, entry: &Entry) -> PathBuf {
        self.out.join("findings").join(entry.name)
    }
}

/// The kept inputs of a target.
pub fn seeds(entry: &Entry) -> PathBuf {
    crate::top().join(entry.folder).join("fuzz/seeds").join(entry.name)
}

/// Builds targets: one call of cargo for those with the sanitizer and one for those without, since more calls build what they share for each
/// set of features.
///
/// # Errors
/// They do not build.
pub fn build(entries: &[&Entry]) -> Result<(), String> {
    let top = crate::top();
    for sanitized in [false, true] {
        let mine: Vec<&&Entry> = entries.iter().filter(|e| e.sanitized == sanitized).collect();
        if mine.is_empty() {
            continue;
        }
        let mut flags = format!("--cfg fuzzing --cfg instrumented_{:x}", instrument::version());
        let mut cargo = Command::new("cargo");
        if sanitized {
            // The address sanitizer's flag is unstable. It has no static executables.
            flags.push_str(" -Zsanitizer=address -Ctarget-feature=-crt-static");
            cargo.env("RUSTC_BOOTSTRAP", "1");
        }
        let features: BTreeSet<&str> = mine.iter().map(|e| e.feature()).collect();
        cargo
            .args(["build", "--release", "--target", TRIPLE, "--no-default-features", "--features"])
            .arg(features.into_iter().collect::<Vec<_>>().join(","))
            .args(mine.iter().flat_map(|e| ["--bin", e.name]))
            .arg("--manifest-path")
            .arg(top.join("integration/fuzz/targets/Cargo.toml"))
            .env("CARGO_TARGET_DIR", folder(sanitized))
            .env("RUSTC_WRAPPER", std::env::current_exe().map_err(|e| e.to_string())?)
            .env(instrument::COMPILES, "1")
            .env("RUSTFLAGS", flags);
        let status = cargo.status().map_err(|e| format!("cargo: {e}"))?;
        if !status.success() {
            return Err("the targets do not build".into());
        }
    }
    Ok(())
}

/// Where cargo builds targets.
fn folder(sanitized: bool) -> PathBuf {
    crate::top().join("target").join(if sanitized { "fuzz-sanitized" } else { "fuzz" })
}

/// The program of a target that was built.
fn program(entry: &Entry) -> PathBuf {
    folder(entry.sanitized).join(TRIPLE).join("release").join(entry.name)
}

#[derive(Default)]
struct Progress {
    /// Executions, by job; of a job's earlier processes too.
    executions: Vec<(u64, u64)>,
    covered: u64,
    inputs: u64,
    /// Hundredths of a second of processor time of ended processes.
    ticks: u64,
    /// Number of findings, by violation.
    found: BTreeMap<String, u64>,
    /// The files of the first input of each violation. libFuzzer names a file by its contents, so that the same input has the same file.
    kept: BTreeSet<String>,
}

impl Progress {
    fn add(&mut self, ticks: u64) {
        self.ticks = self.ticks.saturating_add(ticks);
    }
}

/// What a run has done: a line of `runs.jsonl`, which campaigns read.
#[derive(Debug, Default, serde::Serialize)]
pub struct Outcome {
    /// The target.
    pub target: String,
    /// Number of executions.
    pub executions: u64,
    /// Seconds of processor time.
    pub cpu_seconds: f64,
    /// Seconds.
    pub seconds: u64,
    /// Covered edges.
    pub edges: u64,
    /// Inputs of the corpus.
    pub inputs: u64,
    /// Violations, with the number of inputs.
    pub found: BTreeMap<String, u64>,
}

/// How long a run is, and with how much.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    /// Seconds.
    pub seconds: u64,
    /// Processes.
    pub jobs: usize,
    /// Begins the random numbers of the first job; the next ones follow it.
    pub seed: Option<u32>,
}

/// Fuzzes a target that was built. Findings are kept and the run goes on.
///
/// # Errors
/// The target does not start.
pub fn run(entry: &Entry, folders: &Folders, length: Length) -> Result<Outcome, String> {
    let Length { seconds, jobs, seed } = length;
    let program = program(entry);
    let (corpus, findings) = (folders.corpus(entry), folders.findings(entry));
    for directory in [&corpus, &findings] {
        std::fs::create_dir_all(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    }
    let begun = Instant::now();
    let end = begun.checked_add(Duration::from_secs(seconds)).ok_or("so many minutes")?;
    let progress = Mutex::new(Progress { executions: vec![(0, 0); jobs], ..Progress::default() });
    let mut beat = 0;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs)
            .map(|job| {
                let (program, corpus, findings, progress) = (&program, &corpus, &findings, &progress);
                let seed = seed.map(|seed| seed.wrapping_add(job as u32));
                scope.spawn(move || work(entry, &Place { program, corpus, findings, seed }, job, end, progress))
            })
            .collect();
        while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::park_timeout(Duration::from_millis(200));
            let beats = begun.elapsed().as_secs().checked_div(BEAT.as_secs()).unwrap_or(0);
            if std::mem::replace(&mut beat, beats) != beats {
                println!("{}", line(entry, &progress.lock().unwrap_or_else(PoisonError::into_inner), begun.elapsed()));
            }
        }
        workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|_| Err("a job has panicked".into())))
    })?;
    let progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
    println!("{}", line(entry, &progress, begun.elapsed()));
    let outcome = Outcome {
        target: entry.name.into(),
        executions: total(&progress),
        cpu_seconds: progress.ticks as f64 / 100.0,
        seconds: begun.elapsed().as_secs(),
        edges: progress.covered,
        inputs: progress.inputs,
        found: progress.found.clone(),
    };
    record(folders, &outcome)?;
    Ok(outcome)
}

fn record(folders: &Folders, outcome: &Outcome) -> Result<(), String> {
    let path = folders.out.join("runs.jsonl");
    let line = serde_json::to_string(outcome).map_err(|e| e.to_string())?;
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    file.and_then(|mut f| writeln!(f, "{line}")).map_err(|e| format!("{}: {e}", path.display()))
}

/// Processor time of a process that has ended and is not waited for yet, in hundredths of a second (proc(5), fields 14 and 15).
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let times = after.split_whitespace().skip(11).take(2);
    times.filter_map(|t| t.parse::<u64>().ok()).fold(0, u64::saturating_add)
}

fn total(progress: &Progress) -> u64 {
    progress.executions.iter().fold(0, |n, (ended, now)| n.saturating_add(*ended).saturating_add(*now))
}

fn line(entry: &Entry, progress: &Progress, elapsed: Duration) -> String {
    let executions = total(progress);
    let rate = executions.checked_div(elapsed.as_secs().max(1)).unwrap_or(0);
    format!(
        "{}: {} s, {executions} executions ({rate} a second), {} edges, {} inputs, {} violations",
        entry.name,
        elapsed.as_secs(),
        progress.covered,
        progress.inputs,
        progress.found.len()
    )
}

/// What a job runs, and with what.
struct Place<'a> {
    program: &'a Path,
    corpus: &'a Path,
    findings: &'a Path,
    seed: Option<u32>,
}

/// One job: processes one after another until the end, since each ends with its first finding.
fn work(entry: &Entry, place: &Place<'_>, job: usize, end: Instant, progress: &Mutex<Progress>) -> Result<(), String> {
    for _ in 0..FINDINGS {
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        if left == 0 {
            return Ok(());
        }
        let mut child = start(entry, place, left)?;
        let artifact = follow(&mut child, job, progress);
        // Its output has ended, so it ends too; a moment later its time is whole.
        let mut used = ticks(child.id());
        while child.try_wait().is_ok_and(|status| status.is_none()) {
            used = ticks(child.id()).max(used);
            std::thread::park_timeout(Duration::from_millis(5));
        }
        progress.lock().unwrap_or_else(PoisonError::into_inner).add(used);
        let status = child.wait().map_err(|e| e.to_string())?;
        match artifact {
            Some(file) => {
                let input = std::fs::read(&file).map_err(|e| format!("{file}: {e}"))?;
                let key =
                    violation::of(entry, &input)?.map_or_else(|| "only in the fuzzer's build".to_owned(), |v| v.key());
                let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
                let count = progress.found.entry(key.clone()).or_default();
                *count = count.saturating_add(1);
                if *count == 1 {
                    println!("{}: {key}\n    {file}", entry.name);
                    progress.kept.insert(file);
                } else if !progress.kept.contains(&file) {
                    // One input of a kind is enough.
                    let _ = std::fs::remove_file(&file);
                }
            }
            None if status.success() => return Ok(()),
            None => {
                return Err(format!(
                    "{} ends with {status} and no finding; run it by hand: {}",
                    entry.name,
                    place.program.display()
                ));
            }
        }
    }
    println!("{}: job {job} has met {FINDINGS} findings and ends", entry.name);
    Ok(())
}

fn start(entry: &Entry, place: &Place<'_>, seconds: u64) -> Result<Child, String> {
    let Place { program, corpus, findings, seed } = place;
    let mut command = Command::new(program);
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={LONGEST}"))
        // Short inputs first; a mutator of one's own turns that off otherwise.
        .args([
            "-len_control=100",
            "-timeout=20",
            "-rss_limit_mb=1024",
            "-malloc_limit_mb=64",
            "-print_final_stats=1",
            "-reload=10",
        ])
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .arg(corpus);
    if let Some(seed) = seed {
        command.arg(format!("-seed={seed}"));
    }
    let seeds = seeds(entry);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().map_err(|e| format!("{}: {e}", program.display()))
}

/// Reads libFuzzer's lines until the process ends. Returns the file of its finding.
fn follow(child: &mut Child, job: usize, progress: &Mutex<Progress>) -> Option<String> {
    let mut artifact = None;
    let lines = BufReader::new(child.stderr.take()?).lines();
    for line in lines.map_while(Result::ok) {
        // A slow input is written too, and the process goes on.
        if let Some((_, file)) = line.split_once("Test unit written to ").filter(|(_, f)| !f.contains("slow-unit-")) {
            artifact = Some(file.trim().to_owned());
        }
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        // `#1234 NEW cov: 5 ft: 6 corp: 7/89b …`, libFuzzer's only account of itself.
        if let Some(rest) = line.strip_prefix('#') {
            let words: Vec<&str> = rest.split_whitespace().collect();
            let after = |name: &str| words.iter().position(|w| *w == name).and_then(|i| words.get(i.saturating_add(1)));
            let number = |name: &str| after(name).and_then(|w| w.split('/').next()?.parse::<u64>().ok());
            if let Some(slot) = progress.executions.get_mut(job) {
                slot.1 = words.first().and_then(|w| w.parse().ok()).unwrap_or(slot.1);
            }
            progress.covered = progress.covered.max(number("cov:").unwrap_or(0));
            progress.inputs = progress.inputs.max(number("corp:").unwrap_or(0));
        }
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:")
            && let Some(slot) = progress.executions.get_mut(job)
        {
            slot.1 = count.trim().parse().unwrap_or(slot.1);
        }
    }
    let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(slot) = progress.executions.get_mut(job) {
        *slot = (slot.0.saturating_add(slot.1), 0);
    }
    artifact
}

/// Makes a corpus small: keeps the inputs that cover something that the others do not.
///
/// # Errors
/// The target does not build, or libFuzzer fails.
pub fn merge(entry: &Entry, from: &[PathBuf], to: &Path) -> Result<usize, String> {
    build(&[entry])?;
    let program = program(entry);
    std::fs::create_dir_all(to).map_err(|e| format!("{}: {e}", to.display()))?;
    let out = Command::new(&program)
        .args(["-merge=1", "-timeout=20"])
        .arg(format!("-max_len={LONGEST_KEPT}"))
        .arg(to)
        .args(from)
        .output()
        .map_err(|e| format!("{}: {e}", program.display()))?;
    if !out.status.success() {
        let _ = std::io::stderr().write_all(&out.stderr);
        return Err(format!("the merge ends with {}", out.status));
    }
    Ok(violation::inputs(to)?.len())
}
