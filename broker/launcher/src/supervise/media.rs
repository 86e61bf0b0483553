//! Media of emulated drives while the machine runs, and the disks of a stub domain.
use super::Launcher;
use super::refusal::Refusal;
use crate::log::say;
use crate::machine::back_ends::HAND_OFF;
use crate::nodes::{Nodes, Seen};
use crate::store::Subject;
use bulkhead_plan::{CONTROL, DeviceConfig, DriveConfig, DriveId, FdUse, FrontDisk, ImageFormat, Slot, ToProcess};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};

/// The only disk that bit 2 of the unplug protocol keeps.
const FIRST: DriveId = DriveId { controller: 0, port: 0 };
/// Most CDs of a stub domain that control hears of.
const MAX_DISKS: usize = 8;

/// Whether the guest may write this drive of a device, so that its image is locked for this guest alone. What a descriptor allows says
/// nothing of it: a toolstack may open a CD for writing, and an empty drive is `/dev/null`, whose lock all guests share.
fn is_written(config: &DeviceConfig, drive: DriveId, image: &OwnedFd) -> bool {
    let written = |d: &DriveConfig| !d.cdrom && !d.read_only;
    let written = match config {
        DeviceConfig::Ide { drives } => drives.iter().any(|d| d.at == drive && written(d)),
        // It has one image.
        DeviceConfig::Qdisk { disk, .. } => written(disk),
        _ => false,
    };
    let kind = rustix::fs::fstat(image).map(|stat| FileType::from_raw_mode(stat.st_mode));
    written && matches!(kind, Ok(FileType::RegularFile | FileType::BlockDevice))
}

