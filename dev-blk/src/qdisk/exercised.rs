//! The back end for its fuzz target and its corpus test: a disk of 1 MiB in memory, whose jobs complete at once.
use super::spec::{INDIRECT_SEGMENTS, Layout, SECTOR, entries, op, ring};
use super::{BUFFER, BUFFER_PAGES, Options, Qdisk, means};
use crate::backend::{Image, Inline};
use bulkhead_bus::Auxiliary;
use bulkhead_bus::exercise::{Random, Recipe, Record, SETTINGS, Target};
use bulkhead_bus::fake::FakeFrontend;
use bulkhead_bus::pv::State;
use bulkhead_bus::pv::exercise::{ACTIONS, Ring, Subject, event, node, page, state, word};
use std::sync::Arc;

/// Bytes of the disk.
const BYTES: u64 = 1 << 20;
/// References of the ring's first page and of the guest's data.
const RING: u32 = 8;
const DATA: std::ops::Range<u32> = 100..200;

static SUBJECT: Subject = Subject {
    make,
    pages: BUFFER.saturating_add(BUFFER_PAGES),
    nodes: &[
        "ring-ref",
        "event-channel",
        "protocol",
        "feature-persistent",
        "ring-page-order",
        "ring-ref0",
        "ring-ref1",
        "ring-ref2",
        "ring-ref3",
    ],
    means: &means::QDISK,
};

/// The back end under test.
pub static TARGET: Target =
    Target { actions: ACTIONS, recipes: RECIPES, ..Target::new("qdisk", |stage| SUBJECT.host(stage.settings)) };

/// Bits of setting 0: the disk is a CD, may not be written, has no discard.
fn make(guest: &FakeFrontend, [bits, ..]: [u8; SETTINGS]) -> Box<dyn Auxiliary> {
    let file = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC)
        .and_then(|file| rustix::fs::ftruncate(&file, BYTES).map(|()| file));
    // Without a memfd the back end cannot be tested.
    let Ok(file) = file else { std::process::abort() };
    let options = Options { cdrom: bits & 1 != 0, read_only: bits & 2 != 0, discard: bits & 4 == 0 };
    let executor = Inline::new(guest.memory.clone());
    let image = Arc::new(Image::raw(file, BYTES));
    Box::new(Qdisk::new(image, options, Box::new(guest.clone()), guest.memory.clone(), Box::new(executor)))
}

const RECIPES: &[Recipe] =
    &[connected, connected_by_pages, requests, requests, indirect, discards, events_are_asked_for];

fn layout(random: &mut Random) -> Layout {
    if random.one_in(4) { Layout::X86_32 } else { Layout::X86_64 }
}

fn begins(random: &mut Random, to: &mut Vec<Record>) {
    let protocol = random.of(&["x86_64-abi", "x86_64-abi", "x86_32-abi", ""]).copied().unwrap_or_default();
    to.push(node(1, "17"));
    to.push(node(2, protocol));
    to.push(node(3, if random.one_in(2) { "1" } else { "0" }));
    to.push(state(State::Initialised));
}

/// The guest connects by one page.
fn connected(random: &mut Random, to: &mut Vec<Record>) {
    to.push(node(0, &RING.to_string()));
    begins(random, to);
}

/// The guest connects by several pages.
fn connected_by_pages(random: &mut Random, to: &mut Vec<Record>) {
    let order = random.below(4) as u32;
    to.push(node(4, &order.to_string()));
    for i in 0..4u32 {
        to.push(node(u64::from(i).saturating_add(5), &RING.saturating_add(i).to_string()));
    }
    begins(random, to);
}

fn head(layout: Layout, code: u8, second: u8, random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![code, second, 0, 0];
    bytes.resize(if layout == Layout::X86_64 { 8 } else { 4 }, 0);
    bytes.extend(random.bits().to_le_bytes());
    let last = BYTES / SECTOR;
    let sector = match random.below(8) {
        0 => random.number(8),
        1 => last.saturating_sub(random.below(24)),
        _ => random.below(last),
    };
    bytes.extend(sector.to_le_bytes());
    bytes
}

