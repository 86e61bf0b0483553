//! Faults of network cards in other device models, by class.
use super::*;

/// CVE-2025-12464: a short frame that the card sent to itself was padded beyond a buffer on the stack.
#[test]
fn stack_overflow_by_a_short_frame_in_loopback() {
    // With the transmitter's padding, and with the receiver's alone.
    for (len, transmit) in (1..=64).flat_map(|len| [(len, 0x0004_00fa), (len, 0x0004_00f2)]) {
        let mut b = Bench::new(Abilities::default());
        b.memory.write(BUFFERS, &[0xa5; 2048]).unwrap();
        b.write(reg::TCTL, transmit);
        // Loopback; every address is taken.
        b.write(reg::RCTL, 0x80da);
        b.legacy(&frame(MAC, 64)[..len], 0x0b);
        while b.cx.take_again() {
            b.card.poll(Ready::Again, &mut b.cx);
        }
        let mut buffer = [0; 2048];
        b.memory.read(BUFFERS, &mut buffer).unwrap();
        let (received, ..) = b.received(0);
        if received == 0 {
            assert!(len < 14 && transmit == 0x0004_00f2, "{len} bytes: only what has no addresses is no frame");
            continue;
        }
        // 60 bytes and the checksum are the shortest frame.
        assert_eq!(received, if len < 60 { 64 } else { len as u16 + 4 }, "{len} bytes");
        assert_eq!(buffer[..len], frame(MAC, 64)[..len]);
        assert!(buffer[len..60.max(len)].iter().all(|b| *b == 0), "{len} bytes: padded by zeros");
        assert!(buffer[usize::from(received)..].iter().all(|b| *b == 0xa5), "{len} bytes: nothing behind it");
    }
}

/// CVE-2018-17963, CVE-2012-6075: a packet longer than any frame overflowed an integer, then a buffer.
#[test]
fn overflow_by_a_packet_longer_than_any_frame() {
    let mut b = Bench::new(Abilities { segmentation: true, checksum: true });
    let at = b.put(&[0x55; 0x8000]);
    let longest = |b: &mut Bench| {
        for _ in 0..12 {
            // A piece of 65,535 bytes that is not the last one; the extended form has 20 bits of length.
            b.descriptor(at, 0x0a00_0000 | 0xffff);
            b.descriptor(at, 0x2a10_0000 | 0xf_ffff);
        }
        b.descriptor(at, 0x0b00_0000 | 60);
        while b.cx.take_again() {
            b.card.poll(Ready::Again, &mut b.cx);
        }
    };
    longest(&mut b);
    assert!(b.cable.take().is_none(), "no part of it is sent");
    b.legacy(&frame(MAC, 64), 0x0b);
    assert_eq!(b.cable.take().unwrap().bytes, frame(MAC, 64), "the next one is");
    // The same to itself, and longer than a guest's buffers from outside.
    b.write(reg::RCTL, 0x80da);
    longest(&mut b);
    b.write(reg::RCTL, 0x801a);
    b.arrives(frame(MAC, crate::frame::MAX));
    b.arrives(frame(MAC, 64));
    assert_eq!((b.received(0).0, b.read(reg::RDH)), (68, 1));
}

/// CVE-2016-2857: lengths in a packet's own headers led a checksum beyond the packet.
#[test]
fn out_of_bounds_checksum_by_a_packets_own_lengths() {
    for (ip_length, header_words, offset) in [(0xffff, 5, 5), (20, 15, 5), (0, 0, 15), (60, 5, 15), (21, 15, 0)] {
        for sum_at in [0u64, 14, 24, 60, 255] {
            let mut b = Bench::new(Abilities::default());
            let mut bytes = frame(MAC, 14);
            bytes[12..14].copy_from_slice(&[8, 0]);
            bytes.extend([0x40 | header_words, 0]);
            bytes.extend(u16::to_be_bytes(ip_length));
            bytes.extend([0, 0, 0, 0, 64, 6]);
            bytes.resize(46, 0x11);
            bytes.extend([offset << 4, 0x18]);
            bytes.resize(60, 0x11);
            // A context: where sums begin, are put and end, headers of 54 bytes, segments of 1460; then the packet, to be cut.
            b.descriptor(sum_at | sum_at << 8 | 0xffff << 16 | sum_at << 32 | sum_at << 40, 0x05b4_3600_2700_0000);
            let at = b.put(&bytes);
            b.descriptor(at, 0x0300_0000_2710_0000 | 60 | 0x0d00_0000);
            let sent: Vec<_> = std::iter::from_fn(|| b.cable.take()).collect();
            assert!(sent.iter().all(|f| f.bytes.len() <= 64), "{ip_length} {header_words} {offset} {sum_at}");
        }
    }
}

/// A tag made the longest frame longer than any, which ended the stream to a back end.
#[test]
fn overflow_of_the_longest_frame_by_a_tag() {
    let longest = crate::frame::MAX;
    let mut b = Bench::new(Abilities::default());
    b.write(reg::CTRL, Ctrl::new().with_set_link_up(true).with_vlan(true).into_bits());
    let at = b.put(&vec![0x55; longest]);
    for (len, sent) in [(longest, None), (longest - 4, Some(longest))] {
        // A data descriptor, the last one, with a tag.
        b.descriptor(at, 0x6b10_0000 | len as u64);
        assert_eq!(b.cable.take().map(|f| f.bytes.len()), sent, "{len} bytes and a tag");
    }
}

/// The state had the link as the settings connect it: it was another one in a process with other settings.
#[test]
fn a_state_does_not_depend_on_the_cable() {
    let mut b = Bench::new(Abilities::default());
    let connected = b.card.save();
    let down = NicSettings { link: false, ..NicSettings::default() };
    b.card.set_nic(&down, &mut b.cx);
    b.read(reg::ICR);
    assert_eq!(b.read(reg::STATUS) & 2, 0);
    assert_eq!(b.card.save(), connected);
    b.card.load(&connected, &mut b.cx).unwrap();
    assert_eq!(b.read(reg::STATUS) & 2, 0, "a new process knows its cable");
}
