//! What the screen shows, from registers and video RAM. All sizes are bounded by the registers' widths; what lies
//! outside video RAM is black.
use super::Vga;
use super::spec::{attr, crtc, dispi, gfx, seq};

/// Most pixels of a picture; what is below them is not drawn.
const PIXELS: usize = 16 << 20;

/// A picture: 8 bits each of red, green, blue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Pixels of a line.
    pub width: usize,
    /// Lines.
    pub height: usize,
    /// `width * height * 3` bytes.
    pub rgb: Vec<u8>,
}

impl Frame {
    fn new(width: usize, height: usize) -> Self {
        Self { width, height, rgb: vec![0; width.saturating_mul(height).saturating_mul(3)] }
    }

    /// Line `y`.
    pub(super) fn row(&self, y: usize) -> &[u8] {
        let bytes = self.width.saturating_mul(3);
        let start = y.saturating_mul(bytes);
        self.rgb.get(start..start.saturating_add(bytes)).unwrap_or_default()
    }

    fn line(&mut self, y: usize) -> &mut [u8] {
        let bytes = self.width.saturating_mul(3);
        let start = y.saturating_mul(bytes);
        self.rgb.get_mut(start..start.saturating_add(bytes)).unwrap_or_default()
    }

    /// The lines that differ from `before`, as ranges; all of them if the size is another.
    pub fn dirty(&self, before: &Self) -> Vec<std::ops::Range<usize>> {
        if (self.width, self.height) != (before.width, before.height) {
            return std::iter::once(0..self.height).collect();
        }
        let bytes = self.width.saturating_mul(3).max(1);
        let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
        for (y, (new, old)) in self.rgb.chunks(bytes).zip(before.rgb.chunks(bytes)).enumerate() {
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

    /// As a PNG.
    pub fn png(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, u32::try_from(self.width).ok()?, u32::try_from(self.height).ok()?);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        let mut writer = encoder.write_header().ok()?;
        writer.write_image_data(&self.rgb).ok()?;
        writer.finish().ok()?;
        Some(out)
    }
}

/// Writes one pixel.
fn put(line: &mut [u8], x: usize, color: [u8; 3]) {
    let at = x.saturating_mul(3);
    if let Some(pixel) = line.get_mut(at..at.saturating_add(3)) {
        pixel.copy_from_slice(&color);
    }
}

impl Vga {
    /// The screen now.
    pub fn frame(&self) -> Frame {
        if self.dispi_enabled() {
            self.linear()
        } else if self.graphics(gfx::MISC) & 1 == 0 {
            self.text()
        } else {
            self.planar()
        }
    }

    fn color(&self, index: u8) -> [u8; 3] {
        let at = usize::from(index).saturating_mul(3);
        let rgb: [u8; 3] = self.palette.get(at..).and_then(|p| p.first_chunk::<3>()).copied().unwrap_or([0; 3]);
        if self.dac_8bit() { rgb } else { rgb.map(|c| c << 2 | c >> 4 & 3) }
    }

    /// A 4-bit attribute through the attribute controller to the DAC.
    fn attribute_color(&self, index: u8) -> [u8; 3] {
        let entry = self.attribute(usize::from(index & self.attribute(attr::PLANE_ENABLE) & 0x0f));
        let select = self.attribute(attr::COLOR_SELECT);
        let value = if self.attribute(attr::MODE) & 0x80 != 0 { entry & 0x0f | select << 4 } else { entry & 0x3f | (select & 0x0c) << 4 };
        self.color(value)
    }

    fn vertical_end(&self) -> usize {
        let overflow = usize::from(self.crtc(crtc::OVERFLOW));
        let end = usize::from(self.crtc(crtc::VERTICAL_END)) | (overflow & 2) << 7 | (overflow & 0x40) << 3;
        end.saturating_add(1)
    }

    fn start(&self) -> u64 {
        u64::from(self.crtc(crtc::START_HIGH)) << 8 | u64::from(self.crtc(crtc::START_LOW))
    }

    fn read(&self, at: u64, to: &mut [u8]) {
        if self.vram.read(at, to).is_err() {
            to.fill(0);
        }
    }

