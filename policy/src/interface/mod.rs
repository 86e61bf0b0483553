//! The host's network interfaces that a network card's process reads and writes. The launcher opens them and installs their rules
//! before any process runs; the process can do neither.
//!
//! | file | what |
//! |---|---|
//! | `tap.rs` | taps, in dom0 |
//! | `packet.rs` | packet sockets, in a stub domain |
//! | `rules.rs` | rules for the frames of an interface, as tc's classifiers of its clsact |
//! | `program.rs` | those rules as programs of classic BPF |
//! | `netlink.rs` | rtnetlink's messages |
mod netlink;
pub mod packet;
mod program;
mod rules;
pub mod tap;

pub use rules::Rules;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Number of the interface with this name.
///
/// # Errors
/// There is no such interface.
pub fn index(name: &str) -> std::io::Result<u32> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    Ok(rustix::net::netdevice::name_to_index(&socket, name)?)
}

/// Brings an interface up, with this MTU if it accepts it.
///
/// # Errors
/// The kernel's.
pub fn up(index: u32, mtu: u32) -> std::io::Result<()> {
    let mut netlink = netlink::Netlink::open()?;
    // An interface with a lower limit keeps its MTU.
    let _ = netlink.set_link(index, None, Some(mtu));
    netlink.set_link(index, Some(true), None)
}

/// The interface that has this hardware address.
pub fn by_address(mac: [u8; 6]) -> Option<String> {
    let wanted: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
    let wanted = wanted.join(":");
    let mut names: Vec<String> =
        std::fs::read_dir("/sys/class/net").ok()?.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names.into_iter().find(|name| {
        std::fs::read_to_string(format!("/sys/class/net/{name}/address")).is_ok_and(|a| a.trim() == wanted)
    })
}
