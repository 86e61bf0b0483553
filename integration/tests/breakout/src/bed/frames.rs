//! Frames that a guest may not send, and a way to see which of them arrive.
//!
//!     bulkhead-bed spoof INTERFACE MAC IP     sends them out of an interface, from inside the guest
//!     bulkhead-bed spoof-fd PID MAC IP        a hostile program in the place of process PID writes them to its interface's
//!     descriptor
//!     bulkhead-bed watch INTERFACE            prints the names of those that arrive, until the last one does
//!     bulkhead-bed tcp listen|connect ADDRESS send BYTES | receive [checked]     one stream, 64 KiB a call, and its checksum
//!     bulkhead-bed flood INTERFACE SECONDS    smallest frames to nobody, and how many went
use bulkhead_breakout::ids;
use rustix::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// What every frame of these carries, with its name behind it.
const MARK: &[u8] = b"BULKHEAD-FRAME:";
/// The name of the last one, which may be sent.
const LAST: &str = "honest";

/// Makes a frame around a text.
type Make<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;

/// One after the other, with names: ten that are forbidden, and an honest one.
pub fn frames(mac: [u8; 6], ip: Ipv4Addr) -> Vec<(&'static str, Vec<u8>)> {
    let foreign_mac = [0x02, 0xbd, 0xbd, 0, 0, 1];
    let foreign_ip = Ipv4Addr::from(u32::from(ip) ^ 0x40);
    let own6 = bulkhead_bus::nic::NicAddresses::link_local(mac).octets();
    let foreign6 = bulkhead_bus::nic::NicAddresses::link_local(foreign_mac).octets();
    let groups6 = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let ethernet =
        |source: [u8; 6], kind: u16, rest: &[u8]| [&[0xff; 6][..], &source, &kind.to_be_bytes(), rest].concat();
    let udp = |source: Ipv4Addr, ports: (u16, u16), text: &[u8]| {
        let len = text.len() as u16 + 8;
        let mut head = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0];
        head[2..4].copy_from_slice(&(len + 20).to_be_bytes());
        head.extend(source.octets());
        head.extend([255; 4]);
        let sum = head.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum::<u32>();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        head[10..12].copy_from_slice(&sum.to_be_bytes());
        [&head[..], &ports.0.to_be_bytes(), &ports.1.to_be_bytes(), &len.to_be_bytes(), &[0, 0], text].concat()
    };
    let six = |source: [u8; 16], next: u8, body: &[u8]| {
        [&[0x60, 0, 0, 0][..], &(body.len() as u16).to_be_bytes(), &[next, 255], &source, &groups6, body].concat()
    };
    let icmp = |kind: u8, target: &[u8], text: &[u8]| [&[kind, 0, 0, 0, 0, 0, 0, 0][..], target, text].concat();
    let text = |name: &str| [MARK, name.as_bytes(), b";"].concat();
    let arp = |hardware: [u8; 6], address: Ipv4Addr, text: &[u8]| {
        [&[0, 1, 8, 0, 6, 4, 0, 2][..], &hardware, &address.octets(), &[0xff; 6], &foreign_ip.octets(), text].concat()
    };
    let make: [(&str, Make<'_>); 11] = [
        ("mac", &|t| ethernet(foreign_mac, 0x0800, &udp(ip, (9, 9), t))),
        ("ipv4", &|t| ethernet(mac, 0x0800, &udp(foreign_ip, (9, 9), t))),
        ("arp", &|t| ethernet(mac, 0x0806, &arp(mac, foreign_ip, t))),
        ("dhcp", &|t| ethernet(mac, 0x0800, &udp(ip, (67, 68), t))),
        ("router", &|t| ethernet(mac, 0x86dd, &six(own6, 58, &icmp(134, &[0; 8], t)))),
        ("hidden-router", &|t| {
            ethernet(mac, 0x86dd, &six(own6, 0, &[&[58, 0, 1, 4, 0, 0, 0, 0][..], &icmp(134, &[0; 8], t)].concat()))
        }),
        ("neighbour", &|t| ethernet(mac, 0x86dd, &six(own6, 58, &icmp(136, &foreign6, t)))),
        ("ipv6", &|t| ethernet(mac, 0x86dd, &six(foreign6, 17, &[&[0, 9, 0, 9, 0, 0, 0, 0][..], t].concat()))),
        ("vlan", &|t| ethernet(mac, 0x8100, &[&[0, 5, 8, 0][..], &udp(ip, (9, 9), t)].concat())),
        ("ethertype", &|t| ethernet(mac, 0x88cc, t)),
        (LAST, &|t| ethernet(mac, 0x0800, &udp(ip, (9, 9), t))),
    ];
    make.iter()
        .map(|(name, frame)| {
            let mut frame = frame(&text(name));
            frame.resize(frame.len().max(60), 0);
            (*name, frame)
        })
        .collect()
}

type Done = Result<(), Box<dyn std::error::Error>>;

fn parse(mac: &str, ip: &str) -> Result<([u8; 6], Ipv4Addr), Box<dyn std::error::Error>> {
    let bytes: Result<Vec<u8>, _> = mac.split(':').map(|b| u8::from_str_radix(b, 16)).collect();
    Ok((<[u8; 6]>::try_from(bytes?).map_err(|_| "six bytes")?, ip.parse()?))
}

/// A packet socket without headers of the kernel's.
fn packet(interface: &str) -> Result<OwnedFd, Box<dyn std::error::Error>> {
    let index = bulkhead_policy::interface::index(interface)?;
    // SAFETY: no memory is involved; the descriptor is new.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(3u16.to_be())) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: as above; a sockaddr_ll is integers, and the kernel reads one.
    let (fd, bound) = unsafe {
        let fd = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = 3u16.to_be();
        address.sll_ifindex = index as i32;
        let bound = libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32);
        (fd, bound)
    };
    if bound < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(fd) }
}

