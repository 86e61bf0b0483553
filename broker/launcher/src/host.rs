//! What the launcher opens on the host, before anything is started.
use crate::disk;
use crate::machine::{Backing, Chardev, Drive, Kernel, Machine, Monitor, Nic, NicOther, Serial, Vnc};
use crate::qcow2;
use bulkhead_bus::{BootMenu, WhenFull};
use bulkhead_plan::{DeviceConfig, DriveConfig, FdUse, ImageFormat, NicEnd, NicModel, VncAddress};
use bulkhead_policy::Ids;
use bulkhead_policy::interface::{self, Rules};
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where what is installed beside the executables is.
const SHARE: &str = "/usr/share/bulkhead";
/// Debian's copy of the VGA firmware.
const VGABIOS: &[&str] = &["vgabios-stdvga.bin", "/usr/share/seabios/vgabios-stdvga.bin"];
/// The cards' boot firmware: Debian's iPXE, where QEMU for Xen finds it.
const E1000_ROM: &[&str] = &["efi-e1000.rom", "/usr/lib/ipxe/qemu/efi-e1000.rom", "/usr/share/qemu/efi-e1000.rom"];
const RTL8139_ROM: &[&str] =
    &["efi-rtl8139.rom", "/usr/lib/ipxe/qemu/efi-rtl8139.rom", "/usr/share/qemu/efi-rtl8139.rom"];

/// MTU of a stub domain's interface, if it takes it: the largest frame of the cards there are. The back end's own limit holds anyway.
const LARGEST_MTU: u32 = 16_110;

/// A line that says what could not be opened and why.
pub type Failure = String;

fn errno(what: &str, e: rustix::io::Errno) -> Failure {
    format!("{what}: {}", std::io::Error::from(e))
}

/// A new socket that listens, for its owner only. One that an earlier life has left there is replaced.
fn socket(path: &str) -> Result<OwnedFd, rustix::io::Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let is_socket =
        |s: rustix::fs::Stat| rustix::fs::FileType::from_raw_mode(s.st_mode) == rustix::fs::FileType::Socket;
    if rustix::fs::lstat(path).is_ok_and(is_socket) {
        rustix::fs::unlink(path)?;
    }
    let old = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = SocketAddrUnix::new(path).and_then(|a| rustix::net::bind(&fd, &a));
    rustix::process::umask(old);
    bound.and_then(|()| rustix::net::listen(&fd, 8))?;
    Ok(fd)
}

/// A socket that libxl can connect to.
pub fn listen(monitor: &Monitor) -> Result<OwnedFd, Failure> {
    match &monitor.chardev {
        Chardev::Path(path) => socket(path).map_err(|e| errno(&format!("{}: socket {path}", monitor.id), e)),
        Chardev::Fd(number) => {
            let fd = inherit(*number).map_err(|e| errno(&format!("{}: fd={number}", monitor.id), e))?;
            if rustix::net::sockopt::socket_acceptconn(&fd) != Ok(true) {
                return Err(format!("{}: fd={number} is no socket that listens", monitor.id));
            }
            rustix::io::ioctl_fionbio(&fd, true).map_err(|e| errno(&monitor.id, e))?;
            Ok(fd)
        }
    }
}

/// A socket for viewers, and where it is in the end. A port that is taken is passed over as far as the arguments allow.
pub fn viewers(vnc: &Vnc) -> Result<(OwnedFd, VncAddress), Failure> {
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

/// The user that `text` means: `UID:GID`, or a name of this host.
pub fn user(text: &str) -> Result<Ids, Failure> {
    let pair = |mark: char| text.split_once(mark).and_then(|(uid, gid)| uid.parse().ok().zip(gid.parse().ok()));
    // XenServer's and XCP-ng's older wrapper writes a dot.
    let ids = match pair(':').or_else(|| pair('.')) {
        Some(ids) => Some(ids),
        None => {
            let users = std::fs::read_to_string("/etc/passwd").map_err(|e| format!("/etc/passwd: {e}"))?;
            let entry = users.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|l| l.first() == Some(&text));
            entry.and_then(|e| e.get(2).and_then(|u| u.parse().ok()).zip(e.get(3).and_then(|g| g.parse().ok())))
        }
    };
    let (uid, gid) = ids.ok_or_else(|| format!("-runas {text}: no such user"))?;
    if uid == 0 || gid == 0 {
        return Err(format!("-runas {text}: that is root"));
    }
    Ok(Ids { uid, gid })
}

