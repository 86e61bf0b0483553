//! A picture in memory.
use bulkhead_bus::Surface;

/// A picture of the screen that the display draws.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Number of pixels of a line.
    pub width: usize,
    /// Number of lines.
    pub height: usize,
    /// `width * height` pixels, each 8 bits of red from bit 16 on, green, blue.
    pub pixels: Vec<u32>,
}

impl Frame {
    /// A black picture of this size.
    pub(crate) fn new(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![0; width.saturating_mul(height)] }
    }

    /// A black picture of another size in the memory of this one, because new pages cost more than drawing.
    pub(crate) fn sized(mut self, width: usize, height: usize) -> Self {
        (self.width, self.height) = (width, height);
        self.pixels.clear();
        self.pixels.resize(width.saturating_mul(height), 0);
        self
    }

    /// The pixels of line `y`; empty beyond the last.
    pub(crate) fn row(&self, y: usize) -> &[u32] {
        let start = y.saturating_mul(self.width);
        self.pixels.get(start..start.saturating_add(self.width)).unwrap_or_default()
    }

    /// The pixels of line `y`, for drawing; empty beyond the last.
    pub(crate) fn line(&mut self, y: usize) -> &mut [u32] {
        let start = y.saturating_mul(self.width);
        self.pixels.get_mut(start..start.saturating_add(self.width)).unwrap_or_default()
    }

    /// The lines that differ from `before`, as ranges; all lines if the sizes differ.
    pub fn dirty(&self, before: &Self) -> Vec<std::ops::Range<usize>> {
        if (self.width, self.height) != (before.width, before.height) {
            return std::iter::once(0..self.height).collect();
        }
        let width = self.width.max(1);
        let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
        for (y, (new, old)) in self.pixels.chunks(width).zip(before.pixels.chunks(width)).enumerate() {
            if new == old {
                continue;
            }
            match ranges.last_mut() {
                Some(last) if last.end == y => last.end = y.saturating_add(1),
                _ => ranges.push(y..y.saturating_add(1)),
            }
        }
        ranges
    }

    /// Draws the lines that differ from `before`, and swaps the two: afterwards `before` is this picture, and this one is memory
    /// for the next. False if the surface is too small.
    pub(crate) fn show(&mut self, before: &mut Self, surface: &mut dyn Surface) -> bool {
        if !surface.begin(self.width, self.height) {
            return false;
        }
        for y in self.dirty(before).into_iter().flatten() {
            surface.line(y, self.row(y));
        }
        surface.end();
        std::mem::swap(before, self);
        true
    }

    /// Encodes the picture as a PNG.
    pub fn png(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let mut encoder =
            png::Encoder::new(&mut out, u32::try_from(self.width).ok()?, u32::try_from(self.height).ok()?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        let mut writer = encoder.write_header().ok()?;
        let rgb: Vec<u8> = self
            .pixels
            .iter()
            .flat_map(|p| {
                let [_, r, g, b] = p.to_be_bytes();
                [r, g, b]
            })
            .collect();
        writer.write_image_data(&rgb).ok()?;
        writer.finish().ok()?;
        Some(out)
    }
}
