//! A Linux kernel (bzImage), its command line and its ramdisk, as the boot ROM (`linuxboot.asm`) and firmware read them from
//! fw_cfg. Source: Documentation/arch/x86/boot.rst of Linux. The kernel's file is hostile: its header is copied once.
use super::entry::Entry;
use super::error::KernelError;
use rustix::fd::OwnedFd;

/// Guest addresses to which the boot ROM loads the parts; linuxboot.asm has the same numbers.
pub(super) const SETUP_ADDRESS: u32 = 0x1_0000;
pub(super) const CMDLINE_ADDRESS: u32 = 0x2_0000;
pub(super) const KERNEL_ADDRESS: u32 = 0x10_0000;
/// The end of the heap of the kernel's real-mode part, which is below its stack: an offset from that part's start, less 0x200 as
/// the protocol defines.
const HEAP_END: u16 = 0xe000 - 0x200;
/// Most sectors of the real-mode part.
const MAX_SETUP_SECTORS: u8 = 64;
/// type_of_loader of a boot loader without an assigned number.
const LOADER: u8 = 0xff;

/// Offsets in the setup header.
pub(super) mod header {
    pub(crate) const SETUP_SECTORS: usize = 0x1f1;
    pub(crate) const MAGIC: usize = 0x202;
    pub(crate) const VERSION: usize = 0x206;
    pub(crate) const LOADER: usize = 0x210;
    pub(crate) const FLAGS: usize = 0x211;
    pub(crate) const HEAP_END: usize = 0x224;
    pub(crate) const CMDLINE: usize = 0x228;
    pub(crate) const INITRD_MAX: usize = 0x22c;
    pub(crate) const CMDLINE_SIZE: usize = 0x238;
    pub(crate) const INIT_SIZE: usize = 0x260;
    pub(crate) const END: usize = 0x268;
}

/// The protected-mode part is above 1 MiB.
pub(super) const LOADED_HIGH: u8 = 1;
/// The header's heap_end_ptr is valid.
const CAN_USE_HEAP: u8 = 0x80;

/// The contents of the kernel's keys.
pub(super) struct Linux {
    pub(super) setup: Vec<u8>,
    pub(super) command_line: Vec<u8>,
    pub(super) kernel: Entry,
    pub(super) initrd: Option<Entry>,
}

fn bytes<const N: usize>(setup: &[u8], at: usize) -> [u8; N] {
    setup.get(at..).and_then(|b| b.first_chunk::<N>()).copied().unwrap_or([0; N])
}

fn put(setup: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = setup.get_mut(at..at.saturating_add(value.len())) {
        place.copy_from_slice(value);
    }
}

impl Linux {
    /// Reads and checks the kernel in `file`, of `size` bytes, for a guest with `memory_mib` MiB of RAM.
    ///
    /// # Errors
    /// The kernel cannot be booted in this guest.
    pub(super) fn open(
        file: OwnedFd,
        size: u64,
        initrd: Option<(OwnedFd, u64)>,
        command_line: &str,
        memory_mib: u64,
    ) -> Result<Self, KernelError> {
        let mut first = [0; header::END];
        let n = rustix::io::pread(&file, &mut first, 0).map_err(KernelError::Read)?;
        let version = u16::from_le_bytes(bytes(&first, header::VERSION));
        if n < first.len() || bytes(&first, header::MAGIC) != *b"HdrS" {
            return Err(KernelError::NotLinux);
        }
        let [flags] = bytes(&first, header::FLAGS);
        if version < 0x0203 || flags & LOADED_HIGH == 0 {
            return Err(KernelError::OldProtocol(version));
        }
        let [sectors] = bytes(&first, header::SETUP_SECTORS);
        let sectors = if sectors == 0 { 4 } else { sectors };
        if sectors > MAX_SETUP_SECTORS {
            return Err(KernelError::SetupSectors { sectors, most: MAX_SETUP_SECTORS });
        }
        let len = usize::from(sectors).saturating_add(1).saturating_mul(512);
        let mut setup = vec![0; len];
        let n = rustix::io::pread(&file, setup.as_mut_slice(), 0).map_err(KernelError::Read)?;
        let protected = size.saturating_sub(len as u64);
        if n < len || protected == 0 {
            return Err(KernelError::Truncated);
        }
        // The checked copy of the header is the one that the guest gets, even if the file has changed since.
        put(&mut setup, 0, &first);

        let limit = if version >= 0x0206 { u32::from_le_bytes(bytes(&first, header::CMDLINE_SIZE)) } else { 255 };
        let limit = (limit as usize).min(0xffff);
        if command_line.len() > limit {
            return Err(KernelError::CommandLine { len: command_line.len(), limit });
        }
        let needs_mib = {
            let init =
                if version >= 0x020a { u64::from(u32::from_le_bytes(bytes(&first, header::INIT_SIZE))) } else { 0 };
            let ramdisk = initrd.as_ref().map_or(0, |i| i.1);
            u64::from(KERNEL_ADDRESS).saturating_add(init.max(protected)).saturating_add(ramdisk).div_ceil(1 << 20)
        };
        if needs_mib > memory_mib {
            return Err(KernelError::Memory { needs_mib, memory_mib });
        }
        put(&mut setup, header::LOADER, &[LOADER]);
        put(&mut setup, header::FLAGS, &[flags | CAN_USE_HEAP]);
        put(&mut setup, header::HEAP_END, &HEAP_END.to_le_bytes());
        put(&mut setup, header::CMDLINE, &CMDLINE_ADDRESS.to_le_bytes());
        // The ROM adds one to this value, which must not overflow.
        let highest = u32::from_le_bytes(bytes(&first, header::INITRD_MAX)).min(0x7fff_ffff);
        put(&mut setup, header::INITRD_MAX, &highest.to_le_bytes());
        let kernel_len = u32::try_from(protected).map_err(|_| KernelError::KernelSize(protected))?;
        let kernel = Entry::File { file, offset: len as u64, len: kernel_len };
        let initrd = match initrd {
            Some((file, size)) => {
                let len = u32::try_from(size).map_err(|_| KernelError::RamdiskSize(size))?;
                Some(Entry::File { file, offset: 0, len })
            }
            None => None,
        };
        let mut line = command_line.as_bytes().to_vec();
        line.push(0);
        Ok(Self { setup, command_line: line, kernel, initrd })
    }
}
