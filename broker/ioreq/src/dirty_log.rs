//! The pages that devices write while a guest's memory is copied: Xen sees the guest's own writes, and is told those of the devices.
//!
//! Every process that writes guest memory always marks what it has written ([`DirtyMap`]), so nothing has to be switched on there. While
//! the log is on, the broker takes the marks on its tick, and all that are left when the machine's state is asked for.
use crate::dispatcher::Dispatcher;
use crate::edge::{Edge, Marked};
use bulkhead_plan::Slot;
use bulkhead_ring::DirtyMap;
use bulkhead_runtime::SaveError;
use bulkhead_xen_abi::dm_op::Extent;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Words of 64 pages of each map whose marks are taken on a tick: 256 MiB that are written densely. Each map has its own, so that one
/// which a hostile process keeps full does not put the others off.
const WORDS: usize = 1024;
/// Extents of a call: what fits into the buffer of 4 KiB that Linux passes on (drivers/xen/privcmd.c).
const EXTENTS: usize = 256;
/// Most pages that Xen does not take marks of and that are saved by their contents.
pub(crate) const LATE: usize = 16;

/// The maps of all who write the guest's memory.
#[derive(Default)]
pub(crate) struct DirtyLog {
    /// By the slots of their processes; the broker's own is for operands of string operations.
    maps: Vec<(Slot, Arc<DirtyMap>)>,
    pub(crate) on: bool,
    /// Pages that Xen takes no mark of: the last one that the guest has, by Xen's count (public/hvm/dm_op.h says nothing of it).
    late: BTreeSet<u64>,
    /// Xen has refused marks for another reason.
    failed: bool,
    /// Pages that Xen was told.
    pub(crate) told: u64,
}

impl DirtyLog {
    /// The maps of the processes in these slots.
    pub(crate) fn new(maps: Vec<(Slot, Arc<DirtyMap>)>) -> Self {
        Self { maps, ..Self::default() }
    }
}

/// Adds the runs of bits to extents that are in order, and joins neighbours.
fn add(extents: &mut Vec<Extent>, first: u64, bits: u64) {
    let mut rest = bits;
    while rest != 0 {
        let skipped = rest.trailing_zeros();
        let run = (rest >> skipped).trailing_ones();
        rest &= !((u64::MAX >> 64u32.saturating_sub(run)) << skipped);
        let start = first.saturating_add(u64::from(skipped));
        match extents.last_mut() {
            Some(last) if last.first.saturating_add(u64::from(last.count)) == start => {
                last.count = last.count.saturating_add(run);
            }
            _ => extents.push(Extent { count: run, pad: 0, first: start }),
        }
    }
}

impl<E: Edge> Dispatcher<E> {
    /// Begins to tell Xen the pages that devices write, or ends it. What was written before is forgotten: Xen sends every page once
    /// after its own log is on, which comes after this.
    pub fn log_dirty(&mut self, on: bool) {
        if on && !self.dirty.on {
            self.dirty.maps.iter().for_each(|(_, map)| map.clear());
        }
        if on {
            self.dirty.maps.iter().for_each(|(_, map)| map.forget_beyond());
            self.dirty.late.clear();
            self.dirty.failed = false;
        }
        self.dirty.on = on;
    }

    /// Tells Xen pages that were written since the last time, of at most `words` words of 64 pages of each map. Each word is looked at once: a
    /// process that goes on marking keeps nobody here.
    pub(crate) fn tell_dirty(&mut self, words: usize) {
        let mut extents = Vec::new();
        // Above the first page that Xen refuses it refuses every one.
        let mut above = u64::MAX;
        for (slot, map) in self.dirty.maps.clone() {
            let base = self.first_frame(slot);
            let (mut place, mut left) = (Some(0), words);
            while let Some(from) = place.filter(|_| left > 0) {
                // So many words have a bounded number of extents.
                let some = left.min(EXTENTS);
                place = map.take_from(from, some, |first, bits| add(&mut extents, first.saturating_add(base), bits));
                left = left.saturating_sub(some);
                self.tell(&extents, &mut above);
                extents.clear();
            }
        }
    }

    /// The frame of the first page of a device's map: a display's is for its video RAM.
    fn first_frame(&self, slot: Slot) -> u64 {
        let is_display =
            |vram: &&crate::dispatcher::VideoRam| vram.is_of(self.channels.iter().position(|c| c.slot == slot));
        self.video_ram.as_ref().filter(is_display).map_or(0, |vram| vram.gfn)
    }

    fn tell(&mut self, extents: &[Extent], above: &mut u64) {
        for batch in extents.chunks(EXTENTS) {
            let mut batch: Vec<Extent> = batch.iter().filter(|e| e.first < *above).copied().collect();
            match self.edge.modified(&batch) {
                Marked::Done => {
                    self.dirty.told =
                        batch.iter().map(|e| u64::from(e.count)).fold(self.dirty.told, u64::saturating_add);
                }
                Marked::Failed => self.dirty.failed = true,
                // One of them is the reason, and others of them may not have been carried out.
                Marked::Beyond => {
                    batch.sort_unstable_by_key(|e| e.first);
                    for extent in batch {
                        if extent.first < *above {
                            self.tell_one(extent, above);
                        }
                    }
                }
            }
        }
    }

    /// Tells Xen the part of an extent that it takes. The page after that is kept for the end, if it is memory.
    fn tell_one(&mut self, extent: Extent, above: &mut u64) {
        // The largest number of pages that it takes.
        let (mut good, mut bad) = (0, extent.count.saturating_add(1));
        while bad.saturating_sub(good) > 1 {
            let count = good.saturating_add(bad.saturating_sub(good) / 2);
            match self.edge.modified(&[Extent { count, ..extent }]) {
                Marked::Done => good = count,
                Marked::Beyond => bad = count,
                Marked::Failed => {
                    self.dirty.failed = true;
                    return;
                }
            }
        }
        if good < extent.count {
            *above = extent.first.saturating_add(u64::from(good));
            if self.dirty.late.len() <= LATE && self.page(*above).is_some() {
                self.dirty.late.insert(*above);
            }
        }
    }

    /// The contents of a guest's page.
    fn page(&self, gfn: u64) -> Option<Vec<u8>> {
        let mut page = vec![0; 4096];
        self.memory.read(gfn << 12, &mut page).ok().map(|()| page)
    }

    /// Called on the tick.
    pub(crate) fn dirty_tick(&mut self) {
        if self.dirty.on {
            self.tell_dirty(WORDS);
        }
    }

    /// Tells Xen all that is left, of a machine that stands still. Returns the pages that Xen takes no mark of, with their contents.
    ///
    /// # Errors
    /// The memory that Xen sends would not be the guest's.
    pub(crate) fn end_of_log(&mut self) -> Result<Vec<(u64, Vec<u8>)>, SaveError> {
        if !self.dirty.on {
            return Ok(Vec::new());
        }
        self.tell_dirty(usize::MAX);
        if !self.dirty.maps.iter().all(|(_, map)| map.is_empty()) {
            return Err(SaveError::Writes);
        }
        if self.dirty.failed {
            return Err(SaveError::Refused);
        }
        if self.dirty.maps.iter().any(|(_, map)| map.beyond()) || self.dirty.late.len() > LATE {
            return Err(SaveError::Beyond);
        }
        let late = self.dirty.late.iter();
        Ok(late.filter_map(|gfn| Some((*gfn, self.page(*gfn)?))).collect())
    }
}

#[cfg(test)]
mod tests;
