//! `docs/security/launcher.toml`: the part of the launcher that runs as root while the guest runs.
use super::page;
use super::sources::{read, top};
use std::fmt::Write as _;
use std::path::Path;

const SOURCE: &str = "docs/security/launcher.toml";
const FOLDER: &str = "broker/launcher/src";
/// Other crates whose files the launcher and the starter run, which are named with their folder.
const OTHERS: [&str; 2] = ["policy/src/", "broker/xen/src/"];

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    part: Vec<Part>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    files: Vec<String>,
    runs: Runs,
    what: String,
}

#[derive(Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Runs {
    Before,
    After,
}

/// The launcher's files, without those that have tests alone.
fn files(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        let shown = entry.strip_prefix(top().join(FOLDER)).unwrap().display().to_string();
        if entry.is_dir() {
            if !entry.ends_with("tests") {
                files(&entry, found);
            }
        } else if shown.ends_with(".rs") && !shown.ends_with("tests.rs") && shown != "argv/toolstacks.rs" {
            found.push(shown);
        }
    }
}

/// Lines of code of a file: not empty, no comments, no tests, which stand at its end.
fn lines(file: &str) -> usize {
    let folder = if OTHERS.iter().any(|other| file.starts_with(other)) { "." } else { FOLDER };
    let text = read(&format!("{folder}/{file}"));
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
    code.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("//")).count()
}

#[test]
fn the_page_counts_what_runs_as_root_while_the_guest_runs() {
    let parts: Parts = toml::from_str(&read(SOURCE)).unwrap();
    let mut there = Vec::new();
    files(&top().join(FOLDER), &mut there);
    let own = |file: &&String| !OTHERS.iter().any(|folder| file.starts_with(folder));
    let mut named: Vec<&String> = parts.part.iter().flat_map(|p| &p.files).filter(own).collect();
    let mut there: Vec<&String> = there.iter().collect();
    named.sort();
    there.sort();
    assert_eq!(named, there, "{SOURCE} names each file of {FOLDER} once");
    // Rounded, so that not every change of the launcher changes the page.
    let rounded = |n: usize| n.div_ceil(50) * 50;
    let count = |part: &Part| part.files.iter().map(|f| lines(f)).sum::<usize>();
    let mut page = String::from("| files | lines of code | for |\n|---|---|---|\n");
    let after = || parts.part.iter().filter(|p| p.runs == Runs::After);
    for part in after() {
        let files = part.files.iter().map(|f| format!("`{f}`")).collect::<Vec<_>>().join(", ");
        writeln!(page, "| {files} | {} | {} |", rounded(count(part)), part.what).unwrap();
    }
    let (all, total) = (parts.part.iter().map(count).sum::<usize>(), after().map(count).sum::<usize>());
    writeln!(page, "| together, of {} | {} | |", rounded(all), rounded(total)).unwrap();
    page::compare("docs/threat-model.md", SOURCE, &page);
}
