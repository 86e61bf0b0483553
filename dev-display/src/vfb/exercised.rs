//! The back end for its fuzz target, its corpus test and its unit tests, with a domain's memory in frames.
use super::{BYTES, Frames, PAGE, Vfb, kind, page};
use bulkhead_bus::exercise::{Random, Record, Target};
use bulkhead_bus::fake::FakeMemory;
use bulkhead_bus::pv::exercise::{ACTIONS, Ring, Subject, event, memory, node, refresh, state};
use bulkhead_bus::pv::{State, means};
use bulkhead_bus::{DmaError, GuestMemory, Segment};
use rustix::fd::BorrowedFd;
use std::sync::Arc;

/// Frames of the domain: 4 MiB.
pub(super) const FRAMES: u64 = 1024;

/// The domain's memory by frames.
#[derive(Clone)]
pub(super) struct Domain(pub(super) Arc<FakeMemory>);

/// A mapping of a list of frames.
struct View(Arc<FakeMemory>, Vec<u64>);

impl View {
    fn pieces(
        &self,
        address: u64,
        len: usize,
        mut f: impl FnMut(u64, usize, usize) -> Result<(), DmaError>,
    ) -> Result<(), DmaError> {
        let mut done = 0usize;
        while done < len {
            let at = address.saturating_add(done as u64);
            let frame = self.1.get((at >> 12) as usize).ok_or(DmaError::NoRam(at))?;
            let n = PAGE.saturating_sub((at & 4095) as usize).min(len.saturating_sub(done));
            f((frame << 12) | (at & 4095), done, n)?;
            done = done.saturating_add(n);
        }
        Ok(())
    }
}

impl GuestMemory for View {
    fn read(&self, address: u64, to: &mut [u8]) -> Result<(), DmaError> {
        self.pieces(address, to.len(), |at, done, n| {
            to.get_mut(done..done.saturating_add(n)).map_or(Ok(()), |to| self.0.read(at, to))
        })
    }
    fn write(&self, address: u64, from: &[u8]) -> Result<(), DmaError> {
        self.pieces(address, from.len(), |at, done, n| {
            from.get(done..done.saturating_add(n)).map_or(Ok(()), |from| self.0.write(at, from))
        })
    }
    fn read_file(&self, _: BorrowedFd<'_>, _: u64, _: &[Segment]) -> Result<usize, DmaError> {
        Err(DmaError::None)
    }
    fn write_file(&self, _: BorrowedFd<'_>, _: u64, _: &[Segment]) -> Result<usize, DmaError> {
        Err(DmaError::None)
    }
    fn invalidate(&self) {}
}

impl Frames for Domain {
    fn map(&self, frames: &[u64]) -> Option<Arc<dyn GuestMemory>> {
        // A mapping that exceeds the limit is a fault in every test.
        if frames.len() > BYTES as usize / PAGE {
            std::process::abort();
        }
        frames
            .iter()
            .all(|f| *f < FRAMES)
            .then(|| Arc::new(View(self.0.clone(), frames.to_vec())) as Arc<dyn GuestMemory>)
    }
}

static SUBJECT: Subject = Subject {
    make: |guest, _| Box::new(Vfb::new(Box::new(guest.clone()), Box::new(Domain(guest.memory.clone())))),
    pages: FRAMES as usize,
    nodes: &["page-ref", "event-channel", "protocol", "feature-update"],
    means: &means::VFB,
};

/// A frame buffer of a domain that writes to all of its memory.
pub static TARGET: Target = Target {
    actions: ACTIONS,
    recipes: &[connected, updates, resized, drawn, shown],
    ..Target::new("vfb", |stage| SUBJECT.host(stage.settings))
};

/// Frames of the shared page and of the directory's first page.
const SHARED: u64 = 3;
const DIRECTORY: u64 = 4;
/// Offset of a byte of the shared page.
const fn shared(at: usize) -> u64 {
    (SHARED << 12).saturating_add(at as u64)
}

fn number(at: usize, value: u32) -> Record {
    memory(shared(at), &value.to_le_bytes())
}

/// A picture's size: small ones mostly.
fn side(random: &mut Random) -> u32 {
    if random.one_in(8) { random.number(4) as u32 } else { random.below(96).saturating_add(1) as u32 }
}

/// The domain publishes a picture and connects.
fn connected(random: &mut Random, to: &mut Vec<Record>) {
    let (width, height) = (side(random), side(random));
    let depth = random.of(&[32, 24, 16, 16, 8]).copied().unwrap_or(32);
    let pixel = if depth == 16 { 2 } else { 4 };
    let line = width.wrapping_mul(pixel).wrapping_add(random.below(3).wrapping_mul(4) as u32);
    to.push(number(page::WIDTH, width));
    to.push(number(page::HEIGHT, height));
    to.push(number(page::LINE_LENGTH, line));
    to.push(number(page::DEPTH, depth));
    let len = if random.one_in(8) { random.number(4) as u32 } else { line.wrapping_mul(height).wrapping_add(4096) };
    to.push(number(page::MEM_LENGTH, len));
    to.push(memory(shared(page::DIRECTORY), &DIRECTORY.to_le_bytes()));
    let frames = (0..24u64).flat_map(|i| i.saturating_add(8).to_le_bytes());
    to.push(memory(DIRECTORY << 12, &frames.collect::<Vec<_>>()));
    to.push(node(0, &SHARED.to_string()));
    to.push(node(1, "17"));
    to.push(node(2, random.of(&["x86_64-abi", "x86_64-abi", "x86_64-abi", "x86_32-abi"]).copied().unwrap_or_default()));
    to.push(node(3, "1"));
    to.push(state(State::Initialised));
}

/// The domain tells of parts of the picture that have changed.
fn updates(random: &mut Random, to: &mut Vec<Record>) {
    for _ in 0..=random.below(3) {
        let words = [u32::from(kind::UPDATE), side(random), side(random), side(random), side(random)];
        to.push(sent(&words));
    }
    to.push(event());
}

/// The picture gets another size or place.
fn resized(random: &mut Random, to: &mut Vec<Record>) {
    let (width, height) = (side(random), side(random));
    let depth = random.of(&[32, 16]).copied().unwrap_or(32);
    let offset = if random.one_in(3) { random.number(2) as u32 } else { 0 };
    to.push(sent(&[u32::from(kind::RESIZE), width, height, width.wrapping_mul(depth / 8), depth, offset]));
    to.push(event());
}

/// The domain draws.
fn drawn(random: &mut Random, to: &mut Vec<Record>) {
    to.push(memory((8 << 12) | random.below(0x4000), &random.bytes(64)));
}

/// A viewer looks.
fn shown(_: &mut Random, to: &mut Vec<Record>) {
    to.push(refresh());
}

/// An event of the domain's ring.
fn sent(words: &[u32]) -> Record {
    let ring = Ring {
        counter: shared(page::OUT_PROD) as u16,
        first: shared(page::OUT) as u16,
        entries: page::OUT_LEN as u16,
        entry: page::EVENT as u16,
    };
    let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    bytes.resize(page::EVENT, 0);
    ring.push(&bytes)
}
