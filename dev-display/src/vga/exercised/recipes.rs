//! What a BIOS, a driver and a game do with the card, and what viewers do meanwhile.
use super::action;
use super::modes::MODES;
use crate::vga::region;
use crate::vga::spec::{DISPI_BLOCK, VGA_BLOCK, attr, crtc, dispi, gfx, seq};
use bulkhead_bus::exercise::{Kind, Random, Recipe, Record};
use bulkhead_bus::pci::reg;

pub(super) const ALL: &[Recipe] = &[
    vga_mode,
    vga_mode,
    palette,
    bochs_mode,
    bochs_mode,
    bochs_registers,
    window,
    window,
    copy,
    view,
    edid,
    bars,
    attributes,
    scroll,
    blank,
];

fn read(region: u16, offset: u32, size: u8) -> Record {
    Record::read(region as u8, offset, size)
}

fn write(region: u16, offset: u32, size: u8, value: u64) -> Record {
    Record::write(region as u8, offset, size, value)
}

/// An index and a value at ports that follow each other.
fn indexed(region: u16, offset: u32, index: usize, value: u8, to: &mut Vec<Record>) {
    to.push(write(region, offset, 1, index as u64));
    to.push(write(region, offset.saturating_add(1), 1, value.into()));
}

fn sequencer(index: usize, value: u8, to: &mut Vec<Record>) {
    indexed(region::VGA, 4, index, value, to);
}

fn graphics(index: usize, value: u8, to: &mut Vec<Record>) {
    indexed(region::VGA, 0xe, index, value, to);
}

/// The CRT controller's registers are at either of two places.
fn crt(mono: bool, index: usize, value: u8, to: &mut Vec<Record>) {
    indexed(if mono { region::MONO_CRTC } else { region::COLOR_CRTC }, 0, index, value, to);
}

/// The attribute controller has one port for index and data; a read of the status begins with the index.
fn attribute(mono: bool, pairs: &[(usize, u8)], to: &mut Vec<Record>) {
    to.push(read(if mono { region::MONO_STATUS } else { region::COLOR_STATUS }, 0, 1));
    for (index, value) in pairs {
        to.extend([write(region::VGA, 0, 1, *index as u64), write(region::VGA, 0, 1, (*value).into())]);
    }
    // The display uses the palette again.
    to.push(write(region::VGA, 0, 1, attr::PALETTE_SOURCE.into()));
}

/// A mode of the BIOS. Most are shown with few lines and columns, because large pictures take long.
fn vga_mode(random: &mut Random, to: &mut Vec<Record>) {
    let Some(mode) = random.of(MODES) else { return };
    let mono = mode.misc & 1 == 0;
    let small = !random.one_in(6);
    // A mode of the Bochs interface would be shown in its place.
    to.push(write(region::MMIO, DISPI_BLOCK.saturating_add((dispi::ENABLE << 1) as u32), 2, 0));
    to.push(write(region::VGA, 2, 1, mode.misc.into()));
    for (index, value) in (seq::CLOCKING..).zip(mode.sequencer) {
        sequencer(index, value, to);
    }
    for (index, value) in (gfx::READ_MAP..).zip(mode.graphics) {
        graphics(index, value, to);
    }
    for (index, value) in mode.crtc {
        let value = match usize::from(*index) {
            crtc::HORIZONTAL_END if small => random.below(12) as u8,
            crtc::VERTICAL_END if small => random.below(64) as u8,
            crtc::OVERFLOW if small => *value & !0x42,
            _ if random.one_in(24) => random.number(1) as u8,
            _ => *value,
        };
        crt(mono, usize::from(*index), value, to);
    }
    let [control, planes, panning] = mode.attribute;
    let mut pairs = vec![(attr::MODE, control), (attr::PLANE_ENABLE, planes), (attr::PANNING, panning)];
    pairs.extend((0..random.below(4)).map(|i| (i as usize, i.wrapping_mul(5) as u8)));
    attribute(mono, &pairs, to);
    if random.one_in(2) {
        let data = random.bytes(96);
        to.extend([
            write(region::VGA, 8, 1, 0),
            Record { kind: Kind::WriteString, value: 48, data, ..read(region::VGA, 9, 1) },
        ]);
    }
    if random.one_in(2) {
        contents(random, to);
    }
}

/// Something in video RAM, fonts included.
fn contents(random: &mut Random, to: &mut Vec<Record>) {
    for _ in 0..=random.below(2) {
        let mut record = Record::memory(random.below(4).saturating_mul(0x4000), &random.bytes(64));
        record.offset = random.below(4096) as u32;
        to.push(record);
    }
}

