use super::*;
use bulkhead_bus::fake::{self, FakeMemory};
use proptest::prelude::*;

const VRAM: u32 = 1 << 20;

pub(super) fn display() -> (Vga, Context, Arc<FakeMemory>) {
    let vram = FakeMemory::new(VRAM as usize);
    (Vga::new(3, VRAM, 65536, vram.clone()), fake::context(0), vram)
}

pub(super) fn out(v: &mut Vga, port: u16, value: u8) {
    v.port_write(port - 0x3c0, value);
}

pub(super) fn set(v: &mut Vga, port: u16, registers: &[(u8, u8)]) {
    for (index, value) in registers {
        out(v, port, *index);
        out(v, port + 1, *value);
    }
}

pub(super) fn dispi(v: &mut Vga, cx: &mut Context, index: u16, value: u16) {
    v.write(Access::new(region::DISPI, 0, 2), u64::from(index), cx).unwrap();
    v.write(Access::new(region::DISPI, 1, 2), u64::from(value), cx).unwrap();
}

pub(super) fn linear(v: &mut Vga, cx: &mut Context, x: u16, y: u16, bpp: u16) {
    for (index, value) in [(4, 0), (1, x), (2, y), (3, bpp), (4, 0x41)] {
        dispi(v, cx, index, value);
    }
    unblank(v);
}

/// CRT controller registers without an effect on pictures: no split, byte addresses.
const PLAIN: [(u8, u8); 3] = [(0x18, 0xff), (7, 0x1f), (0x17, 0xe3)];

/// Enables the display's use of the palette, so that the screen is on.
fn unblank(v: &mut Vga) {
    v.status_read(0);
    out(v, 0x3c0, 0x20);
}

/// The registers of mode 3 that affect the picture, and a font whose character 'A' is a full block.
pub(super) fn text_mode(v: &mut Vga, vram: &FakeMemory) {
    out(v, 0x3c2, 0x67);
    set(v, 0x3c4, &[(1, 0), (2, 3), (3, 0), (4, 2)]);
    set(v, 0x3ce, &[(5, 0x10), (6, 0x0e), (8, 0xff)]);
    set(v, 0x3d4, &PLAIN);
    set(v, 0x3d4, &[(1, 79), (0x12, 0x8f), (9, 0x4f), (0x13, 40), (0x0a, 0x20), (0x0c, 0), (0x0d, 0), (0x17, 0xa3)]);
    unblank(v);
    v.attribute[attr::PANNING] = 8;
    for i in 0..16 {
        v.attribute[usize::from(i)] = i;
        v.palette[usize::from(i) * 3..][..3].copy_from_slice(&[i * 4, 0, 63]);
    }
    v.attribute[attr::PLANE_ENABLE] = 15;
    for line in 0..16u64 {
        vram.write((u64::from(b'A') * 32 + line) * 4 + 2, &[0xff]).unwrap();
    }
}

#[test]
fn power_on_configuration_space() {
    let (v, ..) = display();
    let want = [(0x00, 0x1111_1234u32), (0x08, 0x0300_0002), (0x10, 8), (0x2c, 0x1100_1af4)];
    for at in (0..=0xfcu8).step_by(4) {
        let value = want.iter().find(|(a, _)| *a == at).map_or(0, |(_, v)| *v);
        assert_eq!(v.config.read(at, 4), value, "register {at:#x}");
    }
}

/// Command register, video RAM, registers, interrupt line: nothing of a bus master.
#[test]
fn configuration_space_has_the_hard_wired_bits_of_the_part() {
    let (mut v, ..) = display();
    let changeable = bulkhead_bus::exercise::changeable(&mut v, 0);
    let registers: Vec<u8> = changeable.iter().map(|(at, _)| *at).filter(|at| *at != 0x30).collect();
    assert_eq!((registers, changeable[0].1), (vec![0x04, 0x10, 0x18, 0x3c], 0x0003));
}

