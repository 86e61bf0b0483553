//! Packet commands of a CD-ROM drive (MMC-4, SPC-3). A command is decoded into an [`Answer`]; the transport moves its bytes.
//!
//! | file | what |
//! |---|---|
//! | `claims.rs` | the claimed abilities: mode pages, features |
//! | `disc.rs` | the description of the medium |
mod claims;
mod disc;
#[cfg(test)]
mod tests;

use super::cd_sector::{Form, block};
use super::spec::{CD_SECTOR, MediaEvent, Sense};
pub(crate) use claims::mode_select;

/// The result of a packet command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Completed without data.
    Done,
    /// These bytes, already cut to the allocation length.
    Data(Vec<u8>),
    /// Sectors of the medium.
    Sectors {
        /// Number of the first sector.
        first: u64,
        /// Number of sectors.
        count: u32,
        /// The selected parts of each sector.
        form: Form,
    },
    /// The drive requests a parameter list of this length in bytes.
    Parameters(usize),
    /// Failed with this sense.
    Check(Sense),
}

/// The part of a drive's state that packet commands use.
#[derive(Debug)]
pub(crate) struct View<'a> {
    /// Sectors of the medium; `None` without one.
    pub(crate) sectors: Option<u32>,
    /// There is a medium, in the drive or on the open tray.
    pub(crate) has_medium: bool,
    /// The tray is locked.
    pub(crate) locked: &'a mut bool,
    /// The tray is open.
    pub(crate) tray_open: &'a mut bool,
    /// A unit attention is pending: the medium may have changed.
    pub(crate) attention: &'a mut bool,
    /// The next event of GET EVENT STATUS NOTIFICATION.
    pub(crate) event: &'a mut MediaEvent,
    /// The sense of the last command.
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

/// Decodes a packet.
pub(crate) fn execute(p: &[u8; 12], drive: View<'_>) -> Answer {
    let [op, b1, b2, _, b4, ..] = *p;
    let medium = drive.sectors;
    // INQUIRY, REQUEST SENSE, GET CONFIGURATION and GET EVENT STATUS NOTIFICATION do not report it (SPC-3, 5.13).
    if !matches!(op, 0x03 | 0x12 | 0x46 | 0x4a) && std::mem::take(drive.attention) {
        return Answer::Check(Sense::MEDIUM_MAY_HAVE_CHANGED);
    }
    let needs_medium = matches!(op, 0x00 | 0x25 | 0x28 | 0xa8 | 0xbe | 0xb9 | 0x2b | 0x42 | 0x43 | 0x51 | 0x52 | 0xad);
    if needs_medium && medium.is_none() {
        return Answer::Check(if *drive.tray_open { Sense::TRAY_OPEN } else { Sense::NO_MEDIUM });
    }
    let sectors = medium.unwrap_or(0);
    match op {
        // TEST UNIT READY, SET CD SPEED
        0x00 | 0xbb => Answer::Done,
        // SEEK
        0x2b if be32(p, 2) < sectors => Answer::Done,
        0x2b => Answer::Check(Sense::OUT_OF_RANGE),
        0x03 => {
            // REQUEST SENSE reports and clears a pending unit attention (SPC-3, 6.27).
            let waits = drive.sense == Sense::NONE && std::mem::take(drive.attention);
            request_sense(if waits { Sense::MEDIUM_MAY_HAVE_CHANGED } else { drive.sense }, usize::from(b4))
        }
        0x12 => inquiry(b1, b2, be16(p, 3)),
        0x1a => claims::mode_sense(p, usize::from(b4), *drive.locked, true),
        0x5a => claims::mode_sense(p, be16(p, 7), *drive.locked, false),
        0x55 => claims::mode_select_length(b1, be16(p, 7)),
        0x1b => start_stop(b4, drive),
        0x1e => {
            *drive.locked = b4 & 1 != 0;
            Answer::Done
        }
        0x25 => {
            let mut data = sectors.saturating_sub(1).to_be_bytes().to_vec();
            data.extend_from_slice(&(CD_SECTOR as u32).to_be_bytes());
            Answer::Data(data)
        }
        0x28 => read(be32(p, 2), be16(p, 7) as u32, sectors, Form::USER),
        0xa8 => read(be32(p, 2), be32(p, 6), sectors, Form::USER),
        0xbe => {
            let [_, _, _, _, _, _, c0, c1, c2, ..] = *p;
            read_cd(p, be32(p, 2), u32::from_be_bytes([0, c0, c1, c2]), sectors)
        }
        0xb9 => read_cd_msf(p, sectors),
        0x42 => disc::sub_channel(p, be16(p, 7)),
        0x43 => disc::table_of_contents(p, sectors, be16(p, 7)),
        0x46 => claims::configuration(p, medium, be16(p, 7)),
        0x4a => event_status(b1, b4, drive, be16(p, 7)),
        // READ DISC INFORMATION: only the standard data type.
        0x51 if b1 & 7 != 0 => Answer::Check(Sense::INVALID_FIELD),
        0x51 => disc::information(be16(p, 7)),
        0x52 => disc::track_information(p, sectors),
        0xad => disc::dvd_structure(p, sectors, be16(p, 8)),
        // MECHANISM STATUS
        0xbd => cut(vec![0, u8::from(*drive.tray_open) << 4, 0, 0, 0, 1, 0, 0], be16(p, 8)),
        _ => Answer::Check(Sense::ILLEGAL_COMMAND),
    }
}

