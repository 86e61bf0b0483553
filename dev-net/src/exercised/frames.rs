//! Frames of guests and of other machines, built from a number: those that a card, its filter and its offloads distinguish.
use super::MAC;
use crate::frame::{ETHERNET, ether_type, put_be16};
use crate::offload::checksum;
use bulkhead_bus::exercise::{Random, Record};
use bulkhead_bus::guard;
use std::net::Ipv6Addr;

/// The guest's addresses, as its lease and its rules have them.
pub(crate) const IPV4: [u8; 4] = [10, 0, 0, 5];
pub(crate) const IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);
/// Another machine's.
const OTHER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];
const OTHER_IPV4: [u8; 4] = [10, 0, 0, 1];
const OTHER_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
/// Groups: that of all IPv6 nodes, and the address of pause frames.
const NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const PAUSE: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 1];

/// Numbers of protocols in IP (IANA).
mod protocol {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ICMP: u8 = 1;
    pub(super) const TCP: u8 = 6;
    pub(super) const UDP: u8 = 17;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const ICMPV6: u8 = 58;
    pub(super) const DESTINATION: u8 = 60;
}

/// The kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Address resolution: a request, and an answer.
    Arp(u8),
    /// IPv4 with this protocol.
    Ipv4(u8),
    /// IPv4 with UDP between these ports.
    Udp4(u16, u16),
    /// IPv4 with options.
    Options,
    /// IPv4 that is a fragment at this offset.
    Fragment(u16),
    /// IPv6 with this protocol.
    Ipv6(u8),
    /// IPv6 with UDP between these ports.
    Udp6(u16, u16),
    /// IPv6 with this type of ICMP, behind so many headers with options.
    Icmp6(u8, u8),
    /// IPv6 that is a fragment at this offset.
    Fragment6(u16),
    /// A DHCP message of this type.
    Dhcp(u8),
    /// A tag of this EtherType, with TCP in IPv4 behind it.
    Tagged(u16),
    /// A tag with TCP in IPv6 behind it.
    Tagged6,
    /// A length instead of an EtherType (IEEE 802.2).
    Llc,
    /// Flow control (IEEE 802.3x).
    Pause,
    /// IP whose version or length is wrong.
    Broken(u8),
    /// One of the frames for which both filters must have the same verdict.
    Example(u8),
}

/// All kinds, by number.
pub(crate) const KINDS: [Kind; 32] = [
    Kind::Ipv4(protocol::TCP),
    Kind::Udp4(5000, 53),
    Kind::Ipv4(protocol::ICMP),
    Kind::Ipv6(protocol::TCP),
    Kind::Udp6(5000, 53),
    Kind::Icmp6(128, 0),
    Kind::Arp(1),
    Kind::Arp(2),
    Kind::Dhcp(1),
    Kind::Dhcp(3),
    Kind::Dhcp(8),
    Kind::Dhcp(2),
    Kind::Udp4(67, 68),
    Kind::Udp6(547, 546),
    Kind::Tagged(ether_type::VLAN),
    Kind::Tagged(0x88a8),
    Kind::Tagged6,
    Kind::Llc,
    Kind::Pause,
    Kind::Options,
    Kind::Fragment(0),
    Kind::Fragment(8),
    Kind::Fragment6(0),
    Kind::Fragment6(8),
    Kind::Icmp6(133, 0),
    Kind::Icmp6(134, 1),
    Kind::Icmp6(135, 0),
    Kind::Icmp6(136, 0),
    Kind::Icmp6(143, 1),
    Kind::Icmp6(137, 9),
    Kind::Broken(0),
    Kind::Example(0),
];

/// What a frame is made of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) destination: [u8; 6],
    pub(crate) source: [u8; 6],
    pub(crate) ipv4: [u8; 4],
    pub(crate) ipv6: Ipv6Addr,
    /// Bytes of payload behind the last header.
    pub(crate) payload: usize,
    /// The checksums are right. If not, they are zero.
    pub(crate) sums: bool,
    /// Any bits, where a kind has variants.
    pub(crate) variant: u8,
}

