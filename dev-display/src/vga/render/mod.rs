//! Draws the screen from registers and video RAM. The registers' widths bound all sizes; pixels outside of video RAM are black.
mod linear;
mod planar;
mod text;

use super::Vga;
use super::spec::{
    AttributeMode, ClockingMode, CrtcMode, GraphicsMode, MaxScanLine, Underline, attr, crtc, dispi, gfx, seq,
};
use crate::frame::Frame;

/// Most pixels of a picture; lines beyond them are not drawn.
pub(super) const PIXELS: usize = 16 << 20;

/// Number of characters with equidistant addresses, if the counter of the first is a multiple of it: they share the counter's
/// higher bits, on which the rest of an address depends (`Vga::wired`).
const STRAIGHT: u16 = 0x800;

/// A pixel of red, green and blue.
fn pixel([red, green, blue]: [u8; 3]) -> u32 {
    u32::from_be_bytes([0, red, green, blue])
}

/// Writes a line of pixels.
fn put(line: &mut [u32], pixels: impl Iterator<Item = u32>) {
    for (to, pixel) in line.iter_mut().zip(pixels) {
        *to = pixel;
    }
}

/// The source of a line of the screen (IBM VGA Technical Reference, CRT controller).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scan {
    /// The address counter at its first character or group of eight pixels.
    at: u16,
    /// Line within the row of characters.
    row: usize,
    /// Pixels to skip at its left end.
    pan: usize,
}

impl Vga {
    /// The current screen, with blinking parts visible.
    pub fn frame(&self) -> Frame {
        self.frame_in(true, Frame::default())
    }

    /// The current screen, with blinking parts visible or not, drawn in the memory of `spare`.
    pub(super) fn frame_in(&self, on: bool, spare: Frame) -> Frame {
        let mut frame = match () {
            () if self.dispi_enabled() && self.dispi(dispi::BPP) == 4 => self.planar(spare),
            () if self.dispi_enabled() => self.linear(spare),
            () if self.graphics(gfx::MISC) & 1 == 0 => self.text(on, spare),
            () => self.planar(spare),
        };
        if self.blank() {
            frame.pixels.fill(0);
        }
        frame
    }

    /// Width and height of the screen in pixels.
    pub(super) fn size(&self) -> (usize, usize) {
        if self.dispi_enabled() {
            let (width, height) = (usize::from(self.dispi(dispi::XRES)), usize::from(self.dispi(dispi::YRES)));
            return (width, height.min(PIXELS.checked_div(width).unwrap_or(0)));
        }
        let text = self.graphics(gfx::MISC) & 1 == 0;
        let dots = if text && !self.clocking().eight_dots() { 9 } else { 8 };
        (usize::from(self.crtc(crtc::HORIZONTAL_END)).saturating_add(1).saturating_mul(dots), self.vertical_end())
    }

    /// Whether the screen is off: by the sequencer, or while the processor accesses the palette.
    fn blank(&self) -> bool {
        self.attribute_index & attr::PALETTE_SOURCE == 0 || self.clocking().screen_off()
    }

    fn clocking(&self) -> ClockingMode {
        ClockingMode::from_bits(self.sequencer(seq::CLOCKING))
    }

    fn attribute_mode(&self) -> AttributeMode {
        AttributeMode::from_bits(self.attribute(attr::MODE))
    }

    fn color(&self, index: u8) -> u32 {
        let at = usize::from(index & self.dac_mask).saturating_mul(3);
        let rgb: [u8; 3] = self.palette.get(at..).and_then(|p| p.first_chunk::<3>()).copied().unwrap_or([0; 3]);
        pixel(if self.dac_8bit() { rgb } else { rgb.map(|c| c << 2 | c >> 4 & 3) })
    }

    /// The colour of a 4-bit attribute, by attribute controller and DAC.
    fn attribute_color(&self, index: u8) -> u32 {
        let entry = self.attribute(usize::from(index & self.attribute(attr::PLANE_ENABLE) & 0x0f));
        let select = self.attribute(attr::COLOR_SELECT);
        let value = if self.attribute_mode().palette_size() {
            entry & 0x0f | select << 4
        } else {
            entry & 0x3f | (select & 0x0c) << 4
        };
        self.color(value)
    }

    /// The sixteen attributes' colours.
    fn colors(&self) -> [u32; 16] {
        let mut colors = [0; 16];
        (0u8..).zip(&mut colors).for_each(|(i, color)| *color = self.attribute_color(i));
        colors
    }

    pub(super) fn vertical_end(&self) -> usize {
        let overflow = usize::from(self.crtc(crtc::OVERFLOW));
        let end = usize::from(self.crtc(crtc::VERTICAL_END)) | (overflow & 2) << 7 | (overflow & 0x40) << 3;
        end.saturating_add(1)
    }

    fn max_scan_line(&self) -> MaxScanLine {
        MaxScanLine::from_bits(self.crtc(crtc::MAX_SCAN_LINE))
    }

