//! Which regions of a target's sources its corpus covers. This command is built once more with the compiler's own instrumentation, runs
//! the inputs, and llvm-cov (of the compiler's LLVM version) makes the report.
use crate::targets::Entry;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Coverage of one source file.
#[derive(Debug, serde::Serialize)]
pub struct File {
    /// Its path below the repository.
    pub path: String,
    /// Regions of code, and how many of them ran.
    pub regions: (u64, u64),
    /// Functions that never ran.
    pub missing: Vec<String>,
}

#[derive(Deserialize)]
struct Export {
    data: Vec<Data>,
}
#[derive(Deserialize)]
struct Data {
    files: Vec<FileData>,
    #[serde(default)]
    functions: Vec<Function>,
}
#[derive(Deserialize)]
struct FileData {
    filename: String,
    summary: Summary,
}
#[derive(Deserialize)]
struct Summary {
    regions: Counts,
}
#[derive(Deserialize)]
struct Counts {
    count: u64,
    covered: u64,
}
#[derive(Deserialize)]
struct Function {
    name: String,
    count: u64,
    filenames: Vec<String>,
}

/// The LLVM tools of the compiler's version: `llvm-cov-22` of Debian, or `llvm-cov` of the right version.
fn tool(name: &str) -> Result<String, String> {
    let version = Command::new("rustc").arg("-vV").output().map_err(|e| format!("rustc: {e}"))?;
    let text = String::from_utf8_lossy(&version.stdout).into_owned();
    let major =
        text.lines().find_map(|l| l.strip_prefix("LLVM version: ")).and_then(|v| v.split('.').next()).unwrap_or("");
    let wanted = format!("{name}-{major}");
    match Command::new(&wanted).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(wanted),
        _ => Err(format!("{wanted} is not there: apt-get install llvm-{major}")),
    }
}

fn done(command: &mut Command) -> Result<Vec<u8>, String> {
    let out = command.stderr(Stdio::inherit()).output().map_err(|e| format!("{command:?}: {e}"))?;
    if out.status.success() { Ok(out.stdout) } else { Err(format!("{command:?} ends with {}", out.status)) }
}

/// Builds this command with the compiler's instrumentation.
///
/// # Errors
/// It does not build.
pub fn build() -> Result<PathBuf, String> {
    let top = crate::top();
    let target = top.join("target/fuzz-coverage");
    done(
        Command::new("cargo")
            .args([
                "build",
                "--release",
                "--locked",
                "-p",
                "bulkhead-fuzz",
                "--target",
                "x86_64-unknown-linux-gnu",
                "--config",
            ])
            .args([
                "profile.release.lto=false",
                "--config",
                "profile.release.strip=false",
                "--config",
                "profile.release.codegen-units=16",
            ])
            .args(["--config", "profile.release.opt-level=1"])
            .current_dir(&top)
            .env("CARGO_TARGET_DIR", &target)
            .env("RUSTFLAGS", "-Cinstrument-coverage"),
    )?;
    Ok(target.join("x86_64-unknown-linux-gnu/release/bulkhead-fuzz"))
}

/// Runs the inputs of `directories`; each process leaves a profile in `profiles`. A panic ends the process, so after one each input has a
/// process of its own.
fn execute(program: &Path, entry: &Entry, directories: &[PathBuf], profiles: &Path) -> Result<(), String> {
    let run = |arguments: &[&std::ffi::OsStr]| {
        let mut command = Command::new(program);
        command.args(arguments).env("LLVM_PROFILE_FILE", profiles.join("%p-%m.profraw"));
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().map_err(|e| format!("{}: {e}", program.display()))
    };
    let mut all: Vec<&std::ffi::OsStr> = vec!["execute".as_ref(), entry.name.as_ref()];
    all.extend(directories.iter().map(|d| d.as_os_str()));
    if run(&all)?.success() {
        return Ok(());
    }
    for directory in directories {
        for (name, _) in crate::violation::inputs(directory)? {
            run(&["try".as_ref(), entry.name.as_ref(), directory.join(name).as_os_str()])?;
        }
    }
    Ok(())
}

