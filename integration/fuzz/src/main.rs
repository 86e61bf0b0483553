//! `bulkhead-fuzz`: fuzzes the devices and parsers, reports what it finds, and makes scripts that other device models run too.
//! docs/fuzzing.md is its guide.
mod compare;
mod coverage;
mod engine;
mod export;
mod instrument;
mod machine;
mod minimize;
mod qtest;
mod targets;
mod violation;

use clap::{Parser, Subcommand};
use compare::Verdict;
use export::Lines;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use targets::{Entry, TARGETS, find};

/// Exit status if something was found.
const FOUND: u8 = 3;

/// Fuzzes Bulkhead's devices and parsers.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Options {
    /// Where corpora and findings are kept
    #[arg(long, default_value = "out/fuzz", global = true)]
    out: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists the targets
    List,
    /// Fuzzes targets one after the other, or `all`; goes on after findings. Exit status 3: something was found
    Run {
        /// The targets
        #[arg(required = true)]
        targets: Vec<String>,
        /// Minutes for each
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
        /// Processes
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// Begins the random numbers; without it each run has others
        #[arg(long)]
        seed: Option<u32>,
    },
    /// Runs one input, or standard input with -, and says as JSON what it violates. Exit status 3: it does
    Try {
        /// The target
        target: String,
        /// The input
        input: PathBuf,
    },
    /// Runs all inputs of folders in one process
    Execute {
        /// The target
        target: String,
        /// The folders
        folders: Vec<PathBuf>,
    },
    /// Makes an input small, operation by operation; it violates the same afterwards
    Min {
        /// The target
        target: String,
        /// The input
        input: PathBuf,
        /// Where the small one goes; without it INPUT.min
        #[arg(long)]
        to: Option<PathBuf>,
    },
    /// Keeps the inputs of a target's corpus that cover something that the others do not
    Cmin {
        /// The target
        target: String,
        /// The folder for them, which should be empty
        to: PathBuf,
    },
    /// Lists the violations of a folder's inputs, one entry for each violation and place
    Triage {
        /// The target
        target: String,
        /// The folder; without it the target's findings
        folder: Option<PathBuf>,
    },
    /// Says which regions of the target's sources its corpus and seeds cover
    Coverage {
        /// The target
        target: String,
        /// Writes the sources with counts as HTML into this folder
        #[arg(long)]
        html: Option<PathBuf>,
        /// Lists functions that never ran
        #[arg(long)]
        missing: bool,
        /// Writes the figures as JSON into this file
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Shows an input's records
    Show {
        /// The target
        target: String,
        /// The input
        input: PathBuf,
    },
    /// Writes an input as a qtest script to standard output
    Export {
        /// The target
        target: String,
        /// The input
        input: PathBuf,
    },
    /// Runs scripts, or inputs of a target, on a whole machine, all processes real, and compares with the device alone
    Replay {
        /// The scripts; with --target inputs or folders of inputs
        scripts: Vec<PathBuf>,
        /// The target of inputs. Without inputs: those that are kept
        #[arg(long)]
        target: Option<String>,
        /// The program that speaks qtest
        #[arg(long, default_value = "bulkhead-qtest")]
        on: String,
    },
    /// Runs scripts, or inputs of a target, on two machines and names the first difference that differences.toml does not have
    Diff {
        /// The scripts; with --target inputs or folders of inputs
        scripts: Vec<PathBuf>,
        /// The target of inputs
        #[arg(long)]
        target: Option<String>,
        /// The other program, such as 'qemu-system-i386 -accel qtest'
        #[arg(long)]
        with: String,
        /// Another table of differences than integration/fuzz/differences.toml
        #[arg(long)]
        table: Option<PathBuf>,
        /// This program
        #[arg(long, default_value = "bulkhead-qtest")]
        on: String,
    },
}

/// The repository's folder.
pub(crate) fn top() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

fn main() -> ExitCode {
    // Cargo's call, for each crate of the targets.
    if std::env::var_os(instrument::COMPILES).is_some() {
        eprintln!("bulkhead-fuzz: rustc: {}", instrument::compile());
        return ExitCode::FAILURE;
    }
    match run(Options::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("bulkhead-fuzz: {e}");
            ExitCode::FAILURE
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        return std::io::stdin().read_to_end(&mut bytes).map(|_| bytes).map_err(|e| format!("standard input: {e}"));
    }
    std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn device(entry: &Entry) -> Result<&'static bulkhead_bus::exercise::Target, String> {
    entry.device().ok_or_else(|| format!("{} is no device: its input is bytes", entry.name))
}

/// The program beside this one, if `name` is one word and it is there.
fn beside(name: &str) -> String {
    let path = std::env::current_exe().ok().and_then(|me| Some(me.parent()?.join(name)));
    path.filter(|p| p.exists()).map_or_else(|| name.to_owned(), |p| p.display().to_string())
}

