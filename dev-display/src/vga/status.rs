//! Input status 1 (ports 0x3ba and 0x3da): the beam's position, by the clock.
use super::Vga;
use super::spec::crtc;

/// Nanoseconds of a line: 31.47 kHz.
const LINE: u64 = 31_778;
/// Nanoseconds of a line during which pixels are shown.
const SHOWN: u64 = 25_422;
/// Total and visible lines if the CRT controller's values are impossible: 60 pictures a second.
const USUAL: (u64, u64) = (525, 480);

/// No pixel is shown at this time.
const BLANK: u8 = 0x01;
/// Vertical retrace.
const RETRACE: u8 = 0x08;

impl Vga {
    /// Total and visible lines of a picture.
    fn lines(&self) -> (u64, u64) {
        let overflow = u64::from(self.crtc(crtc::OVERFLOW));
        let total = u64::from(self.crtc(crtc::VERTICAL_TOTAL)) | (overflow & 1) << 8 | (overflow & 0x20) << 4;
        let (total, shown) = (total.saturating_add(2), self.vertical_end() as u64);
        if self.dispi_enabled() || shown >= total { USUAL } else { (total, shown) }
    }

    /// Reads the register and resets the attribute controller's flip-flop. The retrace lasts as long as the whole vertical blank: a
    /// guest whose access takes 20 µs or more would miss the two lines that it has on hardware.
    pub(super) fn status_read(&mut self, now: u64) -> u8 {
        self.dirty |= self.flip_flop;
        self.flip_flop = false;
        let (total, shown) = self.lines();
        let below = now.div_euclid(LINE).checked_rem(total).is_some_and(|line| line >= shown);
        let beside = now.rem_euclid(LINE) >= SHOWN;
        (if below { RETRACE } else { 0 }) | if below || beside { BLANK } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vga::tests::{display, linear, set};
    use crate::vga::{Access, Clock, Context, Device as _, Vga, region};

    /// Reads the status every `step` nanoseconds for a second. Returns the number of retraces, and the percentages of the time with
    /// retrace and without a shown pixel.
    fn second(v: &mut Vga, cx: &mut Context, step: u64) -> (u64, u64, u64) {
        let (mut begins, mut retrace, mut blank, mut looks, mut was) = (0, 0, 0, 0, true);
        for now in (0..1_000_000_000).step_by(step as usize) {
            cx.clock = Clock::Driven(now);
            let status = v.read(Access::new(region::COLOR_STATUS, 0, 1), cx).unwrap() as u8;
            let is = status & RETRACE != 0;
            begins += u64::from(is && !was);
            was = is;
            retrace += u64::from(is);
            blank += u64::from(status & BLANK != 0);
            looks += 1;
        }
        (begins, retrace * 100 / looks, blank * 100 / looks)
    }

    /// The status toggled at every read: a guest that counts retraces ran as fast as its processor.
    #[test]
    fn a_status_without_a_pace_of_its_own() {
        let (mut v, mut cx, _) = display();
        v.port_write(2, 0x67);
        // Mode 3 of the BIOS: 449 lines, 400 of them shown; 70 pictures a second.
        set(&mut v, 0x3d4, &[(6, 0xbf), (7, 0x1f), (0x12, 0x8f)]);
        for step in [5_000, 20_011, 400_000] {
            let (begins, retrace, blank) = second(&mut v, &mut cx, step);
            assert_eq!(begins, 70, "looks every {step} ns");
            assert!((9..=11).contains(&retrace) && (25..=31).contains(&blank), "{step}: {retrace} {blank}");
        }
        // Mode 12h: 525 lines, 480 of them shown.
        set(&mut v, 0x3d4, &[(6, 0x0b), (7, 0x3e), (0x12, 0xdf)]);
        assert_eq!(second(&mut v, &mut cx, 20_011).0, 60);
        // Impossible values, and a mode that the CRT controller does not describe.
        set(&mut v, 0x3d4, &[(6, 0), (7, 0)]);
        assert_eq!(second(&mut v, &mut cx, 20_011).0, 60);
        set(&mut v, 0x3d4, &[(6, 0xbf), (7, 0x1f), (0x12, 0x8f)]);
        linear(&mut v, &mut cx, 640, 480, 8);
        assert_eq!(second(&mut v, &mut cx, 20_011).0, 60);
    }

    /// A flip-flop that a read has reset stays reset after a restart.
    #[test]
    fn a_read_that_a_restart_forgets() {
        let (mut v, mut cx, _) = display();
        v.port_write(0, 0x11);
        v.write(Access::new(region::VGA, 2, 1), 0x67, &mut cx).unwrap();
        let before = v.checkpoint().unwrap();
        v.read(Access::new(region::COLOR_STATUS, 0, 1), &mut cx).unwrap();
        let after = v.checkpoint().unwrap();
        assert_ne!(before, after);
        let mut next = Vga::new(3, v.vram_size, 65536, v.vram.clone());
        next.load(&after, &mut cx).unwrap();
        next.port_write(0, 0x05);
        assert_eq!(next.attribute_index, 5, "an index, no data");
        v.read(Access::new(region::COLOR_STATUS, 0, 1), &mut cx).unwrap();
        assert_eq!(v.checkpoint(), None, "a guest that polls it changes nothing");
    }

    #[test]
    fn two_looks_at_one_time_see_the_same() {
        let (mut v, mut cx, _) = display();
        v.port_write(2, 0x67);
        for now in (0..40_000_000).step_by(1_000_003) {
            cx.clock = Clock::Driven(now);
            let mut look = |region, offset| v.read(Access::new(region, offset, 1), &mut cx).unwrap();
            assert_eq!(look(region::COLOR_STATUS, 0), look(region::MMIO, 0x41a), "the port, and the same in BAR 2");
        }
    }
}
