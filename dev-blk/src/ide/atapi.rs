//! Packet commands of a CD-ROM drive (MMC-4, SPC-3). A command is decoded into an [`Answer`]; how its bytes travel is
//! the channel's business.
use super::spec::{CD_SECTOR, MediaEvent, Sense};

/// What a packet command comes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Done, without data.
    Done,
    /// These bytes, already cut to the allocation length.
    Data(Vec<u8>),
    /// Sectors of the medium.
    Sectors {
        /// First.
        first: u64,
        /// How many.
        count: u32,
        /// 2352 bytes each, with sync and header, instead of 2048.
        raw: bool,
    },
    /// Refused.
    Check(Sense),
}

/// The drive, as the commands see it.
#[derive(Debug)]
pub(crate) struct Drive<'a> {
    /// Sectors of the medium; `None` without one.
    pub(crate) sectors: Option<u32>,
    /// The tray is locked.
    pub(crate) locked: &'a mut bool,
    /// The tray is open.
    pub(crate) tray_open: bool,
    /// The next command that is not about the drive itself hears that the medium may have changed.
    pub(crate) attention: &'a mut bool,
    /// What GET EVENT STATUS NOTIFICATION tells next.
    pub(crate) event: &'a mut MediaEvent,
    /// What the last command left.
    pub(crate) sense: Sense,
}

fn be16(p: &[u8; 12], at: usize) -> usize {
    match p.get(at..).and_then(|p| p.first_chunk::<2>()) {
        Some(bytes) => usize::from(u16::from_be_bytes(*bytes)),
        None => 0,
    }
}

fn be32(p: &[u8; 12], at: usize) -> u32 {
    p.get(at..).and_then(|p| p.first_chunk::<4>()).map_or(0, |b| u32::from_be_bytes(*b))
}

fn cut(mut data: Vec<u8>, allocation: usize) -> Answer {
    data.truncate(allocation);
    if data.is_empty() { Answer::Done } else { Answer::Data(data) }
}

/// Minutes, seconds, frames of a block address (MMC-4 table 4).
pub(crate) fn msf(lba: u32) -> [u8; 3] {
    let frames = lba.saturating_add(150);
    [
        u8::try_from(frames.div_euclid(75 * 60)).unwrap_or(255),
        frames.div_euclid(75).rem_euclid(60) as u8,
        frames.rem_euclid(75) as u8,
    ]
}

/// Decodes a packet.
pub(crate) fn execute(p: &[u8; 12], drive: Drive<'_>) -> Answer {
    let [op, b1, b2, _, b4, ..] = *p;
    let medium = drive.sectors;
    // INQUIRY, REQUEST SENSE, GET CONFIGURATION and GET EVENT STATUS NOTIFICATION do not wait for it (SPC-3, 5.13).
    if !matches!(op, 0x03 | 0x12 | 0x46 | 0x4a) && std::mem::take(drive.attention) {
        return Answer::Check(Sense::MEDIUM_MAY_HAVE_CHANGED);
    }
    let needs_medium = matches!(op, 0x00 | 0x25 | 0x28 | 0xa8 | 0xbe | 0x2b | 0x42 | 0x43 | 0x51 | 0x52 | 0xad);
    if needs_medium && medium.is_none() {
        return Answer::Check(if drive.tray_open { Sense::TRAY_OPEN } else { Sense::NO_MEDIUM });
    }
    let sectors = medium.unwrap_or(0);
    match op {
        // TEST UNIT READY, SEEK, SET CD SPEED, MODE SELECT without pages
        0x00 | 0xbb => Answer::Done,
        0x2b if be32(p, 2) < sectors => Answer::Done,
        0x2b => Answer::Check(Sense::OUT_OF_RANGE),
        0x03 => request_sense(drive.sense, usize::from(b4)),
        0x12 => inquiry(b1, b2, be16(p, 3)),
        0x1a => mode_sense(b2, usize::from(b4), *drive.locked, true),
        0x5a => mode_sense(b2, be16(p, 7), *drive.locked, false),
        // START STOP UNIT: the medium stays; libxl, not the guest, decides what is in the drive.
        0x1b if b4 & 3 == 2 && *drive.locked => Answer::Check(Sense::REMOVAL_PREVENTED),
        0x1b => Answer::Done,
        0x1e => {
            *drive.locked = b4 & 1 != 0;
            Answer::Done
        }
        0x25 => {
            let mut data = sectors.saturating_sub(1).to_be_bytes().to_vec();
            data.extend_from_slice(&(CD_SECTOR as u32).to_be_bytes());
            Answer::Data(data)
        }
        0x28 => read(be32(p, 2), be16(p, 7) as u32, sectors, false),
        0xa8 => read(be32(p, 2), be32(p, 6), sectors, false),
        0xbe => read_cd(p, sectors),
        0x42 => sub_channel(b2, p, be16(p, 7)),
        0x43 => table_of_contents(p, sectors, be16(p, 7)),
        0x46 => configuration(p, medium, be16(p, 7)),
        0x4a => event_status(b1, b4, drive, be16(p, 7)),
        0x51 => {
            let mut data = vec![0; 34];
            // A complete disc: one session, one track, finished.
            for (at, value) in [(1, 32), (2, 0x0e), (3, 1), (4, 1), (5, 1), (6, 1), (7, 0x20)] {
                if let Some(byte) = data.get_mut(at) {
                    *byte = value;
                }
            }
            cut(data, be16(p, 7))
        }
        0x52 => track_information(p, sectors),
        0xbd => cut(vec![0, 0, 0, 0, 0, 1, 0, 0], be16(p, 8)),
        _ => Answer::Check(Sense::ILLEGAL_COMMAND),
    }
}

