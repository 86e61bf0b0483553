use super::*;
use crate::FRAMES;
use crate::backend::{Abilities, Cable};
use crate::frame::Frame;
use crate::frame::{Offload, Partial};
use crate::offload::checksum;
use bulkhead_bus::{Clock, GuestMemory as _, fake::FakeMemory};
use proptest::prelude::*;
use std::sync::Arc;

const MAC: [u8; 6] = [0x02, 0x16, 0x3e, 1, 2, 3];
const TX: u64 = 0x1000;
const RX: u64 = 0x2000;
const BUFFER: u64 = 0x10_0000;

struct Bench {
    card: Rtl8139,
    cx: Context,
    memory: Arc<FakeMemory>,
    cable: Cable,
}

impl Bench {
    fn new(abilities: Abilities) -> Self {
        let memory = FakeMemory::new(4 << 20);
        let cable = Cable::new(abilities, 0);
        let mut bench = Self {
            card: Rtl8139::new(4, 0, MAC, Box::new(cable.clone()), &NicSettings::default()),
            cx: Context::new(memory.clone()),
            memory,
            cable,
        };
        bench.write(reg::IMR, 2, 0xffff);
        bench
    }

    /// A card in C mode, as firmware and 8139too set it up: 8 KiB of buffer.
    fn plain() -> Self {
        let mut b = Self::new(Abilities::default());
        b.write(reg::RBSTART, 4, BUFFER as u32);
        b.write(reg::CR, 1, 0x0c);
        b.write(reg::RCR, 4, 0x0a);
        b
    }

    /// A card in C+ mode, as 8139cp sets it up: rings of four.
    fn plus(abilities: Abilities) -> Self {
        let mut b = Self::new(abilities);
        b.write(reg::CPCR, 2, 0x23);
        b.write(reg::CR, 1, 0x0c);
        b.write(reg::RCR, 4, 0x0a);
        b.write(reg::TNPDS, 4, TX as u32);
        b.write(reg::RDSAR, 4, RX as u32);
        for i in 0..4u64 {
            b.give(i);
        }
        b
    }

    fn read(&mut self, at: usize, size: u8) -> u32 {
        self.card.read(Access::new(0, at as u64, size), &mut self.cx).unwrap() as u32
    }

    fn write(&mut self, at: usize, size: u8, value: u32) {
        self.card.write(Access::new(0, at as u64, size), u64::from(value), &mut self.cx).unwrap();
    }

    /// Gives a receive descriptor of 1536 bytes to the card.
    fn give(&self, i: u64) {
        let word = 0x8000_0000 | if i == 3 { 0x4000_0000 } else { 0 } | 1536u32;
        self.memory.write(RX + i * 16, &u64::from(word).to_le_bytes()).unwrap();
        self.memory.write(RX + i * 16 + 8, &(BUFFER + i * 2048).to_le_bytes()).unwrap();
    }

    fn descriptor(&self, i: u64, word: u32, tag: u32, bytes: &[u8]) {
        self.memory.write(BUFFER + 0x10_0000 + i * 0x1_0000, bytes).unwrap();
        let all = [word.to_le_bytes(), tag.to_le_bytes()].concat();
        self.memory.write(TX + i * 16, &all).unwrap();
        self.memory.write(TX + i * 16 + 8, &(BUFFER + 0x10_0000 + i * 0x1_0000).to_le_bytes()).unwrap();
    }

