//! What a PV back end asks of the two processes that hold what Xen cannot restrict: `xenbus` the connection to xenstored, `grant` the
//! device of granted pages. A packet each on a SEQPACKET socket pair, answered in order. Neither side believes the other: a packet
//! that is not exactly one of these is no packet.

/// Pages of the buffer that a back end shares with `grant`.
pub const BUFFER_PAGES: usize = 1024;

/// Whose directory of a device in xenstore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    /// The back end's own: it reads and writes there.
    Back = 0,
    /// The guest's: it reads there.
    Front = 1,
}

/// Longest name of a node.
const NAME: usize = 64;
/// Longest value of a node; longer ones are cut.
pub const VALUE: usize = 1024;

/// What a back end asks of `xenbus`. Names are of one component; the directories are fixed where `xenbus` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XenbusCall {
    /// The value of a node.
    Read(Side, String),
    /// Sets a node of the back end's own directory.
    Write(String, String),
}

/// What `xenbus` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XenbusReply {
    /// The value, or nothing: there is no such node. After a write, nothing.
    Value(Option<String>),
    /// It could not be done.
    Failed,
    /// By itself: something in one of the two directories has changed.
    Changed,
}

/// Whether this may be a node's name: letters, digits, '-' and '_'.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

impl XenbusCall {
    /// Longest packet.
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
    /// Longest packet.
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

    /// Decodes it. A value that is no text is as none: what the guest has written there is nonsense.
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

/// A piece of a granted page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The page's grant reference.
    pub gref: u32,
    /// First byte in it.
    pub offset: u16,
    /// Bytes, at least one and not beyond the page's end.
    pub len: u16,
}

/// What a back end asks of `grant`. Whose pages they are, and where copies go, is fixed where `grant` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantCall {
    /// Names pages that the caller maps then; the answer is where in its descriptor.
    Name(Vec<u32>),
    /// Takes a name back, when the pages are unmapped or could not be mapped.
    Forget(u64),
    /// Takes all back: a new life of the caller begins.
    Reset,
    /// Copies pieces of pages, one after the other, from the guest or to it.
    Copy {
        /// From the buffer into the pages.
        to_guest: bool,
        /// Byte in the buffer that both share.
        at: u32,
        /// The pieces.
        pieces: Vec<Piece>,
    },
}

/// References or pieces in one call at most.
pub const GRANTS: usize = 256;

impl GrantCall {
    /// Longest packet.
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

/// What `grant` answers: where named pages are in the descriptor, or 0; nothing if it could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantReply(pub Option<u64>);

impl GrantReply {
    /// Encodes it.
    pub fn to_bytes(self) -> [u8; 9] {
        let mut bytes = [0; 9];
        let [ok, index @ ..] = &mut bytes;
        *ok = u8::from(self.0.is_some());
        *index = self.0.unwrap_or(0).to_le_bytes();
        bytes
    }

    /// Decodes it.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (0, _) if bytes.len() == 9 => Some(Self(None)),
            (1, index) => Some(Self(Some(u64::from_le_bytes(index.try_into().ok()?)))),
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
        fn calls_come_back_as_they_were(call in calls(), name in "[a-z0-9_-]{1,64}", value in "[ -~]{0,200}", back in any::<bool>()) {
            let bytes = call.to_bytes();
            prop_assert!(bytes.len() <= GrantCall::MAX);
            prop_assert_eq!(GrantCall::from_bytes(&bytes), Some(call));
            for call in [XenbusCall::Read(if back { Side::Back } else { Side::Front }, name.clone()), XenbusCall::Write(name.clone(), value.clone())] {
                prop_assert_eq!(XenbusCall::from_bytes(&call.to_bytes()), Some(call));
            }
            for reply in [XenbusReply::Value(None), XenbusReply::Value(Some(value.clone())), XenbusReply::Failed, XenbusReply::Changed] {
                prop_assert_eq!(XenbusReply::from_bytes(&reply.to_bytes()), Some(reply));
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
