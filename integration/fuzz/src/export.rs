//! An input as a qtest script with plain verbs, with the answers of the device alone, for replay on whole machines.
//!
//! A script says only what a guest can say. What the host does, states and restarts are left out, and the answers are those of a run
//! without them.
use crate::machine::{Base, Layout, layout, settings};
use crate::targets::Entry;
use crate::violation;
use bulkhead_bus::Access;
use bulkhead_bus::exercise::{Kind, LONGEST, MEMORY, Made, Record, Register, SETTINGS, Script, Seen, Target, trace};
use std::fmt::Write as _;

/// Bytes of the machine's RAM.
pub const RAM: usize = 128 << 20;
/// Most elements of a string access; each is a line.
const ELEMENTS: u64 = 512;

/// One line of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The line.
    pub text: String,
    /// What the device alone has answered: hexadecimal digits of a number, or of memory.
    pub expected: Option<String>,
    /// The levels of its ISA interrupts afterwards.
    pub levels: Vec<(u32, bool)>,
    /// The register, for people: name, section and the kind of access.
    pub place: String,
    /// The guest asks for its restart or power-off: afterwards another machine answers.
    pub ends: bool,
}

impl Line {
    /// A line without an answer.
    pub fn new(text: String, place: String) -> Self {
        Self { text, expected: None, levels: Vec::new(), place, ends: false }
    }

    fn expecting(self, value: Option<u64>) -> Self {
        Self { expected: value.map(|v| format!("{v:x}")), ..self }
    }
}

/// A script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// The target's name; empty if the file does not say.
    pub target: String,
    /// The lines, in order.
    pub lines: Vec<Line>,
}

/// The records of a script that a guest's program can say.
fn plain(script: &Script, settings: [u8; SETTINGS], layout: &Layout) -> Script {
    let mut records = layout.prologue.clone();
    for record in &script.records {
        let mut record = record.clone();
        let good = match record.kind {
            Kind::Read | Kind::Write | Kind::ReadString | Kind::WriteString => {
                let region = usize::from(record.place).checked_rem(layout.regions.len());
                let region = region.and_then(|r| layout.regions.get(r));
                record.value = if matches!(record.kind, Kind::ReadString | Kind::WriteString) {
                    record.value.min(ELEMENTS)
                } else {
                    record.value
                };
                region.is_some_and(|(base, len)| {
                    if matches!(base, Base::Ports(_)) {
                        record.size = record.width().min(4);
                    }
                    let at = u64::from(record.offset).checked_rem(*len).unwrap_or(0);
                    at.saturating_add(record.width().into()) <= *len
                })
            }
            // The script's own addresses stay.
            Kind::ConfigWrite => {
                record.size = record.width().min(4);
                let offset = record.offset & 0xff & !u32::from(record.size).wrapping_sub(1);
                !(0x04..0x08).contains(&offset) && !(0x10..0x34).contains(&offset)
            }
            Kind::ConfigRead => true,
            Kind::Advance | Kind::Memory | Kind::Pattern => true,
            _ => false,
        };
        if good {
            single(record, &mut records);
        }
    }
    Script { settings, records }
}

/// The protocol has no string accesses: each element is an access of its own.
fn single(record: Record, to: &mut Vec<Record>) {
    let size = usize::from(record.width());
    match record.kind {
        Kind::ReadString => {
            let one = Record { kind: Kind::Read, data: Vec::new(), ..record.clone() };
            to.extend((0..record.value).map(|_| one.clone()));
        }
        Kind::WriteString => {
            let mut bytes = record.data.iter().copied().cycle();
            for _ in 0..record.value {
                let value: Vec<u8> = (0..size).map(|_| bytes.next().unwrap_or(0)).collect();
                to.push(Record { kind: Kind::Write, value: number(&value), data: Vec::new(), ..record.clone() });
            }
        }
        _ => to.push(record),
    }
}