/// READ TRACK INFORMATION (MMC-4, 6.35): the one track, whichever way it is asked for.
fn track_information(p: &[u8; 12], sectors: u32) -> Answer {
    let ours = match p[1] & 3 {
        0 => be32(p, 2) < sectors,
        1 => matches!(be32(p, 2), 0 | 1),
        _ => be32(p, 2) == 1,
    };
    if !ours {
        return Answer::Check(Sense::INVALID_FIELD);
    }
    let mut data = vec![0; 36];
    // Length, track 1, session 1, data track, mode 1, its size.
    for (at, value) in [(1, 34), (2, 1), (3, 1), (5, 4), (6, 1)] {
        if let Some(byte) = data.get_mut(at) {
            *byte = value;
        }
    }
    if let Some(size) = data.get_mut(24..28) {
        size.copy_from_slice(&sectors.to_be_bytes());
    }
    cut(data, be16(p, 7))
}

fn request_sense(sense: Sense, allocation: usize) -> Answer {
    let mut data = vec![0; 18];
    for (at, value) in [(0, 0x70), (2, sense.key), (7, 10), (12, sense.asc), (13, sense.ascq)] {
        if let Some(byte) = data.get_mut(at) {
            *byte = value;
        }
    }
    cut(data, allocation)
}

fn inquiry(evpd: u8, page: u8, allocation: usize) -> Answer {
    if evpd & 1 != 0 {
        return match page {
            0 => cut(vec![5, 0, 0, 1, 0], allocation),
            _ => Answer::Check(Sense::INVALID_FIELD),
        };
    }
    let mut data = vec![0x05, 0x80, 0x00, 0x21, 31, 0, 0, 0];
    data.extend_from_slice(b"BULKHEADDVD-ROM         1.0 ");
    cut(data, allocation)
}

