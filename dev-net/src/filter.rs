//! Rules for the frames that a guest sends, in the card's process. The same rules are on the interface, beyond this process's reach
//! (docs/threat-model.md); these check more and count by rule.
//!
//! A frame that cannot be parsed and could hide a forbidden packet is dropped (RFC 7113 for router advertisements).
use crate::frame::{ETHERNET, be16, ether_type};
use bulkhead_bus::guard;
use bulkhead_bus::nic::NicRules;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Why a frame was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Its source address is not the card's.
    SourceMac,
    /// It has a VLAN tag, after which any packet could follow.
    Vlan,
    /// It is neither IP nor ARP.
    EtherType,
    /// It ends within its headers, or they contradict each other.
    Malformed,
    /// Its ARP sender is not the guest.
    Arp,
    /// Its IPv4 source is not the guest's.
    SourceIpv4,
    /// Its IPv6 source is not the guest's.
    SourceIpv6,
    /// It is a neighbour advertisement or a duplicate address detection for an address that is not the guest's.
    Neighbour,
    /// It is a packet of a DHCP server.
    DhcpServer,
    /// It is a packet of an IPv6 router: an advertisement or a redirect.
    Router,
    /// The guest sends more frames than the rate allows.
    Rate,
}

impl Rule {
    /// The rule's name in tables and counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::SourceMac => "source MAC",
            Self::Vlan => "VLAN",
            Self::EtherType => "EtherType",
            Self::Malformed => "malformed",
            Self::Arp => "ARP",
            Self::SourceIpv4 => "source IPv4",
            Self::SourceIpv6 => "source IPv6",
            Self::Neighbour => "neighbour discovery",
            Self::DhcpServer => "DHCP server",
            Self::Router => "router",
            Self::Rate => "rate",
        }
    }
}

/// All rules, in the order of their counters.
pub const RULES: [Rule; 11] = [
    Rule::SourceMac,
    Rule::Vlan,
    Rule::EtherType,
    Rule::Malformed,
    Rule::Arp,
    Rule::SourceIpv4,
    Rule::SourceIpv6,
    Rule::Neighbour,
    Rule::DhcpServer,
    Rule::Router,
    Rule::Rate,
];

/// The filter and its counters.
#[derive(Clone, Debug)]
pub struct Filter {
    mac: [u8; 6],
    rules: NicRules,
    /// The guest's addresses, if they are enforced.
    addresses: Option<(Vec<Ipv4Addr>, Vec<Ipv6Addr>)>,
    dropped: [u64; RULES.len()],
    /// Frames that may be sent at time `at`, in billionths of a frame; `at` in nanoseconds.
    tokens: u64,
    at: u64,
}

/// IP protocol numbers.
mod protocol {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ICMP: u8 = 1;
    pub(super) const UDP: u8 = 17;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const ICMPV6: u8 = 58;
    pub(super) const DESTINATION: u8 = 60;
}

const ARP: u16 = 0x0806;
/// Most IPv6 extension headers that are walked (RFC 8200, 4.1 has six kinds).
const EXTENSIONS: usize = 8;
const BILLION: u64 = 1_000_000_000;

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Rule> {
    bytes.get(at..).and_then(|b| b.first_chunk::<N>()).copied().ok_or(Rule::Malformed)
}

impl Filter {
    /// A filter for a card with this address; its counters begin at zero.
    pub fn new(mac: [u8; 6], rules: &NicRules) -> Self {
        let tokens = rules.rate.map_or(0, |(_, burst)| u64::from(burst).saturating_mul(BILLION));
        let addresses = rules.addresses.as_ref().map(|a| (a.ipv4.clone(), a.ipv6_of(mac)));
        Self { mac, rules: rules.clone(), addresses, dropped: [0; RULES.len()], tokens, at: 0 }
    }

    /// Sets new rules; the counters keep their values.
    pub fn set(&mut self, rules: &NicRules) {
        let dropped = self.dropped;
        *self = Self { dropped, at: self.at, ..Self::new(self.mac, rules) };
    }

