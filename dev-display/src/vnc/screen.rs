//! Hashes of the picture at the last read, to detect changed and moved parts.
use super::encode::Block;
use crate::fbdev::View;
use std::collections::HashMap;

/// Pixels of a segment of a line, the granularity of changes.
pub(crate) const SEGMENT: usize = 64;
/// The widest picture, in pixels: a line's segments are the bits of a u64.
pub(crate) const WIDEST: usize = SEGMENT * 64;
/// Lines of the tallest character.
const CELL: usize = 32;
/// Least number of lines that must move together to count as a move.
const MOVED: usize = 16;

/// A rectangle, in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rect {
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

/// Lines `to..to + lines` have the previous contents of lines `from..`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) lines: usize,
}

/// The changes between two reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// The picture has another size, and all of it is new.
    pub(crate) resized: bool,
    /// For each line that changed, the segments, as bits from the left.
    pub(crate) lines: Vec<(usize, u64)>,
    /// Lines that moved. `lines` has them too.
    pub(crate) moved: Option<Moved>,
}

impl Change {
    /// Whether more has changed than a blinking cursor changes: lines of one row of characters in one segment.
    pub(crate) fn hurries(&self) -> bool {
        let first = self.lines.first();
        self.resized
            || self.lines.len() > CELL
            || self.lines.iter().any(|l| l.1.count_ones() > 1 || Some(l.1) != first.map(|f| f.1))
    }
}

/// Hashes of the picture.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    width: usize,
    height: usize,
    segments: Vec<u64>,
    lines: Vec<u64>,
}

/// Adds a word to a hash. Inputs that differ in only one word have different hashes.
fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95)
}

/// Hashes eight bytes at a time in four lanes, which a processor computes in parallel. Collisions do no harm: a guest that provokes
/// one hides only changes of its own picture.
fn hash(bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; 4];
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
            *lane = mix(*lane, u64::from_le_bytes(*word));
        }
    }
    let rest = rest.as_chunks::<4>().0.iter().fold(0, |h, word| mix(h, u64::from(u32::from_le_bytes(*word))));
    lanes.into_iter().fold(rest, |h, lane| mix(h, lane ^ lane >> 32))
}

impl Screen {
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    fn per_line(&self) -> usize {
        self.width.div_ceil(SEGMENT)
    }

    /// Compares the lines that the display reports as changed.
    pub(crate) fn compare(&mut self, view: &dyn View) -> Change {
        let (width, height) = view.size();
        let mut change = Change::default();
        if (width.min(WIDEST), height) != self.size() {
            *self = Self { width: width.min(WIDEST), height, ..Self::default() };
            self.segments = vec![0; self.per_line().saturating_mul(height)];
            self.lines = vec![0; height];
            change.resized = true;
        }
        let per_line = self.per_line();
        let before = view.dirty().len().ge(&MOVED).then(|| self.lines.clone());
        for &y in view.dirty() {
            let row = view.row(y);
            let start = y.saturating_mul(per_line);
            let Some(known) = self.segments.get_mut(start..start.saturating_add(per_line)) else { continue };
            let mut changed = 0;
            for (i, (was, bytes)) in known.iter_mut().zip(row.chunks(SEGMENT.saturating_mul(4))).enumerate() {
                let now = hash(bytes);
                if std::mem::replace(was, now) != now || change.resized {
                    changed |= 1u64 << (i & 63);
                }
            }
            let all = known.iter().fold(0, |h, s| mix(h, *s));
            if let Some(line) = self.lines.get_mut(y) {
                *line = all;
            }
            if changed != 0 {
                change.lines.push((y, changed));
            }
        }
        if !change.resized {
            change.moved = before.and_then(|before| self.moved(&before, &change.lines));
        }
        change
    }

