//! What every role can take by itself, on this machine. On real Xen the bed's tests consume_* measure it, and the rest with it
//! (integration/tests/bed/consume.sh).
use bulkhead_breakout::consumption::{RESOURCES, Resource};
use bulkhead_policy::PROFILES;
use std::process::Command;

#[test]
fn no_role_takes_more_than_its_bound_and_without_the_sandbox_every_attempt_does() {
    let out =
        Command::new(env!("CARGO_BIN_EXE_bulkhead-bed")).args(["consume", "alone", "dom0", "0"]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    // Each cell is there, and not only those that were thought of.
    let here = |resource| resource <= Resource::Disk;
    for (_, name) in RESOURCES.iter().filter(|(resource, _)| here(*resource)) {
        for profile in PROFILES {
            let cell = format!("cell {} | {name} | ", profile.role);
            assert_eq!(text.lines().filter(|l| l.starts_with(&cell)).count(), 1, "{cell}");
        }
    }
    // Of memory there are no control runs where it is short; of the rest there are.
    let runs = text.lines().filter(|l| l.starts_with("control run: ")).count();
    assert!(runs >= 10, "{runs} control runs: {text}");
}
