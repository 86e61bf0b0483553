//! Rules for the frames of an interface (tc: a clsact with one classifier of classic BPF for each rule, whose action drops and
//! counts). They apply to every holder of the interface's descriptor, so a compromised process cannot evade them.
use super::netlink::{Attributes, DELETE_FILTER, GET_FILTER, NEW, NEW_FILTER, NEW_QDISC, Netlink, attribute};
use super::program;
use bulkhead_bus::nic::NicSettings;

/// Parents of classifiers: frames that enter the interface, frames that leave it (TC_H_CLSACT with TC_H_MIN_INGRESS and _EGRESS).
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// The clsact itself: parent and handle.
const CLSACT: u32 = 0xffff_fff1;
const HANDLE: u32 = 0xffff_0000;
/// TCA_KIND, TCA_OPTIONS.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
/// TCA_BPF_ACT, TCA_BPF_OPS_LEN, TCA_BPF_OPS.
const ACT: u16 = 1;
const OPS_LEN: u16 = 4;
const OPS: u16 = 5;
/// TCA_ACT_KIND, TCA_ACT_OPTIONS, TCA_ACT_STATS; TCA_GACT_PARMS.
const ACT_KIND: u16 = 1;
const ACT_OPTIONS: u16 = 2;
const ACT_STATS: u16 = 4;
const GACT_PARMS: u16 = 2;
/// TCA_STATS_BASIC: bytes (64 bits) and packets (32 bits).
const BASIC: u16 = 1;
/// TC_ACT_SHOT.
const DROP: u32 = 2;
/// ETH_P_ALL in network order.
const ALL: u32 = 0x0003u16.to_be() as u32;
/// Priorities of one set of rules. The next set uses the other half, so that no frame passes unchecked between two sets.
const SET: u32 = 100;

/// The rules that are installed on an interface.
#[derive(Debug)]
pub struct Rules {
    index: u32,
    /// The guest's frames enter the interface (a tap); otherwise they leave it (a packet socket).
    ingress: bool,
    mac: [u8; 6],
    /// Name, parent and priority of each rule in force.
    names: Vec<(&'static str, u32, u32)>,
    second: bool,
    there: bool,
}

impl Rules {
    /// Rules for the interface with this number, whose card has this address; none is in force yet.
    pub fn new(index: u32, ingress: bool, mac: [u8; 6]) -> Self {
        Self { index, ingress, mac, names: Vec::new(), second: false, there: false }
    }

    /// Number of rules in force.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether no rule is in force.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    fn programs(&self, settings: &NicSettings) -> Vec<(&'static str, u32, Option<Vec<u8>>)> {
        let (from, to) = if self.ingress { (INGRESS, EGRESS) } else { (EGRESS, INGRESS) };
        if !settings.link {
            return vec![("cable", from, program::everything()), ("cable (to the guest)", to, program::everything())];
        }
        let rules = &settings.rules;
        let mut all = Vec::new();
        if rules.mac {
            all.push(("source MAC", from, program::source_mac(self.mac)));
        }
        if rules.guard || rules.addresses.is_some() {
            all.push(("VLAN", from, program::vlan()));
        }
        if rules.guard {
            all.push(("DHCP server", from, program::dhcp_server()));
            all.push(("router", from, program::router()));
        }
        if let Some(addresses) = &rules.addresses {
            let ipv6 = addresses.ipv6_of(self.mac);
            all.push(("EtherType", from, program::ether_type()));
            all.push(("ARP", from, program::arp(self.mac, &addresses.ipv4)));
            all.push(("source IPv4", from, program::source_ipv4(&addresses.ipv4)));
            all.push(("source IPv6", from, program::source_ipv6(&ipv6)));
            all.push(("neighbour discovery", from, program::neighbour(&ipv6)));
        }
        all
    }

