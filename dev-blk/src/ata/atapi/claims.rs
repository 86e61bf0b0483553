//! The claimed abilities of a drive: mode pages and features (MMC-4). Every bit that is set here has its command.
use super::{Answer, cut, disc};
use crate::ata::spec::Sense;

/// Error recovery: no selectable retries.
const RECOVERY: [u8; 8] = [0x01, 6, 0x00, 5, 0, 0, 0, 0];

/// Capabilities and mechanical status: reads CD-R, CD-RW, DVD-ROM, DVD-R and DVD-RAM; a tray that opens and can be locked. No
/// audio, no sub-channels, no catalogue numbers, no error pointers.
fn capabilities(locked: bool) -> [u8; 22] {
    let lock = 0x29 | u8::from(locked) << 1;
    [0x2a, 20, 0x3b, 0x00, 0x00, 0x00, lock, 0x00, 0x02, 0xc2, 0, 0, 0x02, 0x00, 0x02, 0xc2, 0, 0, 0, 0, 0, 0]
}

/// MODE SENSE(10) and (6).
pub(super) fn mode_sense(p: &[u8; 12], allocation: usize, locked: bool, six: bool) -> Answer {
    let [_, _, page, sub_page, ..] = *p;
    if page >> 6 == 3 {
        return Answer::Check(Sense::NO_SAVED_VALUES);
    }
    let capabilities = capabilities(locked);
    let mut wanted: Vec<&[u8]> = match page & 0x3f {
        0x01 => vec![&RECOVERY],
        0x2a => vec![&capabilities],
        0x3f => vec![&RECOVERY, &capabilities],
        _ => return Answer::Check(Sense::INVALID_FIELD),
    };
    // No page has sub-pages; 3fh with ffh selects all pages and sub-pages.
    if sub_page != 0 && (page & 0x3f, sub_page) != (0x3f, 0xff) {
        return Answer::Check(Sense::INVALID_FIELD);
    }
    let mut pages = Vec::new();
    for page_bytes in wanted.drain(..) {
        // Nothing is changeable, so the mask of changeable bits is zero after the page's length.
        let changeable = page >> 6 == 1;
        pages.extend(page_bytes.iter().enumerate().map(|(i, byte)| if changeable && i >= 2 { 0 } else { *byte }));
    }
    let mut data = if six {
        vec![u8::try_from(pages.len().saturating_add(3)).unwrap_or(255), 0, 0, 0]
    } else {
        let len = u16::try_from(pages.len().saturating_add(6)).unwrap_or(0).to_be_bytes();
        vec![len[0], len[1], 0, 0, 0, 0, 0, 0]
    };
    data.append(&mut pages);
    cut(data, allocation)
}

/// The packet of MODE SELECT(10): the length of the requested list. Pages cannot be saved.
pub(super) fn mode_select_length(b1: u8, list: usize) -> Answer {
    match list {
        _ if b1 & 0x11 != 0x10 => Answer::Check(Sense::INVALID_FIELD),
        0 => Answer::Done,
        8..=256 => Answer::Parameters(list),
        _ => Answer::Check(Sense::LIST_LENGTH),
    }
}

/// The list of MODE SELECT(10): only pages with their current values, because nothing is changeable.
pub(crate) fn mode_select(list: &[u8], locked: bool) -> Result<(), Sense> {
    let Some(([_, _, _, _, _, _, 0, 0], mut rest)) = list.split_first_chunk::<8>() else {
        return Err(Sense::INVALID_PARAMETER);
    };
    let capabilities = capabilities(locked);
    while let [code, len, ..] = *rest {
        let whole = usize::from(len).saturating_add(2);
        let (page, later) = rest.split_at_checked(whole).ok_or(Sense::LIST_LENGTH)?;
        let known: &[u8] = match code {
            0x01 => &RECOVERY,
            0x2a => &capabilities,
            _ => return Err(Sense::INVALID_PARAMETER),
        };
        if page != known {
            return Err(Sense::INVALID_PARAMETER);
        }
        rest = later;
    }
    if rest.is_empty() { Ok(()) } else { Err(Sense::LIST_LENGTH) }
}

/// A feature of GET CONFIGURATION: number, version, whether it is persistent, additional bytes.
struct Feature {
    number: u16,
    version: u8,
    persistent: bool,
    current: bool,
    data: Vec<u8>,
}

/// GET CONFIGURATION: profiles, core, removable medium, reading by block, of CDs, of DVDs.
pub(super) fn configuration(p: &[u8; 12], medium: Option<u32>, allocation: usize) -> Answer {
    let [_, b1, f0, f1, ..] = *p;
    let start = u16::from_be_bytes([f0, f1]);
    let dvd = medium.is_some_and(disc::is_dvd);
    let cd = medium.is_some() && !dvd;
    let profile: u16 = match (dvd, cd) {
        (true, _) => 0x0010,
        (_, true) => 0x0008,
        _ => 0,
    };
    let persistent = |number, version, data| Feature { number, version, persistent: true, current: true, data };
    let reading = |number, version, current, data| Feature { number, version, persistent: false, current, data };
    let features = [
        persistent(0x0000, 0, vec![0x00, 0x10, u8::from(dvd), 0, 0x00, 0x08, u8::from(cd), 0]),
        // ATAPI; device busy events.
        persistent(0x0001, 2, vec![0, 0, 0, 2, 1, 0, 0, 0]),
        persistent(0x0003, 0, vec![0x29, 0, 0, 0]),
        reading(0x0010, 0, dvd || cd, vec![0, 0, 8, 0, 0, 1, 0, 0]),
        reading(0x001e, 1, cd, vec![0, 0, 0, 0]),
        reading(0x001f, 0, dvd, Vec::new()),
    ];
    let wanted = |f: &Feature| match b1 & 3 {
        0 => f.number >= start,
        1 => f.number >= start && f.current,
        _ => f.number == start,
    };
    if b1 & 3 == 3 {
        return Answer::Check(Sense::INVALID_FIELD);
    }
    let [p0, p1] = profile.to_be_bytes();
    let mut data = vec![0, 0, 0, 0, 0, 0, p0, p1];
    for feature in features.iter().filter(|f| wanted(f)) {
        let [n0, n1] = feature.number.to_be_bytes();
        let flags = feature.version << 2 | u8::from(feature.persistent) << 1 | u8::from(feature.current);
        data.extend_from_slice(&[n0, n1, flags, feature.data.len() as u8]);
        data.extend_from_slice(&feature.data);
    }
    let len = u32::try_from(data.len().saturating_sub(4)).unwrap_or(0).to_be_bytes();
    if let Some(head) = data.first_chunk_mut::<4>() {
        *head = len;
    }
    cut(data, allocation)
}
