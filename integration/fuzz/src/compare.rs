//! Runs a script on one machine and compares with the recorded answers, or on two and names the first difference that nobody has argued.
use crate::export::{Line, Lines};
use crate::qtest::{Peer, Reply};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Interrupts of the PIT and of the real-time clock: under Xen they are the hypervisor's.
const CLOCKS: [u32; 2] = [0, 8];

/// A difference that was looked at.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Argued {
    /// The target.
    pub target: String,
    /// The beginning of the place, such as `read of STATUS`.
    pub place: String,
    /// Bits of the answer that may differ; 0, if it is not there.
    #[serde(default)]
    pub mask: u64,
    /// Interrupts may differ.
    #[serde(default)]
    pub interrupts: bool,
    /// What is right, and why both are as they are.
    pub reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    difference: Vec<Argued>,
}

/// The reviewed table of differences.
///
/// # Errors
/// It is no such table, or an entry has no reason.
pub fn table() -> Result<Vec<Argued>, String> {
    let table: Table = toml::from_str(include_str!("../differences.toml")).map_err(|e| e.to_string())?;
    match table.difference.iter().find(|d| d.reason.len() < 20 || crate::targets::find(&d.target).is_err()) {
        Some(bad) => Err(format!("differences.toml: {} {}: no reason, or no such target", bad.target, bad.place)),
        None => Ok(table.difference),
    }
}

/// What a comparison comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both answer alike, but for so many argued differences.
    Alike(usize),
    /// The first difference: line, place, and both answers.
    Differs(String),
}

/// What of two replies differs.
fn differs(one: &Reply, other: &Reply) -> Option<String> {
    if one.text != other.text && (one.number().is_none() || one.number() != other.number()) {
        return Some(format!("{} / {}", short(&one.text), short(&other.text)));
    }
    (lines(one) != lines(other)).then(|| format!("interrupts {:?} / {:?}", one.interrupts, other.interrupts))
}

/// The first place at which two hexadecimal texts differ, or their beginnings.
fn short(text: &str) -> String {
    if text.len() <= 40 { text.to_owned() } else { format!("{}…", text.get(..40).unwrap_or(text)) }
}

/// The interrupts of a reply: where each line ends. Of a line that moves several times within one access, the end counts.
fn lines(reply: &Reply) -> BTreeMap<u32, bool> {
    reply.interrupts.iter().copied().filter(|(n, _)| !CLOCKS.contains(n)).collect()
}

fn argued(table: &[Argued], target: &str, place: &str, one: &Reply, other: &Reply) -> bool {
    let bits = match one.number().zip(other.number()) {
        Some((one, other)) => one ^ other,
        None if one.text == other.text => 0,
        None => return false,
    };
    let moved = lines(one) != lines(other);
    let mine = table.iter().filter(|a| a.target == target && place.starts_with(&a.place));
    // Several entries of one place add up.
    let (mask, may_move) = mine.fold((0, false), |(mask, may), a| (mask | a.mask, may | a.interrupts));
    bits & !mask == 0 && (!moved || may_move)
}

/// Runs `script` on both machines.
///
/// # Errors
/// A program ends.
pub fn two(script: &Lines, one: &mut Peer, other: &mut Peer, table: &[Argued]) -> Result<Verdict, String> {
    let mut known = 0usize;
    for (n, line) in script.lines.iter().enumerate() {
        let (first, second) = (one.say(&line.text)?, other.say(&line.text)?);
        // Both clocks say their own time.
        let plain = |reply: Reply| {
            if line.text.starts_with("clock_step") { Reply { text: "OK".into(), ..reply } } else { reply }
        };
        let (first, second) = (plain(first), plain(second));
        if let Some(what) = differs(&first, &second) {
            if !argued(table, &script.target, &line.place, &first, &second) {
                return Ok(Verdict::Differs(format!("line {n}, {}, {}: {what}", line.text, line.place)));
            }
            known = known.saturating_add(1);
        }
    }
    Ok(Verdict::Alike(known))
}

/// Runs `script` on one machine and compares with the answers of the device alone.
///
/// # Errors
/// The program ends.
pub fn replay(script: &Lines, peer: &mut Peer) -> Result<Verdict, String> {
    let mut levels = BTreeMap::new();
    for (n, line) in script.lines.iter().enumerate() {
        let reply = peer.say(&line.text)?;
        levels.extend(reply.interrupts.iter().copied());
        if let Some(what) = unexpected(line, &reply, &levels) {
            return Ok(Verdict::Differs(format!("line {n}, {}, {}: {what}", line.text, line.place)));
        }
    }
    Ok(Verdict::Alike(0))
}