    /// Installs the rules of these settings. The previous rules stay in force until all new ones are.
    ///
    /// # Errors
    /// The kernel's error. The previous rules are then in force, and perhaps some of the new ones.
    pub fn set(&mut self, settings: &NicSettings) -> std::io::Result<()> {
        let programs = self.programs(settings);
        if programs.is_empty() && self.names.is_empty() {
            return Ok(());
        }
        let mut netlink = Netlink::open()?;
        if !self.there {
            match netlink.ask(
                NEW_QDISC,
                NEW,
                &self.head(HANDLE, CLSACT, 0),
                &Attributes::default().with_name(KIND, "clsact"),
            ) {
                Err(e) if e.raw_os_error() != Some(libc::EEXIST) => return Err(e),
                _ => self.there = true,
            }
        }
        self.second = !self.second;
        let first = if self.second { SET } else { 1 };
        let mut names = Vec::new();
        let mut failed = None;
        for (priority, (name, parent, program)) in (first..).zip(programs) {
            let added = program
                .ok_or_else(|| std::io::Error::other("a rule is too long"))
                .and_then(|p| self.add(&mut netlink, parent, priority, &p));
            if let Err(e) = added {
                failed = Some(std::io::Error::new(e.kind(), format!("rule {name:?}: {e}")));
                break;
            }
            names.push((name, parent, priority));
        }
        // Removes the previous rules, or the new ones after an error.
        let old = if failed.is_some() { names } else { std::mem::replace(&mut self.names, names) };
        for (_, parent, priority) in old {
            netlink.ask(DELETE_FILTER, 0, &self.head(0, parent, priority), &Attributes::default())?;
        }
        match failed {
            Some(e) => {
                self.second = !self.second;
                Err(e)
            }
            None => Ok(()),
        }
    }

    /// Gives the interface up, because no process uses it any more. A tap ends with its last descriptor; a stub domain's interface
    /// stays, and is brought down so that it receives no frames.
    ///
    /// # Errors
    /// The kernel's.
    pub fn leave(self) -> std::io::Result<()> {
        if self.ingress {
            return Ok(());
        }
        Netlink::open()?.set_link(self.index, Some(false), None)
    }

    /// Each rule in force, and the number of frames that it has dropped.
    ///
    /// # Errors
    /// The kernel's.
    pub fn dropped(&self) -> std::io::Result<Vec<(&'static str, u64)>> {
        let mut counts: Vec<(&'static str, u64)> = self.names.iter().map(|(name, ..)| (*name, 0)).collect();
        if counts.is_empty() {
            return Ok(counts);
        }
        let mut netlink = Netlink::open()?;
        for parent in [INGRESS, EGRESS] {
            netlink.dump(GET_FILTER, &self.head(0, parent, 0), |message| {
                let word = |at: usize| {
                    message.get(at..).and_then(|b| b.first_chunk::<4>()).map_or(0, |b| u32::from_ne_bytes(*b))
                };
                let (parent, priority) = (word(12), word(16) >> 16);
                let Some(at) = self.names.iter().position(|(_, p, n)| (*p, *n) == (parent, priority)) else { return };
                let packets = message.get(20..).and_then(packets);
                if let (Some((_, count)), Some(packets)) = (counts.get_mut(at), packets) {
                    *count = u64::from(packets);
                }
            })?;
        }
        Ok(counts)
    }

    /// struct tcmsg: family, interface, handle, parent, priority and protocol.
    fn head(&self, handle: u32, parent: u32, priority: u32) -> Vec<u8> {
        let info = if priority == 0 { 0 } else { priority << 16 | ALL };
        [0, self.index, handle, parent, info].into_iter().flat_map(u32::to_ne_bytes).collect()
    }

    fn add(&self, netlink: &mut Netlink, parent: u32, priority: u32, program: &[u8]) -> std::io::Result<()> {
        // struct tc_gact: index, capabilities, action, two counters.
        let action: Vec<u8> = [0, 0, DROP, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        let action = Attributes::default().with(GACT_PARMS, &action);
        let action = Attributes::default().with_name(ACT_KIND, "gact").with_nest(ACT_OPTIONS, action);
        let count = u16::try_from(program.len().checked_div(8).unwrap_or(0)).unwrap_or(0);
        let options = Attributes::default()
            .with_nest(ACT, Attributes::default().with_nest(1, action))
            .with(OPS_LEN, &count.to_ne_bytes())
            .with(OPS, program);
        netlink.ask(
            NEW_FILTER,
            NEW,
            &self.head(0, parent, priority),
            &Attributes::default().with_name(KIND, "bpf").with_nest(OPTIONS, options),
        )
    }
}

/// Number of packets that a classifier's action has counted; `None` for another message.
fn packets(attributes: &[u8]) -> Option<u32> {
    let action = attribute(attribute(attribute(attributes, OPTIONS)?, ACT)?, 1)?;
    let basic = attribute(attribute(action, ACT_STATS)?, BASIC)?;
    basic.get(8..12)?.first_chunk::<4>().map(|b| u32::from_ne_bytes(*b))
}
