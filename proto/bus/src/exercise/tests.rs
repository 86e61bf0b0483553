//! The oracles and the mutator on a toy device, whole and with one fault each.
use super::*;
use crate::{Access, Declaration, Inspect, IoResult, Line, Ready, Region, StateError};

/// A copying engine: ports 0 source, 4 destination, 8 length, 12 start and status. The setting selects its fault.
struct Copier {
    fault: u8,
    memory: Arc<RunMemory>,
    registers: [u32; 3],
    done: bool,
    busy: u32,
}

const GOOD: u8 = 0;
const FORGETS: u8 = 1;
const ENDLESS: u8 = 2;
const FOREIGN_LINE: u8 = 3;
const TOO_MUCH: u8 = 4;
const HALF_LOADED: u8 = 5;
const UNSTABLE_STATE: u8 = 6;
const SILENT_CHANGE: u8 = 7;
const ENDLESS_TIMER: u8 = 8;
const DOUBLE_FETCH: u8 = 9;

impl Device for Copier {
    fn declaration(&self) -> Declaration {
        Declaration {
            regions: vec![Region::ports("copier", 0x300, 16)],
            lines: vec![Line::Isa(5)],
            dma: true,
            ..Declaration::default()
        }
    }
    fn read(&mut self, at: Access, _: &mut Context) -> IoResult<u64> {
        let register = self.registers.get((at.offset >> 2) as usize);
        Ok(register.map_or(u64::from(self.done), |r| u64::from(*r)))
    }
    fn write(&mut self, at: Access, value: u64, cx: &mut Context) -> IoResult<()> {
        if let Some(register) = self.registers.get_mut((at.offset >> 2) as usize) {
            *register = value as u32;
            return Ok(());
        }
        if value == 0 {
            self.done = false;
            cx.lines.set(0, false);
            return Ok(());
        }
        let [from, to, len] = self.registers;
        let mut byte = [0];
        let len = if self.fault == TOO_MUCH { len & 0xffff } else { len & 15 };
        for i in 0..u64::from(len) {
            self.memory.read(u64::from(from) + i, &mut byte).unwrap_or(());
            self.memory.write(u64::from(to) + i, &byte).unwrap_or(());
        }
        if self.fault == DOUBLE_FETCH && len > 0 {
            // The first fetch is checked, the second is used.
            let mut again = [0];
            let fetch = |to: &mut [u8; 1]| self.memory.read(u64::from(from), to).unwrap_or(());
            fetch(&mut byte);
            fetch(&mut again);
            assert!(byte[0] >= 128 || again[0] < 128, "the length was checked and is another one");
        }
        (self.done, self.busy) = (true, len);
        cx.timers.set(0, Some(cx.now().saturating_add(1000)));
        cx.lines.set(if self.fault == FOREIGN_LINE { 1 } else { 0 }, true);
        if self.fault == ENDLESS && len == 7 {
            cx.again();
        }
        Ok(())
    }
    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        match ready {
            Ready::Again => cx.again(),
            Ready::Timer(_) if self.fault == ENDLESS_TIMER => cx.timers.set(0, Some(cx.now())),
            _ => {}
        }
    }
    fn reset(&mut self, _: Reset, cx: &mut Context) {
        (self.registers, self.done) = ([0; 3], false);
        cx.lines.set(0, false);
    }
    fn checkpoint(&mut self) -> Option<Vec<u8>> {
        (self.fault != SILENT_CHANGE || !self.done).then(|| self.save())
    }
    fn save(&self) -> Vec<u8> {
        let mut state: Vec<u8> = self.registers.iter().flat_map(|r| r.to_le_bytes()).collect();
        state.push(u8::from(self.done));
        if self.fault == UNSTABLE_STATE && self.busy == 3 {
            state.push(1);
        }
        state
    }
    fn load(&mut self, state: &[u8], cx: &mut Context) -> Result<(), StateError> {
        if self.fault == HALF_LOADED {
            self.registers[0] = state.first().copied().map_or(0, u32::from);
        }
        let [registers @ .., done] = state else { return Err(StateError::Value("length")) };
        if registers.len() < 12 || *done > 1 {
            return Err(StateError::Value("flag"));
        }
        for (to, from) in self.registers.iter_mut().zip(registers.as_chunks::<4>().0) {
            *to = u32::from_le_bytes(*from);
        }
        self.done = *done == 1;
        cx.lines.set(0, self.done && self.fault != FORGETS);
        Ok(())
    }
    fn inspect(&self, _: &mut Inspect) {}
}

fn make(stage: &Stage) -> Box<dyn Host> {
    let (fault, memory) = (stage.settings[0], stage.memory.clone());
    Box::new(move || -> Box<dyn Device> {
        Box::new(Copier { fault, memory: memory.clone(), registers: [0; 3], done: false, busy: 0 })
    })
}

static TARGET: Target = Target {
    work: 64,
    restart: Restart::Same,
    registers: &[
        Register::new("SOURCE", "1", 0, 0, 4).words(&[home(0)]),
        Register::new("DESTINATION", "2", 0, 4, 4).words(&[BUFFERS]),
        Register::new("LENGTH", "3", 0, 8, 4).words(&[3, 7]),
        Register::new("START", "4", 0, 12, 4).words(&[1]),
    ],
    shapes: &[Shape { name: "bytes", len: 8, fields: &[Field::new(0, 1, Holds::Flags(&[0x80, 0x7f]))] }],
    ..Target::new("copier", make)
};

