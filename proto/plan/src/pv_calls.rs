//! A PV back end's calls to the two processes whose descriptors Xen cannot restrict to a domain: `xenbus` holds the connection to
//! xenstored, `grant` the gntdev. Each call is a packet on a SEQPACKET socket pair; answers come in order. Neither side trusts the
//! other: a packet that is not exactly one of these is invalid.
use bulkhead_bus::pv::{Piece, Side};

/// Most bytes of a node's name.
const NAME: usize = 64;
/// Most bytes of a node's value; longer values are cut.
const VALUE: usize = 1024;

/// A back end's call to `xenbus`. Names have one component; `xenbus` has a fixed pair of directories for each back end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XenbusCall {
    /// Reads a node of one of the two directories.
    Read(Side, String),
    /// Sets a node of the back end's own directory.
    Write(String, String),
}

/// A packet of `xenbus`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XenbusReply {
    /// Answer: the node's value, or `None` if there is no such node, or after a write.
    Value(Option<String>),
    /// Answer: the call failed.
    Failed,
    /// Not an answer: a node in one of the two directories has changed.
    Changed,
}

/// Whether this is a valid name of a node: letters, digits, '-' and '_'.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

impl XenbusCall {
    /// Bytes of the longest packet.
    pub const MAX: usize = 2 + NAME + VALUE;

    /// Encodes it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (kind, name, value) = match self {
            Self::Read(side, name) => (*side as u8, name, ""),
            Self::Write(name, value) => (2, name, value.as_str()),
        };
        let mut bytes = vec![kind, u8::try_from(name.len()).unwrap_or(u8::MAX)];
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(value.as_bytes());
        bytes
    }

    /// Decodes it.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&[kind, len], rest) = bytes.split_first_chunk::<2>()?;
        let (name, value) = rest.split_at_checked(usize::from(len))?;
        let name = std::str::from_utf8(name).ok().filter(|n| is_name(n))?.to_owned();
        let value = std::str::from_utf8(value).ok().filter(|v| v.len() <= VALUE && !v.bytes().any(|b| b == 0))?;
        match (kind, value) {
            (0, "") => Some(Self::Read(Side::Back, name)),
            (1, "") => Some(Self::Read(Side::Front, name)),
            (2, value) => Some(Self::Write(name, value.to_owned())),
            _ => None,
        }
    }
}

impl XenbusReply {
    /// Bytes of the longest packet.
    pub const MAX: usize = 1 + VALUE;

    /// Encodes it.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Value(None) => vec![0],
            Self::Value(Some(value)) => [&[1], value.as_bytes().get(..VALUE).unwrap_or(value.as_bytes())].concat(),
            Self::Failed => vec![2],
            Self::Changed => vec![3],
        }
    }

    /// Decodes it. A value that is not UTF-8 counts as a missing node.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (0, []) => Some(Self::Value(None)),
            (1, value) if value.len() <= VALUE => Some(Self::Value(std::str::from_utf8(value).ok().map(str::to_owned))),
            (2, []) => Some(Self::Failed),
            (3, []) => Some(Self::Changed),
            _ => None,
        }
    }
}

/// A back end's call to `grant`, which has a fixed guest and a fixed buffer for each back end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantCall {
    /// Adds pages to the gntdev, for the caller to map; the answer is their offset in the descriptor.
    Name(Vec<u32>),
    /// Removes pages from the gntdev by that offset, after they were unmapped or when the mapping failed.
    Forget(u64),
    /// Removes all pages, after they were unmapped. The answer is the number of pages that the caller may still add in its life.
    Reset,
    /// Copies pieces of pages, one after the other, from the guest or to it.
    Copy {
        /// True: from the buffer into the pages; false: the other way.
        to_guest: bool,
        /// Offset in the shared buffer, in bytes.
        at: u32,
        /// The parts of granted pages, in order.
        pieces: Vec<Piece>,
    },
}

/// Most references or pieces in one call.
const GRANTS: usize = 256;

impl GrantCall {
    /// Bytes of the longest packet.
    pub const MAX: usize = 8 + 8 * GRANTS;

    /// Encodes it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let head = |kind: u8, at: u32| [[kind, 0, 0, 0], at.to_le_bytes()].concat();
        match self {
            Self::Name(grefs) => [head(0, 0), grefs.iter().flat_map(|g| g.to_le_bytes()).collect()].concat(),
            Self::Forget(index) => [head(1, 0), index.to_le_bytes().to_vec()].concat(),
            Self::Reset => head(2, 0),
            Self::Copy { to_guest, at, pieces } => {
                let piece = |p: &Piece| {
                    p.gref
                        .to_le_bytes()
                        .into_iter()
                        .chain(p.offset.to_le_bytes())
                        .chain(p.len.to_le_bytes())
                        .collect::<Vec<_>>()
                };
                [head(if *to_guest { 4 } else { 3 }, *at), pieces.iter().flat_map(piece).collect()].concat()
            }
        }
    }

    /// Decodes it.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&[kind, 0, 0, 0, a, b, c, d], rest) = bytes.split_first_chunk::<8>()? else { return None };
        let at = u32::from_le_bytes([a, b, c, d]);
        match (kind, rest) {
            (0, rest) if at == 0 => {
                let (grefs, []) = rest.as_chunks::<4>() else { return None };
                (1..=GRANTS)
                    .contains(&grefs.len())
                    .then(|| Self::Name(grefs.iter().map(|g| u32::from_le_bytes(*g)).collect()))
            }
            (1, rest) if at == 0 => Some(Self::Forget(u64::from_le_bytes(rest.try_into().ok()?))),
            (2, []) if at == 0 => Some(Self::Reset),
            (3 | 4, rest) => {
                let (pieces, []) = rest.as_chunks::<8>() else { return None };
                let piece = |&[a, b, c, d, e, f, g, h]: &[u8; 8]| Piece {
                    gref: u32::from_le_bytes([a, b, c, d]),
                    offset: u16::from_le_bytes([e, f]),
                    len: u16::from_le_bytes([g, h]),
                };
                (1..=GRANTS).contains(&pieces.len()).then(|| Self::Copy {
                    to_guest: kind == 4,
                    at,
                    pieces: pieces.iter().map(piece).collect(),
                })
            }
            _ => None,
        }
    }
}