#[test]
fn text_is_drawn_with_its_font_and_colours() {
    let (mut v, mut cx, vram) = display();
    text_mode(&mut v, &vram);
    v.write(Access::new(region::WINDOW, 0x18002, 2), 0x1e41, &mut cx).unwrap();
    let frame = v.frame();
    assert_eq!((frame.width, frame.height), (720, 400));
    let pixel = |x: usize, y: usize| frame.pixels[y * 720 + x].to_be_bytes()[1..].to_vec();
    assert_eq!(pixel(9, 0), [(14 * 4) << 2 | 3, 0, 255], "foreground 14");
    assert_eq!(pixel(17, 0)[0], 16, "the ninth column is background 1");
    assert_eq!(pixel(0, 0)[0], 0);
    let rows = v.text_rows().unwrap();
    assert_eq!((rows.len(), rows[0].as_str(), rows[1].as_str()), (25, " A", ""), "as people are told of it");
    assert_eq!(v.read(Access::new(region::WINDOW, 0x18002, 2), &mut cx).unwrap() & 0xffff, 0x1e41);
}

#[derive(Default)]
pub(super) struct Drawn {
    pub(super) size: (usize, usize),
    lines: Vec<usize>,
}

impl bulkhead_bus::Surface for Drawn {
    fn begin(&mut self, width: usize, height: usize) -> bool {
        *self = Self { size: (width, height), lines: Vec::new() };
        true
    }
    fn line(&mut self, y: usize, pixels: &[u32]) {
        assert_eq!(pixels.len(), self.size.0);
        self.lines.push(y);
    }
    fn end(&mut self) {}
}

#[test]
fn the_surface_gets_the_lines_that_changed_and_no_others() {
    let (mut v, mut cx, vram) = display();
    text_mode(&mut v, &vram);
    let mut surface = Drawn::default();
    v.refresh(&mut surface);
    assert_eq!((surface.size, surface.lines.len()), ((720, 400), 400));
    v.refresh(&mut surface);
    assert!(surface.lines.is_empty());
    v.write(Access::new(region::WINDOW, 0x18000 + 160, 2), 0x1e41, &mut cx).unwrap();
    v.refresh(&mut surface);
    assert_eq!(surface.lines, (16..32).collect::<Vec<_>>(), "the second row");
    assert_eq!(v.text_source(true), v.text_source(false), "nothing blinks");
    set(&mut v, 0x3d4, &[(0x0a, 13), (0x0b, 14)]);
    assert_ne!(v.text_source(true), v.text_source(false), "the cursor does");
    set(&mut v, 0x3d4, &[(0x0a, 0x20)]);
    v.refresh(&mut surface);
    // Changes outside of the text: a font character that is written directly to video RAM, and a colour.
    vram.write((u64::from(b'A') * 32) * 4 + 2, &[0x81]).unwrap();
    v.refresh(&mut surface);
    assert_eq!(surface.lines, [16]);
    v.palette[0] = 63;
    v.refresh(&mut surface);
    assert_eq!(surface.lines.len(), 400);
    linear(&mut v, &mut cx, 64, 48, 32);
    v.refresh(&mut surface);
    assert_eq!((surface.size, surface.lines.len()), ((64, 48), 48));
    dispi(&mut v, &mut cx, 4, 0);
    v.refresh(&mut surface);
    assert_eq!((surface.size, surface.lines.len()), ((720, 400), 400), "the same text as before");
}