/// A destination by number: the card, all, groups, another card.
fn destination(n: u8) -> [u8; 6] {
    match n & 7 {
        0..=2 => MAC,
        3 => [0xff; 6],
        4 => NODES,
        5 => PAUSE,
        6 => [0x01, 0, 0x5e, 0, 0, n],
        _ => OTHER_MAC,
    }
}

impl Plan {
    /// A frame of another machine. `value` has its kind (5 bits), the length of its payload (2), wrong checksums (1) and its
    /// destination (3).
    pub(crate) fn of_another(value: u64, variant: u8) -> Self {
        let payload = match value >> 5 & 3 {
            0 => 18,
            1 => 300,
            2 => 1460,
            _ => 4000,
        };
        Self {
            kind: KINDS.get((value & 31) as usize).copied().unwrap_or(Kind::Llc),
            destination: destination((value >> 8) as u8),
            source: OTHER_MAC,
            ipv4: OTHER_IPV4,
            ipv6: OTHER_IPV6,
            payload,
            sums: value >> 7 & 1 == 0,
            variant,
        }
    }

    /// A frame of the guest, which lies in one of eight cases.
    pub(crate) fn of_the_guest(random: &mut Random) -> Self {
        let lies = random.one_in(8);
        let payload = match random.below(8) {
            0 => 0,
            1..=5 => random.below(200),
            6 => random.below(3000),
            _ => random.below(0x4000),
        };
        let sources = [OTHER_IPV4, [0; 4], IPV4];
        let link = bulkhead_bus::nic::NicAddresses::link_local(MAC);
        Self {
            kind: random.of(&KINDS).copied().unwrap_or(Kind::Llc),
            destination: destination(random.bits() as u8),
            source: if lies { OTHER_MAC } else { MAC },
            ipv4: if random.one_in(4) { random.of(&sources).copied().unwrap_or(IPV4) } else { IPV4 },
            ipv6: random.of(&[IPV6, IPV6, link, OTHER_IPV6, Ipv6Addr::UNSPECIFIED]).copied().unwrap_or(IPV6),
            payload: payload as usize,
            sums: random.one_in(2),
            variant: random.bits() as u8,
        }
    }

    /// Offsets of the header above IP, and of its checksum.
    pub(crate) fn above(&self) -> (usize, usize) {
        let (at, sum) = match self.kind {
            Kind::Ipv4(_) | Kind::Fragment(_) => (34, 16),
            Kind::Options => (42, 16),
            Kind::Udp4(..) | Kind::Dhcp(_) => (34, 6),
            Kind::Ipv6(_) => (54, 16),
            Kind::Udp6(..) => (54, 6),
            Kind::Tagged(_) => (38, 16),
            Kind::Tagged6 => (58, 16),
            _ => (54, 2),
        };
        (at, at.saturating_add(sum))
    }

    /// Bytes of all headers.
    pub(crate) fn headers(&self) -> usize {
        self.above().0.saturating_add(20)
    }

    /// Whether IP is version 4.
    pub(crate) fn is_ipv4(&self) -> bool {
        matches!(
            self.kind,
            Kind::Ipv4(_) | Kind::Udp4(..) | Kind::Options | Kind::Fragment(_) | Kind::Dhcp(_) | Kind::Tagged(_)
        )
    }

    fn payload(&self) -> Vec<u8> {
        (0..self.payload).map(|i| (i as u8).wrapping_mul(self.variant | 1)).collect()
    }

    fn tcp(&self) -> Vec<u8> {
        let mut tcp =
            vec![0x13, 0x88, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x98 | self.variant & 1, 0x20, 0, 0, 0, 0, 0];
        tcp.extend(self.payload());
        tcp
    }

