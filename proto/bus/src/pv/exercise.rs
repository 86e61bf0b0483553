//! A PV back end as a subject of [`crate::exercise`]: its guest and its host are the acts of a target's host. The guest's rings and
//! pages are bytes that it writes; each back end's recipes know what they mean.
use super::means::CALLS_PER_NOTICE;
use super::{EVENTS, Means, NODES, PORT};
use crate::exercise::{Host, Kind, Record, SETTINGS};
use crate::fake::FakeFrontend;
use crate::{Auxiliary, Context, Device, Display, GuestMemory as _, Inspect, Ready, Surface, Unseen};

/// References that the guest grants.
const GRANTED: std::ops::Range<u32> = 8..200;
/// Most entries of one push.
const PUSHED: usize = 256;
/// How often a further descriptor of the back end is tried after each of its turns.
const TRIES: usize = 4;

/// A back end to be tested.
pub struct Subject {
    /// Builds the back end for a front end, with the input's settings.
    pub make: fn(&FakeFrontend, [u8; SETTINGS]) -> Box<dyn Auxiliary>,
    /// Pages of its range.
    pub pages: usize,
    /// Nodes of the front end that the back end reads, besides `state`.
    pub nodes: &'static [&'static str],
    /// What the back end may use.
    pub means: &'static Means,
}

/// A ring of the guest's, in the back end's range.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    /// Offset of the word that counts the entries that the guest has written.
    pub counter: u16,
    /// Offset of the first entry.
    pub first: u16,
    /// Number of entries.
    pub entries: u16,
    /// Bytes of an entry.
    pub entry: u16,
}

impl Ring {
    /// The guest puts entries into the ring, one after the other; the last one may be incomplete.
    pub fn push(self, bytes: &[u8]) -> Record {
        act(Action::Push, self.word(), bytes)
    }

    fn word(self) -> u64 {
        [self.entry, self.entries, self.first, self.counter].iter().fold(0, |all, one| all << 16 | u64::from(*one))
    }

    fn of(word: u64) -> Self {
        let [counter, first, entries, entry] = [0, 16, 32, 48].map(|shift| (word >> shift) as u16);
        Self { counter, first, entries, entry }
    }

    fn put(self, guest: &FakeFrontend, bytes: &[u8]) {
        let (entry, at) = (usize::from(self.entry).max(1), usize::from(self.counter));
        for one in bytes.chunks(entry).take(PUSHED) {
            let number = guest.word(at);
            let place = number.checked_rem(u32::from(self.entries)).unwrap_or(0) as usize;
            let to = usize::from(self.first).saturating_add(place.saturating_mul(entry));
            let _ = guest.memory.write(to as u64, one);
            guest.set_word(at, number.wrapping_add(1));
        }
    }
}

/// What guest and host do to a back end.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
enum Action {
    /// The guest sets node `value` of the subject's to the data.
    Node,
    /// It removes that node.
    Gone,
    /// It sets its state to `value`, and the back end hears of that.
    State,
    /// It writes the data at `value` of the back end's range.
    Memory,
    /// It sets a word: bits 32 to 63 of `value` are the place, the others the word.
    Word,
    /// It adds bits 0 to 7 of `value` to the word at bits 8 to 31.
    Add,
    /// It puts the data into a ring and counts the entries: `value` is [`Ring::word`]'s.
    Push,
    /// It writes the data at `value` of each granted page, for copies.
    Page,
    /// The host sets `frontend` (`value` 0) or `params` to the data, or removes it if there is none.
    Host,
    /// xenstored does not answer any more, or again.
    Silent,
    /// All pages of this life are used up.
    Spent,
    /// A viewer wants the picture.
    Refresh,
}
/// Number of actions.
pub const ACTIONS: u8 = Action::Refresh as u8 + 1;

fn act(action: Action, value: u64, data: &[u8]) -> Record {
    Record::host(action as u8, value, data)
}

/// The guest sets the node with this index among the subject's.
pub fn node(index: u64, text: &str) -> Record {
    act(Action::Node, index, text.as_bytes())
}

/// The guest sets its state, and the back end hears of it.
pub fn state(state: super::State) -> Record {
    act(Action::State, state as u64, &[])
}

/// The guest writes to the back end's range.
pub fn memory(at: u64, bytes: &[u8]) -> Record {
    act(Action::Memory, at, bytes)
}

/// The guest writes at an offset of each page that it grants for copies.
pub fn page(at: u64, bytes: &[u8]) -> Record {
    act(Action::Page, at, bytes)
}

/// The guest sets a 32-bit word of the range.
pub fn word(at: u32, value: u32) -> Record {
    act(Action::Word, u64::from(at) << 32 | u64::from(value), &[])
}

/// The guest adds to a 32-bit word of the range: a ring's counter.
pub fn add(at: u32, count: u8) -> Record {
    act(Action::Add, u64::from(at) << 8 | u64::from(count), &[])
}

/// The guest signals the event channel.
pub fn event() -> Record {
    Record { place: EVENTS as u8, ..Record::new(Kind::Ready) }
}

/// A viewer wants the picture.
pub fn refresh() -> Record {
    act(Action::Refresh, 0, &[])
}

/// The back end hears that nodes have changed.
pub fn notice() -> Record {
    Record { place: NODES as u8, ..Record::new(Kind::Ready) }
}