impl Launcher {
    /// Takes the locks of the images that the guest writes, or gives them to who goes on with it elsewhere.
    pub(super) fn lock_images(&self, held: bool) -> Result<(), Refusal> {
        if !held && !self.plan.paused {
            return Err(Refusal::Runs);
        }
        let unlock = |images: &[&OwnedFd]| {
            for image in images {
                let _ = rustix::fs::flock(image, FlockOperation::Unlock);
            }
        };
        let mut images = Vec::new();
        for device in &self.plan.devices {
            let Some(state) = self.slots.get(device.slot) else { continue };
            for (what, fd) in &state.kept {
                let FdUse::Drive(drive) = what else { continue };
                if !is_written(&device.config, *drive, fd) {
                    continue;
                }
                images.push(fd);
                if held && rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive).is_err() {
                    // Who has that one may need the others.
                    unlock(&images);
                    return Err(Refusal::Locked { name: state.name.clone() });
                }
            }
        }
        if !held {
            unlock(&images);
        }
        Ok(())
    }

    /// Changes the medium of a CD drive (`None`: no medium) for this process and later ones. Returns the token of the descriptor
    /// that the process gets, or 0.
    pub(super) fn set_medium(&mut self, slot: Slot, drive: DriveId, fd: Option<OwnedFd>) -> Result<u32, Refusal> {
        let controller = self.plan.devices.iter_mut().find(|d| d.slot == slot);
        let found = controller.and_then(|d| d.config.facets_mut().drives.iter_mut().find(|d| d.cdrom && d.at == drive));
        let config = found.ok_or(Refusal::NoCdDrive(drive))?;
        let bytes = match &fd {
            Some(fd) => {
                let bytes = rustix::fs::seek(fd, rustix::fs::SeekFrom::End(0));
                Some(bytes.map_err(|e| Refusal::Medium(e.into()))?)
            }
            None => None,
        };
        // Control knows the medium's name; the launcher does not.
        (config.size, config.file, config.formats) =
            (bytes, None, bytes.map(|_| ImageFormat::Raw).into_iter().collect());
        if let Some(state) = self.slots.get_mut(slot) {
            state.kept.retain(|(what, _)| !matches!(what, FdUse::Drive(at) | FdUse::Backing(at, _) if *at == drive));
        }
        let Some(fd) = fd else { return Ok(0) };
        let token = self.give(slot, fd.as_fd())?;
        if let Some(state) = self.slots.get_mut(slot) {
            state.kept.push((FdUse::Drive(drive), fd));
        }
        Ok(token)
    }

    /// Hands off the disks that the guest has unplugged (Xen's docs/misc/hvm-emulated-unplug.pandoc: bit 0 all, bit 2 all but the
    /// first). The controller's process does not get them again after a restart.
    pub(super) fn disks_unplugged(&mut self, slot: Slot, mask: u16) {
        let Some(controller) = self.plan.devices.iter_mut().find(|d| d.slot == slot) else { return };
        let drives = controller.config.facets_mut().drives;
        let gone: Vec<_> =
            drives.iter_mut().filter(|d| !d.cdrom && (mask & 1 != 0 || (mask & 4 != 0 && d.at != FIRST))).collect();
        let (mut names, mut unplugged) = (Vec::new(), Vec::new());
        for drive in gone {
            unplugged.push(drive.clone());
            (drive.size, drive.file, drive.formats, drive.grows_to) = (None, None, Vec::new(), 0);
            names.push(drive.id.clone());
        }
        if !names.is_empty() {
            say(&format!("the guest has unplugged {}", names.join(", ")));
        }
        for drive in unplugged {
            let Some(state) = self.slots.get_mut(slot) else { return };
            let of = |what: &FdUse| matches!(what, FdUse::Drive(at) | FdUse::Backing(at, _) if *at == drive.at);
            let (files, kept) = std::mem::take(&mut state.kept).into_iter().partition(|(what, _)| of(what));
            state.kept = kept;
            // After a restart this process does not have them.
            if self.manner.stubdom {
                drop(files);
                if let Some(name) = drive.file.as_deref().and_then(|f| f.strip_prefix("/dev/")) {
                    self.pv.store.look(Subject::Release { block: name.to_owned() });
                }
            } else {
                self.hand_off(&drive, files);
            }
        }
    }

    /// Begins to look for this stub domain's CDs, of which control asks for those above `known`.
    pub(super) fn look_for_media(&mut self, serial: u32, known: u64) {
        if !self.pv.store.look(Subject::Media { serial, known }) {
            self.answer(serial, Err(Refusal::XenstoreSilent));
        }
    }

    /// Sends control the list of this stub domain's CDs, and a descriptor for each whose sequence number is above `known`.
    pub(super) fn report_disks(&mut self, serial: u32, known: u64, seen: &mut Seen) {
        let (mut disks, mut fds) = (Vec::new(), Vec::new());
        for (disk, name) in front_disks(seen) {
            if disk.diskseq > known {
                // A CD is read only. A disk that cannot be opened is being removed and does not matter.
                let path = format!("/dev/{name}");
                match rustix::fs::open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
                    Ok(fd) => fds.push((FdUse::Drive(DriveId::PV), fd)),
                    Err(e) => {
                        say(&format!("{path}: {}", std::io::Error::from(e)));
                        continue;
                    }
                }
            }
            disks.push(disk);
        }
        let fds: Vec<_> = fds.iter().map(|(what, fd)| (what.clone(), fd.as_fd())).collect();
        if let Some(control) = self.slots.get_mut(CONTROL) {
            control.tell(|_| ToProcess::Disks { serial, disks }, &fds);
        }
    }
}

