//! The device's end of a channel.
use crate::{Poison, SharedArea, doorbell};
use bulkhead_wire::{self as wire, CELL_BODY, Op, Posted, Reply, Request, Shadow, Shape, Step, reply, request};
use std::sync::Arc;

/// A piece of work from the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A request and its cell. It must be answered with [`DeviceEnd::reply`].
    Request(usize, Request),
    /// A posted write. It has no answer; [`DeviceEnd::posted_done`] counts it as handled.
    Posted(Posted),
}

/// Bit 63 of a mark: it is set.
const MARK: u64 = 1 << 63;

/// Writes a device's marks: positions that must survive the process.
#[derive(Debug)]
pub struct MarkWriter(Arc<SharedArea>);

impl MarkWriter {
    /// Writes the mark with this number, without its highest bit.
    pub fn write(&self, index: usize, value: u64) {
        if index < wire::MARKS {
            self.0.store_u64(reply::MARKS_AT.wrapping_add(index.wrapping_mul(8)), value | MARK);
        }
    }

    /// The marks that a previous process has left in its area.
    pub fn left(area: &SharedArea) -> [Option<u64>; wire::MARKS] {
        std::array::from_fn(|i| {
            let value = area.load_u64(reply::MARKS_AT.wrapping_add(i.wrapping_mul(8)));
            (value & MARK != 0).then_some(value & !MARK)
        })
    }
}

/// The device's end of a channel: reads the request area, writes the reply area.
#[derive(Debug)]
pub struct DeviceEnd {
    request: SharedArea,
    reply: Arc<SharedArea>,
    shape: Shape,
    taken: Vec<u32>,
    posted_tail: u32,
    next_cell: usize,
}

impl DeviceEnd {
    /// An end with these two areas, whose lengths must be those of `shape`. Writes this side's header.
    pub fn new(request: SharedArea, reply: SharedArea, shape: Shape) -> Self {
        reply.write_hello(reply::HEADER);
        Self { request, reply: Arc::new(reply), shape, taken: vec![0; shape.cells], posted_tail: 0, next_cell: 0 }
    }

    /// Whether the broker speaks the same version of the same build.
    pub fn hello(&self) -> Result<(), Poison> {
        self.request.check_hello(request::HEADER)
    }

    fn next_posted(&mut self, until: u32) -> Result<Option<Posted>, Poison> {
        let outstanding = until.wrapping_sub(self.posted_tail);
        if outstanding as usize > wire::POSTED {
            return Err(Poison::PostedHead);
        }
        if outstanding == 0 {
            return Ok(None);
        }
        let slot = (self.posted_tail as usize) & wire::POSTED.wrapping_sub(1);
        let at = request::POSTED_RING.wrapping_add(slot.wrapping_mul(size_of::<Posted>()));
        let what: Option<Posted> = self.request.read(at);
        match what {
            Some(what) if Self::shaped(what.step, what.size, what.count) => Ok(Some(what)),
            _ => Err(Poison::Posted),
        }
    }

    /// The next piece of work. Posted writes come before the requests that follow them. A posted write counts as handled when
    /// [`Self::posted_done`] is called.
    pub fn take(&mut self) -> Result<Option<Work>, Poison> {
        let head = self.request.load_u32(request::POSTED_HEAD);
        for _ in 0..self.shape.cells {
            let cell = self.next_cell;
            if let Some(at) = self.shape.cell(request::CELLS, cell) {
                let theirs = self.request.load_u32(at);
                let taken = self.taken.get(cell).copied().unwrap_or(theirs);
                if theirs != taken {
                    if theirs != taken.wrapping_add(1) {
                        return Err(Poison::Sequence(cell));
                    }
                    let Some(what) = self.request.read::<Request>(at.wrapping_add(CELL_BODY)) else {
                        return Err(Poison::Request(cell));
                    };
                    if let Some(posted) = self.next_posted(what.posted)? {
                        return Ok(Some(Work::Posted(posted)));
                    }
                    Self::check(&what).ok_or(Poison::Request(cell))?;
                    if let Some(taken) = self.taken.get_mut(cell) {
                        *taken = theirs;
                    }
                    return Ok(Some(Work::Request(cell, what)));
                }
            }
            self.next_cell = if cell.wrapping_add(1) >= self.shape.cells { 0 } else { cell.wrapping_add(1) };
        }
        Ok(self.next_posted(head)?.map(Work::Posted))
    }

    fn check(what: &Request) -> Option<()> {
        Op::from_u8(what.op)?;
        Self::shaped(what.step, what.size, what.count).then_some(())
    }

