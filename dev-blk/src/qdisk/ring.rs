//! The back end's side of the shared ring (xen/include/public/io/ring.h). Its counters wrap freely; an entry's index is the counter
//! modulo the ring's size, which is a power of two.
use super::spec::{Layout, Request, entries, ring};
use bulkhead_bus::GuestMemory;
use bulkhead_bus::pv::Frontend;
use std::sync::atomic::{Ordering, fence};

/// Why the ring cannot be used any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RingFault {
    #[error("more requests than it has room for")]
    Overfull,
    #[error("its pages are gone")]
    PagesGone,
}

/// A connected ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    layout: Layout,
    entries: u32,
    /// Counter of taken requests.
    taken: u32,
    /// Counters of written answers, and of answers that are published to the guest.
    answered: u32,
    published: u32,
}

impl Ring {
    /// The ring in the first pages of the range. It begins at the last answer of an earlier process; `None` if the counters are
    /// impossible.
    pub(super) fn new(front: &dyn Frontend, pages: usize, layout: Layout) -> Option<Self> {
        let (asked, answered) = (front.load(ring::REQ_PROD), front.load(ring::RSP_PROD));
        let entries = entries(pages, layout);
        (asked.wrapping_sub(answered) <= entries && entries > 0).then_some(Self {
            layout,
            entries,
            taken: answered,
            answered,
            published: answered,
        })
    }

    /// Number of entries.
    pub(super) fn entries(&self) -> u32 {
        self.entries
    }

    /// Offset of an entry in the range.
    fn at(&self, counter: u32) -> u64 {
        let index = (counter & self.entries.wrapping_sub(1)) as usize;
        ring::ENTRIES.saturating_add(index.saturating_mul(self.layout.entry())) as u64
    }

    /// A copy of the next request. If there is none, the guest will signal the next one.
    pub(super) fn take(
        &mut self,
        front: &dyn Frontend,
        memory: &dyn GuestMemory,
    ) -> Result<Option<Request>, RingFault> {
        let mut asked = front.load(ring::REQ_PROD);
        if asked == self.taken {
            front.store(ring::REQ_EVENT, self.taken.wrapping_add(1));
            // The request for a signal must be visible before the counter is read again.
            fence(Ordering::SeqCst);
            asked = front.load(ring::REQ_PROD);
            if asked == self.taken {
                return Ok(None);
            }
        }
        // More unanswered requests than the ring has entries.
        if asked.wrapping_sub(self.answered) > self.entries {
            return Err(RingFault::Overfull);
        }
        fence(Ordering::Acquire);
        let mut copy = vec![0; self.layout.entry()];
        memory.read(self.at(self.taken), &mut copy).map_err(|_| RingFault::PagesGone)?;
        self.taken = self.taken.wrapping_add(1);
        Ok(Some(Request::parse(&copy, self.layout)))
    }

    /// Writes an answer; [`Self::publish`] makes it visible.
    pub(super) fn answer(&mut self, memory: &dyn GuestMemory, id: u64, operation: u8, status: i16) {
        let _ = memory.write(self.at(self.answered), &self.layout.response(id, operation, status));
        self.answered = self.answered.wrapping_add(1);
    }

    /// Publishes the written answers. Returns whether the guest has requested a signal.
    pub(super) fn publish(&mut self, front: &dyn Frontend) -> bool {
        let (old, new) = (self.published, self.answered);
        fence(Ordering::Release);
        front.store(ring::RSP_PROD, new);
        self.published = new;
        fence(Ordering::SeqCst);
        let event = front.load(ring::RSP_EVENT);
        new.wrapping_sub(event) < new.wrapping_sub(old)
    }
}