fn script(fault: u8, records: &[Record]) -> Vec<u8> {
    Script { settings: [fault, 0, 0, 0, 0, 0, 0, 0], records: records.to_vec() }.to_bytes()
}

fn copy(len: u64) -> Vec<Record> {
    vec![
        Record::write(0, 0, 4, 0x1000),
        Record::write(0, 4, 4, 0x9000),
        Record::write(0, 8, 4, len),
        Record::write(0, 12, 4, 1),
        Record::read(0, 4, 4),
    ]
}

#[test]
fn a_good_device_passes_and_each_fault_is_named() {
    let run = |fault: u8, records: &[Record]| exercise(&TARGET, &script(fault, records));
    let restart = [copy(3), vec![Record::new(Kind::Restart), Record::read(0, 4, 4)]].concat();
    let hostile = Record { data: vec![0, 0, 9, 12, 0, 7], ..Record::new(Kind::HostileState) };
    for records in [copy(3), copy(7), restart.clone(), vec![hostile.clone()], vec![Record::new(Kind::Check)]] {
        assert_eq!(run(GOOD, &records), Ok(()));
    }
    for (fault, records, says) in [
        (SILENT_CHANGE, restart.clone(), "after a restart or a move the guest sees"),
        (ENDLESS_TIMER, [copy(3), vec![Record::advance(2000)]].concat(), "are due again and again"),
        (FORGETS, restart, "after a restart or a move the guest sees"),
        (ENDLESS, copy(7), "has no end"),
        (FOREIGN_LINE, copy(3), "drives line 1"),
        (TOO_MUCH, copy(400), "accesses to guest memory, more than 64"),
        (HALF_LOADED, vec![hostile], "and the device is another one"),
        (UNSTABLE_STATE, copy(3), "a state that was loaded and saved is another one"),
    ] {
        let error = run(fault, &records).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

/// Inputs that the mutator makes until the run fails. A fuzzer's coverage would help; this has none.
fn tries_until_found(fault: u8) -> Option<usize> {
    let mutator = Mutator::new(&TARGET);
    let mut kept = vec![script(fault, &[])];
    for seed in 0..20_000u64 {
        let from = &kept[seed as usize % kept.len()];
        let mut bytes = if seed % 8 == 7 {
            mutator.cross(from, &kept[seed as usize * 7 % kept.len()], 1000, seed)
        } else {
            mutator.mutate(from, 1000, seed)
        };
        bytes[0] = fault;
        let found = std::panic::catch_unwind(|| exercise(&TARGET, &bytes)).map_or(true, |r| r.is_err());
        if found {
            return Some(seed as usize);
        }
        if kept.len() < 64 {
            kept.push(bytes);
        } else {
            kept[(seed % 64) as usize] = bytes;
        }
    }
    None
}

#[test]
fn the_mutator_reaches_each_fault_and_a_good_device_has_none() {
    assert_eq!(tries_until_found(GOOD), None);
    for fault in FORGETS..=ENDLESS_TIMER {
        assert!(tries_until_found(fault).is_some(), "fault {fault} is not reached");
    }
}

#[test]
fn a_double_fetch_gets_different_bytes() {
    let pattern = Record { size: 50, data: vec![60], ..Record::new(Kind::Pattern) };
    let records = [vec![pattern], copy(1)].concat();
    assert!(std::panic::catch_unwind(|| exercise(&TARGET, &script(DOUBLE_FETCH, &records))).is_err());
    assert_eq!(exercise(&TARGET, &script(GOOD, &records)), Ok(()));
}

#[test]
fn a_trace_has_answers_lines_and_what_was_fetched() {
    let records = [vec![Record::memory(0x1000, &[1, 2, 3])], copy(2), vec![Record::read(0, 12, 4)]].concat();
    let (seen, pages) = trace(&TARGET, &Script::of(&script(GOOD, &records)), 1 << 20);
    assert_eq!(pages.iter().map(|p| p.0).collect::<Vec<_>>(), [0x1000, 0x9000]);
    assert_eq!(pages[1].1[..3], [1, 2, 0]);
    assert_eq!(seen.len(), records.len());
    let fetch = |address, byte| Fetch { address, bytes: vec![byte], filled: false };
    assert_eq!(seen[4].fetches, [fetch(0x1000, 1), fetch(0x1001, 2)]);
    assert_eq!((seen[3].lines, seen[4].lines), (0, 1));
    assert_eq!(seen[6].answer, [1, 0, 0, 0]);
    assert_eq!(seen[6].access, Some(Made::Read(Access::new(0, 12, 4), 1)));
}

#[test]
fn an_input_has_at_most_the_bytes_that_it_may_have() {
    let mutator = Mutator::new(&TARGET);
    let (mut bytes, mut longest) = (Vec::new(), 0);
    for seed in 0..3000 {
        bytes = mutator.mutate(&bytes, 300, seed);
        longest = longest.max(bytes.len());
        assert!(bytes.len() <= 300);
        assert_eq!(Script::of(&bytes).to_bytes(), bytes, "an input of the mutator has no torn record");
    }
    assert!(longest > 270, "inputs grow to their limit: {longest}");
}
