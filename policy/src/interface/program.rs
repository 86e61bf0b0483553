//! Rules as programs of classic BPF (linux/filter.h), one for each rule; a nonzero result means that the frame breaks the rule.
//! They read a frame from its Ethernet header on. A load outside of the frame ends a program with 0: such a frame ends within its
//! headers, and no receiver accepts it. A first fragment of IPv6 may end within its headers, and the next one has the rest: it breaks
//! every rule that looks behind its headers (RFC 7112).
use bulkhead_bus::guard;
use std::net::{Ipv4Addr, Ipv6Addr};

/// One instruction (struct sock_filter).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u16,
    yes: u8,
    no: u8,
    k: u32,
}

/// The target of a jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// The next instruction.
    Next,
    /// The frame breaks the rule.
    Breaks,
    /// The frame does not break the rule.
    Passes,
    /// A label that is defined later.
    Place(usize),
}

/// Codes (linux/bpf_common.h).
mod code {
    pub(super) const LOAD_WORD: u16 = 0x20;
    pub(super) const LOAD_HALF: u16 = 0x28;
    pub(super) const LOAD_BYTE: u16 = 0x30;
    pub(super) const LOAD_WORD_X: u16 = 0x40;
    pub(super) const LOAD_HALF_X: u16 = 0x48;
    pub(super) const LOAD_BYTE_X: u16 = 0x50;
    pub(super) const LOAD_LENGTH: u16 = 0x80;
    pub(super) const LOAD_SCRATCH: u16 = 0x60;
    pub(super) const STORE: u16 = 0x02;
    pub(super) const SET_X: u16 = 0x01;
    /// X = 4 * (byte & 15).
    pub(super) const IPV4_LENGTH: u16 = 0xb1;
    pub(super) const ADD: u16 = 0x04;
    pub(super) const ADD_X: u16 = 0x0c;
    pub(super) const SUBTRACT_X: u16 = 0x1c;
    pub(super) const SHIFT_LEFT: u16 = 0x64;
    pub(super) const AND: u16 = 0x54;
    pub(super) const A_TO_X: u16 = 0x07;
    pub(super) const X_TO_A: u16 = 0x87;
    pub(super) const JUMP_EQUAL: u16 = 0x15;
    pub(super) const JUMP_AT_LEAST: u16 = 0x35;
    pub(super) const RETURN: u16 = 0x06;
}

/// SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT: whether the kernel has removed a VLAN tag from the frame.
const TAGGED: u32 = 0xffff_f000u32.wrapping_add(48);
/// EtherTypes.
const IPV4: u32 = 0x0800;
const ARP: u32 = 0x0806;
const IPV6: u32 = 0x86dd;
/// IP protocol numbers: hop by hop, UDP, routing, fragment, ICMPv6, destination options.
const ICMP: u32 = 1;
const UDP: u32 = 17;
const FRAGMENT: u32 = 44;
const ICMPV6: u32 = 58;
const OPTIONS: [u32; 3] = [0, 43, 60];
/// Most IPv6 extension headers that are walked; a frame with more breaks every rule.
const EXTENSIONS: usize = 4;

/// A program under construction.
#[derive(Debug, Default)]
struct Program {
    instructions: Vec<(Instruction, To, To)>,
    /// The instruction of each label.
    places: Vec<Option<usize>>,
}

impl Program {
    fn op(&mut self, code: u16, k: u32) {
        self.instructions.push((Instruction { code, yes: 0, no: 0, k }, To::Next, To::Next));
    }

    fn jump(&mut self, code: u16, k: u32, yes: To, no: To) {
        self.instructions.push((Instruction { code, yes: 0, no: 0, k }, yes, no));
    }

    /// Compares register A with `k`.
    fn equal(&mut self, k: u32, yes: To, no: To) {
        self.jump(code::JUMP_EQUAL, k, yes, no);
    }

    fn place(&mut self) -> To {
        self.places.push(None);
        To::Place(self.places.len().saturating_sub(1))
    }

    fn here(&mut self, place: To) {
        let at = self.instructions.len();
        if let To::Place(i) = place
            && let Some(p) = self.places.get_mut(i)
        {
            *p = Some(at);
        }
    }

