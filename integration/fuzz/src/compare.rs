//! Runs a script on one machine and compares with the recorded answers, or on two and names the first difference that nobody has argued.
use crate::export::{Line, Lines};
use crate::qtest::{Peer, Reply};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

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
    /// Only if this is Bulkhead's answer.
    #[serde(default)]
    pub ours: Option<u64>,
    /// Only if one of these lines was said, or begins so.
    #[serde(default)]
    pub lines: Vec<String>,
    /// Only if Bulkhead's machine answers to this line, which changes nothing, with these bits (mask) of these values.
    #[serde(default)]
    pub when: Option<(String, u64, u64)>,
    /// The interrupts that may differ.
    #[serde(default)]
    pub interrupts: Vec<u32>,
    /// What follows from it would differ too: the script is not compared any further.
    #[serde(default)]
    pub ends: bool,
    /// What is right, and why both are as they are.
    pub reason: String,
}

/// What a driver does around an access, said to both machines: it reads a status until some bits are clear. Without it a script asks what
/// depends on when a machine does its work, or what no driver leaves unread.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Habit {
    /// The target.
    pub target: String,
    /// The beginning of the place of the access.
    pub place: String,
    /// Before the access, or after it.
    pub before: bool,
    /// The line that reads the status.
    pub status: String,
    /// Its bits that must be clear.
    pub bits: u64,
    /// The line that is said while they are set, and whose answers are compared. Without it the status is only read again.
    pub then: Option<String>,
    /// Why a driver does so.
    pub reason: String,
}

/// Where a comparison ends, because all that follows would differ.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// The target.
    pub target: String,
    /// The beginnings of the lines after which it ends.
    pub lines: Vec<String>,
    /// Only if Bulkhead's machine then answers to this line, which changes nothing, with these bits (mask) of these values.
    pub when: Option<(String, u64, u64)>,
    /// Why all that follows would differ.
    pub reason: String,
}

/// In which steps time passes for a device that does its work in batches.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// The target.
    pub target: String,
    /// Nanoseconds of a batch; times are rounded up to whole ones.
    pub time: u64,
    /// Why.
    pub reason: String,
}

/// What is known of differences.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Those that were looked at.
    #[serde(default)]
    pub difference: Vec<Argued>,
    /// What drivers do.
    #[serde(default)]
    pub habit: Vec<Habit>,
    /// Where comparisons end.
    #[serde(default)]
    pub end: Vec<End>,
    /// How time passes.
    #[serde(default)]
    pub batch: Vec<Batch>,
}

/// The reviewed table of differences, or another one.
///
/// # Errors
/// It cannot be read, is no such table, or an entry has no reason.
pub fn table(file: Option<&std::path::Path>) -> Result<Table, String> {
    let text = match file {
        Some(file) => std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?,
        None => include_str!("../differences.toml").to_owned(),
    };
    let table: Table = toml::from_str(&text).map_err(|e| e.to_string())?;
    let differences = table.difference.iter().map(|d| (&d.target, &d.reason));
    let habits = table.habit.iter().map(|h| (&h.target, &h.reason));
    let ends = table.end.iter().map(|e| (&e.target, &e.reason));
    let mut all = differences.chain(habits).chain(ends).chain(table.batch.iter().map(|b| (&b.target, &b.reason)));
    match all.find(|(target, reason)| reason.len() < 20 || crate::targets::find(target).is_err()) {
        Some((target, reason)) => Err(format!("{target}: there is no such target, or {reason:?} is no reason")),
        None => Ok(table),
    }
}

/// Where two machines, or a machine and a record, differ first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The line's number, from 0.
    pub line: usize,
    /// The line.
    pub text: String,
    /// The line's place.
    pub place: String,
    /// Both answers.
    pub what: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { line, text, place, what } = self;
        let text = text.get(..60).unwrap_or(text);
        write!(f, "line {line}, {text}, {place}: {what}")
    }
}

/// What a comparison comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both answer alike, but for so many argued differences.
    Alike(usize),
    /// The first difference.
    Differs(Difference),
}

