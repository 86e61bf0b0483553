use super::*;
use crate::FRAMES;
use crate::backend::{Abilities, Cable};
use crate::frame::{Frame, GsoKind, Offload, Partial, Segmentation};
use crate::offload::checksum;
use bulkhead_bus::nic::NicRules;
use bulkhead_bus::{GuestMemory as _, fake::FakeMemory};
use proptest::prelude::*;
use std::sync::Arc;

const MAC: [u8; 6] = [0x02, 0x16, 0x3e, 1, 2, 3];
/// Addresses of the tests' rings and buffers.
const TX: u64 = 0x1000;
const RX: u64 = 0x2000;
const BUFFERS: u64 = 0x10_000;

struct Bench {
    card: E1000,
    cx: Context,
    memory: Arc<FakeMemory>,
    cable: Cable,
}

impl Bench {
    fn new(abilities: Abilities) -> Self {
        let memory = FakeMemory::new(4 << 20);
        let cable = Cable::new(abilities, 0);
        let card = E1000::new(4, 0, MAC, Box::new(cable.clone()), &NicSettings::default());
        let mut bench = Self { card, cx: Context::new(memory.clone()), memory, cable };
        for (register, value) in [
            (reg::TDBAL, TX as u32),
            (reg::TDLEN, 16 * 16),
            (reg::TCTL, 0x0004_00fa),
            (reg::RDBAL, RX as u32),
            (reg::RDLEN, 16 * 16),
            (reg::RCTL, 0x0000_8002),
            (reg::IMS, cause::ALL),
        ] {
            bench.write(register, value);
        }
        for i in 0..16 {
            bench.memory.write(RX + i * 16, &(BUFFERS + i * 2048).to_le_bytes()).unwrap();
        }
        bench.write(reg::RDT, 15);
        bench
    }

    fn read(&mut self, register: u32) -> u32 {
        self.card.read(Access::new(REGISTERS, u64::from(register), 4), &mut self.cx).unwrap() as u32
    }

    fn write(&mut self, register: u32, value: u32) {
        self.card.write(Access::new(REGISTERS, u64::from(register), 4), u64::from(value), &mut self.cx).unwrap();
    }

    /// Adds a descriptor to the transmit ring and moves the tail.
    fn descriptor(&mut self, low: u64, high: u64) {
        let tail = self.read(reg::TDT);
        self.memory.write(TX + u64::from(tail) * 16, &low.to_le_bytes()).unwrap();
        self.memory.write(TX + u64::from(tail) * 16 + 8, &high.to_le_bytes()).unwrap();
        self.write(reg::TDT, (tail + 1) % 16);
    }

    /// Writes bytes to guest memory and returns their address.
    fn put(&mut self, bytes: &[u8]) -> u64 {
        self.memory.write(0x20_0000, bytes).unwrap();
        0x20_0000
    }

    fn legacy(&mut self, bytes: &[u8], command: u8) {
        let at = self.put(bytes);
        self.descriptor(at, u64::from(command) << 24 | bytes.len() as u64);
    }

    fn arrives(&mut self, bytes: Vec<u8>) {
        self.cable.put(Frame { bytes, offload: Offload::default() });
        self.card.poll(Ready::Fd(FRAMES), &mut self.cx);
    }

    /// Length, status and errors, VLAN tag of a receive descriptor.
    fn received(&self, i: u64) -> (u16, u16, u16) {
        let mut d = [0; 8];
        self.memory.read(RX + i * 16 + 8, &mut d).unwrap();
        let word = |n: usize| u16::from_le_bytes([d[n * 2], d[n * 2 + 1]]);
        (word(0), word(2), word(3))
    }
}

fn frame(destination: [u8; 6], len: usize) -> Vec<u8> {
    let mut bytes = destination.to_vec();
    bytes.extend([0x02, 0, 0, 0, 0, 9, 0x88, 0xb5]);
    bytes.extend((bytes.len()..len).map(|i| i as u8));
    bytes
}