/// A file with this process' number, locked as long as the descriptor is open: what QEMU's `-pidfile` is to a toolstack.
pub fn pid_file(path: &str) -> Result<OwnedFd, Failure> {
    let fail = |e| errno(&format!("-pidfile {path}"), e);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)).map_err(fail)?;
    rustix::fs::fcntl_lock(&fd, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
        rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS => format!("-pidfile {path}: another process has it"),
        e => fail(e),
    })?;
    rustix::fs::ftruncate(&fd, 0).map_err(fail)?;
    let line = format!("{}\n", rustix::process::getpid().as_raw_nonzero());
    match rustix::io::write(&fd, line.as_bytes()) {
        Ok(n) if n == line.len() => Ok(fd),
        Ok(_) => Err(fail(rustix::io::Errno::NOSPC)),
        Err(e) => Err(fail(e)),
    }
}

/// A copy of a descriptor that the caller of this program has opened.
pub fn inherit(number: i32) -> Result<OwnedFd, rustix::io::Errno> {
    bulkhead_policy::duplicate(number)
}

/// A serial port's other end, and what keeps it alive.
pub struct SerialEnd {
    /// For the process; `None` for `null`.
    pub fd: Option<OwnedFd>,
    /// The slave side of a pty, open so that the master never sees a hang-up.
    pub slave: Option<OwnedFd>,
    /// What query-chardev says.
    pub shown: String,
}

/// Opens a serial port's other end.
pub fn serial(index: usize, serial: &Serial) -> Result<SerialEnd, Failure> {
    let nonblocking = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fail = |path: &str, e| errno(&format!("serial port {index}: {path}"), e);
    let plain = |fd| SerialEnd { fd, slave: None, shown: serial.shown(None) };
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
            Ok(SerialEnd { fd: Some(master), slave: Some(slave), shown: serial.shown(Some(&name)) })
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

/// An image, open and locked. `writable`: for this guest alone.
fn image(what: &str, path: &Path, writable: bool) -> Result<OwnedFd, Failure> {
    let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
    let fd = rustix::fs::open(path, access | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()).map_err(|e| {
        if e == rustix::io::Errno::ROFS || e == rustix::io::Errno::ACCESS {
            errno(&format!("{what} cannot be opened for {}", if writable { "writing" } else { "reading" }), e)
        } else {
            errno(what, e)
        }
    })?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| errno(what, e))?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, rustix::fs::FileType::RegularFile | rustix::fs::FileType::BlockDevice) {
        return Err(format!("{what}: neither a file nor a block device"));
    }
    rustix::io::ioctl_fionbio(&fd, false).map_err(|e| errno(what, e))?;
    let lock = if writable { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
    rustix::fs::flock(&fd, lock).map_err(|_| format!("{what}: locked by another process"))?;
    Ok(fd)
}

