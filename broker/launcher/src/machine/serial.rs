//! Serial ports, and the other ends of serial ports and consoles.
use super::DeviceKind;
use super::host::{Host, Part, socket};
use super::option::{ArgumentError, Arguments, Fate, Given, Group, OptionSpec, option, wrong};
use super::{Chardev, Machine, Socket};
use crate::failure::Failure;
use crate::options::Options;
use bulkhead_plan::{DeviceConfig, FdUse, kind};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Serial ports of a PC; more are accepted and not emulated.
const PORTS: usize = 4;

pub(super) static DEVICE: DeviceKind = DeviceKind {
    kinds: &[&kind::SERIAL],
    arguments: Group { options: OPTIONS, keys: &[], arguments: || Box::new(Ports::default()) },
    open,
};

const OPTIONS: &[OptionSpec] = &[option(
    "serial",
    Fate::Implemented("pty, file:PATH, null, none, /dev/…, unix:PATH[,server=on,wait=off], chardev:ID"),
    "serial",
)];

#[derive(Default)]
struct Ports {
    /// Ports with the id of their chardev, which may come after them.
    named: Vec<(usize, String)>,
}

impl Arguments for Ports {
    fn take(&mut self, given: &mut Given, machine: &mut Machine) -> Result<(), ArgumentError> {
        let serial = match given.value.strip_prefix("chardev:") {
            Some(id) => {
                self.named.push((machine.serials.len(), id.to_owned()));
                Some(Serial::Null)
            }
            None => Serial::parse(&given.value),
        };
        let known = "pty, file:PATH, null, none, unix:PATH[,server=on,wait=off], chardev:ID or /dev/… is known";
        machine.serials.push(serial.ok_or_else(|| given.bad(known))?);
        Ok(())
    }

    fn finish(&mut self, machine: &mut Machine) -> Result<Vec<String>, ArgumentError> {
        for (port, id) in self.named.drain(..) {
            let end =
                machine.chardevs.iter().filter(|(name, _)| *name == id).find_map(|(_, chardev)| Serial::of(chardev));
            let end = end.ok_or_else(|| wrong("serial", &format!("chardev:{id}"), "there is no chardev of this id"))?;
            if let Some(serial) = machine.serials.get_mut(port) {
                *serial = end;
            }
        }
        Ok(Vec::new())
    }
}

/// The other end of a serial port or console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serial {
    /// A new pseudo terminal.
    Pty,
    /// A file, which is emptied first, or a FIFO.
    File(String),
    /// The same without emptying the file.
    Append(String),
    /// No other end: output is dropped.
    Null,
    /// A character device of the host, by path.
    Device(String),
    /// A Unix socket to connect to.
    Unix(String),
    /// A Unix socket that the launcher makes and that serves one peer at a time.
    UnixServer(String),
    /// The port is not there.
    None,
}

impl Serial {
    /// Parses the value of `-serial` without `chardev:`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "pty" => Self::Pty,
            "null" => Self::Null,
            "none" => Self::None,
            _ => match text.split_once(':') {
                Some(("file", path)) if !path.is_empty() => Self::File(path.to_owned()),
                Some(("unix", path)) => {
                    let options = Options::parse(path);
                    let path = options.head.clone().filter(|p| !p.is_empty())?;
                    match (options.flag("server", false)?, options.flag("wait", true)?) {
                        (false, _) => Self::Unix(path),
                        // Waiting for a peer would delay the guest's creation.
                        (true, true) => return None,
                        (true, false) => Self::UnixServer(path),
                    }
                }
                _ if text.starts_with("/dev/") => Self::Device(text.to_owned()),
                _ => return None,
            },
        })
    }

    /// A chardev as a port's other end; `None` for a socket that the toolstack has opened.
    fn of(chardev: &Chardev) -> Option<Self> {
        Some(match chardev {
            Chardev::Socket(Socket::Path(path)) => Self::UnixServer(path.clone()),
            Chardev::Socket(Socket::Fd(_)) => return None,
            Chardev::Pty => Self::Pty,
            Chardev::Null => Self::Null,
            Chardev::File { path, append: false } => Self::File(path.clone()),
            Chardev::File { path, append: true } => Self::Append(path.clone()),
        })
    }

    /// Path of the socket that listens.
    pub fn listens(&self) -> Option<&str> {
        if let Self::UnixServer(path) = self { Some(path) } else { None }
    }

    /// File name in query-chardev; `pty`: path of a pseudo terminal.
    pub fn shown(&self, pty: Option<&str>) -> String {
        match self {
            Self::Pty => format!("pty:{}", pty.unwrap_or("")),
            Self::File(path) | Self::Append(path) => format!("file:{path}"),
            Self::Null => "null".to_owned(),
            Self::Device(path) => path.clone(),
            Self::Unix(path) => format!("unix:{path}"),
            Self::UnixServer(path) => format!("unix:{path},server=on"),
            Self::None => "none".to_owned(),
        }
    }
}