fn run(options: Options) -> Result<ExitCode, String> {
    let folders = engine::Folders { out: options.out };
    match options.command {
        Command::List => {
            for target in TARGETS {
                let kind = match target.device() {
                    Some(device) if device.registers.is_empty() => "acts",
                    Some(_) => "device",
                    None => "bytes",
                };
                println!("{:16} {:16} {kind:8} {}", target.name, target.folder, target.hostile);
            }
        }
        Command::Run { targets, minutes, jobs, seed } => {
            return fuzz(
                &targets,
                &folders,
                engine::Length { seconds: (minutes * 60.0) as u64, jobs: jobs.max(1), seed },
            );
        }
        Command::Try { target, input } => {
            let code = violation::child(find(&target)?, &read(&input)?);
            return Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from));
        }
        Command::Execute { target, folders } => {
            let entry = find(&target)?;
            let (mut good, mut bad) = (0usize, Vec::new());
            for folder in folders {
                for (name, input) in violation::inputs(&folder)? {
                    match entry.run(&input) {
                        Ok(()) => good = good.saturating_add(1),
                        Err(e) => bad.push(format!("{}: {e}", folder.join(name).display())),
                    }
                }
            }
            bad.iter().for_each(|line| println!("{line}"));
            println!("{target}: {good} inputs, {} violations", bad.len());
            if !bad.is_empty() {
                return Ok(ExitCode::from(FOUND));
            }
        }
        Command::Min { target, input, to } => {
            let entry = find(&target)?;
            let bytes = read(&input)?;
            let (small, violation) = minimize::minimize(entry, &bytes)?;
            let to = to.unwrap_or_else(|| input.with_extension("min"));
            std::fs::write(&to, &small).map_err(|e| format!("{}: {e}", to.display()))?;
            println!("{}: {} bytes of {}: {}", to.display(), small.len(), bytes.len(), violation.key());
        }
        Command::Cmin { target, to } => {
            let entry = find(&target)?;
            let from: Vec<PathBuf> =
                [engine::seeds(entry), folders.corpus(entry)].into_iter().filter(|d| d.is_dir()).collect();
            println!("{}: {} inputs", to.display(), engine::merge(entry, &from, &to)?);
        }
        Command::Triage { target, folder } => {
            return triage(find(&target)?, folder.unwrap_or_else(|| folders.findings_of(&target)));
        }
        Command::Coverage { target, html, missing, json } => {
            report(find(&target)?, &folders, html.as_deref(), missing, json.as_deref())?;
        }
        Command::Show { target, input } => {
            device(find(&target)?)?;
            let script = bulkhead_bus::exercise::Script::of(&read(&input)?);
            println!("settings {:02x?}", script.settings);
            for (n, r) in script.records.iter().enumerate() {
                println!(
                    "{n:4} {:?} place {} size {} offset {:#x} value {:#x} {:02x?}",
                    r.kind, r.place, r.size, r.offset, r.value, r.data
                );
            }
        }
        Command::Export { target, input } => {
            print!("{}", export::export(find(&target)?, &read(&input)?)?.to_text())
        }
        Command::Replay { scripts, target, on } => return replay(&scripts, target.as_deref(), &beside(&on)),
        Command::Diff { scripts, target, with, table, on } => {
            return diff(&scripts, target.as_deref(), &with, &compare::table(table.as_deref())?, &beside(&on));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn fuzz(names: &[String], folders: &engine::Folders, length: engine::Length) -> Result<ExitCode, String> {
    let all = names.iter().any(|n| n == "all");
    let targets: Vec<&Entry> =
        if all { TARGETS.iter().collect() } else { names.iter().map(|n| find(n)).collect::<Result<_, _>>()? };
    engine::build(&targets)?;
    let mut found = false;
    for target in targets {
        let outcome = engine::run(target, folders, length)?;
        if outcome.found.is_empty() {
            println!("ok fuzz_{} ({} executions)", target.name, outcome.executions);
        } else {
            found = true;
            println!("not ok fuzz_{} ({} violations)", target.name, outcome.found.len());
            println!("# bulkhead-fuzz triage {} lists them, bulkhead-fuzz min makes one small", target.name);
        }
    }
    Ok(if found { ExitCode::from(FOUND) } else { ExitCode::SUCCESS })
}

impl engine::Folders {
    fn findings_of(&self, target: &str) -> PathBuf {
        self.out.join("findings").join(target)
    }
}

/// A machine with its disk's image, which lives as long.
struct Machine {
    peer: qtest::Peer,
    _image: tempfile::NamedTempFile,
}

impl Machine {
    fn start(program: &str, target: &str) -> Result<Self, String> {
        let image = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
        image.as_file().set_len(1 << 20).map_err(|e| e.to_string())?;
        let arguments = machine::filled(machine::arguments(target), image.path());
        Ok(Self { peer: qtest::Peer::start(program, &arguments)?, _image: image })
    }
}

/// Scripts of files, or of a target's inputs, with their names.
fn scripts_of(paths: &[PathBuf], target: Option<&str>) -> Result<Vec<(String, Lines)>, String> {
    let mut all = Vec::new();
    for path in paths {
        match target {
            None => all.push((path.display().to_string(), Lines::parse(&String::from_utf8_lossy(&read(path)?)))),
            Some(target) => {
                let entry = find(target)?;
                let one = |bytes| vec![(path.display().to_string(), bytes)];
                let inputs = if path.is_dir() { violation::inputs(path)? } else { one(read(path)?) };
                for (name, input) in inputs {
                    all.push((name, export::export(entry, &input)?));
                }
            }
        }
    }
    if all.is_empty() {
        return Err("there is no script".into());
    }
    Ok(all)
}

fn replay(paths: &[PathBuf], target: Option<&str>, on: &str) -> Result<ExitCode, String> {
    let kept = match target.filter(|_| paths.is_empty()) {
        Some(target) => vec![engine::seeds(find(target)?)],
        None => paths.to_vec(),
    };
    let (all, mut differ) = (scripts_of(&kept, target)?, 0usize);
    let mut lines = 0usize;
    for (name, script) in &all {
        let mut machine = Machine::start(on, &script.target)?;
        lines = lines.saturating_add(script.lines.len());
        match compare::replay(script, &mut machine.peer) {
            Ok(Verdict::Alike(_)) => {}
            Ok(Verdict::Differs(what)) => {
                differ = differ.saturating_add(1);
                println!("{name}: {what}");
            }
            Err(what) => {
                differ = differ.saturating_add(1);
                println!("{name}: {what}");
            }
        }
    }
    let name = target.unwrap_or("scripts");
    let word = if differ == 0 { "ok" } else { "not ok" };
    println!("{word} split_{name} ({} scripts of {lines} lines, {differ} differ)", all.len());
    Ok(if differ == 0 { ExitCode::SUCCESS } else { ExitCode::from(FOUND) })
}

fn diff(
    scripts: &[PathBuf],
    target: Option<&str>,
    with: &str,
    table: &compare::Table,
    on: &str,
) -> Result<ExitCode, String> {
    let all = scripts_of(scripts, target)?;
    let (mut alike, mut known, mut found) =
        (0usize, 0usize, std::collections::BTreeMap::<String, (usize, String)>::new());
    for (name, script) in &all {
        let (mut one, mut other) = (Machine::start(on, &script.target)?, Machine::start(with, &script.target)?);
        match compare::two(script, &mut one.peer, &mut other.peer, table) {
            Ok(Verdict::Alike(n)) => {
                alike = alike.saturating_add(1);
                known = known.saturating_add(n);
            }
            Ok(Verdict::Differs(difference)) => {
                // Many inputs differ in one place: the place is said once.
                let entry =
                    found.entry(difference.place.clone()).or_insert_with(|| (0, format!("{name}: {difference}")));
                entry.0 = entry.0.saturating_add(1);
            }
            Err(what) => {
                let entry = found.entry(what.clone()).or_insert_with(|| (0, format!("{name}: {what}")));
                entry.0 = entry.0.saturating_add(1);
            }
        }
    }
    for (count, what) in found.values() {
        println!("{count} × {what}");
    }
    println!(
        "{} scripts: {alike} alike with {known} argued differences, {} places with an unexplained difference",
        all.len(),
        found.len()
    );
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FOUND) })
}