    /// The words on the screen in a text mode: a row each, without what is blank at its end; what is not ASCII is a dot.
    pub(super) fn text_rows(&self) -> Option<Vec<String>> {
        if self.dispi_enabled() || self.graphics(gfx::MISC) & 1 != 0 {
            return None;
        }
        let columns = usize::from(self.crtc(crtc::HORIZONTAL_END)).saturating_add(1);
        let cell_height = usize::from(self.crtc(crtc::MAX_SCAN_LINE) & 0x1f).saturating_add(1);
        let stride = u64::from(self.crtc(crtc::OFFSET)).saturating_mul(2);
        let mut cells = vec![0; columns.saturating_mul(4)];
        let rows = (0..self.vertical_end().div_euclid(cell_height).min(128)).map(|row| {
            let first = self.start().saturating_add(stride.saturating_mul(row as u64));
            self.read((first & 0xffff).saturating_mul(4), &mut cells);
            let text: String = cells
                .as_chunks::<4>()
                .0
                .iter()
                .map(|[c, ..]| match c {
                    0 => ' ',
                    0x20..=0x7e => char::from(*c),
                    _ => '.',
                })
                .collect();
            text.trim_end().to_owned()
        });
        Some(rows.collect())
    }

    fn text(&self) -> Frame {
        let columns = usize::from(self.crtc(crtc::HORIZONTAL_END)).saturating_add(1);
        let cell_height = usize::from(self.crtc(crtc::MAX_SCAN_LINE) & 0x1f).saturating_add(1);
        let cell_width = if self.sequencer(seq::CLOCKING) & 1 != 0 { 8usize } else { 9 };
        let rows = self.vertical_end().div_euclid(cell_height).max(1);
        let stride = u64::from(self.crtc(crtc::OFFSET)).saturating_mul(2);
        let mut frame = Frame::new(columns.saturating_mul(cell_width), rows.saturating_mul(cell_height));

        // Fonts live in plane 2; attribute bit 3 chooses between the two that are selected.
        let map = self.sequencer(seq::CHARACTER_MAP);
        let slot = |n: u8| u64::from(n & 3).saturating_mul(0x4000).saturating_add(if n & 4 != 0 { 0x2000 } else { 0 });
        let font_b = slot(map & 3 | map >> 2 & 4);
        let font_a = slot(map >> 2 & 3 | map >> 3 & 4);
        let mut planes = vec![0; 0x2000 * 4];
        let mut font = |base: u64| -> Vec<u8> {
            self.read(base.saturating_mul(4), &mut planes);
            planes.iter().skip(2).step_by(4).copied().collect()
        };
        let fonts = [font(font_b), font(font_a)];
        let blink = self.attribute(attr::MODE) & 8 != 0;
        let graphics_9th = self.attribute(attr::MODE) & 4 != 0;
        let cursor_at = u64::from(self.crtc(crtc::CURSOR_HIGH)) << 8 | u64::from(self.crtc(crtc::CURSOR_LOW));
        let cursor_on = self.crtc(crtc::CURSOR_START) & 0x20 == 0;
        let (cursor_first, cursor_last) = (usize::from(self.crtc(crtc::CURSOR_START) & 0x1f), usize::from(self.crtc(crtc::CURSOR_END) & 0x1f));
        let colors: Vec<[u8; 3]> = (0..16).map(|i| self.attribute_color(i)).collect();
        let color = |i: u8| colors.get(usize::from(i & 15)).copied().unwrap_or([0; 3]);

        let mut cells = vec![0; columns.saturating_mul(4)];
        for row in 0..rows {
            let first = self.start().saturating_add(stride.saturating_mul(row as u64));
            self.read((first & 0xffff).saturating_mul(4), &mut cells);
            for (column, cell) in cells.chunks_exact(4).enumerate() {
                let &[character, attribute, ..] = cell else { continue };
                let font = fonts.get(usize::from(attribute >> 3 & 1)).map_or(&[][..], Vec::as_slice);
                let foreground = color(attribute);
                let background = color(if blink { attribute >> 4 & 7 } else { attribute >> 4 });
                let here = first.saturating_add(column as u64) & 0xffff == cursor_at;
                for y in 0..cell_height {
                    let at = usize::from(character).saturating_mul(32).saturating_add(y);
                    let mut bits = font.get(at).copied().unwrap_or(0);
                    if cursor_on && here && (cursor_first..=cursor_last).contains(&y) {
                        bits = 0xff;
                    }
                    let line = frame.line(row.saturating_mul(cell_height).saturating_add(y));
                    let left = column.saturating_mul(cell_width);
                    for x in 0..8usize {
                        let on = bits & 0x80u8.wrapping_shr(x as u32) != 0;
                        put(line, left.saturating_add(x), if on { foreground } else { background });
                    }
                    if cell_width == 9 {
                        let on = graphics_9th && (0xc0..0xe0).contains(&character) && bits & 1 != 0;
                        put(line, left.saturating_add(8), if on { foreground } else { background });
                    }
                }
            }
        }
        frame
    }

