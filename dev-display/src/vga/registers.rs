//! The VGA's own registers, ports 0x3c0–0x3df.
use super::Vga;
use super::spec::{attr, crtc, gfx, seq};

/// Writes an indexed register; unimplemented bits stay 0.
fn set(registers: &mut [u8], bits: &[u8], index: u8, value: u8) {
    if let Some((register, bits)) = registers.get_mut(usize::from(index)).zip(bits.get(usize::from(index))) {
        *register = value & bits;
    }
}

impl Vga {
    /// Registers of the ports 0x3c0–0x3cf.
    pub(super) fn vga_read(&mut self, offset: u16) -> u8 {
        match offset {
            0x0 => {
                if self.flip_flop {
                    0
                } else {
                    self.attribute_index
                }
            }
            0x1 => self.attribute(usize::from(self.attribute_index & 0x1f)),
            0x2 => 0x10,
            0x4 => self.sequencer_index,
            0x5 => self.sequencer(usize::from(self.sequencer_index)),
            0x6 => self.dac_mask,
            0x7 => {
                if self.dac_reading {
                    3
                } else {
                    0
                }
            }
            0x8 => self.dac_write,
            0x9 => {
                let at = usize::from(self.dac_read).saturating_mul(3).saturating_add(usize::from(self.dac_component));
                let value = self.palette.get(at).copied().unwrap_or(0);
                self.dac_component = self.dac_component.saturating_add(1);
                if self.dac_component >= 3 {
                    self.dac_component = 0;
                    self.dac_read = self.dac_read.wrapping_add(1);
                }
                self.dirty = true;
                value
            }
            0xa => self.feature,
            0xc => self.misc_output,
            0xe => self.graphics_index,
            0xf => self.graphics(usize::from(self.graphics_index)),
            _ => 0xff,
        }
    }

    pub(super) fn vga_write(&mut self, offset: u16, value: u8) {
        match offset {
            0x0 | 0x1 => {
                if !self.flip_flop {
                    self.attribute_index = value & 0x3f;
                } else {
                    set(&mut self.attribute, &attr::BITS, self.attribute_index & 0x1f, value);
                }
                self.flip_flop = !self.flip_flop;
            }
            0x2 => self.misc_output = value & !0x10,
            0x4 => self.sequencer_index = value & 7,
            0x5 => set(&mut self.sequencer, &seq::BITS, self.sequencer_index, value),
            0x6 => self.dac_mask = value,
            0x7 => {
                self.dac_read = value;
                self.dac_held = [0; 2];
                self.dac_component = 0;
                self.dac_reading = true;
            }
            0x8 => {
                self.dac_write = value;
                self.dac_held = [0; 2];
                self.dac_component = 0;
                self.dac_reading = false;
            }
            0x9 => self.dac_write(if self.dac_8bit() { value } else { value & 0x3f }),
            0xe => self.graphics_index = value & 0x0f,
            0xf => set(&mut self.graphics, &gfx::BITS, self.graphics_index, value),
            _ => {}
        }
    }

    /// Writes a component of a colour. The colour changes with its third component (PEL data register).
    fn dac_write(&mut self, value: u8) {
        let [red, green] = self.dac_held;
        match self.dac_component {
            0 => self.dac_held = [value, 0],
            1 => self.dac_held = [red, value],
            _ => {
                let at = usize::from(self.dac_write).saturating_mul(3);
                if let Some(entry) = self.palette.get_mut(at..).and_then(|p| p.first_chunk_mut::<3>()) {
                    *entry = [red, green, value];
                }
                self.dac_held = [0; 2];
                self.dac_component = 0;
                self.dac_write = self.dac_write.wrapping_add(1);
                return;
            }
        }
        self.dac_component = self.dac_component.saturating_add(1);
    }

    pub(super) fn crtc_read(&self, offset: u16) -> u8 {
        if offset == 0 { self.crtc_index } else { self.crtc(usize::from(self.crtc_index)) }
    }

    pub(super) fn crtc_write(&mut self, offset: u16, value: u8) {
        if offset == 0 {
            self.crtc_index = value & 0x3f;
            return;
        }
        let index = usize::from(self.crtc_index);
        // Bit 7 of 0x11 protects registers 0–7, except the line compare bit.
        if self.crtc(crtc::VERTICAL_SYNC_END) & 0x80 != 0 && index <= crtc::OVERFLOW {
            if index == crtc::OVERFLOW {
                self.crtc[crtc::OVERFLOW] = self.crtc[crtc::OVERFLOW] & !0x10 | value & 0x10;
            }
            return;
        }
        if let Some(register) = self.crtc.get_mut(index) {
            *register = value;
        }
    }

    /// Ports 0x3c0–0x3df.
    pub(super) fn port_read(&mut self, port: u16, now: u64) -> u8 {
        match port {
            0x00..=0x0f => self.vga_read(port),
            0x14 | 0x15 => self.crtc_read(port & 1),
            0x1a => self.status_read(now),
            _ => 0xff,
        }
    }

