//! Packets that a guest may not send with `guard`: those of a DHCP server, and of a router. Two filters are made from these numbers: the
//! card's process checks each frame, and the launcher installs programs on the card's interface.
use std::net::{Ipv4Addr, Ipv6Addr};

/// UDP ports of a DHCP server: the source port of its answers.
pub const SERVER_PORTS: Ports = Ports { ipv4: 67, ipv6: 547 };
/// UDP ports of a DHCP client: the destination port of a server's answers. A client takes an answer from any source port.
pub const CLIENT_PORTS: Ports = Ports { ipv4: 68, ipv6: 546 };
/// ICMP types of a router: redirect (RFC 792) and router advertisement (RFC 1256).
pub const ICMP: [u8; 2] = [5, 9];
/// ICMPv6 types of a router: router advertisement and redirect (RFC 4861).
pub const ICMPV6: [u8; 2] = [134, 137];

/// A UDP port for each version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// DHCP (RFC 2131).
    pub ipv4: u16,
    /// DHCPv6 (RFC 8415).
    pub ipv6: u16,
}

/// A frame for tests of both filters.
#[derive(Clone, Debug)]
pub struct Example {
    /// What it is.
    pub name: &'static str,
    /// The frame, from the hardware address in [`examples`]'s argument.
    pub frame: Vec<u8>,
    /// `guard` drops it.
    pub dropped: bool,
}

/// Frames of a guest with this hardware address, each with the verdict that both filters must have.
pub fn examples(mac: [u8; 6]) -> Vec<Example> {
    let ethernet = |kind: u16, packet: Vec<u8>| [&[0xff; 6][..], &mac, &kind.to_be_bytes(), &packet].concat();
    let ip4 = |protocol: u8, fragment: u8, words: u8, payload: &[u8]| {
        let mut packet = vec![0x40 | words, 0, 0, 60, 0, 0, 0, fragment, 64, protocol, 0, 0];
        packet.extend(Ipv4Addr::new(10, 0, 0, 5).octets());
        packet.extend(Ipv4Addr::new(10, 0, 0, 9).octets());
        packet.resize(usize::from(words).saturating_mul(4), 1);
        packet.extend(payload);
        ethernet(0x0800, packet)
    };
    let ip6 = |first: u8, payload: &[u8]| {
        let mut packet = vec![0x60, 0, 0, 0, 0, 60, first, 255];
        packet.extend(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).octets());
        packet.extend(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2).octets());
        packet.extend(payload);
        ethernet(0x86dd, packet)
    };
    let udp =
        |source: u16, destination: u16| [&source.to_be_bytes()[..], &destination.to_be_bytes(), &[0; 12]].concat();
    let icmp = |kind: u8| [&[kind][..], &[0; 31]].concat();
    // Options behind the header, which point to the payload.
    let options = |next: u8, payload: &[u8]| [&[next, 0, 1, 4, 0, 0, 0, 0][..], payload].concat();
    let example = |dropped: bool, name: &'static str, frame: Vec<u8>| Example { name, frame, dropped };
    let (server, client) = (SERVER_PORTS, CLIENT_PORTS);
    let mut all = vec![
        example(true, "a DHCP server's answer", ip4(17, 0, 5, &udp(67, 68))),
        example(true, "the same behind IP options", ip4(17, 0, 7, &udp(67, 68))),
        example(true, "an answer from another source port", ip4(17, 0, 5, &udp(1067, client.ipv4))),
        example(true, "an answer to another port", ip4(17, 0, 5, &udp(server.ipv4, 5000))),
        example(false, "a DHCP client's request", ip4(17, 0, 5, &udp(client.ipv4, server.ipv4))),
        example(false, "ports that only resemble them", ip4(17, 0, 5, &udp(667, 680))),
        example(false, "a later fragment, which has no ports", ip4(17, 1, 5, &udp(67, 68))),
        example(true, "a DHCPv6 server's answer", ip6(17, &udp(server.ipv6, client.ipv6))),
        example(true, "one from another source port", ip6(17, &udp(1547, client.ipv6))),
        example(true, "one behind options", ip6(60, &options(17, &udp(1547, client.ipv6)))),
        example(false, "a DHCPv6 client's request", ip6(17, &udp(client.ipv6, server.ipv6))),
        example(false, "an echo request", ip4(1, 0, 5, &icmp(8))),
        example(false, "a later fragment of ICMP", ip4(1, 1, 5, &icmp(5))),
        example(false, "TCP with the number of a redirect", ip4(6, 0, 5, &icmp(5))),
        example(false, "an IPv6 echo request", ip6(58, &icmp(128))),
        example(false, "a router solicitation", ip6(58, &icmp(133))),
    ];
    // Fragment headers: the first fragment with more to come, and a later one.
    let (first, later) = (|next: u8| [next, 0, 0, 1, 0, 0, 0, 9], |next: u8| [next, 0, 0, 8, 0, 0, 0, 9]);
    // The first eight of sixteen bytes of options: the message itself is in the second fragment.
    let cut = [first(60), [58, 1, 1, 12, 0, 0, 0, 0]].concat();
    all.push(example(true, "a first fragment that ends before the message", ip6(44, &cut)));
    all.push(example(true, "a first fragment that ends with its own header", ip6(44, &first(58))));
    all.push(example(
        true,
        "a first fragment with a router's message",
        ip6(44, &[&first(58)[..], &icmp(134)].concat()),
    ));
    all.push(example(false, "a first fragment with an echo request", ip6(44, &[&first(58)[..], &icmp(128)].concat())));
    all.push(example(false, "a later fragment of IPv6", ip6(44, &[&later(58)[..], &icmp(134)].concat())));
    for kind in ICMP {
        all.push(example(true, "a router's ICMP message", ip4(1, 0, 5, &icmp(kind))));
        all.push(example(true, "the same behind IP options", ip4(1, 0, 8, &icmp(kind))));
    }
    for kind in ICMPV6 {
        all.push(example(true, "a router's ICMPv6 message", ip6(58, &icmp(kind))));
        all.push(example(true, "the same behind options", ip6(0, &options(58, &icmp(kind)))));
    }
    all
}