#[test]
fn write_modes_of_the_planes() {
    let (mut v, _, vram) = display();
    set(&mut v, 0x3c4, &[(2, 0x0f), (4, 6)]);
    set(&mut v, 0x3ce, &[(5, 0), (6, 5), (8, 0xff), (1, 0), (3, 0)]);
    let planes = |at: u64| {
        let mut b = [0; 4];
        vram.read(at * 4, &mut b).unwrap();
        b
    };
    v.memory_write(0, 0xa5);
    assert_eq!(planes(0), [0xa5; 4], "mode 0");
    set(&mut v, 0x3ce, &[(0, 0x05), (1, 0x0f), (8, 0xf0)]);
    v.memory_read(0);
    v.memory_write(0, 0);
    assert_eq!(planes(0), [0xf5, 0x05, 0xf5, 0x05], "set/reset under the bit mask");
    set(&mut v, 0x3ce, &[(5, 1)]);
    v.memory_read(0);
    v.memory_write(7, 0);
    assert_eq!(planes(7), planes(0), "mode 1 copies the latches");
    set(&mut v, 0x3ce, &[(5, 2), (8, 0xff), (1, 0)]);
    v.memory_write(1, 0x06);
    assert_eq!(planes(1), [0, 0xff, 0xff, 0], "mode 2");
    set(&mut v, 0x3ce, &[(5, 3), (0, 0x09), (8, 0x0f)]);
    v.memory_read(1);
    v.memory_write(1, 0xff);
    assert_eq!(planes(1), [0x0f, 0xf0, 0xf0, 0x0f], "mode 3");
    set(&mut v, 0x3ce, &[(5, 0), (8, 0xff), (3, 0x18)]);
    v.memory_read(1);
    v.memory_write(1, 0xff);
    assert_eq!(planes(1), [0xf0, 0x0f, 0x0f, 0xf0], "exclusive or");
    set(&mut v, 0x3ce, &[(5, 8), (2, 0x09), (7, 0x0f)]);
    assert_eq!(v.memory_read(1), 0xf0, "read mode 1");
    set(&mut v, 0x3c4, &[(2, 0x02)]);
    set(&mut v, 0x3ce, &[(5, 0), (3, 0)]);
    v.memory_write(1, 0x00);
    assert_eq!(planes(1), [0xf0, 0x00, 0x0f, 0xf0], "map mask");
}

#[test]
fn mode_13h_and_mode_12h() {
    let (mut v, _, vram) = display();
    out(&mut v, 0x3c2, 0x63);
    set(&mut v, 0x3c4, &[(1, 1), (2, 15), (4, 0x0e)]);
    set(&mut v, 0x3ce, &[(5, 0x40), (6, 5), (8, 0xff)]);
    set(&mut v, 0x3d4, &PLAIN);
    set(&mut v, 0x3d4, &[(1, 79), (0x12, 0x8f), (9, 0x41), (0x13, 40), (0x14, 0x40), (0x17, 0xa3)]);
    unblank(&mut v);
    v.palette[9 * 3..][..3].copy_from_slice(&[63, 0, 0]);
    v.memory_write(320 * 2 + 5, 9);
    let frame = v.frame();
    assert_eq!((frame.width, frame.height), (640, 400));
    for (x, y, red) in [(10, 4, 255), (11, 5, 255), (12, 4, 0), (10, 6, 0)] {
        assert_eq!((frame.pixels[y * 640 + x] >> 16) as u8, red, "{x},{y}");
    }
    set(&mut v, 0x3c4, &[(4, 6)]);
    set(&mut v, 0x3ce, &[(5, 0)]);
    set(&mut v, 0x3d4, &[(0x12, 0xdf), (9, 0x40), (0x14, 0), (0x17, 0xe3)]);
    for i in 0..16 {
        v.attribute[usize::from(i)] = i;
    }
    v.attribute[attr::PLANE_ENABLE] = 15;
    vram.write(0, &[0x80, 0, 0, 0x80]).unwrap();
    let frame = v.frame();
    assert_eq!((frame.width, frame.height, frame.pixels[0] >> 16), (640, 480, 255));
}

fn pixel(frame: &Frame, x: usize, y: usize) -> [u8; 3] {
    frame.pixels[y * frame.width + x].to_be_bytes()[1..].try_into().unwrap()
}