/// Colours, with 6 or 8 bits; some are written or read in part only.
fn palette(random: &mut Random, to: &mut Vec<Record>) {
    if random.one_in(3) {
        let enable = random.of(&[0u64, 0x20, 0x61]).copied().unwrap_or(0);
        to.extend([write(region::DISPI, 0, 2, dispi::ENABLE as u64), write(region::DISPI, 1, 2, enable)]);
    }
    let index = random.of(&[0, 1, 15, 0xfe, 0xff]).copied().unwrap_or(0);
    to.push(write(region::VGA, 8, 1, index));
    for _ in 0..random.below(7) {
        to.push(write(region::VGA, 9, 1, random.number(1)));
        if random.one_in(8) {
            to.push(Record::new(Kind::Restart));
        }
        if random.one_in(8) {
            to.push(read(region::VGA, 9, 1));
        }
    }
    to.push(write(region::VGA, 7, 1, index));
    to.push(read(region::VGA, random.of(&[6, 7, 8]).copied().unwrap_or(7), 1));
    to.push(Record { kind: Kind::ReadString, value: random.below(9), ..read(region::VGA, 9, 1) });
    if random.one_in(3) {
        to.push(write(region::VGA, 6, 1, random.number(1)));
    }
}

/// A register of the Bochs interface, by its ports or in BAR 2.
fn vbe(random: &mut Random, index: usize, value: u64, to: &mut Vec<Record>) {
    if random.one_in(2) {
        to.extend([write(region::DISPI, 0, 2, index as u64), write(region::DISPI, 1, 2, value)]);
    } else {
        to.push(write(region::MMIO, DISPI_BLOCK.saturating_add((index << 1) as u32), 2, value));
    }
}

/// A mode of the Bochs interface; most are small.
fn bochs_mode(random: &mut Random, to: &mut Vec<Record>) {
    let large = random.one_in(16);
    let bpp =
        if random.one_in(16) { random.number(2) } else { random.of(&[4, 8, 15, 16, 24, 32]).copied().unwrap_or(8) };
    let (most_x, most_y) = if large { (2000, 1000) } else { (80, 40) };
    let (x, y) = (random.below(most_x), random.below(most_y));
    vbe(random, dispi::ENABLE, 0, to);
    vbe(random, dispi::XRES, x, to);
    vbe(random, dispi::YRES, y, to);
    vbe(random, dispi::BPP, bpp, to);
    let enable = random.of(&[0x41, 0xc1, 0x61, 0xe1, 0x01, 0x43]).copied().unwrap_or(0x41);
    vbe(random, dispi::ENABLE, enable, to);
    attribute(false, &[], to);
    attribute(true, &[], to);
    if random.one_in(2) {
        bochs_offsets(random, x, to);
    }
    contents(random, to);
}

/// A virtual screen and where in it the picture is, or a bank.
fn bochs_offsets(random: &mut Random, x: u64, to: &mut Vec<Record>) {
    let wide = if random.one_in(8) { random.number(2) } else { x.saturating_add(random.below(40)) };
    vbe(random, dispi::VIRT_WIDTH, wide, to);
    let (left, down) = (random.below(50), if random.one_in(4) { random.number(2) } else { random.below(64) });
    vbe(random, dispi::X_OFFSET, left, to);
    vbe(random, dispi::Y_OFFSET, down, to);
    let bank = random.of(&[0, 1, 3, 15, 16, 0xffff]).copied().unwrap_or(0);
    vbe(random, dispi::BANK, bank, to);
}

/// Any registers of the Bochs interface in any order, as a guest that probes it.
fn bochs_registers(random: &mut Random, to: &mut Vec<Record>) {
    for _ in 0..=random.below(6) {
        let (index, value) = (random.below(12) as usize, random.number(2));
        vbe(random, index, value, to);
        if random.one_in(3) {
            to.extend([
                write(region::DISPI, 0, 2, random.below(13)),
                read(region::DISPI, random.below(2) as u32, 2),
                read(region::MMIO, DISPI_BLOCK.saturating_add((index << 1) as u32), 2),
            ]);
        }
        if random.one_in(8) {
            to.push(Record::new(if random.one_in(2) { Kind::Restart } else { Kind::Check }));
        }
    }
}

