//! The outside of a card for its fuzz target and its corpus test: the wire, the other machines, and the person who sets rules.
//!
//! | file | what |
//! |---|---|
//! | `settings.rs` | what a run's settings mean |
//! | `frames.rs` | frames of the guest and of others |
//! | `wire.rs` | a back end that checks what it gets |
//! | `socket.rs` | the real back ends, with the other end of their sockets |
pub(crate) mod frames;
mod settings;
mod socket;
mod wire;

use crate::backend::Backend;
use crate::frame::{self, ETHERNET, Frame, GsoKind, Offload, Partial, Segmentation};
use bulkhead_bus::exercise::{Host, Random, Record, Stage};
use bulkhead_bus::nic::NicSettings;
use bulkhead_bus::{Context, Device, Inspect, Ready};
use frames::Plan;
use rustix::fd::OwnedFd;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
pub(crate) use settings::Setup;
use settings::{Medium, Taking, rules};
use socket::Socket;
use wire::Wire;

/// The card's address.
pub(crate) const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
/// Most frames that the outside has for a card at once: from others, and back from the wire.
pub(crate) const ARRIVING: u64 = 2 * wire::COMING as u64;
/// Most segments of one of them: 64 KiB in the smallest segments.
pub(crate) const SEGMENTS: u64 = (frame::MAX as u64).div_ceil(crate::offload::SMALLEST as u64);

/// What happens outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Action {
    /// Frames arrive: `value` says of which kind ([`Plan::of_another`], 11 bits), how many (2 bits) and with which offloads (3 bits);
    /// `data` has the kind's variant, and numbers for the offloads.
    Arrive,
    /// The same, but the card has not been told yet.
    Queue,
    /// A frame of these bytes arrives: repeated up to `value`'s length (11 bits, times 32 with bit 15), for the destination in bits 12
    /// to 14 if they are not 0.
    Bytes,
    /// A frame with this virtio_net_hdr arrives; from a socket, exactly these bytes do.
    Header,
    /// The back end takes frames in another way: `value`'s lowest 2 bits; it has room for as many as the next 6 say.
    Take,
    /// The link is up or down.
    Link,
    /// There are other rules.
    Rules,
    /// A capture begins (1 to 3: read, its reader has gone, its pipe is full) or ends.
    Capture,
    /// The retry of a full back end comes early.
    Retry,
    /// A person looks at the card.
    Look,
}

impl Action {
    /// All of them, by number.
    pub(crate) const ALL: [Self; 10] = [
        Self::Arrive,
        Self::Queue,
        Self::Bytes,
        Self::Header,
        Self::Take,
        Self::Link,
        Self::Rules,
        Self::Capture,
        Self::Retry,
        Self::Look,
    ];

    /// A record of it.
    pub(crate) fn record(self, value: u64, data: &[u8]) -> Record {
        Record::host(self as u8, value, data)
    }
}

/// Builds a card at a back end.
pub(crate) type Build = fn(&Setup, Box<dyn Backend>, &NicSettings) -> Box<dyn Device>;

/// The outside of a card.
pub(crate) struct Outside {
    setup: Setup,
    build: Build,
    /// The settings in force.
    nic: NicSettings,
    wire: Wire,
    socket: Option<Socket>,
    /// The reading end of the capture's pipe, and whether something else was written to it.
    reader: Option<(OwnedFd, bool)>,
    /// What was wrong with a capture.
    wrong: Option<String>,
    /// Number of the card's retry timer.
    retry: u8,
}

impl Outside {
    /// The outside of a run.
    pub(crate) fn new(stage: &Stage, retry: u8, build: Build) -> Self {
        let setup = Setup::of(stage.settings);
        let wire = Wire::new(&setup);
        let socket = (setup.medium != Medium::Memory).then(|| Socket::new(&setup)).flatten();
        Self { nic: setup.nic.clone(), setup, build, wire, socket, reader: None, wrong: None, retry }
    }

