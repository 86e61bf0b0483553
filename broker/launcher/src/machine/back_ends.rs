//! Back ends of PV devices: `xenbus` and `grant`, disks, keyboards, frame buffers and consoles, as the domain's nodes name them.
//! Disks that are added and removed while the domain runs, and hand-offs, are in `supervise/back_ends.rs`.
use super::drives::MachineDrive;
use super::host::{Host, Part};
use super::images::{self, ImageRules, Images};
use super::serial::{self, Serial};
use crate::failure::{Failure, system};
use crate::intake::Look;
use crate::pv;
use bulkhead_bus::pv::BUFFER_PAGES;
use bulkhead_bus::{DiskIdentity, WhenFull};
use bulkhead_plan::{Caller, DeviceConfig, DriveConfig, DriveId, FdUse, ImageFormat, PvNodes};
use bulkhead_ring::SharedArea;
use bulkhead_xen::{Evtchn, Gntdev, Xenstore};
use rustix::fd::OwnedFd;

/// Node in the back end of a stub domain's disk: the guest gets the disk when the stub domain releases it.
/// The name is a part of the stub domain's contract, version 1.
pub(crate) const HAND_OFF: &str = "hand-over";

/// Opens the resources of the PV devices in the domain's nodes. The parts are `xenbus`, `grant` and the back ends; for a stub
/// domain the same for its guest follows.
pub(crate) fn open(host: &mut Host, null: &OwnedFd) -> Result<Vec<Part>, Failure> {
    let (machine, domid) = (host.machine, host.domid);
    let Ok(mut xenstore) = Xenstore::connect() else { return Ok(Vec::new()) };
    // A silent xenstored would cost a timeout with each of the reads below.
    if let Err(e) = xenstore.read(&format!("/local/domain/{domid}/name"))
        && !e.is_answer()
    {
        return Err(Failure::Xenstore(e));
    }
    let (disks, notes) =
        if machine.attach { pv::all_disks(domid, &mut xenstore) } else { pv::disks(domid, &mut xenstore) };
    host.shown.extend(notes);
    let keyboards = pv::keyboards(domid, &mut xenstore);
    let screens = pv::screens(domid, &mut xenstore);
    let (consoles, notes) = pv::consoles(domid, &mut xenstore);
    host.shown.extend(notes);
    if disks.is_empty() && keyboards.is_empty() && screens.is_empty() && consoles.is_empty() {
        return Ok(Vec::new());
    }
    let Ok(stream) = Xenstore::open_stream() else {
        host.shown.push("PV devices are not served: xenstored has no socket here".to_owned());
        return Ok(Vec::new());
    };
    let guest: Option<u16> =
        machine.attach.then(|| xenstore.read(&format!("/local/domain/{domid}/target")).ok()?.parse().ok()).flatten();
    if let Some(guest) = guest {
        let twins = pv::disks(guest, &mut xenstore).0;
        for disk in disks.iter().filter(|d| twins.iter().any(|twin| is_twin(twin, d.devid, d.drive.file.as_deref()))) {
            let node = format!("{}/{HAND_OFF}", disk.nodes.back);
            xenstore.write(&node, "1").map_err(|source| Failure::Node { node, source })?;
        }
    }
    let mut parts = Vec::new();
    let mut servers = Servers::new(domid, stream);
    for disk in disks {
        // The emulated drive has the image until the guest unplugs it.
        let twin = machine.drives.iter().find(|d| !d.cdrom && d.file == disk.drive.file).and_then(|d| d.at);
        let (kept, config) = match twin {
            Some(at) => (Vec::new(), without_image(&disk.drive, at)),
            None => pv_image(&disk.drive, &host.images, null, &host.intake)?,
        };
        let config = DeviceConfig::Qdisk { devid: disk.devid, disk: config, emulated: twin, discard: disk.discard };
        parts.push(servers.serve(Part { kept, ..Part::new(config) }, disk.nodes, true)?);
    }
    for (devid, nodes) in keyboards {
        parts.push(servers.serve(Part::new(DeviceConfig::Vkbd { devid }), nodes, false)?);
    }
    for (devid, nodes) in screens {
        let kept = vec![(FdUse::Privcmd, host.restricted()?)];
        parts.push(servers.serve(Part { kept, ..Part::new(DeviceConfig::Vfb { devid }) }, nodes, false)?);
    }
    for console in consoles {
        parts.push(self::console(host, console, &mut servers, &mut xenstore)?);
    }
    let mut all = Vec::from(servers.parts());
    all.append(&mut parts);
    if let Some(guest) = guest {
        all.append(&mut open_guests(host, guest, &mut xenstore)?);
    }
    Ok(all)
}

