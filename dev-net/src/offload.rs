//! Offloads in software, for back ends that do not do them: checksums (RFC 1071) and TCP segmentation (RFC 9293).
//!
//! Headers come from the guest or the network and are hostile: every position is checked against the frame.
use crate::frame::{ETHERNET, Frame, GsoKind, Offload, Partial, Segmentation, be16, ether_type, put_be16};

/// Smallest payload of a segment. With smaller ones a frame of 64 KiB would become a flood of frames.
pub const SMALLEST: u16 = 64;
/// Numbers of TCP (RFC 9293) and UDP (RFC 768) in IP, and the places of their checksums in their headers.
const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_SUM: u16 = 16;
const UDP_SUM: u16 = 6;
/// Bytes of headers without options.
const IPV6: usize = 40;
/// TCP's flags.
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// The one's complement sum of 16-bit words in network order. An odd byte at the end counts as a word's first.
///
/// This is the most expensive part of receiving a frame. The sum does not depend on the byte order of the words, if all have the
/// same (RFC 1071, 2.B), nor on the number of words that are added at once.
fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(4);
    // The sum of 2^32 words of 32 bits fits in 64 bits.
    let whole = words
        .by_ref()
        .fold(0u64, |sum, w| sum.wrapping_add(u64::from(w.first_chunk::<4>().map_or(0, |w| u32::from_ne_bytes(*w)))));
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(words.remainder()) {
        *to = *from;
    }
    u64::from(u16::from_be(fold(whole.wrapping_add(u64::from(u32::from_ne_bytes(last))))))
}

/// Folds a sum into its 16 bits.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff).saturating_add(sum >> 16);
    }
    sum as u16
}

