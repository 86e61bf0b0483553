//! The only place that prints. What others say goes to a person's terminal only through [`shown`]; clippy refuses every other way.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the place")]
use crate::Done;
use bulkhead_bus::shown;
use serde_json::Value;
use std::fmt::{Display, Write as _};

/// Prints one line.
pub(crate) fn line(text: impl Display) {
    println!("{}", shown(&text.to_string()));
}

/// Prints the lines of a text.
pub(crate) fn lines(text: &str) {
    text.lines().for_each(line);
}

/// Prints the reason why the command fails.
pub(crate) fn error(text: impl Display) {
    eprintln!("bulkhead: {}", shown(&text.to_string()));
}

/// Prints a value as one line of JSON, for programs, in which nothing acts on a terminal either.
pub(crate) fn json(value: &Value) -> Done {
    println!("{}", plain_json(&value.to_string()));
    Ok(())
}

/// Clears a terminal.
pub(crate) fn clear() {
    print!("\x1b[H\x1b[2J");
}

/// JSON without characters that act on a terminal: they stand in strings alone, where an escape means the same.
fn plain_json(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1 {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_means_the_same_without_what_acts_on_a_terminal() {
        let value = serde_json::json!({ "a\u{9b}": "\x1b[2J\u{202e}\u{e0041} \"größer\" \\" });
        let plain = plain_json(&value.to_string());
        assert!(plain.chars().all(|c| !c.is_control() && c != '\u{202e}' && c != '\u{e0041}'), "{plain}");
        assert_eq!(serde_json::from_str::<Value>(&plain).unwrap(), value);
    }
}
