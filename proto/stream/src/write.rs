//! Writes a stream.
use super::{
    CRC, HEADER, LONGEST, MACHINE, MAGIC, MAJOR, MANDATORY, MINOR, Name, PAYLOAD, Release, SECTION, SECTION_TAG,
    SECTIONS, TRAILER, TRAILER_TAG, header, section,
};

/// The oldest release that reads what this one writes.
pub const OLDEST_READER: Release = Release(0);

/// A section to be written.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    /// Its name.
    pub name: Name,
    /// The version of its payload, and the oldest one whose reader takes it.
    pub version: u16,
    /// See there.
    pub oldest: u16,
    /// The payload.
    pub payload: &'a [u8],
}

/// Why there is no stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// A payload is too long.
    #[error("{0}: its state has more than {PAYLOAD} bytes")]
    Payload(Name),
    /// Two sections have one name.
    #[error("{0}: there are two of this name")]
    Twice(Name),
    /// There are too many sections.
    #[error("more than {SECTIONS} sections")]
    Sections,
    /// The stream is too long.
    #[error("more than {LONGEST} bytes")]
    Length,
}

/// The stream of these sections, in any order, at this machine time in nanoseconds.
///
/// # Errors
/// See [`WriteError`].
pub fn write(time: u64, sections: &[Section<'_>]) -> Result<Vec<u8>, WriteError> {
    if sections.len() > SECTIONS {
        return Err(WriteError::Sections);
    }
    let mut sorted = sections.to_vec();
    sorted.sort_by_key(|s| s.name.rank());
    let mut stream = vec![0; HEADER];
    let mut heads = CRC.digest();
    let mut last = None;
    for one in &sorted {
        if last.replace(one.name) == Some(one.name) {
            return Err(WriteError::Twice(one.name));
        }
        let len = u32::try_from(one.payload.len()).ok().filter(|_| one.payload.len() <= PAYLOAD);
        let mut head = [0; SECTION];
        put(&mut head, 0, &SECTION_TAG);
        put(&mut head, section::LEN, &len.ok_or(WriteError::Payload(one.name))?.to_le_bytes());
        put(&mut head, section::NAME, &one.name.to_bytes());
        put(&mut head, section::VERSION, &one.version.to_le_bytes());
        put(&mut head, section::OLDEST, &one.oldest.to_le_bytes());
        put(&mut head, section::FLAGS, &MANDATORY.to_le_bytes());
        put(&mut head, section::PAYLOAD_CRC, &CRC.checksum(one.payload).to_le_bytes());
        let crc = CRC.checksum(head.get(..section::CRC).unwrap_or_default());
        put(&mut head, section::CRC, &crc.to_le_bytes());
        heads.update(&head);
        stream.extend(head);
        stream.extend(one.payload);
        stream.resize(stream.len().next_multiple_of(8), 0);
    }
    let total = stream.len().saturating_add(TRAILER);
    if total > LONGEST {
        return Err(WriteError::Length);
    }
    stream.extend(TRAILER_TAG);
    stream.extend(heads.finalize().to_le_bytes());
    stream.extend((total as u64).to_le_bytes());
    put(&mut stream, 0, &MAGIC);
    put(&mut stream, header::MAJOR, &MAJOR.to_le_bytes());
    put(&mut stream, header::MINOR, &MINOR.to_le_bytes());
    put(&mut stream, header::LEN, &(HEADER as u32).to_le_bytes());
    put(&mut stream, header::TOTAL, &(total as u64).to_le_bytes());
    put(&mut stream, header::SECTIONS, &(sorted.len() as u32).to_le_bytes());
    put(&mut stream, header::MACHINE, &MACHINE.to_le_bytes());
    put(&mut stream, header::WRITER, &Release::THIS.0.to_le_bytes());
    // Each release reads what the first one has written.
    put(&mut stream, header::OLDEST_READER, &OLDEST_READER.0.to_le_bytes());
    put(&mut stream, header::TIME, &time.to_le_bytes());
    let crc = CRC.checksum(stream.get(..header::CRC).unwrap_or_default());
    put(&mut stream, header::CRC, &crc.to_le_bytes());
    Ok(stream)
}

fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    to.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
}