    fn word(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.memory.read(at, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    fn arrives(&mut self, bytes: Vec<u8>) {
        self.cable.put(Frame { bytes, offload: Offload::default() });
        self.card.poll(Ready::Fd(FRAMES), &mut self.cx);
    }
}

fn frame(destination: [u8; 6], len: usize) -> Vec<u8> {
    let mut bytes = destination.to_vec();
    bytes.extend([0x02, 0, 0, 0, 0, 9, 0x88, 0xb5]);
    bytes.extend((bytes.len()..len).map(|i| i as u8));
    bytes
}

/// PCI registers of the RTL8139C+: command, cache line size and latency timer, BARs, interrupt line.
#[test]
fn configuration_space_has_the_hard_wired_bits_of_the_part() {
    let mut b = Bench::plain();
    let want = [(0x04, 0x0157), (0x0c, 0xf8ff), (0x10, 0xffff_ff00), (0x14, 0xffff_ff00), (0x3c, 0xff)];
    assert_eq!(bulkhead_bus::exercise::changeable(&mut b.card, 0), want);
}

#[test]
fn a_driver_finds_what_it_looks_for() {
    let mut b = Bench::new(Abilities::default());
    assert_eq!((b.card.config.read(0, 4), b.card.config.read(8, 1)), (0x8139_10ec, 0x20));
    assert_eq!((b.read(0, 4), b.read(4, 2)), (0x013e_1602, 0x0302));
    // pci_set_mwi() of Linux needs a writable cache line size.
    b.card.config_write(0, 0x0c, 1, 16, &mut b.cx);
    b.card.config_write(0, 4, 2, 0x17, &mut b.cx);
    assert_eq!((b.card.config.read(0x0c, 1), b.card.config.read(4, 2)), (16, 0x17));
    assert_eq!(b.read(reg::TCR, 4) & 0x7cc0_0000, HARDWARE, "an 8139C+");
    assert_eq!((b.read(reg::MSR, 1) & 4, b.read(reg::BMSR, 2) & 0x24), (0, 0x24), "link");
    assert_eq!(b.read(reg::CR, 1), 1, "empty, stopped");
    // The address is locked.
    b.write(reg::IDR, 4, 0);
    assert_eq!(b.read(0, 4), 0x013e_1602);
    b.write(reg::EECR, 1, 0xc0);
    b.write(reg::IDR, 4, 0x44332211);
    assert_eq!(b.read(0, 4), 0x44332211);
    // The EEPROM, as 8139cp reads it: six bits of address.
    let mut read = |address: u32| {
        b.write(reg::EECR, 1, 0x80);
        b.write(reg::EECR, 1, 0x88);
        for bit in (0..9).rev() {
            let data = ((0b110 << 6 | address) >> bit & 1) << 1;
            for value in [0x88 | data, 0x8c | data, 0x88 | data] {
                b.write(reg::EECR, 1, value);
            }
        }
        let mut value = 0;
        for _ in 0..16 {
            b.write(reg::EECR, 1, 0x8c);
            value = value << 1 | b.read(reg::EECR, 1) & 1;
            b.write(reg::EECR, 1, 0x88);
        }
        value
    };
    assert_eq!((read(0), read(7), read(9)), (0x8129, 0x1602, 0x0302));
}

#[test]
fn c_mode_sends_from_its_four_buffers() {
    let mut b = Bench::plain();
    for i in 0..5usize {
        let bytes = frame([0xff; 6], 100 + i);
        b.memory.write(0x5000, &bytes).unwrap();
        b.write(reg::TSAD + i % 4 * 4, 4, 0x5000);
        b.write(reg::TSD + i % 4 * 4, 4, bytes.len() as u32);
        assert_eq!(b.cable.take().unwrap().bytes, bytes);
        assert_eq!(b.read(reg::TSD + i % 4 * 4, 4) & 0xa000, 0xa000, "own, ok");
    }
    assert!(b.cx.lines.level(0));
    b.write(reg::ISR, 2, 0xffff);
    assert_eq!((b.read(reg::ISR, 2), b.cx.lines.level(0)), (0, false));
    // An address outside of RAM; a size larger than a buffer.
    for (address, size) in [(0xffff_0000u32, 100), (0x5000, 0x1fff)] {
        b.write(reg::TSAD, 4, address);
        b.write(reg::TSD, 4, size);
        assert!(b.cable.take().is_none() && b.read(reg::TSD, 4) & 0x4000_0000 != 0);
    }
}

#[test]
fn c_mode_receives_into_its_buffer_and_around_its_end() {
    let mut b = Bench::plain();
    let mut at = 0u64;
    for n in 0..40usize {
        b.arrives(frame(MAC, 1000 + n));
        assert_eq!(b.read(reg::CR, 1) & 1, 0, "not empty");
        let header = b.word(BUFFER + at);
        assert_eq!((header & 0xffff, header >> 16), (0x4001, 1004 + n as u32));
        let mut bytes = vec![0; 1000 + n];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = b.word(BUFFER + (at + 4 + i as u64) % 8192) as u8;
        }
        assert_eq!(bytes, frame(MAC, 1000 + n), "frame {n}");
        at = (at + (1008 + n as u64).next_multiple_of(4)) % 8192;
        assert_eq!(u64::from(b.read(reg::CBR, 2)), at);
        b.write(reg::CAPR, 2, (at as u32).wrapping_sub(16) & 0xffff);
        assert_eq!(b.read(reg::CR, 1) & 1, 1, "empty");
    }
    // Full: further frames wait, and are stored when they fit.
    for _ in 0..20 {
        b.arrives(frame(MAC, 1000));
    }
    let mut seen = 0;
    for _ in 0..20 {
        if b.read(reg::CR, 1) & 1 == 0 {
            seen += 1;
            at = (at + 1008) % 8192;
            b.write(reg::CAPR, 2, (at as u32).wrapping_sub(16) & 0xffff);
        }
    }
    assert_eq!(seen, 20);
}

/// RXOVW stayed 0 when C mode's buffer was full.
#[test]
fn a_full_buffer_that_says_nothing() {
    for full in [false, true] {
        let mut b = Bench::plain();
        for _ in 0..if full { 9 } else { 8 } {
            b.arrives(frame(MAC, 1000));
        }
        assert_eq!(b.read(reg::ISR, 2) as u16 & cause::OVERFLOW != 0, full);
        // After the acknowledgement it is set again only when another frame does not fit.
        b.write(reg::ISR, 2, 0xffff);
        assert_eq!(b.read(reg::ISR, 2), 0);
        if full {
            b.write(reg::CAPR, 2, 1008 - 16);
            assert_eq!(b.read(reg::ISR, 2) as u16, cause::RECEIVED, "what had waited is there");
            b.arrives(frame(MAC, 1000));
            assert_eq!(b.read(reg::ISR, 2) as u16, cause::RECEIVED | cause::OVERFLOW);
        }
    }
}

#[test]
fn c_plus_mode_sends_with_offloads() {
    let packet = |payload: usize| {
        let total = (40 + payload) as u16;
        let mut bytes = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
        bytes.extend(total.to_be_bytes());
        bytes.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        bytes.extend([0x12, 0x34, 0, 22, 0, 0, 0, 1, 0, 0, 0, 9, 0x50, 0x18, 1, 0, 0x77, 0x77, 0, 0]);
        bytes.extend((0..payload).map(|i| i as u8));
        bytes
    };
    for can in [true, false] {
        let mut b = Bench::plus(Abilities { checksum: can, segmentation: can });
        // In two pieces, with both checksums and a tag.
        let bytes = packet(100);
        b.descriptor(0, 0xa005_0000 | 40, 0x2_0500, &bytes[..40]);
        b.descriptor(1, 0x9005_0000 | 114, 0, &bytes[40..]);
        b.write(reg::TPPOLL, 1, 0x40);
        let sent = b.cable.take().unwrap();
        assert_eq!((&sent.bytes[12..16], sent.bytes.len()), (&[0x81, 0, 0, 5][..], 158));
        assert_eq!(checksum(&sent.bytes[18..38]), 0, "IPv4's");
        assert_eq!(sent.offload.checksum, can.then_some(Partial { start: 38, offset: 16 }));
        assert_eq!((b.word(TX) >> 31, b.word(TX + 16) >> 31, b.card.positions[0]), (0, 0, 2));
        // A large send.
        let bytes = packet(4000);
        b.descriptor(2, 0xf800_0000 | 1000 << 16 | bytes.len() as u32, 0, &bytes);
        b.write(reg::TPPOLL, 1, 0x40);
        let sizes: Vec<_> = std::iter::from_fn(|| b.cable.take()).map(|f| f.bytes.len()).collect();
        assert_eq!(sizes, if can { vec![4054] } else { vec![1054; 4] });
        assert_eq!(b.card.positions[0], 0, "the ring's end");
        // Bits 16 to 26 of a returned descriptor are collisions and errors (7.2.1); the segment size must not remain there.
        assert_eq!((b.word(TX) & 0x0fff_0000, b.word(TX + 32) & 0x0fff_0000), (0, 0));
        assert_eq!(b.read(reg::TPPOLL, 1), 0, "done");
    }
}

/// iPXE takes a card that stores the 8169's packet limit for an 8169, and fails to find its PHY.
#[test]
fn the_register_that_tells_the_8169_apart_is_not_there() {
    let mut b = Bench::plus(Abilities::default());
    b.write(reg::RMS, 2, 1518);
    assert_eq!(b.read(reg::RMS, 2), 0);
}

#[test]
fn c_plus_mode_receives_into_its_ring() {
    let mut b = Bench::plus(Abilities::default());
    b.arrives(frame(MAC, 100));
    assert_eq!(b.word(RX), 0x3200_0000 | 104, "first, last, this address");
    b.arrives(frame([0xff; 6], 20));
    assert_eq!(b.word(RX + 16), 0x3100_0000 | 64);
    b.write(reg::CPCR, 2, 0x63);
    b.arrives([&MAC[..], &[2, 0, 0, 0, 0, 9, 0x81, 0, 0, 5, 8, 0], &[0; 60]].concat());
    assert_eq!((b.word(RX + 32) & 0x1fff, b.word(RX + 36)), (78, 0x1_0500), "its tag is taken out");
    b.arrives(frame(MAC, 16_500));
    assert_eq!(b.word(RX + 48) >> 31, 1, "longer than a descriptor can tell");
    b.arrives(frame(MAC, 100));
    assert_eq!(b.word(RX + 48) >> 30, 1, "the ring's end stays one");
    // Without a descriptor the frame waits.
    b.write(reg::ISR, 2, 0xffff);
    b.arrives(frame(MAC, 101));
    assert_eq!(b.read(reg::ISR, 2) & u32::from(cause::OVERFLOW), u32::from(cause::OVERFLOW));
    b.give(0);
    b.write(reg::ISR, 2, 0xffff);
    assert_eq!(b.word(RX) & 0x1fff, 105);
}

/// Received descriptors (7.2.2): 13 to 15 bad checksums, 16 and 17 the protocol, 18 to 23 errors, 27 misalignment.
#[test]
fn a_frame_whose_checksums_were_verified_says_so_and_nothing_else() {
    let mut b = Bench::plus(Abilities::default());
    b.write(reg::CPCR, 2, 0x23);
    for (i, (protocol, want)) in [(6u8, 1u32), (17, 2), (1, 3)].into_iter().enumerate() {
        let mut bytes = [
            &MAC[..],
            &[2, 0, 0, 0, 0, 9, 8, 0, 0x45, 0, 0, 46, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2],
        ]
        .concat();
        bytes.resize(60, 0);
        b.cable.put(Frame { bytes, offload: Offload { verified: true, ..Offload::default() } });
        b.card.poll(Ready::Fd(FRAMES), &mut b.cx);
        assert_eq!(b.word(RX + i as u64 * 16) >> 16, 0x3200 | want, "IP protocol {protocol}");
    }
}

#[test]
fn a_frame_that_no_ring_of_this_size_can_hold_is_lost_and_does_not_hold_up_others() {
    let mut b = Bench::plus(Abilities::default());
    for i in 0..4u64 {
        let word = 0x8000_0000 | if i == 3 { 0x4000_0000 } else { 0 } | 128u32;
        b.memory.write(RX + i * 16, &word.to_le_bytes()).unwrap();
    }
    b.arrives(frame(MAC, 1000));
    assert!((0..4).all(|i| b.word(RX + i * 16) >> 31 == 1), "nothing is written");
    b.arrives(frame(MAC, 64));
    assert_eq!(b.word(RX), 0x3200_0000 | 68);
}

#[test]
fn groups_are_hashed_as_the_data_sheet_says() {
    let bit = hash(&[0x01, 0, 0x5e, 0, 0, 1]);
    let mut b = Bench::plain();
    b.write(reg::RCR, 4, 0x04);
    b.arrives(frame([0x01, 0, 0x5e, 0, 0, 1], 64));
    assert_eq!(b.read(reg::CR, 1) & 1, 1);
    b.write(reg::MAR + (bit as usize >> 5) * 4, 4, 1 << (bit & 31));
    b.arrives(frame([0x01, 0, 0x5e, 0, 0, 1], 64));
    assert_eq!((b.read(reg::CR, 1) & 1, b.word(BUFFER) & 0xffff), (0, 0x8001));
    // Computed independently: zlib.crc32 without its last step, with reversed bits.
    assert_eq!((hash(&[0xff; 6]), bit, hash(&[0x33, 0x33, 0, 0, 0, 1])), (63, 31, 62));
}

#[test]
fn the_timer_interrupts_once_when_it_gets_there() {
    let mut b = Bench::new(Abilities::default());
    b.cx.clock = Clock::Driven(1000);
    b.write(reg::TCTR, 4, 0);
    b.write(reg::TIMER_INT, 4, 100);
    assert_eq!(b.cx.timers.next(), Some(4000));
    b.cx.clock = Clock::Driven(4000);
    assert_eq!(b.read(reg::TCTR, 4), 100);
    b.cx.timers.take_due(4000);
    b.card.poll(Ready::Timer(TIMER), &mut b.cx);
    assert_eq!(b.read(reg::ISR, 2), u32::from(cause::TIMER));
    b.write(reg::TIMER_INT, 4, 0);
    assert_eq!(b.cx.timers.next(), None);
}

#[test]
fn the_timer_interrupts_again_when_its_32_bits_have_been_counted_through() {
    let mut b = Bench::new(Abilities::default());
    b.cx.clock = Clock::Driven(1000);
    b.write(reg::TCTR, 4, 0);
    b.write(reg::TIMER_INT, 4, 100);
    let again = 4000 + (1 << 32) * 30;
    b.cx.clock = Clock::Driven(4000);
    b.cx.timers.take_due(4000);
    b.card.poll(Ready::Timer(TIMER), &mut b.cx);
    assert_eq!(b.cx.timers.next(), Some(again));
    // A value that the timer has passed already is reached after the next wrap.
    b.cx.clock = Clock::Driven(7000);
    b.write(reg::TIMER_INT, 4, 100);
    assert_eq!(b.cx.timers.next(), Some(again));
    b.cx.clock = Clock::Driven(again);
    assert_eq!(b.read(reg::TCTR, 4), 100);
}

#[test]
fn the_counters_are_dumped_where_software_wants_them() {
    let mut b = Bench::plus(Abilities::default());
    b.arrives(frame(MAC, 100));
    b.arrives(frame([0xff; 6], 100));
    b.write(reg::DTCCR + 4, 4, 0);
    b.write(reg::DTCCR, 4, 0x8000 | 8);
    assert_eq!((b.word(0x8008), b.word(0x8000 + 40), b.read(reg::DTCCR, 4)), (2, 1, 0x8000));
}

#[test]
fn a_card_in_loopback_receives_without_recursion() {
    // CVE-2021-3416.
    let mut b = Bench::plain();
    b.write(reg::TCR, 4, 3 << 17);
    b.memory.write(0x5000, &frame(MAC, 64)).unwrap();
    b.write(reg::TSAD, 4, 0x5000);
    for _ in 0..300 {
        b.write(reg::TSD, 4, 64);
        if b.cx.take_again() {
            b.card.poll(Ready::Again, &mut b.cx);
        }
    }
    assert!(b.cable.take().is_none() && b.card.port.waiting().0 <= 64);
    assert_eq!(b.read(reg::CR, 1) & 1, 0);
}

#[test]
fn uninitialised_memory_is_never_sent() {
    // CVE-2015-5165: lengths in the headers that are larger than the packet.
    let mut b = Bench::plus(Abilities::default());
    let mut bytes = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0xff, 0xff, 0, 0, 0, 0, 64, 6];
    bytes.resize(60, 0);
    b.descriptor(0, 0xf007_0000 | 60, 0, &bytes);
    b.write(reg::TPPOLL, 1, 0x40);
    assert_eq!(b.cable.take().unwrap().bytes, bytes, "as it is");
    // A large send whose headers end outside of it.
    b.write(reg::TNPDS, 4, TX as u32);
    b.descriptor(0, 0xf800_0000 | 1000 << 16 | 60, 0, &bytes);
    b.write(reg::TPPOLL, 1, 0x40);
    assert!(std::iter::from_fn(|| b.cable.take()).all(|f| f.bytes.len() <= 60));
}

