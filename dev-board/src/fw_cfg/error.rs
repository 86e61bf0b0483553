//! Why a kernel or its ramdisk cannot be booted.
use rustix::io::Errno;
use thiserror::Error;

/// Why fw_cfg cannot offer a kernel to the firmware. The guest does not start; the operator reads the message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KernelError {
    /// The host cannot read the kernel's file.
    #[error("kernel: {}", std::io::Error::from(*.0))]
    Read(Errno),
    /// The file has no setup header.
    #[error("kernel: this is no Linux kernel that a BIOS guest can start (a bzImage)")]
    NotLinux,
    /// The boot protocol, as the header has it (major in the high byte), is older than 2.03, or the kernel is not loaded above 1
    /// MiB.
    #[error("kernel: its boot protocol {}.{:02} is too old (2.03, loaded high)", .0 >> 8, .0 & 0xff)]
    OldProtocol(u16),
    /// The real-mode part has more sectors than fit below the command line.
    #[error("kernel: {sectors} sectors of real-mode code (at most {most})")]
    SetupSectors {
        /// Sectors of 512 bytes that the header names.
        sectors: u8,
        /// Sectors that are accepted.
        most: u8,
    },
    /// The file ends before the protected-mode part begins.
    #[error("kernel: the file ends in its real-mode code")]
    Truncated,
    /// The command line is longer than the kernel accepts.
    #[error("kernel: a command line of {len} bytes; this kernel takes {limit}")]
    CommandLine {
        /// Bytes of the command line, without the zero at its end.
        len: usize,
        /// Bytes that the kernel accepts.
        limit: usize,
    },
    /// Kernel and ramdisk do not fit in the guest's memory.
    #[error("kernel: it needs {needs_mib} MiB with its ramdisk, the guest has {memory_mib}")]
    Memory {
        /// MiB that the kernel needs while it starts, with its ramdisk.
        needs_mib: u64,
        /// MiB of RAM of the guest.
        memory_mib: u64,
    },
    /// An entry of fw_cfg has a length of 32 bits; this kernel has more bytes.
    #[error("kernel: {0} bytes are too many")]
    KernelSize(u64),
    /// As [`KernelSize`](Self::KernelSize), for the ramdisk.
    #[error("ramdisk: {0} bytes are too many")]
    RamdiskSize(u64),
}