/// An offset of the window at a border.
fn place(random: &mut Random) -> u32 {
    let borders = [0u32, 0x2000, 0x7ffe, 0xfffc, 0x1_0000, 0x1_7ffd, 0x1_8000, 0x1_fff8];
    random.of(&borders).copied().unwrap_or(0).wrapping_add(random.below(8) as u32)
}

/// The window, with each write and read mode, map and plane.
fn window(random: &mut Random, to: &mut Vec<Record>) {
    if random.one_in(2) {
        sequencer(seq::MEMORY_MODE, random.of(&[2, 6, 0x0e, 0x0a]).copied().unwrap_or(6), to);
    }
    sequencer(seq::MAP_MASK, random.below(16) as u8, to);
    for _ in 0..random.below(5) {
        let index = random.below(gfx::COUNT as u64) as usize;
        let value = match index {
            gfx::MODE => (random.below(4) | random.below(2) << 3 | random.below(2) << 4) as u8,
            gfx::MISC => (1 | random.below(8) << 1) as u8,
            _ => random.number(1) as u8,
        };
        graphics(index, value, to);
    }
    for _ in 0..=random.below(4) {
        let size = random.of(&[1, 1, 2, 4, 8]).copied().unwrap_or(1);
        let at = place(random);
        to.push(read(region::WINDOW, at, size));
        if random.one_in(8) {
            to.push(Record::new(Kind::Restart));
        }
        to.push(write(region::WINDOW, at.wrapping_add(random.below(3) as u32), size, random.number(size)));
    }
    if random.one_in(4) {
        let kind = if random.one_in(2) { Kind::WriteString } else { Kind::ReadString };
        let data = random.bytes(32);
        to.push(Record { kind, value: random.below(64), data, ..read(region::WINDOW, place(random), 2) });
    }
}

/// A copy within video RAM by the latches (write mode 1).
fn copy(random: &mut Random, to: &mut Vec<Record>) {
    sequencer(seq::MEMORY_MODE, 6, to);
    sequencer(seq::MAP_MASK, 0x0f, to);
    graphics(gfx::MISC, 5, to);
    graphics(gfx::MODE, 0, to);
    to.push(write(region::WINDOW, 0x10, 4, random.number(4)));
    graphics(gfx::MODE, 1, to);
    for i in 0..=random.below(4) as u32 {
        to.push(read(region::WINDOW, 0x10u32.saturating_add(i), 1));
        if random.one_in(4) {
            to.push(Record::new(Kind::Restart));
        }
        to.push(write(region::WINDOW, 0x40u32.saturating_add(i), 1, 0));
    }
    graphics(gfx::MODE, 0, to);
    for plane in 0..4 {
        graphics(gfx::READ_MAP, plane, to);
        to.push(read(region::WINDOW, 0x40, 1));
    }
}

/// Viewers look; something changes; they look again.
fn view(random: &mut Random, to: &mut Vec<Record>) {
    for _ in 0..=random.below(2) {
        let look = match random.below(32) {
            0 => action::SCREENSHOT,
            1..=3 => action::REFUSE,
            _ => action::REFRESH,
        };
        to.push(Record::host(look, 0, &[]));
        match random.below(8) {
            0 => to.push(Record::host(action::DRAW, random.number(2), &random.bytes(64))),
            1 => to.push(write(region::WINDOW, 0x1_8000, 2, random.number(2))),
            2 => contents(random, to),
            3 => crt(false, crtc::CURSOR_LOW, random.below(8) as u8, to),
            4 => to.extend(
                [write(region::VGA, 8, 1, 0)].into_iter().chain([7, 8, 9].map(|v| write(region::VGA, 9, 1, v))),
            ),
            5 => sequencer(seq::CHARACTER_MAP, random.number(1) as u8, to),
            6 => to.push(Record::new(Kind::Restart)),
            _ => {}
        }
    }
    to.push(Record::host(action::COMPARE, 0, &[]));
}