/// The description of a segment.
fn segment(random: &mut Random) -> [u8; 8] {
    let width = DATA.end.saturating_sub(DATA.start);
    let gref = if random.one_in(16) {
        random.number(4) as u32
    } else {
        DATA.start.wrapping_add(random.below(width.into()) as u32)
    };
    let (one, other) = (random.below(8) as u8, random.below(8) as u8);
    let (first, last) = if random.one_in(16) { (other.max(one), one) } else { (one.min(other), one.max(other)) };
    let [a, b, c, d] = gref.to_le_bytes();
    [a, b, c, d, first, last, 0, 0]
}

fn push(layout: Layout, entry: &[u8], random: &mut Random, to: &mut Vec<Record>) {
    // Of several pages most entries are beyond what a guest of one page uses.
    let pages = if random.one_in(8) { 4 } else { 1 };
    let ring = Ring {
        counter: ring::REQ_PROD as u16,
        first: ring::ENTRIES as u16,
        entries: entries(pages, layout) as u16,
        entry: layout.entry() as u16,
    };
    to.push(ring.push(entry));
}

/// Requests with segments in the ring.
fn requests(random: &mut Random, to: &mut Vec<Record>) {
    let layout = layout(random);
    for _ in 0..=random.below(4) {
        let codes = [op::READ, op::WRITE, op::WRITE, op::WRITE_BARRIER, op::FLUSH_DISKCACHE];
        let code = random.of(&codes).copied().unwrap_or(op::READ);
        let count = if random.one_in(12) { random.below(14) } else { random.below(3).saturating_add(1) } as u8;
        let mut entry = head(layout, code, count, random);
        for _ in 0..count.min(11) {
            entry.extend(segment(random));
        }
        push(layout, &entry, random, to);
    }
    to.push(event());
}

/// A request whose segments are described in a granted page.
fn indirect(random: &mut Random, to: &mut Vec<Record>) {
    let layout = layout(random);
    let count = random.below(INDIRECT_SEGMENTS as u64).saturating_add(u64::from(random.one_in(8))) as u16;
    let described: Vec<u8> = (0..count.min(31)).flat_map(|_| segment(random)).collect();
    to.push(page(0, &described));
    let inner = random.of(&[op::READ, op::WRITE, op::WRITE, op::DISCARD]).copied().unwrap_or(op::READ);
    let mut entry = head(layout, op::INDIRECT, inner, random);
    entry.iter_mut().skip(2).zip(count.to_le_bytes()).for_each(|(to, from)| *to = from);
    entry.extend([0; 4]);
    for _ in 0..2 {
        entry.extend(DATA.start.wrapping_add(random.below(8) as u32).to_le_bytes());
    }
    push(layout, &entry, random, to);
    to.push(event());
}

/// A discard, and an unknown operation.
fn discards(random: &mut Random, to: &mut Vec<Record>) {
    let layout = layout(random);
    let code = if random.one_in(6) { random.number(1) as u8 } else { op::DISCARD };
    let mut entry = head(layout, code, 0, random);
    let sectors = if random.one_in(4) { random.number(8) } else { random.below(BYTES / SECTOR) };
    entry.extend(sectors.to_le_bytes());
    push(layout, &entry, random, to);
    to.push(event());
}

/// The guest asks to be signalled after the next answer, or after later ones.
fn events_are_asked_for(random: &mut Random, to: &mut Vec<Record>) {
    to.push(word(ring::RSP_EVENT as u32, random.number(1) as u32));
    to.push(word(if random.one_in(3) { ring::REQ_PROD } else { ring::REQ_EVENT } as u32, random.number(1) as u32));
    to.push(event());
}