    fn udp(&self, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let len = u16::try_from(payload.len().saturating_add(8)).unwrap_or(u16::MAX);
        let mut udp: Vec<u8> = [from, to, len, 0].into_iter().flat_map(u16::to_be_bytes).collect();
        udp.extend(payload);
        udp
    }

    /// Sets the checksum above IP, whose pseudo header is `addresses`.
    fn summed(&self, mut bytes: Vec<u8>, addresses: &[u8], protocol: u8) -> Vec<u8> {
        let at = match protocol {
            protocol::TCP => 16,
            protocol::UDP => 6,
            _ => 2,
        };
        if self.sums {
            let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes();
            let head: &[u8] = if protocol == protocol::ICMP { &[] } else { addresses };
            let tail: &[u8] = if protocol == protocol::ICMP { &[] } else { &[0, protocol, len[0], len[1]] };
            let value = checksum(&[head, tail, &bytes].concat());
            put_be16(&mut bytes, at, value);
        }
        bytes
    }

    /// An IPv4 packet.
    fn ipv4(&self, protocol: u8, options: &[u8], fragment: u16, above: Vec<u8>) -> Vec<u8> {
        let addresses = [self.ipv4, if self.ipv4 == IPV4 { OTHER_IPV4 } else { IPV4 }].concat();
        let above = self.summed(above, &addresses, protocol);
        let head = options.len().saturating_add(20);
        let mut packet = vec![0x40 | (head >> 2) as u8 & 0x0f, 0, 0, 0, 0x12, 0x34, 0, 0, 64, protocol, 0, 0];
        put_be16(&mut packet, 2, u16::try_from(above.len().saturating_add(head)).unwrap_or(u16::MAX));
        put_be16(&mut packet, 6, fragment);
        packet.extend(addresses);
        packet.extend(options);
        if self.sums {
            let value = checksum(&packet);
            put_be16(&mut packet, 10, value);
        }
        packet.extend(above);
        packet
    }