/// Mode 12h in which each line has its own colour, its address / 80.
fn striped() -> (Vga, Context, Arc<FakeMemory>) {
    let (mut v, cx, vram) = display();
    out(&mut v, 0x3c2, 0xe3);
    set(&mut v, 0x3c4, &[(1, 1), (2, 15), (4, 6)]);
    set(&mut v, 0x3ce, &[(5, 0), (6, 5), (8, 0xff)]);
    set(&mut v, 0x3d4, &PLAIN);
    set(&mut v, 0x3d4, &[(1, 79), (0x12, 0xdf), (7, 0x1e), (9, 0x40), (0x13, 40)]);
    for i in 0..16u8 {
        v.attribute[usize::from(i)] = i;
        v.palette[usize::from(i) * 3..][..3].copy_from_slice(&[i, i, i]);
    }
    v.attribute[attr::PLANE_ENABLE] = 15;
    unblank(&mut v);
    for line in 0..600u64 {
        let planes: Vec<u8> = (0..4).map(|p| if line >> p & 1 != 0 { 0xff } else { 0 }).collect();
        (0..80).for_each(|i| vram.write((line * 80 + i) * 4, &planes).unwrap());
    }
    (v, cx, vram)
}

/// The stripe at each line, after line compare, start address and preset row scan.
fn stripes(v: &Vga) -> Vec<u8> {
    let frame = v.frame();
    (0..frame.height).map(|y| pixel(&frame, 0, y)[0] >> 2).collect()
}

#[test]
fn a_split_screen_begins_anew_below_the_line_compare() {
    let (mut v, ..) = striped();
    set(&mut v, 0x3d4, &[(0x0c, 0x01), (0x0d, 0x40)]);
    let scrolled: Vec<u8> = (0..480).map(|y| ((y + 4) % 16) as u8).collect();
    assert_eq!(stripes(&v), scrolled, "start address 320");
    set(&mut v, 0x3d4, &[(0x18, 99), (7, 0x0e), (9, 0)]);
    let split: Vec<u8> =
        (0..480).map(|y| if y <= 99 { ((y + 4) % 16) as u8 } else { ((y - 100) % 16) as u8 }).collect();
    assert_eq!(stripes(&v), split);
    set(&mut v, 0x3d4, &[(0x18, 99), (7, 0x1e)]);
    let far: Vec<u8> = (0..480).map(|y| if y <= 355 { ((y + 4) % 16) as u8 } else { ((y - 356) % 16) as u8 }).collect();
    assert_eq!(stripes(&v), far, "bit 8 of the line compare");
}

#[test]
fn panning_moves_by_pixels_and_stops_at_the_split_if_set() {
    let (mut v, _, vram) = striped();
    vram.write(0, &[0x0f, 0, 0, 0]).unwrap();
    vram.write(480 * 80 * 4, &[0; 4]).unwrap();
    let first = |v: &Vga, y: usize| (0..16).map(|x| pixel(&v.frame(), x, y)[0] >> 2).collect::<Vec<_>>();
    assert_eq!(first(&v, 0)[..9], [0, 0, 0, 0, 1, 1, 1, 1, 0]);
    v.attribute[attr::PANNING] = 3;
    assert_eq!(first(&v, 0)[..6], [0, 1, 1, 1, 1, 0]);
    set(&mut v, 0x3d4, &[(0x18, 99), (7, 0x0e), (9, 0)]);
    assert_eq!(first(&v, 100)[..6], [0, 1, 1, 1, 1, 0], "below the split as above");
    v.attribute[attr::MODE] = 0x20;
    assert_eq!(first(&v, 100)[..9], [0, 0, 0, 0, 1, 1, 1, 1, 0], "below the split it ends");
    // Byte panning skips whole characters.
    set(&mut v, 0x3d4, &[(8, 0x20)]);
    vram.write(4, &[0xff, 0, 0, 0]).unwrap();
    assert_eq!(first(&v, 0)[0], 1);
}

