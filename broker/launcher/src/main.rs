//! `bulkhead-dm`: a guest's device model, the first process of a stub domain, or dom0's server of a domain's PV back ends.
use bulkhead_launcher::errors::Code;
use bulkhead_launcher::failure::Failure;
use bulkhead_launcher::{argv, attach, run, settings, stubdom};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    bulkhead_policy::end_on_panic();
    if stubdom::is_here() {
        stubdom::run();
        return ExitCode::FAILURE;
    }
    let tell = |line: &str| bulkhead_launcher::tell(line);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(question) = argv::question(&arguments) {
        let mut out = std::io::stdout();
        // The reader may close the pipe after the first line.
        let _ = out.write_all(question.answer().as_bytes()).and_then(|()| out.flush());
        return ExitCode::SUCCESS;
    }
    let settings = match settings::read(Path::new(settings::FILE)) {
        Ok(settings) => settings,
        Err(e) => {
            tell(&Failure::from(e).line(Code::Settings));
            return ExitCode::from(2);
        }
    };
    let all: Vec<String> = settings.into_iter().chain(arguments.iter().cloned()).collect();
    let qemu = if attach::is_asked(&arguments) { attach::qemus(&all) } else { None };
    let good = if let Some(qemu) = qemu {
        attach::run(qemu, &arguments).map_err(|e| tell(&e.to_string())).is_ok()
    } else {
        let parsed = match argv::parse(all) {
            Ok(parsed) => parsed,
            Err(e) => {
                tell(&Failure::from(e).line(Code::Argument));
                return ExitCode::from(2);
            }
        };
        run(parsed, None, tell)
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
