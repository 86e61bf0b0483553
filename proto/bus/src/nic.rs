//! Settings of a network card: link state, and rules for the frames that the guest sends. The card's process and the launcher share
//! them: the launcher installs the rules on the interface too.
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Rules for the frames that a guest sends. By default all frames pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicRules {
    /// Only frames whose source is the card's own hardware address.
    pub mac: bool,
    /// No frames of a DHCP server or of an IPv6 router.
    pub guard: bool,
    /// Only frames from these IP addresses; `None`: from any.
    pub addresses: Option<NicAddresses>,
    /// Most frames a second, and most frames of a burst.
    pub rate: Option<(u32, u32)>,
}

/// IP addresses of a guest. The filters add the IPv6 link-local address that follows from the card's hardware address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicAddresses {
    /// IPv4 addresses, at most [`NicAddresses::IPV4`].
    pub ipv4: Vec<Ipv4Addr>,
    /// IPv6 addresses, at most [`NicAddresses::IPV6`].
    pub ipv6: Vec<Ipv6Addr>,
}

impl NicAddresses {
    /// Most IPv4 addresses.
    pub const IPV4: usize = 3;
    /// Most IPv6 addresses.
    pub const IPV6: usize = 2;

    /// The link-local address that follows from a hardware address (RFC 4291, appendix A).
    pub fn link_local(mac: [u8; 6]) -> Ipv6Addr {
        let [a, b, c, d, e, f] = mac;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }

    /// The IPv6 addresses that a card with this address may use.
    pub fn ipv6_of(&self, mac: [u8; 6]) -> Vec<Ipv6Addr> {
        self.ipv6.iter().copied().chain([Self::link_local(mac)]).collect()
    }
}

/// Why a card's settings are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NicError {
    /// The key is unknown.
    #[error("{0}= is not known here")]
    Key(String),
    /// `link` has another value.
    #[error("link is on or off")]
    Link,
    /// `level` has another value.
    #[error("level is off, guard or addresses")]
    Level,
    /// `ip` is given, and the level does not use addresses.
    #[error("ip= goes with level=addresses")]
    AddressesWithoutLevel,
    /// The level needs addresses, and there are none.
    #[error("level=addresses needs ip=")]
    LevelWithoutAddresses,
    /// A value of `ip` is no IP address.
    #[error("ip={0}: no address")]
    NoAddress(String),
    /// More addresses than a message can carry.
    #[error("at most {} IPv4 and {} IPv6 addresses", NicAddresses::IPV4, NicAddresses::IPV6)]
    TooManyAddresses,
    /// A value of `rate` or `burst` is no number.
    #[error("{0}= is a number of frames")]
    NotFrames(&'static str),
    /// A burst without a rate.
    #[error("burst= goes with rate=")]
    BurstWithoutRate,
    /// A lease without the guest's address.
    #[error("ip=ADDRESS/BITS is missing")]
    NoNetwork,
    /// The guest's address in a lease is no IPv4 network.
    #[error("ip={0}: an IPv4 address with 1 to 30 bits of network, as 10.0.0.5/24")]
    Network(String),
    /// Another address in a lease is no IPv4 address.
    #[error("{key}={value}: no IPv4 address")]
    NoIpv4 {
        /// The key: `gateway` or `dns`.
        key: &'static str,
        /// The refused value.
        value: String,
    },
}

/// The DHCP lease that the card itself gives to the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicLease {
    /// The guest's address.
    pub address: Ipv4Addr,
    /// Prefix length of its network in bits.
    pub prefix: u8,
    /// The router that the lease names.
    pub gateway: Option<Ipv4Addr>,
    /// The name server that the lease names.
    pub dns: Option<Ipv4Addr>,
}

