//! The pages that a process has written: a bitmap that the process sets and the broker takes, for a guest whose memory is copied while it
//! runs.
//!
//! A memfd of its own that outlives the process, so that nothing is lost with it. Both ends write it. What the device writes there can
//! only say too much, at its own guest's cost, or too little of its own writes.
//!
//! The first page has a flag for pages beyond the map. Then come units of [`UNIT_PAGES`] pages: a summary, with a bit for each word of
//! bits, in a page of its own, and the bits.
use crate::{AreaError, SharedArea};
use core::sync::atomic::{Ordering, fence};
use rustix::fd::{AsFd, OwnedFd};

/// Pages of a unit: 1 GiB of the guest.
pub const UNIT_PAGES: u64 = 1 << 18;
const PAGE: usize = bulkhead_wire::PAGE;
/// Bytes of a unit's bits.
const BITS: usize = (UNIT_PAGES / 8) as usize;
const UNIT: usize = PAGE + BITS;
/// Words of a unit's summary: each bit is for one of the 4096 words of bits.
const SUMMARY: usize = BITS / 8 / 64;
/// Offset of the flag.
const BEYOND: usize = 0;

/// A map of written pages.
#[derive(Debug)]
pub struct DirtyMap {
    area: SharedArea,
    units: usize,
}

impl DirtyMap {
    /// Makes the memfd of a map for the pages from 0 to `pages`, rounded up to a unit. Only the parts that are used take memory.
    ///
    /// # Errors
    /// The kernel's.
    pub fn create(pages: u64) -> Result<OwnedFd, AreaError> {
        let units = usize::try_from(pages.div_ceil(UNIT_PAGES).max(1)).unwrap_or(usize::MAX);
        let fd = SharedArea::create("dirty", PAGE.saturating_add(units.saturating_mul(UNIT)))?;
        SharedArea::seal_size(&fd)?;
        Ok(fd)
    }

    /// Maps it. Its size says how many pages it is for.
    ///
    /// # Errors
    /// It has another size than [`Self::create`] gives one, or can be resized; or the kernel's.
    pub fn map(fd: impl AsFd) -> Result<Self, AreaError> {
        let size = rustix::fs::fstat(&fd).map_err(|e| AreaError::System("fstat", e))?.st_size.unsigned_abs();
        let len = usize::try_from(size).unwrap_or(0);
        let units = len.saturating_sub(PAGE) / UNIT;
        let whole = PAGE.saturating_add(units.saturating_mul(UNIT));
        if units == 0 || len != whole {
            return Err(AreaError::Size(size, whole));
        }
        Ok(Self { area: SharedArea::map_fixed(fd, len, true)?, units })
    }

    /// Pages that the map is for.
    pub fn pages(&self) -> u64 {
        (self.units as u64).saturating_mul(UNIT_PAGES)
    }

    /// Marks `count` pages from `first` on, those of them that the map has.
    ///
    /// A page is marked when its bytes are in memory: a mark before that may be taken too early. One before as well outlives a process
    /// that dies between the two.
    pub fn mark(&self, first: u64, count: u64) {
        // The bytes come before the looks at bits that are set already; `take` has the other fence.
        fence(Ordering::SeqCst);
        let end = first.saturating_add(count).min(self.pages());
        let mut page = first;
        while page < end {
            let word = page >> 6;
            let after = end.min(word.saturating_add(1) << 6);
            let (low, bits) = (page & 63, after.saturating_sub(page));
            let mask = (u64::MAX >> 64u64.saturating_sub(bits)) << low;
            if let Some((bits, summary, bit)) = self.places(word) {
                self.set(bits, mask);
                self.set(summary, bit);
            }
            page = after;
        }
    }

    /// Notes that these pages have been written, if the map does not have all of them ([`Self::beyond`]).
    pub fn note(&self, first: u64, count: u64) {
        if first.saturating_add(count) > self.pages() {
            self.set(BEYOND, 1);
        }
    }

    /// Sets bits of a word, which most of the time has them already.
    fn set(&self, offset: usize, bits: u64) {
        if self.area.load_u64(offset) & bits != bits {
            self.area.fetch_or_u64(offset, bits);
        }
    }

    /// Offsets of a word of bits and of its summary's word, and the bit there.
    fn places(&self, word: u64) -> Option<(usize, usize, u64)> {
        let word = usize::try_from(word).ok()?;
        let (unit, inside) = (word / (BITS / 8), word % (BITS / 8));
        let base = PAGE.checked_add(unit.checked_mul(UNIT)?)?;
        let bits = base.checked_add(PAGE)?.checked_add(inside.checked_mul(8)?)?;
        let summary = base.checked_add((inside / 64).checked_mul(8)?)?;
        Some((bits, summary, 1 << (inside % 64)))
    }

    /// Whether a page beyond the map was written.
    pub fn beyond(&self) -> bool {
        self.area.load_u64(BEYOND) != 0
    }

    /// Takes the marks of at most `words` words of 64 pages: calls `with` for each word that has marks, with its first page and its bits.
    /// Returns whether none is left.
    pub fn take(&self, words: usize, with: impl FnMut(u64, u64)) -> bool {
        self.take_from(0, words, with).is_none()
    }

