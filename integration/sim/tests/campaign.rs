//! A short run of the campaign of faults; `integration/campaign faults` runs the long one.
use std::process::Command;

/// Every fault comes to a row of the failure table of docs/architecture.md, and no write that the guest was told is done is lost.
#[test]
fn random_faults_come_to_rows_of_the_failure_table_and_lose_no_write() {
    let out =
        Command::new(env!("CARGO_BIN_EXE_bulkhead-faults")).args(["--seed", "20", "--count", "25"]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    assert!(said.contains("25 faults, 0 not as the table says"), "{said}");
}
