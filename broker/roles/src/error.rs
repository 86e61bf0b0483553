//! Why a role's device cannot be built.
use bulkhead_dev_board::fw_cfg::KernelError;
use bulkhead_ring::AreaError;
use bulkhead_runtime::{FrameBufferError, StartError};
use bulkhead_xen::XenError;
use rustix::io::Errno;

/// Why a device cannot be built or described. It is printed as one line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    /// The plan gives a role the configuration of another.
    #[error("the configuration is that of {0}")]
    Config(&'static str),
    /// The table of roles gives a configuration the role of another.
    #[error("role {role} does not match the configuration of {config}")]
    Role { role: &'static str, config: &'static str },
    /// The launcher has not passed a descriptor.
    #[error(transparent)]
    Descriptor(#[from] StartError),
    #[error(transparent)]
    System(#[from] Errno),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Xen(#[from] XenError),
    #[error(transparent)]
    Area(#[from] AreaError),
    #[error(transparent)]
    FrameBuffer(#[from] FrameBufferError),
    #[error("the pages of a ring: {0}")]
    RingPages(std::io::Error),
    #[error("ROM: {0}")]
    Rom(Errno),
    /// The launcher names a back end's role that is none.
    #[error("{0} is no back end")]
    NoBackEnd(String),
    #[error("no keyboard layout {0}")]
    Layout(String),
    /// The descriptor of a PV disk's file is missing.
    #[error("no image")]
    NoImage,
    #[error("drive {0}: an image of its chain is missing")]
    Chain(String),
    /// An image is refused.
    #[error("drive {drive}: {why}")]
    Image { drive: String, why: String },
    #[error(transparent)]
    Kernel(#[from] KernelError),
}