/// Opens the PV devices of a stub domain's guest that dom0 serves: its keyboard, for viewers that see the guest's picture in the
/// stub domain's frame buffer, and its consoles after the first.
fn open_guests(host: &mut Host, guest: u16, xenstore: &mut Xenstore) -> Result<Vec<Part>, Failure> {
    let keyboards = pv::keyboards(guest, xenstore);
    let (consoles, notes) = pv::consoles(guest, xenstore);
    host.shown.extend(notes);
    if keyboards.is_empty() && consoles.is_empty() {
        return Ok(Vec::new());
    }
    let stream = Xenstore::open_stream().map_err(Failure::Xenstore)?;
    let mut servers = Servers::new(guest, stream);
    let mut parts = Vec::new();
    for (devid, nodes) in keyboards {
        parts.push(servers.serve(Part::new(DeviceConfig::Vkbd { devid }), nodes, false)?);
    }
    for console in consoles {
        parts.push(self::console(host, console, &mut servers, xenstore)?);
    }
    let mut all = Vec::from(servers.parts());
    all.append(&mut parts);
    Ok(all.into_iter().map(|part| Part { domid: Some(guest), ..part }).collect())
}

/// Opens a console and its other end.
fn console(
    host: &mut Host,
    console: pv::PvConsole,
    servers: &mut Servers,
    xenstore: &mut Xenstore,
) -> Result<Part, Failure> {
    let end =
        serial::serial(console.devid as usize, &console.output, host.machine.console_limit, host.saved.is_some())?;
    if let Some(terminal) = &end.terminal {
        // `xl console` reads this node.
        let tty = format!("{}/tty", console.nodes.front);
        xenstore.write(&tty, terminal).map_err(|source| Failure::Node { node: tty, source })?;
    }
    host.held.extend(end.slave);
    let listens = console.output.listens();
    host.sockets.extend(listens.map(str::to_owned));
    host.chardevs.push((console.label, end.shown));
    let (what, limit) = match &console.output {
        Serial::SavedTo(_) => (FdUse::SavedTo, Some(bulkhead_stream::LONGEST as u64)),
        Serial::SavedFrom(_) => (FdUse::SavedFrom, None),
        _ => (FdUse::Serial, end.earlier.is_some().then_some(host.machine.console_limit)),
    };
    let kept = end.fd.map(|fd| (what, fd)).into_iter();
    let kept = kept.chain(end.earlier.map(|fd| (FdUse::SerialEarlier, fd))).collect();
    let config = DeviceConfig::Console { devid: console.devid, listens: listens.is_some(), limit };
    servers.serve(Part { kept, ..Part::new(config) }, console.nodes, false)
}

/// Whether the parts have a back end for the domain's disk with xenbus' number `id`.
pub(crate) fn serves(parts: &[Part], id: &str) -> bool {
    parts
        .iter()
        .any(|p| matches!(p.config, DeviceConfig::Qdisk { devid, .. } if p.domid.is_none() && devid.to_string() == id))
}

