//! Why an image is refused.
use rustix::io::Errno;
use std::io;
use thiserror::Error;

/// What is wrong with a file that was handed over as an image.
#[derive(Debug, Error)]
pub enum ImageError {
    /// A chain without an image.
    #[error("no image")]
    None,
    /// One image of a chain is refused.
    #[error("image {number} of the chain: {why}")]
    InChain {
        /// Which; the guest writes number 0.
        number: usize,
        /// What is wrong with it.
        why: Refusal,
    },
    /// The host cannot say what the medium is.
    #[error("the medium: {0}")]
    Medium(io::Error),
    /// A medium that is a directory, a pipe, a device of characters.
    #[error("the medium is neither a file nor a block device")]
    MediumKind,
    /// A medium without a sector.
    #[error("the medium: {0} bytes are no CD")]
    MediumSize(u64),
}

impl ImageError {
    pub(super) fn medium(errno: Errno) -> Self {
        Self::Medium(errno.into())
    }
}

/// What is wrong with one image.
#[derive(Debug, Error)]
pub enum Refusal {
    /// The host cannot read it, or the library refuses it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It names something to be based on and has nothing, or the other way round.
    #[error("not what it is based on")]
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
    /// Its first table does not reach its end.
    #[error("its L1 table is too small for its size")]
    FirstLevel,
    /// Its snapshots are too many, or their table is in no place for one.
    #[error("its table of snapshots is not what one can be")]
    Snapshots,
    /// One of its tables is in another.
    #[error("its tables overlap")]
    Overlap,
    /// It cannot be written: its header names no refcount table.
    #[error("it has no refcount table")]
    NoRefcountTable,
    /// Its header names a place that cannot be.
    #[error("its refcount table is not where one can be")]
    RefcountTable,
    /// An entry of the table names a place that cannot be.
    #[error("its refcount table has an impossible entry ({0:#x})")]
    RefcountEntry(u64),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}
