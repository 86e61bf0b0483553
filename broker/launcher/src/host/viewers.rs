//! Viewers: where they connect, and what links them to the devices that they show.
use super::{Failure, Host, Part, errno, socket};
use crate::errors::{Code, Coded as _};
use crate::machine::Vnc;
use bulkhead_plan::{DeviceConfig, FdUse, Picture, Sink, VncAddress};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The server of viewers, if the machine has one and somebody draws.
pub fn open(host: &mut Host, parts: &[Part]) -> Result<Option<Part>, Failure> {
    let machine = host.machine;
    let draws = parts.iter().any(|p| p.config.kind().picture == Picture::Draws);
    let Some(vnc) = machine.vnc.as_ref().filter(|_| draws) else { return Ok(None) };
    let (fd, at) = self::viewers(vnc).coded(Code::Viewers)?;
    if let VncAddress::Unix(path) = &at {
        host.sockets.push(path.clone());
    }
    let config =
        DeviceConfig::Vnc { name: machine.name.clone(), at, password: vnc.password, layout: machine.layout.clone() };
    Ok(Some(Part { kept: vec![(FdUse::Viewers, fd)], ..Part::new(config) }))
}

/// A pipe that carries records one way; nobody waits for the other end.
fn pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(|e| e.to_string())
}

/// Links who looks at the picture with who draws it and with who takes input. Without a viewer nothing is linked.
pub fn link(parts: &mut [Part]) -> Result<(), Failure> {
    let Some(at) = parts.iter().position(|p| p.config.kind().picture == Picture::Looks) else { return Ok(()) };
    // Only viewers of the network show lights and wish for sizes.
    let remote = parts.get(at).is_some_and(|p| matches!(p.config, DeviceConfig::Vnc { .. }));
    let bell = crate::supervise::eventfd()?;
    let mut ends = Vec::new();
    for part in parts.iter_mut() {
        let sink = match &part.config {
            DeviceConfig::Vga { .. } | DeviceConfig::Vfb { .. } => {
                part.kept.push((FdUse::FrameBell, rustix::io::dup(&bell).map_err(|e| e.to_string())?));
                if remote && matches!(part.config, DeviceConfig::Vga { .. }) {
                    let (from, to) = pipe()?;
                    part.kept.push((FdUse::WishesFrom, from));
                    ends.push((FdUse::WishesTo, to));
                }
                continue;
            }
            DeviceConfig::Ps2 => Sink::Keyboard,
            DeviceConfig::Usb { .. } => Sink::Usb,
            DeviceConfig::Vkbd { .. } if part.domid.is_some() => Sink::GuestKeyboard,
            DeviceConfig::Vkbd { .. } => Sink::PvKeyboard,
            DeviceConfig::Platform { .. }
            | DeviceConfig::Ide { .. }
            | DeviceConfig::FwCfg { .. }
            | DeviceConfig::Nic { .. }
            | DeviceConfig::Serial { .. }
            | DeviceConfig::Fbdev { .. }
            | DeviceConfig::Vnc { .. }
            | DeviceConfig::Xenbus { .. }
            | DeviceConfig::Grant
            | DeviceConfig::Qdisk { .. }
            | DeviceConfig::Console { .. }
            | DeviceConfig::Vchan { .. } => continue,
        };
        let (from, to) = pipe()?;
        part.kept.push((FdUse::InputFrom, from));
        ends.push((FdUse::InputTo(sink), to));
        if sink == Sink::Keyboard {
            // Its lights; a frame buffer shows none.
            if remote {
                let (from, to) = pipe()?;
                part.kept.push((FdUse::LedsTo, to));
                ends.push((FdUse::LedsFrom, from));
            }
        } else {
            let (from, to) = pipe()?;
            part.kept.push((FdUse::TakesTo, to));
            ends.push((FdUse::TakesFrom(sink), from));
        }
    }
    if let Some(viewer) = parts.get_mut(at) {
        viewer.kept.push((FdUse::FrameBell, bell));
        viewer.kept.append(&mut ends);
    }
    Ok(())
}

/// A socket for viewers, and where it is in the end. A port that is taken is passed over as far as the arguments allow.
fn viewers(vnc: &Vnc) -> Result<(OwnedFd, VncAddress), Failure> {
    let (host, first, ipv6) = match &vnc.at {
        VncAddress::Unix(path) => {
            let fd = socket(path).map_err(|e| errno(&format!("-vnc unix:{path}"), e))?;
            return Ok((fd, vnc.at.clone()));
        }
        VncAddress::Tcp { host, port, ipv6 } => (host, *port, *ipv6),
    };
    let address: IpAddr = match host.as_str() {
        "" if ipv6 => Ipv6Addr::UNSPECIFIED.into(),
        "" => Ipv4Addr::UNSPECIFIED.into(),
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        // Who an address is must not depend on somebody else's answer.
        other => other.parse().map_err(|_| format!("-vnc {other}: no IP address (names are not looked up)"))?,
    };
    let mut taken = rustix::io::Errno::ADDRINUSE;
    for port in first..=vnc.last.max(first) {
        match tcp(SocketAddr::new(address, port)) {
            Ok(fd) => return Ok((fd, VncAddress::Tcp { host: address.to_string(), port, ipv6: address.is_ipv6() })),
            Err(e @ rustix::io::Errno::ADDRINUSE) => taken = e,
            Err(e) => return Err(errno(&format!("-vnc {address}, port {port}"), e)),
        }
    }
    Err(errno(&format!("-vnc {address}, ports {first} to {}", vnc.last.max(first)), taken))
}

/// A TCP socket that listens. What it accepts sends at once what it is given.
fn tcp(address: SocketAddr) -> Result<OwnedFd, rustix::io::Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let fd = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&fd, true)?;
    rustix::net::sockopt::set_tcp_nodelay(&fd, true)?;
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&fd, !address.ip().is_unspecified())?;
    }
    rustix::net::bind(&fd, &address)?;
    rustix::net::listen(&fd, 16)?;
    Ok(fd)
}