/// What of a reply is not as the device alone has answered.
fn unexpected(line: &Line, reply: &Reply, levels: &BTreeMap<u32, bool>) -> Option<String> {
    let Some(answer) = reply.text.strip_prefix("OK") else { return Some(reply.text.clone()) };
    if let Some(expected) = &line.expected {
        let digits = |text: &str| text.trim().trim_start_matches("0x").trim_start_matches('0').to_owned();
        if digits(answer) != digits(expected) {
            return Some(format!("OK 0x{} / {}", short(expected), short(&reply.text)));
        }
    }
    let wrong = line.levels.iter().find(|(n, up)| levels.get(n).copied().unwrap_or(false) != *up);
    wrong.map(|(n, up)| format!("interrupt {n} should be {}", if *up { "up" } else { "down" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str, interrupts: &[(u32, bool)]) -> Reply {
        Reply { text: text.into(), interrupts: interrupts.to_vec() }
    }

    #[test]
    fn numbers_are_compared_by_value_and_lines_by_where_they_end() {
        assert_eq!(differs(&reply("OK 0x00ff", &[]), &reply("OK 0xff", &[])), None);
        assert!(differs(&reply("OK 0x00ff", &[]), &reply("OK 0xfe", &[])).is_some());
        assert!(differs(&reply("OK", &[]), &reply("FAIL", &[])).is_some());
        assert_eq!(differs(&reply("OK", &[(4, true), (4, false)]), &reply("OK", &[(4, false)])), None);
        assert!(differs(&reply("OK", &[(4, true)]), &reply("OK", &[])).is_some());
    }

    #[test]
    fn only_the_bits_of_an_argued_difference_may_differ() {
        let entry = |place: &str, mask, interrupts| Argued {
            target: "ide".into(),
            place: place.into(),
            mask,
            interrupts,
            reason: String::new(),
        };
        let table = [entry("read of STATUS", 0x10, false), entry("write to CONTROL", 0, true)];
        let known =
            |target: &str, place: &str, a: &str, b: &str| argued(&table, target, place, &reply(a, &[]), &reply(b, &[]));
        assert!(known("ide", "read of STATUS (7.15)", "OK 0x50", "OK 0x40"));
        assert!(!known("ide", "read of STATUS (7.15)", "OK 0x51", "OK 0x40"));
        assert!(!known("ide", "read of ERROR (7.9)", "OK 0x50", "OK 0x40"));
        assert!(!known("usb", "read of STATUS (7.15)", "OK 0x50", "OK 0x40"));
        assert!(!known("ide", "read of STATUS (7.15)", "OK", "FAIL"));
        let moved = |place: &str| argued(&table, "ide", place, &reply("OK", &[(14, true)]), &reply("OK", &[]));
        assert!(moved("write to CONTROL (5.1)") && !moved("write to COMMAND (7.1)"));
        let answer =
            |other: &str| argued(&table, "ide", "write to CONTROL (5.1)", &reply("OK", &[]), &reply(other, &[]));
        assert!(answer("OK") && !answer("FAIL"));
    }

    #[test]
    fn a_replay_compares_numbers_memory_and_levels() {
        let line = |expected: &str, levels: &[(u32, bool)]| Line {
            text: String::new(),
            expected: Some(expected.into()),
            levels: levels.to_vec(),
            place: String::new(),
        };
        let says = |line: &Line, text: &str, up: bool| unexpected(line, &reply(text, &[]), &BTreeMap::from([(4, up)]));
        assert_eq!(says(&line("5f", &[(4, true)]), "OK 0x005f", true), None);
        assert!(says(&line("5f", &[]), "OK 0x5e", true).is_some());
        assert!(says(&line("5f", &[(4, true)]), "OK 0x5f", false).is_some());
        assert!(says(&line("5f", &[(9, true)]), "OK 0x5f", true).is_some(), "an interrupt that never came");
        let memory = "07".repeat(40);
        assert_eq!(says(&line(&memory, &[]), &format!("OK 0x{memory}"), true), None);
        assert!(says(&line(&memory, &[]), &format!("OK 0x{}06", &memory[2..]), true).is_some());
        assert!(says(&line("0", &[]), "FAIL", true).is_some());
    }

    #[test]
    fn every_argued_difference_has_a_reason_and_a_target() {
        assert!(table().is_ok(), "{:?}", table().err());
    }
}