    /// The largest block of adjacent lines that has moved by one distance.
    fn moved(&self, before: &[u64], changed: &[(usize, u64)]) -> Option<Moved> {
        if changed.len() < MOVED {
            return None;
        }
        // Only lines that occur once determine the distance.
        let mut places: HashMap<u64, Option<usize>> = HashMap::new();
        for (y, line) in before.iter().enumerate() {
            places.entry(*line).and_modify(|p| *p = None).or_insert(Some(y));
        }
        let mut votes: HashMap<isize, usize> = HashMap::new();
        for (y, _) in changed {
            if let Some(Some(from)) = self.lines.get(*y).and_then(|l| places.get(l))
                && let Some(distance) = from.checked_signed_diff(*y).filter(|d| *d != 0)
            {
                let n = votes.entry(distance).or_insert(0);
                *n = n.saturating_add(1);
            }
        }
        let (distance, n) = votes.into_iter().max_by_key(|(d, n)| (*n, *d))?;
        if n < MOVED.div_euclid(4) {
            return None;
        }
        let same = |y: &usize| {
            y.checked_add_signed(distance)
                .is_some_and(|from| from < self.height && before.get(from) == self.lines.get(*y))
        };
        let all: Vec<usize> = (0..self.height).filter(same).collect();
        let run = all.chunk_by(|a, b| a.saturating_add(1) == *b).max_by_key(|r| r.len())?;
        let (to, lines) = (*run.first()?, run.len());
        (lines >= MOVED).then_some(Moved { from: to.saturating_add_signed(distance), to, lines })
    }
}

/// The colours of a rectangle; black outside of the picture.
pub(crate) fn block(view: &dyn View, rect: Rect) -> Block {
    let mut pixels = Vec::with_capacity(rect.width.saturating_mul(rect.height));
    for y in rect.y..rect.y.saturating_add(rect.height) {
        let row = view.row(y);
        let start = rect.x.saturating_mul(4).min(row.len());
        let part =
            row.get(start..start.saturating_add(rect.width.saturating_mul(4)).min(row.len())).unwrap_or_default();
        let (colours, _) = part.as_chunks::<4>();
        pixels.extend(colours.iter().map(|p| u32::from_le_bytes(*p) & 0xff_ffff));
        pixels.resize(pixels.len().saturating_add(rect.width.saturating_sub(colours.len())), 0);
    }
    Block { width: rect.width, height: rect.height, pixels }
}

/// All segments of a line of this width.
pub(crate) fn segments(width: usize) -> u64 {
    u64::MAX.checked_shr(64u32.saturating_sub(width.div_ceil(SEGMENT).min(64) as u32)).unwrap_or(0)
}

/// Changes that have not been sent to a viewer, by line and segment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Damage(Vec<u64>);

