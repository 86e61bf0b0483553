//! Finds the device of an address.

/// The target of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A region of a channel.
    Region {
        /// Index of the channel.
        channel: usize,
        /// Index of the region in its declaration.
        region: u16,
    },
    /// The expansion ROM of a channel's function.
    Rom {
        /// Index of the channel.
        channel: usize,
        /// Index of the function.
        function: usize,
    },
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    first: u64,
    last: u64,
    target: Target,
}

/// Ranges of one address space. They never overlap: a range that would overlap an earlier one is not added.
#[derive(Debug, Default)]
pub(crate) struct Space(Vec<Entry>);

impl Space {
    /// Adds a range. False if it overlaps another, and is not added.
    pub(crate) fn add(&mut self, first: u64, len: u64, target: Target) -> bool {
        let Some(last) = len.checked_sub(1).and_then(|n| first.checked_add(n)) else { return false };
        let at = self.0.partition_point(|e| e.last < first);
        if self.0.get(at).is_some_and(|e| e.first <= last) {
            return false;
        }
        self.0.insert(at, Entry { first, last, target });
        true
    }

    /// Removes all ranges of a target; returns them.
    pub(crate) fn remove(&mut self, target: Target) -> Vec<(u64, u64)> {
        let mut removed = Vec::new();
        self.0.retain(|e| {
            if e.target == target {
                removed.push((e.first, e.last));
            }
            e.target != target
        });
        removed
    }

    /// The target of the bytes `first` to `last`, which must be in one range, and the offset of `first` in it.
    pub(crate) fn find(&self, first: u64, last: u64) -> Option<(Target, u64)> {
        let at = self.0.partition_point(|e| e.last < first);
        let entry = self.0.get(at)?;
        (entry.first <= first && last <= entry.last && first <= last)
            .then(|| (entry.target, first.wrapping_sub(entry.first)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target(region: u16) -> Target {
        Target::Region { channel: 0, region }
    }

    #[test]
    fn an_access_must_lie_in_one_range() {
        let mut space = Space::default();
        assert!(space.add(0x1f0, 8, target(0)));
        assert!(space.add(0x3f6, 1, target(1)));
        assert!(!space.add(0x1f7, 2, target(2)), "overlap");
        assert!(!space.add(0, 0, target(2)), "empty");
        assert!(!space.add(u64::MAX, 2, target(2)), "beyond the end");
        assert_eq!(space.find(0x1f4, 0x1f7), Some((target(0), 4)));
        assert_eq!(space.find(0x1f6, 0x1f9), None);
        assert_eq!(space.find(0x3f6, 0x3f6), Some((target(1), 0)));
        assert_eq!(space.remove(target(0)), [(0x1f0, 0x1f7)]);
        assert_eq!(space.find(0x1f0, 0x1f0), None);
    }

    proptest! {
        #[test]
        fn find_agrees_with_a_search_through_all(
            ranges in prop::collection::vec((0u64..200, 0u64..20), 0..30), first in 0u64..220, len in 1u64..8,
        ) {
            let mut space = Space::default();
            let mut taken = Vec::new();
            for (i, (first, len)) in ranges.into_iter().enumerate() {
                if space.add(first, len, target(i as u16)) {
                    taken.push((first, len, target(i as u16)));
                }
            }
            for (i, (a, n, _)) in taken.iter().enumerate() {
                for (b, m, _) in &taken[i + 1..] {
                    prop_assert!(a + n <= *b || b + m <= *a);
                }
            }
            let want = taken.iter().find(|(a, n, _)| *a <= first && first + len <= a + n).map(|(a, _, t)| (*t, first - a));
            prop_assert_eq!(space.find(first, first + len - 1), want);
        }
    }
}
