//! The one-shot process `intake`: it gets one image and one question, answers with a fixed structure, and exits. The launcher opens
//! images and parses none of their bytes.
//!
//! Order: the launcher sends [`ToProcess::Intake`]; the process enters its sandbox and sends [`Ask::Ready`]; the launcher verifies it
//! in /proc and sends [`ToProcess::Image`] with the image's descriptor; the process sends an [`Answer`].
use super::ImageFormat;
#[cfg(doc)]
use super::{Ask, ToProcess};
use bulkhead_stream::{Name, PAYLOAD, Place, ReadError, SECTIONS};
use serde::{Deserialize, Serialize};

/// A question about an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// The header of a qcow2 image.
    Header,
    /// The partition table of a raw disk with this number of sectors.
    Partitions {
        /// Sectors of 512 bytes.
        sectors: u64,
    },
    /// A saved machine's stream.
    State,
}

/// What the launcher needs of a saved machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateIndex {
    /// Machine time at which it was saved, in nanoseconds.
    pub time: u64,
    /// First guest frame of video RAM, 0 if there is none.
    pub video_ram: u64,
    /// The sections.
    pub places: Vec<Place>,
}

/// The format of a backing file, as an image's header names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackingFormat {
    /// The header does not name it.
    Unnamed,
    /// A format that Bulkhead reads.
    Known(ImageFormat),
    /// Another one.
    Other,
}

/// A qcow2 image's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the disk that it describes.
    pub size: u64,
    /// Size of a cluster, as a power of two: one of [`CLUSTER_BITS`].
    pub cluster_bits: u8,
    /// Bits of a cluster's reference count, as a power of two: 0 to [`MAX_REFCOUNT_ORDER`].
    pub refcount_order: u8,
    /// Name and format of the backing file.
    pub backing: Option<(String, BackingFormat)>,
}

/// Why an image's header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum HeaderError {
    /// The file, or its read part, ends inside of the header.
    #[error("the header is cut off")]
    Short = 1,
    /// The first four bytes are others.
    #[error("this is no qcow2 image")]
    Magic = 2,
    /// Another version of the format.
    #[error("neither version 2 nor 3")]
    Version = 3,
    /// The guest's data is encrypted.
    #[error("encrypted images are not supported")]
    Encrypted = 4,
    /// Incompatible features.
    #[error("it has features that are not supported (an external data file, other compression, extended entries)")]
    Features = 5,
    /// The length of the backing file's name is 0 or more than the format allows.
    #[error("the name of its backing file has an impossible length")]
    NameLength = 6,
    /// The backing file's name is outside of the read part, or is no text.
    #[error("the name of its backing file is not where a name can be")]
    Name = 7,
    /// The extension with the backing file's format ends outside of the read part.
    #[error("the format of its backing file is cut off")]
    Format = 8,
    /// The host cannot read the file.
    #[error("the host cannot read it")]
    Unreadable = 9,
    /// A cluster's size is none that QEMU makes.
    #[error("its clusters have an impossible size")]
    ClusterSize = 10,
    /// A reference count has more than 64 bits.
    #[error("its reference counts have an impossible size")]
    RefcountSize = 11,
}

impl HeaderError {
    const ALL: [Self; 11] = [
        Self::Short,
        Self::Magic,
        Self::Version,
        Self::Encrypted,
        Self::Features,
        Self::NameLength,
        Self::Name,
        Self::Format,
        Self::Unreadable,
        Self::ClusterSize,
        Self::RefcountSize,
    ];
}