impl Subject {
    /// The subject's guest and host.
    pub fn host(&'static self, settings: [u8; SETTINGS]) -> Box<dyn Host> {
        let guest = FakeFrontend::new(self.pages, &GRANTED.collect::<Vec<_>>());
        for back in [true, false] {
            guest.put(back, "state", "1");
        }
        guest.with(|w| w.means = Some(self.means));
        Box::new(Surroundings { subject: self, guest, settings })
    }
}

struct Surroundings {
    subject: &'static Subject,
    guest: FakeFrontend,
    settings: [u8; SETTINGS],
}

impl Host for Surroundings {
    fn device(&mut self) -> Box<dyn Device> {
        let (make, settings) = (self.subject.make, self.settings);
        let back_end = make(&self.guest, settings);
        Box::new(Unseen(Lives { make, settings, guest: self.guest.clone(), back_end, started: false }))
    }

    fn act(&mut self, action: u8, value: u64, data: &[u8], device: &mut dyn Device, cx: &mut Context) {
        let guest = &self.guest;
        let place = (value as usize).checked_rem(self.subject.nodes.len().saturating_add(1)).unwrap_or(0);
        let name = self.subject.nodes.get(place).copied().unwrap_or("state");
        match action {
            a if a == Action::Node as u8 => guest.put(false, name, &String::from_utf8_lossy(data)),
            a if a == Action::Gone as u8 => drop(guest.with(|w| w.nodes.remove(&(false, name.to_owned())))),
            a if a == Action::State as u8 => {
                guest.put(false, "state", &value.to_string());
                device.poll(Ready::Fd(NODES), cx);
            }
            a if a == Action::Memory as u8 => drop(guest.memory.write(value, data)),
            a if a == Action::Word as u8 => guest.set_word((value >> 32) as usize, value as u32),
            a if a == Action::Add as u8 => {
                let at = (value >> 8 & 0xff_ffff) as usize;
                guest.set_word(at, guest.word(at).wrapping_add((value & 0xff) as u32));
            }
            a if a == Action::Push as u8 => Ring::of(value).put(guest, data),
            a if a == Action::Page as u8 => guest.with(|w| {
                let from = usize::try_from(value).unwrap_or(usize::MAX);
                w.shared.iter_mut().skip(from).zip(data).for_each(|(to, from)| *to = *from);
            }),
            a if a == Action::Host as u8 => {
                let name = if value == 0 { "frontend" } else { "params" };
                match data {
                    [] => drop(guest.with(|w| w.nodes.remove(&(true, name.to_owned())))),
                    text => guest.put(true, name, &String::from_utf8_lossy(text)),
                }
            }
            a if a == Action::Silent as u8 => guest.with(|w| w.silent = !w.silent),
            a if a == Action::Spent as u8 => guest.with(|w| w.spent = true),
            a if a == Action::Refresh as u8 => {
                if let Some(display) = device.display() {
                    display.refresh(&mut Nowhere);
                }
            }
            _ => {}
        }
    }

    fn check(&mut self) -> Result<(), String> {
        if let Some(line) = self.guest.with(|w| w.wrong.take()) {
            return Err(line);
        }
        let calls = self.guest.with(|w| w.asked);
        if calls > CALLS_PER_NOTICE {
            return Err(format!("{calls} calls to xenbus after one notice"));
        }
        Ok(())
    }
}

struct Nowhere;

impl Surface for Nowhere {
    fn begin(&mut self, _: usize, _: usize) -> bool {
        true
    }
    fn line(&mut self, _: usize, _: &[u32]) {}
    fn end(&mut self) {}
}

/// The back end, and those that take its place when it ends its own process.
struct Lives {
    make: fn(&FakeFrontend, [u8; SETTINGS]) -> Box<dyn Auxiliary>,
    settings: [u8; SETTINGS],
    guest: FakeFrontend,
    back_end: Box<dyn Auxiliary>,
    started: bool,
}

impl Lives {
    /// A process's life begins. It is the first one of this back end, or another process takes its place.
    fn begin(&mut self, cx: &mut Context) {
        if std::mem::replace(&mut self.started, true) {
            self.back_end = (self.make)(&self.guest, self.settings);
        }
        let bound = self.guest.with(|w| {
            (w.mapped, w.asked, w.spent, w.ended) = (0, 0, false, false);
            w.bound
        });
        if let Some(port) = bound {
            cx.marks.after(PORT, u64::from(port));
        }
        self.back_end.start(cx);
        cx.marks.forget();
    }
}

impl Auxiliary for Lives {
    fn start(&mut self, cx: &mut Context) {
        self.begin(cx);
    }

    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        if ready == Ready::Fd(NODES) {
            self.guest.with(|w| w.asked = 0);
        }
        self.back_end.poll(ready, cx);
        for _ in 0..TRIES {
            // A further descriptor of the back end: work that has ended.
            self.back_end.poll(Ready::Fd(NODES.saturating_add(1)), cx);
        }
        if self.guest.with(|w| w.ended) {
            self.begin(cx);
        }
    }

    fn running(&mut self, running: bool, cx: &mut Context) {
        self.back_end.running(running, cx);
    }

    fn at_rest(&self) -> bool {
        self.back_end.at_rest()
    }

    fn display(&mut self) -> Option<&mut dyn Display> {
        self.back_end.display()
    }

    fn inspect(&self, out: &mut Inspect) {
        self.back_end.inspect(out);
    }
}