/// A viewer requests a size; the guest reads the monitor's description.
fn edid(random: &mut Random, to: &mut Vec<Record>) {
    for _ in 0..random.below(3) {
        let (width, height) = (random.below(1000) as u16, random.below(700) as u16);
        let mut data = [width.to_le_bytes(), height.to_le_bytes()].concat();
        if random.one_in(4) {
            data = random.bytes(20);
        }
        to.push(Record::host(action::WISH, 0, &data));
        if random.one_in(3) {
            to.push(Record::new(if random.one_in(2) { Kind::Restart } else { Kind::Reset }));
        }
        let at = random.of(&[0u32, 0x15, 0x36, 0x38, 0x3b, 0x7e, 0x7f]).copied().unwrap_or(0);
        let size = random.of(&[1, 2, 4, 8]).copied().unwrap_or(4);
        to.push(read(region::MMIO, at, size));
    }
    // The registers behind it, with sizes that they do not have.
    let at = random.of(&[VGA_BLOCK, DISPI_BLOCK, 0x600, 0x604, 0x515, 0x41f, 0x80, 0xffc]).copied().unwrap_or(0);
    let size = random.of(&[1, 2, 4, 8]).copied().unwrap_or(4);
    to.extend([read(region::MMIO, at, size), write(region::MMIO, at, size, random.number(size))]);
}

fn bars(random: &mut Random, to: &mut Vec<Record>) {
    for _ in 0..=random.below(3) {
        let at =
            random.of(&[reg::BAR0, reg::BAR0 + 8, reg::ROM, reg::COMMAND, reg::INTERRUPT_LINE]).copied().unwrap_or(4);
        let value = if random.one_in(2) { random.number(4) } else { 0xffff_ffff };
        let record = Record { offset: at.into(), size: 4, value, ..Record::new(Kind::ConfigWrite) };
        to.extend([record.clone(), Record { kind: Kind::ConfigRead, ..record }]);
    }
}

/// The attribute controller, sometimes without the read that begins with the index.
fn attributes(random: &mut Random, to: &mut Vec<Record>) {
    let mut pairs = Vec::new();
    for _ in 0..=random.below(4) {
        pairs.push((random.below((attr::COUNT as u64).saturating_add(1)) as usize, random.number(1) as u8));
    }
    let at = to.len();
    attribute(random.one_in(4), &pairs, to);
    if random.one_in(4) {
        to.remove(at);
    }
    if random.one_in(4) {
        to.insert(at.saturating_add(1).min(to.len()), Record::new(Kind::Restart));
    }
    to.extend([write(region::VGA, 0, 1, random.below(0x40)), read(region::VGA, 0, 1), read(region::VGA, 1, 1)]);
}

/// Start, split screen, panning, rows, cursor, underline; with the protection of some registers or not.
fn scroll(random: &mut Random, to: &mut Vec<Record>) {
    let mono = random.one_in(4);
    if random.one_in(4) {
        let protect = if random.one_in(2) { 0x8e } else { 0x0e };
        crt(mono, crtc::VERTICAL_SYNC_END, protect, to);
    }
    let few = [
        crtc::PRESET_ROW_SCAN,
        crtc::MAX_SCAN_LINE,
        crtc::CURSOR_START,
        crtc::CURSOR_END,
        crtc::START_HIGH,
        crtc::START_LOW,
        crtc::CURSOR_HIGH,
        crtc::CURSOR_LOW,
        crtc::OFFSET,
        crtc::UNDERLINE,
        crtc::MODE,
        crtc::LINE_COMPARE,
        crtc::OVERFLOW,
    ];
    for _ in 0..=random.below(4) {
        let index = random.of(&few).copied().unwrap_or(0);
        let value = if index == crtc::LINE_COMPARE { random.below(32) as u8 } else { random.number(1) as u8 };
        // Without the bits that make a picture of 1024 lines.
        crt(mono, index, if index == crtc::OVERFLOW { value & !0x42 } else { value }, to);
    }
    if random.one_in(2) {
        attribute(mono, &[(attr::PANNING, random.below(16) as u8), (attr::MODE, random.number(1) as u8)], to);
    }
    to.push(Record::advance(random.below(40_000_000)));
    to.push(read(if mono { region::MONO_STATUS } else { region::COLOR_STATUS }, 0, 1));
    to.push(read(if mono { region::MONO_CRTC } else { region::COLOR_CRTC }, random.below(2) as u32, 1));
}

/// The screen goes off and on, by the sequencer or by the palette's source.
fn blank(random: &mut Random, to: &mut Vec<Record>) {
    if random.one_in(2) {
        sequencer(seq::CLOCKING, 0x20 | random.below(2) as u8, to);
    } else {
        to.extend([read(region::COLOR_STATUS, 0, 1), write(region::VGA, 0, 1, 0)]);
    }
    to.push(Record::host(action::COMPARE, 0, &[]));
    sequencer(seq::CLOCKING, random.below(2) as u8, to);
    attribute(false, &[], to);
    for offset in [0x2, 0xa, 0xc, 0x3] {
        to.push(read(region::VGA, offset, 1));
    }
}
