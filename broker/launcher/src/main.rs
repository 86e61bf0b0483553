//! `bulkhead-dm`.
use bulkhead_launcher::{argv, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    let parsed = match argv::parse(std::env::args().skip(1)) {
        Ok(parsed) => parsed,
        Err(e) => {
            eprintln!("bulkhead-dm: {e}");
            return ExitCode::from(2);
        }
    };
    for note in &parsed.notes {
        eprintln!("bulkhead-dm: {note}");
    }
    match run(parsed.machine) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bulkhead-dm: {e}");
            ExitCode::FAILURE
        }
    }
}