/// START STOP UNIT (SBC-2, 5.17): the guest opens and closes the tray. Only libxl changes the medium.
fn start_stop(b4: u8, drive: View<'_>) -> Answer {
    match b4 & 3 {
        2 if *drive.locked => return Answer::Check(Sense::REMOVAL_PREVENTED),
        2 if !*drive.tray_open => {
            *drive.tray_open = true;
            if drive.has_medium {
                *drive.event = MediaEvent::Removal;
            }
        }
        3 if *drive.tray_open => {
            *drive.tray_open = false;
            if drive.has_medium {
                *drive.attention = true;
                *drive.event = MediaEvent::New;
            }
        }
        _ => {}
    }
    Answer::Done
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

fn read(first: u32, count: u32, sectors: u32, form: Form) -> Answer {
    if first.checked_add(count).is_none_or(|end| end > sectors) {
        return Answer::Check(Sense::OUT_OF_RANGE);
    }
    if count == 0 || form.bytes() == 0 {
        return Answer::Done;
    }
    Answer::Sectors { first: u64::from(first), count, form }
}

/// READ CD (MMC-4): the selected parts of sectors. There are no sub-channels and no error pointers; a medium has one track in mode
/// 1.
fn read_cd(p: &[u8; 12], first: u32, count: u32, sectors: u32) -> Answer {
    let [_, b1, _, _, _, _, _, _, _, what, sub_channel, _] = *p;
    match b1 >> 2 & 7 {
        // Any kind of sector, mode 1.
        0 | 2 => {}
        1 | 3..=5 => return Answer::Check(Sense::WRONG_MODE),
        _ => return Answer::Check(Sense::INVALID_FIELD),
    }
    let Some(form) = Form::selected(what).filter(|_| what & 7 == 0 && sub_channel & 7 == 0) else {
        return Answer::Check(Sense::INVALID_FIELD);
    };
    read(first, count, sectors, form)
}

/// READ CD MSF (MMC-4): the same, from one address up to another.
fn read_cd_msf(p: &[u8; 12], sectors: u32) -> Answer {
    let [_, _, _, m0, s0, f0, m1, s1, f1, ..] = *p;
    let (Some(first), Some(end)) = (block([m0, s0, f0]), block([m1, s1, f1])) else {
        return Answer::Check(Sense::OUT_OF_RANGE);
    };
    match end.checked_sub(first) {
        Some(count) => read_cd(p, first, count, sectors),
        None => Answer::Check(Sense::INVALID_FIELD),
    }
}

/// GET EVENT STATUS NOTIFICATION, polled (MMC-4): the media class, and that the drive is not busy.
fn event_status(b1: u8, classes: u8, drive: View<'_>, allocation: usize) -> Answer {
    /// The classes that are served: media, device busy.
    const CLASSES: u8 = 0x50;
    if b1 & 1 == 0 {
        return Answer::Check(Sense::INVALID_FIELD);
    }
    let answer = match (classes & 0x10 != 0, classes & 0x40 != 0) {
        (true, _) => {
            let event = std::mem::take(drive.event) as u8;
            let present = u8::from(drive.sectors.is_some()) << 1;
            vec![0, 6, 0x04, CLASSES, event, present | u8::from(*drive.tray_open), 0, 0]
        }
        (false, true) => vec![0, 6, 0x06, CLASSES, 0, 0, 0, 0],
        (false, false) => vec![0, 2, 0x80, CLASSES],
    };
    cut(answer, allocation)
}