/// PCI registers of the 82540EM (SDM, 4.1): command, cache line size and latency timer, BARs, interrupt line.
#[test]
fn configuration_space_has_the_hard_wired_bits_of_the_part() {
    let mut b = Bench::new(Abilities::default());
    let want = [(0x04, 0x0157), (0x0c, 0xfcff), (0x10, 0xfffe_0000), (0x14, 0xffff_ffc0), (0x3c, 0xff)];
    assert_eq!(bulkhead_bus::exercise::changeable(&mut b.card, 0), want);
    b.card.reset(Reset::Machine, &mut b.cx);
    assert_eq!(bulkhead_bus::exercise::changeable(&mut b.card, 0), want);
}

#[test]
fn a_driver_finds_what_it_looks_for() {
    let mut b = Bench::new(Abilities::default());
    assert_eq!((b.card.config.read(0, 4), b.card.config.read(8, 4)), (0x100e_8086, 0x0200_0003));
    assert_eq!(b.read(reg::STATUS) & 3, 3, "link up, full duplex");
    assert_eq!((b.read(reg::RAL), b.read(reg::RAL + 4)), (0x013e_1602, 0x8000_0302));
    // EERD, MDIC.
    b.write(reg::EERD, 1);
    assert_eq!(b.read(reg::EERD) & 0xffff_0010, 0x1602_0010);
    for (register, value) in [(2u32, 0x0141), (3, 0x0c20), (1, 0x796d), (17, 0xac00)] {
        b.write(reg::MDIC, 2 << 26 | 1 << 21 | register << 16);
        assert_eq!(b.read(reg::MDIC) & 0x5000_ffff, 0x1000_0000 | value, "PHY register {register}");
    }
    b.write(reg::MDIC, 2 << 26 | 2 << 21);
    assert_eq!(b.read(reg::MDIC) >> 28 & 5, 5, "no PHY there");
    // The window in I/O space.
    b.card.write(Access::new(WINDOW, 0, 4), u64::from(reg::STATUS), &mut b.cx).unwrap();
    assert_eq!(b.card.read(Access::new(WINDOW, 4, 4), &mut b.cx).unwrap() & 3, 3);
    // A reset keeps the identity and clears the other registers.
    b.write(reg::CTRL, 1 << 26);
    assert_eq!((b.read(reg::RCTL), b.read(reg::TDLEN), b.read(reg::IMS), b.read(reg::RAL)), (0, 0, 0, 0x013e_1602));
    assert!(b.read(reg::CTRL) & 1 << 26 == 0 && !b.cx.lines.level(0));
}

#[test]
fn a_frame_goes_out_and_is_reported() {
    let mut b = Bench::new(Abilities::default());
    b.write(reg::IMC, cause::TXQE);
    let bytes = frame([0xff; 6], 42);
    b.legacy(&bytes, 0x0b);
    let sent = b.cable.take().unwrap();
    assert_eq!((&sent.bytes[..42], sent.bytes.len()), (&bytes[..], 60), "filled up");
    let mut status = [0];
    b.memory.read(TX + 12, &mut status).unwrap();
    assert_eq!((status[0], b.read(reg::TDH)), (1, 1));
    assert!(b.cx.lines.level(0));
    assert_eq!((b.read(reg::ICR), b.cx.lines.level(0), b.read(reg::ICR)), (cause::TXDW | cause::TXQE, false, 0));
    assert_eq!((b.read(reg::TPT), b.read(reg::BPTC), b.read(reg::TPT)), (1, 1, 0), "counters are cleared by reading");
    // In two pieces, with a checksum inserted by a legacy descriptor, and a VLAN tag.
    b.write(reg::CTRL, b.card.get(reg::CTRL) | 1 << 30);
    let mut bytes = frame(MAC, 100);
    bytes[50..52].fill(0);
    let at = b.put(&bytes);
    b.descriptor(at, 0x02 << 24 | 40);
    b.descriptor(at + 40, 0x0123 << 48 | 20 << 40 | 0x4f << 24 | 50 << 16 | 60);
    let sent = b.cable.take().unwrap().bytes;
    assert_eq!((sent.len(), &sent[12..16]), (104, &[0x81, 0, 0x01, 0x23][..]));
    assert_eq!(checksum(&sent[24..]), 0, "from byte 20 of what the guest sees");
}