/// The checksum of `bytes`, as in the field of a header: 0 if the bytes include a right checksum.
pub fn checksum(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// Completes a partial checksum. No effect if it lies outside of the frame.
pub fn complete(bytes: &mut [u8], partial: Partial) {
    let start = usize::from(partial.start);
    let Some(summed) = bytes.get(start..) else { return };
    // 0 would mean "no checksum" in UDP; both are zero in one's complement.
    let value = match checksum(summed) {
        0 => 0xffff,
        value => value,
    };
    put_be16(bytes, start.saturating_add(usize::from(partial.offset)), value);
}

/// Offsets of the headers of a TCP packet.
#[derive(Clone, Copy, Debug)]
struct Places {
    kind: GsoKind,
    ip: usize,
    tcp: usize,
    payload: usize,
}

/// Finds the TCP header of a frame with at most one VLAN tag.
fn places(bytes: &[u8], kind: GsoKind) -> Option<Places> {
    let mut ip = ETHERNET;
    let mut ether = be16(bytes, 12)?;
    if ether == ether_type::VLAN {
        ether = be16(bytes, 16)?;
        ip = ETHERNET.saturating_add(4);
    }
    let (above, tcp) = match kind {
        GsoKind::Tcp4 if ether == ether_type::IPV4 => {
            let words = usize::from(bytes.get(ip)? & 0x0f);
            (words >= 5).then(|| (bytes.get(ip.saturating_add(9)), ip.saturating_add(words.saturating_mul(4))))?
        }
        // Extension headers are not walked, because packets for segmentation have none.
        GsoKind::Tcp6 if ether == ether_type::IPV6 => (bytes.get(ip.saturating_add(6)), ip.saturating_add(IPV6)),
        _ => return None,
    };
    // In another protocol's packet the fields of TCP could be what the rules look at.
    (above == Some(&TCP)).then_some(())?;
    let words = usize::from(bytes.get(tcp.saturating_add(12))? >> 4);
    let payload = (words >= 5).then(|| tcp.saturating_add(words.saturating_mul(4)))?;
    (payload <= bytes.len()).then_some(Places { kind, ip, tcp, payload })
}

/// Whether a checksum that the guest leaves to the card is that of TCP or UDP. It could be anywhere else, and change what the rules
/// have looked at: an address, a port.
pub(crate) fn in_place(bytes: &[u8], partial: Partial) -> bool {
    let tagged = be16(bytes, 12) == Some(ether_type::VLAN);
    let at = if tagged { ETHERNET.saturating_add(4) } else { ETHERNET };
    let (above, top) = match be16(bytes, at.saturating_sub(2)) {
        Some(ether_type::IPV4) => {
            let words = usize::from(bytes.get(at).copied().unwrap_or(0) & 0x0f);
            if words < 5 {
                return false;
            }
            (bytes.get(at.saturating_add(9)), at.saturating_add(words.saturating_mul(4)))
        }
        Some(ether_type::IPV6) => (bytes.get(at.saturating_add(6)), at.saturating_add(IPV6)),
        _ => return false,
    };
    let offset = match above {
        Some(&TCP) => TCP_SUM,
        Some(&UDP) => UDP_SUM,
        _ => return false,
    };
    usize::from(partial.start) == top && partial.offset == offset
}

/// The sum of TCP's pseudo header for `len` bytes of TCP.
fn pseudo(bytes: &[u8], at: Places, len: usize) -> u64 {
    let addresses = match at.kind {
        GsoKind::Tcp4 => at.ip.saturating_add(12)..at.ip.saturating_add(20),
        GsoKind::Tcp6 => at.ip.saturating_add(8)..at.ip.saturating_add(40),
    };
    sum(bytes.get(addresses).unwrap_or_default()).saturating_add(u64::from(TCP)).saturating_add(len as u64)
}

/// Sets the length fields according to the frame's length, and IPv4's checksum.
fn lengths(bytes: &mut [u8], at: Places) {
    match at.kind {
        GsoKind::Tcp4 => {
            let total = bytes.len().saturating_sub(at.ip);
            put_be16(bytes, at.ip.saturating_add(2), u16::try_from(total).unwrap_or(u16::MAX));
            put_be16(bytes, at.ip.saturating_add(10), 0);
            let value = checksum(bytes.get(at.ip..at.tcp).unwrap_or_default());
            put_be16(bytes, at.ip.saturating_add(10), value);
        }
        GsoKind::Tcp6 => {
            let payload = bytes.len().saturating_sub(at.ip).saturating_sub(IPV6);
            put_be16(bytes, at.ip.saturating_add(4), u16::try_from(payload).unwrap_or(u16::MAX));
        }
    }
}

/// Completes the headers of a large TCP packet that a driver has left to the card: lengths of the whole packet, and the pseudo
/// header's sum in TCP's field. `None`: it is no such packet.
pub fn large(mut bytes: Vec<u8>, kind: GsoKind, size: u16) -> Option<Frame> {
    let at = places(&bytes, kind)?;
    if size < SMALLEST {
        return None;
    }
    let len = bytes.len().saturating_sub(at.tcp);
    if len > 0xffff {
        return None;
    }
    lengths(&mut bytes, at);
    let value = fold(pseudo(&bytes, at, len));
    put_be16(&mut bytes, at.tcp.saturating_add(16), value);
    let checksum = Some(Partial { start: u16::try_from(at.tcp).ok()?, offset: 16 });
    let headers = u16::try_from(at.payload).ok()?;
    let segmentation =
        (bytes.len().saturating_sub(at.payload) > usize::from(size)).then_some(Segmentation { kind, size, headers });
    Some(Frame { bytes, offload: Offload { checksum, segmentation, verified: false } })
}

/// Finds and sets the checksums of a packet for which the driver names no positions: IPv4's, and that of TCP or UDP. The latter
/// becomes an offload, with the pseudo header's sum in its field. Other packets are unchanged.
pub fn checksums(mut frame: Frame, ip: bool, above: bool) -> Frame {
    let bytes = &mut frame.bytes;
    let tagged = be16(bytes, 12) == Some(ether_type::VLAN);
    let at = if tagged { ETHERNET.saturating_add(4) } else { ETHERNET };
    let head = match be16(bytes, at.saturating_sub(2)) {
        Some(ether_type::IPV4) => usize::from(bytes.get(at).copied().unwrap_or(0) & 0x0f).saturating_mul(4),
        _ => return frame,
    };
    let top = at.saturating_add(head);
    // The IP packet's end; padding may follow.
    let end = at.saturating_add(usize::from(be16(bytes, at.saturating_add(2)).unwrap_or(0)));
    if head < 20 || top > end || end > bytes.len() {
        return frame;
    }
    if ip {
        put_be16(bytes, at.saturating_add(10), 0);
        let value = checksum(bytes.get(at..top).unwrap_or_default());
        put_be16(bytes, at.saturating_add(10), value);
    }
    let protocol = bytes.get(at.saturating_add(9)).copied().unwrap_or(0);
    // A checksum covers the whole packet, so a fragment's cannot be computed.
    let whole = be16(bytes, at.saturating_add(6)).is_some_and(|f| f & 0x3fff == 0);
    let offset: u16 = match protocol {
        TCP => TCP_SUM,
        UDP => UDP_SUM,
        _ => return frame,
    };
    let field = top.saturating_add(usize::from(offset));
    if !above || !whole || field.saturating_add(2) > end {
        return frame;
    }
    bytes.truncate(end);
    let addresses = sum(bytes.get(at.saturating_add(12)..at.saturating_add(20)).unwrap_or_default());
    let value = fold(addresses.saturating_add(u64::from(protocol)).saturating_add(end.saturating_sub(top) as u64));
    put_be16(bytes, field, value);
    frame.offload.checksum = u16::try_from(top).ok().map(|start| Partial { start, offset });
    frame
}

/// Carries out a frame's offloads. Returns the frame, or its segments; none if its headers contradict the offload.
pub fn finish(frame: Frame) -> Vec<Frame> {
    let Frame { mut bytes, offload } = frame;
    let Some(segmentation) = offload.segmentation else {
        if let Some(partial) = offload.checksum {
            complete(&mut bytes, partial);
        }
        return vec![Frame {
            bytes,
            offload: Offload { verified: offload.verified | offload.checksum.is_some(), ..Offload::default() },
        }];
    };
    let Some(at) = places(&bytes, segmentation.kind).filter(|_| segmentation.size >= SMALLEST) else {
        return Vec::new();
    };
    let (headers, payload) = bytes.split_at(at.payload.min(bytes.len()));
    let sequence = headers
        .get(at.tcp.saturating_add(4)..)
        .and_then(|b| b.first_chunk::<4>())
        .map_or(0, |b| u32::from_be_bytes(*b));
    let identification = be16(headers, at.ip.saturating_add(4)).unwrap_or(0);
    let flags = at.tcp.saturating_add(13);
    let mut done = 0u32;
    let mut segments = Vec::new();
    for (i, piece) in payload.chunks(usize::from(segmentation.size)).enumerate() {
        let mut segment = [headers, piece].concat();
        let last = (done as usize).saturating_add(piece.len()) == payload.len();
        if let Some(place) = segment.get_mut(at.tcp.saturating_add(4)..).and_then(|b| b.first_chunk_mut::<4>()) {
            *place = sequence.wrapping_add(done).to_be_bytes();
        }
        if let Some(flags) = segment.get_mut(flags) {
            *flags &= if last { 0xff } else { !(FIN | PSH) } & if i == 0 { 0xff } else { !CWR };
        }
        if at.kind == GsoKind::Tcp4 {
            put_be16(&mut segment, at.ip.saturating_add(4), identification.wrapping_add(i as u16));
        }
        lengths(&mut segment, at);
        let len = segment.len().saturating_sub(at.tcp);
        let field = at.tcp.saturating_add(16);
        put_be16(&mut segment, field, 0);
        let whole = pseudo(&segment, at, len).saturating_add(sum(segment.get(at.tcp..).unwrap_or_default()));
        put_be16(&mut segment, field, !fold(whole));
        done = done.saturating_add(u32::try_from(piece.len()).unwrap_or(0));
        segments.push(Frame { bytes: segment, offload: Offload { verified: true, ..Offload::default() } });
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A TCP packet with `payload` bytes; the fields that a card fills in are zero.
    pub(crate) fn packet(kind: GsoKind, payload: usize, tag: bool) -> Vec<u8> {
        let mut bytes = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
        if tag {
            bytes.extend([0x81, 0, 0, 5]);
        }
        match kind {
            GsoKind::Tcp4 => {
                bytes.extend([8, 0, 0x45, 0, 0, 0, 0xff, 0xfe, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2])
            }
            GsoKind::Tcp6 => {
                bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 6, 64]);
                bytes.extend([
                    0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                    0, 0, 2,
                ]);
            }
        }
        bytes.extend([
            0x12,
            0x34,
            0,
            22,
            0xff,
            0xff,
            0xff,
            0,
            0,
            0,
            0,
            9,
            0x50,
            FIN | PSH | CWR | 0x10,
            1,
            0,
            0,
            0,
            0,
            0,
        ]);
        bytes.extend((0..payload).map(|i| (i * 7) as u8));
        bytes
    }

    /// Whether IPv4's and TCP's checksums are right.
    fn right(bytes: &[u8], kind: GsoKind) -> bool {
        let at = places(bytes, kind).unwrap();
        let len = bytes.len() - at.tcp;
        let tcp = fold(pseudo(bytes, at, len) + sum(&bytes[at.tcp..])) == 0xffff;
        tcp && (kind == GsoKind::Tcp6 || checksum(&bytes[at.ip..at.tcp]) == 0)
    }

    #[test]
    fn rfc_1071s_example() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
        let by_hand = |bytes: &[u8]| {
            fold(bytes.chunks(2).map(|w| u64::from(w[0]) << 8 | u64::from(*w.get(1).unwrap_or(&0))).sum())
        };
        for len in 0..70 {
            let bytes: Vec<u8> = (0..len).map(|i: u32| (i * 97 + 201) as u8).collect();
            assert_eq!(fold(sum(&bytes)), by_hand(&bytes), "{len}");
        }
        assert_eq!(fold(sum(&[0xff; 65_535])), by_hand(&[0xff; 65_535]));
        assert_eq!(checksum(&[1]), !0x0100);
    }

    #[test]
    fn a_large_packet_is_cut_as_tcp_says() {
        for (kind, tag) in
            [(GsoKind::Tcp4, false), (GsoKind::Tcp4, true), (GsoKind::Tcp6, false), (GsoKind::Tcp6, true)]
        {
            let frame = large(packet(kind, 3500, tag), kind, 1448).unwrap();
            let headers = usize::from(frame.offload.segmentation.unwrap().headers);
            let segments = finish(frame);
            assert_eq!(segments.iter().map(|s| s.bytes.len() - headers).collect::<Vec<_>>(), [1448, 1448, 604]);
            let tcp = headers - 20;
            let field = |i: usize, at: usize, n: usize| segments[i].bytes[at..at + n].to_vec();
            assert_eq!(
                (field(1, tcp + 4, 4), field(2, tcp + 4, 4)),
                (vec![0, 0, 4, 0xa8], vec![0, 0, 0x0a, 0x50]),
                "sequence numbers wrap"
            );
            let flags: Vec<u8> = segments.iter().map(|s| s.bytes[tcp + 13]).collect();
            assert_eq!(flags, [CWR | 0x10, 0x10, FIN | PSH | 0x10]);
            if kind == GsoKind::Tcp4 {
                assert_eq!(
                    (be16(&segments[0].bytes, tcp - 16), be16(&segments[2].bytes, tcp - 16)),
                    (Some(0xfffe), Some(0)),
                    "identifications"
                );
            }
            assert!(segments.iter().all(|s| right(&s.bytes, kind) && s.offload.verified), "{kind:?} {tag}");
        }
    }

    #[test]
    fn what_fits_is_one_packet_with_a_checksum_to_complete() {
        let frame = large(packet(GsoKind::Tcp4, 100, false), GsoKind::Tcp4, 1448).unwrap();
        assert!(frame.offload.segmentation.is_none());
        let done = finish(frame);
        assert!(done.len() == 1 && right(&done[0].bytes, GsoKind::Tcp4));
    }

    #[test]
    fn a_flood_of_small_segments_is_refused() {
        assert!(large(packet(GsoKind::Tcp4, 60_000, false), GsoKind::Tcp4, 1).is_none());
        let offload = Offload {
            segmentation: Some(Segmentation { kind: GsoKind::Tcp4, size: 1, headers: 54 }),
            ..Offload::default()
        };
        assert!(finish(Frame { bytes: packet(GsoKind::Tcp4, 60_000, false), offload }).is_empty());
    }

    /// In a packet that is not TCP, the fields of TCP are a neighbour's address, or an extension header's type: what rules look at.
    #[test]
    fn spoofing_by_segments_of_another_protocol() {
        for (kind, at) in [(GsoKind::Tcp4, 23), (GsoKind::Tcp6, 20)] {
            for protocol in [0, 1, 17, 43, 44, 58, 60] {
                let mut bytes = packet(kind, 3000, false);
                bytes[at] = protocol;
                assert_eq!(large(bytes.clone(), kind, 1000), None, "{protocol}");
                let headers = 54;
                let segmentation = Some(Segmentation { kind, size: 1000, headers });
                let frame = Frame { bytes, offload: Offload { segmentation, ..Offload::default() } };
                assert_eq!(finish(frame), vec![], "{protocol}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            start in 0u16..300,
            offset in 0u16..300,
            size in 0u16..300,
            four: bool,
        ) {
            let kind = if four { GsoKind::Tcp4 } else { GsoKind::Tcp6 };
            let _ = large(bytes.clone(), kind, size);
            let segmentation = (size % 2 == 0).then_some(Segmentation { kind, size, headers: 54 });
            let len = bytes.len();
            let offload = Offload { checksum: Some(Partial { start, offset }), segmentation, verified: false };
            let frames = finish(Frame { bytes, offload });
            prop_assert!(frames.iter().all(|f| f.bytes.len() <= len.max(60)));
        }

        #[test]
        fn every_cut_is_right(payload in 0usize..9000, size in SMALLEST..2000, four: bool) {
            let kind = if four { GsoKind::Tcp4 } else { GsoKind::Tcp6 };
            let segments = finish(large(packet(kind, payload, false), kind, size).unwrap());
            let headers = if four { 54 } else { 74 };
            prop_assert_eq!(segments.iter().map(|s| s.bytes.len() - headers).sum::<usize>(), payload);
            prop_assert!(segments.iter().all(|s| s.bytes.len() <= headers + usize::from(size) && right(&s.bytes, kind)));
        }
    }
}