    /// Looks at what came out of a socket.
    fn drain(&mut self) {
        if let Some(socket) = &mut self.socket {
            socket.drain(&self.wire);
        }
    }

    fn arrive(&mut self, frame: Frame) {
        match &mut self.socket {
            Some(socket) => socket.put(&frame),
            None => self.wire.put(frame),
        }
    }

    fn set(&mut self, device: &mut dyn Device, cx: &mut Context) {
        let former = self.wire.set(&self.nic);
        if let Some(socket) = &mut self.socket {
            socket.change(&former);
        }
        if let Some(card) = device.card() {
            card.set_nic(&self.nic, cx);
        }
    }

    fn capture(&mut self, value: u64, device: &mut dyn Device) {
        self.read_capture();
        let made = (value & 3 != 0).then(|| pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()).flatten();
        let to = made.map(|(read, write)| {
            let _ = fcntl_setpipe_size(&write, 4096);
            if value & 3 == 3 {
                while rustix::io::write(&write, &[0; 4096]).is_ok() {}
            }
            if value & 3 == 2 {
                // A write fails at once, as without a reader, and no signal ends the fuzzer.
                return read;
            }
            self.reader = Some((read, value & 3 == 3));
            write
        });
        if let Some(card) = device.card() {
            card.capture(to);
        }
    }

    /// A capture is a header of a file, then records of whole frames; the last one may not be complete.
    fn read_capture(&mut self) {
        let Some((read, filled)) = self.reader.take() else { return };
        let mut file = vec![0; 1 << 16];
        let n = rustix::io::read(&read, &mut file[..]).unwrap_or(0);
        file.truncate(n);
        if filled || n < 24 {
            return;
        }
        let word = |at: usize| file.get(at..).and_then(|b| b.first_chunk::<4>()).map(|b| u32::from_le_bytes(*b));
        let mut at = 24usize;
        while let (Some(kept), Some(len)) = (word(at.saturating_add(8)), word(at.saturating_add(12))) {
            if word(0) != Some(0xa1b2_3c4d) || kept != len || len as usize > frame::MAX {
                self.wrong = Some(format!("a capture has a record of {kept} bytes of {len} at {at}"));
                return;
            }
            at = at.saturating_add(16).saturating_add(len as usize);
        }
    }
}

impl Host for Outside {
    fn device(&mut self) -> Box<dyn Device> {
        let back: Box<dyn Backend> = match self.socket.as_mut().map(Socket::backend) {
            Some(Some(back)) => back,
            _ => Box::new(self.wire.clone()),
        };
        (self.build)(&self.setup, back, &self.nic)
    }

    fn act(&mut self, action: u8, value: u64, data: &[u8], device: &mut dyn Device, cx: &mut Context) {
        // What was sent before is judged by the rules before.
        self.drain();
        let action = usize::from(action).checked_rem(Action::ALL.len()).and_then(|i| Action::ALL.get(i).copied());
        match action.unwrap_or(Action::Look) {
            Action::Arrive | Action::Queue => {
                for _ in 0..=(value >> 11 & 3) {
                    self.arrive(arriving(value, data));
                }
            }
            Action::Bytes => {
                let len = (value & 0x7ff) as usize;
                let len = if value & 0x8000 != 0 { len.saturating_mul(32).saturating_add(49) } else { len };
                let mut bytes: Vec<u8> = data.iter().copied().cycle().take(len.max(data.len())).collect();
                if value >> 12 & 7 != 0 {
                    let to = Plan::of_another((value >> 12 & 7) << 8, 0).destination;
                    bytes.iter_mut().zip(to).for_each(|(b, a)| *b = a);
                }
                bytes.resize(bytes.len().clamp(ETHERNET, frame::MAX), 0);
                self.arrive(Frame { bytes, offload: Offload::default() });
            }
            Action::Header => match (&mut self.socket, data.split_first_chunk::<{ Offload::LEN }>()) {
                (Some(socket), _) => socket.write(data),
                (None, Some((header, bytes))) if bytes.len() >= ETHERNET => {
                    if let Some(offload) = Offload::from_bytes(header, bytes.len()) {
                        self.wire.put(Frame { bytes: bytes.to_vec(), offload });
                    }
                }
                _ => {}
            },
            Action::Take => self.wire.take(Taking::of(value), value >> 2 & 63),
            Action::Link => {
                self.nic.link = value & 1 != 0;
                self.set(device, cx);
            }
            Action::Rules => {
                self.nic.rules = rules(value);
                self.set(device, cx);
            }
            Action::Capture => self.capture(value, device),
            Action::Retry => device.poll(Ready::Timer(self.retry), cx),
            Action::Look => {
                drop(device.card().map(|card| card.dropped()));
                device.inspect(&mut Inspect::default());
            }
        }
        if matches!(action, Some(Action::Arrive | Action::Bytes | Action::Header)) {
            device.poll(Ready::Fd(crate::FRAMES), cx);
        }
    }