impl NicLease {
    /// The mask of the network.
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::MAX.checked_shl(32u32.saturating_sub(u32::from(self.prefix))).unwrap_or(0))
    }

    /// The DHCP server's address: the router's, or the network's first.
    pub fn server(&self) -> Ipv4Addr {
        self.gateway.unwrap_or_else(|| Ipv4Addr::from(u32::from(self.address) & u32::from(self.mask()) | 1))
    }

    /// From `ip=ADDRESS/BITS`, `gateway=` and `dns=`.
    ///
    /// # Errors
    /// The first key or value that is refused.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self, NicError> {
        let get = |key: &str| pairs.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let address = |key: &'static str| {
            get(key).map(|v| v.parse().map_err(|_| NicError::NoIpv4 { key, value: v.to_owned() })).transpose()
        };
        if let Some((key, _)) = pairs.iter().find(|(k, _)| !["ip", "gateway", "dns"].contains(&k.as_str())) {
            return Err(NicError::Key(key.clone()));
        }
        let text = get("ip").ok_or(NicError::NoNetwork)?;
        let parts = text
            .split_once('/')
            .and_then(|(a, p)| Some((a.parse().ok()?, p.parse::<u8>().ok().filter(|p| (1..=30).contains(p))?)));
        let (ip, prefix) = parts.ok_or_else(|| NicError::Network(text.to_owned()))?;
        Ok(Self { address: ip, prefix, gateway: address("gateway")?, dns: address("dns")? })
    }
}

/// Settings that may change while the guest runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicSettings {
    /// The link is up.
    pub link: bool,
    /// Rules for the frames that the guest sends.
    pub rules: NicRules,
}

impl Default for NicSettings {
    fn default() -> Self {
        Self { link: true, rules: NicRules::default() }
    }
}

/// Keys of [`NicSettings::change`].
pub const NIC_KEYS: &[&str] = &["link", "level", "ip", "rate", "burst"];

impl NicSettings {
    /// Applies these pairs: `link` is on or off; `level` is `off`, `guard` (own hardware address, no DHCP server, no router) or
    /// `addresses` (that, and only from the addresses of all `ip`); `rate` and `burst` are frames.
    ///
    /// # Errors
    /// The first key or value that is refused. Then nothing has changed.
    pub fn change(&mut self, pairs: &[(String, String)]) -> Result<(), NicError> {
        let get = |key: &str| pairs.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let number = |key: &'static str| {
            get(key).map(|v| v.parse::<u32>().ok().filter(|n| *n > 0).ok_or(NicError::NotFrames(key))).transpose()
        };
        if let Some((key, _)) = pairs.iter().find(|(k, _)| !NIC_KEYS.contains(&k.as_str())) {
            return Err(NicError::Key(key.clone()));
        }
        let mut next = self.clone();
        match get("link") {
            None => {}
            Some("on" | "up") => next.link = true,
            Some("off" | "down") => next.link = false,
            Some(_) => return Err(NicError::Link),
        }
        let mut addresses = NicAddresses::default();
        for (_, text) in pairs.iter().filter(|(key, _)| key == "ip") {
            match text.parse() {
                Ok(IpAddr::V4(a)) => addresses.ipv4.push(a),
                Ok(IpAddr::V6(a)) => addresses.ipv6.push(a),
                Err(_) => return Err(NicError::NoAddress(text.clone())),
            }
        }
        if addresses.ipv4.len() > NicAddresses::IPV4 || addresses.ipv6.len() > NicAddresses::IPV6 {
            return Err(NicError::TooManyAddresses);
        }
        let any = addresses != NicAddresses::default();
        let rules = &mut next.rules;
        match get("level") {
            None if any => return Err(NicError::AddressesWithoutLevel),
            None => {}
            Some(_) if any && get("level") != Some("addresses") => {
                return Err(NicError::AddressesWithoutLevel);
            }
            Some("off") => (rules.mac, rules.guard, rules.addresses) = (false, false, None),
            Some("guard") => (rules.mac, rules.guard, rules.addresses) = (true, true, None),
            Some("addresses") if any => (rules.mac, rules.guard, rules.addresses) = (true, true, Some(addresses)),
            Some("addresses") => return Err(NicError::LevelWithoutAddresses),
            Some(_) => return Err(NicError::Level),
        }
        match (number("rate")?, number("burst")?) {
            (Some(rate), burst) => rules.rate = Some((rate, burst.unwrap_or(rate))),
            (None, Some(_)) => return Err(NicError::BurstWithoutRate),
            (None, None) => {}
        }
        *self = next;
        Ok(())
    }
}

mod flag {
    pub(super) const LINK: u8 = 1;
    pub(super) const MAC: u8 = 2;
    pub(super) const GUARD: u8 = 4;
    pub(super) const ADDRESSES: u8 = 8;
    pub(super) const RATE: u8 = 16;
}