    /// An IPv6 packet whose first header has the number `next`.
    fn ipv6(&self, next: u8, extensions: &[u8], protocol: u8, above: Vec<u8>) -> Vec<u8> {
        let addresses = [self.ipv6.octets(), OTHER_IPV6.octets()].concat();
        let above = self.summed(above, &addresses, protocol);
        let len = above.len().saturating_add(extensions.len());
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 255];
        put_be16(&mut packet, 4, u16::try_from(len).unwrap_or(u16::MAX));
        packet.extend(addresses);
        packet.extend(extensions);
        packet.extend(above);
        packet
    }

    /// A DHCP message (RFC 2131) with a client's address, requested address and server by the variant's bits.
    fn dhcp(&self, kind: u8) -> Vec<u8> {
        let mut message = vec![0; 240];
        let has = if self.variant & 1 != 0 { IPV4 } else { [0; 4] };
        let parts: [(usize, &[u8]); 4] = [
            (0, &[if kind == 2 { 2 } else { 1 }, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]),
            (12, &has),
            (28, &self.source),
            (236, &[99, 130, 83, 99]),
        ];
        for (at, bytes) in parts {
            message.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
        }
        message.extend([53, 1, kind]);
        let address = if self.variant & 8 != 0 { [10, 0, 0, 9] } else { IPV4 };
        if self.variant & 2 != 0 {
            message.extend([0, 50, 4]);
            message.extend(address);
        }
        if self.variant & 4 != 0 {
            message.extend([54, 4]);
            message.extend(if self.variant & 16 != 0 { [10, 0, 0, 9] } else { OTHER_IPV4 });
        }
        // A message whose last option has no end.
        message.push(if self.variant & 0xe0 == 0xe0 { 61 } else { 255 });
        message
    }

    /// ICMPv6 of this type, with the target that neighbour discovery has.
    fn icmp6(&self, kind: u8) -> Vec<u8> {
        let target = if self.variant & 1 != 0 { OTHER_IPV6 } else { IPV6 };
        [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &self.payload()].concat()
    }

    /// The EtherType, and what follows it.
    fn body(&self) -> (u16, Vec<u8>) {
        let hop = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
        let addresses = [0, 1, 8, 0, 6, 4, 0];
        match self.kind {
            Kind::Arp(operation) => {
                let hardware = if self.variant & 7 == 7 { OTHER_MAC } else { self.source };
                let mut arp = [&addresses[..], &[operation], &hardware, &self.ipv4, &[0; 6], &OTHER_IPV4].concat();
                arp.resize(46, 0);
                (0x0806, arp)
            }
            Kind::Ipv4(protocol::TCP) => (ether_type::IPV4, self.ipv4(protocol::TCP, &[], 0, self.tcp())),
            Kind::Ipv4(protocol) => {
                let kind = [8, 5, 9, 0].get(usize::from(self.variant & 3)).copied().unwrap_or(8);
                let icmp = [&[kind, 0, 0, 0, 0, 1, 0, 1][..], &self.payload()].concat();
                (ether_type::IPV4, self.ipv4(protocol, &[], 0, icmp))
            }
            Kind::Udp4(from, to) => {
                (ether_type::IPV4, self.ipv4(protocol::UDP, &[], 0, self.udp(from, to, &self.payload())))
            }
            Kind::Options => (ether_type::IPV4, self.ipv4(protocol::TCP, &[1; 8], 0, self.tcp())),
            Kind::Fragment(at) => {
                let protocol = if self.variant & 1 != 0 { protocol::TCP } else { protocol::UDP };
                let above = self.udp(67, 68, &self.payload());
                (ether_type::IPV4, self.ipv4(protocol, &[], 0x2000 | at, above))
            }
            Kind::Dhcp(kind) => {
                let (from, to) = if kind == 2 { (67, 68) } else { (68, 67) };
                (ether_type::IPV4, self.ipv4(protocol::UDP, &[], 0, self.udp(from, to, &self.dhcp(kind))))
            }
            Kind::Ipv6(protocol) => (ether_type::IPV6, self.ipv6(protocol, &[], protocol, self.tcp())),
            Kind::Udp6(from, to) => {
                (ether_type::IPV6, self.ipv6(protocol::UDP, &[], protocol::UDP, self.udp(from, to, &self.payload())))
            }
            Kind::Icmp6(kind, 0) => {
                (ether_type::IPV6, self.ipv6(protocol::ICMPV6, &[], protocol::ICMPV6, self.icmp6(kind)))
            }
            Kind::Icmp6(kind, headers) => {
                let mut extensions: Vec<u8> = (1..headers).flat_map(|_| hop(protocol::DESTINATION)).collect();
                extensions.extend(hop(protocol::ICMPV6));
                let packet = self.ipv6(protocol::HOP_BY_HOP, &extensions, protocol::ICMPV6, self.icmp6(kind));
                (ether_type::IPV6, packet)
            }
            Kind::Fragment6(at) => {
                let [a, b] = (at | 1).to_be_bytes();
                let head = [protocol::ICMPV6, 0, a, b, 0, 0, 0, 9];
                (ether_type::IPV6, self.ipv6(protocol::FRAGMENT, &head, protocol::ICMPV6, self.icmp6(134)))
            }
            Kind::Tagged(kind) => {
                let inner =
                    [&[0x20, self.variant & 7, 8, 0][..], &self.ipv4(protocol::TCP, &[], 0, self.tcp())].concat();
                (kind, inner)
            }
            Kind::Tagged6 => {
                let packet = self.ipv6(protocol::TCP, &[], protocol::TCP, self.tcp());
                (ether_type::VLAN, [&[0, self.variant & 7, 0x86, 0xdd][..], &packet].concat())
            }
            Kind::Llc => (46, [&[0x42, 0x42, 3][..], &self.payload()].concat()),
            Kind::Pause => (0x8808, [&[0, 1, 0xff, 0xff][..], &[0; 42]].concat()),
            Kind::Broken(_) => {
                let (kind, mut packet) = if self.variant & 1 != 0 {
                    (ether_type::IPV6, self.ipv6(protocol::UDP, &[], protocol::UDP, self.udp(1, 2, &[])))
                } else {
                    (ether_type::IPV4, self.ipv4(protocol::UDP, &[], 0, self.udp(1, 2, &[])))
                };
                match self.variant >> 1 & 3 {
                    0 => packet.truncate(usize::from(self.variant >> 3)),
                    1 => packet.iter_mut().take(1).for_each(|b| *b ^= 0xf0),
                    2 => packet.iter_mut().take(1).for_each(|b| *b &= 0xf3),
                    _ => packet.iter_mut().skip(2).take(4).for_each(|b| *b = self.variant),
                }
                (kind, packet)
            }
            Kind::Example(_) => {
                let all = guard::examples(self.source);
                let at = usize::from(self.variant).checked_rem(all.len()).unwrap_or(0);
                let frame = all.get(at).map(|e| e.frame.as_slice()).unwrap_or_default();
                let kind = crate::frame::be16(frame, 12).unwrap_or(0);
                (kind, frame.get(ETHERNET..).unwrap_or_default().to_vec())
            }
        }
    }

    /// The frame.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (kind, body) = self.body();
        [&self.destination[..], &self.source, &kind.to_be_bytes(), &body].concat()
    }
}

