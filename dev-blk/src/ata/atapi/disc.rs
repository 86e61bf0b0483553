//! The description of a medium: one data track in mode 1, complete (MMC-4).
use super::{Answer, be16, be32, cut};
use crate::ata::cd_sector::msf;
use crate::ata::spec::Sense;

/// Frames of 80 minutes. An image with more is a DVD.
const MOST_OF_A_CD: u32 = 80 * 60 * 75;

/// Whether a medium is a DVD.
pub(super) fn is_dvd(sectors: u32) -> bool {
    sectors > MOST_OF_A_CD
}

fn filled(len: usize, values: &[(usize, u8)]) -> Vec<u8> {
    let mut data = vec![0; len];
    for (at, value) in values {
        if let Some(byte) = data.get_mut(*at) {
            *byte = *value;
        }
    }
    data
}

/// READ DISC INFORMATION: a complete disc, one session, one track, finished.
pub(super) fn information(allocation: usize) -> Answer {
    cut(filled(34, &[(1, 32), (2, 0x0e), (3, 1), (4, 1), (5, 1), (6, 1), (7, 0x20)]), allocation)
}

/// READ TRACK INFORMATION: the only track, addressed by block, track or session.
pub(super) fn track_information(p: &[u8; 12], sectors: u32) -> Answer {
    let ours = match p[1] & 3 {
        0 => be32(p, 2) < sectors,
        1 => matches!(be32(p, 2), 0 | 1),
        _ => be32(p, 2) == 1,
    };
    if !ours {
        return Answer::Check(Sense::INVALID_FIELD);
    }
    // Length, track 1, session 1, data track, mode 1, its size.
    let mut data = filled(36, &[(1, 34), (2, 1), (3, 1), (5, 4), (6, 1)]);
    if let Some(size) = data.get_mut(24..28) {
        size.copy_from_slice(&sectors.to_be_bytes());
    }
    cut(data, be16(p, 7))
}

/// READ SUB-CHANNEL: the drive's position; no catalogue number and no ISRC.
pub(super) fn sub_channel(p: &[u8; 12], allocation: usize) -> Answer {
    let [_, b1, b2, format, ..] = *p;
    let mut data = vec![0, 0x15, 0, 0];
    if b2 & 0x40 != 0 {
        if format != 1 {
            return Answer::Check(Sense::INVALID_FIELD);
        }
        // The first block of track 1, as address or as minutes, seconds and frames; and as distance from the track's beginning.
        let [m, s, f] = if b1 & 2 != 0 { msf(0) } else { [0; 3] };
        data = vec![0, 0x15, 0, 12, 1, 0x14, 1, 1, 0, m, s, f, 0, 0, 0, 0];
    }
    cut(data, allocation)
}

/// READ TOC/PMA/ATIP: one data track, and the lead-out.
pub(super) fn table_of_contents(p: &[u8; 12], sectors: u32, allocation: usize) -> Answer {
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
        2 if start > 1 => return Answer::Check(Sense::INVALID_FIELD),
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

/// READ DVD STRUCTURE: the physical format, and no copy protection.
pub(super) fn dvd_structure(p: &[u8; 12], sectors: u32, allocation: usize) -> Answer {
    let [_, b1, _, _, _, _, layer, format, ..] = *p;
    if !is_dvd(sectors) {
        return Answer::Check(Sense::INCOMPATIBLE_MEDIUM);
    }
    if b1 & 0x0f != 0 || layer != 0 {
        return Answer::Check(Sense::INVALID_FIELD);
    }
    let data = match format {
        0x00 => {
            // DVD-ROM, version 1; 120 mm; one embossed layer, from sector 30000h.
            let mut data = filled(2052, &[(0, 0x08), (1, 0x02), (4, 0x01), (6, 0x01), (9, 0x03)]);
            let last = 0x2_ffffu32.saturating_add(sectors).to_be_bytes();
            if let Some(place) = data.get_mut(12..16) {
                place.copy_from_slice(&last);
            }
            data
        }
        0x01 => filled(8, &[(1, 6)]),
        // The list of these.
        0xff => vec![0, 14, 0, 0, 0x00, 0x40, 0x08, 0x04, 0x01, 0x40, 0, 8, 0xff, 0x40, 0, 16],
        _ => return Answer::Check(Sense::INVALID_FIELD),
    };
    cut(data, allocation)
}
