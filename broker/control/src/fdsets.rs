//! Descriptors that clients pass: QEMU's descriptor sets.
use crate::outcome::QmpError;
use bulkhead_plan::FrontDisk;
use rustix::fd::OwnedFd;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most descriptors in all sets.
const FDSETS: usize = 16;
/// The set with the stream that a stub domain saves to; libxl fixes its number (docs/misc/stubdom.txt of Xen).
const SAVE: u32 = 1;

/// A set with one descriptor.
#[derive(Debug)]
struct Set {
    opaque: Option<String>,
    fd: Arc<OwnedFd>,
    /// The stub domain's disk that the descriptor refers to, if any.
    disk: Option<FrontDisk>,
}

/// The descriptor sets of this guest, by number.
#[derive(Debug, Default)]
pub(crate) struct FdSets {
    sets: BTreeMap<u32, Set>,
    /// Sets that were removed when what they were for was done. Clients that remove them themselves do no wrong.
    used: BTreeSet<u32>,
    /// There is a set that a stub domain saves to.
    saves: bool,
    /// Disk sequence number of the newest known disk of the stub domain. A disk whose set libxl has removed is not added again.
    pub(crate) newest: u64,
}

impl FdSets {
    /// Creates the sets; `save` is the stream that a stub domain saves to.
    pub(crate) fn new(save: Option<OwnedFd>) -> Self {
        let set = |fd| (SAVE, Set { opaque: None, fd: Arc::new(fd), disk: None });
        let sets: BTreeMap<_, _> = save.map(set).into_iter().collect();
        Self { saves: !sets.is_empty(), sets, ..Self::default() }
    }

    /// The lowest unused number.
    fn free(&self) -> u32 {
        (0..).find(|id| !self.sets.contains_key(id)).unwrap_or(u32::MAX)
    }

    /// Adds a descriptor; returns the number of its set.
    pub(crate) fn add(&mut self, wanted: Option<u32>, opaque: Option<String>, fd: OwnedFd) -> Result<u32, QmpError> {
        if self.sets.len() >= FDSETS {
            return Err(QmpError::generic("too many descriptors; remove some with remove-fd"));
        }
        let id = wanted.unwrap_or_else(|| self.free());
        self.used.remove(&id);
        self.sets.insert(id, Set { opaque, fd: Arc::new(fd), disk: None });
        Ok(id)
    }

    /// Removes a set and closes its descriptor unless it is in use.
    pub(crate) fn remove(&mut self, id: u32) -> Result<(), QmpError> {
        let was_used = self.used.remove(&id);
        let there = self.sets.remove(&id).is_some() || was_used;
        if there { Ok(()) } else { Err(QmpError::generic("there is no such fdset")) }
    }

    /// Whether there is a set that a stub domain saves to.
    pub(crate) fn of_stub_domain(&self) -> bool {
        self.saves
    }

    /// Removes the set of a state that was saved, but not the one that libxl takes for granted in a stub domain.
    pub(crate) fn used_up(&mut self, filename: &str) {
        let id = filename.strip_prefix("/dev/fdset/").and_then(|id| id.parse().ok());
        let Some(id) = id.filter(|id: &u32| !self.saves || *id != SAVE) else { return };
        if self.sets.remove(&id).is_some() {
            while self.used.len() >= FDSETS {
                self.used.pop_first();
            }
            self.used.insert(id);
        }
    }

    /// The descriptor of a file name `/dev/fdset/N`; `None` for other names.
    pub(crate) fn named(&self, filename: &str) -> Result<Option<Arc<OwnedFd>>, QmpError> {
        let Some(id) = filename.strip_prefix("/dev/fdset/") else { return Ok(None) };
        let set = id.parse().ok().and_then(|id: u32| self.sets.get(&id));
        set.map(|s| Some(s.fd.clone())).ok_or_else(|| QmpError::generic("there is no such fdset"))
    }

    /// The client's name of a set, from its `opaque` text: of libxl's `raw:/path`, the path.
    pub(crate) fn client_name(&self, filename: &str) -> String {
        let set =
            filename.strip_prefix("/dev/fdset/").and_then(|id| id.parse().ok()).and_then(|id: u32| self.sets.get(&id));
        let opaque = set.and_then(|s| s.opaque.clone()).unwrap_or_else(|| filename.to_owned());
        opaque.split_once(":/").map_or(opaque.clone(), |(_, path)| format!("/{path}"))
    }

    /// Updates the sets to the launcher's list of the stub domain's CDs; `fds` are the descriptors of the disks newer than `asked`.
    pub(crate) fn update(&mut self, disks: &[FrontDisk], fds: Vec<OwnedFd>, asked: u64) {
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

    /// The answer to query-fdsets.
    pub(crate) fn list(&self) -> Value {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn fd() -> OwnedFd {
        rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty()).unwrap()
    }

    #[test]
    fn the_set_of_a_saved_state_is_used_up_and_removed_without_an_error() {
        let mut sets = FdSets::default();
        for _ in 0..3 * FDSETS {
            let id = sets.add(None, None, fd()).unwrap();
            sets.used_up(&format!("/dev/fdset/{id}"));
            assert!(sets.named(&format!("/dev/fdset/{id}")).is_err());
        }
        assert_eq!((sets.remove(0), sets.remove(0).is_err()), (Ok(()), true));
        let mut stub = FdSets::new(Some(fd()));
        stub.used_up("/dev/fdset/1");
        assert!(stub.named("/dev/fdset/1").is_ok_and(|fd| fd.is_some()));
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
            (sets.client_name("/dev/fdset/3").as_str(), sets.client_name("/dev/fdset/4").as_str()),
            ("/dev/fdset/3", "/x")
        );
    }

    /// libxl 4.22's change of a stub domain's CD: it finds the set by `stub-devid:N`, removes it before it detaches the disk, and
    /// the replacing disk has a new set.
    #[test]
    fn a_removed_disk_of_a_stub_domain_is_not_added_again() {
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
        // Two clients have sent query-fdsets at the same time.
        sets.update(&[disk(7)], vec![fd()], 4);
        assert_eq!((ids(&sets), sets.newest), (vec![0], 7));
        sets.update(&[], vec![], 7);
        assert_eq!(ids(&sets), [0; 0], "gone without a word");
        assert!(sets.named("/dev/fdset/1").unwrap().is_some());
    }
}
