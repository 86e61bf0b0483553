//! Drives: their images, and the IDE controller.
use super::{Failure, Host, Part, errno};
use crate::disk;
use crate::errors::{Code, Coded as _};
use crate::machine::{Backing, MachineDrive};
use crate::qcow2;
use bulkhead_bus::WhenFull;
use bulkhead_plan::{DeviceConfig, DriveConfig, DriveId, FdUse, ImageFormat};
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::path::{Path, PathBuf};

/// The IDE controller with the machine's emulated drives.
pub fn open(host: &Host) -> Result<Part, Failure> {
    let machine = host.machine;
    let (mut drives, mut kept) = (Vec::new(), Vec::new());
    for drive in &machine.drives {
        let (fds, config) = self::drive(drive, machine.backing, machine.full).coded(Code::Image)?;
        kept.extend(fds);
        drives.push(config);
    }
    kept.push(host.memory()?);
    if let Some(faults) = machine.sim.as_ref().and_then(|s| s.faults) {
        for _ in &drives {
            kept.push((FdUse::Faults, host.sim(faults)?));
        }
    }
    Ok(Part { kept, ..Part::new(DeviceConfig::Ide { drives }) })
}

/// An image, open and locked. `writable`: for this guest alone.
fn image(what: &str, path: &Path, writable: bool) -> Result<OwnedFd, Failure> {
    let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
    let fd = rustix::fs::open(path, access | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()).map_err(|e| {
        if e == rustix::io::Errno::ROFS || e == rustix::io::Errno::ACCESS {
            errno(&format!("{what} cannot be opened for {}", if writable { "writing" } else { "reading" }), e)
        } else {
            errno(what, e)
        }
    })?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| errno(what, e))?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, rustix::fs::FileType::RegularFile | rustix::fs::FileType::BlockDevice) {
        return Err(format!("{what}: neither a file nor a block device"));
    }
    rustix::io::ioctl_fionbio(&fd, false).map_err(|e| errno(what, e))?;
    let lock = if writable { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
    rustix::fs::flock(&fd, lock).map_err(|_| format!("{what}: locked by another process"))?;
    Ok(fd)
}

/// The medium of a drive, with what it is based on, and the drive's configuration.
pub fn drive(
    drive: &MachineDrive,
    backing: Backing,
    full: WhenFull,
) -> Result<(Vec<(FdUse, OwnedFd)>, DriveConfig), Failure> {
    let at = drive.at.unwrap_or(DriveId::PV);
    let mut config = DriveConfig {
        at,
        cdrom: drive.cdrom,
        read_only: drive.read_only,
        size: None,
        id: drive.id.clone(),
        file: drive.file.clone(),
        formats: Vec::new(),
        full,
        identity: drive.properties.identity.clone(),
        geometry: None,
    };
    let Some(file) = &drive.file else { return Ok((Vec::new(), config)) };
    let mut what = format!("{} {file}", if drive.cdrom { "CD image" } else { "disk image" });
    let (mut path, mut format) = (PathBuf::from(file), drive.format);
    let mut fds = Vec::new();
    loop {
        let depth = fds.len();
        let fd = image(&what, &path, depth == 0 && !drive.read_only)?;
        config.formats.push(format);
        let (size, below) = match format {
            ImageFormat::Raw => {
                (rustix::fs::seek(&fd, rustix::fs::SeekFrom::End(0)).map_err(|e| errno(&what, e))?, None)
            }
            ImageFormat::Qcow2 => {
                let mut bytes = vec![0; qcow2::LOOKED_AT];
                let n = rustix::io::pread(&fd, bytes.as_mut_slice(), 0).map_err(|e| errno(&what, e))?;
                let header =
                    qcow2::Header::parse(bytes.get(..n).unwrap_or_default()).map_err(|e| format!("{what}: {e}"))?;
                (header.size, header.backing)
            }
        };
        if depth == 0 {
            if size < 512 {
                return Err(format!("{what}: {size} bytes are no disk"));
            }
            config.size = Some(size);
            if !drive.cdrom {
                let mut first = [0; disk::SECTOR];
                // Where a qcow2 image has its first sector only its process finds out.
                let known = format == ImageFormat::Raw && rustix::io::pread(&fd, &mut first, 0) == Ok(disk::SECTOR);
                config.geometry = Some(drive.properties.geometry(at.port, size, known.then_some(&first)));
            }
        }
        fds.push((if depth == 0 { FdUse::Drive(at) } else { FdUse::Backing(at, depth as u8) }, fd));
        let Some((name, told)) = below else { return Ok((fds, config)) };
        if fds.len() > qcow2::MAX_DEPTH {
            return Err(format!("{what}: more than {} images below the first", qcow2::MAX_DEPTH));
        }
        format = match told.as_deref() {
            Some("raw") => ImageFormat::Raw,
            Some("qcow2") => ImageFormat::Qcow2,
            Some(other) => {
                return Err(format!(
                    "{what}: its backing file {name} has the format {other} (raw and qcow2 are supported)"
                ));
            }
            // What a guest has written into a raw image could say that it is another.
            None => {
                return Err(format!(
                    "{what}: it does not tell the format of its backing file {name}, and none is guessed (qemu-img rebase -u -F FORMAT -b {name})"
                ));
            }
        };
        // Relative to the image that names it. "nbd:" and the like are names of no file here.
        path = path.parent().unwrap_or(Path::new("")).join(&name);
        what = format!("backing file {}", path.display());
        let allowed = match backing {
            Backing::Any => true,
            Backing::None => false,
            Backing::Directory => {
                let real = |p: &Path| std::fs::canonicalize(p).map_err(|e| format!("{what}: {e}"));
                let top = real(Path::new(file))?;
                real(&path)?.starts_with(top.parent().unwrap_or(Path::new("/")))
            }
        };
        if !allowed {
            return Err(format!("{what}: the host's settings do not let {file} be based on it (-image-backing)"));
        }
    }
}
