//! Descriptors that clients hand over (QEMU's descriptor sets), and the media of CD drives that are made of them.
use crate::clients::CallError;
use crate::qmp::{Outcome, QmpError, Shared};
use bulkhead_control_api::v1;
use bulkhead_control_api::v1::call::Call;
use bulkhead_plan::{DeviceConfig, DriveConfig, FrontDisk, Slot};
use rustix::fd::{AsFd as _, OwnedFd};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

/// Descriptors that a client may have handed over and not taken back.
const FDSETS: usize = 16;
/// Where libxl lets a stub domain save to (docs/misc/stubdom.txt of Xen).
const SAVE: u32 = 1;

/// A set; there is one descriptor in each.
#[derive(Debug)]
struct Set {
    opaque: Option<String>,
    fd: Arc<OwnedFd>,
    /// The stub domain's disk that it is.
    disk: Option<FrontDisk>,
}

/// All sets.
#[derive(Debug, Default)]
pub(crate) struct FdSets {
    sets: BTreeMap<u32, Set>,
    /// The newest of the stub domain's disks that this has heard of. One that libxl has taken back does not come again.
    newest: u64,
}

impl FdSets {
    /// With the stream that a stub domain saves to.
    pub(crate) fn new(save: Option<OwnedFd>) -> Self {
        let set = |fd| (SAVE, Set { opaque: None, fd: Arc::new(fd), disk: None });
        Self { sets: save.map(set).into_iter().collect(), newest: 0 }
    }

    fn free(&self) -> u32 {
        (0..).find(|id| !self.sets.contains_key(id)).unwrap_or(u32::MAX)
    }

    /// Keeps a descriptor; returns the number of its set.
    pub(crate) fn add(&mut self, wanted: Option<u32>, opaque: Option<String>, fd: OwnedFd) -> Result<u32, QmpError> {
        if self.sets.len() >= FDSETS {
            return Err(QmpError::generic("too many descriptors; take some back with remove-fd"));
        }
        let id = wanted.unwrap_or_else(|| self.free());
        self.sets.insert(id, Set { opaque, fd: Arc::new(fd), disk: None });
        Ok(id)
    }

    /// Takes a set back.
    pub(crate) fn remove(&mut self, id: u32) -> Result<(), QmpError> {
        self.sets.remove(&id).map(|_| ()).ok_or_else(|| QmpError::generic("there is no such fdset"))
    }

    /// The descriptor that a file name means.
    pub(crate) fn named(&self, filename: &str) -> Result<Option<Arc<OwnedFd>>, QmpError> {
        let Some(id) = filename.strip_prefix("/dev/fdset/") else { return Ok(None) };
        let set = id.parse().ok().and_then(|id: u32| self.sets.get(&id));
        set.map(|s| Some(s.fd.clone())).ok_or_else(|| QmpError::generic("there is no such fdset"))
    }

    /// What the client that has added it calls a set: libxl's `raw:/path` is the path.
    fn called(&self, filename: &str) -> String {
        let set =
            filename.strip_prefix("/dev/fdset/").and_then(|id| id.parse().ok()).and_then(|id: u32| self.sets.get(&id));
        let opaque = set.and_then(|s| s.opaque.clone()).unwrap_or_else(|| filename.to_owned());
        opaque.split_once(":/").map_or(opaque.clone(), |(_, path)| format!("/{path}"))
    }

    /// The stub domain's CDs as its launcher sees them; `fds` are those of the ones that are new.
    fn update(&mut self, disks: &[FrontDisk], fds: Vec<OwnedFd>, asked: u64) {
        self.sets.retain(|_, set| set.disk.is_none_or(|d| disks.contains(&d)));
        for (disk, fd) in disks.iter().filter(|d| d.diskseq > asked).zip(fds) {
            if disk.diskseq > self.newest {
                self.newest = disk.diskseq;
                let set =
                    Set { opaque: Some(format!("stub-devid:{}", disk.devid)), fd: Arc::new(fd), disk: Some(*disk) };
                self.sets.insert(self.free(), set);
            }
        }
    }

    fn list(&self) -> Value {
        let set = |(id, set): (&u32, &Set)| {
            let mut fd = json!({ "fd": id });
            if let (Some(opaque), Some(fd)) = (&set.opaque, fd.as_object_mut()) {
                fd.insert("opaque".into(), json!(opaque));
            }
            json!({ "fdset-id": id, "fds": [fd] })
        };
        self.sets.iter().map(set).collect()
    }
}

impl Shared {
    /// query-fdsets. In a stub domain libxl asks it again and again until the disk that it has attached is there.
    pub(crate) async fn query_fdsets(&self) -> Outcome {
        let sets = || self.fdsets.lock().unwrap_or_else(PoisonError::into_inner);
        if self.plan.dump_dir.is_none() {
            let asked = sets().newest;
            let (disks, fds) = self.launcher.disks(asked).await.map_err(QmpError::generic)?;
            sets().update(&disks, fds, asked);
        }
        Ok(sets().list())
    }

    /// The CD drive that a command names, and the slot of its controller.
    fn cd_drive(&self, arguments: &Value) -> Result<(Slot, DriveConfig), QmpError> {
        let id = ["id", "device"].iter().find_map(|key| arguments.get(key)).and_then(Value::as_str);
        let id = id.ok_or_else(|| QmpError::generic("Parameter 'id' is missing"))?;
        let drive = self.plan.devices.iter().find_map(|d| match &d.config {
            DeviceConfig::Ide { drives } => {
                drives.iter().find(|drive| drive.id == id).map(|drive| (d.slot, drive.clone()))
            }
            _ => None,
        });
        let (slot, drive) = drive.ok_or_else(|| QmpError::not_found(format!("Device '{id}' not found")))?;
        if !drive.cdrom {
            return Err(QmpError::generic(format!("the medium of disk '{id}' cannot be changed")));
        }
        Ok((slot, drive))
    }