impl Damage {
    /// All of a picture of this size.
    pub(crate) fn all(width: usize, height: usize) -> Self {
        Self(vec![segments(width); height])
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|m| *m == 0)
    }

    /// Adds segments of a line.
    pub(crate) fn add(&mut self, line: usize, segments: u64) {
        if let Some(mask) = self.0.get_mut(line) {
            *mask |= segments;
        }
    }

    /// Removes the changes in lines `y..y + lines` and returns them as rectangles of at most `tall` lines each.
    pub(crate) fn take(&mut self, y: usize, lines: usize, width: usize, tall: usize) -> Vec<Rect> {
        let mut rects = Vec::new();
        let mut at = y;
        let end = y.saturating_add(lines).min(self.0.len());
        while at < end {
            let mask = self.0.get(at).copied().unwrap_or(0);
            let same = |n: &usize| self.0.get(*n) == Some(&mask);
            let height = (at..end.min(at.saturating_add(tall))).take_while(same).count().max(1);
            let mut left = mask;
            while left != 0 {
                let first = left.trailing_zeros();
                let n = (left >> first).trailing_ones();
                left &= u64::MAX.checked_shl(first.saturating_add(n)).unwrap_or(0);
                let x = (first as usize).saturating_mul(SEGMENT);
                let wide = (n as usize).saturating_mul(SEGMENT).min(width.saturating_sub(x));
                if wide > 0 {
                    rects.push(Rect { x, y: at, width: wide, height });
                }
            }
            self.0.iter_mut().skip(at).take(height).for_each(|m| *m = 0);
            at = at.saturating_add(height);
        }
        rects
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::OwnedFd;

    #[derive(Default)]
    struct Fake {
        width: usize,
        lines: Vec<Vec<u8>>,
        dirty: Vec<usize>,
    }

    impl Fake {
        fn text(&mut self, of: impl Fn(usize) -> u8) {
            let new: Vec<Vec<u8>> = (0..96)
                .map(|y| (0..self.width * 4).map(|i| of(y).wrapping_mul(31).wrapping_add((i / 256) as u8)).collect())
                .collect();
            self.dirty = (0..96).filter(|y| self.lines.get(*y) != new.get(*y)).collect();
            self.lines = new;
        }
    }

    impl View for Fake {
        fn request_draw(&mut self) {}
        fn update(&mut self) -> bool {
            true
        }
        fn renew(&mut self, _: OwnedFd) {}
        fn fresh(&self) -> bool {
            true
        }
        fn size(&self) -> (usize, usize) {
            (self.width, self.lines.len())
        }
        fn dirty(&self) -> &[usize] {
            &self.dirty
        }
        fn row(&self, y: usize) -> &[u8] {
            self.lines.get(y).map(Vec::as_slice).unwrap_or_default()
        }
    }

    #[test]
    fn a_change_is_found_to_the_segment_and_a_scroll_is_a_move() {
        let mut view = Fake { width: 640, ..Fake::default() };
        let mut screen = Screen::default();
        view.text(|y| y as u8);
        let first = screen.compare(&view);
        assert!(first.resized && first.lines.len() == 96 && first.lines.iter().all(|l| l.1 == 0x3ff));
        assert_eq!(screen.compare(&view), Change::default(), "the same again");
        view.lines[5][64 * 4] ^= 1;
        view.lines[5][639 * 4] ^= 1;
        view.dirty = vec![5];
        assert_eq!(screen.compare(&view), Change { resized: false, lines: vec![(5, 0x202)], moved: None });
        view.text(|y| y as u8);
        screen.compare(&view);
        view.text(|y| if y < 80 { y as u8 + 16 } else { 150 + y as u8 });
        let change = screen.compare(&view);
        assert_eq!((change.moved, change.lines.len()), (Some(Moved { from: 16, to: 0, lines: 80 }), 96));
        view.text(|y| if y < 16 { 7 } else { y as u8 });
        let back = screen.compare(&view);
        assert_eq!(back.moved, Some(Moved { from: 0, to: 16, lines: 80 }));
    }

    #[test]
    fn damage_becomes_rectangles_once() {
        let mut damage = Damage::all(200, 100);
        assert_eq!(
            damage.take(0, 100, 200, 64),
            [Rect { x: 0, y: 0, width: 200, height: 64 }, Rect { x: 0, y: 64, width: 200, height: 36 }]
        );
        assert!(damage.is_empty() && damage.take(0, 100, 200, 64).is_empty());
        damage.add(3, 0b1001);
        damage.add(4, 0b1001);
        damage.add(5, 0b0001);
        damage.add(1000, 1);
        let want = [
            Rect { x: 0, y: 3, width: 64, height: 2 },
            Rect { x: 192, y: 3, width: 8, height: 2 },
            Rect { x: 0, y: 5, width: 64, height: 1 },
        ];
        assert_eq!(damage.take(0, 100, 200, 64), want);
        damage.add(10, 1);
        assert!(damage.take(11, 20, 200, 64).is_empty() && !damage.is_empty());
        assert_eq!(Damage::all(WIDEST, 1).take(0, 1, WIDEST, 1)[0].width, WIDEST);
    }
}
