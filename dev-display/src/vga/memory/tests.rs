//! Compares the window with a model of single bits, written from the IBM VGA Technical Reference: chapters "Sequencer" and
//! "Graphics Controller". It has no masks and no shifts of whole registers, so it does not share mistakes with the code under test.
use super::*;
use crate::vga::tests::{display, linear, set};
use crate::vga::{Access, Device as _, GuestMemory as _, region};
use proptest::prelude::*;

const SEQ: u16 = 0x3c4;
const GFX: u16 = 0x3ce;

/// The model: registers, planes, latches.
#[derive(Clone)]
struct Card {
    seq: [u8; 5],
    gfx: [u8; 9],
    planes: Vec<Vec<u8>>,
    latches: [u8; 4],
}

fn bit(register: u8, n: usize) -> bool {
    (register / 2u8.pow(n as u32)) % 2 == 1
}

impl Card {
    fn new() -> Self {
        Self { seq: [0; 5], gfx: [0; 9], planes: vec![vec![0; 65536]; 4], latches: [0; 4] }
    }

    /// Address within the planes; `None` outside the window.
    fn locate(&self, window: usize) -> Option<usize> {
        let absolute = 0xa0000 + window;
        let (first, last) = match (bit(self.gfx[6], 3), bit(self.gfx[6], 2)) {
            (false, false) => (0xa0000, 0xbffff),
            (false, true) => (0xa0000, 0xaffff),
            (true, false) => (0xb0000, 0xb7fff),
            (true, true) => (0xb8000, 0xbffff),
        };
        if !(first..=last).contains(&absolute) {
            return None;
        }
        let relative = absolute - first;
        let page = usize::from(relative >= 65536);
        let inside = relative % 65536;
        Some(if bit(self.seq[4], 3) {
            // Chain 4: two bits of the address are the plane's number.
            inside - inside % 4 + page
        } else if bit(self.gfx[6], 1) {
            // Odd/even: one bit is the plane's number.
            inside - inside % 2 + page
        } else {
            inside
        })
    }

    fn reaches(&self, plane: usize, window: usize) -> bool {
        let wanted =
            if bit(self.seq[4], 3) { plane == window % 4 } else { bit(self.seq[4], 2) || plane % 2 == window % 2 };
        wanted && bit(self.seq[2], plane)
    }

    fn write(&mut self, window: usize, value: u8) {
        let Some(at) = self.locate(window) else { return };
        let reached: Vec<usize> = (0..4).filter(|p| self.reaches(*p, window)).collect();
        for plane in reached {
            let mut byte = 0;
            for n in 0..8 {
                // The processor's bit that is rotated to this place.
                let turned = bit(value, (n + usize::from(self.gfx[3] % 8)) % 8);
                let latch = bit(self.latches[plane], n);
                let fill = bit(self.gfx[0], plane);
                let (source, open) = match (bit(self.gfx[5], 1), bit(self.gfx[5], 0)) {
                    (false, false) => (if bit(self.gfx[1], plane) { fill } else { turned }, bit(self.gfx[8], n)),
                    (false, true) => (latch, false),
                    (true, false) => (bit(value, plane), bit(self.gfx[8], n)),
                    (true, true) => (fill, turned && bit(self.gfx[8], n)),
                };
                let result = match (bit(self.gfx[3], 4), bit(self.gfx[3], 3)) {
                    (false, false) => source,
                    (false, true) => source && latch,
                    (true, false) => source || latch,
                    (true, true) => source != latch,
                };
                if if open { result } else { latch } {
                    byte += 2u8.pow(n as u32);
                }
            }
            self.planes[plane][at] = byte;
        }
    }

    fn read(&mut self, window: usize) -> u8 {
        let Some(at) = self.locate(window) else { return 0xff };
        for plane in 0..4 {
            self.latches[plane] = self.planes[plane][at];
        }
        if bit(self.gfx[5], 3) {
            let same =
                |n: usize| (0..4).all(|p| !bit(self.gfx[7], p) || bit(self.latches[p], n) == bit(self.gfx[2], p));
            return (0..8).filter(|n| same(*n)).map(|n| 2u8.pow(n as u32)).sum();
        }
        let high = bit(self.gfx[4], 1);
        let low = if bit(self.gfx[5], 4) { window % 2 == 1 } else { bit(self.gfx[4], 0) };
        let plane = if bit(self.seq[4], 3) { window % 4 } else { usize::from(high) * 2 + usize::from(low) };
        self.latches[plane]
    }
}