#[test]
fn a_ring_of_the_cards_own_descriptors_ends() {
    // All descriptors belong to the card, and none is a frame's last.
    let mut b = Bench::plus(Abilities::default());
    for i in 0..64u64 {
        b.memory.write(TX + i * 16, &(0x8000_0000u32 | 1).to_le_bytes()).unwrap();
    }
    b.write(reg::TPPOLL, 1, 0x40);
    assert!(!b.cx.take_again(), "no work is left");
    assert!(b.cable.take().is_none());
}

#[test]
fn a_saved_card_goes_on_where_it_was() {
    let mut b = Bench::plus(Abilities::default());
    b.arrives(frame(MAC, 64));
    let saved = b.card.save();
    let mut other = Rtl8139::new(4, 0, MAC, Box::new(b.cable.clone()), &NicSettings::default());
    other.load(&saved, &mut b.cx).unwrap();
    assert_eq!(other.save(), saved);
    b.card = other;
    b.arrives(frame(MAC, 65));
    assert_eq!(b.word(RX + 16) & 0x1fff, 69);
    for cut in 0..saved.len() {
        let _ = b.card.load(&saved[..cut], &mut b.cx);
    }
}

proptest! {
    #[test]
    fn no_order_of_accesses_breaks_it(steps in prop::collection::vec((0u8..9, any::<u16>(), any::<u32>()), 1..200), plus: bool) {
        let mut b = if plus { Bench::plus(Abilities { checksum: true, segmentation: true }) } else { Bench::plain() };
        let both = [reg::TSD, reg::TSAD, reg::RBSTART, reg::CAPR, reg::RCR, reg::TCR, reg::CR];
        let plus_only = [reg::CPCR, reg::TPPOLL, reg::TNPDS, reg::RDSAR, reg::RMS];
        let places = [both.as_slice(), plus_only.as_slice()].concat();
        for (what, at, value) in steps {
            let size = 1u8 << (at >> 8 & 3).min(2);
            match what {
                0 => { let _ = b.card.read(Access::new(0, u64::from(at & 0xff), size), &mut b.cx); }
                1 => { let _ = b.card.write(Access::new(0, u64::from(at & 0xff), size), u64::from(value), &mut b.cx); }
                2 | 3 => {
                    let register = places[usize::from(at) % places.len()] as u64;
                    let _ = b.card.write(Access::new(0, register, 4), u64::from(value), &mut b.cx);
                }
                4 => b.memory.write(TX + u64::from(at % 256) * 4, &value.to_le_bytes()).unwrap(),
                5 => b.memory.write(RX + u64::from(at % 64) * 4, &value.to_le_bytes()).unwrap(),
                6 => b.arrives(frame(MAC, usize::from(at) % 2000 + 14)),
                7 => b.write(reg::TPPOLL, 1, 0xc0),
                _ => if b.cx.take_again() { b.card.poll(Ready::Again, &mut b.cx) },
            }
            while b.cable.take().is_some() {}
            prop_assert!(b.card.port.waiting().1 <= 1300 && b.card.port.waiting().0 <= 64 + 16);
        }
        let saved = b.card.save();
        prop_assert!(b.card.load(&saved, &mut b.cx).is_ok());
    }
}

#[test]
fn shadows_are_what_reading_gives() {
    let mut b = Bench::plus(Abilities::default());
    b.arrives(frame(MAC, 100));
    for (region, offset, size, index) in
        [(0, reg::IMR as u64, 2, 0), (1, reg::ISR as u64, 2, 1), (0, reg::EECR as u64, 1, 2)]
    {
        let mut registers = [None; 4];
        b.card.shadows(&mut Shadows { registers: &mut registers });
        let read = b.card.read(Access::new(region, offset, size), &mut b.cx).unwrap() as u32;
        assert_eq!(registers[index], Some(read & (u32::MAX >> (32 - 8 * size))), "{offset:#x}");
        assert!(b.card.declaration().regions[usize::from(region)].shadows.contains(&(
            offset as u16,
            size,
            index as u8
        )));
    }
}

mod regressions;