/// MODE SENSE(10) and (6): error recovery, CD capabilities.
fn mode_sense(page: u8, allocation: usize, locked: bool, six: bool) -> Answer {
    if page >> 6 == 3 {
        return Answer::Check(Sense { key: 5, asc: 0x39, ascq: 0 }); // saved values
    }
    let recovery: &[u8] = &[0x01, 6, 0x00, 5, 0, 0, 0, 0];
    let mut capabilities =
        vec![0x2a, 20, 0x3b, 0x00, 0x71, 0x60, 0x29, 0x00, 0x02, 0xc2, 0, 2, 0x02, 0x00, 0x02, 0xc2, 0, 0, 0, 0, 0, 0];
    if let Some(byte) = capabilities.get_mut(6) {
        *byte |= u8::from(locked) << 1;
    }
    let mut pages = Vec::new();
    match page & 0x3f {
        0x01 => pages.extend_from_slice(recovery),
        0x2a => pages.append(&mut capabilities),
        0x3f => {
            pages.extend_from_slice(recovery);
            pages.append(&mut capabilities);
        }
        _ => return Answer::Check(Sense::INVALID_FIELD),
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

fn read(first: u32, count: u32, sectors: u32, raw: bool) -> Answer {
    if first.checked_add(count).is_none_or(|end| end > sectors) {
        return Answer::Check(Sense::OUT_OF_RANGE);
    }
    if count == 0 {
        return Answer::Done;
    }
    Answer::Sectors { first: u64::from(first), count, raw }
}

fn read_cd(p: &[u8; 12], sectors: u32) -> Answer {
    let [_, _, _, _, _, _, c0, c1, c2, what, ..] = *p;
    let count = u32::from_be_bytes([0, c0, c1, c2]);
    match what & 0xf8 {
        0x00 => Answer::Done,
        0x10 => read(be32(p, 2), count, sectors, false),
        0xf8 => read(be32(p, 2), count, sectors, true),
        _ => Answer::Check(Sense::INVALID_FIELD),
    }
}

fn sub_channel(b2: u8, p: &[u8; 12], allocation: usize) -> Answer {
    let [_, _, _, format, ..] = *p;
    let mut data = vec![0, 0x15, 0, 0];
    if b2 & 0x40 != 0 {
        if format != 1 {
            return Answer::Check(Sense::INVALID_FIELD);
        }
        data = vec![0, 0x15, 0, 12, 1, 0x14, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    }
    cut(data, allocation)
}

/// READ TOC/PMA/ATIP: one data track, and the lead-out.
fn table_of_contents(p: &[u8; 12], sectors: u32, allocation: usize) -> Answer {
    let [_, b1, b2, _, _, _, start, _, _, b9, ..] = *p;
    let use_msf = b1 & 2 != 0;
    let address = |lba: u32| {
        if use_msf {
            let [m, s, f] = msf(lba);
            [0, m, s, f]
        } else {
            lba.to_be_bytes()
        }
    };
    let format = if b2 & 0x0f != 0 { b2 & 0x0f } else { b9 >> 6 };
    let data = match format {
        0 => {
            if start > 1 && start != 0xaa {
                return Answer::Check(Sense::INVALID_FIELD);
            }
            let mut tracks = Vec::new();
            if start <= 1 {
                tracks.extend_from_slice(&[0, 0x14, 1, 0]);
                tracks.extend_from_slice(&address(0));
            }
            tracks.extend_from_slice(&[0, 0x16, 0xaa, 0]);
            tracks.extend_from_slice(&address(sectors));
            let len = u16::try_from(tracks.len().saturating_add(2)).unwrap_or(0).to_be_bytes();
            let mut data = vec![len[0], len[1], 1, 1];
            data.append(&mut tracks);
            data
        }
        1 => {
            let mut data = vec![0, 0x0a, 1, 1, 0, 0x14, 1, 0];
            data.extend_from_slice(&address(0));
            data
        }
        2 => {
            let mut data = vec![0, 0x2e, 1, 1];
            let [m, s, f] = msf(sectors);
            for (point, pm, ps, pf) in [(0xa0, 1, 0, 0), (0xa1, 1, 0, 0), (0xa2, m, s, f), (0x01, 0, 2, 0)] {
                data.extend_from_slice(&[1, 0x14, 0, point, 0, 0, 0, 0, pm, ps, pf]);
            }
            data
        }
        _ => return Answer::Check(Sense::INVALID_FIELD),
    };
    cut(data, allocation)
}

/// GET CONFIGURATION: profiles, core, removable medium.
fn configuration(p: &[u8; 12], medium: Option<u32>, allocation: usize) -> Answer {
    let [_, b1, f0, f1, ..] = *p;
    let start = u16::from_be_bytes([f0, f1]);
    // An image with more than 80 minutes of a CD's frames can only be a DVD.
    let (dvd, cd) = (medium.is_some_and(|n| n > 80 * 60 * 75), medium.is_some_and(|n| n <= 80 * 60 * 75));
    let profile: u16 = if dvd {
        0x0010
    } else if cd {
        0x0008
    } else {
        0
    };
    let [p0, p1] = profile.to_be_bytes();
    let (dvd, cd) = (u8::from(dvd), u8::from(cd));
    let features: [(u16, Vec<u8>); 3] = [
        (0x0000, vec![0, 0, 0x03, 8, 0x00, 0x10, dvd, 0, 0x00, 0x08, cd, 0]),
        (0x0001, vec![0, 1, 0x0b, 8, 0, 0, 0, 2, 1, 0, 0, 0]),
        (0x0003, vec![0, 3, 0x03, 4, 0x29, 0, 0, 0]),
    ];
    let mut data = vec![0, 0, 0, 0, 0, 0, p0, p1];
    for (number, mut bytes) in features {
        let wanted = match b1 & 3 {
            2 => number == start,
            _ => number >= start,
        };
        if wanted {
            data.append(&mut bytes);
        }
    }
    let len = u32::try_from(data.len().saturating_sub(4)).unwrap_or(0).to_be_bytes();
    if let Some(head) = data.first_chunk_mut::<4>() {
        *head = len;
    }
    cut(data, allocation)
}

/// GET EVENT STATUS NOTIFICATION, polled: the medium class.
fn event_status(b1: u8, classes: u8, drive: Drive<'_>, allocation: usize) -> Answer {
    if b1 & 1 == 0 {
        return Answer::Check(Sense::INVALID_FIELD);
    }
    if classes & 0x10 == 0 {
        return cut(vec![0, 2, 0x80, 0x10], allocation);
    }
    let event = std::mem::take(drive.event) as u8;
    cut(
        vec![0, 6, 0x04, 0x10, event, u8::from(drive.sectors.is_some()) << 1 | u8::from(drive.tray_open), 0, 0],
        allocation,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(bytes: &[u8]) -> [u8; 12] {
        let mut p = [0; 12];
        p[..bytes.len()].copy_from_slice(bytes);
        p
    }

    fn drive(sectors: Option<u32>) -> Drive<'static> {
        let (locked, attention, event) =
            (Box::leak(Box::new(false)), Box::leak(Box::new(false)), Box::leak(Box::default()));
        Drive { sectors, locked, tray_open: false, attention, event, sense: Sense::NONE }
    }

    fn run(bytes: &[u8], sectors: Option<u32>) -> Answer {
        execute(&packet(bytes), drive(sectors))
    }

    #[test]
    fn what_bios_and_linux_ask_first() {
        assert_eq!(run(&[0x00], None), Answer::Check(Sense::NO_MEDIUM));
        assert_eq!(run(&[0x00], Some(10)), Answer::Done);
        assert_eq!(run(&[0x25], Some(10)), Answer::Data(vec![0, 0, 0, 9, 0, 0, 8, 0]));
        let Answer::Data(inquiry) = run(&[0x12, 0, 0, 0, 36], Some(10)) else { panic!() };
        assert_eq!((inquiry.len(), inquiry[0], &inquiry[8..16]), (36, 5, &b"BULKHEAD"[..]));
        assert_eq!(run(&[0x28, 0, 0, 0, 0, 2, 0, 0, 3], Some(10)), Answer::Sectors { first: 2, count: 3, raw: false });
        assert_eq!(run(&[0x28, 0, 0, 0, 0, 9, 0, 0, 2], Some(10)), Answer::Check(Sense::OUT_OF_RANGE));
        let Answer::Data(toc) = run(&[0x43, 2, 0, 0, 0, 0, 0, 0, 20], Some(10)) else { panic!() };
        assert_eq!(toc, [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 2, 0, 0, 0x16, 0xaa, 0, 0, 0, 2, 10]);
    }

    #[test]
    fn a_wrapping_lba_is_out_of_range() {
        // CVE-2020-29443: block addresses near the top of the number's range.
        assert_eq!(run(&[0x28, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 1], Some(10)), Answer::Check(Sense::OUT_OF_RANGE));
        assert_eq!(
            run(&[0xa8, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Some(10)),
            Answer::Check(Sense::OUT_OF_RANGE)
        );
    }

    proptest! {
        #[test]
        fn any_packet_has_a_bounded_answer(p in prop::array::uniform12(any::<u8>()), sectors in prop::option::of(1u32..1000)) {
            match execute(&p, drive(sectors)) {
                Answer::Data(data) => prop_assert!(!data.is_empty() && data.len() < 1024),
                Answer::Sectors { first, count, .. } => prop_assert!(first + u64::from(count) <= u64::from(sectors.unwrap())),
                _ => {}
            }
        }
    }
}