    pub(super) fn port_write(&mut self, port: u16, value: u8) {
        match port {
            0x00..=0x0f => self.vga_write(port, value),
            0x14 | 0x15 => self.crtc_write(port & 1, value),
            0x1a => self.feature = value & 0x10,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vga::tests::{display, out, set};
    use crate::vga::{Device as _, Vga};

    fn read(v: &mut Vga, port: u16) -> u8 {
        v.port_read(port - 0x3c0, 0)
    }

    /// Unimplemented bits of a register read as 0; the others read as written.
    #[test]
    fn bits_that_a_register_does_not_have() {
        let (mut v, ..) = display();
        for value in [0xff, 0x5a, 0] {
            for (port, bits) in [(0x3c4u16, &seq::BITS[..]), (0x3ce, &gfx::BITS)] {
                for (index, bits) in (0u8..).zip(bits) {
                    set(&mut v, port, &[(index, value)]);
                    assert_eq!(read(&mut v, port + 1), value & bits, "{port:#x} {index}");
                }
            }
            for (index, bits) in (0u8..).zip(attr::BITS) {
                v.status_read(0);
                out(&mut v, 0x3c0, index);
                out(&mut v, 0x3c0, value);
                assert_eq!(read(&mut v, 0x3c1), value & bits, "attribute {index:#x}");
            }
        }
    }

    /// CRT controller 0x11 bit 7 protects registers 0 to 7, except the line compare's bit in 7.
    #[test]
    fn a_write_that_the_protection_lets_through() {
        let (mut v, ..) = display();
        let all: Vec<(u8, u8)> = (0..0x19).map(|i| (i, if i == 0x11 { 0x0e } else { i + 0x40 })).collect();
        set(&mut v, 0x3d4, &all);
        set(&mut v, 0x3d4, &[(0x11, 0x8e)]);
        for index in 0..0x19u8 {
            for value in [0xff, 0x00] {
                set(&mut v, 0x3d4, &[(index, value | if index == 0x11 { 0x80 } else { 0 })]);
                let want = match index {
                    7 => 0x47 | value & 0x10,
                    0..=6 => index + 0x40,
                    0x11 => value | 0x80,
                    _ => value,
                };
                assert_eq!(read(&mut v, 0x3d5), want, "{index:#x} = {value:#x}");
            }
        }
    }

    /// Misc output bit 0: the CRT controller, input status 1 and feature control respond either at 3bx or at 3dx.
    #[test]
    fn an_address_that_is_not_in_use_answers() {
        use crate::vga::{Access, region};
        for color in [false, true] {
            let (mut v, mut cx, _) = display();
            out(&mut v, 0x3c2, u8::from(color));
            for (crtc, status, used) in
                [(region::MONO_CRTC, region::MONO_STATUS, !color), (region::COLOR_CRTC, region::COLOR_STATUS, color)]
            {
                let was = (v.crtc_index, v.crtc, v.feature);
                for (region, offset, value) in [(crtc, 0, 0x0e), (crtc, 1, 0x77), (status, 0, 0x10)] {
                    v.write(Access::new(region, offset, 1), value, &mut cx).unwrap();
                }
                assert_eq!((v.crtc_index, v.crtc, v.feature) != was, used);
                out(&mut v, 0x3c0, 0x20);
                v.read(Access::new(status, 0, 1), &mut cx).unwrap();
                assert_eq!(v.flip_flop, !used, "the flip-flop too");
                assert_eq!(v.read(Access::new(crtc, 1, 1), &mut cx).unwrap(), if used { 0x77 } else { 0xff });
                v.flip_flop = false;
                v.crtc[0x0e] = 0;
                v.crtc_index = 0;
                v.feature = 0;
            }
        }
    }

    /// The palette: separate indices for reads and writes, which advance after each third component; a colour changes when it is
    /// complete; the mask applies to shown pixels, not to the index.
    #[test]
    fn a_colour_of_which_a_part_is_written() {
        let (mut v, mut cx, _) = display();
        out(&mut v, 0x3c6, 0x0f);
        out(&mut v, 0x3c8, 0xfe);
        for value in [1, 2, 3, 4, 5, 0xff, 7, 8, 9, 10, 11] {
            out(&mut v, 0x3c9, value);
        }
        assert_eq!((read(&mut v, 0x3c7), read(&mut v, 0x3c8)), (0, 1), "writing, entry 1 after 254, 255 and 0");
        // A restart keeps the incomplete colour.
        let mut next = Vga::new(3, v.vram_size, 65536, v.vram.clone());
        next.load(&v.save(), &mut cx).unwrap();
        let mut v = next;
        let all = |v: &mut Vga| {
            out(v, 0x3c7, 0xfe);
            assert_eq!(read(v, 0x3c7), 3);
            (0..12).map(|_| read(v, 0x3c9)).collect::<Vec<_>>()
        };
        let mut whole = Vga::new(3, v.vram_size, 65536, v.vram.clone());
        whole.load(&v.save(), &mut cx).unwrap();
        assert_eq!(all(&mut v), [1, 2, 3, 4, 5, 63, 7, 8, 9, 0, 0, 0], "what is begun and left is nothing");
        out(&mut whole, 0x3c9, 12);
        assert_eq!(all(&mut whole), [1, 2, 3, 4, 5, 63, 7, 8, 9, 10, 11, 12]);
        assert_eq!(read(&mut whole, 0x3c6), 0x0f);
    }
}
