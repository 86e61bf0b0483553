//! `bulkhead-dm`: a guest's device model, the first process of a stub domain, or what watches one from dom0.
use bulkhead_launcher::{argv, attach, run, stubdom};
use std::process::ExitCode;

fn main() -> ExitCode {
    if stubdom::is_here() {
        stubdom::run();
        return ExitCode::FAILURE;
    }
    let tell = |line: &str| eprintln!("bulkhead-dm: {line}");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let good = if attach::is_asked(&arguments) {
        attach::run(&arguments).map_err(|e| tell(&e)).is_ok()
    } else {
        let parsed = match argv::parse(arguments) {
            Ok(parsed) => parsed,
            Err(e) => {
                tell(&e.to_string());
                return ExitCode::from(2);
            }
        };
        for note in &parsed.notes {
            tell(note);
        }
        run(parsed.machine, None, tell)
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