/// What of two answers differs.
fn differs(one: &str, other: &str) -> Option<String> {
    if one == other || (number(one).is_some() && number(one) == number(other)) {
        return None;
    }
    let at = one.bytes().zip(other.bytes()).position(|(a, b)| a != b).unwrap_or(0);
    // Memory: `OK 0x`, and two digits for each byte.
    match (number(one), at.checked_sub(5)) {
        (None, Some(digits)) if one.len() == other.len() => {
            let byte = digits >> 1;
            let from = at.saturating_sub(digits & 1);
            let of = |text: &str| text.get(from..).unwrap_or_default().chars().take(16).collect::<String>();
            Some(format!("from byte {byte:#x} on {}… / {}…", of(one), of(other)))
        }
        _ => Some(format!("{} / {}", short(one), short(other))),
    }
}

/// The number of an answer `OK 0x…`.
fn number(text: &str) -> Option<u64> {
    // More digits are memory.
    let digits = text.strip_prefix("OK 0x").filter(|digits| digits.len() <= 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// The beginning of a long answer.
fn short(text: &str) -> String {
    if text.len() <= 40 { text.to_owned() } else { format!("{}…", text.get(..40).unwrap_or(text)) }
}

/// Whether some of `entries` argue a difference, and if so, whether the comparison ends with it.
fn argued(entries: &[&Argued], one: &str, other: &str, moved: &BTreeSet<u32>) -> Option<bool> {
    let bits = match number(one).zip(number(other)) {
        Some((one, other)) => one ^ other,
        None if one == other => 0,
        None => return None,
    };
    // Several entries of one place add up. The end is for those that are needed.
    [false, true].into_iter().find(|ending| {
        let some = entries.iter().filter(|a| *ending || !a.ends);
        let mask = some.clone().fold(0, |mask, a| mask | a.mask);
        bits & !mask == 0 && moved.iter().all(|n| some.clone().any(|a| a.interrupts.contains(n)))
    })
}

/// Most times that a status is read until its bits are clear: a disk of the other machine takes some milliseconds.
const PATIENCE: usize = 20_000;
/// After so many reads of the same busy status at both, they wait for the driver.
const WAITING: usize = 500;

/// Two machines that are told the same.
struct Pair<'a> {
    peers: [&'a mut Peer; 2],
    table: &'a Table,
    target: &'a str,
    /// The interrupts' levels at each.
    levels: [BTreeMap<u32, bool>; 2],
    /// The interrupts that have another level at the other.
    apart: BTreeSet<u32>,
    /// Number of argued differences.
    known: usize,
    /// One of them ends the comparison.
    ended: bool,
}

impl<'a> Pair<'a> {
    /// Says a line to both; the answers.
    fn say(&mut self, text: &str) -> Result<[String; 2], String> {
        let mut answers = [String::new(), String::new()];
        for (n, answer) in answers.iter_mut().enumerate() {
            *answer = self.tell(n, text)?;
            // Each clock says its own time.
            if text.starts_with("clock_step") && answer.starts_with("OK") {
                *answer = "OK".into();
            }
        }
        Ok(answers)
    }

    /// Says a line to one.
    fn tell(&mut self, which: usize, text: &str) -> Result<String, String> {
        let (Some(peer), Some(levels)) = (self.peers.get_mut(which), self.levels.get_mut(which)) else {
            return Err("there are two machines".into());
        };
        let reply = peer.say(text)?;
        levels.extend(reply.interrupts.into_iter().filter(|(n, _)| !CLOCKS.contains(n)));
        Ok(reply.text)
    }

    /// The interrupts that have come apart since it was asked before, and their levels.
    fn moved(&mut self) -> (BTreeSet<u32>, Option<String>) {
        let [one, other] = &self.levels;
        let up = |levels: &BTreeMap<u32, bool>, n: u32| levels.get(&n).copied().unwrap_or(false);
        let apart: BTreeSet<u32> =
            one.keys().chain(other.keys()).copied().filter(|n| up(one, *n) != up(other, *n)).collect();
        let new: BTreeSet<u32> = apart.difference(&self.apart).copied().collect();
        let words: Vec<String> = new
            .iter()
            .map(|n| format!("interrupt {n} is {}", if up(one, *n) { "up / down" } else { "down / up" }))
            .collect();
        self.apart = apart;
        (new, (!words.is_empty()).then(|| words.join(", ")))
    }

    /// The entries of the table for a line's answer.
    fn entries(&mut self, place: &str, text: &str, one: &str) -> Result<Vec<&'a Argued>, String> {
        let mut entries = Vec::new();
        let (table, target) = (self.table, self.target);
        for entry in table.difference.iter().filter(|a| a.target == target && place.starts_with(&a.place)) {
            let line = entry.lines.is_empty() || entry.lines.iter().any(|line| text.starts_with(line));
            let answer = entry.ours.is_none_or(|ours| number(one) == Some(ours));
            if line && answer && self.is(entry.when.as_ref())? {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    /// Whether Bulkhead's machine is in a state.
    fn is(&mut self, state: Option<&(String, u64, u64)>) -> Result<bool, String> {
        let Some((read, mask, value)) = state else { return Ok(true) };
        Ok(number(&self.tell(0, read)?).is_some_and(|n| n & mask == *value))
    }

    /// Whether the comparison ends with a line.
    fn ends(&mut self, text: &str) -> Result<bool, String> {
        let (table, target) = (self.table, self.target);
        for end in table.end.iter().filter(|e| e.target == target) {
            if end.lines.iter().any(|line| text.starts_with(line)) && self.is(end.when.as_ref())? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether what both say is alike or argued; otherwise what differs.
    fn compare(&mut self, place: &str, text: &str, [one, other]: &[String; 2]) -> Result<Option<String>, String> {
        let (what, (numbers, moved)) = (differs(one, other), self.moved());
        if what.is_none() && moved.is_none() {
            return Ok(None);
        }
        if let Some(ends) = argued(&self.entries(place, text, one)?, one, other, &numbers) {
            self.known = self.known.saturating_add(1);
            self.ended |= ends;
            return Ok(None);
        }
        Ok(Some([what, moved].into_iter().flatten().collect::<Vec<_>>().join(", ")))
    }

    /// Does what drivers do before or after an access at `place`.
    fn settle(&mut self, place: &str, before: bool) -> Result<Option<String>, String> {
        let (table, target) = (self.table, self.target);
        let mine = table.habit.iter().filter(|h| h.target == target && h.before == before);
        for habit in mine.filter(|h| place.starts_with(&h.place)) {
            let (mut patience, mut alike) = (PATIENCE, 0usize);
            loop {
                let states = self.say(&habit.status)?;
                let busy = states.clone().map(|a| number(&a).unwrap_or(0) & habit.bits);
                if busy == [0, 0] {
                    break;
                }
                if let Some(then) = &habit.then {
                    let answers = self.say(then)?;
                    if let Some(what) = self.compare(&format!("driver's {then}"), then, &answers)? {
                        return Ok(Some(format!("the driver's {then}: {what}")));
                    }
                }
                // Both wait for the driver, as a disk for its bus master.
                alike = if busy[0] == busy[1] { alike.saturating_add(1) } else { 0 };
                if alike > WAITING && habit.then.is_none() {
                    break;
                }
                patience = patience.saturating_sub(1);
                if patience == 0 {
                    return self.compare(place, &habit.status, &states);
                }
            }
        }
        Ok(None)
    }
}

/// A step of time at most, in nanoseconds: a frame of USB. A machine that is told of a longer time at once does its work late.
const STEP: u64 = 1_000_000;
/// Most such steps for one line; what is left passes at once.
const STEPS: u64 = 4096;

/// The lines that are said for one: time passes in steps, or in whole batches.
fn steps(text: &str, batch: Option<u64>) -> Vec<String> {
    let Some(time) = text.strip_prefix("clock_step ").and_then(|n| n.trim().parse::<u64>().ok()) else {
        return vec![text.to_owned()];
    };
    let step = batch.unwrap_or(STEP).max(1);
    let time = if batch.is_some() { time.div_ceil(step).saturating_mul(step) } else { time };
    let many = time.checked_div(step).unwrap_or(0).min(STEPS);
    let rest = time.saturating_sub(many.saturating_mul(step));
    let mut all = vec![format!("clock_step {step}"); many as usize];
    if rest > 0 || many == 0 {
        all.push(format!("clock_step {rest}"));
    }
    all
}

/// On a PC there is no RAM from 640 KiB to 1 MiB: what a script has put there, the other machine does not have.
fn hole(text: &str) -> bool {
    let address = text.strip_prefix("read 0x").and_then(|rest| u64::from_str_radix(rest.split(' ').next()?, 16).ok());
    address.is_some_and(|a| (0xa_0000..0x10_0000).contains(&a))
}

/// Runs `script` on both machines.
///
/// # Errors
/// A program ends.
pub fn two(script: &Lines, one: &mut Peer, other: &mut Peer, table: &Table) -> Result<Verdict, String> {
    let (levels, apart) = (Default::default(), BTreeSet::new());
    let mut pair = Pair { peers: [one, other], table, target: &script.target, levels, apart, known: 0, ended: false };
    let batch = table.batch.iter().find(|b| b.target == script.target).map(|b| b.time);
    let lines = script.lines.iter().take_while(|line| !line.ends);
    for (n, line) in lines.enumerate().filter(|(_, line)| !hole(&line.text)) {
        let mut what = pair.settle(&line.place, true)?;
        if what.is_none() {
            let mut answers = Default::default();
            for text in steps(&line.text, batch) {
                answers = pair.say(&text)?;
                if answers.iter().any(|a| !a.starts_with("OK")) {
                    break;
                }
            }
            if pair.ends(&line.text)? {
                pair.known = pair.known.saturating_add(1);
                break;
            }
            what = pair.settle(&line.place, false)?;
            if what.is_none() {
                what = pair.compare(&line.place, &line.text, &answers)?;
            }
        }
        if let Some(what) = what {
            let (text, place) = (line.text.clone(), line.place.clone());
            return Ok(Verdict::Differs(Difference { line: n, text, place, what }));
        }
        if pair.ended {
            break;
        }
    }
    Ok(Verdict::Alike(pair.known))
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
            let (text, place) = (line.text.clone(), line.place.clone());
            return Ok(Verdict::Differs(Difference { line: n, text, place, what }));
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
    fn numbers_are_compared_by_value_and_memory_by_its_first_byte() {
        assert_eq!(differs("OK 0x00ff", "OK 0xff"), None);
        assert!(differs("OK 0x00ff", "OK 0xfe").is_some());
        assert!(differs("OK", "FAIL").is_some());
        let memory = |last: &str| format!("OK 0x{}{last}", "00".repeat(40));
        assert_eq!(differs(&memory("07"), &memory("07")), None);
        assert_eq!(differs(&memory("07"), &memory("17")).unwrap(), "from byte 0x28 on 07… / 17…");
        assert!(hole("read 0xa0000 0x1000") && hole("read 0xff000 0x1000"));
        assert!(!hole("read 0x100000 0x1000") && !hole("read 0x9f000 0x1000") && !hole("inb 0xa0000"));
    }

    #[test]
    fn time_passes_in_steps() {
        assert_eq!(steps("inb 0x64", None), ["inb 0x64"]);
        assert_eq!(steps("clock_step 2000001", None), ["clock_step 1000000", "clock_step 1000000", "clock_step 1"]);
        assert_eq!(steps("clock_step 0", None), ["clock_step 0"]);
        assert_eq!(steps("clock_step 9", Some(8)), ["clock_step 8", "clock_step 8"]);
        assert_eq!(steps("clock_step 0", Some(8)), ["clock_step 0"]);
        let long = steps("clock_step 5000000000", None);
        assert_eq!((long.len(), long.last().map(String::as_str)), (4097, Some("clock_step 904000000")));
    }

    /// An entry for everything that a target's places named `place…` say.
    fn entry(target: &str, place: &str, mask: u64, interrupts: &[u32]) -> Argued {
        let text =
            format!("target = {target:?}\nplace = {place:?}\nmask = {mask}\ninterrupts = {interrupts:?}\nreason = ''");
        toml::from_str(&text).unwrap()
    }

    fn table_of(difference: Vec<Argued>) -> Table {
        Table { difference, ..Table::default() }
    }

    /// A program that answers each line that matches a shell pattern, and `OK` to the others.
    fn answers(cases: &str) -> Peer {
        let script = format!("while read -r line; do case $line in {cases} *) echo OK;; esac; done");
        Peer::shell(&script).unwrap()
    }

    fn compared(one: &str, other: &str, lines: &[(&str, &str)], table: &Table) -> Verdict {
        let lines = lines.iter().map(|(text, place)| Line::new((*text).into(), (*place).into())).collect();
        two(&Lines { target: "ps2".into(), lines }, &mut answers(one), &mut answers(other), table).unwrap()
    }

    /// Both machines answer one line, at a place; whether the table knows the difference.
    fn known(table: &Table, place: &str, one: &str, other: &str) -> bool {
        let says = |answer: &str| format!("'inb 1') echo {answer};;");
        let compared = compared(&says(one), &says(other), &[("inb 1", place)], table);
        assert!(compared != Verdict::Alike(0), "they are alike");
        compared == Verdict::Alike(1)
    }

    #[test]
    fn only_the_bits_of_an_argued_difference_may_differ() {
        let table =
            table_of(vec![entry("ps2", "read of STATUS", 0x10, &[]), entry("ps2", "write to CONTROL", 0, &[14])]);
        assert!(known(&table, "read of STATUS (7.15)", "OK 0x50", "OK 0x40"));
        assert!(!known(&table, "read of STATUS (7.15)", "OK 0x51", "OK 0x40"));
        assert!(!known(&table, "read of ERROR (7.9)", "OK 0x50", "OK 0x40"));
        assert!(!known(&table, "read of STATUS (7.15)", "OK", "FAIL"));
        assert!(!known(&table_of(vec![entry("usb", "read", 0x10, &[])]), "read of STATUS", "OK 0x50", "OK 0x40"));
        let raises = "echo 'IRQ raise 14'; echo OK";
        assert!(known(&table, "write to CONTROL (5.1)", "OK", &format!("-n; {raises}")));
        assert!(!known(&table, "write to COMMAND (7.1)", "OK", &format!("-n; {raises}")));
        assert!(!known(&table, "write to CONTROL (5.1)", "OK", "FAIL"));
        let another = "-n; echo 'IRQ raise 15'; echo OK";
        assert!(!known(&table, "write to CONTROL (5.1)", "OK", another), "only the interrupts of the entry");
    }

    #[test]
    fn a_comparison_ends_where_the_table_says() {
        let end = |when: Option<(&str, u64, u64)>| Table {
            end: vec![End {
                target: "ps2".into(),
                lines: vec!["outb 1".into()],
                when: when.map(|(read, mask, value)| (read.into(), mask, value)),
                reason: String::new(),
            }],
            ..Table::default()
        };
        let script = [("outb 1 7", "a"), ("inb 2", "b")];
        let says = |answer: &str| format!("'inb 2') echo OK {answer};; 'inb 9') echo OK 0x12;;");
        let compared = |table: &Table| compared(&says("0x1"), &says("0x2"), &script, table);
        assert_eq!(compared(&end(None)), Verdict::Alike(1));
        assert_eq!(compared(&end(Some(("inb 9", 0xf0, 0x10)))), Verdict::Alike(1));
        assert!(matches!(compared(&end(Some(("inb 9", 0x0f, 1)))), Verdict::Differs(Difference { line: 1, .. })));
    }

    #[test]
    fn an_interrupt_that_comes_apart_is_a_difference_once() {
        let none = Table::default();
        let script = [("outb 1 1", "a"), ("outb 2 1", "b"), ("outb 3 1", "c")];
        let (early, late) = ("'outb 1 1') echo 'IRQ raise 4'; echo OK;;", "'outb 2 1') echo 'IRQ raise 4'; echo OK;;");
        assert_eq!(compared(early, early, &script, &none), Verdict::Alike(0));
        let Verdict::Differs(found) = compared(early, late, &script, &none) else { panic!("alike") };
        assert_eq!((found.line, found.what.as_str()), (0, "interrupt 4 is up / down"));
        let table = table_of(vec![entry("ps2", "a", 0, &[4])]);
        assert_eq!(compared(early, late, &script, &table), Verdict::Alike(1));
        assert!(matches!(compared(late, "", &script, &table), Verdict::Differs(Difference { line: 1, .. })));
    }

    #[test]
    fn an_entry_may_want_an_answer_a_line_a_register_and_end_the_comparison() {
        let whole = entry("ps2", "read", 0xff, &[]);
        let table =
            table_of(vec![Argued { ours: Some(0xfe), ends: true, ..whole.clone() }, entry("ps2", "read", 1, &[])]);
        let script = [("inb 1", "read of data"), ("inb 2", "other")];
        let says = |first: &str, second: &str| format!("'inb 1') echo OK {first};; 'inb 2') echo OK {second};;");
        assert_eq!(compared(&says("0xfe", "1"), &says("0x0", "2"), &script, &table), Verdict::Alike(1), "not compared");
        let second = compared(&says("0xfe", "1"), &says("0xff", "2"), &script, &table);
        assert!(matches!(second, Verdict::Differs(Difference { line: 1, .. })), "the other entry is enough");
        assert!(!known(&table, "read", "OK 0x0", "OK 0xfe"));

        let table = |lines: &str| table_of(vec![Argued { lines: vec![lines.into()], ..whole.clone() }]);
        assert!(known(&table("inb 1"), "read", "OK 0x0", "OK 0xfe"));
        assert!(!known(&table("inb 2"), "read", "OK 0x0", "OK 0xfe"));

        let table = table_of(vec![Argued { when: Some(("inb 9".into(), 8, 0)), ..whole }]);
        let says = |answer: &str, register: &str| format!("'inb 1') echo OK {answer};; 'inb 9') echo OK {register};;");
        let script = [("inb 1", "read")];
        assert_eq!(compared(&says("0x1", "0x17"), &says("0x2", "0x8"), &script, &table), Verdict::Alike(1));
        assert!(matches!(compared(&says("0x1", "0x8"), &says("0x2", "0"), &script, &table), Verdict::Differs(_)));
    }

    #[test]
    fn a_clock_that_does_not_move_is_a_difference_and_an_interrupt_at_a_probe_counts() {
        let still = "'clock_step '*) echo FAIL;;";
        let found = compared("", still, &[("clock_step 2000000", "time")], &Table::default());
        assert!(matches!(found, Verdict::Differs(Difference { line: 0, .. })));
        // The machine's interrupt comes while a register is read for the table; both have it at the end.
        let probe = Argued { when: Some(("inb 9".into(), 1, 1)), ..entry("ps2", "read", 0xff, &[]) };
        let one = "'inb 1') echo OK 0x1;; 'inb 9') echo 'IRQ raise 4'; echo OK 0x1;;";
        let other = "'inb 1') echo OK 0x2;; 'inb 2') echo 'IRQ raise 4'; echo OK;;";
        let script = [("inb 1", "read"), ("inb 2", "other")];
        assert_eq!(compared(one, other, &script, &table_of(vec![probe])), Verdict::Alike(1));
    }

    #[test]
    fn what_a_driver_does_is_done_on_both() {
        let habit = |then: Option<&str>| Table {
            habit: vec![Habit {
                target: "ps2".into(),
                place: "write".into(),
                before: false,
                status: "inb 0x64".into(),
                bits: 1,
                then: then.map(Into::into),
                reason: String::new(),
            }],
            ..Table::default()
        };
        // One is busy for three reads; its interrupt comes with the last.
        let slow =
            "'inb 0x64') n=$((n + 1)); [ $n != 3 ] || echo 'IRQ raise 1'; [ $n -gt 2 ] && echo OK 0x0 || echo OK 0x1;;";
        let fast = "'outb 1 1') echo 'IRQ raise 1'; echo OK;; 'inb 0x64') echo OK 0x0;;";
        let script = [("outb 1 1", "write"), ("inb 2", "read")];
        assert_eq!(compared(slow, fast, &script, &habit(None)), Verdict::Alike(0));
        assert!(matches!(compared(slow, fast, &script, &Table::default()), Verdict::Differs(_)));
        // What is read meanwhile counts.
        let says = |byte: &str| format!("{slow} 'inb 0x60') echo OK {byte};;");
        assert_eq!(compared(&says("0x7"), &says("0x7"), &script, &habit(Some("inb 0x60"))), Verdict::Alike(0));
        let Verdict::Differs(found) = compared(&says("0x7"), &says("0x8"), &script, &habit(Some("inb 0x60"))) else {
            panic!("alike")
        };
        assert_eq!(found.what, "the driver's inb 0x60: OK 0x7 / OK 0x8");
        // And it has an end.
        let busy = "'inb 0x64') echo OK 0x1;;";
        assert_eq!(compared(busy, busy, &script, &habit(None)), Verdict::Alike(0), "both wait for the driver");
        assert!(matches!(compared(busy, fast, &script, &habit(None)), Verdict::Differs(_)));
        let Verdict::Differs(found) = compared(busy, fast, &script, &habit(None)) else { panic!("alike") };
        assert_eq!((found.line, found.what.as_str()), (0, "OK 0x1 / OK 0x0, interrupt 1 is down / up"));
    }

    #[test]
    fn a_replay_compares_numbers_memory_and_levels() {
        let line = |expected: &str, levels: &[(u32, bool)]| Line {
            expected: Some(expected.into()),
            levels: levels.to_vec(),
            ..Line::new(String::new(), String::new())
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
        assert!(table(None).is_ok(), "{:?}", table(None).err());
    }
}
