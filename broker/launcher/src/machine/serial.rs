//! Serial ports, and the other ends of serial ports and consoles.
use super::DeviceKind;
use super::host::{Host, Part, socket};
use super::option::{ArgumentError, Arguments, Fate, Given, Group, OptionSpec, bytes, option, wrong};
use super::{Chardev, Machine, Socket};
use crate::failure::Failure;
use crate::options::Options;
use bulkhead_plan::{DeviceConfig, FdUse, kind};
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Serial ports of a PC; more are accepted and not emulated.
const PORTS: usize = 4;
/// Most bytes of a file without `-console-limit`.
pub(super) const DEFAULT_LIMIT: u64 = 4 << 20;
/// Values of `-console-limit`: room for what comes while a file is copied; the limit in the profiles.
const LIMITS: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 30;
/// The file with the output before FILE's is FILE.old. libxl gives the logs of earlier starts numbers.
const EARLIER: &str = ".old";

pub(super) static DEVICE: DeviceKind = DeviceKind {
    kinds: &[&kind::SERIAL],
    arguments: Group { options: OPTIONS, keys: &[], arguments: || Box::new(Ports::default()) },
    open,
};

const OPTIONS: &[OptionSpec] = &[
    option(
        "serial",
        Fate::Implemented("pty, file:PATH, null, none, /dev/…, unix:PATH[,server=on,wait=off], chardev:ID"),
        "serial",
    ),
    option(
        "console-limit",
        Fate::Implemented(
            "most bytes of a file with the output of a serial port or a console, 64K to 1G; as much is kept in FILE.old; not QEMU's",
        ),
        "",
    ),
];

#[derive(Default)]
struct Ports {
    /// Ports with the id of their chardev, which may come after them.
    named: Vec<(usize, String)>,
}

