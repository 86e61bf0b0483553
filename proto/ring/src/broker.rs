//! The broker's end of a channel.
use crate::{Poison, SharedArea, doorbell};
use bulkhead_wire::{self as wire, CELL_BODY, Posted, Reply, Request, Shadow, Shape, reply, request};

/// An interrupt line, as the device has published it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineState {
    /// The line is asserted.
    pub level: bool,
    /// Number of pulses and rises, which wraps; a change is an edge that must not be lost.
    pub edges: u32,
}

/// The broker's end of a channel: writes the request area, reads the reply area.
#[derive(Debug)]
pub struct BrokerEnd {
    request: SharedArea,
    reply: SharedArea,
    shape: Shape,
    sequence: Vec<u32>,
    posted_head: u32,
    posted_tail: u32,
}

impl BrokerEnd {
    /// Writes this side's header. The device checks it when it receives the area, which is before [`Self::new`].
    pub fn greet(request: &SharedArea) {
        request.write_hello(request::HEADER);
    }

    /// An end with these two areas, whose lengths must be those of `shape`. [`Self::hello`] checks the device's header.
    pub fn new(request: SharedArea, reply: SharedArea, shape: Shape) -> Self {
        Self { request, reply, shape, sequence: vec![0; shape.cells], posted_head: 0, posted_tail: 0 }
    }

    /// Whether the device speaks the same version of the same build.
    pub fn hello(&self) -> Result<(), Poison> {
        self.reply.check_hello(reply::HEADER)
    }

    /// Puts a request into `cell`, which must be free. `payload` goes to the window. Returns whether the device must be rung.
    #[must_use]
    pub fn send(&mut self, cell: usize, mut what: Request, payload: &[u8]) -> bool {
        what.posted = self.posted_head;
        let (Some(at), Some(window), Some(sequence)) = (
            self.shape.cell(request::CELLS, cell),
            self.shape.payload(request::CELLS, cell),
            self.sequence.get_mut(cell),
        ) else {
            return false;
        };
        let fits = payload.len() <= wire::PAYLOAD && self.request.copy_in(window, payload);
        if !fits || !self.request.write(at.wrapping_add(CELL_BODY), &what) {
            return false;
        }
        *sequence = sequence.wrapping_add(1);
        self.request.store_u32(at, *sequence);
        doorbell::publish(self.request.word(request::BELL), self.reply.word(reply::ASLEEP))
    }

    /// The reply in `cell`, or `None` if the device has not answered yet. Call it only while a request is outstanding there.
    pub fn reply(&self, cell: usize) -> Result<Option<Reply>, Poison> {
        let (Some(at), Some(&sequence)) = (self.shape.cell(reply::CELLS, cell), self.sequence.get(cell)) else {
            return Ok(None);
        };
        let theirs = self.reply.load_u32(at);
        if theirs == sequence {
            return Ok(self.reply.read(at.wrapping_add(CELL_BODY)));
        }
        if theirs == sequence.wrapping_sub(1) { Ok(None) } else { Err(Poison::Sequence(cell)) }
    }

    /// Copies the payload of the reply in `cell`.
    #[must_use]
    pub fn payload(&self, cell: usize, to: &mut [u8]) -> bool {
        let inside = to.len() <= wire::PAYLOAD;
        inside && self.shape.payload(reply::CELLS, cell).is_some_and(|window| self.reply.copy_out(window, to))
    }

    /// Posted writes that the device has not handled yet.
    pub fn posted_outstanding(&mut self) -> Result<u32, Poison> {
        let tail = self.reply.load_u32(reply::POSTED_TAIL);
        let outstanding = self.posted_head.wrapping_sub(tail);
        let advanced = tail.wrapping_sub(self.posted_tail);
        if outstanding as usize > wire::POSTED || advanced as usize > wire::POSTED {
            return Err(Poison::PostedTail);
        }
        self.posted_tail = tail;
        Ok(outstanding)
    }

