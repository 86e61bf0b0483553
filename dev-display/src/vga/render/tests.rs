//! Compares pictures with a model of the CRT controller that computes each pixel separately, written from the IBM VGA Technical
//! Reference: "CRT Controller", "Attribute Controller", and its table of memory addresses in byte, word and doubleword mode.
use super::*;
use crate::vga::tests::{display, out, set};
use crate::vga::{GuestMemory as _, attr};
use proptest::prelude::*;

/// The settings of a picture.
#[derive(Clone, Debug)]
struct Screen {
    kind: Kind,
    columns: u8,
    lines: u8,
    start: u16,
    offset: u8,
    cell: u8,
    preset: u8,
    compare: u16,
    underline: u8,
    control: u8,
    pan: u8,
    nine: bool,
    stops: bool,
    seed: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Planes,
    Cga,
    Bytes,
    Text,
}

fn screen() -> impl Strategy<Value = Screen> {
    let start = prop_oneof![0xffc0u16..=0xffff, 0x3fc0u16..0x4010, 0x1ff0u16..0x2010, 0u16..64, any::<u16>()];
    let kind = prop::sample::select(vec![Kind::Planes, Kind::Cga, Kind::Bytes, Kind::Text]);
    // Byte, word (with either bit), doubleword; with and without the CGA's and Hercules' banks.
    let wiring = (prop::sample::select(vec![(0u8, 0x40u8), (0, 0), (0, 0x20), (0x40, 0), (0x40, 0x40)]), 0u8..4);
    (
        (kind, 0u8..20, 0u8..70, start, any::<u8>(), any::<u8>(), any::<u8>()),
        (0u16..90, wiring, 0u8..16, any::<bool>(), any::<bool>(), any::<u32>()),
    )
        .prop_map(
            |((kind, columns, lines, start, offset, cell, preset), (compare, wiring, pan, nine, stops, seed))| {
                let ((underline, byte), banks) = wiring;
                Screen {
                    kind,
                    columns,
                    lines,
                    start,
                    offset,
                    cell,
                    preset: preset & 0x7f,
                    compare,
                    underline,
                    control: 0x80 | byte | banks,
                    pan,
                    nine,
                    stops,
                    seed,
                }
            },
        )
}

/// The source of each output bit, from bit 0: a bit of the address counter; 16 and 17 are bits 0 and 1 of the line within a row.
fn outputs(s: &Screen) -> Vec<u32> {
    let mut from: Vec<u32> = if s.underline & 0x40 != 0 {
        [14, 15].into_iter().chain(0..14).collect()
    } else if s.control & 0x40 != 0 {
        (0..16).collect()
    } else {
        [if s.control & 0x20 != 0 { 15 } else { 13 }].into_iter().chain(0..15).collect()
    };
    if s.control & 1 == 0 {
        from[13] = 16;
    }
    if s.control & 2 == 0 {
        from[14] = 17;
    }
    from
}

struct Beam {
    counter: u64,
    row: u64,
    pan: usize,
}

/// The beam's state on line `wanted`, by stepping through all earlier lines.
fn beam(s: &Screen, wanted: usize) -> Beam {
    let neutral = if s.kind == Kind::Text && s.nine {
        [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]
    } else {
        [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7]
    };
    let pan = neutral[usize::from(s.pan)];
    let mut counter = u64::from(s.start) + u64::from(s.preset / 32);
    let mut row = u64::from(s.preset % 32);
    let mut below = false;
    for line in 0..wanted {
        if line == usize::from(s.compare) {
            (counter, row, below) = (0, 0, true);
            continue;
        }
        if s.cell >= 0x80 && line % 2 == 0 {
            continue;
        }
        if row == u64::from(s.cell % 32) {
            row = 0;
            counter += 2 * u64::from(s.offset);
        } else {
            row = (row + 1) % 32;
        }
    }
    Beam { counter, row, pan: if below && s.stops { 0 } else { pan } }
}

fn pixel_of(s: &Screen, v: &Vga, planes: &[u8], x: usize, y: usize) -> u32 {
    let beam = beam(s, y);
    let dots = if s.kind == Kind::Text && s.nine { 9 } else { 8 };
    let (character, dot) = ((x + beam.pan) / dots, (x + beam.pan) % dots);
    let counter = (beam.counter + character as u64) % 65536;
    let source = counter + beam.row % 4 * 65536;
    let address: usize = outputs(s).iter().enumerate().map(|(i, from)| ((source >> from & 1) as usize) << i).sum();
    let byte = |plane: usize| planes[address * 4 + plane];
    let dac = |i: u8| {
        let rgb = &v.palette[usize::from(i) * 3..][..3];
        rgb.iter().fold(0u32, |p, c| p * 256 + u32::from(*c) * 4 + u32::from(*c) / 16)
    };
    let attribute = |i: u8| dac(v.attribute[usize::from(i & v.attribute[attr::PLANE_ENABLE])] & 0x3f);
    match s.kind {
        Kind::Planes => attribute((0..4).map(|p| (byte(p) >> (7 - dot) & 1) << p).sum()),
        Kind::Cga => {
            let (half, shift) = (dot / 4, 6 - dot % 4 * 2);
            attribute((byte(half) >> shift & 3) + (byte(half + 2) >> shift & 3) * 4)
        }
        Kind::Bytes => dac(byte(dot / 2)),
        Kind::Text => {
            let (code, colours) = (usize::from(byte(0)), byte(1));
            let glyph = planes[(code * 32 + beam.row as usize) * 4 + 2];
            let on = match dot {
                8 => (0xc0..0xe0).contains(&code) && glyph % 2 == 1,
                _ => glyph >> (7 - dot) & 1 == 1,
            };
            attribute(if on { colours % 16 } else { colours / 16 })
        }
    }
}

fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut n = seed | 1;
    (0..len)
        .map(|_| {
            n ^= n << 13;
            n ^= n >> 17;
            n ^= n << 5;
            n as u8
        })
        .collect()
}

fn shown(s: &Screen) -> (Vga, Vec<u8>) {
    let (mut v, _, vram) = display();
    let planes = noise(s.seed, 0x40000);
    vram.write(0, &planes).unwrap();
    // Bytes after the planes must not appear.
    vram.write(0x40000, &vec![0xa5; 0x1000]).unwrap();
    let (shift, misc) = match s.kind {
        Kind::Planes => (0, 1),
        Kind::Cga => (0x20, 1),
        Kind::Bytes => (0x40, 1),
        Kind::Text => (0, 0),
    };
    out(&mut v, 0x3c2, 0x67);
    set(&mut v, 0x3c4, &[(1, u8::from(!s.nine)), (2, 15), (3, 0), (4, 6)]);
    set(&mut v, 0x3ce, &[(5, shift), (6, misc | 4), (8, 0xff)]);
    let [compare, ninth] = [s.compare as u8, if s.compare & 0x100 != 0 { 0x10 } else { 0 }];
    set(
        &mut v,
        0x3d4,
        &[
            (1, s.columns),
            (7, ninth),
            (8, s.preset),
            (9, s.cell & 0x9f),
            (0x0a, 0x20),
            (0x0c, (s.start >> 8) as u8),
            (0x0d, s.start as u8),
            (0x12, s.lines),
            (0x13, s.offset),
            (0x14, s.underline),
            (0x17, s.control),
            (0x18, compare),
        ],
    );
    v.palette.copy_from_slice(&noise(s.seed ^ 0x55, 768).iter().map(|c| c & 0x3f).collect::<Vec<_>>());
    for i in 0..16u8 {
        v.attribute[usize::from(i)] = i.wrapping_mul(7) & 0x3f;
    }
    v.attribute[attr::MODE] = 4 | if s.stops { 0x20 } else { 0 };
    v.attribute[attr::PLANE_ENABLE] = 15;
    v.attribute[attr::PANNING] = s.pan;
    v.status_read(0);
    out(&mut v, 0x3c0, 0x20);
    (v, planes)
}

fn agrees(s: &Screen) -> Result<(), String> {
    let (v, planes) = shown(s);
    let frame = v.frame();
    let dots = if s.kind == Kind::Text && s.nine { 9 } else { 8 };
    let size = ((usize::from(s.columns) + 1) * dots, usize::from(s.lines) + 1);
    if (frame.width, frame.height) != size {
        return Err(format!("{} x {}, not {size:?}", frame.width, frame.height));
    }
    for y in 0..frame.height {
        for x in 0..frame.width {
            let (is, should) = (frame.pixels[y * frame.width + x], pixel_of(s, &v, &planes, x, y));
            if is != should {
                return Err(format!("{x}, {y}: {is:06x}, not {should:06x}"));
            }
        }
    }
    Ok(())
}

/// The planes end within the first row, in every mode and address mode.
#[test]
fn a_row_that_does_not_wrap() {
    for kind in [Kind::Planes, Kind::Cga, Kind::Bytes, Kind::Text] {
        for (underline, control) in [(0, 0xe3), (0, 0xa3), (0x40, 0xa3), (0, 0x83), (0, 0xe2), (0, 0xa0)] {
            for start in [0xfff6, 0x7ffb, 0x3ffd, 0x1ffb] {
                let s = Screen {
                    kind,
                    columns: 19,
                    lines: 40,
                    start,
                    offset: 10,
                    cell: 3,
                    preset: 0,
                    compare: 0x1ff,
                    underline,
                    control,
                    pan: 0,
                    nine: false,
                    stops: false,
                    seed: 7,
                };
                assert_eq!(agrees(&s), Ok(()), "{s:?}");
            }
        }
    }
}

/// The text rows of `inspect` wrap to 0 too.
#[test]
fn words_on_a_row_that_wraps() {
    let (mut v, _, vram) = display();
    crate::vga::tests::text_mode(&mut v, &vram);
    set(&mut v, 0x3d4, &[(0x0c, 0xff), (0x0d, 0xfe)]);
    for (at, letter) in [(0xfffdu64, b'w'), (0xffff, b'r'), (0, b'a'), (2, b'p'), (0x9c, b'2')] {
        vram.write(at * 4, &[letter]).unwrap();
    }
    assert_eq!(v.text_rows().unwrap()[..2], ["wrap", "2"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn any_picture_is_the_crt_controllers(s in screen()) {
        prop_assert_eq!(agrees(&s), Ok(()));
    }
}