    /// Whether step, size and count are valid together: a known size, and data that fits the payload window.
    fn shaped(step: u8, size: u8, count: u32) -> bool {
        let bytes = (count as usize).saturating_mul(usize::from(size));
        Step::from_u8(step).is_some() && matches!(size, 1 | 2 | 4 | 8) && count >= 1 && bytes <= wire::PAYLOAD
    }

    /// Counts the posted write that [`Self::take`] returned last as handled.
    pub fn posted_done(&mut self) {
        self.posted_tail = self.posted_tail.wrapping_add(1);
        self.reply.store_u32(reply::POSTED_TAIL, self.posted_tail);
    }

    /// Copies the payload of the request in `cell`.
    #[must_use]
    pub fn payload(&self, cell: usize, to: &mut [u8]) -> bool {
        let inside = to.len() <= wire::PAYLOAD;
        inside && self.shape.payload(request::CELLS, cell).is_some_and(|window| self.request.copy_out(window, to))
    }

    /// Answers the request in `cell`. Lines, shadows and state are published before it. Returns whether the broker must be rung.
    #[must_use]
    pub fn reply(&mut self, cell: usize, what: &Reply, payload: &[u8]) -> bool {
        let (Some(at), Some(window), Some(&sequence)) =
            (self.shape.cell(reply::CELLS, cell), self.shape.payload(reply::CELLS, cell), self.taken.get(cell))
        else {
            return false;
        };
        let fits = payload.len() <= wire::PAYLOAD && self.reply.copy_in(window, payload);
        if !fits || !self.reply.write(at.wrapping_add(CELL_BODY), what) {
            return false;
        }
        self.reply.store_u32(at, sequence);
        self.publish()
    }

    /// Announces changes that were published without a reply, such as interrupt lines. Returns whether the broker must be rung.
    #[must_use]
    pub fn publish(&self) -> bool {
        doorbell::publish(self.reply.word(reply::BELL), self.request.word(request::ASLEEP))
    }

    /// Publishes a line's level and its count of pulses.
    pub fn set_line(&self, index: usize, level: bool, edges: u32) {
        if index < wire::LINES {
            let at = reply::LINES_AT.wrapping_add(index.wrapping_mul(8));
            self.reply.store_u64(at, u64::from(level) | (u64::from(edges) << 32));
        }
    }

    /// Publishes a shadowed register; `None`: only the device can answer now.
    pub fn set_shadow(&self, index: usize, value: Option<u32>) {
        if index < wire::SHADOWS {
            let shadow = value.map_or(Shadow::new(), |v| Shadow::new().with_value(v).with_valid(true));
            self.reply.store_u64(reply::SHADOWS_AT.wrapping_add(index.wrapping_mul(8)), shadow.into_bits());
        }
    }

    /// Publishes a function's configuration space.
    pub fn set_config(&self, function: usize, space: &[u8; 256]) {
        if function < wire::FUNCTIONS {
            let at = reply::CONFIG_AT.wrapping_add(function.wrapping_mul(256));
            let _ = self.reply.copy_in(at, space);
        }
    }

    /// Publishes the state, into the half that the reader does not use. False if it is too long.
    #[must_use]
    pub fn set_state(&self, state: &[u8]) -> bool {
        if state.len() > wire::STATE.wrapping_sub(8) {
            return false;
        }
        let half = if self.reply.load_u32(reply::STATE_HALF) == 1 { 2 } else { 1 };
        let at = reply::STATE_AT.wrapping_add((half as usize).wrapping_sub(1).wrapping_mul(wire::STATE));
        let done = self.reply.copy_in(at.wrapping_add(8), state);
        self.reply.store_u32(at, state.len() as u32);
        self.reply.store_u32(reply::STATE_HALF, half);
        done
    }

    /// A writer of this device's marks.
    pub fn marks(&self) -> MarkWriter {
        MarkWriter(self.reply.clone())
    }

    /// The count of the broker's publications; for [`Self::may_sleep`].
    pub fn bell(&self) -> u32 {
        self.request.load_u32(request::BELL)
    }

    /// Announces that the device sleeps; false if the broker has published since `seen`.
    #[must_use]
    pub fn may_sleep(&self, seen: u32) -> bool {
        doorbell::may_sleep(self.reply.word(reply::ASLEEP), self.request.word(request::BELL), seen)
    }

    /// Withdraws the announcement of [`Self::may_sleep`].
    pub fn awake(&self) {
        doorbell::awake(self.reply.word(reply::ASLEEP));
    }
}
