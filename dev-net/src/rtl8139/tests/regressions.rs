//! Faults of network cards in other device models, by class.
use super::*;

/// CVE-2025-12464: a short frame that the card sent to itself was padded beyond a buffer on the stack.
#[test]
fn stack_overflow_by_a_short_frame_in_loopback() {
    for len in 1..=64u32 {
        let mut b = Bench::plain();
        b.memory.write(BUFFER, &[0xa5; 2048]).unwrap();
        b.write(reg::RCR, 4, 0x0f);
        b.write(reg::TCR, 4, 3 << 17);
        b.memory.write(0x5000, &frame(MAC, 64)).unwrap();
        b.write(reg::TSAD, 4, 0x5000);
        b.write(reg::TSD, 4, len);
        while b.cx.take_again() {
            b.card.poll(Ready::Again, &mut b.cx);
        }
        let mut buffer = [0; 2048];
        b.memory.read(BUFFER, &mut buffer).unwrap();
        let stored =
            if b.read(reg::CR, 1) & 1 == 0 { usize::from(u16::from_le_bytes([buffer[2], buffer[3]])) } else { 0 };
        assert!(stored == 0 || stored == 64.max(len as usize + 4), "{len} bytes: {stored}");
        // A header before it, up to three bytes behind it.
        let end = if stored == 0 { 0 } else { (stored + 4).next_multiple_of(4) };
        assert!(buffer[end..].iter().all(|b| *b == 0xa5), "{len} bytes: nothing behind it");
    }
}

/// CVE-2018-17958: the length of a packet was kept in a type that was too small for it.
#[test]
fn overflow_by_a_packet_longer_than_any_frame() {
    let mut b = Bench::plus(Abilities::default());
    // Four descriptors of 65,535 bytes: the first begins a frame, the last one ends it and the ring.
    for i in 0..4 {
        b.descriptor(i, [0xa000_ffff, 0x8000_ffff, 0x8000_ffff, 0xd000_ffff][i as usize], 0, &[]);
    }
    b.write(reg::TPPOLL, 1, 0x40);
    while b.cx.take_again() {
        b.card.poll(Ready::Again, &mut b.cx);
    }
    assert!(b.cable.take().is_none(), "no part of it is sent");
    assert_eq!(b.word(TX + 48) >> 31, 0, "the card has done with it");
    b.write(reg::TNPDS, 4, TX as u32);
    b.descriptor(0, 0xb000_0000 | 60, 0, &frame(MAC, 60));
    b.write(reg::TPPOLL, 1, 0x40);
    assert_eq!(b.cable.take().unwrap().bytes, frame(MAC, 60), "the next one is");
    for len in [crate::frame::MAX, 1 << 16, 0x7fff, 0x8000, 8192] {
        b.arrives(frame(MAC, len));
        assert_eq!(b.word(RX) >> 31, 1, "{len} bytes from outside: no room for them");
    }
    b.arrives(frame(MAC, 64));
    assert_eq!(b.word(RX) & 0x1fff, 68);
}

/// CVE-2016-8910: a ring in which every descriptor belongs to the card, in both priorities, kept it at work.
#[test]
fn infinite_loop_in_a_ring_that_is_never_empty() {
    for queue in [0x40, 0x80] {
        let mut b = Bench::plus(Abilities::default());
        b.write(reg::THPDS, 4, TX as u32);
        // One descriptor that ends the ring: the card comes to it again and again, and the guest gives it back at once.
        b.descriptor(0, 0xf000_0000 | 60, 0, &frame(MAC, 60));
        for _ in 0..1000 {
            b.write(reg::TPPOLL, 1, queue);
            b.memory.write(TX, &(0xf000_0000u32 | 60).to_le_bytes()).unwrap();
        }
        let sent = std::iter::from_fn(|| b.cable.take()).count();
        assert!(sent <= 1000, "{sent} frames for a thousand requests");
    }
}

/// A tag made the longest frame longer than any, which ended the stream to a back end.
#[test]
fn overflow_of_the_longest_frame_by_a_tag() {
    let longest = crate::frame::MAX;
    for (len, sent) in [(longest, None), (longest - 4, Some(longest))] {
        let mut b = Bench::plus(Abilities::default());
        b.descriptor(0, 0xa000_ffff, 0x2_0500, &[0x55; 0xffff]);
        b.descriptor(1, 0xd000_0000 | (len - 0xffff) as u32, 0, &[0x55; 18]);
        b.write(reg::TPPOLL, 1, 0x40);
        assert_eq!(b.cable.take().map(|f| f.bytes.len()), sent, "{len} bytes and a tag");
    }
}
