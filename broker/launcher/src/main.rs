//! `bulkhead-dm`: a guest's device model, the first process of a stub domain, or what watches one from dom0.
use bulkhead_launcher::{argv, attach, run, stubdom};
use std::process::ExitCode;

fn main() -> ExitCode {
    if stubdom::is_here() {
        stubdom::run();
        return ExitCode::FAILURE;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = if attach::is_asked(&arguments) {
        attach::run(&arguments)
    } else {
        let parsed = match argv::parse(arguments) {
            Ok(parsed) => parsed,
            Err(e) => {
                eprintln!("bulkhead-dm: {e}");
                return ExitCode::from(2);
            }
        };
        for note in &parsed.notes {
            eprintln!("bulkhead-dm: {note}");
        }
        run(parsed.machine, None)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bulkhead-dm: {e}");
            ExitCode::FAILURE
        }
    }
}
