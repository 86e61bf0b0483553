//! Network cards of a running guest.
use crate::qmp::{exchange, returned};
use base64::Engine as _;
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};

/// Bytes of pcap's file header.
const HEADER: usize = 24;

/// Prints every card: its link, its filter, what was dropped by which rule and where.
pub(crate) fn show(guest: &str) -> Result<(), String> {
    let answer = exchange(guest, r#"{"execute":"x-bulkhead-net-show"}"#)?;
    for card in returned(&answer)?.as_array().into_iter().flatten() {
        let text = |key: &str| card.get(key).and_then(Value::as_str).unwrap_or("?").to_owned();
        let link = if card.get("link").and_then(Value::as_bool).unwrap_or(false) { "up" } else { "down" };
        println!("{} {} {} link {link}, filter {}", text("device"), text("model"), text("mac"), text("filter"));
        for (place, key) in [("process", "dropped-in-process"), ("interface", "dropped-on-interface")] {
            for (rule, count) in card.get(key).and_then(Value::as_object).into_iter().flatten() {
                if place == "interface" || count != &json!(0) {
                    println!("    {place}: {rule}: {count} dropped");
                }
            }
        }
    }
    Ok(())
}

/// Changes a card's settings.
pub(crate) fn set(guest: &str, device: &str, words: &[&str]) -> Result<(), String> {
    let command = json!({ "execute": "x-bulkhead-net-set", "arguments": { "device": device, "set": words } });
    returned(&exchange(guest, &command.to_string())?).map(|_| ())
}

/// Writes a card's frames into a pcap file until it is interrupted, or for so many seconds.
pub(crate) fn trace(guest: &str, device: &str, file: &str, seconds: Option<u64>) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("{file}: {e}");
    let mut out = std::fs::OpenOptions::new().write(true).create_new(true).open(file).map_err(fail)?;
    let until = seconds.and_then(|s| Instant::now().checked_add(Duration::from_secs(s)));
    let mut first = true;
    loop {
        let end = until.is_some_and(|u| Instant::now() >= u);
        let command = json!({ "execute": "x-bulkhead-capture", "arguments": { "device": device, "end": end } });
        let answer = exchange(guest, &command.to_string())?;
        let answer = returned(&answer)?;
        let text = answer.get("pcap").and_then(Value::as_str).unwrap_or_default();
        let bytes = base64::prelude::BASE64_STANDARD.decode(text).map_err(|e| format!("{guest}: the frames: {e}"))?;
        // A process that was started again begins a file of its own.
        let again = answer.get("begun").and_then(Value::as_bool).unwrap_or(false) && !first;
        let bytes = bytes.get(if again { HEADER.min(bytes.len()) } else { 0 }..).unwrap_or_default();
        out.write_all(bytes).map_err(fail)?;
        first = false;
        if end {
            return Ok(());
        }
    }
}
