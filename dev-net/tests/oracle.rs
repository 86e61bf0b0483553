//! Checks checksums and segments against independent code: etherparse builds the packets and parses the results.
use bulkhead_bus::fake::FakeMemory;
use bulkhead_bus::{Access, Context, Device as _, GuestMemory as _};
use bulkhead_dev_net::backend::{Abilities, Cable};
use bulkhead_dev_net::e1000::E1000;
use bulkhead_dev_net::frame::GsoKind;
use bulkhead_dev_net::offload::{finish, large};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

const SOURCE6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// A TCP packet as a driver passes it to its card: lengths and checksums are zero.
fn packet(six: bool, tag: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let start = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let tcp = |b: etherparse::PacketBuilderStep<etherparse::IpHeaders>| b.tcp(1000, 80, 0xffff_f000, 500).ack(7).psh();
    let id = etherparse::VlanId::try_new(5).unwrap();
    let done = match (six, tag) {
        (false, false) => tcp(start.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)),
        (false, true) => tcp(start.single_vlan(id).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)),
        (true, false) => tcp(start.ipv6(SOURCE6, SOURCE6, 64)),
        (true, true) => tcp(start.single_vlan(id).ipv6(SOURCE6, SOURCE6, 64)),
    };
    done.write(&mut out, payload).unwrap();
    let ip = if tag { 18 } else { 14 };
    let tcp = if six { ip + 40 } else { ip + 20 };
    if six {
        out[ip + 4..ip + 6].fill(0);
    } else {
        out[ip + 2..ip + 4].fill(0);
        out[ip + 10..ip + 12].fill(0);
    }
    out[tcp + 16..tcp + 18].fill(0);
    out
}

/// The TCP sequence number and payload of a frame whose lengths and checksums are right.
fn read(frame: &[u8]) -> (u32, Vec<u8>) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("no TCP: {frame:?}") };
    match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv4(header.source, header.destination).unwrap());
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv6(header.source, header.destination).unwrap());
        }
        other => panic!("{other:?}"),
    }
    (tcp.sequence_number(), tcp.payload().to_vec())
}

proptest! {
    #[test]
    fn segments_are_the_packet(
        six: bool,
        tag: bool,
        payload in prop::collection::vec(any::<u8>(), 1..12_000),
        size in 64u16..2000,
    ) {
        let kind = if six { GsoKind::Tcp6 } else { GsoKind::Tcp4 };
        let mut whole = Vec::new();
        for segment in finish(large(packet(six, tag, &payload), kind, size).unwrap()) {
            let (sequence, piece) = read(&segment.bytes);
            prop_assert_eq!(sequence, 0xffff_f000u32.wrapping_add(whole.len() as u32));
            prop_assert!(piece.len() <= usize::from(size));
            whole.extend(piece);
        }
        prop_assert_eq!(whole, payload);
    }

    /// The same by the card's registers and descriptors.
    #[test]
    fn the_sent_frame_is_the_packet(six: bool, payload in prop::collection::vec(any::<u8>(), 1..9_000), size in 500u64..1460) {
        let memory = FakeMemory::new(1 << 20);
        let cable = Cable::new(Abilities::default(), 0);
        let mut cx = Context::new(memory.clone());
        let mut card = E1000::new(4, 0, [2, 0, 0, 0, 0, 1], Box::new(cable.clone()), &Default::default());
        let bytes = packet(six, false, &payload);
        memory.write(0x8000, &bytes).unwrap();
        let (tcp, flags) = if six { (54u64, 0x25u64) } else { (34, 0x27) };
        let places = 14 | 24 << 8 | 33 << 16 | tcp << 32 | (tcp + 16) << 40;
        let lengths = size << 48 | (tcp + 20) << 40 | flags << 24 | payload.len() as u64;
        let context = [places, lengths];
        let data = [0x8000, 0x0300 << 32 | 0x2f << 24 | 1 << 20 | bytes.len() as u64];
        for (i, word) in context.into_iter().chain(data).enumerate() {
            memory.write(0x1000 + i as u64 * 8, &word.to_le_bytes()).unwrap();
        }
        for (register, value) in [(0x3800u64, 0x1000u64), (0x3808, 256), (0x400, 0xfa), (0x3818, 2)] {
            card.write(Access::new(0, register, 4), value, &mut cx).unwrap();
        }
        let mut whole = Vec::new();
        while let Some(frame) = cable.take() {
            whole.extend(read(&frame.bytes).1);
        }
        prop_assert_eq!(whole, payload);
    }
}
