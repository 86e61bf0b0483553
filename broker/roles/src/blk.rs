//! Disks: the IDE controller, PV disks.
use crate::error::BuildError;
use crate::frontend;
use crate::role::{Role, Seen, Visible, wrong};
use bulkhead_bus::{DiskIdentity, Unseen, pv};
use bulkhead_dev_blk::backend::{Format, Image, Threads};
use bulkhead_dev_blk::ide::{self, DriveSpec, Ide};
use bulkhead_dev_blk::qdisk as pv_disk;
use bulkhead_plan::{DeviceConfig, DriveConfig, FdUse, ImageFormat, kind};
use bulkhead_runtime::{Built, Fds, Resources};
use rustix::event::{EventfdFlags, eventfd};
use std::sync::Arc;

pub(crate) static IDE: Role =
    Role { kind: &kind::IDE, seen: Seen::ByGuest(|_| Ok(Visible::new(ide::declare()))), build: build_ide };

pub(crate) static QDISK: Role = Role { kind: &kind::QDISK, seen: Seen::No, build: build_qdisk };

fn build_ide(config: &DeviceConfig, mut resources: Resources) -> Result<Built, BuildError> {
    let DeviceConfig::Ide { drives } = config else { return Err(wrong(config)) };
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let bell = Arc::new(bell);
    let polled = vec![(ide::JOBS, rustix::io::dup(&bell)?)];
    let threads = Threads::new(2, &resources.memory, &bell)?;
    let mut specs = Vec::new();
    for drive in drives {
        let image = image(drive, &mut resources.fds)?;
        let DiskIdentity { serial, version, model } = drive.identity.clone();
        let geometry = drive.geometry.map(|g| (g.cylinders, g.heads, g.sectors));
        let identity = ide::Identity { serial, version, model, geometry };
        let (index, cdrom, read_only) = (drive.at.port, drive.cdrom, drive.read_only);
        specs.push(DriveSpec { index, cdrom, read_only, image, identity });
    }
    Ok(Built { device: Box::new(Ide::new(specs, Box::new(threads))), polled })
}

fn build_qdisk(config: &DeviceConfig, mut resources: Resources) -> Result<Built, BuildError> {
    let DeviceConfig::Qdisk { disk, discard, .. } = config else { return Err(wrong(config)) };
    let (front, memory) = frontend::Front::new(resources.domid, pv_disk::BUFFER, &mut resources.fds)?;
    let memory: Arc<dyn bulkhead_bus::GuestMemory> = memory;
    let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (events, nodes) = front.polled()?;
    let jobs = rustix::io::dup(&bell)?;
    let polled = vec![(pv::EVENTS, events), (pv::NODES, nodes), (pv_disk::JOBS, jobs)];
    let threads = Threads::new(pv_disk::LANES, &memory, &bell)?;
    let image = image(disk, &mut resources.fds)?.ok_or(BuildError::NoImage)?;
    let options = pv_disk::Options { cdrom: disk.cdrom, read_only: disk.read_only, discard: *discard };
    Ok(Built {
        device: Box::new(Unseen(pv_disk::Qdisk::new(
            Arc::new(image),
            options,
            Box::new(front),
            memory,
            Box::new(threads),
        ))),
        polled,
    })
}

/// A drive's medium, with the injected faults of the simulated machine.
fn image(drive: &DriveConfig, fds: &mut Fds) -> Result<Option<Image>, BuildError> {
    let faults = fds.take(&FdUse::Faults);
    let image = plain_image(drive, fds)?;
    Ok(image.map(|i| if let Some(table) = faults { i.with_faults(table, drive.at.port) } else { i }))
}

/// A drive's medium, from the descriptors that the launcher has passed for it.
fn plain_image(drive: &DriveConfig, fds: &mut Fds) -> Result<Option<Image>, BuildError> {
    let Some((file, size)) = fds.take(&FdUse::Drive(drive.at)).zip(drive.size) else { return Ok(None) };
    if let [ImageFormat::Raw] = drive.formats.as_slice() {
        return Ok(Some(Image::raw(file, size).when_full(drive.full)));
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
    Image::chain(chain, !drive.read_only)
        .map(|i| Some(i.when_full(drive.full)))
        .map_err(|why| BuildError::Image { drive: drive.id.clone(), why: why.to_string() })
}