#[test]
fn the_cgas_banks_are_neighbouring_lines() {
    let (mut v, _, vram) = striped();
    // 320x200 in four colours: two lines a row, the second 8 KiB later in the guest's window.
    set(&mut v, 0x3ce, &[(5, 0x30), (6, 0x0f)]);
    set(&mut v, 0x3d4, &[(1, 39), (0x12, 0x8f), (9, 0xc1), (0x13, 20), (0x17, 0xa2)]);
    vram.write(0, &vec![0; 0x10000]).unwrap();
    vram.write(0, &[0b00_01_10_11, 0, 0, 0]).unwrap();
    vram.write(0x2000 * 4, &[0b11_10_01_00, 0, 0, 0]).unwrap();
    let frame = v.frame();
    let line = |y: usize| (0..4).map(|x| pixel(&frame, x, y)[0] >> 2).collect::<Vec<_>>();
    assert_eq!(
        (line(0), line(1), line(2), line(3)),
        (vec![0, 1, 2, 3], vec![0, 1, 2, 3], vec![3, 2, 1, 0], vec![3, 2, 1, 0])
    );
}

#[test]
fn four_bits_a_pixel_of_the_bochs_interface() {
    let (mut v, mut cx, vram) = striped();
    for (index, value) in [(4, 0), (1, 64), (2, 32), (3, 4), (4, 0xc1), (6, 128), (8, 8), (9, 1)] {
        dispi(&mut v, &mut cx, index, value);
    }
    assert_eq!((v.dispi(dispi::BPP), v.dispi_stride()), (4, 64));
    // Line 1, pixels 8 to 15.
    vram.write(64 + 4, &[0x80, 0, 0x80, 0]).unwrap();
    let frame = v.frame();
    assert_eq!((frame.width, frame.height, pixel(&frame, 0, 0)[0] >> 2, pixel(&frame, 1, 0)[0] >> 2), (64, 32, 5, 0));
}

#[test]
fn what_blinks_is_there_half_of_the_time_and_a_blank_screen_is_black() {
    let (mut v, mut cx, vram) = display();
    text_mode(&mut v, &vram);
    v.attribute[attr::MODE] = 8;
    v.write(Access::new(region::WINDOW, 0x18000, 2), 0x9e41, &mut cx).unwrap();
    set(&mut v, 0x3d4, &[(0x0a, 14), (0x0b, 15), (0x0e, 0), (0x0f, 2)]);
    let look = |v: &Vga, on: bool| {
        let frame = v.frame_in(on, Frame::default());
        (pixel(&frame, 0, 0)[0], pixel(&frame, 18, 15)[0], pixel(&frame, 18, 13)[0])
    };
    assert_eq!(look(&v, true), (14 * 16 | 3, 0, 0), "the character; the cursor has its cell's foreground, 0 here");
    v.write(Access::new(region::WINDOW, 0x18004, 2), 0x0e20, &mut cx).unwrap();
    assert_eq!(look(&v, true), (14 * 16 | 3, 14 * 16 | 3, 0));
    assert_eq!(look(&v, false), (16, 0, 0), "background 1; no cursor");
    set(&mut v, 0x3d4, &[(0x0b, 0x2f)]);
    assert_eq!(look(&v, true).1, 0, "the cursor's skew moves it");
    set(&mut v, 0x3c4, &[(1, 0x20)]);
    assert!(v.frame().pixels.iter().all(|b| *b == 0), "the sequencer's screen off");
    set(&mut v, 0x3c4, &[(1, 0)]);
    v.status_read(0);
    out(&mut v, 0x3c0, 0);
    assert!(v.frame().pixels.iter().all(|b| *b == 0), "the processor has the palette");
}

