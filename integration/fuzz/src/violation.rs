//! One input in a process of its own, because a panic ends it. The child says what happened as one line of JSON.
use crate::targets::Entry;
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Exit status of a child that has found a violation.
const FOUND: i32 = 3;
/// Longest time of one input, in seconds.
const PATIENCE: &str = "20";
/// Exit status of timeout(1) if that is over.
const LATE: i32 = 124;

/// What an input violates.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Violation {
    /// The invariant, or the panic's text.
    pub says: String,
    /// The panic's place, or the kind of the record after which the invariant did not hold.
    pub place: String,
}

impl Violation {
    fn of(text: &str) -> Self {
        // A violation after a record begins with "record N, Kind: ".
        let after = text.strip_prefix("record ").and_then(|rest| rest.split_once(", "));
        match after.and_then(|(_, rest)| rest.split_once(": ")) {
            Some((kind, says)) => Self { says: says.into(), place: kind.into() },
            None => Self { says: text.into(), place: "end".into() },
        }
    }

    /// Whether it is the same violation at the same place: numbers may differ.
    pub fn same(&self, other: &Self) -> bool {
        self.key() == other.key()
    }

    /// What violations of one kind have in common: the place, and the text without its numbers and without what was compared.
    pub fn key(&self) -> String {
        let mut key = format!("{}: ", self.place);
        for c in self.says.chars().take_while(|c| *c != '{').take(160) {
            match c {
                '0'..='9' if key.ends_with('#') => {}
                '0'..='9' => key.push('#'),
                _ => key.push(c),
            }
        }
        key
    }
}

/// The child: runs the input and says what it violates.
pub fn child(entry: &Entry, input: &[u8]) -> i32 {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("a panic").to_owned();
        let place = info.location().map_or_else(String::new, |l| format!("{}:{}", l.file(), l.line()));
        say(&Violation { says: text, place });
        std::process::exit(FOUND);
    }));
    match entry.run(input) {
        Ok(()) => 0,
        Err(text) => {
            say(&Violation::of(&text));
            FOUND
        }
    }
}

fn say(violation: &Violation) {
    let line = serde_json::to_string(violation).unwrap_or_default();
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// What `input` violates, if it does.
///
/// # Errors
/// The child cannot be started, or has not ended as it should.
pub fn of(entry: &Entry, input: &[u8]) -> Result<Option<Violation>, String> {
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut child = Command::new("timeout")
        .args(["-k", "2", PATIENCE])
        .arg(me)
        .args(["try", entry.name, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("timeout: {e}"))?;
    if let Some(mut pipe) = child.stdin.take() {
        let _ = pipe.write_all(input);
    }
    let out = child.wait_with_output().map_err(|e| e.to_string())?;
    let line = out.stdout.split(|b| *b == b'\n').next_back_nonempty();
    match out.status.code() {
        Some(0) => Ok(None),
        Some(FOUND) => serde_json::from_slice(line).map(Some).map_err(|e| format!("the child's answer: {e}")),
        Some(LATE) => Ok(Some(Violation { says: "the run has no end".into(), place: format!("{PATIENCE} s") })),
        // The place keeps its number: another signal is another violation.
        _ => Ok(Some(Violation { says: "the process dies".into(), place: out.status.to_string() })),
    }
}

trait LastLine<'a> {
    fn next_back_nonempty(self) -> &'a [u8];
}
impl<'a, I: Iterator<Item = &'a [u8]>> LastLine<'a> for I {
    fn next_back_nonempty(self) -> &'a [u8] {
        self.filter(|line| !line.is_empty()).last().unwrap_or_default()
    }
}

/// The inputs of a directory, by name.
///
/// # Errors
/// It cannot be read.
pub fn inputs(directory: &Path) -> Result<Vec<(String, Vec<u8>)>, String> {
    let said = |e: std::io::Error| format!("{}: {e}", directory.display());
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(said)? {
        let path = entry.map_err(said)?.path();
        if path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            all.push((name, std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?));
        }
    }
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_do_not_make_another_violation_and_places_do() {
        let one = Violation::of("record 3, Write: it drives line 7, which it does not have");
        let other = Violation::of("record 41, Write: it drives line 12, which it does not have");
        assert!(one.same(&other));
        assert_eq!((one.place.as_str(), one.says.as_str()), ("Write", "it drives line 7, which it does not have"));
        assert!(!one.same(&Violation::of("record 3, Read: it drives line 7, which it does not have")));
        let panic = |line| Violation { says: "overflow".into(), place: format!("src/a.rs:{line}") };
        assert!(!panic(1).same(&panic(2)));
        let index = |n| Violation { says: format!("the len is 5 but the index is {n}"), place: "src/a.rs:7".into() };
        assert!(index(7).same(&index(19)));
        let restart = |n| {
            Violation::of(&format!(
                "record {n}, Read: after a restart the guest sees Seen {{ access: {n}, answer: [] }}"
            ))
        };
        assert_eq!(restart(3).key(), "Read: after a restart the guest sees Seen ");
        assert!(restart(3).same(&restart(4)));
    }
}