/// The medium of a drive, with what it is based on, and the drive's configuration.
pub fn drive(drive: &Drive, backing: Backing, full: WhenFull) -> Result<(Vec<(FdUse, OwnedFd)>, DriveConfig), Failure> {
    let index = drive.index.unwrap_or(0);
    let mut config = DriveConfig {
        index,
        cdrom: drive.cdrom,
        read_only: drive.read_only,
        size: None,
        id: drive.id.clone(),
        file: drive.file.clone(),
        formats: Vec::new(),
        full,
        identity: drive.properties.identity.clone(),
        geometry: None,
    };
    let Some(file) = &drive.file else { return Ok((Vec::new(), config)) };
    let mut what = format!("{} {file}", if drive.cdrom { "CD image" } else { "disk image" });
    let (mut path, mut format) = (PathBuf::from(file), drive.format);
    let mut fds = Vec::new();
    loop {
        let depth = fds.len();
        let fd = image(&what, &path, depth == 0 && !drive.read_only)?;
        config.formats.push(format);
        let (size, below) = match format {
            ImageFormat::Raw => {
                (rustix::fs::seek(&fd, rustix::fs::SeekFrom::End(0)).map_err(|e| errno(&what, e))?, None)
            }
            ImageFormat::Qcow2 => {
                let mut bytes = vec![0; qcow2::LOOKED_AT];
                let n = rustix::io::pread(&fd, bytes.as_mut_slice(), 0).map_err(|e| errno(&what, e))?;
                let header =
                    qcow2::Header::parse(bytes.get(..n).unwrap_or_default()).map_err(|e| format!("{what}: {e}"))?;
                (header.size, header.backing)
            }
        };
        if depth == 0 {
            if size < 512 {
                return Err(format!("{what}: {size} bytes are no disk"));
            }
            config.size = Some(size);
            if !drive.cdrom {
                let mut first = [0; disk::SECTOR];
                // Where a qcow2 image has its first sector only its process finds out.
                let known = format == ImageFormat::Raw && rustix::io::pread(&fd, &mut first, 0) == Ok(disk::SECTOR);
                config.geometry = Some(drive.properties.geometry(index, size, known.then_some(&first)));
            }
        }
        fds.push((if depth == 0 { FdUse::Drive(index) } else { FdUse::Backing(index, depth as u8) }, fd));
        let Some((name, told)) = below else { return Ok((fds, config)) };
        if fds.len() > qcow2::MAX_DEPTH {
            return Err(format!("{what}: more than {} images below the first", qcow2::MAX_DEPTH));
        }
        format = match told.as_deref() {
            Some("raw") => ImageFormat::Raw,
            Some("qcow2") => ImageFormat::Qcow2,
            Some(other) => {
                return Err(format!(
                    "{what}: its backing file {name} has the format {other} (raw and qcow2 are supported)"
                ));
            }
            // What a guest has written into a raw image could say that it is another.
            None => {
                return Err(format!(
                    "{what}: it does not tell the format of its backing file {name}, and none is guessed (qemu-img rebase -u -F FORMAT -b {name})"
                ));
            }
        };
        // Relative to the image that names it. "nbd:" and the like are names of no file here.
        path = path.parent().unwrap_or(Path::new("")).join(&name);
        what = format!("backing file {}", path.display());
        let allowed = match backing {
            Backing::Any => true,
            Backing::None => false,
            Backing::Directory => {
                let real = |p: &Path| std::fs::canonicalize(p).map_err(|e| format!("{what}: {e}"));
                let top = real(Path::new(file))?;
                real(&path)?.starts_with(top.parent().unwrap_or(Path::new("/")))
            }
        };
        if !allowed {
            return Err(format!("{what}: the host's settings do not let {file} be based on it (-image-backing)"));
        }
    }
}

/// The files of a direct boot, open, with their sizes.
#[derive(Default)]
pub struct Boot {
    /// The kernel.
    pub kernel: Option<(OwnedFd, u64)>,
    /// Its ramdisk.
    pub initrd: Option<(OwnedFd, u64)>,
}

/// Opens a kernel and its ramdisk. What is in them is looked at by the process that serves them.
pub fn boot(kernel: &Kernel, stubdom: bool) -> Result<Boot, Failure> {
    let open = |what: &str, path: &str| {
        let what = format!("{what} {path}");
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()).map_err(
            |e| {
                let why = errno(&what, e);
                if stubdom && e == rustix::io::Errno::NOENT {
                    format!("{why}: libxl names a file of dom0, which this stub domain does not have")
                } else {
                    why
                }
            },
        )?;
        let stat = rustix::fs::fstat(&fd).map_err(|e| errno(&what, e))?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
            return Err(format!("{what}: not a file"));
        }
        rustix::io::ioctl_fionbio(&fd, false).map_err(|e| errno(&what, e))?;
        Ok((fd, u64::try_from(stat.st_size).unwrap_or(0)))
    };
    let initrd = kernel.initrd.as_deref().map(|path| open("ramdisk", path)).transpose()?;
    Ok(Boot { kernel: Some(open("kernel", &kernel.file)?), initrd })
}

/// The VGA firmware, in a memfd of a power of two.
pub fn vga_rom() -> Result<(OwnedFd, u32), Failure> {
    rom(VGABIOS, "VGA firmware")
}

/// A network card's boot firmware, if the host has it: without it the guest cannot boot over the network.
pub fn nic_rom(model: NicModel) -> Option<(OwnedFd, u32)> {
    let names = match model {
        NicModel::E1000 => E1000_ROM,
        NicModel::Rtl8139 => RTL8139_ROM,
    };
    rom(names, "boot firmware").map_err(|e| eprintln!("bulkhead-dm: network boot is not possible: {e}")).ok()
}

