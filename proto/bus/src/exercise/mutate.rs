//! Changes a script by whole operations: records are made, removed, repeated and moved, with the registers, structures and recipes of
//! the device. libFuzzer's own changes of bytes know nothing of these.
use super::Target;
use super::hints::{BUFFERS, Holds, Shape, home};
use super::record::{Kind, RECORDS, Record, SETTINGS, Script};
use super::run::low;
use crate::{Area, Declaration};

/// Random numbers (xorshift64*, Vigna 2016). The same seed gives the same numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number, of 48 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// A number below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits().checked_rem(end).unwrap_or(0)
    }

    /// True in one of `n` cases.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of a slice; `None` if it is empty.
    pub fn of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len() as u64) as usize)
    }

    /// A number of `size` bytes that borders on something: small, all ones, a power of two and its neighbours, or any.
    pub fn number(&mut self, size: u8) -> u64 {
        let value = match self.below(6) {
            0 => self.below(16),
            1 => u64::MAX.wrapping_sub(self.below(4)),
            2 => 1u64.wrapping_shl(self.below(64) as u32).wrapping_sub(self.below(3)),
            3 => 1u64.wrapping_shl(self.below(64) as u32) | 1u64.wrapping_shl(self.below(64) as u32),
            4 => BUFFERS.wrapping_add(self.below(0x4000)),
            _ => self.bits() << 16 ^ self.bits(),
        };
        value & low(size)
    }

    /// Up to `most` bytes.
    pub fn bytes(&mut self, most: u64) -> Vec<u8> {
        let len = self.below(most.saturating_add(1));
        let (few, seed) = (self.one_in(2), self.bits());
        (0..len).map(|i| if few { (seed >> (i & 7)) as u8 & 3 } else { self.bits() as u8 }).collect()
    }
}

/// What the mutator knows of a target.
pub struct Mutator<'a> {
    target: &'a Target,
    declaration: Declaration,
}

impl<'a> Mutator<'a> {
    /// A mutator for this target.
    pub fn new(target: &'a Target) -> Self {
        let memory = std::sync::Arc::new(super::RunMemory::new(target.memory));
        let declaration = (target.make)(&super::Stage { memory, settings: [0; SETTINGS] }).device().declaration();
        Self { target, declaration }
    }

    /// Changes `bytes`; the result has at most `most` bytes.
    pub fn mutate(&self, bytes: &[u8], most: usize, seed: u64) -> Vec<u8> {
        let mut random = Random::new(seed);
        let mut script = Script::of(bytes);
        for _ in 0..=random.below(4) {
            self.change(&mut script, &mut random);
        }
        fit(script, most)
    }

    /// A script with parts of both.
    pub fn cross(&self, one: &[u8], other: &[u8], most: usize, seed: u64) -> Vec<u8> {
        let mut random = Random::new(seed);
        let (mut script, other) = (Script::of(one), Script::of(other));
        let end = script.records.len().saturating_add(1) as u64;
        let at = random.below(end) as usize;
        let from = random.below(other.records.len() as u64) as usize;
        let count = 1usize.saturating_add(random.below(other.records.len() as u64) as usize);
        let new: Vec<Record> = other.records.into_iter().skip(from).take(count).collect();
        if random.one_in(2) {
            script.records.truncate(at);
            script.records.extend(new);
        } else {
            script.records.splice(at..at, new);
        }
        fit(script, most)
    }

    fn change(&self, script: &mut Script, random: &mut Random) {
        let len = script.records.len();
        let at = random.below(len as u64) as usize;
        match random.below(20) {
            0..=6 => self.insert(script, random),
            7..=9 => {
                let mut new = Vec::new();
                match random.of(self.target.recipes) {
                    Some(recipe) => recipe(random, &mut new),
                    None => (0..3).for_each(|_| self.record(random, &mut new)),
                }
                let at = random.below(len.saturating_add(1) as u64) as usize;
                script.records.splice(at..at, new);
            }
            10 | 11 => {
                let count = 1usize.saturating_add(random.below(4) as usize).min(len.saturating_sub(at));
                script.records.drain(at..at.saturating_add(count));
            }
            12 => {
                let run: Vec<Record> = script
                    .records
                    .iter()
                    .skip(at)
                    .take(1usize.saturating_add(random.below(6) as usize))
                    .cloned()
                    .collect();
                let to = random.below(len.saturating_add(1) as u64) as usize;
                script.records.splice(to..to, run);
            }
            13 if len > 1 => script.records.swap(at, random.below(len as u64) as usize),
            14 => {
                let bit = 1u8.wrapping_shl(random.below(8) as u32);
                let at = random.below(SETTINGS as u64) as usize;
                if let Some(byte) = script.settings.get_mut(at) {
                    *byte ^= bit;
                }
            }
            _ => match script.records.get_mut(at) {
                Some(record) => self.edit(record, random),
                None => self.insert(script, random),
            },
        }
    }

