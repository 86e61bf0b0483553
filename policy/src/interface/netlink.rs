//! The part of rtnetlink (linux/netlink.h, rtnetlink.h, pkt_sched.h) that interfaces and their rules need: messages with
//! attributes, acknowledgements, dumps.
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// NLM_F_REQUEST, NLM_F_ACK.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
/// NLM_F_EXCL, NLM_F_CREATE: the object must not exist yet.
pub(super) const NEW: u16 = 0x200 | 0x400;
/// NLM_F_ROOT, NLM_F_MATCH.
const DUMP: u16 = 0x300;
/// RTM_*.
pub(super) const NEW_LINK: u16 = 16;
pub(super) const NEW_QDISC: u16 = 36;
pub(super) const NEW_FILTER: u16 = 44;
pub(super) const DELETE_FILTER: u16 = 45;
pub(super) const GET_FILTER: u16 = 46;
/// NLMSG_ERROR (an acknowledgement is one with number 0), NLMSG_DONE.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Bytes of struct nlmsghdr.
const HEADER: usize = 16;
/// IFLA_MTU, IFF_UP.
const MTU: u16 = 4;
const UP: u32 = 1;
/// NLA_F_NESTED, which not all kinds set, and NLA_F_NET_BYTEORDER.
const KIND: u16 = 0x3fff;

/// Attributes: 16 bits of length, 16 bits of kind, the value, padded to four bytes.
#[derive(Debug, Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let len = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
        self.0.extend(len.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A name, with the zero at its end.
    pub(super) fn with_name(self, kind: u16, name: &str) -> Self {
        self.with(kind, &[name.as_bytes(), &[0]].concat())
    }

    pub(super) fn with_nest(self, kind: u16, inner: Self) -> Self {
        self.with(kind, &inner.0)
    }
}

/// The value of the first attribute of this kind.
pub(super) fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (&[l0, l1, k0, k1], _) = bytes.split_first_chunk::<4>()?;
        let (len, kind) = (usize::from(u16::from_ne_bytes([l0, l1])), u16::from_ne_bytes([k0, k1]) & KIND);
        let value = bytes.get(4..len)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(len.next_multiple_of(4)..)?;
    }
}

/// A connection to the kernel.
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> std::io::Result<Self> {
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, sequence: 0 })
    }

    fn send(&mut self, kind: u16, flags: u16, head: &[u8], attributes: &Attributes) -> std::io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let len = HEADER.saturating_add(head.len()).saturating_add(attributes.0.len());
        let mut bytes = u32::try_from(len).unwrap_or(0).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | flags).to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend_from_slice(head);
        bytes.extend_from_slice(&attributes.0);
        rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
        Ok(())
    }

    /// Reads the kernel's answer to the last request, and calls `each` with every message of it.
    fn answers(&mut self, mut each: impl FnMut(&[u8])) -> std::io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let (n, _) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = buffer.get(..n).unwrap_or_default();
            while let Some((&[l0, l1, l2, l3, k0, k1, _, _], _)) = rest.split_first_chunk::<8>() {
                let len = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
                let Some(body) = rest.get(HEADER..len) else { break };
                let sequence = rest.get(8..12).and_then(|b| b.first_chunk::<4>()).map(|b| u32::from_ne_bytes(*b));
                match u16::from_ne_bytes([k0, k1]) {
                    // The answer to an earlier request that was not read.
                    _ if sequence != Some(self.sequence) => {}
                    ERROR => {
                        let code = body.first_chunk::<4>().map_or(0, |b| i32::from_ne_bytes(*b));
                        return if code == 0 {
                            Ok(())
                        } else {
                            Err(std::io::Error::from_raw_os_error(code.saturating_neg()))
                        };
                    }
                    DONE => return Ok(()),
                    _ => each(body),
                }
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }

    /// Sends a request and waits for its acknowledgement; the error is the kernel's.
    pub(super) fn ask(&mut self, kind: u16, flags: u16, head: &[u8], attributes: &Attributes) -> std::io::Result<()> {
        self.send(kind, ACK | flags, head, attributes)?;
        self.answers(|_| {})
    }

    /// Requests a dump of all objects of a kind.
    pub(super) fn dump(&mut self, kind: u16, head: &[u8], each: impl FnMut(&[u8])) -> std::io::Result<()> {
        self.send(kind, DUMP, head, &Attributes::default())?;
        self.answers(each)
    }

    /// Brings an interface up or down, or changes its MTU.
    pub(super) fn set_link(&mut self, index: u32, up: Option<bool>, mtu: Option<u32>) -> std::io::Result<()> {
        // struct ifinfomsg: family, type, index, flags, which of them.
        let mut head = vec![0; 4];
        let (flags, which) = up.map_or((0, 0), |up| (if up { UP } else { 0 }, UP));
        for word in [index, flags, which] {
            head.extend(word.to_ne_bytes());
        }
        let attributes =
            mtu.map_or_else(Attributes::default, |mtu| Attributes::default().with(MTU, &mtu.to_ne_bytes()));
        self.ask(NEW_LINK, 0, &head, &attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_nonsense_is_none() {
        let inner = Attributes::default().with_name(1, "gact").with(2, &[1, 2, 3, 4, 5]);
        let all = Attributes::default().with(7, &[9]).with_nest(2, inner);
        let nest = attribute(&all.0, 2).unwrap();
        assert_eq!((attribute(nest, 1), attribute(nest, 2)), (Some(&b"gact\0"[..]), Some(&[1, 2, 3, 4, 5][..])));
        assert_eq!(attribute(&all.0, 3), None);
        for junk in [&[0, 0, 0, 0][..], &[3, 0, 1, 0], &[255, 255, 1, 0, 1], &[4]] {
            assert_eq!(attribute(junk, 1).map(<[u8]>::len).filter(|l| *l > 0), None, "{junk:?}");
        }
    }

    #[test]
    fn the_kernel_says_no_to_an_interface_that_is_not_there() {
        let mut netlink = Netlink::open().unwrap();
        let error = netlink.set_link(0x7fff_fff0, None, Some(1500)).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EPERM)), "{error}");
        // The next request gets its own answer.
        assert!(netlink.set_link(0x7fff_fff0, None, Some(1500)).is_err());
    }
}
