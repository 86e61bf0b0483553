//! Why an image is refused.
use rustix::io::Errno;
use std::io;
use thiserror::Error;

/// Why a file that the launcher has passed is refused as an image.
#[derive(Debug, Error)]
pub enum ImageError {
    /// A chain without an image.
    #[error("no image")]
    None,
    /// One image of a chain is refused.
    #[error("image {number} of the chain: {why}")]
    InChain {
        /// Its number in the chain; the guest writes to number 0.
        number: usize,
        /// Why it is refused.
        why: Refusal,
    },
    /// The host cannot read the medium's kind or size.
    #[error("the medium: {0}")]
    Medium(io::Error),
    /// The medium is a directory, a pipe or a character device.
    #[error("the medium is neither a file nor a block device")]
    MediumKind,
    /// The medium is smaller than one sector.
    #[error("the medium: {0} bytes are no CD")]
    MediumSize(u64),
}

impl ImageError {
    pub(super) fn medium(errno: Errno) -> Self {
        Self::Medium(errno.into())
    }
}

/// Why one image is refused.
#[derive(Debug, Error)]
pub enum Refusal {
    /// The host cannot read it, or the library refuses it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It names a backing file and has none, or the other way round; or it needs an external data file.
    #[error("its backing file does not match its header")]
    Base,
    /// It is encrypted.
    #[error("encrypted images are not supported")]
    Encrypted,
    /// Its header sets incompatible features; this is the first.
    #[error("{0}")]
    Feature(&'static str),
    /// The header extension with the features' names ends within a name.
    #[error("the table of its features' names is cut off")]
    FeatureNames,
    /// Its L1 table does not cover the disk's size.
    #[error("its L1 table is too small for its size")]
    FirstLevel,
    /// It has too many snapshots, or their table is at an invalid offset.
    #[error("its table of snapshots is invalid")]
    Snapshots,
    /// Two of its tables overlap.
    #[error("its tables overlap")]
    Overlap,
    /// It cannot be written, because its header names no refcount table.
    #[error("it has no refcount table")]
    NoRefcountTable,
    /// Its refcount table is at an invalid offset.
    #[error("its refcount table is at an invalid offset")]
    RefcountTable,
    /// An entry of the refcount table is invalid.
    #[error("its refcount table has an impossible entry ({0:#x})")]
    RefcountEntry(u64),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}
