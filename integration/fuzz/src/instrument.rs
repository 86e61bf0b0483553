//! Instrumentation by crates. This program stands before the compiler (cargo's `RUSTC_WRAPPER`) and adds to each crate what libFuzzer is to
//! see of it: counters and comparisons of the harness and of libraries took two thirds of a run.
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Set for cargo: this program is to compile.
pub const COMPILES: &str = "BULKHEAD_FUZZ_COMPILES";

/// Counters of edges and their places. All of these are stable.
const EDGES: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
];
/// The operands of comparisons, beside.
const COMPARISONS: &str = "-Cllvm-args=-sanitizer-coverage-trace-compares";

/// What libFuzzer sees of a crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    Edges,
    Comparisons,
}

/// Of this project all, and of libraries those that read what is hostile. Comparisons are for parsers of text and of formats: what means
/// something to a device is in its dictionary, and edges alone cover as much of it in less time (decision 35).
fn seen(krate: &str) -> Seen {
    match krate {
        "bulkhead_fuzz_targets" | "bulkhead_runtime" | "bulkhead_policy" => Seen::Nothing,
        "bulkhead_bus" | "serde_json" => Seen::Edges,
        "imago" => Seen::Comparisons,
        _ if krate.starts_with("bulkhead_dev_") => Seen::Edges,
        _ if krate.starts_with("bulkhead_") => Seen::Comparisons,
        _ => Seen::Nothing,
    }
}

/// Another number when the instrumentation is another one: cargo then builds everything anew.
pub fn version() -> u64 {
    let mut hasher = DefaultHasher::new();
    include_str!("instrument.rs").hash(&mut hasher);
    hasher.finish()
}

/// Becomes the compiler that cargo has named. Returns why it cannot.
pub fn compile() -> std::io::Error {
    let mut arguments = std::env::args_os().skip(1);
    let Some(compiler) = arguments.next() else { return std::io::ErrorKind::InvalidInput.into() };
    let arguments: Vec<_> = arguments.collect();
    let after = |option: &str| {
        let at = arguments.iter().position(|a| a == option)?;
        arguments.get(at.checked_add(1)?)?.to_str()
    };
    // What runs while cargo builds has no target.
    let krate = after("--target").and_then(|_| after("--crate-name")).unwrap_or_default();
    let (edges, more) = match seen(krate) {
        Seen::Nothing => (&[][..], None),
        Seen::Edges => (EDGES, None),
        Seen::Comparisons => (EDGES, Some(COMPARISONS)),
    };
    Command::new(compiler).args(&arguments).args(edges).args(more).exec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_for_faults_in_is_seen() {
        assert_eq!([seen("bulkhead_dev_net"), seen("bulkhead_bus")], [Seen::Edges; 2]);
        assert_eq!([seen("bulkhead_ring"), seen("imago")], [Seen::Comparisons; 2]);
        assert_eq!([seen("prost"), seen("build_script_build"), seen("bulkhead_fuzz_targets")], [Seen::Nothing; 3]);
    }
}