/// The CDs among the kernel's Xen disks, oldest first, with the names of their block devices.
pub(super) fn front_disks(nodes: &mut impl Nodes) -> Vec<(FrontDisk, String)> {
    let mut disks = Vec::new();
    for device in std::fs::read_dir("/sys/bus/xen/devices").into_iter().flatten().flatten() {
        let id = device.file_name().to_str().and_then(|n| n.strip_prefix("vbd-")?.parse().ok());
        let block = std::fs::read_dir(device.path().join("block")).ok().and_then(|mut b| b.next()?.ok());
        let (Some(devid), Some(block)) = (id, block) else { continue };
        let name = block.file_name().to_string_lossy().into_owned();
        let diskseq =
            std::fs::read_to_string(format!("/sys/block/{name}/diskseq")).ok().and_then(|t| t.trim().parse().ok());
        // The kernel does not tell a CD from a disk; libxl's node does.
        let kind = nodes.value(&format!("device/vbd/{devid}/device-type"));
        if let (Some(diskseq), Some("cdrom")) = (diskseq, kind.as_deref()) {
            disks.push((FrontDisk { devid, diskseq }, name));
        }
    }
    disks.sort_by_key(|(disk, _)| disk.diskseq);
    disks.truncate(MAX_DISKS);
    disks
}

/// Numbers of this stub domain's disks that its guest gets when they are released.
pub(super) fn disks_to_hand_off(nodes: &mut impl Nodes) -> Vec<String> {
    let ids = nodes.names("device/vbd");
    let mut is = |id: &String| {
        let back = nodes.value(&format!("device/vbd/{id}/backend"));
        back.and_then(|back| nodes.value(&format!("{back}/{HAND_OFF}"))).as_deref() == Some("1")
    };
    ids.into_iter().filter(|id| is(id)).collect()
}

/// Releases those hand-off disks whose block device `which` selects: the kernel writes all data and closes the front end.
pub(crate) fn release_disks(nodes: &mut impl Nodes, mut which: impl FnMut(&str) -> bool) {
    for id in disks_to_hand_off(nodes) {
        let device = format!("vbd-{id}");
        let block =
            std::fs::read_dir(format!("/sys/bus/xen/devices/{device}/block")).ok().and_then(|mut b| b.next()?.ok());
        let Some(block) = block.filter(|b| which(&b.file_name().to_string_lossy())) else { continue };
        match std::fs::write("/sys/bus/xen/drivers/vbd/unbind", &device) {
            Ok(()) => say(&format!("disk {id} ({}) is let go of for the guest", block.file_name().to_string_lossy())),
            Err(e) => say(&format!("disk {id} cannot be let go of: {e}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_bus::{DiskIdentity, WhenFull};

    /// Found by a reviewer: an empty CD drive has `/dev/null`, whose lock one guest took from another, which did not go on any more.
    #[test]
    fn images_that_a_guest_does_not_write_are_not_locked_for_it_alone() {
        let drive = |cdrom, read_only| DriveConfig {
            at: DriveId::ide(1),
            cdrom,
            read_only,
            size: Some(512),
            id: String::new(),
            file: None,
            formats: Vec::new(),
            full: WhenFull::Report,
            identity: DiskIdentity::default(),
            geometry: None,
            grows_to: 0,
        };
        let open =
            |path: &std::path::Path| OwnedFd::from(std::fs::File::options().read(true).write(true).open(path).unwrap());
        let image = tempfile::NamedTempFile::new().unwrap();
        let (image, null) = (open(image.path()), open("/dev/null".as_ref()));
        let ide = |cdrom, read_only| DeviceConfig::Ide { drives: vec![drive(cdrom, read_only)] };
        let pv = |cdrom, read_only| {
            let disk = drive(cdrom, read_only);
            DeviceConfig::Qdisk { devid: 51712, disk, emulated: None, discard: false }
        };
        for of in [&ide as &dyn Fn(bool, bool) -> DeviceConfig, &pv] {
            assert!(is_written(&of(false, false), DriveId::ide(1), &image));
            assert!(!is_written(&of(false, false), DriveId::ide(1), &null));
            assert!(!is_written(&of(true, false), DriveId::ide(1), &image), "a CD");
            assert!(!is_written(&of(false, true), DriveId::ide(1), &image), "read only");
        }
        assert!(!is_written(&ide(false, false), DriveId::ide(2), &image), "another drive's");
    }
}
