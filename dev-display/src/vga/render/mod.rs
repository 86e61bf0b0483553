//! What the screen shows, from registers and video RAM. All sizes are bounded by the registers' widths; what lies
//! outside video RAM is black.
mod linear;
mod planar;
mod text;

use super::Vga;
use super::spec::{AttributeMode, ClockingMode, CrtcMode, MaxScanLine, attr, crtc, dispi, gfx, seq};
use crate::frame::Frame;

/// Most pixels of a picture; what is below them is not drawn.
const PIXELS: usize = 16 << 20;

/// A pixel of these parts.
fn pixel([red, green, blue]: [u8; 3]) -> u32 {
    u32::from_be_bytes([0, red, green, blue])
}

/// Writes a line of pixels.
fn put(line: &mut [u32], pixels: impl Iterator<Item = u32>) {
    for (to, pixel) in line.iter_mut().zip(pixels) {
        *to = pixel;
    }
}

/// Where a line of the screen comes from (IBM VGA Technical Reference, CRT controller).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scan {
    /// Address of its first character or eight pixels, in the planes.
    at: u64,
    /// Line within the row of characters.
    row: usize,
    /// Pixels that are left out at its left end.
    pan: usize,
}

impl Vga {
    /// The screen now. What blinks is on.
    pub fn frame(&self) -> Frame {
        self.frame_in(true, Frame::default())
    }

    /// The screen while what blinks is on or off, in the memory of a picture that is not needed any more.
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

    /// The screen is off: by the sequencer, or while the palette is the processor's.
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

    /// A 4-bit attribute through the attribute controller to the DAC.
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

    fn vertical_end(&self) -> usize {
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

    fn start(&self) -> u64 {
        u64::from(self.crtc(crtc::START_HIGH)) << 8 | u64::from(self.crtc(crtc::START_LOW))
    }

    /// Addresses from one row to the next.
    fn stride(&self) -> u64 {
        u64::from(self.crtc(crtc::OFFSET)).saturating_mul(2)
    }

    /// Pixels that panning leaves out: of characters of nine pixels the value 8 is none.
    fn panning(&self) -> usize {
        let value = usize::from(self.attribute(attr::PANNING) & 0x0f);
        match () {
            () if self.graphics(gfx::MODE) & 0x40 != 0 => value & 7,
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

    /// The lines of the screen, from above. At the line compare the address goes back to the beginning of video RAM.
    fn scans(&self) -> impl Iterator<Item = Scan> {
        let max = self.max_scan_line();
        let preset = self.crtc(crtc::PRESET_ROW_SCAN);
        let (compare, stride) = (self.line_compare(), self.stride());
        let mut scan = Scan {
            at: self.start().saturating_add(u64::from(preset >> 5 & 3)),
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
                    (scan.row, scan.at) = (0, scan.at.saturating_add(stride));
                } else {
                    scan.row = scan.row.saturating_add(1) & 0x1f;
                }
            }
            now
        })
    }

    /// An address as the CRT controller puts it out: the CGA's and Hercules' modes have neighbouring lines in banks.
    fn wired(&self, scan: Scan) -> u64 {
        let mode = CrtcMode::from_bits(self.crtc(crtc::MODE));
        let (bank, row) = (if mode.byte_mode() { 13 } else { 12 }, scan.row as u64);
        let mut at = scan.at;
        if !mode.row_scan_13() {
            at = at & !(1 << bank) | (row & 1) << bank;
        }
        if !mode.row_scan_14() {
            at = at & !(2 << bank) | (row & 2) << bank;
        }
        at & 0xffff
    }

    fn read(&self, at: u64, to: &mut [u8]) {
        if self.vram.read(at, to).is_err() {
            to.fill(0);
        }
    }
}
