//! Network cards: other ends, and rules on interfaces.
use super::Machine;
use super::host::{Host, Part, inherit, patiently};
use super::option::{
    ArgumentError, Arguments, Fate, Given, Group, Keys, OptionSpec, PLACE, QUBES, flag, keys, number, option, wrong,
};
use super::{DeviceKind, board, firmware};
use crate::failure::Failure;
use Fate::{Ignored, Implemented, Refused};
use bulkhead_bus::nic::{NicLease, NicSettings};
use bulkhead_plan::{DeviceConfig, FdUse, NicEnd, NicModel, kind};
use bulkhead_policy::interface::{self, Rules};
use rustix::fd::{OwnedFd, RawFd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::time::Instant;

/// MTU of a stub domain's interface: the largest frame of any card. An interface may refuse it; the back end has its own limit too.
const LARGEST_MTU: u32 = 16_110;

pub(super) static DEVICE: DeviceKind = DeviceKind {
    kinds: &[&kind::E1000, &kind::RTL8139],
    arguments: Group { options: OPTIONS, keys: KEYS, arguments: || Box::new(Cards::default()) },
    open,
};

const OPTIONS: &[OptionSpec] = &[
    option("device e1000", Implemented("the 82540EM"), "vif, model=e1000"),
    option("device rtl8139", Implemented("the RTL8139C+"), "vif, the default model"),
    option("netdev tap", Implemented("ifname or fd; in a stub domain the interface with the card's address"), "vif"),
    option("netdev stream", Implemented("server=off,addr.type=unix"), ""),
    option("netdev", Refused("network cards on anything but a tap or a stream"), ""),
    option(
        "nic-rules",
        Implemented("[id=nicN,]level=off|guard|addresses[,ip=A…][,rate=N[,burst=N]][,link=off]; not QEMU's"),
        "",
    ),
    option("nic-lease", Implemented("id=nicN,ip=A/BITS[,gateway=A][,dns=A]; not QEMU's"), ""),
    option("net none", Implemented("no card"), "no emulated vif"),
    option("net", Refused("network cards by -net"), ""),
    option("nic none", Implemented("no card"), ""),
    option("nic", Refused("network cards by -nic"), ""),
    flag("qubes-net:…", Ignored("addresses for the stub domain's own DHCP server (-nic-lease is the one here)"), QUBES),
];

const KEYS: &[Keys] = &[
    // The toolstack's hotplug script puts the interface into the bridge and brings it up.
    keys("netdev tap", &["type", "id", "ifname", "fd"], &["br", "script", "downscript", "vhost", "sndbuf", "vnet_hdr"]),
    keys("netdev stream", &["type", "id", "server", "addr.type", "addr.path"], &[]),
    keys("device e1000", &["driver", "id", "netdev", "mac"], PLACE),
    keys("device rtl8139", &["driver", "id", "netdev", "mac"], PLACE),
];

/// Most network cards of a guest: libxl can number no more, and the bus has room for them.
const MAX_NICS: usize = 8;

/// A network card, as the arguments describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// The emulated chip.
    pub model: NicModel,
    /// libxl's number: 0 in `nic0`.
    pub index: u8,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Other end.
    pub end: NicOther,
    /// Answer to the guest's DHCP requests, if the card gives one.
    pub lease: Option<NicLease>,
    /// State of the cable, and filter of outgoing frames.
    pub settings: NicSettings,
}

/// The other end of a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NicOther {
    /// The tap with this name; in a stub domain the interface with the card's address.
    Tap(String),
    /// A tap that the toolstack has opened.
    OpenTap(RawFd),
    /// The Unix socket at this path, with QEMU's framing.
    Stream(String),
}

/// Parses an address in hexadecimal, with colons between its bytes.
pub fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|b| (b.len() == 2).then(|| u8::from_str_radix(b, 16).ok()).flatten()).collect();
    // A multicast address is refused.
    <[u8; 6]>::try_from(bytes?).ok().filter(|[first, ..]| first & 1 == 0)
}

/// A `-device` with a card's model.
struct Card {
    index: u8,
    netdev: String,
    model: NicModel,
    mac: [u8; 6],
}

/// An option that names a card: its text, and its keys and values.
struct About {
    value: String,
    pairs: Vec<(String, String)>,
}

/// Cards, until all arguments are parsed.
#[derive(Default)]
struct Cards {
    cards: Vec<Card>,
    /// Ends of the `-netdev`s that no card has taken, by id.
    ends: Vec<(String, NicOther)>,
    /// `-nic-rules` for the card with this id, or for all cards.
    rules: Vec<(Option<String>, About)>,
    leases: Vec<(String, String, NicLease)>,
}