/// Runs the inputs of `directories` and measures what they cover.
///
/// # Errors
/// A tool is missing or fails.
pub fn measure(entry: &Entry, directories: &[PathBuf], html: Option<&Path>) -> Result<Vec<File>, String> {
    let (profdata, cov) = (tool("llvm-profdata")?, tool("llvm-cov")?);
    let program = build()?;
    let work = tempfile::tempdir().map_err(|e| e.to_string())?;
    execute(&program, entry, directories, work.path())?;
    let profiles = crate::violation::inputs(work.path())?.into_iter().map(|(name, _)| work.path().join(name));
    let merged = work.path().join("merged");
    done(Command::new(&profdata).args(["merge", "-sparse"]).args(profiles).arg("-o").arg(&merged))?;
    let sources: Vec<PathBuf> = entry.sources.iter().map(|s| crate::top().join(entry.folder).join(s)).collect();
    let common = |command: &mut Command| {
        command.arg(&program).arg(format!("-instr-profile={}", merged.display()));
    };
    if let Some(html) = html {
        let mut show = Command::new(&cov);
        show.arg("show");
        common(&mut show);
        done(
            show.args(["-format=html", "-show-regions", "-Xdemangler=cat"])
                .arg(format!("-output-dir={}", html.display()))
                .args(&sources),
        )?;
    }
    let mut export = Command::new(&cov);
    export.arg("export");
    common(&mut export);
    let json = done(export.args(["-format=text", "-skip-expansions"]).args(&sources))?;
    files(&json, &sources)
}

fn files(json: &[u8], sources: &[PathBuf]) -> Result<Vec<File>, String> {
    let export: Export = serde_json::from_slice(json).map_err(|e| format!("llvm-cov's report: {e}"))?;
    let top = crate::top();
    let mine = |path: &str| sources.iter().any(|s| Path::new(path).starts_with(s)) && !path.contains("/tests");
    let mut files = Vec::new();
    for data in export.data {
        for file in data.files.iter().filter(|f| mine(&f.filename)) {
            let of_file = data.functions.iter().filter(|f| f.filenames.first() == Some(&file.filename));
            let mut missing: Vec<String> = of_file.filter(|f| f.count == 0).map(|f| plain(&f.name)).collect();
            missing.sort();
            missing.dedup();
            let path = Path::new(&file.filename).strip_prefix(&top).unwrap_or(Path::new(&file.filename));
            files.push(File {
                path: path.display().to_string(),
                regions: (file.summary.regions.count, file.summary.regions.covered),
                missing,
            });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// The last two names of a function: `Type::method`.
fn plain(mangled: &str) -> String {
    let whole = format!("{:#}", rustc_demangle::demangle(mangled));
    // Generic arguments have paths of their own.
    let mut depth = 0usize;
    let mut names = vec![String::new()];
    let mut rest = whole.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '<' => depth = depth.saturating_add(1),
            '>' => depth = depth.saturating_sub(1),
            ':' if depth == 0 && rest.peek() == Some(&':') => {
                rest.next();
                names.push(String::new());
            }
            c if depth == 0 => names.iter_mut().last().into_iter().for_each(|n| n.push(c)),
            _ => {}
        }
    }
    names.retain(|n| !n.is_empty());
    let own = if names.len() < 2 { whole.split(['<', '>', ' ']).find(|w| w.contains("::")).unwrap_or("") } else { "" };
    let kind = own.rsplit("::").next().unwrap_or("").to_owned();
    if !kind.is_empty() {
        names.insert(0, kind);
    }
    let from = names.len().saturating_sub(2);
    names.get(from..).unwrap_or_default().join("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mangled_name_shows_its_last_names() {
        assert_eq!(plain("_ZN16bulkhead_dev_blk3ide3Ide4poll17h0123456789abcdefE"), "Ide::poll");
        let of_trait =
            "_ZN67_$LT$bulkhead_dev_blk..ide..Ide$u20$as$u20$bulkhead_bus..Device$GT$4poll17h0123456789abcdefE";
        assert_eq!(plain(of_trait), "Ide::poll");
    }

    #[test]
    fn only_the_targets_own_files_count() {
        let top = crate::top();
        let path = |p: &str| top.join(p).display().to_string();
        let json = serde_json::json!({"data": [{"files": [
            {"filename": path("dev-blk/src/ide/mod.rs"), "summary": {"regions": {"count": 4, "covered": 3}}},
            {"filename": path("dev-blk/src/ide/tests/a.rs"), "summary": {"regions": {"count": 4, "covered": 3}}},
            {"filename": "/elsewhere/x.rs", "summary": {"regions": {"count": 4, "covered": 3}}}],
            "functions": [{"name": "_RNvCs1_3ide4poll", "count": 0, "filenames": [path("dev-blk/src/ide/mod.rs")]},
                          {"name": "_RNvCs1_3ide4read", "count": 2, "filenames": [path("dev-blk/src/ide/mod.rs")]}]}]});
        let files = files(json.to_string().as_bytes(), &[top.join("dev-blk/src/ide/")]).unwrap();
        assert_eq!(files.len(), 1);
        assert_eq!((files[0].path.as_str(), files[0].regions), ("dev-blk/src/ide/mod.rs", (4, 3)));
        assert_eq!(files[0].missing, ["ide::poll"]);
    }
}
