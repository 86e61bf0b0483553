//! `compat`: how an argument vector from libxl is handled.
use crate::{Done, Failure, out};
use bulkhead_launcher::argv;
use serde_json::json;

/// Prints for each option how it is handled, and whether the launcher accepts the arguments.
pub(crate) fn run(arguments: &[String], json: bool) -> Done {
    // In a log, the first word is the program.
    let arguments: Vec<String> =
        arguments.iter().skip(usize::from(arguments.first().is_some_and(|a| !a.starts_with('-')))).cloned().collect();
    let verdicts = argv::verdicts(&arguments);
    let parsed = argv::parse(arguments).map(|_| ()).map_err(|e| e.to_string());
    if json {
        let options: Vec<_> =
            verdicts.iter().map(|v| json!({ "option": v.shown, "fate": v.fate.0, "why": v.fate.1 })).collect();
        out::json(&json!({ "options": options, "starts": parsed.is_ok(), "error": parsed.as_ref().err() }))?;
    } else {
        for verdict in &verdicts {
            out::line(format_args!("{:<11} {}", verdict.fate.0, verdict.shown));
            out::line(format_args!("            {}", verdict.fate.1));
        }
        match &parsed {
            Ok(()) => out::line("the launcher accepts these arguments"),
            Err(e) => out::line(format_args!("the launcher refuses these arguments: {e}")),
        }
    }
    parsed.map_err(|_| Failure::Wrong)
}