/// The first of these files that is there, in a memfd of a power of two.
fn rom(names: &[&str], what: &str) -> Result<(OwnedFd, u32), Failure> {
    let mut last = String::new();
    for name in names {
        let path = if name.starts_with('/') { (*name).to_owned() } else { format!("{SHARE}/{name}") };
        match std::fs::read(&path) {
            Ok(bytes) if bytes.len() >= 512 && bytes.len() <= 512 * 1024 => {
                let size = bytes.len().next_power_of_two().max(2048);
                let fd =
                    bulkhead_ring::SharedArea::create("rom", size.next_multiple_of(4096)).map_err(|e| e.to_string())?;
                rustix::io::pwrite(&fd, &bytes, 0).map_err(|e| errno("rom", e))?;
                return Ok((fd, u32::try_from(size).unwrap_or(0)));
            }
            Ok(_) => last = format!("{path}: not a {what}"),
            Err(e) => last = format!("{path}: {e}"),
        }
    }
    Err(last)
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

/// What has been opened for the devices, as far as their configuration tells of it.
pub struct Parts<'a> {
    /// The drives.
    pub drives: Vec<DriveConfig>,
    /// Bytes of the VGA firmware.
    pub vga_rom: u32,
    /// Bytes of a network card's firmware.
    pub nic_rom: &'a dyn Fn(NicModel) -> u32,
    /// The cards' other ends.
    pub ends: &'a [NicEnd],
    /// The kernel to boot.
    pub boot: &'a Boot,
    /// Where video RAM is.
    pub gfn: u64,
    /// The guest may unplug disks.
    pub unplug: bool,
}

/// The devices that the machine has, with what each is given. The order is that of the slots.
pub fn configs(machine: &Machine, parts: Parts<'_>) -> Vec<DeviceConfig> {
    let Parts { drives, vga_rom, nic_rom, ends, boot, gfn, unplug } = parts;
    let platform = DeviceConfig::Platform {
        vcpus: machine.vcpus,
        online: machine.online,
        xen_platform: machine.xen_platform,
        boot: machine.boot.clone(),
        unsigned_floppy: machine.unsigned_floppy,
        disks: drives.iter().filter_map(|d| d.geometry).collect(),
        serial: machine.serials.first().is_some_and(|s| *s != Serial::None),
        unplug,
    };
    let mut configs = vec![platform, DeviceConfig::Ide { drives }, DeviceConfig::Ps2];
    if let Some(video) = machine.video {
        let device = if machine.xen_platform { 3 } else { 2 };
        configs.push(DeviceConfig::Vga { device, vram: video.mib << 20, gfn, rom: vga_rom });
    }
    // 00:04.0 and up on the machine that libxl asks for, as QEMU places them.
    let first: u8 = [machine.xen_platform, machine.video.is_some()]
        .iter()
        .fold(2, |n, there| if *there { n.saturating_add(1) } else { n });
    for ((place, nic), end) in (0u8..).zip(&machine.nics).zip(ends) {
        let (rom, device) = (nic_rom(nic.model), first.saturating_add(place));
        configs.push(DeviceConfig::Nic {
            model: nic.model,
            index: nic.index,
            device,
            mac: nic.mac,
            rom,
            end: *end,
            lease: nic.lease.clone(),
            settings: nic.settings.clone(),
        });
    }
    if boot.kernel.is_some() || machine.menu != BootMenu::default() {
        configs.push(DeviceConfig::FwCfg {
            vcpus: machine.vcpus,
            online: machine.online,
            memory_mib: machine.memory_mib,
            menu: machine.menu.clone(),
            kernel: boot.kernel.as_ref().map(|k| k.1),
            initrd: boot.initrd.as_ref().map(|i| i.1),
            command_line: machine.kernel.as_ref().map(|k| k.command_line.clone()).unwrap_or_default(),
        });
    }
    let free = first.saturating_add(machine.nics.len() as u8);
    configs.push(match (&machine.usb, machine.usb_at) {
        (Some(devices), at) => {
            let (device, function) = at.unwrap_or((1, 2));
            DeviceConfig::Usb { devices: devices.clone(), device, function, added: false }
        }
        (None, _) => DeviceConfig::Usb { devices: Vec::new(), device: free, function: 0, added: true },
    });
    for (index, serial) in machine.serials.iter().enumerate().take(4) {
        if *serial != Serial::None {
            configs.push(DeviceConfig::Serial { index: index as u8, listens: serial.listens().is_some() });
        }
    }
    configs
}
