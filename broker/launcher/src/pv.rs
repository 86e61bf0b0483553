//! PV devices whose back ends this program serves. libxl has written their nodes before it starts a device model; what is read here
//! is in dom0's own directory, where no guest writes.
use crate::machine::Drive;
use bulkhead_bus::plan::{ImageFormat, PvNodes};
use bulkhead_xen::Xenstore;

/// Disks that are served at most.
const DISKS: usize = 16;

/// A PV disk with a back end of the kind `qdisk` in dom0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PvDisk {
    /// xenbus' number of the device.
    pub devid: u32,
    /// Its directories.
    pub nodes: PvNodes,
    /// The image.
    pub drive: Drive,
    /// Sectors may be given back.
    pub discard: bool,
}

/// The PV disks of a guest that are to be served, and a line for each that is not.
pub fn disks(domid: u16, xenstore: &mut Xenstore) -> (Vec<PvDisk>, Vec<String>) {
    let top = format!("/local/domain/0/backend/qdisk/{domid}");
    let devids: Vec<u32> = xenstore.directory(&top).iter().filter_map(|id| id.parse().ok()).collect();
    let (mut disks, mut notes) = (Vec::new(), Vec::new());
    for devid in devids {
        match disk(devid, &format!("{top}/{devid}"), |path| xenstore.read(path).ok()) {
            Ok(Some(_)) if disks.len() == DISKS => notes.push(format!("PV disk {devid} is not served: there are more than {DISKS}")),
            Ok(disk) => disks.extend(disk),
            Err(e) => notes.push(format!("PV disk {devid} is not served: {e}")),
        }
    }
    (disks, notes)
}

/// The PV keyboards of a guest, by number.
pub fn keyboards(domid: u16, xenstore: &mut Xenstore) -> Vec<(u32, PvNodes)> {
    let top = format!("/local/domain/0/backend/vkbd/{domid}");
    // libxl makes one; more than one would take each other's input.
    let first = xenstore.directory(&top).iter().filter_map(|id| id.parse::<u32>().ok()).min();
    let device = first.and_then(|devid| {
        let back = format!("{top}/{devid}");
        Some((devid, PvNodes { front: xenstore.read(&format!("{back}/frontend")).ok()?, back }))
    });
    device.into_iter().collect()
}

/// A disk by its back end's nodes; none if it is a CD, which is emulated only.
fn disk(devid: u32, back: &str, mut read: impl FnMut(&str) -> Option<String>) -> Result<Option<PvDisk>, String> {
    let mut node = |name: &str| read(&format!("{back}/{name}"));
    if node("device-type").as_deref() == Some("cdrom") {
        return Ok(None);
    }
    let front = node("frontend").ok_or("its back end does not name the guest's end")?;
    let parameters = node("params").unwrap_or_default();
    let (kind, file) = parameters.split_once(':').ok_or_else(|| format!("params is {parameters:?} and not FORMAT:FILE"))?;
    let format = match kind {
        "aio" | "raw" => ImageFormat::Raw,
        "qcow2" => ImageFormat::Qcow2,
        other => return Err(format!("this image format is not supported: {other} (raw and qcow2 are)")),
    };
    if file.is_empty() {
        return Err("it has no image".to_owned());
    }
    let drive = Drive { index: Some(0), cdrom: false, read_only: node("mode").as_deref() == Some("r"), file: Some(file.to_owned()), format, id: format!("vbd-{devid}") };
    let discard = node("discard-enable").as_deref() != Some("0");
    Ok(Some(PvDisk { devid, nodes: PvNodes { back: back.to_owned(), front }, drive, discard }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(nodes: &[(&str, &str)]) -> Result<Option<PvDisk>, String> {
        let all = [("/b/frontend", "/local/domain/7/device/vbd/768")];
        disk(768, "/b", |path| nodes.iter().map(|(n, v)| (format!("/b/{n}"), *v)).chain(all.iter().map(|(n, v)| ((*n).to_owned(), *v))).find(|(n, _)| n == path).map(|(_, v)| v.to_owned()))
    }

    #[test]
    fn libxls_nodes_are_a_disk() {
        let disk = of(&[("params", "aio:/srv/a:b.img"), ("mode", "w"), ("device-type", "disk")]).unwrap().unwrap();
        assert_eq!((disk.drive.file.as_deref(), disk.drive.format, disk.drive.read_only, disk.discard), (Some("/srv/a:b.img"), ImageFormat::Raw, false, true));
        let disk = of(&[("params", "qcow2:/x"), ("mode", "r"), ("discard-enable", "0")]).unwrap().unwrap();
        assert_eq!((disk.drive.format, disk.drive.read_only, disk.discard), (ImageFormat::Qcow2, true, false));
        assert_eq!(of(&[("params", "aio:/x"), ("device-type", "cdrom")]), Ok(None));
    }

    #[test]
    fn what_is_not_served_says_why() {
        assert!(of(&[("params", "vhd:/x")]).unwrap_err().contains("vhd"));
        assert!(of(&[("params", "/x")]).unwrap_err().contains("FORMAT:FILE"));
        assert!(of(&[("params", "aio:")]).unwrap_err().contains("no image"));
        assert!(of(&[]).is_err());
    }
}
