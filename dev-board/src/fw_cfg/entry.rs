//! The contents of one key.
use rustix::fd::OwnedFd;

/// One entry of fw_cfg.
pub(super) enum Entry {
    Bytes(Vec<u8>),
    /// A part of a file. If the file has shrunk since its size was read, reads beyond its new end fail.
    File {
        file: OwnedFd,
        offset: u64,
        len: u32,
    },
}

impl Entry {
    pub(super) fn len(&self) -> u32 {
        match self {
            Self::Bytes(bytes) => u32::try_from(bytes.len()).unwrap_or(0),
            Self::File { len, .. } => *len,
        }
    }
}