fn triage(entry: &'static Entry, folder: PathBuf) -> Result<ExitCode, String> {
    let mut found = std::collections::BTreeMap::<String, Vec<(usize, String)>>::new();
    let mut harmless = 0usize;
    for (name, input) in violation::inputs(&folder)? {
        match violation::of(entry, &input)? {
            Some(violation) => found.entry(violation.key()).or_default().push((input.len(), name)),
            None => harmless = harmless.saturating_add(1),
        }
    }
    for (key, mut inputs) in found.clone() {
        inputs.sort();
        let (len, name) = inputs.first().cloned().unwrap_or_default();
        println!("{} inputs: {key}\n    {} ({len} bytes)", inputs.len(), folder.join(name).display());
    }
    println!("{} violations, {harmless} inputs without one", found.len());
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FOUND) })
}

fn report(
    entry: &'static Entry,
    folders: &engine::Folders,
    html: Option<&Path>,
    missing: bool,
    json: Option<&Path>,
) -> Result<(), String> {
    let inputs: Vec<PathBuf> =
        [engine::seeds(entry), folders.corpus(entry)].into_iter().filter(|d| d.is_dir()).collect();
    let (mut all, mut ran) = (0u64, 0u64);
    let files = coverage::measure(entry, &inputs, html)?;
    if let Some(json) = json {
        let text = serde_json::to_string(&files).map_err(|e| e.to_string())?;
        std::fs::write(json, text).map_err(|e| format!("{}: {e}", json.display()))?;
    }
    for file in files {
        let (count, covered) = file.regions;
        println!(
            "{:48} {covered:5} of {count:5} regions, {} %",
            file.path,
            covered.saturating_mul(100).checked_div(count).unwrap_or(100)
        );
        if missing {
            file.missing.iter().for_each(|name| println!("        never: {name}"));
        }
        all = all.saturating_add(count);
        ran = ran.saturating_add(covered);
    }
    println!("{}: {ran} of {all} regions, {} %", entry.name, ran.saturating_mul(100).checked_div(all).unwrap_or(100));
    Ok(())
}
