//! A frame and its offloads, which are work left to the receiver: the fields of struct virtio_net_hdr (Virtual I/O Device 1.2,
//! 5.1.6), as Linux's taps and packet sockets use them.

/// Most bytes of a frame before segmentation: an IP packet of 64 KiB and an Ethernet header with a VLAN tag.
pub const MAX: usize = 65_535 + 18;
/// Bytes of an Ethernet header (IEEE 802.3, 3.1): destination, source, type.
pub const ETHERNET: usize = 14;
/// EtherTypes.
pub mod ether_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// IEEE 802.1Q.
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
}

/// An incomplete checksum: its field has the sum of the pseudo header only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    /// Offset of the first byte of the sum.
    pub start: u16,
    /// Offset of the field from `start`.
    pub offset: u16,
}

/// The protocols of a packet to be segmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP in IPv4.
    Tcp4,
    /// TCP in IPv6.
    Tcp6,
}

/// Parameters of a frame that must be split into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// TCP over IPv4 or over IPv6.
    pub kind: GsoKind,
    /// Bytes of payload in each segment but the last.
    pub size: u16,
    /// Bytes of all headers, which every segment gets.
    pub headers: u16,
}

/// Work on a frame that is left to the receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Complete this checksum.
    pub checksum: Option<Partial>,
    /// Split it into segments.
    pub segmentation: Option<Segmentation>,
    /// The host has verified its checksums.
    pub verified: bool,
}

/// virtio_net_hdr's flags and gso_type.
mod header {
    pub(super) const NEEDS_CSUM: u8 = 1;
    pub(super) const DATA_VALID: u8 = 2;
    pub(super) const GSO_NONE: u8 = 0;
    pub(super) const GSO_TCPV4: u8 = 1;
    pub(super) const GSO_TCPV6: u8 = 4;
    /// Explicit congestion notification; it does not change the segmentation here.
    pub(super) const GSO_ECN: u8 = 0x80;
}

impl Offload {
    /// Bytes of struct virtio_net_hdr.
    pub const LEN: usize = 10;

    /// Encodes a virtio_net_hdr.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (start, offset) = self.checksum.map_or((0, 0), |c| (c.start, c.offset));
        let (kind, headers, size) = match self.segmentation {
            None => (header::GSO_NONE, 0, 0),
            Some(s) => (if s.kind == GsoKind::Tcp4 { header::GSO_TCPV4 } else { header::GSO_TCPV6 }, s.headers, s.size),
        };
        let flags = if self.checksum.is_some() { header::NEEDS_CSUM } else { 0 };
        let words = [u16::from_le_bytes([flags, kind]), headers, size, start, offset];
        for (to, word) in bytes.chunks_exact_mut(2).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The offloads after a VLAN tag of 4 bytes has been inserted after the addresses.
    pub fn with_tag_inserted(self) -> Option<Self> {
        let checksum = match self.checksum {
            Some(c) => Some(Partial { start: c.start.checked_add(4)?, ..c }),
            None => None,
        };
        let segmentation = match self.segmentation {
            Some(s) => Some(Segmentation { headers: s.headers.checked_add(4)?, ..s }),
            None => None,
        };
        Some(Self { checksum, segmentation, ..self })
    }

    /// Decodes a virtio_net_hdr. `None`: an unsupported kind of segmentation, or numbers that do not fit a frame of `len` bytes.
    pub fn from_bytes(bytes: &[u8; Self::LEN], len: usize) -> Option<Self> {
        let mut words = bytes.chunks_exact(2).map(|w| match w {
            [a, b] => u16::from_le_bytes([*a, *b]),
            _ => 0,
        });
        let mut next = || words.next().unwrap_or(0);
        let ([flags, kind], headers, size, start, offset) = (next().to_le_bytes(), next(), next(), next(), next());
        let checksum = (flags & header::NEEDS_CSUM != 0).then_some(Partial { start, offset });
        let field =
            checksum.map_or(0, |c| usize::from(c.start).saturating_add(usize::from(c.offset)).saturating_add(2));
        let kind = match kind & !header::GSO_ECN {
            header::GSO_NONE => None,
            header::GSO_TCPV4 => Some(GsoKind::Tcp4),
            header::GSO_TCPV6 => Some(GsoKind::Tcp6),
            _ => return None,
        };
        let segmentation = kind.map(|kind| Segmentation { kind, size, headers });
        if field > len || segmentation.is_some_and(|s| s.size == 0 || usize::from(s.headers) > len) {
            return None;
        }
        Some(Self { checksum, segmentation, verified: flags & header::DATA_VALID != 0 })
    }
}

/// A frame without its frame check sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// From the destination address to the end of the payload.
    pub bytes: Vec<u8>,
    /// Work on a frame that is left to the receiver.
    pub offload: Offload,
}

/// Two bytes in network order.
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk::<2>().map(|b| u16::from_be_bytes(*b))
}

/// Writes two bytes in network order, if they are inside.
pub(crate) fn put_be16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..).and_then(|b| b.first_chunk_mut::<2>()) {
        *place = value.to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_come_back(
            sum in prop::option::of((0u16..60, 0u16..20)),
            gso in prop::option::of((any::<bool>(), 1u16.., 0u16..80)),
        ) {
            let kind = |four| if four { GsoKind::Tcp4 } else { GsoKind::Tcp6 };
            let offload = Offload {
                checksum: sum.map(|(start, offset)| Partial { start, offset }),
                segmentation: gso.map(|(four, size, headers)| Segmentation { kind: kind(four), size, headers }),
                verified: false,
            };
            prop_assert_eq!(Offload::from_bytes(&offload.to_bytes(), 100), Some(offload));
        }

        #[test]
        fn any_header_fits_the_frame_or_is_none(
            mut bytes: [u8; 10], kind in prop_oneof![Just(0u8), Just(1), Just(4), Just(0x81), any::<u8>()], len in 0usize..3000,
        ) {
            // Most other kinds are refused, whatever the numbers are.
            bytes[1] = kind;
            if let Some(offload) = Offload::from_bytes(&bytes, len) {
                prop_assert!(offload.checksum.is_none_or(|c| usize::from(c.start) + usize::from(c.offset) + 2 <= len));
                prop_assert!(offload.segmentation.is_none_or(|s| s.size > 0 && usize::from(s.headers) <= len));
            }
        }
    }
}