#[test]
fn linear_modes_show_video_ram_and_never_leave_it() {
    let (mut v, mut cx, vram) = display();
    assert_eq!(v.dispi_read(0), 0xb0c5);
    linear(&mut v, &mut cx, 640, 400, 32);
    vram.write(4, &[1, 2, 3, 0]).unwrap();
    let frame = v.frame();
    assert_eq!((frame.width, frame.height, frame.pixels[1]), (640, 400, 0x03_0201));
    // CVE-2014-3615, CVE-2016-3712: sizes and offsets beyond video memory.
    linear(&mut v, &mut cx, 16000, 12000, 32);
    assert!(v.dispi_stride() * u64::from(v.dispi(dispi::YRES)) <= u64::from(VRAM));
    for (index, value) in [(6, 0xffff), (8, 0xffff), (9, 0xffff), (5, 0xffff)] {
        dispi(&mut v, &mut cx, index, value);
    }
    let end = (u64::from(v.dispi(dispi::Y_OFFSET)) + u64::from(v.dispi(dispi::YRES))) * v.dispi_stride();
    assert!(end <= u64::from(VRAM));
    v.frame();
}

#[test]
fn enabling_a_mode_clears_the_screen_unless_disabled() {
    let (mut v, mut cx, vram) = display();
    let first = || {
        let mut b = [0; 1];
        vram.read(0, &mut b).unwrap();
        b[0]
    };
    vram.write(0, &[7]).unwrap();
    for (index, value) in [(1, 640), (2, 400), (3, 8), (4, 0xc1)] {
        dispi(&mut v, &mut cx, index, value);
    }
    assert_eq!(first(), 7);
    linear(&mut v, &mut cx, 640, 400, 8);
    assert_eq!(first(), 0);
}

#[test]
fn bar_2_shows_the_same_registers() {
    let (mut v, mut cx, _) = display();
    v.write(Access::new(region::MMIO, 0x500 + 2, 2), 800, &mut cx).unwrap();
    assert_eq!(v.dispi_read(1), 800);
    v.write(Access::new(region::MMIO, 0x40c - 8, 1), 2, &mut cx).unwrap();
    v.write(Access::new(region::MMIO, 0x405, 1), 0x0a, &mut cx).unwrap();
    assert_eq!(v.sequencer(2), 0x0a);
    assert_eq!(v.read(Access::new(region::MMIO, 0x600, 4), &mut cx).unwrap(), 8);
}