/// All inputs of a single bit: write mode, function, rotation, set/reset and its enable, bit mask, latch, data.
#[test]
fn function_ignored_in_one_write_mode() {
    let (mut v, _, vram) = display();
    set(&mut v, SEQ, &[(2, 0x0f), (4, 6)]);
    set(&mut v, GFX, &[(6, 5), (4, 0)]);
    let mut card = Card::new();
    card.seq = [0, 0, 0x0f, 0, 6];
    card.gfx[6] = 5;
    let full = |b: bool| if b { 0xff } else { 0 };
    for mode in 0..4u8 {
        for rotate in 0..0x20u8 {
            for n in 0..8 {
                for case in 0..32u8 {
                    let [data, fill, enable, mask, latch] = std::array::from_fn(|i| bit(case, i));
                    // The tested bit differs from all others.
                    let only = |b: bool| full(!b) ^ 2u8.pow(n);
                    let registers = [(0, full(fill)), (1, full(enable)), (3, rotate), (5, mode), (8, only(mask))];
                    set(&mut v, GFX, &registers);
                    for (index, value) in registers {
                        card.gfx[usize::from(index)] = value & gfx::BITS[usize::from(index)];
                    }
                    let planes = [only(latch), full(latch), only(!latch), 0x5a];
                    vram.write(0, &planes).unwrap();
                    v.memory_read(0);
                    card.latches = planes;
                    let value = only(data).rotate_left(u32::from(rotate & 7));
                    v.memory_write(1, value);
                    card.write(1, value);
                    let mut now = [0; 4];
                    vram.read(4, &mut now).unwrap();
                    let want = [0, 1, 2, 3].map(|p: usize| card.planes[p][1]);
                    assert_eq!(now, want, "mode {mode}, rotate {rotate:#x}, bit {n}, case {case:#b}");
                }
            }
        }
    }
}

/// The three bits of odd/even, chain 4, every map and every mask: the targets of writes and reads.
#[test]
fn odd_even_by_one_bit_alone() {
    for mode in 0..16u8 {
        for misc in 0..16u8 {
            for read in 0..8u8 {
                let (mut v, _, vram) = display();
                let (host, map) = (read & 4, read & 3);
                let mut card = Card::new();
                card.seq[4] = mode;
                card.gfx = [0, 0, 0, 0, map, host << 2, misc, 0, 0xff];
                set(&mut v, SEQ, &[(4, mode)]);
                set(&mut v, GFX, &[(4, map), (5, host << 2), (6, misc), (8, 0xff)]);
                let places = [0usize, 1, 2, 3, 6, 7, 0xfffe, 0xffff];
                for (n, at) in
                    places.iter().flat_map(|a| [0usize, 0x10000, 0x18000].map(|b| a % 0x8000 + b)).enumerate()
                {
                    let mask = n as u8 % 16;
                    set(&mut v, SEQ, &[(2, mask)]);
                    card.seq[2] = mask;
                    v.memory_write(at as u64, n as u8 + 1);
                    card.write(at, n as u8 + 1);
                    assert_eq!(v.memory_read(at as u64), card.read(at), "{mode:x} {misc:x} {read:x} {at:#x}");
                }
                let mut all = vec![0; 0x40000];
                vram.read(0, &mut all).unwrap();
                for at in 0..0x10000 {
                    for plane in 0..4 {
                        let (now, want) = (all[at * 4 + plane], card.planes[plane][at]);
                        assert_eq!(now, want, "{mode:x} {misc:x} {read:x}: plane {plane} at {at:#x}");
                    }
                }
            }
        }
    }
}

/// The odd/even bits, as guests use them.
#[test]
fn an_even_address_reaches_both_even_planes() {
    let (mut v, _, vram) = display();
    let planes = |at: u64| {
        let mut b = [0; 4];
        vram.read(at * 4, &mut b).unwrap();
        b
    };
    set(&mut v, SEQ, &[(2, 0x0f), (4, 2)]);
    set(&mut v, GFX, &[(5, 0x10), (6, 0x0e), (8, 0xff)]);
    v.memory_write(0x18000, 0x11);
    v.memory_write(0x18001, 0x22);
    v.memory_write(0x18002, 0x33);
    assert_eq!((planes(0), planes(1), planes(2)), ([0x11, 0x22, 0x11, 0x22], [0; 4], [0x33, 0, 0x33, 0]));
    set(&mut v, GFX, &[(4, 2)]);
    assert_eq!((v.memory_read(0x18000), v.memory_read(0x18001)), (0x11, 0x22), "planes 2 and 3");
    // A font through the text window, with only the sequencer's bit set: the address still lacks its bit 0.
    set(&mut v, SEQ, &[(2, 4), (4, 6)]);
    for line in 0..16 {
        v.memory_write(0x18000 + 32 + line, line as u8 + 1);
    }
    let lines: Vec<u8> = (32..48).map(|at| planes(at)[2]).collect();
    assert_eq!(lines, [2, 0, 4, 0, 6, 0, 8, 0, 10, 0, 12, 0, 14, 0, 16, 0]);
    // Only the bit for reads: writes reach every plane, and the address selects the plane of reads.
    set(&mut v, SEQ, &[(2, 0x0f), (4, 6)]);
    set(&mut v, GFX, &[(4, 0), (5, 0x10), (6, 5)]);
    v.memory_write(0x101, 0x77);
    assert_eq!(planes(0x101), [0x77; 4]);
    vram.write(0x101 * 4, &[1, 2, 3, 4]).unwrap();
    assert_eq!(v.memory_read(0x101), 2);
}