    fn line_compare(&self) -> usize {
        let eighth = usize::from(self.crtc(crtc::OVERFLOW) & 0x10) << 4;
        let ninth = usize::from(self.max_scan_line().line_compare()) << 9;
        usize::from(self.crtc(crtc::LINE_COMPARE)) | eighth | ninth
    }

    fn start(&self) -> u16 {
        u16::from_be_bytes([self.crtc(crtc::START_HIGH), self.crtc(crtc::START_LOW)])
    }

    /// The address counter's increment from one row to the next.
    fn stride(&self) -> u16 {
        u16::from(self.crtc(crtc::OFFSET)) << 1
    }

    /// Number of pixels that panning skips; for characters of nine pixels, 8 stands for none.
    fn panning(&self) -> usize {
        let value = usize::from(self.attribute(attr::PANNING) & 0x0f);
        match () {
            () if GraphicsMode::from_bits(self.graphics(gfx::MODE)).wide() => value & 7,
            () if self.graphics(gfx::MISC) & 1 == 0 && !self.clocking().eight_dots() => {
                if value >= 8 {
                    0
                } else {
                    value.saturating_add(1)
                }
            }
            () => value & 7,
        }
    }

    /// The lines of the screen, from the top. At the line compare the address counter returns to 0. The counter has 16 bits and
    /// wraps.
    fn scans(&self) -> impl Iterator<Item = Scan> {
        let max = self.max_scan_line();
        let preset = self.crtc(crtc::PRESET_ROW_SCAN);
        let (compare, stride) = (self.line_compare(), self.stride());
        let mut scan = Scan {
            at: self.start().wrapping_add(u16::from(preset >> 5 & 3)),
            row: usize::from(preset & 0x1f),
            pan: self.panning(),
        };
        let stays = !self.attribute_mode().pixel_panning();
        (0..self.vertical_end()).map(move |y| {
            let now = scan;
            if y == compare {
                scan = Scan { at: 0, row: 0, pan: if stays { scan.pan } else { 0 } };
            } else if !max.double_scan() || y & 1 == 1 {
                if scan.row == usize::from(max.lines()) {
                    (scan.row, scan.at) = (0, scan.at.wrapping_add(stride));
                } else {
                    scan.row = scan.row.saturating_add(1) & 0x1f;
                }
            }
            now
        })
    }

    /// The plane address of the address counter on line `row` of a row of characters (CRT controller 0x14 bit 6, 0x17 bits 0, 1, 5,
    /// 6). Word and doubleword modes match odd/even and chain 4 writes. The CGA's and Hercules' modes have adjacent lines in
    /// different banks.
    fn wired(&self, counter: u16, row: usize) -> u16 {
        let mode = CrtcMode::from_bits(self.crtc(crtc::MODE));
        let at = match () {
            () if Underline::from_bits(self.crtc(crtc::UNDERLINE)).doubleword() => counter.rotate_left(2),
            () if mode.byte_mode() => counter,
            () if mode.wrap_15() => counter.rotate_left(1),
            () => counter << 1 | counter >> 13 & 1,
        };
        let (bit_13, bit_14) = ((row & 1) as u16, (row >> 1 & 1) as u16);
        let at = if mode.row_scan_13() { at } else { at & !0x2000 | bit_13 << 13 };
        if mode.row_scan_14() { at } else { at & !0x4000 | bit_14 << 14 }
    }

    /// Reads the planes' bytes of a line's characters, four for each. Every mode but the linear ones reads rows here, so that all
    /// wrap at the planes' end.
    fn cells(&self, scan: Scan, to: &mut [u8]) {
        let step = match () {
            () if Underline::from_bits(self.crtc(crtc::UNDERLINE)).doubleword() => 4,
            () if CrtcMode::from_bits(self.crtc(crtc::MODE)).byte_mode() => 1,
            () => 2,
        };
        let mut counter = scan.at;
        let mut rest = to;
        let mut read = Vec::new();
        while !rest.is_empty() {
            // While only the counter's lower bits change, addresses are equidistant.
            let run = STRAIGHT.saturating_sub(counter & STRAIGHT.wrapping_sub(1));
            let (now, later) = rest.split_at_mut(rest.len().min(usize::from(run).saturating_mul(4)));
            let first = u64::from(self.wired(counter, scan.row)).saturating_mul(4);
            if step == 1 {
                self.read(first, now);
            } else {
                read.resize(now.len().saturating_sub(4).saturating_mul(step).saturating_add(4), 0);
                self.read(first, &mut read);
                for (from, to) in read.as_chunks::<4>().0.iter().step_by(step).zip(now.as_chunks_mut::<4>().0) {
                    *to = *from;
                }
            }
            counter = counter.wrapping_add(run);
            rest = later;
        }
    }

    fn read(&self, at: u64, to: &mut [u8]) {
        if self.vram.read(at, to).is_err() {
            to.fill(0);
        }
    }
}

#[cfg(test)]
mod tests;