    fn insert(&self, script: &mut Script, random: &mut Random) {
        let mut new = Vec::new();
        for _ in 0..=random.below(3) {
            self.record(random, &mut new);
        }
        // At the end it happens in the state that the script leads to.
        let len = script.records.len();
        let at = if random.one_in(2) { len } else { random.below(len.saturating_add(1) as u64) as usize };
        script.records.splice(at..at, new);
    }

    fn edit(&self, record: &mut Record, random: &mut Random) {
        match random.below(7) {
            0 => record.value ^= 1u64.wrapping_shl(random.below(u64::from(record.width()).saturating_mul(8)) as u32),
            1 => record.value = record.value.wrapping_add(random.below(9)).wrapping_sub(4),
            2 => record.value = self.word(record, random),
            3 => {
                let mut new = Vec::new();
                self.record(random, &mut new);
                if let Some(new) = new.pop() {
                    *record = new;
                }
            }
            4 => record.offset = record.offset.wrapping_add(random.below(9) as u32).wrapping_sub(4),
            5 if !record.data.is_empty() => {
                let at = random.below(record.data.len() as u64) as usize;
                let new = random.number(1) as u8;
                match random.below(4) {
                    0 => record.data.insert(at, new),
                    1 => drop(record.data.remove(at)),
                    _ => record.data.iter_mut().skip(at).take(1).for_each(|b| *b = new),
                }
                record.data.truncate(255);
            }
            _ => record.size = 1u8.wrapping_shl(random.below(3) as u32),
        }
    }

    /// A value for the register of `record`.
    fn word(&self, record: &Record, random: &mut Random) -> u64 {
        let mine = |r: &&super::Register| r.region == record.place && r.offset == record.offset;
        let words = self.target.registers.iter().find(mine).map_or(&[][..], |r| r.words);
        let word = random.of(words).copied();
        match random.below(4) {
            0 => random.number(record.width()),
            1 => word.unwrap_or(0) | random.of(words).copied().unwrap_or(0),
            _ => word.unwrap_or_else(|| random.number(record.width())),
        }
    }