    /// The rules in force.
    pub fn rules(&self) -> &NicRules {
        &self.rules
    }

    /// Whether any rule is in force; if not, the caller need not read the clock.
    pub fn is_on(&self) -> bool {
        self.rules != NicRules::default()
    }

    /// Each rule, and the number of frames that it has dropped.
    pub fn dropped(&self) -> impl Iterator<Item = (Rule, u64)> + '_ {
        RULES.into_iter().zip(self.dropped.iter().copied())
    }

    /// Whether a frame of the guest may be sent, at `now` nanoseconds.
    pub fn pass(&mut self, frame: &[u8], now: u64) -> bool {
        let Err(rule) = self.check(frame).and_then(|()| self.take(now)) else { return true };
        let counters = RULES.iter().zip(&mut self.dropped);
        for (_, counter) in counters.filter(|(r, _)| **r == rule) {
            *counter = counter.saturating_add(1);
        }
        false
    }

    fn take(&mut self, now: u64) -> Result<(), Rule> {
        let Some((rate, burst)) = self.rules.rate else { return Ok(()) };
        let passed = now.saturating_sub(self.at);
        self.at = now;
        let most = u64::from(burst.max(1)).saturating_mul(BILLION);
        self.tokens = self.tokens.saturating_add(passed.saturating_mul(u64::from(rate))).min(most);
        self.tokens = self.tokens.checked_sub(BILLION).ok_or(Rule::Rate)?;
        Ok(())
    }

    fn check(&self, frame: &[u8]) -> Result<(), Rule> {
        let rules = &self.rules;
        let source: [u8; 6] = array(frame, 6)?;
        if rules.mac && self.mac != source {
            return Err(Rule::SourceMac);
        }
        if self.addresses.is_none() && !rules.guard {
            return Ok(());
        }
        match be16(frame, 12).ok_or(Rule::Malformed)? {
            ether_type::IPV4 => self.ipv4(frame),
            ether_type::IPV6 => self.ipv6(frame),
            ARP => self.arp(frame),
            ether_type::VLAN | 0x88a8 | 0x9100 => Err(Rule::Vlan),
            _ if self.addresses.is_some() => Err(Rule::EtherType),
            _ => Ok(()),
        }
    }

    /// Address Resolution Protocol (RFC 826) for IPv4 over Ethernet.
    fn arp(&self, frame: &[u8]) -> Result<(), Rule> {
        let Some((ipv4, _)) = &self.addresses else { return Ok(()) };
        let head: [u8; 6] = array(frame, ETHERNET)?;
        let (hardware, address): ([u8; 6], [u8; 4]) =
            (array(frame, ETHERNET.saturating_add(8))?, array(frame, ETHERNET.saturating_add(14))?);
        let good = head == [0, 1, 8, 0, 6, 4] && (!self.rules.mac || self.mac == hardware);
        // A probe for duplicates has no sender address (RFC 5227).
        let address = Ipv4Addr::from(address);
        if good && (address.is_unspecified() || ipv4.contains(&address)) { Ok(()) } else { Err(Rule::Arp) }
    }

    fn ipv4(&self, frame: &[u8]) -> Result<(), Rule> {
        let head: [u8; 20] = array(frame, ETHERNET)?;
        let [first, .., f0, f1, _, protocol, _, _, s0, s1, s2, s3, _, _, _, _] = head;
        let words = usize::from(first & 0x0f);
        if first >> 4 != 4 || words < 5 {
            return Err(Rule::Malformed);
        }
        // Only a packet's first fragment has ports; without it the receiver discards the others.
        let first_fragment = u16::from_be_bytes([f0, f1]) & 0x1fff == 0;
        let at = ETHERNET.saturating_add(words.saturating_mul(4));
        let ports = match protocol {
            protocol::UDP if first_fragment => {
                let [a, b, c, d] = array(frame, at)?;
                Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
            }
            protocol::ICMP if first_fragment && self.rules.guard => {
                let [kind]: [u8; 1] = array(frame, at)?;
                if guard::ICMP.contains(&kind) {
                    return Err(Rule::Router);
                }
                None
            }
            _ => None,
        };
        let server = |(from, to)| from == guard::SERVER_PORTS.ipv4 || to == guard::CLIENT_PORTS.ipv4;
        if self.rules.guard && ports.is_some_and(server) {
            return Err(Rule::DhcpServer);
        }
        let Some((ipv4, _)) = &self.addresses else { return Ok(()) };
        let source = Ipv4Addr::new(s0, s1, s2, s3);
        // A DHCP request has no source address.
        let asks = source.is_unspecified() && ports == Some((68, 67));
        if asks || ipv4.contains(&source) { Ok(()) } else { Err(Rule::SourceIpv4) }
    }

    fn ipv6(&self, frame: &[u8]) -> Result<(), Rule> {
        let first: [u8; 1] = array(frame, ETHERNET)?;
        if first != [0x60 | first[0] & 0x0f] {
            return Err(Rule::Malformed);
        }
        let [mut next]: [u8; 1] = array(frame, ETHERNET.saturating_add(6))?;
        let source = Ipv6Addr::from(array::<16>(frame, ETHERNET.saturating_add(8))?);
        let mut at = ETHERNET.saturating_add(40);
        // Walks the extension headers before the upper header, which later fragments do not have.
        for n in 0.. {
            let length = match next {
                protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION if n < EXTENSIONS => {
                    let [following, length]: [u8; 2] = array(frame, at)?;
                    next = following;
                    usize::from(length).saturating_add(1).saturating_mul(8)
                }
                protocol::FRAGMENT if n < EXTENSIONS => {
                    let [following, _, f0, f1]: [u8; 4] = array(frame, at)?;
                    if u16::from_be_bytes([f0, f1]) >> 3 != 0 {
                        return self.source6(source, None);
                    }
                    next = following;
                    8
                }
                protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION | protocol::FRAGMENT => {
                    return Err(Rule::Malformed);
                }
                _ => break,
            };
            at = at.saturating_add(length);
        }
        match next {
            protocol::ICMPV6 => {
                let [kind, _]: [u8; 2] = array(frame, at)?;
                self.neighbour(frame, at, kind, source)
            }
            protocol::UDP => {
                let [a, b, c, d]: [u8; 4] = array(frame, at)?;
                let (from, to) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                if self.rules.guard && (from == guard::SERVER_PORTS.ipv6 || to == guard::CLIENT_PORTS.ipv6) {
                    return Err(Rule::DhcpServer);
                }
                self.source6(source, None)
            }
            _ => self.source6(source, None),
        }
    }

    /// Neighbour discovery (RFC 4861): 133 to 137 are the solicitations and advertisements of routers and neighbours, redirect.
    fn neighbour(&self, frame: &[u8], at: usize, kind: u8, source: Ipv6Addr) -> Result<(), Rule> {
        if self.rules.guard && guard::ICMPV6.contains(&kind) {
            return Err(Rule::Router);
        }
        let Some((_, ipv6)) = &self.addresses else { return Ok(()) };
        let target = match kind {
            135 | 136 => Some(Ipv6Addr::from(array::<16>(frame, at.saturating_add(8))?)),
            _ => None,
        };
        match target {
            Some(target) if kind == 136 && !ipv6.contains(&target) => Err(Rule::Neighbour),
            // Without a source address only duplicate detection of the guest's own addresses is allowed.
            Some(target) if source.is_unspecified() => {
                if ipv6.contains(&target) {
                    Ok(())
                } else {
                    Err(Rule::Neighbour)
                }
            }
            _ => self.source6(source, Some(kind)),
        }
    }

    fn source6(&self, source: Ipv6Addr, icmp: Option<u8>) -> Result<(), Rule> {
        let Some((_, ipv6)) = &self.addresses else { return Ok(()) };
        // Allowed without a source address: router solicitations and reports of multicast groups (RFC 3810).
        let nameless = source.is_unspecified() && matches!(icmp, Some(133 | 131 | 143));
        if nameless || ipv6.contains(&source) { Ok(()) } else { Err(Rule::SourceIpv6) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_bus::nic::NicAddresses;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [2, 0x16, 0x3e, 0, 0, 1];
    const OWN: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const OTHER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

    fn strict() -> Filter {
        let addresses = Some(NicAddresses { ipv4: vec![Ipv4Addr::new(10, 0, 0, 5)], ipv6: vec![OWN] });
        Filter::new(MAC, &NicRules { mac: true, addresses, guard: true, rate: None })
    }

    fn frame(kind: u16, payload: &[u8]) -> Vec<u8> {
        [&[0xff; 6][..], &MAC, &kind.to_be_bytes(), payload].concat()
    }

    fn udp4(source: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
        let head = [0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0];
        frame(
            0x0800,
            &[&head[..], &source, &[255; 4], &ports.0.to_be_bytes(), &ports.1.to_be_bytes(), &[0; 8]].concat(),
        )
    }

    fn icmp6(source: Ipv6Addr, extensions: &[u8], first: u8, kind: u8, target: Ipv6Addr) -> Vec<u8> {
        let head = [0x60, 0, 0, 0, 0, 60, first, 255];
        let body =
            [&head[..], &source.octets(), &OTHER.octets(), extensions, &[kind, 0, 0, 0, 0, 0, 0, 0], &target.octets()]
                .concat();
        frame(0x86dd, &body)
    }

    fn arp(hardware: [u8; 6], address: [u8; 4]) -> Vec<u8> {
        frame(0x0806, &[&[0, 1, 8, 0, 6, 4, 0, 2][..], &hardware, &address, &[0; 10]].concat())
    }

    fn verdict(f: &mut Filter, frame: &[u8]) -> Option<Rule> {
        let before: Vec<_> = f.dropped().collect();
        if f.pass(frame, 0) {
            return None;
        }
        let rules: Vec<_> = f.dropped().zip(before).filter(|(a, b)| a.1 != b.1).map(|(a, _)| a.0).collect();
        assert_eq!(rules.len(), 1, "one rule counts");
        Some(rules[0])
    }

    #[test]
    fn packets_that_a_guest_needs_pass() {
        let mut f = strict();
        let none = Ipv6Addr::UNSPECIFIED;
        for good in [
            udp4([10, 0, 0, 5], (5000, 53)),
            udp4([0, 0, 0, 0], (68, 67)),
            arp(MAC, [10, 0, 0, 5]),
            arp(MAC, [0, 0, 0, 0]),
            icmp6(OWN, &[], 58, 135, OTHER),
            icmp6(OWN, &[], 58, 136, OWN),
            icmp6(none, &[], 58, 135, OWN),
            icmp6(none, &[], 58, 133, OTHER),
            icmp6(OWN, &[], 58, 128, OTHER),
        ] {
            assert_eq!(verdict(&mut f, &good), None, "{good:?}");
        }
    }

    #[test]
    fn spoofed_frames_are_dropped_and_counted_by_rule() {
        let mut f = strict();
        let mut other_mac = udp4([10, 0, 0, 5], (1, 2));
        other_mac[11] ^= 1;
        let none = Ipv6Addr::UNSPECIFIED;
        for (bad, rule) in [
            (other_mac, Rule::SourceMac),
            (udp4([10, 0, 0, 6], (1, 2)), Rule::SourceIpv4),
            (udp4([0, 0, 0, 0], (1, 2)), Rule::SourceIpv4),
            (udp4([10, 0, 0, 5], (67, 68)), Rule::DhcpServer),
            (arp(MAC, [10, 0, 0, 1]), Rule::Arp),
            (arp([2, 9, 9, 9, 9, 9], [10, 0, 0, 5]), Rule::Arp),
            (icmp6(OTHER, &[], 58, 128, OTHER), Rule::SourceIpv6),
            (icmp6(OWN, &[], 58, 134, OTHER), Rule::Router),
            (icmp6(OWN, &[], 58, 137, OTHER), Rule::Router),
            (icmp6(OWN, &[], 58, 136, OTHER), Rule::Neighbour),
            (icmp6(none, &[], 58, 135, OTHER), Rule::Neighbour),
            (icmp6(none, &[], 58, 128, OTHER), Rule::SourceIpv6),
            (frame(0x8100, &[0, 1, 8, 0]), Rule::Vlan),
            (frame(0x88cc, &[0; 40]), Rule::EtherType),
            (frame(0x0800, &[0x45, 0]), Rule::Malformed),
        ] {
            assert_eq!(verdict(&mut f, &bad), Some(rule), "{bad:?}");
        }
    }

    /// DHCP answers from another source port, and IPv4's redirects and router advertisements, passed. The interface's programs have the
    /// same test.
    #[test]
    fn guard_has_the_verdicts_of_the_table() {
        let mut f = Filter::new(MAC, &NicRules { guard: true, ..NicRules::default() });
        for example in guard::examples(MAC) {
            let rule = verdict(&mut f, &example.frame);
            assert_eq!(rule.is_some(), example.dropped, "{}: {rule:?}", example.name);
            let expected = matches!(rule, None | Some(Rule::DhcpServer | Rule::Router | Rule::Malformed));
            assert!(expected, "{}: {rule:?}", example.name);
        }
    }

    #[test]
    fn a_router_advertisement_behind_extension_headers_is_found() {
        // RFC 7113: hop by hop, destination options, a first fragment; and a chain that is too long to walk.
        let mut f = strict();
        let hop = [60, 0, 1, 4, 0, 0, 0, 0];
        let options = [58, 0, 1, 4, 0, 0, 0, 0];
        assert_eq!(verdict(&mut f, &icmp6(OWN, &[hop, options].concat(), 0, 134, OTHER)), Some(Rule::Router));
        assert_eq!(verdict(&mut f, &icmp6(OWN, &[58, 0, 0, 1, 0, 0, 0, 9], 44, 134, OTHER)), Some(Rule::Router));
        assert_eq!(verdict(&mut f, &icmp6(OWN, &hop.repeat(9), 0, 134, OTHER)), Some(Rule::Malformed));
        let mut cut = icmp6(OWN, &hop, 0, 134, OTHER);
        cut.truncate(60);
        assert_eq!(verdict(&mut f, &cut), Some(Rule::Malformed));
    }

    #[test]
    fn a_rate_is_kept_and_a_burst_allowed() {
        let mut f = Filter::new(MAC, &NicRules { rate: Some((100, 10)), ..NicRules::default() });
        let bytes = frame(0x88cc, &[0; 46]);
        let at = |f: &mut Filter, now| (0..100).filter(|_| f.pass(&bytes, now)).count();
        assert_eq!((at(&mut f, 0), at(&mut f, 50_000_000), at(&mut f, 10_000_000_000)), (10, 5, 10));
        assert_eq!(f.dropped().find(|(r, _)| *r == Rule::Rate).unwrap().1, 275);
        f.set(&NicRules::default());
        assert!(f.pass(&bytes, 0) && !f.is_on());
    }

    proptest! {
        #[test]
        fn no_bytes_break_it_and_the_source_is_always_the_cards(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            kind in 0usize..4,
        ) {
            let mut f = strict();
            let bytes = [vec![], frame(0x0800, &bytes), frame(0x86dd, &bytes), bytes.clone()][kind].clone();
            if f.pass(&bytes, 0) {
                prop_assert_eq!(&bytes[6..12], &MAC);
            }
        }
    }
}
