//! The VNC server's socket, and the pipes between viewers and devices.
use super::Machine;
use super::host::{Host, Part, socket};
use super::option::{ArgumentError, Arguments, Fate, Given, Group, OptionSpec, XENOPSD, flag, option};
use crate::failure::{Failure, system};
use crate::slot::doorbell;
use Fate::{Ignored, Implemented, Refused};
use bulkhead_bus::LAYOUTS;
use bulkhead_plan::{DeviceConfig, FdUse, Input, InputTarget, Picture, VncAddress};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(super) static GROUP: Group = Group { options: OPTIONS, keys: &[], arguments: || Box::new(Server) };

const OPTIONS: &[OptionSpec] = &[
    option(
        "vnc",
        Implemented("HOST:DISPLAY[,to=N][,password=on], unix:PATH, none; a VNC server for the guest's display"),
        "vnc",
    ),
    option(
        "k",
        Implemented(
            "en-us, en-gb, de, fr, es, it, sv: for VNC viewers that send characters instead of key codes; other names are ignored",
        ),
        "keymap",
    ),
    option("vnc-clipboard-socket-fd", Ignored("viewers' clipboards are not passed on"), XENOPSD),
    option("display", Ignored("no window is opened"), "always"),
    option("display sdl", Refused("a window in dom0"), "sdl"),
    flag("nographic", Ignored("no window is opened"), "nographic"),
];

/// The VNC server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vnc {
    /// Address of the server.
    pub at: VncAddress,
    /// Last port that is tried if the first ones are taken.
    pub last: u16,
    /// Viewers need a password.
    pub password: bool,
}

impl Vnc {
    /// Keys without an effect: packing of pictures, lock keys of viewers, the time that a key is down, and names of QEMU's other
    /// objects.
    pub const IGNORED: &[&str] = &[
        "lock-key-sync",
        "lossy",
        "non-adaptive",
        "key-delay-ms",
        "power-control",
        "audiodev",
        "id",
        "display",
        "head",
    ];
    /// Port of display 0.
    const FIRST: u16 = 5900;

    /// Parses `HOST:DISPLAY[,to=N][,password=on]` or `unix:PATH`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (place, keys) = text.split_once(',').map_or((text, None), |(p, k)| (p, Some(k)));
        let (mut last, mut password) = (None, false);
        for key in keys.into_iter().flat_map(|k| k.split(',')) {
            match key.split_once('=').unwrap_or((key, "on")) {
                ("to", n) => last = Some(n.parse::<u16>().map_err(|_| "to= is the number of a display")?),
                ("password", "on") => password = true,
                ("password", "off") => password = false,
                // Values that hold without the key.
                ("share", "allow-exclusive") => {}
                ("websocket" | "sasl" | "tls-creds" | "tls-authz" | "acl", "off") => {}
                (key, _) if Self::IGNORED.contains(&key) => {}
                _ => return Err("to= and password= are known; there is no encryption and no WebSocket"),
            }
        }
        if let Some(path) = place.strip_prefix("unix:") {
            return Ok(Self { at: VncAddress::Unix(path.to_owned()), last: 0, password });
        }
        let (host, display) = place.rsplit_once(':').ok_or("HOST:DISPLAY, unix:PATH or none")?;
        let port = |n: u16| n.checked_add(Self::FIRST).ok_or("no such display");
        let first = port(display.parse().map_err(|_| "the display is no number")?)?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let ipv6 = bare.is_some();
        Ok(Self {
            at: VncAddress::Tcp { host: bare.unwrap_or(host).to_owned(), port: first, ipv6 },
            last: last.map_or(Ok(first), port)?,
            password,
        })
    }
}

struct Server;

impl Arguments for Server {
    fn take(&mut self, given: &mut Given, machine: &mut Machine) -> Result<(), ArgumentError> {
        let value = given.value.as_str();
        let mut notes = Vec::new();
        match given.name.as_str() {
            "vnc" => {
                machine.vnc =
                    if value == "none" { None } else { Some(Vnc::parse(value).map_err(|why| given.bad(why))?) };
                let ignored = given.options.pairs.iter().filter(|(key, _)| Vnc::IGNORED.contains(&key.as_str()));
                notes.extend(ignored.map(|(key, _)| format!("-vnc {key}=: ignored")));
            }
            // `-k`
            _ if LAYOUTS.contains(&value) => machine.layout = value.to_owned(),
            _ => notes.push(format!(
                "{}: no such layout here ({}); VNC viewers that tell characters only type as on {}",
                given.shown,
                LAYOUTS.join(", "),
                machine.layout
            )),
        }
        given.notes.append(&mut notes);
        Ok(())
    }
}