/// Bytes of a chunk of [`put`].
const CHUNK: usize = 64;

/// Records by which the guest writes `bytes` to memory, without what is zero in any case, and with repeated bytes for long payload.
pub(crate) fn put(at: u64, bytes: &[u8], to: &mut Vec<Record>) {
    let (head, rest) = bytes.split_at(bytes.len().min(448));
    for (i, chunk) in head.chunks(CHUNK).enumerate() {
        if chunk.iter().any(|b| *b != 0) {
            to.push(Record::memory(at.saturating_add(i.saturating_mul(CHUNK) as u64), chunk));
        }
    }
    for (i, part) in rest.chunks(4095).enumerate() {
        let at = at.saturating_add(head.len().saturating_add(i.saturating_mul(4095)) as u64);
        let offset = u32::try_from(part.len()).unwrap_or(0);
        to.push(Record { offset, ..Record::memory(at, part.get(..8.min(part.len())).unwrap_or_default()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_a_frame_and_the_guests_own_pass_its_rules() {
        use crate::filter::Filter;
        let mut filter = Filter::new(MAC, &super::super::settings::rules(7));
        let mut passed = 0;
        for kind in KINDS {
            let plan = Plan { kind, source: MAC, ipv4: IPV4, ipv6: IPV6, ..Plan::of_another(0, 0) };
            assert!(plan.bytes().len() >= ETHERNET, "{kind:?}");
            passed += usize::from(filter.pass(&plan.bytes(), 0));
        }
        assert!((12..KINDS.len() - 8).contains(&passed), "{passed} of {} pass", KINDS.len());
    }

    #[test]
    fn checksums_are_right() {
        for value in [0, 1, 3, 4] {
            let frame = crate::frame::Frame { bytes: Plan::of_another(value, 0).bytes(), ..Default::default() };
            let ip = frame.bytes[14] >> 4;
            let packet = &frame.bytes[14..];
            let (head, addresses) = if ip == 4 { (20, &packet[12..20]) } else { (40, &packet[8..40]) };
            let protocol = if ip == 4 { packet[9] } else { packet[6] };
            let len = (packet.len() - head) as u16;
            let pseudo = [addresses, &[0, protocol], &len.to_be_bytes(), &packet[head..]].concat();
            assert_eq!(checksum(&pseudo), 0, "{value}");
        }
    }
}
