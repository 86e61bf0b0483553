//! Faults of displays in other device models, by class.
use super::tests::{dispi, display, linear, out, set, text_mode};
use super::*;

/// CVE-2016-3710 (XSA-179): the banked window reached beyond video RAM.
#[test]
fn out_of_bounds_banked_window() {
    let (mut v, mut cx, vram) = display();
    linear(&mut v, &mut cx, 640, 480, 8);
    set(&mut v, 0x3c4, &[(2, 0x0f), (4, 0x0e)]);
    set(&mut v, 0x3ce, &[(5, 0), (6, 5)]);
    for bank in [0, 15, 16, 17, 0x7fff, 0xffff] {
        dispi(&mut v, &mut cx, 5, bank);
        for offset in [0u64, 0xfff8, 0xffff, 0x1_0000, 0x1_fff8] {
            for size in [1, 2, 4, 8] {
                let _ = v.write(Access::new(region::WINDOW, offset, size), u64::MAX, &mut cx);
                let _ = v.read(Access::new(region::WINDOW, offset, size), &mut cx);
            }
            let mut data = [0x5a; 256];
            let _ = v.write_string(Access::new(region::WINDOW, offset, 1), &data, &mut cx);
            let _ = v.read_string(Access::new(region::WINDOW, offset, 1), &mut data, &mut cx);
        }
    }
    // The last byte of video RAM can be written; bytes after it do not exist.
    dispi(&mut v, &mut cx, 5, 15);
    v.write(Access::new(region::WINDOW, 0xffff, 1), 0x77, &mut cx).unwrap();
    let mut last = [0];
    vram.read(u64::from(v.vram_size) - 1, &mut last).unwrap();
    assert_eq!(last, [0x77]);
}

/// CVE-2016-3712, CVE-2014-3615: sizes and offsets of VBE modes overflowed, or showed memory outside of video RAM.
#[test]
fn integer_overflow_of_vbe_geometry() {
    let (mut v, mut cx, vram) = display();
    let all = vec![0xee; v.vram_size as usize];
    vram.write(0, &all).unwrap();
    for bpp in [4, 8, 15, 16, 24, 32, 7, 0xffff] {
        for (x, y, wide, left, down) in [
            (0xffff, 0xffff, 0xffff, 0xffff, 0xffff),
            (640, 480, 1, 0xffff, 0),
            (1, 0xffff, 0xffff, 0, 0xffff),
            (0, 0, 0, 0, 0),
            (1600, 1200, 0, 8, 0xfff0),
        ] {
            for (index, value) in [(4, 0), (1, x), (2, y), (3, bpp), (4, 0xc1), (6, wide), (8, left), (9, down)] {
                dispi(&mut v, &mut cx, index, value);
            }
            let frame = v.frame();
            assert!(frame.pixels.len() <= 16 << 20 && frame.pixels.len() == frame.width * frame.height);
        }
    }
    // A picture that begins in the last line of video RAM: it shows only video RAM, and black.
    linear(&mut v, &mut cx, 512, 100, 32);
    vram.write(0, &all).unwrap();
    let last = (v.vram_size / 2048 - 1) as u16;
    dispi(&mut v, &mut cx, 9, last);
    let frame = v.frame();
    assert!(
        frame.pixels[..512].iter().all(|p| *p == 0xee_eeee) && frame.pixels.iter().all(|p| matches!(*p, 0 | 0xee_eeee))
    );
}