#[test]
fn checksums_and_segments_are_computed_only_for_a_back_end_without_offload() {
    let packet = |payload: usize| {
        let mut bytes = vec![
            0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10,
            0, 0, 2,
        ];
        bytes.extend([0x12, 0x34, 0, 22, 0, 0, 0, 1, 0, 0, 0, 9, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
        bytes.extend((0..payload).map(|i| i as u8));
        bytes
    };
    for can in [true, false] {
        let mut b = Bench::new(Abilities { checksum: can, segmentation: can });
        // Context: IP at 14, its field at 24, end 33; TCP at 34, its field at 50; segments of 1000 bytes, headers 54, TCP in IPv4.
        b.descriptor(14 | 24 << 8 | 33 << 16 | 34 << 32 | 50 << 40, 1000 << 48 | 54 << 40 | 0x27 << 24 | 4000);
        let bytes = packet(4000);
        let at = b.put(&bytes);
        b.descriptor(at, 0x0300 << 32 | 0x2f << 24 | 1 << 20 | bytes.len() as u64);
        if can {
            let sent = b.cable.take().unwrap();
            assert_eq!(sent.offload.segmentation, Some(Segmentation { kind: GsoKind::Tcp4, size: 1000, headers: 54 }));
            assert_eq!((sent.offload.checksum, sent.bytes.len()), (Some(Partial { start: 34, offset: 16 }), 4054));
            assert_eq!(&sent.bytes[16..18], &4040u16.to_be_bytes(), "the length of the whole");
        } else {
            let sizes: Vec<_> = std::iter::from_fn(|| b.cable.take()).map(|f| f.bytes.len()).collect();
            assert_eq!(sizes, [1054; 4]);
        }
        assert!(b.cable.take().is_none());
        assert_eq!(b.read(reg::TSCTC), 1);
        // Without segmentation: only the checksums of the context.
        let bytes = packet(100);
        let at = b.put(&bytes);
        b.descriptor(at, 0x0300 << 32 | 0x2b << 24 | 1 << 20 | bytes.len() as u64);
        let sent = b.cable.take().unwrap();
        assert_eq!(checksum(&sent.bytes[14..34]), 0, "IPv4's");
        assert_eq!(sent.offload.checksum, can.then_some(Partial { start: 34, offset: 16 }));
    }
}

#[test]
fn a_received_frame_has_its_length_and_status() {
    let mut b = Bench::new(Abilities::default());
    b.arrives(frame(MAC, 100));
    assert_eq!(b.received(0), (104, 0x0007, 0), "done, end, checksums not looked at");
    let mut bytes = [0; 100];
    b.memory.read(BUFFERS, &mut bytes).unwrap();
    assert_eq!(bytes.to_vec(), frame(MAC, 100));
    assert!(b.cx.lines.level(0) && b.read(reg::ICR) & cause::RXT0 != 0);
    // Short frames are padded; the check sequence can be left out; the host has verified the checksums.
    b.write(reg::RCTL, 0x0400_8002);
    b.write(reg::RXCSUM, 0x300);
    b.cable.put(Frame { bytes: frame(MAC, 20), offload: Offload { verified: true, ..Offload::default() } });
    b.card.poll(Ready::Fd(FRAMES), &mut b.cx);
    assert_eq!(b.received(1), (60, 0x0063, 0));
    // Too long, then allowed, over several buffers.
    b.arrives(frame(MAC, 1519));
    assert_eq!((b.read(reg::ROC), b.read(reg::RDH)), (1, 2));
    b.write(reg::RCTL, 0x0400_8022);
    b.arrives(frame(MAC, 5000));
    assert_eq!((b.received(2).0, b.received(2).1 & 3, b.received(4).0, b.received(4).1 & 3), (2048, 1, 904, 3));
    assert_eq!((b.read(reg::GPRC), b.read(reg::TPR)), (3, 0x3));
}

#[test]
fn addresses_tables_and_tags_are_filtered() {
    let mut b = Bench::new(Abilities::default());
    let took = |b: &mut Bench, bytes: Vec<u8>| {
        let before = b.read(reg::RDH);
        b.arrives(bytes);
        let now = b.read(reg::RDH);
        b.write(reg::RDT, (now + 15) % 16);
        now != before
    };
    let (other, group) = ([0x02, 9, 9, 9, 9, 9], [0x01, 0, 0x5e, 0x12, 0x34, 0x56]);
    assert!(took(&mut b, frame(MAC, 64)) && took(&mut b, frame([0xff; 6], 64)));
    assert!(!took(&mut b, frame(other, 64)) && !took(&mut b, frame(group, 64)));
    b.write(reg::RCTL, 0x0000_800a);
    assert!(took(&mut b, frame(other, 64)) && !took(&mut b, frame(group, 64)));
    // Bits 47:36 of the address: 0x5634 >> 4.
    let hash = 0x563u32;
    b.write(reg::MTA + (hash >> 5) * 4, 1 << (hash & 31));
    assert!(took(&mut b, frame(group, 64)));
    b.write(reg::RCTL, 0x0004_8002);
    let tagged = |id: u8| [&MAC[..], &[2, 0, 0, 0, 0, 9, 0x81, 0, 0, id, 8, 0], &[0; 60]].concat();
    assert!(!took(&mut b, tagged(5)));
    b.write(reg::VFTA, 1 << 5);
    b.write(reg::CTRL, b.card.get(reg::CTRL) | 1 << 30);
    let at = u64::from(b.read(reg::RDH));
    assert!(took(&mut b, tagged(5)) && !took(&mut b, tagged(6)));
    assert_eq!((b.received(at).0, b.received(at).1 & 8, b.received(at).2), (78, 8, 5), "the tag is taken out");
    b.write(reg::RCTL, 0);
    assert!(!took(&mut b, frame(MAC, 64)));
}

#[test]
fn what_has_no_room_waits_and_a_card_that_does_not_listen_forgets() {
    let mut b = Bench::new(Abilities::default());
    for _ in 0..20 {
        b.cable.put(Frame { bytes: frame(MAC, 64), offload: Offload::default() });
    }
    b.card.poll(Ready::Fd(FRAMES), &mut b.cx);
    assert_eq!(b.read(reg::RDH), 15, "all that are free");
    assert!(b.read(reg::ICR) & cause::RXDMT0 != 0);
    b.write(reg::RDT, 10);
    assert_eq!(b.read(reg::RDH), 4, "the rest, without a loss");
    b.write(reg::RCTL, 0);
    b.arrives(frame(MAC, 64));
    b.write(reg::RCTL, 0x8002);
    assert_eq!(b.read(reg::RDH), 4);
    // Without a link no frames pass, and the driver gets an interrupt.
    b.read(reg::ICR);
    b.card.set_nic(&NicSettings { link: false, ..NicSettings::default() }, &mut b.cx);
    assert_eq!((b.read(reg::STATUS) & 2, b.read(reg::ICR)), (0, cause::LSC));
    b.legacy(&frame(MAC, 64), 0x0b);
    b.arrives(frame(MAC, 64));
    assert!(b.cable.take().is_none() && b.read(reg::RDH) == 4);
    b.card.set_nic(&NicSettings::default(), &mut b.cx);
    b.write(reg::TDT, b.card.get(reg::TDT));
    assert!(b.cable.take().is_some());
}

#[test]
fn a_frame_that_no_ring_of_this_size_can_hold_is_lost_and_does_not_hold_up_others() {
    let mut b = Bench::new(Abilities::default());
    // 256 bytes a buffer, eight descriptors: seven can be free.
    b.write(reg::RCTL, 0x0403_8022);
    b.write(reg::RDLEN, 128);
    b.write(reg::RDT, 7);
    b.arrives(frame(MAC, 4000));
    b.arrives(frame(MAC, 64));
    assert_eq!((b.read(reg::RDH), b.received(0).0), (1, 64));
    assert_eq!(b.read(reg::ROC), 1);
}

#[test]
fn interrupts_are_held_back_and_come_late_as_the_driver_asks() {
    let mut b = Bench::new(Abilities::default());
    b.cx.clock = bulkhead_bus::Clock::Driven(1_000_000);
    b.write(reg::ITR, 1000);
    b.arrives(frame(MAC, 64));
    assert!(b.cx.lines.level(0));
    b.read(reg::ICR);
    b.arrives(frame(MAC, 64));
    assert!(!b.cx.lines.level(0), "not within 256 µs");
    assert_eq!(b.cx.timers.next(), Some(1_256_000));
    b.cx.clock = bulkhead_bus::Clock::Driven(1_256_000);
    b.cx.timers.take_due(1_256_000);
    b.card.poll(Ready::Timer(THROTTLE), &mut b.cx);
    assert!(b.cx.lines.level(0));
    b.read(reg::ICR);
    b.write(reg::ITR, 0);
    // 10 units after the last frame, 15 after the first.
    b.write(reg::RDTR, 10);
    b.write(reg::RADV, 15);
    b.arrives(frame(MAC, 64));
    b.cx.clock = bulkhead_bus::Clock::Driven(1_256_000 + 8 * 1024);
    b.arrives(frame(MAC, 64));
    assert_eq!((b.cx.lines.level(0), b.cx.timers.next()), (false, Some(1_256_000 + 15 * 1024)));
    b.card.poll(Ready::Timer(LATE_RECEIVE), &mut b.cx);
    assert_eq!(b.read(reg::ICR), cause::RXT0);
}

/// ICS read as 0: a driver that reads the causes there, which clears none, never saw one.
#[test]
fn causes_that_can_be_set_and_not_be_seen() {
    let mut b = Bench::new(Abilities::default());
    b.read(reg::ICR);
    assert_eq!(b.read(reg::ICS), 0);
    b.write(reg::ICS, cause::LSC | cause::RXT0);
    for _ in 0..2 {
        assert_eq!(b.read(reg::ICS), cause::LSC | cause::RXT0, "nothing is cleared");
    }
    b.arrives(frame(MAC, 64));
    let seen = b.read(reg::ICS);
    assert_eq!((b.read(reg::ICR), b.read(reg::ICS)), (seen, 0), "the same, and cleared here");
}

#[test]
fn a_ring_that_lies_costs_its_packets_and_nothing_else() {
    // CVE-2016-1981: head or tail outside of the ring is walked for ever.
    for (head, tail) in [(0, 16), (20, 3), (0xffff, 0), (3, 0xffff)] {
        let mut b = Bench::new(Abilities::default());
        b.write(reg::TDH, head);
        b.write(reg::TDT, tail);
        assert!(!b.cx.take_again(), "{head} {tail}: no work is left");
        b.write(reg::RDH, head);
        b.write(reg::RDT, tail);
        b.arrives(frame(MAC, 64));
        assert!(!b.cx.take_again());
    }
    // A ring and buffers outside of RAM.
    let mut b = Bench::new(Abilities::default());
    b.write(reg::TDBAH, 1);
    b.write(reg::TDT, 5);
    assert_eq!((b.read(reg::TDH), b.cable.take()), (5, None));
    let mut b = Bench::new(Abilities::default());
    b.descriptor(1 << 40, 0x0b << 24 | 100);
    assert!(b.cable.take().is_none() && b.card.ring_errors == 1);
    b.legacy(&frame(MAC, 64), 0x0b);
    assert!(b.cable.take().is_some(), "the next frame is well");
}

#[test]
fn descriptors_without_length_end() {
    // CVE-2015-6815: a frame of empty descriptors.
    let mut b = Bench::new(Abilities::default());
    for _ in 0..40 {
        b.descriptor(0, 0x22 << 24 | 1 << 20);
    }
    assert!(b.cable.take().is_none());
    assert_eq!(b.read(reg::TDH), b.read(reg::TDT));
    // A frame that is larger than any packet.
    for _ in 0..14 {
        b.descriptor(0, 0x22 << 24 | 1 << 20 | 0xf_ffff);
    }
    b.descriptor(0, 0x23 << 24 | 1 << 20 | 10);
    assert!(b.cable.take().is_none());
}

#[test]
fn a_card_in_loopback_receives_without_recursion() {
    // CVE-2021-3416.
    let mut b = Bench::new(Abilities::default());
    b.write(reg::RCTL, 0x80c2);
    for _ in 0..200 {
        b.legacy(&frame(MAC, 64), 0x0b);
        if b.cx.take_again() {
            b.card.poll(Ready::Again, &mut b.cx);
        }
    }
    assert!(b.cable.take().is_none(), "nothing goes out");
    assert_eq!(b.read(reg::RDH), 15);
    assert!(b.card.port.waiting().0 <= 64);
}

#[test]
fn a_full_back_end_is_tried_again_and_nothing_is_lost() {
    let mut b = Bench::new(Abilities::default());
    let cable = Cable::new(Abilities::default(), 2);
    b.card.port =
        Port::new(MAC, Box::new(cable.clone()), &NicSettings::default(), Timers { retry: RETRY, announce: ANNOUNCE });
    for _ in 0..5 {
        b.legacy(&frame(MAC, 64), 0x0b);
    }
    let mut sent = 0;
    for _ in 0..10 {
        sent += std::iter::from_fn(|| cable.take()).count();
        b.card.poll(Ready::Timer(RETRY), &mut b.cx);
    }
    assert_eq!((sent, b.read(reg::TDH)), (5, 5));
}

#[test]
fn forbidden_frames_do_not_leave_the_card() {
    let mut b = Bench::new(Abilities::default());
    let rules = NicRules { mac: true, ..NicRules::default() };
    b.card.set_nic(&NicSettings { link: true, rules }, &mut b.cx);
    b.legacy(&frame([0xff; 6], 64), 0x0b);
    assert!(b.cable.take().is_none(), "its source is another's");
    let mut good = frame([0xff; 6], 64);
    good[6..12].copy_from_slice(&MAC);
    b.legacy(&good, 0x0b);
    assert!(b.cable.take().is_some());
    let mut seen = Inspect::default();
    b.card.inspect(&mut seen);
    assert!(seen.items.contains(&("dropped.source MAC".into(), "1".into())));
}

#[test]
fn a_saved_card_goes_on_where_it_was() {
    let mut b = Bench::new(Abilities::default());
    b.write(reg::MTA, 0x1234_5678);
    b.arrives(frame(MAC, 64));
    b.legacy(&frame(MAC, 64), 0x0b);
    let saved = b.card.save();
    assert!(saved.len() < 4096, "{}", saved.len());
    let mut other = E1000::new(4, 0, MAC, Box::new(b.cable.clone()), &NicSettings::default());
    other.load(&saved, &mut b.cx).unwrap();
    assert_eq!(other.save(), saved);
    b.card = other;
    b.arrives(frame(MAC, 64));
    assert_eq!(b.read(reg::RDH), 2);
    for cut in 0..saved.len() {
        let _ = b.card.load(&saved[..cut], &mut b.cx);
    }
}

proptest! {
    #[test]
    fn no_order_of_accesses_breaks_it(steps in prop::collection::vec((0u8..8, any::<u16>(), any::<u32>()), 1..200)) {
        let mut b = Bench::new(Abilities { checksum: true, segmentation: true });
        let rings = [reg::TDT, reg::RDT, reg::TDH, reg::RDH, reg::TDLEN, reg::RDLEN, reg::TDBAL];
        let others = [reg::RCTL, reg::TCTL, reg::CTRL, reg::ICS, reg::EECD, reg::MDIC];
        let places = [rings.as_slice(), others.as_slice()].concat();
        for (what, at, value) in steps {
            match what {
                0 => { let _ = b.card.read(Access::new(REGISTERS, u64::from(at) & !3, 4), &mut b.cx); }
                1 => { let _ = b.card.write(Access::new(REGISTERS, u64::from(at) & !3, 4), u64::from(value), &mut b.cx); }
                2 | 3 => b.write(places[usize::from(at) % places.len()], value),
                4 => b.memory.write(TX + u64::from(at % 512), &value.to_le_bytes()).unwrap(),
                5 => b.memory.write(RX + u64::from(at % 512), &value.to_le_bytes()).unwrap(),
                6 => b.arrives(frame(MAC, usize::from(at) % 9000 + 14)),
                _ => if b.cx.take_again() { b.card.poll(Ready::Again, &mut b.cx) },
            }
            while b.cable.take().is_some() {}
            prop_assert!(b.card.port.waiting().1 <= 1100 && b.card.port.waiting().0 <= 64 + 16);
        }
        let saved = b.card.save();
        prop_assert!(saved.len() < 16 << 10);
        prop_assert!(b.card.load(&saved, &mut b.cx).is_ok());
    }
}

/// A process that was killed during a frame: its state page is older than the descriptors that the guest has seen.
#[test]
fn a_life_that_ended_in_the_middle_is_taken_up_where_it_was() {
    let mut b = Bench::new(Abilities::default());
    b.arrives(frame(MAC, 100));
    let state = b.card.save();
    // After that state three more frames were received; the guest has seen two of them, and one was in flight.
    for _ in 0..3 {
        b.arrives(frame(MAC, 100));
    }
    for i in 1..3 {
        b.memory.write(RX + i * 16 + 12, &[0]).unwrap();
    }
    for (mark, head) in [
        (4 << 32 | 4, 4),
        (4 << 32 | 3, 4),
        (5 << 32 | 3, 4),
        (5 << 32 | 4, 4),
        (999, 1),
        (99 << 32 | 4, 1),
        (4 << 32 | 4, 4),
    ] {
        if mark == 99 << 32 | 4 {
            // A status of an earlier round does not belong to this process.
            b.memory.write(RX + 4 * 16 + 12, &[1]).unwrap();
        }
        let mut other = Bench::new(Abilities::default());
        (other.memory, other.cx) = (b.memory.clone(), Context::new(b.memory.clone()));
        other.cx.marks.after(RECEIVE_MARK, mark);
        other.card.load(&state, &mut other.cx).unwrap();
        assert_eq!(other.read(reg::RDH), head, "{mark:#x}");
    }
}

#[test]
fn a_frame_of_which_half_was_collected_is_collected_anew() {
    let mut b = Bench::new(Abilities::default());
    b.legacy(&frame(MAC, 60), 0x0b);
    let at = b.put(&frame(MAC, 30));
    b.descriptor(at, 20);
    assert_eq!(b.read(reg::TDH), 2);
    let state = b.card.save();
    while b.cable.take().is_some() {}
    let mut other = Bench::new(Abilities::default());
    (other.memory, other.cx) = (b.memory.clone(), Context::new(b.memory.clone()));
    other.card.load(&state, &mut other.cx).unwrap();
    assert_eq!(other.read(reg::TDH), 1, "where it begins");
    other.descriptor(at + 20, u64::from(0x0bu8) << 24 | 24);
    other.card.poll(Ready::Again, &mut other.cx);
    assert_eq!(other.cable.take().unwrap().bytes.len(), 60);
    // A mark is newer than the state.
    other.cx.marks.after(TRANSMIT_MARK, 2);
    other.card.load(&state, &mut other.cx).unwrap();
    assert_eq!(other.read(reg::TDH), 2);
}

#[test]
fn shadows_are_what_reading_gives() {
    let mut b = Bench::new(Abilities::default());
    b.arrives(frame(MAC, 100));
    for (region, offset, size, index) in [(REGISTERS, reg::STATUS as u64, 4, 0), (REGISTERS, reg::EECD as u64, 4, 1)] {
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
