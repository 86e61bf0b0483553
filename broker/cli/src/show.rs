//! `inspect`, `logs`, `events` and `screenshot`: registers, log lines, events and the screen from a guest's device model.
use crate::guest::Guest;
use crate::{Done, Failure, out};
use base64::Engine as _;
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

/// Interval between two queries for new log lines or events.
const AGAIN: Duration = Duration::from_millis(500);

/// Prints a device's registers and counters, one per line.
pub(crate) fn inspect(guest: &Guest, device: &str, json: bool) -> Done {
    let answer = guest.ask("x-bulkhead-inspect", &json!({ "device": device }))?;
    if json {
        return out::json(&answer);
    }
    for (title, key) in [("registers", "registers"), ("since its process started", "statistics")] {
        let items = answer.get(key).and_then(Value::as_object);
        let width = items.into_iter().flatten().map(|(name, _)| name.len()).max().unwrap_or(0);
        out::line(format_args!("{title}:"));
        for (name, value) in items.into_iter().flatten() {
            out::line(format_args!("  {name:<width$}  {}", value.as_str().map_or(value.to_string(), str::to_owned)));
        }
    }
    Ok(())
}

/// Prints whether the guest can be saved and moved now, and the sizes of its state's parts.
pub(crate) fn migratable(guest: &Guest, json: bool) -> Done {
    let answer = guest.ask("x-bulkhead-migratable", &json!({}))?;
    if json {
        out::json(&answer)?;
    } else {
        let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default();
        let number = |of: &Value| of.get("bytes").and_then(Value::as_u64).unwrap_or(0);
        for (what, can, why) in [("saved", "save", "not-saved-because"), ("moved", "migrate", "not-migrated-because")] {
            let can = answer.get(can).and_then(Value::as_bool).unwrap_or(false);
            let why = if can { "yes".to_owned() } else { format!("no: {}", text(why)) };
            out::line(format_args!("can be {what}: {why}"));
        }
        out::line(format_args!(
            "state: {} bytes, read by release {} and later",
            number(&answer),
            text("oldest-reader")
        ));
        for section in answer.get("sections").and_then(Value::as_array).into_iter().flatten() {
            let name = section.get("name").and_then(Value::as_str).unwrap_or_default();
            out::line(format_args!("  {name:<12} {:>8}", number(section)));
        }
    }
    let can = answer.get("migrate").and_then(Value::as_bool).unwrap_or(false);
    if can { Ok(()) } else { Err(Failure::Wrong) }
}

/// Prints the lines of the guest's log that control keeps, and new ones with `follow`.
pub(crate) fn logs(guest: &Guest, follow: bool, json: bool) -> Done {
    let mut last: Vec<String> = Vec::new();
    loop {
        let answer = match guest.ask("x-bulkhead-logs", &json!({ "lines": 2000 })) {
            Ok(answer) => answer,
            Err(Failure::Unreachable(_)) if !last.is_empty() && !guest.is_there() => return Ok(()),
            // Another client has the stub domain's only connection.
            Err(Failure::Unreachable(_)) if !last.is_empty() => {
                std::thread::sleep(AGAIN);
                continue;
            }
            Err(e) => return Err(e),
        };
        if json && !follow {
            return out::json(&answer);
        }
        let lines: Vec<String> =
            answer.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        for line in lines.iter().skip(known(&last, &lines)) {
            if json { out::json(&Value::from(line.as_str()))? } else { out::line(line) }
        }
        let _ = std::io::stdout().flush();
        if !follow {
            return Ok(());
        }
        last = lines;
        std::thread::sleep(AGAIN);
    }
}

/// The number of first lines of `new` that are the last lines of `old`.
fn known(old: &[String], new: &[String]) -> usize {
    (0..=old.len())
        .find_map(|from| {
            let tail = old.get(from..).unwrap_or_default();
            new.starts_with(tail).then_some(tail.len())
        })
        .unwrap_or(0)
}

/// Prints the events of the guest's devices, one per line, until its QMP socket disappears.
pub(crate) fn events(guest: &Guest) -> Done {
    let mut after = 0;
    let mut known = false;
    loop {
        let answer = match guest.ask("x-bulkhead-events", &json!({ "after": after })) {
            Ok(answer) => answer,
            Err(e) if !known => return Err(e),
            Err(_) if !guest.is_there() => return Ok(()),
            // Another client has the connection.
            Err(_) => {
                std::thread::sleep(AGAIN);
                continue;
            }
        };
        known = true;
        for event in answer.get("events").and_then(Value::as_array).into_iter().flatten() {
            out::json(event)?;
        }
        let _ = std::io::stdout().flush();
        after = answer.get("last").and_then(Value::as_u64).unwrap_or(after);
        std::thread::sleep(AGAIN);
    }
}

/// Writes the guest's screen into a file on this host, also if the device model runs in a stub domain.
pub(crate) fn screenshot(guest: &Guest, file: &Path) -> Done {
    let answer = guest.ask("x-bulkhead-screenshot", &json!({}))?;
    let text =
        answer.get("png").and_then(Value::as_str).ok_or_else(|| Failure::NoPicture { guest: guest.name.clone() })?;
    let png = base64::prelude::BASE64_STANDARD.decode(text).map_err(|e| guest.bad_answer("the picture", e))?;
    let new = std::fs::OpenOptions::new().write(true).create_new(true).open(file);
    new.and_then(|mut f| f.write_all(&png)).map_err(|source| Failure::File { path: file.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::known;

    #[test]
    fn lines_that_were_printed_are_not_printed_again() {
        let lines = |text: &str| text.chars().map(|c| c.to_string()).collect::<Vec<_>>();
        for (old, new, want) in [
            ("", "abc", 0),
            ("abc", "abc", 3),
            ("abc", "abcd", 3),
            ("abc", "bcde", 2),
            ("abc", "xyz", 0),
            ("aaa", "aaab", 3),
        ] {
            assert_eq!(known(&lines(old), &lines(new)), want, "{old} {new}");
        }
    }
}