/// The answer of `grant`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantReply {
    /// The call failed.
    Failed,
    /// It is carried out. The number is the offset of added pages in the descriptor, after [`GrantCall::Reset`] that of the pages
    /// that are left, and 0 for other calls.
    Done(u64),
    /// The caller may not add so many pages in this life.
    Spent,
}

impl GrantReply {
    /// Encodes it.
    pub fn to_bytes(self) -> [u8; 9] {
        let (kind, number) = match self {
            Self::Failed => (0, 0),
            Self::Done(number) => (1, number),
            Self::Spent => (2, 0),
        };
        let mut bytes = [0; 9];
        let [first, rest @ ..] = &mut bytes;
        *first = kind;
        *rest = u64::to_le_bytes(number);
        bytes
    }

    /// Decodes it.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let &[kind, ref number @ ..] = <&[u8; 9]>::try_from(bytes).ok()?;
        match (kind, u64::from_le_bytes(*number)) {
            (0, 0) => Some(Self::Failed),
            (1, number) => Some(Self::Done(number)),
            (2, 0) => Some(Self::Spent),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn calls() -> impl Strategy<Value = GrantCall> {
        let pieces = proptest::collection::vec((any::<u32>(), any::<u16>(), any::<u16>()), 1..GRANTS);
        prop_oneof![
            proptest::collection::vec(any::<u32>(), 1..=GRANTS).prop_map(GrantCall::Name),
            any::<u64>().prop_map(GrantCall::Forget),
            Just(GrantCall::Reset),
            (any::<bool>(), any::<u32>(), pieces).prop_map(|(to_guest, at, p)| GrantCall::Copy {
                to_guest,
                at,
                pieces: p.into_iter().map(|(gref, offset, len)| Piece { gref, offset, len }).collect()
            }),
        ]
    }

    proptest! {
        #[test]
        fn calls_come_back_as_they_were(
            call in calls(),
            name in "[a-z0-9_-]{1,64}",
            value in "[ -~]{0,200}",
            back in any::<bool>(),
            number in any::<u64>(),
        ) {
            let bytes = call.to_bytes();
            prop_assert!(bytes.len() <= GrantCall::MAX);
            prop_assert_eq!(GrantCall::from_bytes(&bytes), Some(call));
            let side = if back { Side::Back } else { Side::Front };
            for call in [XenbusCall::Read(side, name.clone()), XenbusCall::Write(name.clone(), value.clone())] {
                prop_assert_eq!(XenbusCall::from_bytes(&call.to_bytes()), Some(call));
            }
            let values = [None, Some(value)].map(XenbusReply::Value);
            for reply in values.into_iter().chain([XenbusReply::Failed, XenbusReply::Changed]) {
                prop_assert_eq!(XenbusReply::from_bytes(&reply.to_bytes()), Some(reply));
            }
            for reply in [GrantReply::Failed, GrantReply::Done(number), GrantReply::Spent] {
                prop_assert_eq!(GrantReply::from_bytes(&reply.to_bytes()), Some(reply));
            }
        }

        #[test]
        fn any_bytes_are_a_call_that_encodes_to_them_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for bytes in [bytes.clone(), [vec![bytes.len() as u8 % 5, 0, 0, 0], bytes].concat()] {
                if let Some(call) = GrantCall::from_bytes(&bytes) {
                    prop_assert_eq!(call.to_bytes(), bytes.clone());
                }
                if let Some(call) = XenbusCall::from_bytes(&bytes) {
                    prop_assert_eq!(call.to_bytes(), bytes);
                }
            }
        }
    }

    #[test]
    fn a_path_is_no_name() {
        for name in ["", "a/b", "..", ".", "a\0b", "/local", "x y"] {
            let call = XenbusCall::Write(name.into(), "1".into());
            assert_eq!(XenbusCall::from_bytes(&call.to_bytes()), None, "{name:?}");
        }
        assert_eq!(XenbusCall::from_bytes(&XenbusCall::Write("x".repeat(65), String::new()).to_bytes()), None);
        assert_eq!(XenbusCall::from_bytes(&XenbusCall::Write("x".into(), "a\0".into()).to_bytes()), None);
        assert_eq!(XenbusReply::from_bytes(&[1, 0xff]), Some(XenbusReply::Value(None)));
    }
}
