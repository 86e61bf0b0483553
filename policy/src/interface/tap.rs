//! Taps (linux/if_tun.h).
use rustix::fd::{AsRawFd as _, OwnedFd};

/// Bytes of an interface's name with its zero (IFNAMSIZ).
const NAME: usize = 16;
const TUNSETIFF: u64 = 0x4004_54ca;
const TUNGETIFF: u64 = 0x8004_54d2;
const TUNSETOFFLOAD: u64 = 0x4004_54d0;
const TUNSETVNETHDRSZ: u64 = 0x4004_54d8;
/// IFF_TAP, IFF_NO_PI, IFF_VNET_HDR.
const FLAGS: u16 = TAP | NO_PI | HEADERS;
const TAP: u16 = 0x0002;
const NO_PI: u16 = 0x1000;
const HEADERS: u16 = 0x4000;
/// TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6: partial checksums and large TCP packets both ways.
const OFFLOADS: u64 = 1 | 2 | 4;
/// Bytes of struct virtio_net_hdr.
const HEADER: i32 = 10;

/// struct ifreq with flags.
#[repr(C)]
struct Request {
    name: [u8; NAME],
    flags: u16,
    pad: [u8; 22],
}

/// Creates the tap `name`, or opens it if it exists without an owner. It is non-blocking, its frames have a virtio_net_hdr, and a
/// tap that was created ends when the descriptor is closed. Needs CAP_NET_ADMIN.
///
/// # Errors
/// The kernel's error, or an invalid name.
pub fn open(name: &str) -> std::io::Result<OwnedFd> {
    if name.is_empty() || name.len() >= NAME || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "no name of an interface"));
    }
    let fd = with_flags(name, FLAGS)?;
    with_headers(&fd)?;
    Ok(fd)
}

/// Sets the size of the headers, and the offloads that frames may need.
fn with_headers(fd: &OwnedFd) -> std::io::Result<()> {
    let header = HEADER;
    for (what, argument) in [(TUNSETOFFLOAD, OFFLOADS), (TUNSETVNETHDRSZ, (&raw const header) as u64)] {
        // SAFETY: the kernel takes a number, and reads one int.
        if unsafe { libc::ioctl(fd.as_raw_fd(), what, argument) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

fn with_flags(name: &str, flags: u16) -> std::io::Result<OwnedFd> {
    let open = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK;
    let fd = rustix::fs::open("/dev/net/tun", open, rustix::fs::Mode::empty())?;
    let mut request = Request { name: [0; NAME], flags, pad: [0; 22] };
    for (to, from) in request.name.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: the kernel reads and writes one ifreq.
    if unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &raw mut request) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(fd)
}

/// Uses a tap that another program has opened. Returns its name, and whether its frames have a virtio_net_hdr. It is non-blocking
/// afterwards.
///
/// # Errors
/// The kernel's error, or the descriptor is no tap, or its frames have a header of another kind.
pub fn adopt(fd: &OwnedFd) -> std::io::Result<(String, bool)> {
    let mut request = Request { name: [0; NAME], flags: 0, pad: [0; 22] };
    // SAFETY: the kernel writes one ifreq.
    if unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETIFF, &raw mut request) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    if request.flags & (TAP | NO_PI) != TAP | NO_PI {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "no tap of plain frames"));
    }
    let headers = request.flags & HEADERS != 0;
    if headers {
        with_headers(fd)?;
    }
    rustix::io::ioctl_fionbio(fd, true)?;
    let name = request.name.split(|b| *b == 0).next().unwrap_or_default();
    Ok((String::from_utf8_lossy(name).into_owned(), headers))
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_interface_other_than_a_tap_is_not_adopted() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(super::adopt(&null.into()).is_err());
    }

    /// Needs a kernel with taps and the right to create one; passes elsewhere.
    #[test]
    fn a_tap_that_was_opened_elsewhere_is_known_with_and_without_headers() {
        for (flags, headers) in [(super::TAP | super::NO_PI, false), (super::FLAGS, true)] {
            let Ok(fd) = super::with_flags("bhtest%d", flags) else { return };
            let (name, found) = super::adopt(&fd).unwrap();
            assert_eq!((name.starts_with("bhtest"), found), (true, headers));
        }
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for name in ["", "a/b", "sixteen-letters-", "a b"] {
            assert_eq!(super::open(name).unwrap_err().kind(), std::io::ErrorKind::InvalidInput, "{name}");
        }
    }
}