/// CVE-2017-13672, CVE-2017-13673, CVE-2018-7858: a split screen, and a start near the end, drew beyond video RAM or aborted.
#[test]
fn out_of_bounds_split_screen_and_start() {
    let (mut v, mut cx, vram) = display();
    text_mode(&mut v, &vram);
    let mut shown = tests::Drawn::default();
    for graphics in [0x0e, 0x05] {
        set(&mut v, 0x3ce, &[(6, graphics)]);
        for (compare, start, offset) in [(0, 0xff, 0xff), (0xff, 0xff, 0xff), (10, 0, 0), (200, 0x7f, 0)] {
            set(
                &mut v,
                0x3d4,
                &[(7, 0), (9, 0), (0x18, compare), (0x0c, start), (0x0d, start), (0x13, offset), (8, 0x7f)],
            );
            v.refresh(&mut shown);
            set(&mut v, 0x3d4, &[(0x0d, start ^ 1)]);
            v.refresh(&mut shown);
            assert_eq!(shown.size.1, v.frame().height);
        }
    }
    dispi(&mut v, &mut cx, 4, 0);
}

/// CVE-2018-5683: text that is larger than its memory.
#[test]
fn out_of_bounds_text() {
    let (mut v, _, vram) = display();
    text_mode(&mut v, &vram);
    for (columns, lines, cell, start) in
        [(0xff, 0xff, 0x1f, 0xff), (0, 0, 0x1f, 0), (0xff, 0, 0, 0xff), (79, 0xff, 0, 0xf0)]
    {
        set(
            &mut v,
            0x3d4,
            &[
                (1, columns),
                (0x12, lines),
                (7, 0xff),
                (9, cell),
                (0x0c, start),
                (0x0d, 0xff),
                (0x0e, 0xff),
                (0x0f, 0xff),
                (0x13, 0xff),
            ],
        );
        out(&mut v, 0x3c4, 3);
        out(&mut v, 0x3c5, 0xff);
        let frame = v.frame();
        assert!(frame.width <= 256 * 9 && frame.height <= 1024 && v.text_rows().is_some_and(|rows| rows.len() <= 128));
    }
}

/// A surface that refuses what lies outside of the picture which it was told of.
#[derive(Default)]
struct Bounded {
    size: (usize, usize),
}

impl bulkhead_bus::Surface for Bounded {
    fn begin(&mut self, width: usize, height: usize) -> bool {
        self.size = (width, height);
        true
    }
    fn line(&mut self, y: usize, pixels: &[u32]) {
        assert!(
            y < self.size.1 && pixels.len() == self.size.0,
            "line {y} of {} pixels in {:?}",
            pixels.len(),
            self.size
        );
    }
    fn end(&mut self) {}
}

/// CVE-2026-77913: text was drawn with its own size into the surface of the graphics mode before it, and vice versa.
#[test]
fn out_of_bounds_write_by_text_after_a_graphics_mode() {
    let (mut v, mut cx, vram) = display();
    text_mode(&mut v, &vram);
    let mut surface = Bounded::default();
    for (width, height, bpp) in [(8, 1, 32), (1600, 1200, 32), (640, 480, 4), (16, 4000, 8), (4096, 16, 16)] {
        for (columns, lines, cell) in [(79, 0x8f, 0x4f), (131, 0xff, 0x5f), (0, 0, 0x40), (255, 0xff, 0x41)] {
            // Only what differs is drawn: characters that change between the modes, with and without a look at each.
            for looks in 0..4 {
                linear(&mut v, &mut cx, width, height, bpp);
                if looks & 1 != 0 {
                    v.refresh(&mut surface);
                }
                dispi(&mut v, &mut cx, 4, 0);
                set(&mut v, 0x3d4, &[(1, columns), (0x12, lines), (9, cell)]);
                v.write(Access::new(region::WINDOW, 0x18000 + 160, 2), 0x1e41, &mut cx).unwrap();
                if looks & 2 != 0 {
                    v.refresh(&mut surface);
                }
                v.write(Access::new(region::WINDOW, 0x18000 + 322, 2), 0x1e42, &mut cx).unwrap();
                v.refresh(&mut surface);
                let frame = v.frame();
                assert_eq!(surface.size, (frame.width, frame.height));
                assert_eq!(frame.pixels.len(), frame.width * frame.height);
            }
        }
    }
}