    /// Continues only for this EtherType, in frames of at least `least` bytes.
    fn only(&mut self, ether: u32, least: u32) {
        self.op(code::LOAD_HALF, 12);
        self.equal(ether, To::Next, To::Passes);
        self.op(code::LOAD_LENGTH, 0);
        self.jump(code::JUMP_AT_LEAST, least, To::Next, To::Breaks);
    }

    /// The six bytes at `at` must be `mac`.
    fn mac(&mut self, at: u32, mac: [u8; 6]) {
        let [a, b, c, d, e, f] = mac;
        self.op(code::LOAD_WORD, at);
        self.equal(u32::from_be_bytes([a, b, c, d]), To::Next, To::Breaks);
        self.op(code::LOAD_HALF, at.wrapping_add(4));
        self.equal(u32::from(u16::from_be_bytes([e, f])), To::Next, To::Breaks);
    }

    /// Jumps to `yes` if one of these addresses is at `at`, loaded with this code; continues otherwise.
    fn ipv6(&mut self, load: u16, at: u32, addresses: &[Ipv6Addr], yes: To) {
        for address in addresses {
            let other = self.place();
            let octets = address.octets();
            let words = octets.chunks_exact(4).map(|w| w.first_chunk::<4>().map_or(0, |w| u32::from_be_bytes(*w)));
            for (i, word) in (0u32..).zip(words) {
                self.op(load, at.wrapping_add(i.wrapping_mul(4)));
                self.equal(word, if i == 3 { yes } else { To::Next }, other);
            }
            self.here(other);
        }
    }

    /// Walks IPv6's extension headers. Afterwards A is the upper protocol's number and X its offset. A fragment other than the
    /// first has no upper header: jumps to `later`. A frame with more headers than are walked breaks the rule.
    fn walk(&mut self, later: To) {
        let done = self.place();
        self.op(code::SET_X, 54);
        self.op(code::LOAD_BYTE, 20);
        for _ in 0..EXTENSIONS {
            let (options, fragment, next) = (self.place(), self.place(), self.place());
            for kind in OPTIONS {
                self.equal(kind, options, To::Next);
            }
            self.equal(FRAGMENT, fragment, done);
            self.here(options);
            self.op(code::LOAD_BYTE_X, 0);
            self.op(code::STORE, 0);
            self.op(code::LOAD_BYTE_X, 1);
            self.op(code::ADD, 1);
            self.op(code::SHIFT_LEFT, 3);
            self.op(code::ADD_X, 0);
            self.op(code::A_TO_X, 0);
            // An unconditional jump, because X has changed.
            self.jump(code::JUMP_AT_LEAST, 0, next, next);
            self.here(fragment);
            self.op(code::LOAD_HALF_X, 2);
            self.op(code::AND, 0xfff8);
            self.equal(0, To::Next, later);
            self.op(code::LOAD_BYTE_X, 0);
            self.op(code::STORE, 0);
            self.op(code::X_TO_A, 0);
            self.op(code::ADD, 8);
            self.op(code::A_TO_X, 0);
            self.here(next);
            // At least four bytes of the next header are in the frame; a difference below 0 is a large number.
            self.op(code::LOAD_LENGTH, 0);
            self.op(code::SUBTRACT_X, 0);
            self.jump(code::JUMP_AT_LEAST, 1 << 31, To::Breaks, To::Next);
            self.jump(code::JUMP_AT_LEAST, 4, To::Next, To::Breaks);
            self.op(code::LOAD_SCRATCH, 0);
        }
        for kind in OPTIONS.into_iter().chain([FRAGMENT]) {
            self.equal(kind, To::Breaks, To::Next);
        }
        self.here(done);
    }

    /// The program in the kernel's encoding; `None` if a jump is too long.
    fn assemble(mut self, otherwise: To) -> Option<Vec<u8>> {
        // The end of the last instruction.
        self.jump(code::JUMP_AT_LEAST, 0, otherwise, otherwise);
        let breaks = self.instructions.len();
        let passes = breaks.checked_add(1)?;
        let mut all = Vec::new();
        for (at, (instruction, yes, no)) in self.instructions.iter().enumerate() {
            let distance = |to: To| {
                let target = match to {
                    To::Next => return Some(0),
                    To::Breaks => breaks,
                    To::Passes => passes,
                    To::Place(i) => self.places.get(i).copied().flatten()?,
                };
                u8::try_from(target.checked_sub(at)?.checked_sub(1)?).ok()
            };
            all.push(Instruction { yes: distance(*yes)?, no: distance(*no)?, ..*instruction });
        }
        for k in [u32::MAX, 0] {
            all.push(Instruction { code: code::RETURN, yes: 0, no: 0, k });
        }
        let bytes = all.iter().flat_map(|i| {
            let [c0, c1] = i.code.to_ne_bytes();
            let [k0, k1, k2, k3] = i.k.to_ne_bytes();
            [c0, c1, i.yes, i.no, k0, k1, k2, k3]
        });
        Some(bytes.collect())
    }
}