    /// Some records of one kind of operation.
    fn record(&self, random: &mut Random, to: &mut Vec<Record>) {
        let regions = self.declaration.regions.len() as u64;
        if regions == 0 && self.target.actions > 0 {
            // Nobody reaches it by registers.
            to.push(match random.below(24) {
                0 => Record::new(Kind::Restart),
                1 => Record::new(
                    random.of(&[Kind::StopAndRun, Kind::Screenshot, Kind::Inspect]).copied().unwrap_or(Kind::Inspect),
                ),
                2 | 3 => Record { place: random.below(4) as u8, ..Record::new(Kind::Ready) },
                _ => {
                    let action = random.below(u64::from(self.target.actions)) as u8;
                    let size = 1u8.wrapping_shl(random.below(4) as u32);
                    let most = random.of(&[0, 4, 64]).copied().unwrap_or(0);
                    Record::host(action, random.number(size), &random.bytes(most))
                }
            });
            return;
        }
        match random.below(32) {
            0..=13 if !self.target.registers.is_empty() => {
                let Some(register) = random.of(self.target.registers) else { return };
                let size = if random.one_in(16) { 1u8.wrapping_shl(random.below(3) as u32) } else { register.size };
                let mut record = Record::read(register.region, register.offset, size);
                if !random.one_in(3) {
                    record.kind = Kind::Write;
                    record.value = self.word(&record, random);
                }
                to.push(record);
            }
            14 => to.push(Record {
                kind: if random.one_in(2) { Kind::ReadString } else { Kind::WriteString },
                value: random.below(260),
                data: random.bytes(32),
                ..self
                    .target
                    .registers
                    .get(random.below(self.target.registers.len() as u64) as usize)
                    .map_or_else(|| Record::new(Kind::Read), |r| Record::read(r.region, r.offset, r.size))
            }),
            0..=15 => {
                let region = random.below(regions) as u8;
                let len = self.declaration.regions.get(usize::from(region)).map_or(1, |r| match r.area {
                    Area::Ports { len, .. } => u64::from(len),
                    Area::Memory { len, .. } => len,
                    Area::Bar { .. } => 1 << 17,
                });
                let size = 1u8.wrapping_shl(random.below(3) as u32);
                let mut record = Record::read(region, random.below(len) as u32, size);
                if random.one_in(2) {
                    (record.kind, record.value) = (Kind::Write, random.number(size));
                }
                to.push(record);
            }
            16 | 17 if !self.declaration.functions.is_empty() => {
                let mut record = Record::new(if random.one_in(4) { Kind::ConfigRead } else { Kind::ConfigWrite });
                record.place = random.below(self.declaration.functions.len() as u64) as u8;
                record.offset = if random.one_in(2) { 4 } else { random.below(256) as u32 };
                record.size = 1u8.wrapping_shl(random.below(3) as u32);
                record.value = if random.one_in(3) { random.number(4) } else { 7 };
                to.push(record);
            }
            18 | 19 => {
                let (scale, n) =
                    (random.of(&[1, 1000, 1_000_000, 100_000_000]).copied().unwrap_or(1), random.below(2000));
                to.push(Record::advance(n.saturating_mul(scale)));
            }
            20..=22 if !self.target.shapes.is_empty() => {
                let at = random.below(self.target.shapes.len() as u64);
                for _ in 0..=random.below(3) {
                    to.push(self.structure(at as u8, random));
                }
            }
            23 => {
                let data = random.bytes(48);
                to.push(Record { size: random.number(1) as u8, data, ..Record::new(Kind::Pattern) });
            }
            24 => to.push(Record::memory(random.number(2), &random.bytes(64))),
            25 => {
                let value = match random.below(3) {
                    0 => random.below(0x200) << 16 | random.below(2) << 8,
                    1 => random.bits(),
                    _ => random.number(8),
                };
                to.push(Record { place: random.below(5) as u8, value, ..Record::new(Kind::Event) });
            }
            26 => {
                let kinds = [Kind::Reset, Kind::StopAndRun, Kind::Screenshot, Kind::Inspect, Kind::Check, Kind::Unplug];
                let kind = random.of(&kinds).copied().unwrap_or(Kind::Check);
                to.push(Record { value: random.below(8), ..Record::new(kind) });
            }
            27 => to.push(Record::new(if random.one_in(2) { Kind::Restart } else { Kind::Move })),
            28 => to.push(Record {
                place: random.below(regions) as u8,
                offset: random.of(self.target.registers).map_or(0, |r| r.offset),
                ..Record::new(Kind::LostWrites)
            }),
            29 => {
                let kind = if random.one_in(2) { Kind::HostileState } else { Kind::Ready };
                let data =
                    (0..random.below(4)).flat_map(|_| [random.below(96) as u8, 0, random.number(1) as u8]).collect();
                to.push(Record { place: random.below(4) as u8, data, ..Record::new(kind) });
            }
            _ if self.target.actions > 0 => {
                let action = random.below(u64::from(self.target.actions)) as u8;
                let (value, data) = (random.number(2), random.bytes(64));
                to.push(Record::host(action, value, &data));
            }
            _ => to.push(Record::new(Kind::Check)),
        }
    }

    /// One structure of a shape at its place in memory.
    pub(super) fn structure(&self, index: u8, random: &mut Random) -> Record {
        let shape =
            self.target.shapes.get(usize::from(index)).copied().unwrap_or(Shape { name: "", len: 8, fields: &[] });
        let place = home(index).saturating_add(random.below(8).saturating_mul(u64::from(shape.len)));
        let mut bytes = vec![0; usize::from(shape.len)];
        for field in shape.fields {
            let value = match field.holds {
                Holds::Buffer if random.one_in(8) => random.number(field.size),
                Holds::Buffer => BUFFERS.wrapping_add(random.below(0x40).saturating_mul(0x40)),
                Holds::Link(to, bits) => {
                    let len = self.target.shapes.get(usize::from(to)).map_or(16, |s| s.len);
                    let link = home(to).wrapping_add(random.below(8).saturating_mul(u64::from(len)));
                    link | random.of(bits).copied().unwrap_or(0)
                }
                Holds::Length(_) if random.one_in(6) => random.number(field.size),
                Holds::Length(most) => random.below(most.saturating_add(1)),
                Holds::Flags(all) => {
                    let (one, other) = (random.of(all).copied().unwrap_or(0), random.of(all).copied().unwrap_or(0));
                    if random.one_in(3) { one | other } else { one }
                }
                Holds::Any => random.number(field.size),
            };
            let to = bytes.iter_mut().skip(usize::from(field.offset)).take(usize::from(field.size));
            // Fields may share bytes: bits of one are in another's.
            to.zip(value.to_le_bytes()).for_each(|(to, from)| *to |= from);
        }
        Record::memory(place, &bytes)
    }
}

/// The script's bytes without the last records that do not fit.
fn fit(mut script: Script, most: usize) -> Vec<u8> {
    script.records.truncate(RECORDS);
    let mut bytes = script.to_bytes();
    while bytes.len() > most && script.records.pop().is_some() {
        bytes = script.to_bytes();
    }
    bytes.truncate(most);
    bytes
}
