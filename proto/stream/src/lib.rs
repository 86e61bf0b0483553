//! The stream of a saved machine ("BHSS"): what `xl save` keeps of the device model, and a migration carries. Numbers are little-endian.
//!
//! | part | bytes |
//! |---|---|
//! | header | 64: magic, version, length, flags, time |
//! | sections, each at a multiple of 8 | 64: name, versions, length, checksums; then the payload |
//! | trailer | 16: checksum of the sections' headers, total length |
//!
//! The checksums are for accidents: a file that is cut, a terminal that has changed bytes. Every byte is hostile all the same, so the
//! stream is read by `intake` alone, and each payload by the process of its own device, behind its filter.
mod exercise;
mod name;
mod read;
mod write;

pub use exercise::exercise;
pub use name::Name;
pub use read::{Index, Place, ReadError, read};
pub use write::{OLDEST_READER, Section, WriteError, write};

/// Bytes of a stream's begin by which [`length`] knows it.
pub const BEGIN: usize = HEADER;

/// Bytes of the stream that begins so; `None` if none does. Who reads from a terminal needs no more.
pub fn length(begin: &[u8; BEGIN]) -> Option<u64> {
    let total = begin.get(header::TOTAL..)?.first_chunk()?;
    let total = u64::from_le_bytes(*total);
    (begin.starts_with(&MAGIC) && (BEGIN as u64..=LONGEST as u64).contains(&total)).then_some(total)
}

/// CRC-32C, as in iSCSI (RFC 3720, B.4).
const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// Most bytes of a stream: what xapi takes (xenopsd, `consume_qemu_record`).
pub const LONGEST: usize = 1 << 20;
/// Most bytes of a payload: of a device's whole state (`bulkhead_wire::SAVED`).
pub const PAYLOAD: usize = 320 << 10;
/// Most sections.
pub const SECTIONS: usize = 64;

/// A terminal that is not raw, a change of line ends and a path of seven bits all damage it visibly.
const MAGIC: [u8; 12] = *b"\x89BHSS\r\n\x1a\n\x04\x03\0";
/// The begin of QEMU's own streams (docs/devel/migration of QEMU: "QEVM").
const QEMU: [u8; 4] = *b"QEVM";
/// Version of the format. A reader refuses another major number and does not look at the minor one.
const MAJOR: u16 = 1;
const MINOR: u16 = 0;
const HEADER: usize = 64;
/// Longest header of a later minor version.
const LONGEST_HEADER: usize = 256;
const SECTION: usize = 64;
const TRAILER: usize = 16;
const SECTION_TAG: [u8; 4] = *b"SECT";
const TRAILER_TAG: [u8; 4] = *b"TAIL";
/// Sections that a reader without their device refuses.
const MANDATORY: u32 = 1;
/// The revision of the machine that the guest sees. Another one is another machine.
const MACHINE: u32 = 1;

/// Offsets in the header.
mod header {
    pub(crate) const MAJOR: usize = 12;
    pub(crate) const MINOR: usize = 14;
    pub(crate) const LEN: usize = 16;
    pub(crate) const FLAGS: usize = 20;
    pub(crate) const TOTAL: usize = 24;
    pub(crate) const SECTIONS: usize = 32;
    pub(crate) const MACHINE: usize = 36;
    pub(crate) const WRITER: usize = 40;
    pub(crate) const OLDEST_READER: usize = 44;
    pub(crate) const TIME: usize = 48;
    pub(crate) const CRC: usize = 60;
}

/// Offsets in a section's header.
mod section {
    pub(crate) const LEN: usize = 4;
    pub(crate) const NAME: usize = 8;
    pub(crate) const VERSION: usize = 32;
    pub(crate) const OLDEST: usize = 34;
    pub(crate) const FLAGS: usize = 36;
    pub(crate) const PAYLOAD_CRC: usize = 56;
    pub(crate) const CRC: usize = 60;
}

/// A release as a number: major, minor, patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(pub u32);

impl Release {
    /// This build's release.
    pub const THIS: Self = Self(parse(env!("CARGO_PKG_VERSION")));
}

impl std::fmt::Display for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [patch, minor, major, _] = self.0.to_le_bytes();
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// `1.2.3` as a number.
const fn parse(text: &str) -> u32 {
    let (mut all, mut part, mut rest) = (0u32, 0u32, text.as_bytes());
    while let [byte, more @ ..] = rest {
        match byte {
            b'.' => (all, part) = (all << 8 | part & 0xff, 0),
            digit => part = part.wrapping_mul(10).wrapping_add(digit.wrapping_sub(b'0') as u32),
        }
        rest = more;
    }
    all << 8 | part & 0xff
}

#[cfg(test)]
mod tests;
