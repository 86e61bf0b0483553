//! `integration/breakages/faults.tsv`: one-line faults, each with the test that catches it.
use super::sources::{Sources, read};

/// A line of the table.
pub struct Fault {
    /// Where the fault is put.
    pub file: String,
    /// What stands there.
    pub old: String,
    /// The test that fails then, as [`Sources`] names it.
    pub test: String,
}

/// All faults.
pub fn faults() -> Vec<Fault> {
    let table = read("integration/breakages/faults.tsv");
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let [file, old, _, package, test] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("not five columns: {line}")
            };
            Fault { file: file.into(), old: old.replace("\\n", "\n"), test: format!("{package}::{test}") }
        })
        .collect()
}

/// The campaign that tries the faults takes hours; this notices at once that a line has moved.
#[test]
fn every_fault_has_its_place_and_its_test() {
    let sources = Sources::parse();
    let faults = faults();
    assert!(faults.len() > 300, "{}", faults.len());
    let mut wrong = Vec::new();
    for Fault { file, old, test } in &faults {
        if !read(file).contains(old.as_str()) {
            wrong.push(format!("{file} does not contain {old:?}"));
        }
        if !sources.has_test(test) {
            wrong.push(format!("{file}, {old:?}: there is no test {test}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