/// QEMU 11.1.3 ("vga_draw_blank"): a blank screen was drawn with the size of the mode before it; CVE-2026-17516: panning with a line's buffer
/// of the mode before. A blank screen, panned text and panned graphics follow each other here in every order.
#[test]
fn out_of_bounds_blank_and_panned_screens_after_another_mode() {
    let (mut v, mut cx, vram) = display();
    text_mode(&mut v, &vram);
    let mut surface = Bounded::default();
    for (width, height, bpp) in [(8, 1, 32), (1600, 1200, 32), (640, 480, 4), (4096, 16, 16)] {
        for (columns, lines, cell) in [(79, 0x8f, 0x4f), (0, 0, 0x40), (255, 0xff, 0x41)] {
            // A graphics mode, text, 16 colours with their panning; each shown or blank, looked at or not.
            for (looks, panning, row) in [(0, 15, 0x7f), (1, 7, 0x20), (2, 8, 0x60), (3, 0, 0x1f), (7, 3, 0)] {
                v.attribute[attr::PANNING] = panning;
                for (step, graphics) in [(1, 0x0e), (2, 0x05), (4, 0x0e)] {
                    linear(&mut v, &mut cx, width, height, bpp);
                    if looks & step != 0 {
                        v.refresh(&mut surface);
                    }
                    dispi(&mut v, &mut cx, 4, 0);
                    set(&mut v, 0x3ce, &[(6, graphics)]);
                    set(&mut v, 0x3d4, &[(1, columns), (0x12, lines), (9, cell), (8, row)]);
                    for clocking in [0x20, 0] {
                        set(&mut v, 0x3c4, &[(1, clocking)]);
                        v.refresh(&mut surface);
                        let frame = v.frame();
                        assert_eq!(surface.size, (frame.width, frame.height));
                        assert_eq!(frame.pixels.len(), frame.width * frame.height);
                        assert!(clocking == 0 || frame.pixels.iter().all(|p| p & 0xff_ffff == 0), "it is blank");
                    }
                }
            }
        }
    }
}

/// A card that no guest has touched had a depth that its own state could not have.
#[test]
fn a_power_on_value_that_a_restart_changes() {
    let (v, mut cx, vram) = display();
    let mut next = Vga::new(3, v.vram_size, 65536, vram);
    next.load(&v.save(), &mut cx).unwrap();
    assert_eq!(next.save(), v.save());
}

/// Keeps marks, as the broker does for a process that dies.
struct Marked(std::sync::mpsc::Sender<u64>);

impl bulkhead_bus::MarkKeeper for Marked {
    fn keep(&self, _: usize, value: u64) {
        let _ = self.0.send(value);
    }
}

/// A read of the window loads the latches, which is no change of the state page: a process that died before the write that used
/// them left those of an earlier read.
#[test]
fn latches_that_a_restart_forgets() {
    let (mut v, mut cx, vram) = display();
    let (sender, marks) = std::sync::mpsc::channel();
    cx.marks = bulkhead_bus::Marks::new(Default::default(), Box::new(Marked(sender)));
    v.port_write(2, 0x67);
    set(&mut v, 0x3c4, &[(2, 0x0f), (4, 0x06)]);
    set(&mut v, 0x3ce, &[(5, 1), (6, 5), (8, 0xff)]);
    vram.write(0x40, &[1, 2, 3, 4]).unwrap();
    let state = v.save();
    v.read(Access::new(region::WINDOW, 0x10, 1), &mut cx).unwrap();

    let mut next = Vga::new(3, v.vram_size, 65536, vram.clone());
    let (_, mut cx, _) = display();
    cx.marks.after(LATCH_MARK, marks.try_iter().last().unwrap());
    next.reset(Reset::Machine, &mut cx);
    next.load(&state, &mut cx).unwrap();
    next.write(Access::new(region::WINDOW, 0x20, 1), 0, &mut cx).unwrap();
    let mut copied = [0; 4];
    vram.read(0x80, &mut copied).unwrap();
    assert_eq!(copied, [1, 2, 3, 4]);
}