/// Opens the machine's serial ports.
pub fn open(host: &mut Host) -> Result<Vec<Part>, Failure> {
    let mut parts = Vec::new();
    for (index, serial) in host.machine.serials.iter().enumerate() {
        let end = self::serial(index, serial)?;
        host.chardevs.push((format!("serial{index}"), end.shown));
        host.held.extend(end.slave);
        host.sockets.extend(serial.listens().map(str::to_owned));
        if *serial != Serial::None && index < PORTS {
            let config = DeviceConfig::Serial { index: index as u8, listens: serial.listens().is_some() };
            let kept = end.fd.into_iter().map(|fd| (FdUse::Serial, fd)).collect();
            parts.push(Part { kept, ..Part::new(config) });
        }
    }
    Ok(parts)
}

/// The open other end of a serial port or console.
pub struct SerialEnd {
    /// The process's descriptor; `None` for `null`.
    pub fd: Option<OwnedFd>,
    /// The slave of a new pseudo terminal; it stays open so that the master sees no hang-up.
    pub slave: Option<OwnedFd>,
    /// Path of a new pseudo terminal.
    pub terminal: Option<String>,
    /// File name in query-chardev.
    pub shown: String,
}

/// Opens the other end of serial port or console `index`.
pub fn serial(index: usize, serial: &Serial) -> Result<SerialEnd, Failure> {
    open_end(serial).map_err(|fault| Failure::Serial { port: index, fault })
}

fn open_end(serial: &Serial) -> Result<SerialEnd, SerialFault> {
    let nonblocking = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fail = |path: &str, e: rustix::io::Errno| SerialFault::Path { path: path.to_owned(), source: e.into() };
    let plain = |fd| SerialEnd { fd, slave: None, terminal: None, shown: serial.shown(None) };
    match serial {
        Serial::Null | Serial::None => Ok(plain(None)),
        Serial::File(path) | Serial::Append(path) => {
            // A FIFO is opened for reading too, because opening it for writing alone fails without a reader.
            let is_fifo = rustix::fs::stat(path.as_str())
                .is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode) == rustix::fs::FileType::Fifo);
            let begin = if matches!(serial, Serial::Append(_)) { OFlags::APPEND } else { OFlags::TRUNC };
            let how = if is_fifo { OFlags::RDWR } else { OFlags::WRONLY | OFlags::CREATE | begin };
            let fd = rustix::fs::open(path.as_str(), how | nonblocking, Mode::from_raw_mode(0o600))
                .map_err(|e| fail(path, e))?;
            if is_fifo {
                // The process gets a descriptor for writing alone, so that it cannot read its own bytes.
                let writer = rustix::fs::open(path.as_str(), OFlags::WRONLY | nonblocking, Mode::empty())
                    .map_err(|e| fail(path, e))?;
                return Ok(plain(Some(writer)));
            }
            Ok(plain(Some(fd)))
        }
        Serial::Device(path) => {
            let fd = console(path, OFlags::RDWR | nonblocking).map_err(|e| fail(path, e))?;
            raw(&fd);
            Ok(plain(Some(fd)))
        }
        Serial::Unix(path) => {
            let flags = SocketFlags::CLOEXEC;
            let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
                .map_err(|e| fail(path, e))?;
            let address = SocketAddrUnix::new(path.as_str()).map_err(|e| fail(path, e))?;
            rustix::net::connect(&fd, &address).map_err(|e| fail(path, e))?;
            rustix::io::ioctl_fionbio(&fd, true).map_err(|e| fail(path, e))?;
            Ok(plain(Some(fd)))
        }
        Serial::UnixServer(path) => Ok(plain(Some(socket(path).map_err(|e| fail(path, e))?))),
        Serial::Pty => {
            use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
            let fail = |e: rustix::io::Errno| SerialFault::Terminal(e.into());
            let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).map_err(fail)?;
            grantpt(&master).and_then(|()| unlockpt(&master)).map_err(fail)?;
            let name = ptsname(&master, Vec::new()).map_err(fail)?;
            let name = name.to_string_lossy().into_owned();
            let slave = rustix::fs::open(name.as_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
                .map_err(fail)?;
            raw(&slave);
            rustix::io::ioctl_fionbio(&master, true).map_err(fail)?;
            let shown = serial.shown(Some(&name));
            Ok(SerialEnd { fd: Some(master), slave: Some(slave), terminal: Some(name), shown })
        }
    }
}

/// Opens a character device. A stub domain's console is missing until its front end has connected, so it is waited for (5 s at
/// most).
fn console(path: &str, how: OFlags) -> Result<OwnedFd, rustix::io::Errno> {
    let mut tries = 0;
    loop {
        match rustix::fs::open(path, how, Mode::empty()) {
            Err(rustix::io::Errno::NODEV | rustix::io::Errno::NXIO) if path.starts_with("/dev/hvc") && tries < 500 => {
                tries = i32::saturating_add(tries, 1);
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

fn raw(fd: &OwnedFd) {
    if let Ok(mut mode) = rustix::termios::tcgetattr(fd) {
        mode.make_raw();
        let _ = rustix::termios::tcsetattr(fd, rustix::termios::OptionalActions::Now, &mode);
    }
}

/// What is wrong with the other end of a serial port.
#[derive(Debug, thiserror::Error)]
pub enum SerialFault {
    /// A file, a device or a socket.
    #[error("{path}: {source}")]
    Path {
        /// Where it is.
        path: String,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// A new pseudo terminal cannot be had.
    #[error("a pseudo terminal: {0}")]
    Terminal(#[source] std::io::Error),
}
