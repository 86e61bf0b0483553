//! What a run's settings mean. All zero is a card with a lease, without rules, whose frames come back.
use super::frames::{IPV4, IPV6};
use crate::backend::Abilities;
use bulkhead_bus::exercise::SETTINGS;
use bulkhead_bus::nic::{NicAddresses, NicLease, NicRules, NicSettings};
use std::net::Ipv4Addr;

/// Rules by number: a bit for each of hardware address, guard, addresses, no address at all, a small rate, a rate of zero.
pub(crate) fn rules(bits: u64) -> NicRules {
    let on = |bit: u32| bits >> bit & 1 != 0;
    let addresses = if on(3) {
        Some(NicAddresses::default())
    } else {
        on(2).then(|| NicAddresses { ipv4: vec![IPV4.into()], ipv6: vec![IPV6] })
    };
    let rate = if on(5) { Some((0, 0)) } else { on(4).then_some((1000, 2)) };
    NicRules { mac: on(0), guard: on(1), addresses, rate }
}

/// How a back end takes frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Taking {
    /// All of them.
    #[default]
    Always,
    /// As many as the host has made room for.
    Room,
    /// Each one at the second try.
    SecondTry,
    /// Every second one; the others are lost.
    Half,
}

impl Taking {
    /// By number.
    pub(crate) fn of(number: u64) -> Self {
        match number & 3 {
            0 => Self::Always,
            1 => Self::Room,
            2 => Self::SecondTry,
            _ => Self::Half,
        }
    }
}

/// The kind of the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Medium {
    /// In memory.
    #[default]
    Memory,
    /// A stream socket, with a length before each frame.
    Stream,
    /// A packet socket, with the header of a tap before each frame.
    Interface,
    /// The same, and the kernel has removed a VLAN tag from what arrives.
    Untagged,
    /// A packet socket without headers.
    Bare,
}

/// The settings of a run.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// The card's own, at its start.
    pub(crate) nic: NicSettings,
    pub(crate) lease: Option<NicLease>,
    /// Bytes of its ROM.
    pub(crate) rom: u32,
    pub(crate) abilities: Abilities,
    /// Sent frames come back.
    pub(crate) echo: bool,
    pub(crate) taking: Taking,
    /// A sent frame's rest stays behind at times.
    pub(crate) rest: bool,
    pub(crate) medium: Medium,
}

impl Setup {
    /// Byte 0: rules. 1: bit 0 no link, 1 no lease, 2 a lease with router and name server, 3 a ROM. 2: bit 0 no checksums, 1 no
    /// segmentation, 2 no echo. 3: how the back end takes frames, bit 2 with rests. 4: the medium.
    pub(crate) fn of(settings: [u8; SETTINGS]) -> Self {
        let [rules_byte, card, back, taking, medium, ..] = settings;
        let far = card & 4 != 0;
        let lease = NicLease {
            address: IPV4.into(),
            prefix: 24,
            gateway: far.then_some(Ipv4Addr::new(10, 0, 0, 1)),
            dns: far.then_some(Ipv4Addr::new(10, 0, 0, 2)),
        };
        let medium = match medium & 7 {
            1 => Medium::Stream,
            2 => Medium::Interface,
            3 => Medium::Untagged,
            4 => Medium::Bare,
            _ => Medium::Memory,
        };
        Self {
            nic: NicSettings { link: card & 1 == 0, rules: rules(rules_byte.into()) },
            lease: (card & 2 == 0).then_some(lease),
            rom: if card & 8 != 0 { 1 << 16 } else { 0 },
            abilities: Abilities { checksum: back & 1 == 0, segmentation: back & 2 == 0 },
            echo: back & 4 == 0,
            taking: Taking::of(taking.into()),
            rest: taking & 4 != 0,
            medium,
        }
    }
}