    /// 16 colours in planes, 4 colours of the CGA, 256 colours of mode 13h.
    fn planar(&self) -> Frame {
        let characters = usize::from(self.crtc(crtc::HORIZONTAL_END)).saturating_add(1);
        let scan = self.crtc(crtc::MAX_SCAN_LINE);
        let repeat = usize::from(scan & 0x1f).saturating_add(1).saturating_mul(if scan & 0x80 != 0 { 2 } else { 1 });
        let wide = self.graphics(gfx::MODE) & 0x40 != 0;
        let packed = self.graphics(gfx::MODE) & 0x20 != 0;
        let height = self.vertical_end();
        let width = characters.saturating_mul(8);
        let lines = height.div_euclid(repeat).max(1);
        let stride = u64::from(self.crtc(crtc::OFFSET)).saturating_mul(2);
        let mut frame = Frame::new(width, lines.saturating_mul(repeat));
        let colors: Vec<[u8; 3]> = (0..16).map(|i| self.attribute_color(i)).collect();
        let mut row = vec![0; characters.saturating_mul(4)];
        for y in 0..lines {
            let at = self.start().saturating_add(stride.saturating_mul(y as u64));
            self.read((at & 0xffff).saturating_mul(4), &mut row);
            let mut pixels: Vec<[u8; 3]> = Vec::with_capacity(width);
            for planes in row.chunks_exact(4) {
                let &[p0, p1, p2, p3] = planes else { continue };
                if wide {
                    for p in [p0, p1, p2, p3] {
                        let color = self.color(p);
                        pixels.extend([color, color]);
                    }
                } else if packed {
                    for byte in [p0, p1] {
                        for shift in [6u32, 4, 2, 0] {
                            pixels.push(colors.get(usize::from(byte >> shift & 3)).copied().unwrap_or([0; 3]));
                        }
                    }
                } else {
                    for bit in (0..8u32).rev() {
                        let index = p0 >> bit & 1 | (p1 >> bit & 1) << 1 | (p2 >> bit & 1) << 2 | (p3 >> bit & 1) << 3;
                        pixels.push(colors.get(usize::from(index)).copied().unwrap_or([0; 3]));
                    }
                }
            }
            for again in 0..repeat {
                let line = frame.line(y.saturating_mul(repeat).saturating_add(again));
                for (x, color) in pixels.iter().enumerate().take(width) {
                    put(line, x, *color);
                }
            }
        }
        frame
    }

    /// The Bochs linear modes.
    fn linear(&self) -> Frame {
        let (width, height) = (usize::from(self.dispi(dispi::XRES)), usize::from(self.dispi(dispi::YRES)));
        let height = height.min(PIXELS.checked_div(width).unwrap_or(0));
        let bpp = self.dispi(dispi::BPP);
        let stride = self.dispi_stride();
        let mut frame = Frame::new(width, height);
        let start_bits = u64::from(self.dispi(dispi::X_OFFSET)).saturating_mul(u64::from(bpp.next_multiple_of(8)));
        let first = u64::from(self.dispi(dispi::Y_OFFSET)).saturating_mul(stride).saturating_add(start_bits >> 3);
        let mut row = vec![0; width.saturating_mul(usize::from(bpp.next_multiple_of(8) >> 3).max(1))];
        for y in 0..height {
            self.read(first.saturating_add(stride.saturating_mul(y as u64)), &mut row);
            let line = frame.line(y);
            match bpp {
                8 => row.iter().enumerate().for_each(|(x, i)| put(line, x, self.color(*i))),
                15 | 16 => {
                    for (x, bytes) in row.as_chunks::<2>().0.iter().enumerate() {
                        let v = u16::from_le_bytes(*bytes);
                        let five = |v: u16| ((v & 31) << 3 | (v & 31) >> 2) as u8;
                        let color = if bpp == 15 {
                            [five(v >> 10), five(v >> 5), five(v)]
                        } else {
                            [five(v >> 11), ((v >> 5 & 63) << 2 | (v >> 5 & 63) >> 4) as u8, five(v)]
                        };
                        put(line, x, color);
                    }
                }
                24 => row.as_chunks::<3>().0.iter().enumerate().for_each(|(x, [b, g, r])| put(line, x, [*r, *g, *b])),
                32 => row.as_chunks::<4>().0.iter().enumerate().for_each(|(x, [b, g, r, _])| put(line, x, [*r, *g, *b])),
                _ => {}
            }
        }
        frame
    }
}
