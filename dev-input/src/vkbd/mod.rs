//! The back end of a PV keyboard and pointer (libxl gives every HVM guest one): it writes viewers' keys and positions to a page
//! that the guest has granted. Protocol: xen/include/public/io/kbdif.h.
//!
//! The guest can write the page at any time: its counter is read and never trusted; a guest that does not read loses input.
mod exercised;
#[cfg(test)]
mod tests;

use crate::records;
use bulkhead_bus::InputEvent;
use bulkhead_bus::pv::{BackEnd, ConnectFault, EVENTS, Frontend, Handshake, NODES, means, number};
use bulkhead_bus::{Auxiliary, Context, Inspect, Ready};
pub use exercised::TARGET;
use rustix::fd::OwnedFd;
use std::collections::{BTreeSet, VecDeque};

/// Ready number of the pipe with input.
pub const INPUT: u32 = 2;
/// Pages to map: the ring's.
pub const PAGES: usize = 1;
const _: () = assert!(PAGES == means::VKBD.connection as usize);

/// Offsets in the page (struct xenkbd_page).
mod page {
    /// Counter of the events that the guest has read.
    pub(super) const IN_CONS: usize = 0;
    /// Counter of the events that were written.
    pub(super) const IN_PROD: usize = 4;
    /// XENKBD_IN_RING_OFFS.
    pub(super) const IN: usize = 1024;
    /// XENKBD_IN_RING_LEN: events that fit in 2048 bytes.
    pub(super) const IN_LEN: u32 = 51;
    /// Bytes of an event.
    pub(super) const EVENT: usize = 40;
}

/// XENKBD_TYPE_*.
mod kind {
    pub(super) const MOTION: u32 = 1;
    pub(super) const KEY: u32 = 3;
    pub(super) const POS: u32 = 4;
}

/// The pointer's range in both directions, as published in the nodes `width` and `height`.
const RANGE: u32 = 0x8000;
/// evdev's BTN_LEFT; right, middle, side and extra follow.
const BTN_LEFT: u32 = 0x110;
/// Most queued events. A release is queued beyond the limit if its press was queued or sent.
const WAITING: usize = 256;
/// evdev's KEY_MAX, the highest code of a key.
const KEY_MAX: u32 = 0x2ff;

/// The back end of one keyboard and pointer.
pub struct Vkbd {
    front: Box<dyn Frontend>,
    /// The pipe of viewers' [`InputEvent`] records.
    input: Option<OwnedFd>,
    /// The pipe that reports to viewers which input the guest accepts here.
    takes: Option<OwnedFd>,
    handshake: Handshake,
    connected: bool,
    /// The guest has requested absolute positions.
    places: bool,
    /// Number of events written to the ring, which wraps.
    written: u32,
    waiting: VecDeque<[u32; 4]>,
    /// Keys and buttons that are down for the guest, after all queued events.
    down: BTreeSet<u32>,
    sent: u64,
    lost: u64,
}

impl Vkbd {
    /// A keyboard and pointer for the input that comes from `input`. `takes`: which input the guest takes there, a byte each time
    /// that it changes: bit 0 places, 1 keys, 2 movement.
    pub fn new(front: Box<dyn Frontend>, input: Option<OwnedFd>, takes: Option<OwnedFd>) -> Self {
        Self {
            front,
            input,
            takes,
            handshake: Handshake::default(),
            connected: false,
            places: false,
            written: 0,
            waiting: VecDeque::new(),
            down: BTreeSet::new(),
            sent: 0,
            lost: 0,
        }
    }

    /// Reports to viewers which input the guest accepts.
    fn send_wants(&self) {
        let bits = match (self.connected, self.places) {
            (false, _) => 0u8,
            (true, true) => 3,
            (true, false) => 6,
        };
        if let Some(takes) = &self.takes {
            let _ = rustix::io::write(takes, &[bits]);
        }
    }

    /// Encodes an event: 32-bit words, the first with the kind and whether a key is down.
    fn event(&self, event: InputEvent) -> Option<[u32; 4]> {
        let key = |code: u32, down: bool| [kind::KEY | u32::from(down) << 8, code, 0, 0];
        Some(match event {
            InputEvent::Key { code, down } => key(u32::from(code), down),
            InputEvent::Button { button, down } if button < 5 => key(BTN_LEFT.saturating_add(u32::from(button)), down),
            InputEvent::Button { .. } => return None,
            InputEvent::Move { dx, dy, dz } => {
                [kind::MOTION, dx.cast_unsigned(), dy.cast_unsigned(), dz.cast_unsigned()]
            }
            InputEvent::At { x, y } if self.places => [kind::POS, u32::from(x), u32::from(y), 0],
            InputEvent::At { .. } | InputEvent::ViewersBegin => return None,
        })
    }