/// Every read loads the latches: of every way of addressing, of every width, in strings.
#[test]
fn a_read_that_does_not_load_the_latches() {
    for (mode, graphics, misc) in [(6, 0, 5), (2, 0x10, 7), (0x0e, 0, 5), (6, 8, 5)] {
        let (mut v, mut cx, vram) = display();
        set(&mut v, SEQ, &[(2, 0x0f), (4, mode)]);
        set(&mut v, GFX, &[(5, graphics), (6, misc), (8, 0xff)]);
        for at in 0..64u64 {
            vram.write(at * 4, &[at as u8, at as u8 + 64, at as u8 + 128, at as u8 + 192]).unwrap();
        }
        let latch = |at: u8| u32::from_le_bytes([at, at + 64, at + 128, at + 192]);
        let mapped = |at: u8| {
            if mode & 8 != 0 {
                at & !3
            } else if misc & 2 != 0 {
                at & !1
            } else {
                at
            }
        };
        for size in [1u8, 2, 4, 8] {
            v.read(Access::new(region::WINDOW, 16, size), &mut cx).unwrap();
            assert_eq!(v.latch, latch(mapped(15 + size)), "mode {mode:#x}, {size} bytes: the last one's");
        }
        let mut data = [0; 4];
        v.read_string(Access::new(region::WINDOW, 40, 1), &mut data, &mut cx).unwrap();
        assert_eq!(v.latch, latch(mapped(40)), "mode {mode:#x}, a string");
    }
}

/// A linear picture of the Bochs interface has consecutive bytes in every write mode; its banks are at 0xa0000.
#[test]
fn chained_bytes_of_a_linear_mode_are_plain() {
    let (mut v, mut cx, vram) = display();
    linear(&mut v, &mut cx, 640, 480, 8);
    set(&mut v, SEQ, &[(2, 0x0f), (4, 0x0e)]);
    set(&mut v, GFX, &[(0, 5), (1, 15), (3, 0x1b), (5, 3), (6, 5), (8, 0x3c)]);
    crate::vga::tests::dispi(&mut v, &mut cx, 5, 3);
    v.write(Access::new(region::WINDOW, 0x1001, 4), 0x4433_2211, &mut cx).unwrap();
    let mut bytes = [0; 4];
    vram.read(0x3_1001, &mut bytes).unwrap();
    assert_eq!(bytes, [0x11, 0x22, 0x33, 0x44]);
    assert_eq!(v.read(Access::new(region::WINDOW, 0x1001, 4), &mut cx).unwrap() as u32, 0x4433_2211);
}

#[derive(Clone, Debug)]
enum Step {
    Sequencer(u8, u8),
    Graphics(u8, u8),
    Write(u32, u8),
    Read(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let near = prop_oneof![0u32..16, 0xfff0u32..0x10010, 0x17ff8u32..0x18020, Just(0x1ffffu32), 0u32..0x20000];
    prop_oneof![
        (2u8..5, any::<u8>()).prop_map(|(i, v)| Step::Sequencer(i, v)),
        (0u8..9, any::<u8>()).prop_map(|(i, v)| Step::Graphics(i, v)),
        (near.clone(), any::<u8>()).prop_map(|(at, v)| Step::Write(at, v)),
        near.prop_map(Step::Read),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn any_order_of_accesses_is_as_on_the_card_of_bits(steps in prop::collection::vec(step(), 1..120)) {
        let (mut v, _, vram) = display();
        let mut card = Card::new();
        card.gfx[8] = 0xff;
        for step in steps {
            match step {
                Step::Sequencer(index, value) => {
                    set(&mut v, SEQ, &[(index, value)]);
                    card.seq[usize::from(index)] = value;
                }
                Step::Graphics(index, value) => {
                    set(&mut v, GFX, &[(index, value)]);
                    card.gfx[usize::from(index)] = value;
                }
                Step::Write(at, value) => {
                    v.memory_write(u64::from(at), value);
                    card.write(at as usize, value);
                }
                Step::Read(at) => {
                    prop_assert_eq!(v.memory_read(u64::from(at)), card.read(at as usize));
                    prop_assert_eq!(v.latch.to_le_bytes(), card.latches);
                }
            }
        }
        let mut all = vec![0; 0x40000];
        vram.read(0, &mut all).unwrap();
        for (at, bytes) in all.as_chunks::<4>().0.iter().enumerate() {
            let want = [0, 1, 2, 3].map(|p: usize| card.planes[p][at]);
            prop_assert_eq!(*bytes, want, "at {:#x}", at);
        }
    }
}