/// Opens a disk's image. An empty CD drive gets `/dev/null`: a disk without sectors.
pub(crate) fn pv_image(
    drive: &MachineDrive,
    rules: &ImageRules,
    null: &OwnedFd,
    intake: &dyn Look,
) -> Result<Images, Failure> {
    pv_images(images::drive(drive, rules, intake)?, null)
}

/// The images of a PV disk, of what was opened for it.
pub(crate) fn pv_images((mut fds, mut config): Images, null: &OwnedFd) -> Result<Images, Failure> {
    if config.file.is_none() {
        fds.push((FdUse::Drive(config.at), rustix::io::dup(null).map_err(system("dup"))?));
        (config.size, config.formats) = (Some(0), vec![ImageFormat::Raw]);
    }
    Ok((fds, config))
}

/// Collects the descriptors of `xenbus` and `grant`, which serve all back ends of a domain.
pub(crate) struct Servers {
    domid: u16,
    nodes: Vec<Caller<PvNodes>>,
    granted: Vec<Caller<()>>,
    xenbus: Vec<(FdUse, OwnedFd)>,
    grant: Vec<(FdUse, OwnedFd)>,
}

impl Servers {
    pub(crate) fn new(domid: u16, store: OwnedFd) -> Self {
        let xenbus = vec![(FdUse::Xenstore, store)];
        Self { domid, nodes: Vec::new(), granted: Vec::new(), xenbus, grant: Vec::new() }
    }

    /// The parts of `xenbus` and `grant`.
    pub(crate) fn parts(self) -> [Part; 2] {
        let xenbus = DeviceConfig::Xenbus { callers: self.nodes };
        let grant = DeviceConfig::Grant { callers: self.granted };
        [Part { kept: self.xenbus, ..Part::new(xenbus) }, Part { kept: self.grant, ..Part::new(grant) }]
    }

    /// Adds a back end. Returns it with its grant device and its event channels; the sockets to both servers are made when its
    /// process is started. `copies`: it gets a buffer for grant copies.
    pub(crate) fn serve(&mut self, mut part: Part, nodes: PvNodes, copies: bool) -> Result<Part, Failure> {
        let number = u8::try_from(self.nodes.len()).map_err(|_| Failure::PvDevices)?;
        let kind = part.config.kind();
        let role = kind.role.to_owned();
        if kind.back_end.is_some_and(|means| means.life > 0) {
            let device = Gntdev::open().map_err(Failure::Xen)?;
            self.grant.push((FdUse::Gntdev(number), rustix::io::dup(&device).map_err(system("dup"))?));
            part.kept.push((FdUse::Gntdev(0), device));
            self.granted.push(Caller { number, role: role.clone(), about: () });
        }
        if copies {
            let buffer = SharedArea::create("grants", BUFFER_PAGES.saturating_mul(4096))?;
            SharedArea::seal_size(&buffer)?;
            self.grant.push((FdUse::GrantBuffer(number), rustix::io::dup(&buffer).map_err(system("dup"))?));
            part.kept.push((FdUse::GrantBuffer(0), buffer));
        }
        self.nodes.push(Caller { number, role, about: nodes });
        part.kept.push((FdUse::Evtchn, Evtchn::open_restricted(self.domid).map_err(Failure::Xen)?));
        Ok(Part { caller: Some(number), ..part })
    }
}

/// Whether a guest's disk is the stub domain's disk with this number and image.
pub(crate) fn is_twin(disk: &pv::PvDisk, devid: u32, file: Option<&str>) -> bool {
    disk.devid == devid && file.is_some() && disk.drive.file.as_deref() == file
}

/// The configuration of a PV disk while the emulated drive at `at` has its image.
fn without_image(drive: &MachineDrive, at: DriveId) -> DriveConfig {
    DriveConfig {
        at,
        cdrom: false,
        read_only: drive.read_only,
        size: None,
        id: drive.id.clone(),
        file: drive.file.clone(),
        formats: Vec::new(),
        grows_to: 0,
        full: WhenFull::default(),
        identity: DiskIdentity::default(),
        geometry: None,
    }
}