    fn take_input(&mut self, cx: &mut Context) {
        let Some(input) = &self.input else { return };
        for event in records::take(input, cx) {
            if event == InputEvent::ViewersBegin {
                self.send_wants();
                continue;
            }
            match self.event(event).filter(|event| self.connected && self.may_queue(event)) {
                Some(event) => self.waiting.push_back(event),
                None => self.lost = self.lost.saturating_add(1),
            }
        }
    }

    /// Whether an event may be queued. A press beyond the limit is lost with its release; a release whose press was queued is never
    /// lost.
    fn may_queue(&mut self, event: &[u32; 4]) -> bool {
        let room = self.waiting.len() < WAITING;
        let [what, key, ..] = *event;
        match (what & 0xff, what >> 8 != 0) {
            (kind::KEY, _) if key > KEY_MAX => false,
            (kind::KEY, true) if room => {
                self.down.insert(key);
                true
            }
            (kind::KEY, false) => self.down.remove(&key) || room,
            _ => room,
        }
    }

    /// Writes queued events to the ring as far as they fit.
    fn write(&mut self) {
        let mut wrote = false;
        while self.connected && !self.waiting.is_empty() {
            let unread = self.written.wrapping_sub(self.front.load(page::IN_CONS));
            if unread >= page::IN_LEN {
                break;
            }
            let Some(event) = self.waiting.pop_front() else { break };
            let index = self.written.checked_rem(page::IN_LEN).unwrap_or(0) as usize;
            let at = page::IN.saturating_add(index.saturating_mul(page::EVENT));
            for (word, place) in event.into_iter().zip((at..).step_by(4)) {
                self.front.store(place, word);
            }
            self.written = self.written.wrapping_add(1);
            std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
            self.front.store(page::IN_PROD, self.written);
            self.sent = self.sent.saturating_add(1);
            wrote = true;
        }
        if wrote {
            self.front.notify();
        }
    }
}

impl BackEnd for Vkbd {
    type Fault = ConnectFault;

    fn front(&mut self) -> &mut dyn Frontend {
        &mut *self.front
    }

    fn handshake(&mut self) -> &mut Handshake {
        &mut self.handshake
    }

    fn offer(&mut self) {
        let range = RANGE.to_string();
        for (name, value) in [
            ("feature-abs-pointer", "1"),
            ("feature-raw-pointer", "1"),
            ("width", range.as_str()),
            ("height", range.as_str()),
        ] {
            self.front.set(name, value);
        }
    }

    fn connect(&mut self, cx: &mut Context) -> Result<(), ConnectFault> {
        // Older guests name the page only by its frame number; mapping that would need the right to map any frame.
        let gref = number(&mut *self.front, "page-gref").ok_or(ConnectFault::NoReference("page-gref"))?;
        self.places = number(&mut *self.front, "request-abs-pointer") == Some(1);
        if !self.front.map(0, &[gref]) {
            return Err(ConnectFault::NotGranted);
        }
        self.bind_event_channel(cx)?;
        self.written = self.front.load(page::IN_PROD);
        self.connected = true;
        self.waiting.clear();
        self.down.clear();
        self.send_wants();
        Ok(())
    }

    fn release(&mut self) -> bool {
        self.connected = false;
        self.waiting.clear();
        self.send_wants();
        true
    }
}

impl Auxiliary for Vkbd {
    fn start(&mut self, cx: &mut Context) {
        self.send_wants();
        self.prepare(cx);
    }

    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        self.changes(ready == Ready::Fd(NODES), cx);
        if ready == Ready::Fd(EVENTS) {
            self.front.signalled();
        }
        if matches!(ready, Ready::Fd(INPUT) | Ready::Again) {
            self.take_input(cx);
        }
        self.write();
    }

    fn inspect(&self, out: &mut Inspect) {
        out.value("state", format!("{:?}", self.handshake.state)).value("places", self.places);
        out.value("events", self.sent).value("lost", self.lost).value("waiting", self.waiting.len());
    }
}