/// All frames break it.
pub(super) fn everything() -> Option<Vec<u8>> {
    Program::default().assemble(To::Breaks)
}

/// A frame breaks it with another source address than the card's.
pub(super) fn source_mac(mac: [u8; 6]) -> Option<Vec<u8>> {
    let mut p = Program::default();
    p.mac(6, mac);
    p.assemble(To::Passes)
}

/// A frame breaks it with a VLAN tag, in the frame or removed from it by the kernel.
pub(super) fn vlan() -> Option<Vec<u8>> {
    let mut p = Program::default();
    p.op(code::LOAD_WORD, TAGGED);
    p.equal(0, To::Next, To::Breaks);
    p.op(code::LOAD_HALF, 12);
    for kind in [0x8100, 0x88a8, 0x9100] {
        p.equal(kind, To::Breaks, To::Next);
    }
    p.assemble(To::Passes)
}

/// A frame breaks it if it is neither IP nor ARP.
pub(super) fn ether_type() -> Option<Vec<u8>> {
    let mut p = Program::default();
    p.op(code::LOAD_HALF, 12);
    for kind in [IPV4, ARP, IPV6] {
        p.equal(kind, To::Passes, To::Next);
    }
    p.assemble(To::Breaks)
}

/// An ARP frame breaks it if its sender is not the guest.
pub(super) fn arp(mac: [u8; 6], addresses: &[Ipv4Addr]) -> Option<Vec<u8>> {
    let mut p = Program::default();
    p.only(ARP, 42);
    // Ethernet and IPv4, their lengths.
    p.op(code::LOAD_WORD, 14);
    p.equal(0x0001_0800, To::Next, To::Breaks);
    p.op(code::LOAD_HALF, 18);
    p.equal(0x0604, To::Next, To::Breaks);
    p.mac(22, mac);
    p.op(code::LOAD_WORD, 28);
    // A probe for duplicates has no sender address (RFC 5227).
    p.equal(0, To::Passes, To::Next);
    for address in addresses {
        p.equal(u32::from(*address), To::Passes, To::Next);
    }
    p.assemble(To::Breaks)
}

/// An IPv4 frame breaks it if its source is not the guest's. A DHCP request without an address passes.
pub(super) fn source_ipv4(addresses: &[Ipv4Addr]) -> Option<Vec<u8>> {
    let mut p = Program::default();
    p.only(IPV4, 34);
    p.op(code::LOAD_BYTE, 14);
    p.op(code::AND, 0xf0);
    p.equal(0x40, To::Next, To::Breaks);
    p.op(code::LOAD_WORD, 26);
    for address in addresses {
        p.equal(u32::from(*address), To::Passes, To::Next);
    }
    p.equal(0, To::Next, To::Breaks);
    p.op(code::LOAD_BYTE, 23);
    p.equal(UDP, To::Next, To::Breaks);
    p.op(code::LOAD_HALF, 20);
    p.op(code::AND, 0x1fff);
    p.equal(0, To::Next, To::Breaks);
    p.op(code::IPV4_LENGTH, 14);
    p.op(code::LOAD_WORD_X, 14);
    // From port 68 to port 67.
    p.equal(68 << 16 | 67, To::Passes, To::Next);
    p.assemble(To::Breaks)
}

