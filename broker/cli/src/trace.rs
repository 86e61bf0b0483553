//! `trace registers`: the guest's accesses to a device's registers, as they happen.
use crate::guest::Guest;
use crate::{Done, Failure};
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Writes the accesses to a device into a file until it is interrupted, or for `seconds`; with `only`, lines that contain it.
pub(crate) fn registers(guest: &Guest, device: &str, file: &Path, seconds: Option<u64>, only: Option<&str>) -> Done {
    let fail = |source| Failure::File { path: file.to_owned(), source };
    let mut out = std::fs::OpenOptions::new().write(true).create_new(true).open(file).map_err(fail)?;
    let until = seconds.and_then(|s| Instant::now().checked_add(Duration::from_secs(s)));
    // An answer may end in the middle of a line.
    let mut rest = String::new();
    loop {
        let end = until.is_some_and(|u| Instant::now() >= u);
        let answer = guest.ask("x-bulkhead-trace", &json!({ "device": device, "end": end }))?;
        rest.push_str(answer.get("lines").and_then(Value::as_str).unwrap_or_default());
        let whole = if end { rest.len() } else { rest.rfind('\n').map_or(0, |at| at.saturating_add(1)) };
        for line in rest.drain(..whole).collect::<String>().lines().filter(|l| only.is_none_or(|o| l.contains(o))) {
            writeln!(out, "{line}").map_err(fail)?;
        }
        if end {
            return Ok(());
        }
    }
}