/// The geometry under which a disk was partitioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partitioned {
    /// 1 to 16383.
    pub cylinders: u16,
    /// 2 to 256.
    pub heads: u16,
    /// Sectors of a track, 1 to 63.
    pub sectors: u8,
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Question::Header`].
    Header(Result<Header, HeaderError>),
    /// To [`Question::Partitions`]; `None` if there is no partition.
    Partitions(Option<Partitioned>),
    /// To [`Question::State`].
    State(Result<StateIndex, ReadError>),
}

impl Answer {
    /// Bytes of an answer: what, error or format, then the fields at their places, then the name or the sections.
    pub const LEN: usize = PLACES_AT + SECTIONS * PLACE;

    /// The answer as a packet.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let mut put = |at: usize, from: &[u8]| {
            if let Some(to) = bytes.get_mut(at..).and_then(|b| b.get_mut(..from.len())) {
                to.copy_from_slice(from);
            }
        };
        match self {
            Self::Header(Err(error)) => put(0, &[REFUSED, *error as u8]),
            Self::Header(Ok(Header { size, cluster_bits, refcount_order, backing })) => {
                put(0, &[HEADER]);
                put(CLUSTER_BITS_AT, &[*cluster_bits, *refcount_order]);
                put(SIZE_AT, &size.to_le_bytes());
                if let Some((name, format)) = backing {
                    let format = match format {
                        BackingFormat::Unnamed => 0,
                        BackingFormat::Known(ImageFormat::Raw) => 1,
                        BackingFormat::Known(ImageFormat::Qcow2) => 2,
                        BackingFormat::Other => 3,
                    };
                    put(1, &[format]);
                    put(LEN_AT, &u16::try_from(name.len()).unwrap_or(0).to_le_bytes());
                    put(NAME_AT, name.as_bytes());
                }
            }
            Self::Partitions(None) => put(0, &[NO_PARTITION]),
            Self::Partitions(Some(Partitioned { cylinders, heads, sectors })) => {
                put(0, &[PARTITION]);
                put(CYLINDERS_AT, &cylinders.to_le_bytes());
                put(HEADS_AT, &heads.to_le_bytes());
                put(SECTORS_AT, &[*sectors]);
            }
            Self::State(Err(error)) => put(0, &[REFUSED_STATE, *error as u8]),
            Self::State(Ok(StateIndex { time, video_ram, places })) => {
                put(0, &[STATE, u8::try_from(places.len()).unwrap_or(0)]);
                put(TIME_AT, &time.to_le_bytes());
                put(VIDEO_RAM_AT, &video_ram.to_le_bytes());
                for (i, place) in places.iter().enumerate() {
                    let at = PLACES_AT.saturating_add(i.saturating_mul(PLACE));
                    put(at, &place.name.to_bytes());
                    put(at.saturating_add(Name::LEN), &place.at.to_le_bytes());
                    put(at.saturating_add(Name::LEN).saturating_add(4), &place.len.to_le_bytes());
                }
            }
        }
        bytes
    }

    /// An answer from a packet of a process that a hostile image may have taken over. `None` if it is no answer to `question`.
    pub fn from_bytes(question: Question, bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let pair = |at: usize| Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        match (question, bytes[0]) {
            (Question::Header, REFUSED) => {
                let error = HeaderError::ALL.into_iter().find(|e| *e as u8 == bytes[1])?;
                Some(Self::Header(Err(error)))
            }
            (Question::Header, HEADER) => {
                let size = u64::from_le_bytes(*bytes.get(SIZE_AT..)?.first_chunk()?);
                let [cluster_bits, refcount_order] = *bytes.get(CLUSTER_BITS_AT..)?.first_chunk()?;
                if !CLUSTER_BITS.contains(&cluster_bits) || refcount_order > MAX_REFCOUNT_ORDER {
                    return None;
                }
                let header = |backing| Some(Self::Header(Ok(Header { size, cluster_bits, refcount_order, backing })));
                let len = usize::from(pair(LEN_AT)?);
                if len == 0 {
                    return header(None);
                }
                let format = match bytes[1] {
                    0 => BackingFormat::Unnamed,
                    1 => BackingFormat::Known(ImageFormat::Raw),
                    2 => BackingFormat::Known(ImageFormat::Qcow2),
                    3 => BackingFormat::Other,
                    _ => return None,
                };
                let name = std::str::from_utf8(bytes.get(NAME_AT..)?.get(..len)?).ok().filter(|n| !n.contains('\0'))?;
                header(Some((name.to_owned(), format)))
            }
            (Question::Partitions { .. }, NO_PARTITION) => Some(Self::Partitions(None)),
            (Question::Partitions { .. }, PARTITION) => {
                let (cylinders, heads, sectors) = (pair(CYLINDERS_AT)?, pair(HEADS_AT)?, *bytes.get(SECTORS_AT)?);
                let possible =
                    (1..=16383).contains(&cylinders) && (2..=256).contains(&heads) && (1..=63).contains(&sectors);
                possible.then_some(Self::Partitions(Some(Partitioned { cylinders, heads, sectors })))
            }
            (Question::State, REFUSED_STATE) => {
                let error = ReadError::ALL.into_iter().find(|e| *e as u8 == bytes[1])?;
                Some(Self::State(Err(error)))
            }
            (Question::State, STATE) => {
                let long = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
                let places = bytes.get(PLACES_AT..)?.as_chunks::<PLACE>().0;
                let places = places.get(..usize::from(bytes[1]))?.iter().map(place).collect::<Option<Vec<_>>>()?;
                // Each name once: the launcher gives each process the first of its name.
                let twice = places.iter().enumerate().any(|(i, p)| places.iter().take(i).any(|q| q.name == p.name));
                let index = StateIndex { time: long(TIME_AT)?, video_ram: long(VIDEO_RAM_AT)?, places };
                (!twice).then_some(Self::State(Ok(index)))
            }
            _ => None,
        }
    }
}

/// A section of an answer: name, offset, length. It is in a stream, whose length the launcher knows.
fn place(bytes: &[u8; PLACE]) -> Option<Place> {
    let name = Name::from_bytes(*bytes.first_chunk()?)?;
    let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let place = Place { name, at: word(Name::LEN)?, len: word(Name::LEN.saturating_add(4))? };
    (place.len as usize <= PAYLOAD).then_some(place)
}

/// Most bytes of a backing file's name (QEMU's docs/interop/qcow2.rst).
pub const MAX_NAME: usize = 1023;
/// Sizes of a cluster, as powers of two.
pub const CLUSTER_BITS: std::ops::RangeInclusive<u8> = 9..=21;
/// Most bits of a cluster's reference count, as a power of two.
pub const MAX_REFCOUNT_ORDER: u8 = 6;
const REFUSED: u8 = 1;
const HEADER: u8 = 2;
const REFUSED_STATE: u8 = 5;
const STATE: u8 = 6;
const TIME_AT: usize = 8;
const VIDEO_RAM_AT: usize = 16;
const PLACES_AT: usize = 24;
/// Bytes of a section in an answer.
const PLACE: usize = Name::LEN + 8;
const _: () = assert!(NAME_AT + MAX_NAME <= Answer::LEN);
const NO_PARTITION: u8 = 3;
const PARTITION: u8 = 4;
const CYLINDERS_AT: usize = 2;
const HEADS_AT: usize = 4;
const SECTORS_AT: usize = 6;
const LEN_AT: usize = 8;
const CLUSTER_BITS_AT: usize = 10;
const SIZE_AT: usize = 16;
const NAME_AT: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answers() -> Vec<(Question, Answer)> {
        let header =
            |backing| Answer::Header(Ok(Header { size: 1 << 40, cluster_bits: 21, refcount_order: 6, backing }));
        let mut all = vec![
            (Question::Header, header(None)),
            (Question::Partitions { sectors: 9 }, Answer::Partitions(None)),
            (
                Question::Partitions { sectors: 9 },
                Answer::Partitions(Some(Partitioned { cylinders: 16383, heads: 256, sectors: 63 })),
            ),
        ];
        for format in [
            BackingFormat::Unnamed,
            BackingFormat::Known(ImageFormat::Raw),
            BackingFormat::Known(ImageFormat::Qcow2),
            BackingFormat::Other,
        ] {
            all.push((Question::Header, header(Some(("b".repeat(MAX_NAME), format)))));
        }
        all.extend(HeaderError::ALL.map(|e| (Question::Header, Answer::Header(Err(e)))));
        let places = (0..SECTIONS as u32).map(|n| Place {
            name: Name::new(&format!("part-{n}")).unwrap(),
            at: n << 10,
            len: PAYLOAD as u32,
        });
        let index = StateIndex { time: 1 << 60, video_ram: 0xf_0000, places: places.collect() };
        all.push((Question::State, Answer::State(Ok(index))));
        all.extend(ReadError::ALL.map(|e| (Question::State, Answer::State(Err(e)))));
        all
    }

    #[test]
    fn every_answer_comes_back_and_answers_its_own_question_alone() {
        for (question, answer) in answers() {
            let bytes = answer.to_bytes();
            assert_eq!(Answer::from_bytes(question, &bytes), Some(answer.clone()));
            let other = match question {
                Question::Header => Question::Partitions { sectors: 1 },
                Question::Partitions { .. } => Question::State,
                Question::State => Question::Header,
            };
            assert_eq!(Answer::from_bytes(other, &bytes), None, "{answer:?}");
            assert_eq!(Answer::from_bytes(question, &bytes[1..]), None);
        }
    }

    #[test]
    fn an_answer_names_each_section_once() {
        let place = |at| Place { name: Name::new("ide").unwrap(), at, len: 1 };
        let index = StateIndex { time: 0, video_ram: 0, places: vec![place(0), place(8)] };
        assert_eq!(Answer::from_bytes(Question::State, &Answer::State(Ok(index)).to_bytes()), None);
    }

    proptest! {
        #[test]
        fn a_hostile_answer_is_none_or_possible(
            head in prop::collection::vec(any::<u8>(), NAME_AT..=NAME_AT), name in prop::collection::vec(any::<u8>(), 0..40),
            question in prop_oneof![Just(Question::Header), Just(Question::Partitions { sectors: 7 }), Just(Question::State)],
        ) {
            let mut bytes = [0; Answer::LEN];
            bytes[..NAME_AT].copy_from_slice(&head);
            bytes[NAME_AT..][..name.len()].copy_from_slice(&name);
            bytes[0] %= 8;
            match Answer::from_bytes(question, &bytes) {
                Some(Answer::Header(Ok(Header { backing: Some((name, _)), .. }))) => {
                    prop_assert!((1..=MAX_NAME).contains(&name.len()) && !name.contains('\0'));
                }
                Some(Answer::State(Ok(index))) => {
                    prop_assert!(index.places.iter().all(|p| p.len as usize <= PAYLOAD));
                }
                Some(Answer::Partitions(Some(p))) => prop_assert!(
                    (1..=16383).contains(&p.cylinders) && (2..=256).contains(&p.heads) && (1..=63).contains(&p.sectors)
                ),
                _ => {}
            }
        }
    }
}