#[test]
fn a_viewers_size_becomes_the_monitors_preferred_mode_and_outlives_the_process() {
    let (mut v, mut cx, _) = display();
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    v = v.with_wishes(Some(read));
    let mode = |v: &mut Vga, cx: &mut Context| {
        let edid: Vec<u8> = (0..128).map(|i| v.read(Access::new(region::MMIO, i, 1), cx).unwrap() as u8).collect();
        assert_eq!(edid.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
        (u16::from(edid[58] & 0xf0) << 4 | u16::from(edid[56]), u16::from(edid[61] & 0xf0) << 4 | u16::from(edid[59]))
    };
    assert_eq!(mode(&mut v, &mut cx), (1024, 768));
    rustix::io::write(&write, &[0, 4, 0, 4, 0x21, 2, 0x90, 1]).unwrap();
    v.poll(Ready::Fd(0), &mut cx);
    assert_eq!(mode(&mut v, &mut cx), (544, 400), "the last word; this video RAM has 1 MiB");
    rustix::io::write(&write, &[0xff, 0xff, 0xff, 0xff]).unwrap();
    v.poll(Ready::Fd(0), &mut cx);
    v.reset(Reset::Machine, &mut cx);
    assert_eq!(mode(&mut v, &mut cx), (544, 400));
    let mut next = Vga::new(3, VRAM, 65536, v.vram.clone());
    next.load(&v.save(), &mut cx).unwrap();
    assert_eq!(mode(&mut next, &mut cx), (544, 400));
    assert_eq!(v.read(Access::new(region::MMIO, 0, 4), &mut cx).unwrap(), 0xffff_ff00);
}

#[test]
fn dirty_lines_of_two_frames() {
    let (mut v, mut cx, vram) = display();
    linear(&mut v, &mut cx, 640, 400, 8);
    let before = v.frame();
    v.palette[3..6].copy_from_slice(&[63, 63, 63]);
    vram.write(640 * 10, &[1; 640 * 2]).unwrap();
    vram.write(640 * 50, &[1]).unwrap();
    let after = v.frame();
    assert_eq!(after.dirty(&before), [10..12, 50..51]);
    linear(&mut v, &mut cx, 320, 200, 8);
    assert_eq!(v.frame().dirty(&before), std::iter::once(0..200).collect::<Vec<_>>());
}

#[test]
fn a_screenshot_is_a_png_of_the_frame() {
    let (mut v, mut cx, _) = display();
    linear(&mut v, &mut cx, 64, 32, 32);
    let png = v.screenshot().unwrap();
    let reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    assert_eq!((reader.info().width, reader.info().height), (64, 32));
}

#[test]
fn the_attribute_flip_flop_goes_back_when_the_status_is_read() {
    let (mut v, mut cx, _) = display();
    out(&mut v, 0x3c2, 1);
    out(&mut v, 0x3c0, 0x11);
    v.read(Access::new(region::COLOR_STATUS, 0, 1), &mut cx).unwrap();
    out(&mut v, 0x3c0, 0x05);
    assert_eq!(v.attribute_index, 5);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn any_registers_give_a_bounded_picture_and_the_state_comes_back(
        ops in prop::collection::vec((0u16..8, 0u64..0x20000, prop::sample::select(vec![1u8, 2, 4, 8]), any::<u64>()), 0..200),
    ) {
        let (mut v, mut cx, _) = display();
        for (region, offset, size, value) in ops {
            let offset = match region { 2 => offset % 16, 6 => offset, 7 => 0x400 + offset % 0x210, _ => offset % 3 };
            let at = Access::new(region, offset, size);
            let value = if size < 8 { value & ((1 << (size * 8)) - 1) } else { value };
            let _ = v.write(at, value, &mut cx);
            let _ = v.read(at, &mut cx);
        }
        let frame = v.frame();
        prop_assert!(frame.pixels.len() <= 16 << 20);
        prop_assert_eq!(frame.pixels.len(), frame.width * frame.height);
        let saved = v.save();
        let mut other = Vga::new(3, VRAM, 65536, v.vram.clone());
        other.load(&saved, &mut cx).unwrap();
        let again = other.save();
        let mut third = Vga::new(3, VRAM, 65536, v.vram.clone());
        third.load(&again, &mut cx).unwrap();
        prop_assert_eq!(third.save(), again);
    }

    #[test]
    fn a_hostile_state_is_refused_or_harmless(state in prop::collection::vec(any::<u8>(), 0..300)) {
        let (mut v, mut cx, _) = display();
        let _ = v.load(&state, &mut cx);
        v.frame();
    }
}

/// In characters of nine dots an underline has no gaps; the ninth dot of other characters has the background colour.
#[test]
fn an_underline_goes_through_the_ninth_dot() {
    let (mut v, _, vram) = display();
    text_mode(&mut v, &vram);
    set(&mut v, 0x3d4, &[(0x14, 15)]);
    v.attribute[attr::MODE] = 0x02;
    for column in 0..2u64 {
        vram.write(column * 8, &[b' ', 0x01]).unwrap();
    }
    vram.write(16, b"A\x07").unwrap();
    let frame = v.frame();
    let (on, off) = (frame.pixels[15 * frame.width], frame.pixels[14 * frame.width]);
    assert_ne!(on, off);
    assert!((0..18).all(|x| frame.pixels[15 * frame.width + x] == on), "the underline");
    assert!((0..18).all(|x| frame.pixels[14 * frame.width + x] == off), "the line above it");
    assert_eq!(frame.pixels[15 * frame.width + 26], off, "a character without one");
}
