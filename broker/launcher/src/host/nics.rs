//! Network cards: their other ends, and the rules on interfaces.
use super::{Failure, Host, Part, errno, firmware, inherit};
use crate::errors::{Code, Coded as _};
use crate::machine::{Nic, NicOther};
use bulkhead_plan::{DeviceConfig, FdUse, NicEnd};
use bulkhead_policy::interface::{self, Rules};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// MTU of a stub domain's interface, if it takes it: the largest frame of the cards there are. The back end's own limit holds anyway.
const LARGEST_MTU: u32 = 16_110;

/// The machine's network cards. `first`: the device number of the first one.
pub fn open(host: &mut Host, first: u8) -> Result<Vec<Part>, Failure> {
    let machine = host.machine;
    let (mut parts, mut without) = (Vec::new(), Vec::new());
    for (place, nic) in (0u8..).zip(&machine.nics) {
        let end = self::nic(nic, host.stubdom).coded(Code::Network)?;
        host.shown.push(end.shown);
        let rom = match firmware::nic_rom(nic.model) {
            Ok(rom) => Some(rom),
            Err(e) => {
                if !without.contains(&nic.model) {
                    crate::supervise::say(&format!("network boot is not possible: {e}"));
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

/// A card's other end, open, and the rules on its interface in force.
pub struct OpenNic {
    /// For the process.
    pub fd: OwnedFd,
    /// What it is.
    pub end: NicEnd,
    /// Of its interface, if it has one.
    pub rules: Option<Rules>,
    /// For the log.
    pub shown: String,
}

/// Opens a card's other end. Its rules are on the interface before anything can use it.
pub fn nic(nic: &Nic, stubdom: bool) -> Result<OpenNic, Failure> {
    let name = format!("network card nic{}", nic.index);
    let (fd, end, interface) = match &nic.end {
        NicOther::Stream(path) => {
            let flags = SocketFlags::CLOEXEC;
            let fail = |e| errno(&format!("{name}: {path}"), e);
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
            let mac: Vec<String> = nic.mac.iter().map(|b| format!("{b:02x}")).collect();
            let name_of = interface::by_address(nic.mac);
            let interface = name_of
                .ok_or_else(|| format!("{name}: no interface of this domain has the address {}", mac.join(":")))?;
            let fail = |e: std::io::Error| format!("{name}: {interface}: {e}");
            let index = interface::index(&interface).map_err(fail)?;
            (interface::packet::open(index).map_err(fail)?, NicEnd::Packet, interface)
        }
        NicOther::Tap(ifname) => {
            let fd = interface::tap::open(ifname).map_err(|e| match e.raw_os_error() {
                Some(code) if code == rustix::io::Errno::NOENT.raw_os_error() => {
                    format!("{name}: /dev/net/tun is missing (the kernel module tun)")
                }
                _ => format!("{name}: tap {ifname}: {e}"),
            })?;
            (fd, NicEnd::Tap, ifname.clone())
        }
        NicOther::OpenTap(number) => {
            let fd = inherit(*number).map_err(|e| errno(&format!("{name}: fd={number}"), e))?;
            let (ifname, headers) = interface::tap::adopt(&fd).map_err(|e| format!("{name}: fd={number}: {e}"))?;
            (fd, if headers { NicEnd::Tap } else { NicEnd::Bare }, ifname)
        }
    };
    let fail = |e: std::io::Error| format!("{name}: {interface}: {e}");
    let index = interface::index(&interface).map_err(fail)?;
    let mut rules = Rules::new(index, end != NicEnd::Packet, nic.mac);
    rules.set(&nic.settings).map_err(|e| rules_refused(&interface, &e))?;
    if end == NicEnd::Packet {
        interface::up(index, LARGEST_MTU).map_err(fail)?;
    }
    let cable = if nic.settings.link { "" } else { ", cable out" };
    let shown =
        format!("{name}: {interface}, filter {}, {} rules on the interface{cable}", nic.settings.rules, rules.len());
    Ok(OpenNic { fd, end, rules: Some(rules), shown })
}

/// Why rules on an interface could not be set, for people.
pub fn rules_refused(interface: &str, e: &std::io::Error) -> String {
    let needs = match e.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOENT | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => {
            "; the kernel must have sch_ingress, cls_bpf and act_gact"
        }
        _ => "",
    };
    format!("rules on the interface {interface}: {e}{needs}")
}
