//! Pictures of the Bochs interface's linear modes.
use super::{Vga, pixel, put};
use crate::frame::Frame;
use crate::vga::spec::dispi;

impl Vga {
    pub(super) fn linear(&self, spare: Frame) -> Frame {
        let (width, height) = self.size();
        let bpp = self.dispi(dispi::BPP);
        let stride = self.dispi_stride();
        let mut frame = spare.sized(width, height);
        let start_bits =
            u64::from(self.dispi(dispi::X_OFFSET)).saturating_mul(u64::from(bpp.next_multiple_of(8).max(8)));
        let first = u64::from(self.dispi(dispi::Y_OFFSET)).saturating_mul(stride).saturating_add(start_bits >> 3);
        let mut row = vec![0; width.saturating_mul(usize::from(bpp.next_multiple_of(8) >> 3).max(1))];
        for y in 0..height {
            self.read(first.saturating_add(stride.saturating_mul(y as u64)), &mut row);
            let line = frame.line(y);
            match bpp {
                8 => put(line, row.iter().map(|i| self.color(*i))),
                15 | 16 => put(
                    line,
                    row.as_chunks::<2>().0.iter().map(|bytes| {
                        let v = u16::from_le_bytes(*bytes);
                        let five = |v: u16| ((v & 31) << 3 | (v & 31) >> 2) as u8;
                        if bpp == 15 {
                            pixel([five(v >> 10), five(v >> 5), five(v)])
                        } else {
                            pixel([five(v >> 11), ((v >> 5 & 63) << 2 | (v >> 5 & 63) >> 4) as u8, five(v)])
                        }
                    }),
                ),
                24 => put(line, row.as_chunks::<3>().0.iter().map(|[b, g, r]| pixel([*r, *g, *b]))),
                32 => put(line, row.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes) & 0xff_ffff)),
                _ => {}
            }
        }
        frame
    }
}