pub fn spoof(interface: &str, mac: &str, ip: &str) -> Done {
    let (mac, ip) = parse(mac, ip)?;
    let socket = packet(interface)?;
    for (name, frame) in frames(mac, ip) {
        rustix::io::write(&socket, &frame).map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}

/// The frames go out of the descriptor that the process really has, by a program in its sandbox.
pub fn spoof_fd(pid: i32, mac: &str, ip: &str) -> Done {
    let role = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    let role = String::from_utf8_lossy(&role).trim_end_matches('\0').to_owned();
    let number = std::fs::read_dir(format!("/proc/{pid}/fd"))?
        .flatten()
        .find_map(|e| {
            let link = std::fs::read_link(e.path()).ok()?;
            let number: i32 = e.file_name().to_str()?.parse().ok()?;
            // A tap, or a packet socket: in a stub domain the only sockets that are no Unix sockets.
            let link = link.to_str()?;
            let packets = std::fs::read_to_string("/proc/net/packet").unwrap_or_default();
            let inode = link.strip_prefix("socket:[").and_then(|l| l.strip_suffix(']')).unwrap_or("-");
            let is_packet = packets.lines().any(|l| l.split_whitespace().next_back() == Some(inode));
            (link == "/dev/net/tun" || is_packet).then_some(number)
        })
        .ok_or("the process has no interface")?;
    // SAFETY: no memory is involved; the descriptors are new.
    let fd = unsafe {
        let pidfd = libc::syscall(libc::SYS_pidfd_open, pid, 0) as i32;
        let fd = libc::syscall(libc::SYS_pidfd_getfd, pidfd, number, 0) as i32;
        if pidfd < 0 || fd < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        libc::close(pidfd);
        OwnedFd::from_raw_fd(fd)
    };
    let executable = std::fs::File::open(std::env::current_exe()?.with_file_name("bulkhead-hostile"))?;
    for (name, frame) in frames(parse(mac, ip)?.0, parse(mac, ip)?.1) {
        let hex: String = frame.iter().map(|b| format!("{b:02x}")).collect();
        let outcome = bulkhead_breakout::run(
            executable.as_fd(),
            &role,
            ids(),
            "all",
            &format!("write a frame={hex}"),
            Some(fd.as_fd()),
        )?;
        println!("{role}: {name}: {outcome:?}");
        // A rule at a packet socket's egress is told to who sends (ENOBUFS); one behind a tap is not.
        if outcome != bulkhead_breakout::Outcome::Worked
            && outcome != bulkhead_breakout::Outcome::Refused(libc::ENOBUFS as u8)
        {
            return Err("the process itself must be able to write".into());
        }
    }
    Ok(())
}

pub fn watch(interface: &str) -> Done {
    let socket = packet(interface)?;
    println!("watching");
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = rustix::io::read(&socket, &mut buffer[..])?;
        let frame = &buffer[..n];
        let Some(at) = frame.windows(MARK.len()).position(|w| w == MARK) else { continue };
        let name: Vec<u8> = frame[at + MARK.len()..].iter().copied().take_while(|b| *b != b';').collect();
        let name = String::from_utf8_lossy(&name);
        println!("arrived {name}");
        if name == LAST {
            return Ok(());
        }
    }
}

pub fn tcp(how: &str, address: &str, bytes: Option<u64>, checked: bool) -> Done {
    use std::io::{Read as _, Write as _};
    let mut stream = match how {
        "listen" => std::net::TcpListener::bind(address)?.accept()?.0,
        _ => std::net::TcpStream::connect(address)?,
    };
    // Not the same again and again, and the same at both ends.
    let (mut number, mut sum) = (0x9e37_79b9_7f4a_7c15u64, 0u64);
    let mut buffer = vec![0; 1 << 16];
    let mut count = 0u64;
    let mut add =
        |bytes: &[u8]| bytes.iter().for_each(|b| sum = sum.rotate_left(5).wrapping_mul(31).wrapping_add(u64::from(*b)));
    match bytes {
        Some(bytes) => {
            while count < bytes {
                let n = usize::try_from(bytes - count)?.min(buffer.len());
                if checked {
                    for word in buffer.chunks_exact_mut(8) {
                        number ^= number << 13;
                        number ^= number >> 7;
                        number ^= number << 17;
                        word.copy_from_slice(&number.to_le_bytes());
                    }
                    add(&buffer[..n]);
                }
                stream.write_all(&buffer[..n])?;
                count += n as u64;
            }
        }
        None => loop {
            match stream.read(&mut buffer)? {
                0 => break,
                n => {
                    count += n as u64;
                    if checked {
                        add(&buffer[..n]);
                    }
                }
            }
        },
    }
    println!("tcp: {count} bytes, sum {sum:016x}");
    Ok(())
}

pub fn flood(interface: &str, seconds: u64) -> Done {
    let socket = packet(interface)?;
    let mut frame = [0u8; 60];
    frame[..6].fill(0xff);
    frame[6] = 2;
    frame[12..14].copy_from_slice(&0x88b5u16.to_be_bytes());
    let (until, mut sent, mut full) = (Instant::now() + Duration::from_secs(seconds), 0u64, 0u64);
    while Instant::now() < until {
        match rustix::io::write(&socket, &frame) {
            Ok(_) => sent += 1,
            Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::AGAIN) => full += 1,
            Err(e) => return Err(e.into()),
        }
    }
    println!("flood: {sent} frames in {seconds} s, {full} refused");
    Ok(())
}