impl NicSettings {
    /// Bytes of the encoding.
    pub const LEN: usize = 64;

    /// Encodes the settings in a fixed size. Addresses beyond the maximum are left out.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let rules = &self.rules;
        let empty = NicAddresses::default();
        let addresses = rules.addresses.as_ref().unwrap_or(&empty);
        let (rate, burst) = rules.rate.unwrap_or_default();
        let flags = [
            (self.link, flag::LINK),
            (rules.mac, flag::MAC),
            (rules.guard, flag::GUARD),
            (rules.addresses.is_some(), flag::ADDRESSES),
            (rules.rate.is_some(), flag::RATE),
        ];
        let flags = flags.into_iter().filter(|(on, _)| *on).fold(0, |all, (_, bit)| all | bit);
        let (four, six) = (addresses.ipv4.len().min(NicAddresses::IPV4), addresses.ipv6.len().min(NicAddresses::IPV6));
        let mut all = vec![flags, four as u8, six as u8, 0];
        all.extend(rate.to_le_bytes());
        all.extend(burst.to_le_bytes());
        for i in 0..NicAddresses::IPV4 {
            all.extend(addresses.ipv4.get(i).unwrap_or(&Ipv4Addr::UNSPECIFIED).octets());
        }
        for i in 0..NicAddresses::IPV6 {
            all.extend(addresses.ipv6.get(i).unwrap_or(&Ipv6Addr::UNSPECIFIED).octets());
        }
        let mut bytes = [0; Self::LEN];
        for (to, from) in bytes.iter_mut().zip(all) {
            *to = from;
        }
        bytes
    }

    /// Decodes settings, whose sender may be hostile: `None` if they are invalid.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let (&[flags, four, six, zero], rest) = bytes.split_first_chunk::<4>()?;
        let (rate, rest) = rest.split_first_chunk::<4>()?;
        let (burst, rest) = rest.split_first_chunk::<4>()?;
        let (ipv4, rest) = rest.split_first_chunk::<{ 4 * NicAddresses::IPV4 }>()?;
        let (ipv6, rest) = rest.split_first_chunk::<{ 16 * NicAddresses::IPV6 }>()?;
        let (four, six) = (usize::from(four), usize::from(six));
        let known = flag::LINK | flag::MAC | flag::GUARD | flag::ADDRESSES | flag::RATE;
        if flags & !known != 0
            || zero != 0
            || four > NicAddresses::IPV4
            || six > NicAddresses::IPV6
            || rest.iter().any(|b| *b != 0)
        {
            return None;
        }
        let addresses = NicAddresses {
            ipv4: ipv4
                .chunks_exact(4)
                .take(four)
                .filter_map(|b| <[u8; 4]>::try_from(b).ok())
                .map(Ipv4Addr::from)
                .collect(),
            ipv6: ipv6
                .chunks_exact(16)
                .take(six)
                .filter_map(|b| <[u8; 16]>::try_from(b).ok())
                .map(Ipv6Addr::from)
                .collect(),
        };
        let on = |bit: u8| flags & bit != 0;
        let rules = NicRules {
            mac: on(flag::MAC),
            guard: on(flag::GUARD),
            addresses: on(flag::ADDRESSES).then_some(addresses),
            rate: on(flag::RATE).then_some((u32::from_le_bytes(*rate), u32::from_le_bytes(*burst))),
        };
        Some(Self { link: on(flag::LINK), rules })
    }
}

