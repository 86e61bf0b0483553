//! Turns bytes into actions of a guest and a host on a PV back end and checks invariants after each: the body of every back end's
//! fuzz target and of its corpus test.
use super::means::CALLS_PER_NOTICE;
use super::{EVENTS, Means, NODES, PORT};
use crate::exercise::Input;
use crate::fake::{self, FakeFrontend};
use crate::{Auxiliary, Context, GuestMemory as _, Inspect, Ready, Surface};

/// Most steps of one run; the rest of the input is ignored.
const STEPS: usize = 1000;
/// Most calls of `poll` until the work of one step must be complete.
const POLLS: usize = 100_000;
/// References that the guest grants.
const GRANTED: std::ops::Range<u32> = 8..200;

/// A back end to be tested.
pub struct Subject<'a> {
    /// Builds the back end for a front end.
    pub make: &'a dyn Fn(&FakeFrontend) -> Box<dyn Auxiliary>,
    /// Pages of its range.
    pages: usize,
    /// Nodes of the front end that the back end reads, besides `state`.
    nodes: &'a [&'a str],
    /// What the back end may use.
    means: &'static Means,
}

impl<'a> Subject<'a> {
    /// A back end of `make` with `pages` pages in its range, which reads these `nodes` and may use `means`.
    pub fn new(
        make: &'a dyn Fn(&FakeFrontend) -> Box<dyn Auxiliary>,
        pages: usize,
        nodes: &'a [&'a str],
        means: &'static Means,
    ) -> Self {
        Self { make, pages, nodes, means }
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

struct Run<'a> {
    subject: &'a Subject<'a>,
    guest: FakeFrontend,
    device: Box<dyn Auxiliary>,
    cx: Context,
}

/// Runs a back end through the actions that `bytes` encode.
///
/// # Errors
/// The invariant that does not hold.
pub fn exercise(subject: &Subject<'_>, bytes: &[u8]) -> Result<(), String> {
    let guest = FakeFrontend::new(subject.pages, &GRANTED.collect::<Vec<_>>());
    for back in [true, false] {
        guest.put(back, "state", "1");
    }
    guest.with(|w| w.means = Some(subject.means));
    let mut run = Run { subject, device: (subject.make)(&guest), guest, cx: fake::context(0) };
    run.device.start(&mut run.cx);
    let mut input = Input(bytes);
    for _ in 0..STEPS {
        let Some(what) = input.byte() else { break };
        run.step(what, &mut input);
        run.settle()?;
        if let Some(line) = run.guest.with(|w| w.wrong.take()) {
            return Err(line);
        }
        let calls = run.guest.with(|w| w.asked);
        if calls > CALLS_PER_NOTICE {
            return Err(format!("{calls} calls to xenbus after one notice"));
        }
    }
    Ok(())
}

/// [`exercise`] with every file of a directory, of which there must be one at least.
///
/// # Errors
/// The file, and the invariant that does not hold.
pub fn seeds(subject: &Subject<'_>, directory: &str) -> Result<(), String> {
    crate::exercise::files(directory, "")?
        .iter()
        .try_for_each(|(name, bytes)| exercise(subject, bytes).map_err(|e| format!("{name}: {e}")))
}

impl Run<'_> {
    fn step(&mut self, what: u8, input: &mut Input<'_>) {
        match what & 0x0f {
            0 | 1 => {
                let name = usize::from(input.byte().unwrap_or(0)).checked_rem(self.subject.nodes.len());
                let name = name.and_then(|i| self.subject.nodes.get(i)).copied().unwrap_or("state");
                match what >> 4 {
                    0 => self.guest.put(false, name, &input.byte().unwrap_or(0).to_string()),
                    1 => self.guest.put(false, name, &input.number(4).to_string()),
                    2 => self.guest.put(false, name, "x86_32-abi"),
                    3 => self.guest.put(false, name, "x86_64-abi"),
                    4 => drop(self.guest.with(|w| w.nodes.remove(&(false, name.to_owned())))),
                    _ => self.guest.put(false, name, &String::from_utf8_lossy(&input.bytes())),
                }
            }
            2 => {
                self.guest.put(false, "state", &(what >> 4).to_string());
                self.notice();
            }
            3 => {
                let (at, bytes) = (input.number(3), input.bytes());
                let _ = self.guest.memory.write(at, &bytes);
            }
            4 => {
                let (at, value) = (input.number(2) as usize, input.number(4) as u32);
                self.guest.set_word(at, value);
            }
            5 => {
                // A ring counter advances by a few.
                let at = input.number(2) as usize;
                self.guest.set_word(at, self.guest.word(at).wrapping_add(u32::from(what >> 4)));
            }
            6 | 7 => self.device.poll(Ready::Fd(EVENTS), &mut self.cx),
            8 => self.notice(),
            9 => {
                // The host removes the device, replaces it by another, or restores it.
                let name = if what & 0x10 == 0 { "frontend" } else { "params" };
                match input.byte() {
                    Some(0) => drop(self.guest.with(|w| w.nodes.remove(&(true, name.to_owned())))),
                    other => self.guest.put(true, name, &other.unwrap_or(0).to_string()),
                }
            }
            10 if what & 0x10 == 0 => self.guest.with(|w| w.silent = !w.silent),
            // All pages of this life are used up.
            10 => self.guest.with(|w| w.spent = true),
            11 => {
                let bytes = input.bytes();
                self.guest.with(|w| {
                    let at = usize::from(what >> 4).wrapping_mul(256);
                    for (to, from) in w.shared.iter_mut().skip(at).zip(bytes) {
                        *to = from;
                    }
                });
            }
            12 => self.begin_life(),
            13 => drop(self.device.display().and_then(|d| d.screenshot())),
            14 => {
                if let Some(display) = self.device.display() {
                    display.refresh(&mut Nowhere);
                }
            }
            _ => self.device.inspect(&mut Inspect::default()),
        }
    }

    /// Reports changed nodes.
    fn notice(&mut self) {
        self.guest.with(|w| w.asked = 0);
        self.device.poll(Ready::Fd(NODES), &mut self.cx);
    }

    /// The process dies, and another continues.
    fn begin_life(&mut self) {
        let bound = self.guest.with(|w| {
            (w.mapped, w.asked, w.spent, w.ended) = (0, 0, false, false);
            w.bound.unwrap_or(0)
        });
        self.device = (self.subject.make)(&self.guest);
        self.cx = fake::context(0);
        self.cx.marks.after(PORT, u64::from(bound));
        self.device.start(&mut self.cx);
        self.cx.marks.forget();
    }

    /// Polls until the back end has finished its work, which must take a bounded number of calls.
    fn settle(&mut self) -> Result<(), String> {
        for round in 0..POLLS {
            if self.guest.with(|w| w.ended) {
                self.begin_life();
            } else if self.cx.take_again() {
                self.device.poll(Ready::Again, &mut self.cx);
            } else if round < 64 {
                // A further descriptor of the back end.
                self.device.poll(Ready::Fd(NODES.saturating_add(1)), &mut self.cx);
            } else {
                return Ok(());
            }
        }
        Err("what a step has started has no end".into())
    }
}
