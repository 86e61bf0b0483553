//! The back end for its fuzz target and its corpus test.
use super::{Console, PAGES, means, page};
use crate::serial::Backend;
use bulkhead_bus::exercise::{Random, Record, Target};
use bulkhead_bus::pv::State;
use bulkhead_bus::pv::exercise::{ACTIONS, Ring, Subject, add, event, node, state, word};

/// A host that accepts an odd number of bytes at once, or none for a while, and sends letters, or is silent.
struct Talker {
    silent: bool,
    /// Every so many writes it takes nothing.
    stops: u8,
    writes: u8,
}

impl Backend for Talker {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.writes = self.writes.wrapping_add(1);
        let full = self.writes.checked_rem(self.stops) == Some(0);
        if full { 0 } else { bytes.len().min(7) }
    }
    fn read(&mut self, bytes: &mut [u8]) -> usize {
        let n = if self.silent { 0 } else { bytes.len().min(5) };
        bytes.iter_mut().take(n).for_each(|b| *b = b'a');
        n
    }
}

static SUBJECT: Subject = Subject {
    // Setting 0: bit 0 the domain's first console, bit 1 a host that says nothing. Setting 1: how often it takes nothing.
    make: |guest, [bits, stops, ..]| {
        let host = Talker { silent: bits & 2 != 0, stops, writes: 0 };
        Box::new(Console::new(Box::new(guest.clone()), guest.memory.clone(), Box::new(host), bits & 1 != 0))
    },
    pages: PAGES,
    nodes: &["ring-ref", "port"],
    means: &means::CONSOLE,
};

/// The back end under test.
pub static TARGET: Target = Target {
    actions: ACTIONS,
    recipes: &[connected, written, read],
    ..Target::new("console", |stage| SUBJECT.host(stage.settings))
};

/// The domain connects.
fn connected(_: &mut Random, to: &mut Vec<Record>) {
    to.push(node(0, "8"));
    to.push(node(1, "17"));
    to.push(state(State::Initialised));
}

/// The domain writes text.
fn written(random: &mut Random, to: &mut Vec<Record>) {
    let ring =
        Ring { counter: page::OUT_PROD as u16, first: page::OUT as u16, entries: page::OUT_LEN as u16, entry: 1 };
    for _ in 0..=random.below(10) {
        to.push(ring.push(&random.bytes(255)));
    }
    to.push(event());
}

/// The domain reads text, or says that it has.
fn read(random: &mut Random, to: &mut Vec<Record>) {
    let at = page::IN_CONS as u32;
    to.push(if random.one_in(4) { word(at, random.number(4) as u32) } else { add(at, random.number(1) as u8) });
    to.push(event());
}
