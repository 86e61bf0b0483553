//! Text modes: characters in plane 0, attributes in plane 1, fonts in plane 2.
use super::{Scan, Vga, put};
use crate::frame::Frame;
use crate::vga::spec::{Underline, crtc, gfx, seq};

impl Vga {
    /// The text on the screen in a text mode: one string for each row, without trailing blanks; a dot for characters that are not
    /// ASCII.
    pub(in crate::vga) fn text_rows(&self) -> Option<Vec<String>> {
        if self.dispi_enabled() || self.graphics(gfx::MISC) & 1 != 0 {
            return None;
        }
        let columns = usize::from(self.crtc(crtc::HORIZONTAL_END)).saturating_add(1);
        let cell_height = usize::from(self.max_scan_line().lines()).saturating_add(1);
        let stride = self.stride();
        let mut cells = vec![0; columns.saturating_mul(4)];
        let rows = (0..self.vertical_end().div_euclid(cell_height).min(128)).map(|row| {
            let at = self.start().wrapping_add(stride.wrapping_mul(row as u16));
            self.cells(Scan { at, row: 0, pan: 0 }, &mut cells);
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

    /// All inputs of a picture in text mode, `None` in other modes. If they are unchanged, the picture is too.
    pub(in crate::vga) fn text_source(&self, on: bool) -> Option<Vec<u8>> {
        if self.dispi_enabled() || self.graphics(gfx::MISC) & 1 != 0 {
            return None;
        }
        let mut source = vec![self.attribute_index, self.dac_mask, u8::from(self.dac_8bit())];
        for registers in [&self.sequencer[..], &self.graphics, &self.crtc, &self.attribute, &self.palette] {
            source.extend_from_slice(registers);
        }
        self.fonts().iter().for_each(|font| source.extend_from_slice(font));
        let columns = usize::from(self.crtc(crtc::HORIZONTAL_END)).saturating_add(2);
        let mut cells = vec![0; columns.saturating_mul(4)];
        let (mut known, mut blinks) = (None, self.cursor_lines().is_some());
        for scan in self.scans() {
            let from = (scan.at, self.wired(scan.at, scan.row));
            if known.replace(from) != Some(from) {
                self.cells(scan, &mut cells);
                blinks |=
                    self.attribute_mode().blink() && cells.as_chunks::<4>().0.iter().any(|cell| cell[1] & 0x80 != 0);
                let cells = cells.as_chunks::<4>().0.iter();
                source.extend(cells.flat_map(|[character, attribute, ..]| [*character, *attribute]));
            }
        }
        // The phase of the blink matters only if something blinks.
        source.push(u8::from(on && blinks));
        Some(source)
    }

    /// The lines of a character that the cursor covers, if it is enabled.
    fn cursor_lines(&self) -> Option<std::ops::RangeInclusive<usize>> {
        let (start, end) = (self.crtc(crtc::CURSOR_START), self.crtc(crtc::CURSOR_END));
        let lines = usize::from(start & 0x1f)..=usize::from(end & 0x1f);
        (start & 0x20 == 0 && !lines.is_empty()).then_some(lines)
    }

    /// The two fonts that attribute bit 3 selects: 32 bytes a character.
    fn fonts(&self) -> [Vec<u8>; 2] {
        let map = self.sequencer(seq::CHARACTER_MAP);
        let slot = |n: u8| u64::from(n & 3).saturating_mul(0x4000).saturating_add(if n & 4 != 0 { 0x2000 } else { 0 });
        let mut planes = vec![0u8; 0x2000 * 4];
        [map & 3 | map >> 2 & 4, map >> 2 & 3 | map >> 3 & 4].map(|font| {
            self.read(slot(font).saturating_mul(4), &mut planes);
            planes.as_chunks::<4>().0.iter().map(|[_, _, font, _]| *font).collect()
        })
    }

    pub(super) fn text(&self, on: bool, spare: Frame) -> Frame {
        let columns = usize::from(self.crtc(crtc::HORIZONTAL_END)).saturating_add(1);
        let cell_width = if self.clocking().eight_dots() { 8usize } else { 9 };
        let (width, height) = self.size();
        let mut frame = spare.sized(width, height);
        let (fonts, colors, mode) = (self.fonts(), self.colors(), self.attribute_mode());
        let color = |i: u8| colors.get(usize::from(i & 15)).copied().unwrap_or(0);
        let cursor_at = u16::from_be_bytes([self.crtc(crtc::CURSOR_HIGH), self.crtc(crtc::CURSOR_LOW)]);
        let skew = u16::from(self.crtc(crtc::CURSOR_END) >> 5 & 3);
        let cursor_lines = self.cursor_lines().filter(|_| on);
        let underline = usize::from(Underline::from_bits(self.crtc(crtc::UNDERLINE)).line());

        // Panning shows a part of one more character.
        let mut cells = vec![0; columns.saturating_add(1).saturating_mul(4)];
        let mut known = None;
        let mut dots = vec![0u32; columns.saturating_add(1).saturating_mul(cell_width)];
        for (y, scan) in self.scans().enumerate() {
            let from = (scan.at, self.wired(scan.at, scan.row));
            if known.replace(from) != Some(from) {
                self.cells(scan, &mut cells);
            }
            // On this line the cursor covers this column.
            let cursor = cursor_lines
                .as_ref()
                .filter(|lines| lines.contains(&scan.row))
                .map(|_| cursor_at.wrapping_add(skew).wrapping_sub(scan.at));
            let underlined = mode.mono() && scan.row == underline;
            for ((column, &[character, attribute, ..]), cell) in
                (0u16..).zip(cells.as_chunks::<4>().0).zip(dots.chunks_exact_mut(cell_width))
            {
                let font = fonts.get(usize::from(attribute >> 3 & 1)).map_or(&[][..], Vec::as_slice);
                let foreground = color(attribute);
                let background = color(if mode.blink() { attribute >> 4 & 7 } else { attribute >> 4 });
                let mut bits =
                    font.get(usize::from(character).saturating_mul(32).saturating_add(scan.row)).copied().unwrap_or(0);
                if mode.blink() && attribute & 0x80 != 0 && !on {
                    bits = 0;
                }
                let here = cursor == Some(column);
                let line = here || underlined && attribute & 7 == 1;
                if line {
                    bits = 0xff;
                }
                let differ = foreground ^ background;
                let dot = |on: u8| background ^ differ & 0u32.wrapping_sub(u32::from(on & 1));
                let (eight, ninth) = cell.split_at_mut(8);
                for (to, shift) in eight.iter_mut().zip((0..8u32).rev()) {
                    *to = dot(bits >> shift);
                }
                if let [to] = ninth {
                    // The ninth dot is a copy of the eighth in line graphics, in an underline and in the cursor.
                    let copied = line || mode.line_graphics() && (0xc0..0xe0).contains(&character);
                    *to = dot(bits & u8::from(copied));
                }
            }
            put(frame.line(y), dots.iter().skip(scan.pan).copied());
        }
        frame
    }
}