fn suffix(size: u8) -> &'static str {
    match size {
        1 => "b",
        2 => "w",
        4 => "l",
        _ => "q",
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// The name of the register at `offset`, with its section.
fn name(registers: &[Register], region: u16, offset: u64) -> String {
    let mine = registers.iter().filter(|r| u16::from(r.region) == region);
    let holds =
        |r: &&Register| (u64::from(r.offset)..u64::from(r.offset).saturating_add(r.size.into())).contains(&offset);
    match mine.filter(holds).max_by_key(|r| r.offset) {
        Some(r) => format!("{} ({})", r.name, r.section),
        None => format!("region {region} at {offset:#x}"),
    }
}

/// How many of the records run without a violation. A panic ends a process, so a child tries them.
fn harmless(entry: &Entry, script: &Script) -> Result<usize, String> {
    let good = |count: usize| {
        let records = script.records.iter().take(count).cloned().collect();
        let part = Script { settings: script.settings, records }.to_bytes();
        violation::of(entry, &part).map(|v| v.is_none())
    };
    let (mut low, mut high) = (0, script.records.len());
    if good(high)? {
        return Ok(high);
    }
    while low < high {
        let middle = low.midpoint(high);
        if good(middle)? { low = middle.saturating_add(1) } else { high = middle }
    }
    Ok(low.saturating_sub(1))
}

/// Makes the script of an input. From the record of a violation on it has no answers.
///
/// # Errors
/// It is no device, or the child cannot be started.
pub fn export(entry: &Entry, input: &[u8]) -> Result<Lines, String> {
    let target = entry.device().ok_or_else(|| format!("{} is no device: its input is bytes", entry.name))?;
    let layout = layout(target);
    if layout.regions.is_empty() {
        return Err(format!("{} has no registers: a script cannot reach it", entry.name));
    }
    let script = plain(&Script::of(input), settings(target.name), &layout);
    let answered = harmless(entry, &script)?;
    Ok(lines(target, &layout, script, answered))
}

fn lines(target: &Target, layout: &Layout, mut script: Script, answered: usize) -> Lines {
    let rest = script.records.split_off(answered.min(script.records.len()));
    let (seen, pages) = trace(target, &script, RAM);
    let mut lines = Vec::new();
    let mut now = 0u64;
    let mut filled = false;
    for (record, seen) in script.records.iter().zip(&seen) {
        // What the pattern has filled in must be there before the access.
        for fetch in seen.fetches.iter().filter(|f| f.filled && !f.bytes.is_empty() && record.kind != Kind::Memory) {
            filled = true;
            lines.push(Line::new(write(fetch.address, &fetch.bytes), "guest memory".into()));
        }
        let before = lines.len();
        one(target, layout, seen, &mut now, &mut lines);
        if let Some(last) = lines.get_mut(before..).and_then(<[Line]>::last_mut) {
            let isa = layout.lines.iter().enumerate().filter_map(|(line, isa)| Some((line, (*isa)?)));
            last.levels = isa.map(|(line, isa)| (isa, seen.lines >> line & 1 != 0)).collect();
            last.ends = seen.ends;
        }
    }
    for record in &rest {
        let before = lines.len();
        one(target, layout, &unanswered(record, layout, now), &mut now, &mut lines);
        lines.iter_mut().skip(before).for_each(|line| line.expected = None);
    }
    // A display's memory is its own.
    for (address, bytes) in pages.iter().filter(|_| rest.is_empty() && target.memory == MEMORY) {
        let line = Line::new(format!("read {address:#x} {:#x}", bytes.len()), format!("memory at {address:#x}"));
        // What was filled in is in the script's memory, and was not in the device's.
        lines.push(Line { expected: (!filled).then(|| hex(bytes)), ..line });
    }
    Lines { target: target.name.into(), lines }
}

/// What a record does, without a device that answers.
fn unanswered(record: &Record, layout: &Layout, now: u64) -> Seen {
    let region = usize::from(record.place).checked_rem(layout.regions.len()).unwrap_or(0);
    let len = layout.regions.get(region).map_or(1, |(_, len)| *len);
    let offset = u64::from(record.offset).checked_rem(len).unwrap_or(0);
    let (at, size) = (Access::new(region as u16, offset, record.width()), usize::from(record.width()));
    let function = usize::from(record.place).checked_rem(layout.functions.len()).unwrap_or(0) as u8;
    let config = record.offset as u8 & !record.width().wrapping_sub(1);
    let access = match record.kind {
        Kind::Read => Some(Made::Read(at, 1)),
        Kind::Write => Some(Made::Write(at, record.value.to_le_bytes().get(..size).unwrap_or_default().to_vec())),
        Kind::ConfigRead => Some(Made::ConfigRead(function, config, record.width())),
        Kind::ConfigWrite => Some(Made::ConfigWrite(function, config, record.width(), record.value as u32)),
        Kind::Advance => Some(Made::Time(now.saturating_add(record.value.min(LONGEST)))),
        Kind::Memory => Some(Made::Memory(record.value, record.data.clone())),
        _ => None,
    };
    Seen { access, answer: vec![0; size], ..Seen::default() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn write(address: u64, bytes: &[u8]) -> String {
    format!("write {address:#x} {:#x} 0x{}", bytes.len(), hex(bytes))
}

fn one(target: &Target, layout: &Layout, seen: &Seen, now: &mut u64, to: &mut Vec<Line>) {
    let Some(made) = &seen.access else { return };
    match made {
        Made::Read(at, _) | Made::Write(at, _) => {
            let Some((base, _)) = layout.regions.get(usize::from(at.region)) else { return };
            let place = name(target.registers, at.region, at.offset);
            let (verb, address, reads) = match (base, made) {
                (Base::Ports(base), Made::Read(..)) => ("in", base.saturating_add(at.offset), true),
                (Base::Ports(base), _) => ("out", base.saturating_add(at.offset), false),
                (Base::Memory(base), Made::Read(..)) => ("read", base.saturating_add(at.offset), true),
                (Base::Memory(base), _) => ("write", base.saturating_add(at.offset), false),
            };
            let verb = format!("{verb}{}", suffix(at.size));
            let bytes = match made {
                Made::Write(_, bytes) => bytes,
                _ => &seen.answer,
            };
            for element in bytes.chunks_exact(usize::from(at.size).max(1)) {
                let value = number(element);
                let (text, expected, how) = if reads {
                    (format!("{verb} {address:#x}"), Some(value), "read of")
                } else {
                    (format!("{verb} {address:#x} {value:#x}"), None, "write to")
                };
                to.push(Line::new(text, format!("{how} {place}")).expecting(expected));
            }
        }
        Made::ConfigRead(function, offset, size) | Made::ConfigWrite(function, offset, size, _) => {
            let Some(spec) = layout.functions.get(usize::from(*function)) else { return };
            let place = format!("configuration space of {:02x}.{} at {offset:#x}", spec.device, spec.function);
            let address = 0x8000_0000u32
                | u32::from(spec.device) << 11
                | u32::from(spec.function) << 8
                | u32::from(offset & 0xfc);
            to.push(Line::new(format!("outl 0xcf8 {address:#x}"), place.clone()));
            let port = 0xcfcu16.saturating_add(u16::from(offset & 3));
            let (verb, rest, expected) = match made {
                Made::ConfigWrite(_, _, _, value) => ("out", format!(" {value:#x}"), None),
                _ => ("in", String::new(), Some(number(&seen.answer))),
            };
            to.push(Line::new(format!("{verb}{} {port:#x}{rest}", suffix(*size)), place).expecting(expected));
        }
        Made::Time(to_time) => {
            let step = to_time.saturating_sub(*now);
            *now = *to_time;
            to.push(Line::new(format!("clock_step {step}"), "time".into()));
        }
        Made::Memory(address, bytes) if !bytes.is_empty() && (*address as usize) < RAM => {
            to.push(Line::new(write(*address, bytes), "guest memory".into()));
        }
        Made::Memory(..) | Made::Reset => {}
    }
}

impl Lines {
    /// The file's text. Before a line stand its place (`#@`), the answer that it must get (`#=`), the interrupts' levels after it (`#!`), and
    /// whether the guest ends with it (`#.`).
    pub fn to_text(&self) -> String {
        let mut text = format!("# bulkhead-fuzz: target {}\n", self.target);
        for line in &self.lines {
            let _ = writeln!(text, "#@ {}", line.place);
            if let Some(expected) = &line.expected {
                let _ = writeln!(text, "#= 0x{expected}");
            }
            if !line.levels.is_empty() {
                let levels: Vec<String> = line.levels.iter().map(|(n, up)| format!("{n}={}", u8::from(*up))).collect();
                let _ = writeln!(text, "#! {}", levels.join(" "));
            }
            if line.ends {
                let _ = writeln!(text, "#. the guest ends");
            }
            let _ = writeln!(text, "{}", line.text);
        }
        text
    }

    /// Reads a script: one of ours, or any other with plain verbs.
    pub fn parse(text: &str) -> Self {
        let mut this = Self::default();
        let (mut place, mut expected, mut levels, mut ends) = (String::new(), None, Vec::new(), false);
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
            if let Some(name) = line.strip_prefix("# bulkhead-fuzz: target ") {
                this.target = name.into();
            } else if let Some(rest) = line.strip_prefix("#@ ") {
                place = rest.into();
            } else if let Some(rest) = line.strip_prefix("#= ") {
                expected = Some(rest.trim_start_matches("0x").to_owned());
            } else if let Some(rest) = line.strip_prefix("#! ") {
                let pairs = rest.split(' ').filter_map(|pair| pair.split_once('='));
                levels = pairs.filter_map(|(n, up)| Some((n.parse().ok()?, up == "1"))).collect();
            } else if line.starts_with("#. ") {
                ends = true;
            } else if !line.starts_with('#') {
                let place = if place.is_empty() { line.to_owned() } else { std::mem::take(&mut place) };
                let levels = std::mem::take(&mut levels);
                let (text, expected, ends) = (line.into(), expected.take(), std::mem::take(&mut ends));
                this.lines.push(Line { text, expected, levels, place, ends });
            }
        }
        this
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The script of an input that violates nothing.
    fn whole(target: &Target, input: &[u8]) -> Lines {
        let layout = layout(target);
        let script = plain(&Script::of(input), settings(target.name), &layout);
        lines(target, &layout, script, usize::MAX)
    }

    #[test]
    fn what_follows_a_violation_is_said_without_answers() {
        let target = &bulkhead_dev_input::serial::TARGET;
        let (all, layout) =
            (vec![Record::read(0, 5, 1), Record::write(0, 0, 1, 7), Record::read(0, 5, 1)], layout(target));
        let script = plain(&Script { settings: [0; SETTINGS], records: all }, settings(target.name), &layout);
        let some = lines(target, &layout, script.clone(), layout.prologue.len() + 1);
        let every = lines(target, &layout, script, usize::MAX);
        let texts = |lines: &Lines| lines.lines.iter().map(|l| l.text.clone()).collect::<Vec<_>>();
        assert_eq!(texts(&some), texts(&every));
        let answers = |lines: &Lines| lines.lines.iter().map(|l| l.expected.is_some()).collect::<Vec<_>>();
        assert_eq!(answers(&some), [false, true, false, false]);
        assert_eq!(answers(&every), [false, true, false, true]);
    }

    #[test]
    fn a_script_is_read_as_it_was_written_and_says_registers_by_name() {
        let records = vec![
            Record::write(0, 3, 1, 0x83),
            Record::read(0, 3, 1),
            Record::host(0, 1, b"x"),
            Record::advance(1000),
            Record { value: 3, data: vec![1, 2], ..Record { kind: Kind::WriteString, ..Record::write(0, 7, 1, 0) } },
        ];
        let input = Script { settings: [1; SETTINGS], records }.to_bytes();
        let script = whole(&bulkhead_dev_input::serial::TARGET, &input);
        let text = script.to_text();
        assert_eq!(Lines::parse(&text), script);
        let lines: Vec<_> = script.lines.iter().map(|l| l.text.as_str()).collect();
        assert_eq!(
            lines,
            [
                "outb 0x3fc 0x8",
                "outb 0x3fb 0x83",
                "inb 0x3fb",
                "clock_step 1000",
                "outb 0x3ff 0x1",
                "outb 0x3ff 0x2",
                "outb 0x3ff 0x1"
            ]
        );
        assert_eq!(script.lines[2].expected.as_deref(), Some("83"));
        assert_eq!(script.lines[2].levels, [(4, false)]);
        assert!(script.lines[2].place.starts_with("read of LCR ("), "{}", script.lines[2].place);
    }

    #[test]
    fn bars_are_set_up_first_and_memory_is_compared_last() {
        let records = vec![Record::memory(0x1000, &[7]), Record::write(0, 0x3818, 4, 0)];
        let script = whole(&bulkhead_dev_net::e1000::TARGET, &Script { settings: [0; 8], records }.to_bytes());
        let lines: Vec<_> = script.lines.iter().map(|l| l.text.as_str()).collect();
        assert_eq!(lines[..2], ["outl 0xcf8 0x80001010", "outl 0xcfc 0xe0000000"]);
        assert_eq!(lines[lines.len() - 3..], ["write 0x1000 0x1 0x07", "writel 0xe0003818 0x0", "read 0x1000 0x1000"]);
        let memory = script.lines.last().unwrap().expected.as_deref().unwrap();
        assert!(memory.starts_with("0700") && memory.len() == 8192);
    }
}