impl std::fmt::Display for NicRules {
    /// The level in force, for people to read.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        if self.mac {
            parts.push("own hardware address".to_owned());
        }
        if self.guard {
            parts.push("no DHCP server, no router".to_owned());
        }
        if let Some(a) = &self.addresses {
            let all: Vec<String> =
                a.ipv4.iter().map(ToString::to_string).chain(a.ipv6.iter().map(ToString::to_string)).collect();
            parts.push(format!("addresses {}", if all.is_empty() { "none".to_owned() } else { all.join(" ") }));
        }
        if let Some((rate, burst)) = self.rate {
            parts.push(format!("{rate} frames a second, {burst} at once"));
        }
        f.write_str(if parts.is_empty() { "off" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn settings()(link: bool, mac: bool, guard: bool, on: bool, four in prop::collection::vec(any::<[u8; 4]>(), 0..=3),
                      six in prop::collection::vec(any::<[u8; 16]>(), 0..=2), rate: Option<(u32, u32)>) -> NicSettings {
            let ipv4 = four.into_iter().map(Into::into).collect();
            let ipv6 = six.into_iter().map(Into::into).collect();
            let addresses = NicAddresses { ipv4, ipv6 };
            NicSettings { link, rules: NicRules { mac, guard, addresses: on.then_some(addresses), rate } }
        }
    }

    proptest! {
        #[test]
        fn settings_come_back(settings in settings()) {
            prop_assert_eq!(NicSettings::from_bytes(&settings.to_bytes()), Some(settings));
        }

        #[test]
        fn any_bytes_are_settings_or_none(head: [u8; 32], tail: [u8; 32]) {
            let mut bytes = [0; 64];
            bytes[..32].copy_from_slice(&head);
            bytes[32..].copy_from_slice(&tail);
            if let Some(settings) = NicSettings::from_bytes(&bytes) {
                prop_assert_eq!(NicSettings::from_bytes(&settings.to_bytes()), Some(settings));
            }
        }
    }

    #[test]
    fn a_lease_is_named_by_people() {
        let parse = |text: &str| {
            NicLease::parse(
                &text
                    .split(',')
                    .filter_map(|p| p.split_once('='))
                    .map(|(k, v)| (k.to_owned(), v.to_owned()))
                    .collect::<Vec<_>>(),
            )
        };
        let lease = parse("ip=10.137.0.5/22,gateway=10.137.0.1,dns=10.139.1.1").unwrap();
        assert_eq!(
            (lease.mask().to_string(), lease.server().to_string()),
            ("255.255.252.0".into(), "10.137.0.1".into())
        );
        assert_eq!(parse("ip=10.1.2.3/8").unwrap().server().to_string(), "10.0.0.1");
        for bad in ["", "ip=10.0.0.5", "ip=10.0.0.5/31", "ip=::1/64", "ip=1.2.3.4/24,gateway=x", "ip=1.2.3.4/24,mtu=5"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    fn changed(text: &str) -> Result<NicSettings, NicError> {
        let mut settings = NicSettings::default();
        let pairs: Vec<_> =
            text.split(',').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let result = settings.change(&pairs);
        assert!(result.is_ok() || settings == NicSettings::default(), "nothing half");
        result.map(|()| settings)
    }

    #[test]
    fn settings_are_named_by_people() {
        assert_eq!(changed(""), Ok(NicSettings::default()));
        let guard = changed("level=guard,rate=100,link=down").unwrap();
        assert_eq!(
            (guard.link, guard.rules.to_string().as_str()),
            (false, "own hardware address, no DHCP server, no router, 100 frames a second, 100 at once")
        );
        let strict = changed("level=addresses,ip=10.0.0.5,ip=2001:db8::5").unwrap();
        assert!(strict.rules.to_string().ends_with("addresses 10.0.0.5 2001:db8::5"));
        for (bad, why) in [
            ("level=strict", "off, guard or addresses"),
            ("level=addresses", "needs ip="),
            ("ip=10.0.0.1", "goes with level"),
            ("level=guard,ip=::1", "goes with level"),
            ("level=addresses,ip=10.0.0", "no address"),
            ("link=maybe", "on or off"),
            ("rate=0", "a number"),
            ("burst=5", "goes with rate="),
            ("speed=1", "not known"),
            ("level=addresses,ip=1.1.1.1,ip=1.1.1.2,ip=1.1.1.3,ip=1.1.1.4", "at most 3"),
        ] {
            assert!(changed(bad).unwrap_err().to_string().contains(why), "{bad}");
        }
    }

    #[test]
    fn the_level_is_reported() {
        assert_eq!(NicRules::default().to_string(), "off");
        let addresses = Some(NicAddresses { ipv4: vec![Ipv4Addr::new(10, 0, 0, 5)], ipv6: vec![] });
        let rules = NicRules { mac: true, guard: true, addresses, rate: Some((1000, 100)) };
        assert_eq!(
            rules.to_string(),
            "own hardware address, no DHCP server, no router, addresses 10.0.0.5, 1000 frames a second, 100 at once"
        );
        assert_eq!(NicAddresses::link_local([0, 0x16, 0x3e, 1, 2, 3]).to_string(), "fe80::216:3eff:fe01:203");
    }
}
