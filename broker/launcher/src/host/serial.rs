//! Serial ports and the other ends of consoles.
use super::{Failure, Host, Part, errno, socket};
use crate::errors::{Code, Coded as _};
use crate::machine::Serial;
use bulkhead_plan::{DeviceConfig, FdUse};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Serial ports that a PC has places for.
const PORTS: usize = 4;

/// The machine's serial ports.
pub fn open(host: &mut Host) -> Result<Vec<Part>, Failure> {
    let mut parts = Vec::new();
    for (index, serial) in host.machine.serials.iter().enumerate() {
        let end = self::serial(index, serial).coded(Code::Serial)?;
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

/// A serial port's other end, and what keeps it alive.
pub struct SerialEnd {
    /// For the process; `None` for `null`.
    pub fd: Option<OwnedFd>,
    /// The slave side of a pty, open so that the master never sees a hang-up.
    pub slave: Option<OwnedFd>,
    /// The name of the terminal, if it is a new one.
    pub terminal: Option<String>,
    /// What query-chardev says.
    pub shown: String,
}

/// Opens a serial port's other end.
pub fn serial(index: usize, serial: &Serial) -> Result<SerialEnd, Failure> {
    let nonblocking = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fail = |path: &str, e| errno(&format!("serial port {index}: {path}"), e);
    let plain = |fd| SerialEnd { fd, slave: None, terminal: None, shown: serial.shown(None) };
    match serial {
        Serial::Null | Serial::None => Ok(plain(None)),
        Serial::File(path) | Serial::Append(path) => {
            // For reading too if it is a FIFO, so that opening it waits for nobody.
            let is_fifo = rustix::fs::stat(path.as_str())
                .is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode) == rustix::fs::FileType::Fifo);
            let begin = if matches!(serial, Serial::Append(_)) { OFlags::APPEND } else { OFlags::TRUNC };
            let how = if is_fifo { OFlags::RDWR } else { OFlags::WRONLY | OFlags::CREATE | begin };
            let fd = rustix::fs::open(path.as_str(), how | nonblocking, Mode::from_raw_mode(0o600))
                .map_err(|e| fail(path, e))?;
            if is_fifo {
                // The process must not read what it has written itself.
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
            let fail = |e| errno(&format!("serial port {index}: a pseudo terminal"), e);
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

/// Opens a character device. A stub domain's console is there when its front end has connected, which is not yet so when
/// this process is the first one.
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