impl Arguments for Ports {
    fn take(&mut self, given: &mut Given, machine: &mut Machine) -> Result<(), ArgumentError> {
        if given.name == "console-limit" {
            let limit = limit(&given.value).ok_or_else(|| given.bad("bytes, 64K to 1G (K, M or G)"))?;
            machine.console_limit = limit;
            return Ok(());
        }
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

/// Parses `-console-limit`.
pub(crate) fn limit(text: &str) -> Option<u64> {
    bytes(text).filter(|limit| LIMITS.contains(limit))
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
    /// The file to which a stub domain's guest is saved.
    SavedTo(String),
    /// The file from which it is restored; none if it is not there.
    SavedFrom(String),
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
            Self::File(path) | Self::Append(path) | Self::SavedTo(path) | Self::SavedFrom(path) => {
                format!("file:{path}")
            }
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
        let end = self::serial(index, serial, host.machine.console_limit, host.saved.is_some())?;
        host.chardevs.push((format!("serial{index}"), end.shown));
        host.held.extend(end.slave);
        host.sockets.extend(serial.listens().map(str::to_owned));
        if *serial != Serial::None && index < PORTS {
            let limit = end.earlier.is_some().then_some(host.machine.console_limit);
            let config = DeviceConfig::Serial { index: index as u8, listens: serial.listens().is_some(), limit };
            let kept = end.fd.map(|fd| (FdUse::Serial, fd)).into_iter();
            let kept = kept.chain(end.earlier.map(|fd| (FdUse::SerialEarlier, fd))).collect();
            parts.push(Part { kept, ..Part::new(config) });
        }
    }
    Ok(parts)
}

/// The open other end of a serial port or console.
pub struct SerialEnd {
    /// The process's descriptor; `None` for `null`.
    pub fd: Option<OwnedFd>,
    /// Its file with the output before that, if the descriptor is a file.
    pub earlier: Option<OwnedFd>,
    /// The slave of a new pseudo terminal; it stays open so that the master sees no hang-up.
    pub slave: Option<OwnedFd>,
    /// Path of a new pseudo terminal.
    pub terminal: Option<String>,
    /// File name in query-chardev.
    pub shown: String,
}

/// Opens the other end of serial port or console `index`. `limit`: most bytes of a file. `goes_on`: the machine was saved, and a file keeps
/// what it has: after a crash of the guest that is what its kernel said.
pub fn serial(index: usize, serial: &Serial, limit: u64, goes_on: bool) -> Result<SerialEnd, Failure> {
    let append = match serial {
        Serial::File(path) if goes_on => Some(Serial::Append(path.clone())),
        _ => None,
    };
    open_end(append.as_ref().unwrap_or(serial), limit).map_err(|fault| Failure::Serial { port: index, fault })
}

fn open_end(serial: &Serial, limit: u64) -> Result<SerialEnd, SerialFault> {
    let nonblocking = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fail = |path: &str, e: rustix::io::Errno| SerialFault::Path { path: path.to_owned(), source: e.into() };
    let plain = |fd| SerialEnd { fd, earlier: None, slave: None, terminal: None, shown: serial.shown(None) };
    match serial {
        Serial::Null | Serial::None => Ok(plain(None)),
        Serial::File(path) | Serial::Append(path) => {
            let kind = rustix::fs::stat(path.as_str()).map(|s| FileType::from_raw_mode(s.st_mode));
            match kind {
                // A FIFO is opened for reading too, because opening it for writing alone fails without a reader.
                Ok(FileType::Fifo) => {
                    let _reader = rustix::fs::open(path.as_str(), OFlags::RDWR | nonblocking, Mode::empty())
                        .map_err(|e| fail(path, e))?;
                    // The process gets a descriptor for writing alone, so that it cannot read its own bytes.
                    let writer = rustix::fs::open(path.as_str(), OFlags::WRONLY | nonblocking, Mode::empty())
                        .map_err(|e| fail(path, e))?;
                    Ok(plain(Some(writer)))
                }
                Ok(FileType::RegularFile) | Err(Errno::NOENT) => {
                    let append = matches!(serial, Serial::Append(_));
                    let (fd, earlier) = files(path, append, limit)?;
                    Ok(SerialEnd { earlier: Some(earlier), ..plain(Some(fd)) })
                }
                Ok(_) => {
                    let fd = rustix::fs::open(path.as_str(), OFlags::WRONLY | nonblocking, Mode::empty());
                    Ok(plain(Some(fd.map_err(|e| fail(path, e))?)))
                }
                Err(e) => Err(fail(path, e)),
            }
        }
        Serial::SavedTo(path) => {
            let how = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | nonblocking;
            state_file(path, how).map(|fd| plain(Some(fd))).map_err(|e| fail(path, e))
        }
        Serial::SavedFrom(path) => match state_file(path, OFlags::RDONLY | OFlags::NOFOLLOW | nonblocking) {
            Err(Errno::NOENT) => Ok(plain(None)),
            other => other.map(|fd| plain(Some(fd))).map_err(|e| fail(path, e)),
        },
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
            Ok(SerialEnd { fd: Some(master), earlier: None, slave: Some(slave), terminal: Some(name), shown })
        }
    }
}

/// Opens a file for a port's output, and the file with the output before it. Without `append` the file is emptied, as QEMU does. The
/// process reads the file to copy it. Both are written at their ends: they may be emptied at any time, by the process or the operator.
fn files(path: &str, append: bool, limit: u64) -> Result<(OwnedFd, OwnedFd), SerialFault> {
    let earlier_path = format!("{path}{EARLIER}");
    let fail = |path: &str, e: Errno| SerialFault::Path { path: path.to_owned(), source: e.into() };
    let always = OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let open = |path: &str, how: OFlags| {
        let fd = rustix::fs::open(path, how | always, Mode::from_raw_mode(0o600)).map_err(|e| fail(path, e))?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| fail(path, e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(SerialFault::NoFile { path: path.to_owned() });
        }
        Ok((fd, stat.st_size.unsigned_abs()))
    };
    let begin = if append { OFlags::empty() } else { OFlags::TRUNC };
    let (mut fd, size) = open(path, OFlags::RDWR | begin)?;
    if size > limit {
        // Written by another device model, or under a higher limit. Nothing of it is lost before the next file is full.
        rustix::fs::rename(path, earlier_path.as_str()).map_err(|e| fail(&earlier_path, e))?;
        (fd, _) = open(path, OFlags::RDWR)?;
    }
    let (earlier, _) = open(&earlier_path, OFlags::WRONLY | OFlags::NOFOLLOW)?;
    Ok((fd, earlier))
}

