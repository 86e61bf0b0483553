//! Pictures of 16 colours in planes, of 4 colours of the CGA, of 256 colours in mode 13h and its unchained variants.
use super::{Vga, put};
use crate::frame::Frame;
use crate::vga::spec::{GraphicsMode, crtc, dispi, gfx};

impl Vga {
    pub(super) fn planar(&self, spare: Frame) -> Frame {
        if self.dispi_enabled() {
            return self.planar_dispi(spare);
        }
        let characters = usize::from(self.crtc(crtc::HORIZONTAL_END)).saturating_add(1);
        let (width, height) = self.size();
        let mut frame = spare.sized(width, height);
        let mut row = vec![0; characters.saturating_add(1).saturating_mul(4)];
        let mut pixels = Vec::new();
        let mut known = None;
        for (y, scan) in self.scans().enumerate() {
            let from = (scan.at, self.wired(scan.at, scan.row));
            if known.replace(from) != Some(from) {
                self.cells(scan, &mut row);
                self.pixels(&row, &mut pixels);
            }
            let line = frame.line(y);
            put(line, pixels.iter().skip(scan.pan).copied());
        }
        frame
    }

    /// 16 colours in a mode of the Bochs interface: its sizes, no rows of characters.
    fn planar_dispi(&self, spare: Frame) -> Frame {
        let (width, height) = self.size();
        let stride = self.dispi_stride();
        let first = stride
            .saturating_mul(u64::from(self.dispi(dispi::Y_OFFSET)))
            .saturating_add(u64::from(self.dispi(dispi::X_OFFSET)) >> 3 << 2);
        let mut frame = spare.sized(width, height);
        let pan = usize::from(self.dispi(dispi::X_OFFSET) & 7);
        let mut row = vec![0; width.saturating_add(pan).div_ceil(8).saturating_mul(4)];
        let mut pixels = Vec::new();
        for y in 0..height {
            self.read(first.saturating_add(stride.saturating_mul(y as u64)), &mut row);
            self.pixels(&row, &mut pixels);
            put(frame.line(y), pixels.iter().skip(pan).copied());
        }
        frame
    }

    /// The pixels of a line of the planes.
    fn pixels(&self, row: &[u8], pixels: &mut Vec<u32>) {
        let colors = self.colors();
        let color = |i: u8| colors.get(usize::from(i & 15)).copied().unwrap_or(0);
        let mode = GraphicsMode::from_bits(self.graphics(gfx::MODE));
        let wide = mode.wide() && !self.dispi_enabled();
        let packed = mode.packed() && !self.dispi_enabled();
        pixels.clear();
        for planes in row.chunks_exact(4) {
            let &[p0, p1, p2, p3] = planes else { continue };
            if wide {
                pixels.extend([p0, p1, p2, p3].into_iter().flat_map(|p| [self.color(p); 2]));
            } else if packed {
                for (low, high) in [(p0, p2), (p1, p3)] {
                    pixels.extend([6u32, 4, 2, 0].map(|shift| color(low >> shift & 3 | (high >> shift & 3) << 2)));
                }
            } else {
                pixels.extend((0..8u32).rev().map(|bit| {
                    color(p0 >> bit & 1 | (p1 >> bit & 1) << 1 | (p2 >> bit & 1) << 2 | (p3 >> bit & 1) << 3)
                }));
            }
        }
    }
}