/// The VNC server; `None` if the arguments do not ask for one or no part is a display.
pub fn open(host: &mut Host, parts: &[Part]) -> Result<Option<Part>, Failure> {
    let machine = host.machine;
    let draws = parts.iter().any(|p| p.config.kind().picture == Picture::Draws);
    let Some(vnc) = machine.vnc.as_ref().filter(|_| draws) else { return Ok(None) };
    let (fd, at) = self::viewers(vnc)?;
    if let VncAddress::Unix(path) = &at {
        host.sockets.push(path.clone());
    }
    let config =
        DeviceConfig::Vnc { name: machine.name.clone(), at, password: vnc.password, layout: machine.layout.clone() };
    Ok(Some(Part { kept: vec![(FdUse::Viewers, fd)], ..Part::new(config) }))
}

/// A pipe for records: reading end, writing end. Neither end waits for the other.
fn pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(system("pipe"))
}

/// Connects the viewer with the display and with the devices that take input. Does nothing without a viewer.
pub fn link(parts: &mut [Part]) -> Result<(), Failure> {
    let Some(at) = parts.iter().position(|p| p.config.kind().picture == Picture::Looks) else { return Ok(()) };
    // Only VNC viewers show keyboard lights and ask for sizes.
    let remote = parts.get(at).is_some_and(|p| p.config.kind().wishes);
    let bell = doorbell()?;
    let mut ends = Vec::new();
    for part in parts.iter_mut() {
        let kind = part.config.kind();
        if kind.picture == Picture::Draws {
            part.kept.push((FdUse::FrameBell, rustix::io::dup(&bell).map_err(system("dup"))?));
            if remote && kind.wishes {
                let (from, to) = pipe()?;
                part.kept.push((FdUse::WishesFrom, from));
                ends.push((FdUse::WishesTo, to));
            }
        }
        let sink = match kind.input {
            Input::None => continue,
            Input::Keyboard => InputTarget::Keyboard,
            Input::Usb => InputTarget::Usb,
            Input::Pv if part.domid.is_some() => InputTarget::GuestKeyboard,
            Input::Pv => InputTarget::PvKeyboard,
        };
        let (from, to) = pipe()?;
        part.kept.push((FdUse::InputFrom, from));
        ends.push((FdUse::InputTo(sink), to));
        if sink == InputTarget::Keyboard {
            // The keyboard's lights, which a frame buffer does not show.
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

/// Makes the socket for viewers; also returns its address. Taken ports are passed over as far as the arguments allow.
fn viewers(vnc: &Vnc) -> Result<(OwnedFd, VncAddress), ViewersFault> {
    let (host, first, ipv6) = match &vnc.at {
        VncAddress::Unix(path) => {
            let fd = socket(path).map_err(|e| ViewersFault::Unix { path: path.clone(), source: e.into() })?;
            return Ok((fd, vnc.at.clone()));
        }
        VncAddress::Tcp { host, port, ipv6 } => (host, *port, *ipv6),
    };
    let address: IpAddr = match host.as_str() {
        "" if ipv6 => Ipv6Addr::UNSPECIFIED.into(),
        "" => Ipv4Addr::UNSPECIFIED.into(),
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        // A name server's answer must not decide where the server listens.
        other => other.parse().map_err(|_| ViewersFault::NoAddress { host: other.to_owned() })?,
    };
    let mut taken = rustix::io::Errno::ADDRINUSE;
    for port in first..=vnc.last.max(first) {
        match tcp(SocketAddr::new(address, port)) {
            Ok(fd) => return Ok((fd, VncAddress::Tcp { host: address.to_string(), port, ipv6: address.is_ipv6() })),
            Err(e @ rustix::io::Errno::ADDRINUSE) => taken = e,
            Err(e) => return Err(ViewersFault::Port { address, port, source: e.into() }),
        }
    }
    Err(ViewersFault::Taken { address, first, last: vnc.last.max(first), source: taken.into() })
}

/// Makes a TCP socket that listens. Its connections send without delay.
fn tcp(address: SocketAddr) -> Result<OwnedFd, rustix::io::Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let fd = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&fd, true)?;
    rustix::net::sockopt::set_tcp_nodelay(&fd, true)?;
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&fd, !address.ip().is_unspecified())?;
    }
    rustix::net::bind(&fd, &address)?;
    // The process accepts sixteen at a time; a flood between two turns must not fill the queue.
    rustix::net::listen(&fd, 128)?;
    Ok(fd)
}

/// What is wrong with the socket for viewers.
#[derive(Debug, thiserror::Error)]
pub enum ViewersFault {
    /// A Unix socket cannot be made.
    #[error("unix:{path}: {source}")]
    Unix {
        /// Where.
        path: String,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The host is given by name.
    #[error("{host}: no IP address (names are not looked up)")]
    NoAddress {
        /// As the toolstack gives it.
        host: String,
    },
    /// The kernel refuses a port for another reason than that it is taken.
    #[error("{address}, port {port}: {source}")]
    Port {
        /// The host's address.
        address: IpAddr,
        /// The TCP port.
        port: u16,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// All ports that the arguments allow are taken.
    #[error("{address}, ports {first} to {last}: {source}")]
    Taken {
        /// The host's address.
        address: IpAddr,
        /// First TCP port that was tried.
        first: u16,
        /// Last TCP port that was tried.
        last: u16,
        /// The kernel's error.
        source: std::io::Error,
    },
}
