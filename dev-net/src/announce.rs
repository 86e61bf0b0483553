//! Frames by which switches learn that a guest goes on at another port. Drivers of these cards do not know of the move.
//!
//! A request of RARP (RFC 903) asks nobody who answers. Where rules let ARP alone through, it is an ARP announcement (RFC 5227, 3) of the
//! guest's own address.
use std::net::Ipv4Addr;

/// How often it is said, and the nanoseconds before each: a switch may still be busy with the port.
pub(crate) const PAUSES: [u64; 5] = [0, 50_000_000, 150_000_000, 250_000_000, 350_000_000];

const BROADCAST: [u8; 6] = [0xff; 6];
const ARP: [u8; 2] = [0x08, 0x06];
const RARP: [u8; 2] = [0x80, 0x35];
/// Ethernet, IPv4, lengths of their addresses.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// ARP's request, and RARP's.
const REQUEST: [u8; 2] = [0, 1];
const REVERSE: [u8; 2] = [0, 3];

/// The frame of the card with this address; `only`: its rules let through frames of this IPv4 address alone.
pub(crate) fn frame(mac: [u8; 6], only: Option<Ipv4Addr>) -> Vec<u8> {
    let ip = only.unwrap_or(Ipv4Addr::UNSPECIFIED).octets();
    let (ether, request, target) = match only {
        None => (RARP, REVERSE, mac),
        Some(_) => (ARP, REQUEST, [0; 6]),
    };
    [&BROADCAST[..], &mac, &ether, &KIND, &request, &mac, &ip, &target, &ip].concat()
}