/// Packets of a DHCP server break it.
pub(super) fn dhcp_server() -> Option<Vec<u8>> {
    let mut p = Program::default();
    let six = p.place();
    p.op(code::LOAD_HALF, 12);
    p.equal(IPV6, six, To::Next);
    p.equal(IPV4, To::Next, To::Passes);
    p.op(code::LOAD_BYTE, 23);
    p.equal(UDP, To::Next, To::Passes);
    p.op(code::LOAD_HALF, 20);
    p.op(code::AND, 0x1fff);
    p.equal(0, To::Next, To::Passes);
    p.op(code::IPV4_LENGTH, 14);
    p.op(code::LOAD_HALF_X, 14);
    p.equal(guard::SERVER_PORTS.ipv4.into(), To::Breaks, To::Next);
    p.op(code::LOAD_HALF_X, 16);
    p.equal(guard::CLIENT_PORTS.ipv4.into(), To::Breaks, To::Passes);
    p.here(six);
    p.walk(To::Passes);
    p.equal(UDP, To::Next, To::Passes);
    p.op(code::LOAD_HALF_X, 0);
    p.equal(guard::SERVER_PORTS.ipv6.into(), To::Breaks, To::Next);
    p.op(code::LOAD_HALF_X, 2);
    p.equal(guard::CLIENT_PORTS.ipv6.into(), To::Breaks, To::Next);
    p.assemble(To::Passes)
}

/// Packets of a router break it: advertisements and redirects, of IPv4 too.
pub(super) fn router() -> Option<Vec<u8>> {
    let mut p = Program::default();
    let six = p.place();
    p.op(code::LOAD_HALF, 12);
    p.equal(IPV6, six, To::Next);
    p.equal(IPV4, To::Next, To::Passes);
    p.op(code::LOAD_BYTE, 23);
    p.equal(ICMP, To::Next, To::Passes);
    p.op(code::LOAD_HALF, 20);
    p.op(code::AND, 0x1fff);
    p.equal(0, To::Next, To::Passes);
    p.op(code::IPV4_LENGTH, 14);
    p.op(code::LOAD_BYTE_X, 14);
    for kind in guard::ICMP {
        p.equal(kind.into(), To::Breaks, To::Next);
    }
    p.jump(code::JUMP_AT_LEAST, 0, To::Passes, To::Passes);
    p.here(six);
    p.walk(To::Passes);
    p.equal(ICMPV6, To::Next, To::Passes);
    p.op(code::LOAD_BYTE_X, 0);
    for kind in guard::ICMPV6 {
        p.equal(kind.into(), To::Breaks, To::Next);
    }
    p.assemble(To::Passes)
}

/// A neighbour advertisement breaks it if its target is not the guest's address.
pub(super) fn neighbour(addresses: &[Ipv6Addr]) -> Option<Vec<u8>> {
    let mut p = Program::default();
    p.only(IPV6, 54);
    p.walk(To::Passes);
    p.equal(ICMPV6, To::Next, To::Passes);
    p.op(code::LOAD_BYTE_X, 0);
    p.equal(136, To::Next, To::Passes);
    p.ipv6(code::LOAD_WORD_X, 8, addresses, To::Passes);
    p.assemble(To::Breaks)
}