    /// eject: nothing of the medium is held by anybody afterwards.
    pub(crate) async fn eject(&self, arguments: &Value) -> Outcome {
        let (slot, drive) = self.cd_drive(arguments)?;
        let force = arguments.get("force").and_then(Value::as_bool).unwrap_or(false);
        self.take_out(slot, &drive, force).await?;
        Ok(json!({}))
    }

    async fn take_out(&self, slot: Slot, drive: &DriveConfig, force: bool) -> Result<(), QmpError> {
        let call = Call::Eject(v1::EjectRequest { drive: u32::from(drive.index), force });
        self.clients.call(slot, call).await.map_err(|e| match e {
            CallError::NotRunning => QmpError::generic("the drive's process does not run"),
            e => QmpError::generic(format!("Device '{}': {e}", drive.id)),
        })?;
        self.launcher.medium(slot, drive.index, None).await.map_err(QmpError::generic)?;
        self.note_medium(&drive.id, None);
        Ok(())
    }

    /// blockdev-change-medium: the old medium goes, if there is one, and that of a descriptor set comes.
    pub(crate) async fn change_medium(&self, arguments: &Value) -> Outcome {
        let (slot, drive) = self.cd_drive(arguments)?;
        if !matches!(arguments.get("format").and_then(Value::as_str), None | Some("raw" | "host_device")) {
            return Err(QmpError::generic("the formats are raw and host_device"));
        }
        let filename = arguments.get("filename").and_then(Value::as_str);
        let filename = filename.ok_or_else(|| QmpError::generic("Parameter 'filename' is missing"))?;
        let fd = self.fdsets.lock().unwrap_or_else(PoisonError::into_inner).named(filename)?;
        let fd = fd.ok_or_else(|| {
            QmpError::generic("this process opens no files; pass a descriptor by add-fd: /dev/fdset/N")
        })?;
        let name = self.fdsets.lock().unwrap_or_else(PoisonError::into_inner).called(filename);
        let force = arguments.get("force").and_then(Value::as_bool).unwrap_or(false);
        self.take_out(slot, &drive, force).await?;
        let token = self.launcher.medium(slot, drive.index, Some(fd.as_fd())).await.map_err(QmpError::generic)?;
        let call = Call::Insert(v1::InsertRequest { drive: u32::from(drive.index), token });
        match self.clients.call(slot, call).await {
            Ok(()) => {}
            Err(CallError::NotRunning) => {
                return Err(QmpError::generic(
                    "the drive's process does not run; it will have the medium when it does",
                ));
            }
            Err(e) => {
                // What is not in the drive must not be there in its next life either.
                let _ = self.launcher.medium(slot, drive.index, None).await;
                return Err(QmpError::generic(format!("Device '{}': {e}", drive.id)));
            }
        }
        self.note_medium(&drive.id, Some(name));
        Ok(json!({}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fd() -> OwnedFd {
        rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty()).unwrap()
    }

    #[test]
    fn descriptors_are_kept_and_limited() {
        let mut sets = FdSets::default();
        for i in 0..FDSETS {
            assert_eq!(sets.add(None, Some("raw:/x".into()), fd()), Ok(i as u32));
        }
        assert!(sets.add(None, None, fd()).is_err());
        assert_eq!((sets.remove(3), sets.add(None, None, fd())), (Ok(()), Ok(3)));
        assert!(
            sets.remove(99).is_err() && sets.named("/dev/fdset/99").is_err() && sets.named("/dev/fdset/x").is_err()
        );
        assert!(sets.named("/dev/fdset/3").unwrap().is_some() && sets.named("/etc/passwd").unwrap().is_none());
        assert_eq!(
            (sets.called("/dev/fdset/3").as_str(), sets.called("/dev/fdset/4").as_str()),
            ("/dev/fdset/3", "/x")
        );
    }

    /// libxl 4.22's change of a stub domain's CD: the set is found by `stub-devid:N`, taken back before the disk is detached,
    /// and the disk that comes in its place has a set of its own.
    #[test]
    fn a_stub_domains_disk_that_was_taken_back_does_not_come_again() {
        let mut sets = FdSets::new(Some(fd()));
        let disk = |diskseq| FrontDisk { devid: 5632, diskseq };
        let ids = |sets: &FdSets| {
            sets.sets
                .iter()
                .filter(|(_, s)| s.opaque.as_deref() == Some("stub-devid:5632"))
                .map(|(id, _)| *id)
                .collect::<Vec<_>>()
        };
        sets.update(&[disk(4)], vec![fd()], 0);
        assert_eq!((ids(&sets), sets.newest), (vec![0], 4), "1 is where the machine is saved to");
        sets.update(&[disk(4)], vec![], 4);
        assert_eq!(ids(&sets), [0]);
        sets.remove(0).unwrap();
        sets.update(&[disk(4)], vec![], 4);
        assert_eq!(ids(&sets), [0; 0], "it is being detached");
        sets.update(&[], vec![], 4);
        sets.update(&[disk(7)], vec![fd()], 4);
        // Two clients have asked at the same time.
        sets.update(&[disk(7)], vec![fd()], 4);
        assert_eq!((ids(&sets), sets.newest), (vec![0], 7));
        sets.update(&[], vec![], 7);
        assert_eq!(ids(&sets), [0; 0], "gone without a word");
        assert!(sets.named("/dev/fdset/1").unwrap().is_some());
    }
}