/// Opens a file of a saved state, which libxl makes or reads; it has the guest's secrets.
fn state_file(path: &str, how: OFlags) -> Result<OwnedFd, Errno> {
    let fd = rustix::fs::open(path, how, Mode::from_raw_mode(0o600))?;
    let stat = rustix::fs::fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile { Ok(fd) } else { Err(Errno::INVAL) }
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
    /// A file's name is a link's, a device's or a directory's.
    #[error("{path}: not a file")]
    NoFile {
        /// Where it is.
        path: String,
    },
    /// A new pseudo terminal cannot be had.
    #[error("a pseudo terminal: {0}")]
    Terminal(#[source] std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file's path, removed at the end of the test.
    struct Place(std::path::PathBuf);

    impl Place {
        fn new(test: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("bulkhead-serial-{}-{test}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }
        fn path(&self, name: &str) -> String {
            self.0.join(name).display().to_string()
        }
        fn write(&self, name: &str, bytes: &[u8]) {
            std::fs::write(self.path(name), bytes).unwrap();
        }
        fn read(&self, name: &str) -> String {
            std::fs::read_to_string(self.path(name)).unwrap()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_is_emptied_or_continued_as_qemu_does_it_and_has_an_earlier_one() {
        let place = Place::new("emptied");
        let output = |end: SerialEnd| {
            let (fd, earlier) = (end.fd.unwrap(), end.earlier.unwrap());
            rustix::io::write(&fd, b"new").unwrap();
            rustix::io::write(&earlier, b"!").unwrap();
            (place.read("f"), place.read("f.old"))
        };
        let file = Serial::File(place.path("f"));
        assert_eq!(output(open_end(&file, 100).unwrap()), ("new".to_owned(), "!".to_owned()));
        assert_eq!(output(open_end(&file, 100).unwrap()), ("new".to_owned(), "!!".to_owned()), "nothing of it is lost");
        let append = Serial::Append(place.path("f"));
        assert_eq!(output(open_end(&append, 100).unwrap()), ("newnew".to_owned(), "!!!".to_owned()));
    }

    /// It would stay as large as it is, and nothing could be appended.
    #[test]
    fn a_file_that_is_larger_than_the_limit_already_becomes_the_earlier_one() {
        let place = Place::new("larger");
        place.write("f", &[b'x'; 101]);
        open_end(&Serial::Append(place.path("f")), 100).unwrap();
        assert_eq!((place.read("f"), place.read("f.old")), (String::new(), "x".repeat(101)));
        place.write("f", &[b'y'; 100]);
        open_end(&Serial::Append(place.path("f")), 100).unwrap();
        assert_eq!((place.read("f"), place.read("f.old")), ("y".repeat(100), "x".repeat(101)));
    }

    #[test]
    fn what_is_no_file_has_no_earlier_one_and_a_link_is_not_followed_there() {
        let place = Place::new("other");
        assert!(open_end(&Serial::File("/dev/null".into()), 100).unwrap().earlier.is_none());
        std::fs::write(place.path("victim"), "kept").unwrap();
        std::os::unix::fs::symlink(place.path("victim"), place.path("f.old")).unwrap();
        assert!(open_end(&Serial::File(place.path("f")), 100).is_err());
        assert_eq!(place.read("victim"), "kept");
        std::fs::create_dir(place.path("d")).unwrap();
        assert!(open_end(&Serial::File(place.path("d")), 100).is_err());
    }

    #[test]
    fn the_limit_is_neither_too_small_to_copy_nor_above_the_profiles() {
        assert_eq!([limit("64K"), limit("4M"), limit("1G")], [Some(64 << 10), Some(4 << 20), Some(1 << 30)]);
        assert_eq!([limit("63K"), limit("1025M"), limit("none")], [None; 3]);
        for role in ["serial", "console"] {
            assert_eq!(bulkhead_policy::profile(role).unwrap().limits.file_size, *LIMITS.end(), "{role}");
        }
    }
}
