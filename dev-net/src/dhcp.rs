//! Answers the guest's DHCP requests (RFC 2131, 2132) from a static lease, for networks without a DHCP server. The requests do not
//! leave the card.
use crate::frame::{ETHERNET, be16, ether_type, put_be16};
use crate::offload;
use bulkhead_bus::nic::NicLease;
use std::net::Ipv4Addr;

/// Hardware address of the answers' sender, which no card has (Xen's hotplug scripts use the same).
const SERVER: [u8; 6] = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff];
/// Fixed part of a message, with the magic cookie (RFC 2131, 2; RFC 2132, 2).
const FIXED: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Length of the shortest message that all clients accept (RFC 1542, 2.1).
const SHORTEST: usize = 300;
/// Lease time in seconds: a day, because no other client can get the address.
const TIME: u32 = 86_400;
/// Bytes of IPv4's and UDP's headers, without options.
const IPV4: usize = 20;
const UDP: usize = 8;

/// Numbers of DHCP options (RFC 2132).
mod option {
    pub(super) const PAD: u8 = 0;
    pub(super) const MASK: u8 = 1;
    pub(super) const ROUTER: u8 = 3;
    pub(super) const DNS: u8 = 6;
    pub(super) const REQUESTED: u8 = 50;
    pub(super) const LEASE_TIME: u8 = 51;
    pub(super) const KIND: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const END: u8 = 255;
}

/// Kinds of messages.
mod kind {
    pub(super) const DISCOVER: u8 = 1;
    pub(super) const OFFER: u8 = 2;
    pub(super) const REQUEST: u8 = 3;
    pub(super) const ACK: u8 = 5;
    pub(super) const NAK: u8 = 6;
    pub(super) const INFORM: u8 = 8;
}

/// The answer to a frame of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The frame is no DHCP request and is sent on.
    Other,
    /// The frame is a DHCP request without an answer.
    Silence,
    /// The frame is a DHCP request with this answer.
    Frame(Vec<u8>),
}

/// The value of an option in a message's options.
fn option_of(mut options: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        match options {
            [option::PAD, rest @ ..] => options = rest,
            [kind, len, rest @ ..] if *kind != option::END => {
                let value = rest.get(..usize::from(*len))?;
                if *kind == wanted {
                    return Some(value);
                }
                options = rest.get(usize::from(*len)..)?;
            }
            _ => return None,
        }
    }
}

/// Handles a frame of the guest.
pub(crate) fn answer(frame: &[u8], lease: &NicLease) -> Answer {
    let is = be16(frame, 12) == Some(ether_type::IPV4) && frame.get(23) == Some(&17);
    let head = ETHERNET.saturating_add(usize::from(frame.get(ETHERNET).copied().unwrap_or(0) & 0x0f).saturating_mul(4));
    // DHCP requests are for UDP port 67; fragments are not handled.
    if !is || be16(frame, 20).is_none_or(|f| f & 0x1fff != 0) || be16(frame, head.saturating_add(2)) != Some(67) {
        return Answer::Other;
    }
    reply(frame.get(head.saturating_add(UDP)..).unwrap_or_default(), lease).map_or(Answer::Silence, Answer::Frame)
}

