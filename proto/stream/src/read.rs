//! Reads a stream: checks its form, and says where each payload is. It allocates the list of sections and nothing else.
use super::{
    CRC, HEADER, LONGEST, LONGEST_HEADER, MACHINE, MAGIC, MAJOR, Name, PAYLOAD, QEMU, Release, SECTION, SECTION_TAG,
    SECTIONS, TRAILER, TRAILER_TAG, header, section,
};

/// Why a stream is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum ReadError {
    /// The stream is QEMU's.
    #[error("the state is QEMU's, which this device model cannot take over")]
    Qemu = 1,
    /// The first bytes are others.
    #[error("this is no saved state of this device model")]
    Magic = 2,
    /// The format's major version is another one.
    #[error("its format is of a later release")]
    Version = 3,
    /// The writer says that this release cannot read it.
    #[error("it needs a later release")]
    Reader = 4,
    /// The guest has another machine.
    #[error("it is of another kind of machine")]
    Machine = 5,
    /// It ends before its end.
    #[error("it is cut off, or not as long as it says")]
    Length = 6,
    /// A checksum is wrong.
    #[error("it is damaged: a checksum is wrong")]
    Checksum = 7,
    /// A field has an impossible value.
    #[error("it is damaged: a field has an impossible value")]
    Field = 8,
    /// Sections are not in their order, or two have one name.
    #[error("it is damaged: its sections are not in order")]
    Order = 9,
    /// A section's version is too new.
    #[error("a part of it is of a later release")]
    Section = 10,
    /// It cannot be read.
    #[error("the host cannot read it")]
    Unreadable = 11,
    /// A payload that the reader needs is missing or impossible.
    #[error("it lacks what the launcher needs")]
    Launcher = 12,
}

impl ReadError {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Qemu,
        Self::Magic,
        Self::Version,
        Self::Reader,
        Self::Machine,
        Self::Length,
        Self::Checksum,
        Self::Field,
        Self::Order,
        Self::Section,
        Self::Unreadable,
        Self::Launcher,
    ];
}

/// The version of payloads that this build reads, up to this one.
const VERSION: u16 = 1;

/// A section's place in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub name: Name,
    /// Offset of its payload.
    pub at: u32,
    /// Bytes of its payload.
    pub len: u32,
}

/// What a stream holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Machine time at which it was saved, in nanoseconds.
    pub time: u64,
    /// The release that wrote it.
    pub writer: Release,
    /// The sections, in order.
    pub places: Vec<Place>,
}

impl Index {
    /// The payload of a section in the stream.
    pub fn payload<'a>(&self, name: Name, stream: &'a [u8]) -> Option<&'a [u8]> {
        let place = self.places.iter().find(|p| p.name == name)?;
        stream.get(place.at as usize..)?.get(..place.len as usize)
    }
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Result<[u8; N], ReadError> {
    from.get(at..).and_then(<[u8]>::first_chunk).copied().ok_or(ReadError::Length)
}

fn word(from: &[u8], at: usize) -> Result<u32, ReadError> {
    bytes(from, at).map(u32::from_le_bytes)
}

fn half(from: &[u8], at: usize) -> Result<u16, ReadError> {
    bytes(from, at).map(u16::from_le_bytes)
}

fn long(from: &[u8], at: usize) -> Result<u64, ReadError> {
    bytes(from, at).map(u64::from_le_bytes)
}

/// Reads a stream. What follows it does not count: libxl does not empty the file of an earlier, longer state, and a console adds zeroes.
///
/// # Errors
/// See [`ReadError`].
pub fn read(stream: &[u8]) -> Result<Index, ReadError> {
    if stream.starts_with(&QEMU) {
        return Err(ReadError::Qemu);
    }
    if !stream.starts_with(&MAGIC) {
        return Err(ReadError::Magic);
    }
    if half(stream, header::MAJOR)? != MAJOR {
        return Err(ReadError::Version);
    }
    let crc = CRC.checksum(stream.get(..header::CRC).ok_or(ReadError::Length)?);
    if word(stream, header::CRC)? != crc {
        return Err(ReadError::Checksum);
    }
    if Release(word(stream, header::OLDEST_READER)?) > Release::THIS {
        return Err(ReadError::Reader);
    }
    if word(stream, header::MACHINE)? != MACHINE {
        return Err(ReadError::Machine);
    }
    let (len, count) = (word(stream, header::LEN)? as usize, word(stream, header::SECTIONS)? as usize);
    let sane = (HEADER..=LONGEST_HEADER).contains(&len) && len.is_multiple_of(8) && (1..=SECTIONS).contains(&count);
    if !sane || word(stream, header::FLAGS)? != 0 {
        return Err(ReadError::Field);
    }
    let total = usize::try_from(long(stream, header::TOTAL)?).map_err(|_| ReadError::Length)?;
    let whole = stream.get(..total).filter(|_| total <= LONGEST).ok_or(ReadError::Length)?;
    let (mut at, mut heads, mut places) = (len, CRC.digest(), Vec::with_capacity(count));
    for _ in 0..count {
        let head: [u8; SECTION] = bytes(whole, at)?;
        heads.update(&head);
        let place = section_at(&head, whole, at.saturating_add(SECTION))?;
        let end = (place.at as usize).saturating_add(place.len as usize);
        let padded = end.next_multiple_of(8);
        if whole.get(end..padded).ok_or(ReadError::Length)?.iter().any(|b| *b != 0) {
            return Err(ReadError::Field);
        }
        if places.last().is_some_and(|last: &Place| last.name.rank() >= place.name.rank()) {
            return Err(ReadError::Order);
        }
        places.push(place);
        at = padded;
    }
    let tail: [u8; TRAILER] = bytes(whole, at)?;
    if at.saturating_add(TRAILER) != total || long(&tail, 8)? != total as u64 || !tail.starts_with(&TRAILER_TAG) {
        return Err(ReadError::Length);
    }
    if word(&tail, 4)? != heads.finalize() {
        return Err(ReadError::Checksum);
    }
    Ok(Index { time: long(stream, header::TIME)?, writer: Release(word(stream, header::WRITER)?), places })
}

fn section_at(head: &[u8; SECTION], whole: &[u8], at: usize) -> Result<Place, ReadError> {
    if !head.starts_with(&SECTION_TAG) {
        return Err(ReadError::Field);
    }
    if word(head, section::CRC)? != CRC.checksum(head.get(..section::CRC).unwrap_or_default()) {
        return Err(ReadError::Checksum);
    }
    let name = Name::from_bytes(bytes(head, section::NAME)?).ok_or(ReadError::Field)?;
    if half(head, section::OLDEST)? > VERSION {
        return Err(ReadError::Section);
    }
    let len = word(head, section::LEN)?;
    let payload = whole.get(at..).and_then(|p| p.get(..len as usize)).ok_or(ReadError::Length)?;
    if payload.len() > PAYLOAD {
        return Err(ReadError::Field);
    }
    if word(head, section::PAYLOAD_CRC)? != CRC.checksum(payload) {
        return Err(ReadError::Checksum);
    }
    Ok(Place { name, at: u32::try_from(at).map_err(|_| ReadError::Length)?, len })
}
