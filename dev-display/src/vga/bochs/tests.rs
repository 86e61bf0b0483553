//! Every register of the Bochs interface: it stores a value or the nearest valid one.
use super::*;
use crate::vga::tests::{dispi as write, display, out};
use crate::vga::{GuestMemory as _, Vga};

/// All registers, to compare them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct All([u16; dispi::COUNT]);

impl std::ops::Index<usize> for All {
    type Output = u16;
    fn index(&self, index: usize) -> &u16 {
        &self.0[index]
    }
}

fn all(v: &Vga) -> All {
    All(std::array::from_fn(|i| v.dispi_read(i as u16)))
}

/// Checks that an enabled mode lies in video RAM.
fn fits(v: &Vga) {
    let r = all(v);
    let bits = if r[dispi::BPP] == 4 { 4 } else { u64::from(r[dispi::BPP]).next_multiple_of(8) };
    assert!(matches!(r[dispi::BPP], 4 | 8 | 15 | 16 | 24 | 32), "{r:x?}");
    assert!((1..=dispi::MAX_X).contains(&r[dispi::XRES]) && r[dispi::YRES] >= 1, "{r:x?}");
    let right = u64::from(r[dispi::X_OFFSET]) + u64::from(r[dispi::XRES]);
    let bottom = u64::from(r[dispi::Y_OFFSET]) + u64::from(r[dispi::YRES]);
    assert!(right <= u64::from(r[dispi::VIRT_WIDTH]) && bottom <= u64::from(r[dispi::VIRT_HEIGHT]), "{r:x?}");
    let line = u64::from(r[dispi::VIRT_WIDTH]) * bits;
    assert_eq!((line % 8, v.dispi_stride()), (0, line / 8), "{r:x?}");
    assert!(line / 8 * u64::from(r[dispi::VIRT_HEIGHT]) <= u64::from(v.vram_size), "{r:x?}");
    let bank = u64::from(r[dispi::BANK]) + 1;
    assert!(bank * 65536 * if r[dispi::BPP] == 4 { 4 } else { 1 } <= u64::from(v.vram_size), "{r:x?}");
    assert_eq!(v.frame().width, usize::from(r[dispi::XRES]), "{r:x?}");
}

/// XRES 1366 was ignored, and the guest stayed in its previous mode.
#[test]
fn a_register_write_that_is_dropped_in_silence() {
    let values = [
        0u16, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 24, 30, 31, 32, 33, 63, 64, 100, 512, 799, 800, 1023, 1366, 4095,
        0x7fff, 0xffff,
    ];
    for bpp in [4u16, 8, 15, 16, 24, 32] {
        for on in [false, true] {
            for register in 0..dispi::COUNT + 2 {
                for value in values {
                    let (mut v, mut cx, _) = display();
                    for (index, value) in [(1, 200), (2, 100), (3, bpp), (4, 0x41), (6, 320), (8, 16), (9, 4)] {
                        write(&mut v, &mut cx, index, value);
                    }
                    write(&mut v, &mut cx, 4, if on { 0x41 } else { 0 });
                    let before = all(&v);
                    if register == dispi::ENABLE {
                        continue;
                    }
                    write(&mut v, &mut cx, register as u16, value);
                    let after = all(&v);
                    let is = if register < dispi::COUNT { after[register] } else { 0 };
                    let what = format!("{bpp} bits, on: {on}, register {register} = {value}: {before:x?} → {after:x?}");
                    match register {
                        dispi::XRES | dispi::YRES => {
                            let least = if !on {
                                value
                            } else if register == dispi::XRES && value == 0 {
                                8
                            } else {
                                value.max(1)
                            };
                            let most = if register == dispi::XRES { dispi::MAX_X } else { dispi::MAX_Y };
                            // In an enabled mode video RAM is a limit too.
                            let limit =
                                if on && register == dispi::YRES { most.min(after[dispi::VIRT_HEIGHT]) } else { most };
                            assert_eq!(is, least.min(limit), "{what}");
                        }
                        dispi::BPP => {
                            assert_eq!(is, if [4, 8, 15, 16, 24, 32].contains(&value) { value } else { 8 }, "{what}");
                        }
                        dispi::BANK => assert_eq!(is, value % if on && bpp == 4 { 4 } else { 16 }, "{what}"),
                        dispi::VIRT_WIDTH if on && bpp == 4 => {
                            assert_eq!(is, value.clamp(200, 0xfff8).next_multiple_of(8), "{what}");
                        }
                        dispi::VIRT_WIDTH => assert_eq!(is, if on { value.max(200) } else { value }, "{what}"),
                        dispi::X_OFFSET => assert_eq!(is, if on { value.min(120) } else { value }, "{what}"),
                        dispi::Y_OFFSET => {
                            let last = before[dispi::VIRT_HEIGHT] - 100;
                            assert_eq!(is, if on { value.min(last) } else { value }, "{what}");
                        }
                        // An unsupported version, sizes that follow from others, and indices without a register.
                        _ => assert_eq!(after, before, "{what}"),
                    }
                    if on {
                        fits(&v);
                    }
                    // Values that were set without a mode fit once one is enabled.
                    write(&mut v, &mut cx, 4, 0x41);
                    fits(&v);
                }
            }
        }
    }
}

#[test]
fn the_version_is_the_last_one_offered_that_the_guest_has_named() {
    let (mut v, mut cx, _) = display();
    for (value, is) in
        [(0xb0c0, 0xb0c0), (0xb0c4, 0xb0c4), (0xb0c6, 0xb0c4), (0, 0xb0c4), (0xb0c5, 0xb0c5), (0xffff, 0xb0c5)]
    {
        write(&mut v, &mut cx, 0, value);
        assert_eq!(v.dispi_read(0), is);
    }
}