    fn holds(&mut self) -> Result<(), String> {
        self.drain();
        self.read_capture();
        self.wrong.take().or_else(|| self.wire.wrong()).map_or(Ok(()), Err)
    }
}

/// A frame of another machine, with the offloads that a tap leaves to its reader.
fn arriving(value: u64, data: &[u8]) -> Frame {
    let [variant, a, b] = [0, 1, 2].map(|i| data.get(i).copied().unwrap_or(0));
    let plan = Plan::of_another(value, variant);
    let (start, field) = plan.above();
    let bytes = plan.bytes();
    let short = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    let right = Partial { start: short(start), offset: short(field.saturating_sub(start)) };
    let kind = if plan.is_ipv4() { GsoKind::Tcp4 } else { GsoKind::Tcp6 };
    let size = [1440, 536, 64, 1].get(usize::from(a & 3)).copied().unwrap_or(64);
    let segments = Segmentation { kind, size, headers: short(plan.headers()) };
    let offload = match value >> 13 & 7 {
        1 => Offload { verified: true, ..Offload::default() },
        2 | 3 => Offload { checksum: Some(right), ..Offload::default() },
        4 => Offload { checksum: Some(Partial { start: a.into(), offset: b.into() }), ..Offload::default() },
        5 | 6 => Offload { checksum: Some(right), segmentation: Some(segments), verified: false },
        7 => Offload { segmentation: Some(Segmentation { headers: b.into(), ..segments }), ..Offload::default() },
        _ => Offload::default(),
    };
    // Both kinds of back ends refuse what does not fit.
    let offload = Offload::from_bytes(&offload.to_bytes(), bytes.len())
        .map_or(Offload::default(), |o| Offload { verified: offload.verified, ..o });
    Frame { bytes, offload }
}

/// Records of frames that arrive: often for the card, and of any kind.
pub(crate) fn arrivals(random: &mut Random, to: &mut Vec<Record>) {
    for _ in 0..=random.below(3) {
        let value = random.bits();
        let value = if random.one_in(2) { value & 0xf87f } else { value };
        let action = match random.below(16) {
            0 => Action::Queue,
            1 => Action::Bytes,
            2 => Action::Header,
            _ => Action::Arrive,
        };
        to.push(action.record(value & 0xffff, &random.bytes(if action == Action::Arrive { 3 } else { 80 })));
    }
}

/// Records of what else happens outside.
pub(crate) fn outside(random: &mut Random, to: &mut Vec<Record>) {
    let actions =
        [Action::Take, Action::Link, Action::Rules, Action::Rules, Action::Capture, Action::Retry, Action::Look];
    let action = random.of(&actions).copied().unwrap_or(Action::Look);
    to.push(action.record(random.below(256), &[]));
}
