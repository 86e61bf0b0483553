//! `net` and `trace net`: network cards of a running guest.
use crate::guest::Guest;
use crate::{Done, Failure, out};
use base64::Engine as _;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of pcap's file header.
const HEADER: usize = 24;

/// Prints every card: its link, its filter, and the frames dropped by each rule in the process and on the interface.
pub(crate) fn show(guest: &Guest, json: bool) -> Done {
    let answer = guest.ask("x-bulkhead-net-show", &json!({}))?;
    if json {
        return out::json(&answer);
    }
    for card in answer.as_array().into_iter().flatten() {
        let text = |key: &str| card.get(key).and_then(Value::as_str).unwrap_or("?").to_owned();
        let link = if card.get("link").and_then(Value::as_bool).unwrap_or(false) { "up" } else { "down" };
        out::line(format_args!(
            "{} {} {} link {link}, filter {}",
            text("device"),
            text("model"),
            text("mac"),
            text("filter")
        ));
        for (place, key) in [("process", "dropped-in-process"), ("interface", "dropped-on-interface")] {
            for (rule, count) in card.get(key).and_then(Value::as_object).into_iter().flatten() {
                if place == "interface" || count != &json!(0) {
                    out::line(format_args!("    {place}: {rule}: {count} dropped"));
                }
            }
        }
    }
    Ok(())
}

/// Changes a card's settings.
pub(crate) fn set(guest: &Guest, device: &str, words: &[String]) -> Done {
    guest.ask("x-bulkhead-net-set", &json!({ "device": device, "set": words })).map(|_| ())
}

/// Writes a card's frames into a pcap file until it is interrupted, or for `seconds`.
pub(crate) fn trace(guest: &Guest, device: &str, file: &Path, seconds: Option<u64>) -> Done {
    let fail = |source| Failure::File { path: file.to_owned(), source };
    let mut out = std::fs::OpenOptions::new().write(true).create_new(true).open(file).map_err(fail)?;
    let until = seconds.and_then(|s| Instant::now().checked_add(Duration::from_secs(s)));
    let mut first = true;
    loop {
        let end = until.is_some_and(|u| Instant::now() >= u);
        let answer = guest.ask("x-bulkhead-capture", &json!({ "device": device, "end": end }))?;
        let text = answer.get("pcap").and_then(Value::as_str).unwrap_or_default();
        let bytes = base64::prelude::BASE64_STANDARD.decode(text).map_err(|e| guest.bad_answer("the frames", e))?;
        // A restarted process begins with a new pcap header, which is skipped.
        let again = answer.get("begun").and_then(Value::as_bool).unwrap_or(false) && !first;
        let bytes = bytes.get(if again { HEADER.min(bytes.len()) } else { 0 }..).unwrap_or_default();
        out.write_all(bytes).map_err(fail)?;
        first = false;
        if end {
            return Ok(());
        }
    }
}