impl Arguments for Cards {
    fn take(&mut self, given: &mut Given, _machine: &mut Machine) -> Result<(), ArgumentError> {
        let (options, bad) = (&given.options, |why: &str| given.bad(why));
        let about = || {
            let pairs = options.pairs.iter().filter(|(k, _)| k != "id").cloned().collect();
            About { value: given.value.clone(), pairs }
        };
        match given.name.as_str() {
            "device" => {
                let e1000 = options.head("driver") == Some("e1000");
                let mac = options.get("mac").and_then(self::mac).ok_or(bad("mac= is an address of six bytes"))?;
                let index = options.get("id").and_then(|id| id.strip_prefix("nic")).and_then(number::<u8>);
                self.cards.push(Card {
                    index: index.unwrap_or(u8::try_from(self.cards.len()).unwrap_or(u8::MAX)),
                    netdev: given.need("netdev")?.to_owned(),
                    model: if e1000 { NicModel::E1000 } else { NicModel::Rtl8139 },
                    mac,
                });
            }
            "netdev" => self.ends.push((given.need("id")?.to_owned(), end(given)?)),
            "nic-rules" => {
                let about = about();
                if options.head.is_some() || about.pairs.is_empty() {
                    return Err(bad("level=off, level=guard or level=addresses,ip=…"));
                }
                self.rules.push((options.get("id").map(str::to_owned), about));
            }
            "nic-lease" => {
                let id = options.get("id").ok_or(bad("id=nicN is missing"))?.to_owned();
                let About { value, pairs } = about();
                let lease = NicLease::parse(&pairs).map_err(|why| given.bad(why.to_string()))?;
                self.leases.push((value, id, lease));
            }
            // `-net none` and `-nic none`: no card.
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, machine: &mut Machine) -> Result<Vec<String>, ArgumentError> {
        for Card { index, netdev, model, mac } in self.cards.drain(..) {
            let at = self.ends.iter().position(|(id, _)| *id == netdev);
            let at = at.ok_or_else(|| wrong("device", &netdev, "there is no -netdev of this id"))?;
            if machine.nics.iter().any(|n| n.index == index) {
                return Err(wrong("device", &netdev, "two network cards of one number"));
            }
            let (end, settings) = (self.ends.swap_remove(at).1, NicSettings::default());
            machine.nics.push(Nic { model, index, mac, end, lease: None, settings });
        }
        if let Some((id, _)) = self.ends.first() {
            return Err(wrong("netdev", id, "network cards: no -device refers to it"));
        }
        for (value, id, lease) in self.leases.drain(..) {
            let nic = machine.nics.iter_mut().find(|n| id == format!("nic{}", n.index));
            nic.ok_or_else(|| wrong("nic-lease", &value, "there is no network card of this id"))?.lease = Some(lease);
        }
        for (id, About { value, pairs }) in self.rules.drain(..) {
            let meant = |nic: &Nic| id.as_ref().is_none_or(|id| *id == format!("nic{}", nic.index));
            if id.is_some() && !machine.nics.iter().any(meant) {
                return Err(wrong("nic-rules", &value, "there is no network card of this id"));
            }
            for nic in machine.nics.iter_mut().filter(|n| meant(n)) {
                nic.settings.change(&pairs).map_err(|why| wrong("nic-rules", &value, why.to_string()))?;
            }
        }
        if machine.nics.len() > MAX_NICS {
            return Err(ArgumentError::Incomplete("more than eight network cards"));
        }
        Ok(Vec::new())
    }
}

/// Parses `-netdev`.
fn end(given: &Given) -> Result<NicOther, ArgumentError> {
    let (options, bad) = (&given.options, |why: &str| given.bad(why));
    match options.head("type") {
        Some("tap") => match (options.get("ifname"), options.get("fd").map(number)) {
            (Some(name), None) => Ok(NicOther::Tap(name.to_owned())),
            (None, Some(Some(fd))) => Ok(NicOther::OpenTap(fd)),
            _ => Err(bad("one of ifname= and fd= must be there")),
        },
        _ if options.flag("server", false) != Some(false) => Err(bad("only server=off")),
        _ if options.get("addr.type") != Some("unix") => Err(bad("only addr.type=unix")),
        _ => Ok(NicOther::Stream(given.need("addr.path")?.to_owned())),
    }
}

/// Opens the machine's network cards.
pub fn open(host: &mut Host) -> Result<Vec<Part>, Failure> {
    let (machine, first) = (host.machine, board::first_card(host));
    let (mut parts, mut without) = (Vec::new(), Vec::new());
    for (place, nic) in (0u8..).zip(&machine.nics) {
        let end = self::nic(nic, host.stubdom, host.former)?;
        host.shown.push(end.shown);
        let rom = match firmware::nic_rom(nic.model) {
            Ok(rom) => Some(rom),
            Err(e) => {
                if !without.contains(&nic.model) {
                    crate::log::say(&format!("network boot is not possible: {e}"));
                    without.push(nic.model);
                }
                None
            }
        };
        let config = DeviceConfig::Nic {
            model: nic.model,
            index: nic.index,
            device: first.saturating_add(place),
            mac: nic.mac,
            rom: rom.as_ref().map_or(0, |(_, size)| *size),
            end: end.end,
            lease: nic.lease.clone(),
            settings: nic.settings.clone(),
        };
        parts.push(Part {
            kept: vec![(FdUse::Net, end.fd), host.memory()?],
            rom: rom.map(|(fd, _)| fd),
            rules: end.rules,
            ..Part::new(config)
        });
    }
    Ok(parts)
}

/// A card's open other end. The rules on its interface are in force.
pub struct OpenNic {
    /// The tap or socket.
    pub fd: OwnedFd,
    /// What the descriptor is: a tap, a packet socket or a stream.
    pub end: NicEnd,
    /// The rules on its interface, if it has one.
    pub rules: Option<Rules>,
    /// A line for the log.
    pub shown: String,
}

/// Opens a card's other end. The rules are set before a process can use the interface.
pub fn nic(nic: &Nic, stubdom: bool, former: Option<Instant>) -> Result<OpenNic, Failure> {
    let name = format!("network card nic{}", nic.index);
    let fail = |fault| Failure::Network { card: nic.index, fault };
    let (fd, end, interface) = match &nic.end {
        NicOther::Stream(path) => {
            let flags = SocketFlags::CLOEXEC;
            let fail = |e: rustix::io::Errno| fail(NicFault::Stream { path: path.clone(), source: e.into() });
            let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(fail)?;
            SocketAddrUnix::new(path.as_str()).and_then(|a| rustix::net::connect(&fd, &a)).map_err(fail)?;
            rustix::io::ioctl_fionbio(&fd, true).map_err(fail)?;
            return Ok(OpenNic {
                fd,
                end: NicEnd::Stream,
                rules: None,
                shown: format!("{name}: stream {path}, filter {}", nic.settings.rules),
            });
        }
        NicOther::Tap(_) if stubdom => {
            let interface =
                interface::by_address(nic.mac).ok_or_else(|| fail(NicFault::NoInterface { mac: nic.mac }))?;
            let fail = |source| fail(NicFault::Interface { interface: interface.clone(), source });
            let index = interface::index(&interface).map_err(fail)?;
            (interface::packet::open(index).map_err(fail)?, NicEnd::Packet, interface)
        }
        NicOther::Tap(ifname) => {
            let busy = |e: &std::io::Error| e.kind() == std::io::ErrorKind::ResourceBusy;
            let fd = patiently(former, busy, || interface::tap::open(ifname)).map_err(|source| {
                match source.raw_os_error() {
                    Some(code) if code == rustix::io::Errno::NOENT.raw_os_error() => fail(NicFault::NoTun(source)),
                    _ => fail(NicFault::Tap { name: ifname.clone(), source }),
                }
            })?;
            (fd, NicEnd::Tap, ifname.clone())
        }
        NicOther::OpenTap(number) => {
            let fail = |source| fail(NicFault::Fd { number: *number, source });
            let fd = inherit(*number).map_err(|e| fail(e.into()))?;
            let (ifname, headers) = interface::tap::adopt(&fd).map_err(fail)?;
            (fd, if headers { NicEnd::Tap } else { NicEnd::Bare }, ifname)
        }
    };
    let fail = |source| fail(NicFault::Interface { interface: interface.clone(), source });
    let index = interface::index(&interface).map_err(fail)?;
    let mut rules = Rules::new(index, end != NicEnd::Packet, nic.mac);
    rules.set(&nic.settings).map_err(|source| Failure::Rules { interface: interface.clone(), source })?;
    if end == NicEnd::Packet {
        interface::up(index, LARGEST_MTU).map_err(fail)?;
    }
    let cable = if nic.settings.link { "" } else { ", cable out" };
    let shown =
        format!("{name}: {interface}, filter {}, {} rules on the interface{cable}", nic.settings.rules, rules.len());
    Ok(OpenNic { fd, end, rules: Some(rules), shown })
}

/// A hint, behind the kernel's error, about the modules that it lacks when it refuses rules on an interface.
pub fn missing_modules(e: &std::io::Error) -> &'static str {
    match e.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOENT | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => {
            "; the kernel must have sch_ingress, cls_bpf and act_gact"
        }
        _ => "",
    }
}

/// What is wrong with the other end of a network card.
#[derive(Debug, thiserror::Error)]
pub enum NicFault {
    /// The connection to a Unix socket fails.
    #[error("{path}: {source}")]
    Stream {
        /// The path of the Unix socket.
        path: String,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// A stub domain lacks the interface that the card's traffic goes through.
    #[error("no interface of this domain has the address {}", .mac.map(|byte| format!("{byte:02x}")).join(":"))]
    NoInterface {
        /// The card's address.
        mac: [u8; 6],
    },
    /// An interface cannot be used.
    #[error("{interface}: {source}")]
    Interface {
        /// The interface's name.
        interface: String,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The kernel has no taps.
    #[error("/dev/net/tun is missing (the kernel module tun)")]
    NoTun(#[source] std::io::Error),
    /// The tap of libxl's hotplug script cannot be opened.
    #[error("tap {name}: {source}")]
    Tap {
        /// The tap's name.
        name: String,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The toolstack's descriptor is not there, or is no tap.
    #[error("fd={number}: {source}")]
    Fd {
        /// The number in `fd=`.
        number: i32,
        /// The kernel's error.
        source: std::io::Error,
    },
}