    /// Posts a write. `Ok(None)`: the ring is full. `Ok(Some(n))`: `n` writes are outstanding now. The doorbell is not rung.
    pub fn post(&mut self, what: &Posted) -> Result<Option<u32>, Poison> {
        let outstanding = self.posted_outstanding()?;
        if outstanding as usize >= wire::POSTED {
            return Ok(None);
        }
        let slot = (self.posted_head as usize) & wire::POSTED.wrapping_sub(1);
        let at = request::POSTED_RING.wrapping_add(slot.wrapping_mul(size_of::<Posted>()));
        if !self.request.write(at, what) {
            return Ok(None);
        }
        self.posted_head = self.posted_head.wrapping_add(1);
        self.request.store_u32(request::POSTED_HEAD, self.posted_head);
        Ok(Some(outstanding.saturating_add(1)))
    }

    /// The posted writes that the device has not handled, according to its count.
    pub fn unhandled(&mut self) -> Vec<Posted> {
        let outstanding = self.posted_outstanding().unwrap_or(0);
        let first = self.posted_head.wrapping_sub(outstanding);
        let entry = |i: u32| {
            let slot = (first.wrapping_add(i) as usize) & wire::POSTED.wrapping_sub(1);
            self.request.read(request::POSTED_RING.wrapping_add(slot.wrapping_mul(size_of::<Posted>())))
        };
        (0..outstanding).filter_map(entry).collect()
    }

    /// Announces the posted writes. Returns whether the device must be rung.
    #[must_use]
    pub fn publish_posted(&self) -> bool {
        doorbell::publish(self.request.word(request::BELL), self.reply.word(reply::ASLEEP))
    }

    /// The published state of an interrupt line; deasserted for an index beyond the last.
    pub fn line(&self, index: usize) -> LineState {
        if index >= wire::LINES {
            return LineState::default();
        }
        let word = self.reply.load_u64(reply::LINES_AT.wrapping_add(index.wrapping_mul(8)));
        LineState { level: word & 1 != 0, edges: (word >> 32) as u32 }
    }

    /// A shadowed register's value, if the broker may answer with it.
    pub fn shadow(&self, index: usize) -> Option<u32> {
        if index >= wire::SHADOWS {
            return None;
        }
        let shadow = Shadow::from_bits(self.reply.load_u64(reply::SHADOWS_AT.wrapping_add(index.wrapping_mul(8))));
        shadow.valid().then_some(shadow.value())
    }

    /// The 32 bits of configuration space of `function` that hold byte `offset`, shifted so that this byte is the lowest.
    pub fn config(&self, function: usize, offset: u8) -> u32 {
        if function >= wire::FUNCTIONS {
            return u32::MAX;
        }
        let dword = usize::from(offset & 0xfc);
        let word = self.reply.load_u32(reply::CONFIG_AT.wrapping_add(function.wrapping_mul(256)).wrapping_add(dword));
        word >> (u32::from(offset & 3).wrapping_mul(8))
    }

    /// The device's last complete state, if it has published one, for the process that replaces a dead one.
    pub fn state(&self) -> Result<Option<Vec<u8>>, Poison> {
        let half = match self.reply.load_u32(reply::STATE_HALF) {
            0 => return Ok(None),
            half @ (1 | 2) => half.wrapping_sub(1) as usize,
            _ => return Err(Poison::State),
        };
        let at = reply::STATE_AT.wrapping_add(half.wrapping_mul(wire::STATE));
        let len = self.reply.load_u32(at) as usize;
        if len > wire::STATE.wrapping_sub(8) {
            return Err(Poison::State);
        }
        let mut bytes = vec![0; len];
        if self.reply.copy_out(at.wrapping_add(8), &mut bytes) { Ok(Some(bytes)) } else { Err(Poison::State) }
    }

    /// The count of the device's publications; for [`Self::may_sleep`].
    pub fn bell(&self) -> u32 {
        self.reply.load_u32(reply::BELL)
    }

    /// Announces that the broker sleeps; false if the device has published since `seen`.
    #[must_use]
    pub fn may_sleep(&self, seen: u32) -> bool {
        doorbell::may_sleep(self.request.word(request::ASLEEP), self.reply.word(reply::BELL), seen)
    }

    /// Withdraws the announcement of [`Self::may_sleep`].
    pub fn awake(&self) {
        doorbell::awake(self.request.word(request::ASLEEP));
    }
}
