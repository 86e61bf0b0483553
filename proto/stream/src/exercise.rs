//! The fuzz target: any bytes, with checksums as they are and with right ones, which a hostile writer can make.
use super::{CRC, HEADER, Index, PAYLOAD, SECTION, SECTION_TAG, SECTIONS, Section, header, read, section, write};

/// Reads the bytes as a stream, as they are and with right checksums.
///
/// # Errors
/// The invariant that does not hold.
pub fn exercise(bytes: &[u8]) -> Result<(), String> {
    let mut right = bytes.to_vec();
    repaired(&mut right);
    for stream in [bytes, &right] {
        if let Ok(index) = read(stream) {
            holds(&index, stream)?;
        }
    }
    Ok(())
}

/// Sections are inside of the stream, in order and apart, and what was read can be written and read again.
fn holds(index: &Index, stream: &[u8]) -> Result<(), String> {
    if index.places.len() > SECTIONS {
        return Err("more sections than a stream can have".into());
    }
    let (mut end, mut sections) = (HEADER, Vec::new());
    for place in &index.places {
        let (at, len) = (place.at as usize, place.len as usize);
        if at < end.saturating_add(SECTION) || len > PAYLOAD {
            return Err(format!("{}: its payload overlaps what is before it, or is too long", place.name));
        }
        let payload = stream.get(at..).and_then(|s| s.get(..len)).ok_or("a payload is not in the stream")?;
        end = at.saturating_add(len);
        sections.push(Section { name: place.name, version: 1, oldest: 1, payload });
    }
    let again = match write(index.time, &sections) {
        Ok(stream) => stream,
        Err(why) => return Err(format!("what was read cannot be written: {why}")),
    };
    let read_again = read(&again).map_err(|why| format!("what was written cannot be read: {why}"))?;
    let same = read_again.time == index.time
        && read_again.places.len() == sections.len()
        && sections.iter().all(|s| read_again.payload(s.name, &again) == Some(s.payload));
    if same { Ok(()) } else { Err("written and read again, the sections are others".into()) }
}

/// Makes all checksums right, as far as the sections can be found.
pub(crate) fn repaired(stream: &mut [u8]) {
    let put = |stream: &mut [u8], at: usize, crc: u32| {
        if let Some(to) = stream.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            *to = crc.to_le_bytes();
        }
    };
    let word = |stream: &[u8], at: usize| {
        stream.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_le_bytes(*b) as usize)
    };
    if let Some(head) = stream.get(..header::CRC) {
        let crc = CRC.checksum(head);
        put(stream, header::CRC, crc);
    }
    // A header of a later minor version is longer.
    let mut at = word(stream, header::LEN).min(stream.len());
    let mut heads = CRC.digest();
    while stream.get(at..).is_some_and(|rest| rest.starts_with(&SECTION_TAG)) {
        let begin = at.saturating_add(SECTION);
        let len = word(stream, at.saturating_add(section::LEN));
        let Some(payload) = stream.get(begin..).and_then(|rest| rest.get(..len)) else { break };
        let crc = CRC.checksum(payload);
        put(stream, at.saturating_add(section::PAYLOAD_CRC), crc);
        let Some(head) = stream.get(at..).and_then(|rest| rest.get(..section::CRC)) else { break };
        let crc = CRC.checksum(head);
        put(stream, at.saturating_add(section::CRC), crc);
        heads.update(stream.get(at..begin).unwrap_or_default());
        at = begin.saturating_add(len).next_multiple_of(8);
    }
    put(stream, at.saturating_add(4), heads.finalize());
}