fn reply(message: &[u8], lease: &NicLease) -> Option<Vec<u8>> {
    let fixed = message.first_chunk::<FIXED>()?;
    let options = message.get(FIXED..)?;
    // A request, for Ethernet, with the client's hardware address.
    if !fixed.starts_with(&[1, 1, 6]) || !fixed.ends_with(&COOKIE) {
        return None;
    }
    let client = *fixed.get(28..)?.first_chunk::<6>()?;
    let address = |bytes: &[u8]| bytes.first_chunk::<4>().map(|b| Ipv4Addr::from(*b));
    let has = address(fixed.get(12..)?)?;
    let server = option_of(options, option::SERVER).and_then(address);
    let kind = match option_of(options, option::KIND)? {
        [kind::DISCOVER] => kind::OFFER,
        // The client has chosen another server.
        [kind::REQUEST] if server.is_some_and(|s| s != lease.server()) => return None,
        [kind::REQUEST] => {
            let wanted = option_of(options, option::REQUESTED).and_then(address).unwrap_or(has);
            if wanted == lease.address { kind::ACK } else { kind::NAK }
        }
        [kind::INFORM] => kind::ACK,
        _ => return None,
    };
    let informs = option_of(options, option::KIND) == Some(&[kind::INFORM]);
    let yours = if kind == kind::NAK || informs { Ipv4Addr::UNSPECIFIED } else { lease.address };
    let mut dhcp = fixed.to_vec();
    if let [op, ..] = dhcp.as_mut_slice() {
        *op = 2;
    }
    // Hops, seconds and the client's own address are the request's; the assigned address follows. No relay, no file, no name.
    for (at, value) in [(16usize, yours), (20, Ipv4Addr::UNSPECIFIED), (24, Ipv4Addr::UNSPECIFIED)] {
        for (to, from) in dhcp.iter_mut().skip(at).zip(value.octets()) {
            *to = from;
        }
    }
    for to in dhcp.iter_mut().skip(44).take(192) {
        *to = 0;
    }
    let mut put = |kind: u8, value: &[u8]| {
        dhcp.extend([kind, u8::try_from(value.len()).unwrap_or(0)]);
        dhcp.extend_from_slice(value);
    };
    put(option::KIND, &[kind]);
    put(option::SERVER, &lease.server().octets());
    if kind != kind::NAK {
        if !informs {
            put(option::LEASE_TIME, &TIME.to_be_bytes());
        }
        put(option::MASK, &lease.mask().octets());
        if let Some(gateway) = lease.gateway {
            put(option::ROUTER, &gateway.octets());
        }
        if let Some(dns) = lease.dns {
            put(option::DNS, &dns.octets());
        }
    }
    dhcp.push(option::END);
    dhcp.resize(dhcp.len().max(SHORTEST), 0);
    // A broadcast IP address, because a client without an address receives it in any case.
    let mut frame = [&client[..], &SERVER, &ether_type::IPV4.to_be_bytes()].concat();
    let udp = u16::try_from(dhcp.len().saturating_add(UDP)).ok()?;
    frame.extend([0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend(lease.server().octets());
    frame.extend([255; 4]);
    put_be16(&mut frame, ETHERNET.saturating_add(2), udp.saturating_add(IPV4 as u16));
    let sum = offload::checksum(frame.get(ETHERNET..)?);
    put_be16(&mut frame, ETHERNET.saturating_add(10), sum);
    for word in [67, 68, udp, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.extend(dhcp);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [2, 0x16, 0x3e, 0, 0, 1];

    fn lease() -> NicLease {
        NicLease {
            address: Ipv4Addr::new(10, 137, 0, 5),
            prefix: 24,
            gateway: Some(Ipv4Addr::new(10, 137, 0, 1)),
            dns: Some(Ipv4Addr::new(10, 139, 1, 1)),
        }
    }

    fn request(options: &[u8], has: [u8; 4]) -> Vec<u8> {
        let mut message = vec![0; FIXED];
        message[..8].copy_from_slice(&[1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
        message[12..16].copy_from_slice(&has);
        message[28..34].copy_from_slice(&MAC);
        message[44..50].fill(7);
        message[236..].copy_from_slice(&COOKIE);
        message.extend_from_slice(options);
        let head = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 68, 0, 67, 0, 0, 0, 0];
        [&[0xff; 6][..], &MAC, &[8, 0], &head, &message].concat()
    }

    /// Kind, the client's address, and the rest of a reply.
    fn decoded(frame: &[u8]) -> (u8, [u8; 4], Vec<u8>) {
        assert_eq!((&frame[..6], &frame[6..12], offload::checksum(&frame[14..34])), (&MAC[..], &SERVER[..], 0));
        assert_eq!(frame[34..38], [0, 67, 0, 68]);
        let dhcp = &frame[42..];
        assert_eq!(
            (dhcp[0], &dhcp[4..8], &dhcp[44..50], usize::from(be16(frame, 16).unwrap())),
            (2, &[0xde, 0xad, 0xbe, 0xef][..], &[0; 6][..], frame.len() - 14)
        );
        (option_of(&dhcp[FIXED..], option::KIND).unwrap()[0], dhcp[16..20].try_into().unwrap(), dhcp[FIXED..].to_vec())
    }

    fn asked(options: &[u8], has: [u8; 4]) -> Option<(u8, [u8; 4], Vec<u8>)> {
        match answer(&request(options, has), &lease()) {
            Answer::Frame(frame) => Some(decoded(&frame)),
            Answer::Silence => None,
            Answer::Other => panic!("this is DHCP"),
        }
    }

    #[test]
    fn a_client_gets_the_lease_and_nothing_else() {
        let (kind, address, options) = asked(&[53, 1, 1, 255], [0; 4]).unwrap();
        assert_eq!((kind, address), (kind::OFFER, [10, 137, 0, 5]));
        for (option, value) in [
            (option::MASK, &[255, 255, 255, 0][..]),
            (option::ROUTER, &[10, 137, 0, 1]),
            (option::DNS, &[10, 139, 1, 1]),
            (option::SERVER, &[10, 137, 0, 1]),
        ] {
            assert_eq!(option_of(&options, option), Some(value));
        }
        assert_eq!(
            asked(&[0, 53, 1, 3, 50, 4, 10, 137, 0, 5, 54, 4, 10, 137, 0, 1, 255], [0; 4]).unwrap().0,
            kind::ACK
        );
        assert_eq!(asked(&[53, 1, 3, 255], [10, 137, 0, 5]).unwrap().0, kind::ACK, "renewed");
        assert_eq!(asked(&[53, 1, 3, 50, 4, 10, 0, 0, 9, 255], [0; 4]).unwrap().0, kind::NAK);
        assert_eq!(asked(&[53, 1, 3, 54, 4, 10, 0, 0, 9, 255], [0; 4]), None, "another server");
        assert_eq!(asked(&[53, 1, 8, 255], [10, 137, 0, 5]).unwrap().1, [0; 4], "only told");
        for nothing in [&[53, 1, 7, 255][..], &[53, 1, 4, 255], &[255], &[53, 9, 1], &[]] {
            assert_eq!(asked(nothing, [0; 4]), None);
        }
    }

    #[test]
    fn packets_other_than_dhcp_pass() {
        let mut other = request(&[53, 1, 1, 255], [0; 4]);
        other[37] = 68;
        assert_eq!(answer(&other, &lease()), Answer::Other);
        let mut fragment = request(&[53, 1, 1, 255], [0; 4]);
        fragment[21] = 1;
        assert_eq!(answer(&fragment, &lease()), Answer::Other);
        assert_eq!((answer(&[], &lease()), answer(&[0; 60], &lease())), (Answer::Other, Answer::Other));
    }

    proptest! {
        #[test]
        fn no_options_break_it(options in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..600) {
            let mut frame = request(&options, [0; 4]);
            frame.truncate(cut.max(14));
            if let Answer::Frame(frame) = answer(&frame, &lease()) {
                decoded(&frame);
            }
        }
    }
}