    /// The same from a place on. Returns the place where it has ended, `None` at the map's end: who goes on there looks at each word once,
    /// whatever is marked meanwhile.
    pub fn take_from(&self, place: usize, words: usize, mut with: impl FnMut(u64, u64)) -> Option<usize> {
        let mut left = words;
        for at in place..self.units.saturating_mul(SUMMARY) {
            // The summary's word of the first of its 64 words of bits.
            let first = (at as u64).saturating_mul(64);
            let (_, summary, _) = self.places(first)?;
            if self.area.load_u64(summary) == 0 {
                continue;
            }
            let mut some = self.area.swap_u64(summary, 0);
            while some != 0 {
                if left == 0 {
                    self.area.fetch_or_u64(summary, some);
                    return Some(at);
                }
                left = left.saturating_sub(1);
                let word = first.saturating_add(u64::from(some.trailing_zeros()));
                some &= some.wrapping_sub(1);
                let Some((bits, _, _)) = self.places(word) else { continue };
                let bits = self.area.swap_u64(bits, 0);
                fence(Ordering::SeqCst);
                if bits != 0 {
                    with(word << 6, bits);
                }
            }
        }
        None
    }

    /// Whether there is a mark.
    pub fn is_empty(&self) -> bool {
        (0..self.units.saturating_mul(SUMMARY)).all(|at| {
            self.places((at as u64).saturating_mul(64)).is_none_or(|(_, summary, _)| self.area.load_u64(summary) == 0)
        })
    }

    /// Forgets all marks.
    pub fn clear(&self) {
        self.take(usize::MAX, |_, _| ());
        self.forget_beyond();
    }

    /// Forgets that pages beyond the map were written.
    pub fn forget_beyond(&self) {
        self.area.store_u64(BEYOND, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn map(pages: u64) -> DirtyMap {
        DirtyMap::map(DirtyMap::create(pages).unwrap()).unwrap()
    }

    fn taken(map: &DirtyMap, words: usize) -> (BTreeSet<u64>, bool) {
        let mut pages = BTreeSet::new();
        let all =
            map.take(words, |first, bits| pages.extend((0..64).filter(|i| bits >> i & 1 != 0).map(|i| first + i)));
        (pages, all)
    }

    #[test]
    fn pages_beyond_the_map_are_noted_and_do_no_harm() {
        let map = map(1);
        assert_eq!(map.pages(), UNIT_PAGES);
        let mark = |first, count| {
            map.mark(first, count);
            map.note(first, count);
        };
        mark(UNIT_PAGES - 1, 1);
        assert!(!map.beyond());
        mark(UNIT_PAGES - 2, 3);
        assert!(map.beyond());
        mark(u64::MAX, 5);
        assert_eq!(taken(&map, 99), (BTreeSet::from([UNIT_PAGES - 2, UNIT_PAGES - 1]), true));
        map.clear();
        assert!(!map.beyond());
    }

    #[test]
    fn a_map_of_another_size_is_refused() {
        let fd = SharedArea::create("dirty", 2 * PAGE).unwrap();
        SharedArea::seal_size(&fd).unwrap();
        assert!(matches!(DirtyMap::map(&fd), Err(AreaError::Size(..))));
        let fd = SharedArea::create("dirty", 2 * PAGE + UNIT).unwrap();
        SharedArea::seal_size(&fd).unwrap();
        assert!(matches!(DirtyMap::map(&fd), Err(AreaError::Size(..))), "more than a unit");
        let fd = SharedArea::create("dirty", PAGE + UNIT).unwrap();
        assert!(matches!(DirtyMap::map(&fd), Err(AreaError::Seals(_))));
    }

    proptest! {
        #[test]
        fn what_was_marked_is_taken_once_in_any_number_of_steps(
            ranges in proptest::collection::vec((0..3 * UNIT_PAGES - 300, 0..300u64), 1..20), step in 1usize..9,
        ) {
            let map = map(3 * UNIT_PAGES);
            let mut wanted = BTreeSet::new();
            for (first, count) in ranges {
                map.mark(first, count);
                wanted.extend(first..first + count);
            }
            let mut got = BTreeSet::new();
            loop {
                let (some, all) = taken(&map, step);
                prop_assert!(some.is_disjoint(&got));
                got.extend(some);
                if all {
                    break;
                }
            }
            prop_assert_eq!(got, wanted);
            prop_assert_eq!(taken(&map, 1), (BTreeSet::new(), true));
        }
    }

    /// Every page whose bytes are written after a take is marked for a later one, however the two ends' steps fall.
    #[test]
    fn no_write_is_lost_between_a_taker_and_a_marker() {
        let fd = DirtyMap::create(1).unwrap();
        let (marker, taker) = (DirtyMap::map(&fd).unwrap(), DirtyMap::map(&fd).unwrap());
        let cells: Vec<_> = (0..128).map(|_| core::sync::atomic::AtomicU32::new(0)).collect();
        let done = core::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=20_000u32 {
                    for (page, cell) in cells.iter().enumerate().skip(round as usize % 7).step_by(7) {
                        cell.store(round, Ordering::Relaxed);
                        marker.mark(page as u64, 1);
                    }
                }
                done.store(true, Ordering::Release);
            });
            let mut copy = [0; 128];
            loop {
                let last = done.load(Ordering::Acquire);
                taker.take(usize::MAX, |first, bits| {
                    for i in (0..64).filter(|i| bits >> i & 1 != 0) {
                        let page = first as usize + i;
                        copy[page] = cells[page].load(Ordering::Relaxed);
                    }
                });
                if last {
                    break;
                }
            }
            for (page, cell) in cells.iter().enumerate() {
                assert_eq!(copy[page], cell.load(Ordering::Relaxed), "page {page}");
            }
        });
    }
}