#[test]
fn the_enable_registers_bits() {
    for value in 0..=0xffu16 {
        let (mut v, mut cx, vram) = display();
        for (index, value) in [(1, 333), (2, 20), (3, 8)] {
            write(&mut v, &mut cx, index, value);
        }
        let filled = vec![0xee; v.vram_size as usize];
        vram.write(0, &filled).unwrap();
        write(&mut v, &mut cx, 4, value);
        assert_eq!(v.dispi_read(4), value);
        let largest = (dispi::MAX_X, dispi::MAX_Y, 32);
        let read = (v.dispi_read(1), v.dispi_read(2), v.dispi_read(3));
        assert_eq!(read, if value & 2 != 0 { largest } else { (333, 20, 8) }, "{value:#x}: what there can be");
        assert_eq!((v.dispi_enabled(), v.dac_8bit()), (value & 1 != 0, value & 0x20 != 0), "{value:#x}");
        let mut now = vec![0; v.vram_size as usize];
        vram.read(0, &mut now).unwrap();
        let cleared = if value & 0x81 == 1 { 333 * 20 } else { 0 };
        assert_eq!(now.iter().take_while(|b| **b == 0).count(), cleared, "{value:#x}: the picture and nothing else");
        assert!(now[cleared..].iter().all(|b| *b == 0xee), "{value:#x}");
        // Enabling an enabled mode clears nothing and keeps the visible part.
        if v.dispi_enabled() {
            write(&mut v, &mut cx, 6, 400);
            write(&mut v, &mut cx, 8, 9);
            vram.write(0, &[1]).unwrap();
            write(&mut v, &mut cx, 4, 0x41);
            let mut first = [0];
            vram.read(0, &mut first).unwrap();
            assert_eq!((first, v.dispi_read(6), v.dispi_read(8)), ([1], 400, 9));
        }
    }
}

/// A restart restores all registers, also those of a disabled mode.
#[test]
fn a_register_that_a_restart_forgets() {
    use crate::vga::Device as _;
    for on in [0x41, 0] {
        let (mut v, mut cx, _) = display();
        for (index, value) in
            [(0, 0xb0c4), (1, 333), (2, 77), (3, 16), (4, 0x41), (5, 3), (6, 501), (8, 11), (9, 5), (4, on)]
        {
            write(&mut v, &mut cx, index, value);
        }
        let mut next = Vga::new(3, v.vram_size, 65536, v.vram.clone());
        next.load(&v.save(), &mut cx).unwrap();
        assert_eq!(all(&next), all(&v), "{on:#x}");
    }
}

/// A laptop's screen of 1366 pixels in every depth: the last pixel belongs to its line, and the next line begins at the guest's
/// stride.
#[test]
fn an_odd_width_is_shown_as_it_is() {
    for (bpp, bytes) in [(8u16, 1u64), (15, 2), (16, 2), (24, 3), (32, 4)] {
        let vram = bulkhead_bus::fake::FakeMemory::new(16 << 20);
        let (mut v, mut cx) = (Vga::new(3, 16 << 20, 65536, vram.clone()), bulkhead_bus::fake::context(0));
        for (index, value) in [(1, 1366), (2, 768), (3, bpp), (4, 0x41)] {
            write(&mut v, &mut cx, index, value);
        }
        v.status_read(0);
        out(&mut v, 0x3c0, 0x20);
        v.palette[255 * 3..].copy_from_slice(&[63; 3]);
        assert_eq!((v.dispi_read(1), v.dispi_read(6), v.dispi_stride()), (1366, 1366, 1366 * bytes));
        vram.write((1366 * 5 + 1365) * bytes, &[0xff; 4][..bytes as usize]).unwrap();
        vram.write(1366 * 7 * bytes, &[0xff; 4][..bytes as usize]).unwrap();
        let frame = v.frame();
        assert_eq!((frame.width, frame.height), (1366, 768));
        let lit: Vec<usize> = (0..1366 * 768).filter(|i| frame.pixels[*i] != 0).collect();
        assert_eq!(lit, [1366 * 5 + 1365, 1366 * 7], "{bpp} bits");
    }
}

/// Sixteen colours: a byte of a plane is eight pixels, so a line has whole bytes; the picture may begin within a byte.
#[test]
fn an_odd_width_in_planes() {
    let (mut v, mut cx, vram) = display();
    for (index, value) in [(1, 331), (2, 20), (3, 4), (4, 0x41), (6, 345), (8, 3)] {
        write(&mut v, &mut cx, index, value);
    }
    v.status_read(0);
    out(&mut v, 0x3c0, 0x20);
    v.palette[3..6].copy_from_slice(&[63; 3]);
    for i in 0..16u8 {
        v.attribute[usize::from(i)] = i;
    }
    v.attribute[crate::vga::attr::PLANE_ENABLE] = 15;
    assert_eq!((v.dispi_read(6), v.dispi_stride()), (352, 176));
    // Pixel 333 of line 2, which is pixel 330 of the visible part.
    vram.write(176 * 2 + 333 / 8 * 4, &[0x80 >> (333 % 8)]).unwrap();
    let frame = v.frame();
    let lit: Vec<usize> = (0..frame.pixels.len()).filter(|i| frame.pixels[*i] != 0).collect();
    assert_eq!((frame.width, lit), (331, vec![331 * 2 + 330]));
}
