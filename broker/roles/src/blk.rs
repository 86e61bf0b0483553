//! Disks: the IDE controller, PV disks.
use crate::error::BuildError;
use crate::frontend;
use crate::role::{Prepared, Role, Seen, Visible, wrong};
use bulkhead_bus::{Device, DiskIdentity, Unseen, pv};
use bulkhead_dev_blk::backend::{Chain, Format, Image, ImageError, Threads};
use bulkhead_dev_blk::ide::{self, DriveSpec, Ide};
use bulkhead_dev_blk::qdisk as pv_disk;
use bulkhead_plan::{DeviceConfig, DriveConfig, FdUse, ImageFormat, kind};
use bulkhead_runtime::{Fds, Resources};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use std::sync::Arc;

pub(crate) static IDE: Role =
    Role { kind: &kind::IDE, seen: Seen::ByGuest(|_| Ok(Visible::new(ide::declare()))), prepare: prepare_ide };

pub(crate) static QDISK: Role = Role { kind: &kind::QDISK, seen: Seen::No, prepare: prepare_qdisk };

fn prepare_ide(config: &DeviceConfig, mut resources: Resources) -> Result<Prepared, BuildError> {
    let DeviceConfig::Ide { drives } = config else { return Err(wrong(config)) };
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let bell = Arc::new(bell);
    let polled = vec![(ide::JOBS, rustix::io::dup(&bell)?)];
    let threads = Threads::new(2, &resources.memory, &bell)?;
    let mut media = Vec::new();
    for drive in drives {
        media.push((drive.clone(), Medium::new(drive, &mut resources.fds)?));
    }
    let build = move || {
        let mut specs = Vec::new();
        for (drive, medium) in media {
            let image = medium.map(Medium::open).transpose()?;
            let DiskIdentity { serial, version, model } = drive.identity;
            let geometry = drive.geometry.map(|g| (g.cylinders, g.heads, g.sectors));
            let identity = ide::Identity { serial, version, model, geometry };
            let (index, cdrom, read_only) = (drive.at.port, drive.cdrom, drive.read_only);
            specs.push(DriveSpec { index, cdrom, read_only, image, identity });
        }
        Ok(Box::new(Ide::new(specs, Box::new(threads))) as Box<dyn Device>)
    };
    Ok(Prepared { polled, build: Box::new(build) })
}

fn prepare_qdisk(config: &DeviceConfig, mut resources: Resources) -> Result<Prepared, BuildError> {
    let DeviceConfig::Qdisk { disk, discard, .. } = config else { return Err(wrong(config)) };
    let (front, memory) = frontend::Front::new(resources.domid, pv_disk::BUFFER, &mut resources.fds)?;
    let memory: Arc<dyn bulkhead_bus::GuestMemory> = memory;
    let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (events, nodes) = front.polled()?;
    let jobs = rustix::io::dup(&bell)?;
    let polled = vec![(pv::EVENTS, events), (pv::NODES, nodes), (pv_disk::JOBS, jobs)];
    let threads = Threads::new(pv_disk::LANES, &memory, &bell)?;
    let options = pv_disk::Options { cdrom: disk.cdrom, read_only: disk.read_only, discard: *discard };
    let medium = Medium::new(disk, &mut resources.fds)?.ok_or(BuildError::NoImage)?;
    let build = move || {
        let image = Arc::new(medium.open()?);
        let qdisk = pv_disk::Qdisk::new(image, options, Box::new(front), memory, Box::new(threads));
        Ok(Box::new(Unseen(qdisk)) as Box<dyn Device>)
    };
    Ok(Prepared { polled, build: Box::new(build) })
}

/// A drive's medium, before anything of it is read.
pub(crate) struct Medium {
    content: Content,
    drive: DriveConfig,
    /// The simulated machine's table of faults.
    faults: Option<OwnedFd>,
}

enum Content {
    /// The file, and its bytes.
    Raw(OwnedFd, u64),
    Chain(Chain),
}

impl Medium {
    /// The medium of a drive, from the descriptors that the launcher has passed for it.
    pub(crate) fn new(drive: &DriveConfig, fds: &mut Fds) -> Result<Option<Self>, BuildError> {
        let faults = fds.take(&FdUse::Faults);
        let Some((file, size)) = fds.take(&FdUse::Drive(drive.at)).zip(drive.size) else { return Ok(None) };
        let medium = |content| Ok(Some(Self { content, drive: drive.clone(), faults }));
        if let [ImageFormat::Raw] = drive.formats.as_slice() {
            return medium(Content::Raw(file, size));
        }
        let reader = |format: &ImageFormat| match format {
            ImageFormat::Raw => Format::Raw,
            ImageFormat::Qcow2 => Format::Qcow2,
        };
        let mut chain = Vec::new();
        let mut next = Some(file);
        for (below, format) in (1u8..).zip(&drive.formats) {
            let file = next.take().ok_or_else(|| BuildError::Chain(drive.id.clone()))?;
            chain.push((file, reader(format)));
            next = fds.take(&FdUse::Backing(drive.at, below));
        }
        medium(Content::Chain(Chain::new(chain, !drive.read_only).map_err(|why| refused(drive, &why))?))
    }

    /// Reads the image, behind the filter.
    pub(crate) fn open(self) -> Result<Image, BuildError> {
        let image = match self.content {
            Content::Raw(file, size) => Image::raw(file, size),
            Content::Chain(chain) => chain.open().map_err(|why| refused(&self.drive, &why))?,
        };
        let image = image.when_full(self.drive.full);
        Ok(match self.faults {
            Some(table) => image.with_faults(table, self.drive.at.port),
            None => image,
        })
    }
}

fn refused(drive: &DriveConfig, why: &ImageError) -> BuildError {
    BuildError::Image { drive: drive.id.clone(), why: why.to_string() }
}