/// An IPv6 frame breaks it if its source is not the guest's. Without an address the guest may solicit routers (133), detect
/// duplicates of its own address (135), and report its groups (131, 143).
pub(super) fn source_ipv6(addresses: &[Ipv6Addr]) -> Option<Vec<u8>> {
    let mut p = Program::default();
    p.only(IPV6, 54);
    p.op(code::LOAD_BYTE, 14);
    p.op(code::AND, 0xf0);
    p.equal(0x60, To::Next, To::Breaks);
    p.ipv6(code::LOAD_WORD, 22, addresses, To::Passes);
    let nameless = p.place();
    p.ipv6(code::LOAD_WORD, 22, &[Ipv6Addr::UNSPECIFIED], nameless);
    p.jump(code::JUMP_AT_LEAST, 0, To::Breaks, To::Breaks);
    p.here(nameless);
    p.walk(To::Breaks);
    p.equal(ICMPV6, To::Next, To::Breaks);
    p.op(code::LOAD_BYTE_X, 0);
    for kind in [131, 133, 143] {
        p.equal(kind, To::Passes, To::Next);
    }
    p.equal(135, To::Next, To::Breaks);
    p.ipv6(code::LOAD_WORD_X, 8, addresses, To::Passes);
    p.assemble(To::Breaks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::{AsRawFd as _, OwnedFd};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    const MAC: [u8; 6] = [2, 0x16, 0x3e, 0, 0, 1];
    const OWN: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const OTHER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

    /// A socket with an attached program, which the kernel checks and runs. Frames that break the rule arrive.
    struct Judge(OwnedFd, OwnedFd);

    impl Judge {
        fn new(program: Option<Vec<u8>>) -> Self {
            let program = program.unwrap();
            let (a, b) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::NONBLOCK, None).unwrap();
            let code = libc::sock_fprog { len: (program.len() / 8) as u16, filter: program.as_ptr().cast_mut().cast() };
            // SAFETY: the kernel reads the program and copies it.
            let done = unsafe {
                libc::setsockopt(
                    b.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_ATTACH_FILTER,
                    (&raw const code).cast(),
                    size_of_val(&code) as u32,
                )
            };
            assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
            Self(a, b)
        }

        fn breaks(&self, frame: &[u8]) -> bool {
            rustix::net::send(&self.0, frame, rustix::net::SendFlags::empty()).unwrap();
            rustix::net::recv(&self.1, &mut [0u8; 4096][..], rustix::net::RecvFlags::empty()).is_ok()
        }
    }

    fn frame(kind: u32, payload: &[u8]) -> Vec<u8> {
        [&[0xff; 6][..], &MAC, &(kind as u16).to_be_bytes(), payload].concat()
    }

    fn udp4(source: [u8; 4], ports: (u16, u16), options: usize) -> Vec<u8> {
        let mut head = vec![0x45 + options as u8, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0];
        head.extend(source);
        head.extend([10, 0, 0, 9]);
        head.resize(20 + options * 4, 1);
        frame(IPV4, &[&head[..], &ports.0.to_be_bytes(), &ports.1.to_be_bytes(), &[0; 12]].concat())
    }

    fn ip6(source: Ipv6Addr, first: u32, rest: &[u8]) -> Vec<u8> {
        frame(IPV6, &[&[0x60, 0, 0, 0, 0, 60, first as u8, 255][..], &source.octets(), &OTHER.octets(), rest].concat())
    }

    fn icmp6(source: Ipv6Addr, extensions: &[u8], first: u32, kind: u8, target: Ipv6Addr) -> Vec<u8> {
        ip6(source, first, &[extensions, &[kind, 0, 0, 0, 0, 0, 0, 0], &target.octets()].concat())
    }

    fn arp_of(hardware: [u8; 6], address: [u8; 4]) -> Vec<u8> {
        frame(ARP, &[&[0, 1, 8, 0, 6, 4, 0, 2][..], &hardware, &address, &[0; 10]].concat())
    }

    fn check(program: Option<Vec<u8>>, passes: &[Vec<u8>], breaks: &[Vec<u8>]) {
        let judge = Judge::new(program);
        for frame in passes {
            assert!(!judge.breaks(frame), "{frame:02x?} breaks it");
        }
        for frame in breaks {
            assert!(judge.breaks(frame), "{frame:02x?} passes");
        }
    }

    #[test]
    fn addresses_of_the_link_and_of_ipv4() {
        let own = [Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 0, 0, 6)];
        let mut foreign = udp4([10, 0, 0, 5], (1, 2), 0);
        foreign[11] ^= 1;
        check(source_mac(MAC), &[udp4([1; 4], (1, 2), 0)], &[foreign]);
        let dhcp = udp4([0; 4], (68, 67), 0);
        let mut fragment = dhcp.clone();
        fragment[21] = 1;
        check(
            source_ipv4(&own),
            &[udp4([10, 0, 0, 6], (1, 2), 0), dhcp, udp4([0; 4], (68, 67), 3), frame(ARP, &[0; 40])],
            &[
                udp4([10, 0, 0, 7], (1, 2), 0),
                udp4([0; 4], (1, 2), 0),
                fragment,
                frame(IPV4, &[0x45; 10]),
                frame(IPV4, &[0x65; 40]),
            ],
        );
        let mut other_kind = arp_of(MAC, [10, 0, 0, 5]);
        other_kind[15] = 6;
        check(
            arp(MAC, &own),
            &[arp_of(MAC, [10, 0, 0, 5]), arp_of(MAC, [0; 4]), frame(IPV4, &[0; 4])],
            &[arp_of(MAC, [10, 0, 0, 1]), arp_of([2; 6], [10, 0, 0, 5]), other_kind, frame(ARP, &[0; 20])],
        );
        check(
            ether_type(),
            &[frame(ARP, &[]), frame(IPV4, &[]), frame(IPV6, &[])],
            &[frame(0x88cc, &[0; 46]), frame(0x8100, &[0; 46])],
        );
        check(vlan(), &[frame(ARP, &[0; 46])], &[frame(0x8100, &[0; 46]), frame(0x88a8, &[0; 46])]);
        check(everything(), &[], &[vec![0; 14], udp4([1; 4], (1, 2), 0)]);
    }

    /// The card's own filter has the same test.
    #[test]
    fn guard_has_the_verdicts_of_the_table() {
        let judges = [Judge::new(dhcp_server()), Judge::new(router())];
        for example in guard::examples(MAC) {
            let dropped = judges.iter().any(|judge| judge.breaks(&example.frame));
            assert_eq!(dropped, example.dropped, "{}", example.name);
        }
    }

    #[test]
    fn servers_and_routers_are_found_behind_extension_headers() {
        let hop = [60, 0, 1, 4, 0, 0, 0, 0];
        let options = [58, 0, 1, 4, 0, 0, 0, 0];
        let long = [&[58, 2][..], &[0; 22]].concat();
        let first = [58, 0, 0, 1, 0, 0, 0, 9];
        let later = [58, 0, 0, 8, 0, 0, 0, 9];
        let hidden = [
            icmp6(OWN, &[], ICMPV6, 134, OTHER),
            icmp6(OWN, &[], ICMPV6, 137, OTHER),
            icmp6(OWN, &[hop, options].concat(), 0, 134, OTHER),
            icmp6(OWN, &long, 43, 134, OTHER),
            icmp6(OWN, &first, FRAGMENT, 134, OTHER),
            icmp6(OWN, &[0, 0, 0, 0, 0, 0, 0, 0].repeat(6), 0, 134, OTHER),
        ];
        check(
            router(),
            &[
                icmp6(OWN, &[], ICMPV6, 133, OTHER),
                icmp6(OWN, &later, FRAGMENT, 134, OTHER),
                icmp6(OWN, &options, 0, 143, OTHER),
                frame(ARP, &[0; 40]),
            ],
            &hidden,
        );
        let udp = |source: u16| [&source.to_be_bytes()[..], &[0; 20]].concat();
        check(
            dhcp_server(),
            &[
                udp4([0; 4], (68, 67), 0),
                ip6(OWN, UDP, &udp(546)),
                frame(ARP, &[0; 40]),
                udp4([10, 0, 0, 5], (667, 680), 2),
            ],
            &[
                udp4([10, 0, 0, 5], (67, 68), 0),
                udp4([10, 0, 0, 5], (67, 68), 2),
                ip6(OWN, UDP, &udp(547)),
                ip6(OWN, 60, &[&[17, 0, 0, 0, 0, 0, 0, 0][..], &udp(547)].concat()),
            ],
        );
    }

    #[test]
    fn addresses_of_ipv6() {
        let own = [OWN, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5), Ipv6Addr::LOCALHOST];
        let none = Ipv6Addr::UNSPECIFIED;
        check(
            source_ipv6(&own),
            &[
                icmp6(OWN, &[], ICMPV6, 128, OTHER),
                icmp6(own[1], &[], ICMPV6, 128, OTHER),
                icmp6(none, &[], ICMPV6, 133, OTHER),
                icmp6(none, &[], ICMPV6, 135, OWN),
                icmp6(none, &[58, 0, 1, 4, 0, 0, 0, 0], 0, 143, OTHER),
                frame(ARP, &[0; 40]),
            ],
            &[
                icmp6(OTHER, &[], ICMPV6, 128, OTHER),
                icmp6(none, &[], ICMPV6, 128, OTHER),
                icmp6(none, &[], ICMPV6, 135, OTHER),
                frame(IPV6, &[0x60; 20]),
                ip6(none, UDP, &[0; 20]),
            ],
        );
        check(
            neighbour(&own),
            &[icmp6(OWN, &[], ICMPV6, 136, own[1]), icmp6(OWN, &[], ICMPV6, 135, OTHER), ip6(OWN, UDP, &[0; 20])],
            &[icmp6(OWN, &[], ICMPV6, 136, OTHER), icmp6(OWN, &[58, 0, 1, 4, 0, 0, 0, 0], 60, 136, OTHER)],
        );
    }
}
