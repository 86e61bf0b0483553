//! Every process but the launcher is this executable, so that all share its text; argv\[0\] says which it is. It is
//! started by `bulkhead-dm` only.
mod frontend;
mod grant;
mod vchan;
mod viewer;
mod xenbus;

use bulkhead_bus::{Declaration, Unseen, pv};
use bulkhead_dev_blk::backend::{Format, Image, Threads};
use bulkhead_dev_blk::ide::{self, DriveSpec, Ide};
use bulkhead_dev_blk::qdisk as pv_disk;
use bulkhead_dev_display::{Sink, Sinks, fbdev, vfb, vga, vnc};
use bulkhead_dev_input::{console, ps2, serial, usb, vkbd};
use bulkhead_dev_net::FRAMES;
use bulkhead_dev_net::backend::{Abilities, Backend, Host, Receive, Stream};
use bulkhead_dev_net::e1000::{self, E1000};
use bulkhead_dev_net::rtl8139::{self, Rtl8139};
use bulkhead_ioreq::MachineDevice;
use bulkhead_plan::{DeviceConfig, DriveConfig, FdUse, ImageFormat, MachinePlan, NicEnd, NicModel};
use bulkhead_platform::fw_cfg::{self, FwCfg};
use bulkhead_runtime::{Built, Fds, Resources, run_device};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let role = std::env::args().next().unwrap_or_default();
    let result = match role.as_str() {
        "control" => bulkhead_control::run(),
        "broker" => bulkhead_ioreq::run(describe),
        "platform" => run_device("platform", build),
        "ide" => run_device("ide", build),
        "ps2" => run_device("ps2", build),
        "vga" => run_device("vga", build),
        "serial" => run_device("serial", build),
        "fwcfg" => run_device("fwcfg", build),
        "e1000" => run_device("e1000", build),
        "rtl8139" => run_device("rtl8139", build),
        "fbdev" => run_device("fbdev", build),
        "usb" => run_device("usb", build),
        "vnc" => run_device("vnc", build),
        "vchan" => run_device("vchan", build),
        "xenbus" => run_device("xenbus", build),
        "grant" => run_device("grant", build),
        "qdisk" => run_device("qdisk", build),
        "vkbd" => run_device("vkbd", build),
        "console" => run_device("console", build),
        "vfb" => run_device("vfb", build),
        _ => {
            eprintln!("bulkhead-roles: this is started by bulkhead-dm, not by hand");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => bulkhead_runtime::end(0),
        Err(e) => {
            eprintln!("{e}");
            bulkhead_runtime::end(1)
        }
    }
}

/// What a device has, from its configuration alone.
fn declare(config: &DeviceConfig) -> Declaration {
    match config {
        DeviceConfig::Platform { .. } => bulkhead_platform::declare(&board(config)),
        DeviceConfig::Ide { .. } => ide::declare(),
        DeviceConfig::Vga { device, vram, rom, .. } => vga::declare(*device, *vram, *rom),
        DeviceConfig::Ps2 => ps2::declare(),
        DeviceConfig::FwCfg { .. } => fw_cfg::declare(),
        DeviceConfig::Nic { model: NicModel::E1000, device, rom, .. } => e1000::declare(*device, *rom),
        DeviceConfig::Nic { model: NicModel::Rtl8139, device, rom, .. } => rtl8139::declare(*device, *rom),
        DeviceConfig::Serial { index, .. } => serial::declare(*index),
        DeviceConfig::Usb { device, function, .. } => usb::declare(*device, *function),
        // What the guest sees nothing of.
        _ => Declaration::default(),
    }
}

/// The devices, for the broker.
fn describe(plan: &MachinePlan, fds: &mut Fds) -> Result<Vec<MachineDevice>, String> {
    plan.devices
        .iter()
        .map(|device| {
            let rom = match (&device.config, fds.take(&FdUse::Rom(device.slot))) {
                (DeviceConfig::Vga { rom, .. } | DeviceConfig::Nic { rom, .. }, Some(fd)) => {
                    let mut bytes = vec![0; *rom as usize];
                    rustix::io::pread(&fd, bytes.as_mut_slice(), 0).map_err(|e| format!("ROM: {e}"))?;
                    Some(bytes)
                }
                _ => None,
            };
            let video_ram = match &device.config {
                DeviceConfig::Vga { gfn, vram, .. } => Some((*gfn, *vram >> 12)),
                _ => None,
            };
            Ok(MachineDevice {
                slot: device.slot,
                name: device.name.clone(),
                declaration: declare(&device.config),
                rom,
                video_ram,
                added: matches!(device.config, DeviceConfig::Usb { added: true, .. }),
            })
        })
        .collect()
}

/// Makes a device of its configuration and what it was given.
fn build(config: &DeviceConfig, mut resources: Resources) -> Result<Built, String> {
    match config {
        DeviceConfig::Serial { index, listens } => {
            let (backend, ready) = character(&mut resources.fds, *listens)?;
            let polled = ready.into_iter().map(|fd| (0, fd)).collect();
            Ok(Built { device: Box::new(serial::Serial::new(*index, backend)), polled })
        }
        DeviceConfig::Platform { .. } => {
            Ok(Built { device: Box::new(bulkhead_platform::Platform::new(board(config))), polled: Vec::new() })
        }
        DeviceConfig::Ide { drives } => {
            let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| e.to_string())?;
            let bell = Arc::new(bell);
            let polled = vec![(ide::JOBS, rustix::io::dup(&bell).map_err(|e| e.to_string())?)];
            let threads = Threads::new(2, &resources.memory, &bell).map_err(|e| e.to_string())?;
            let mut specs = Vec::new();
            for drive in drives {
                let image = image(drive, &mut resources.fds)?;
                specs.push(DriveSpec { index: drive.index, cdrom: drive.cdrom, read_only: drive.read_only, image });
            }
            Ok(Built { device: Box::new(Ide::new(specs, Box::new(threads))), polled })
        }
        DeviceConfig::Ps2 => {
            let Some(input) = resources.fds.take(&FdUse::Input) else {
                return Ok(Built { device: Box::new(ps2::Ps2::new()), polled: Vec::new() });
            };
            let polled = vec![(0, rustix::io::dup(&input).map_err(|e| e.to_string())?)];
            Ok(Built { device: Box::new(ps2::Ps2::with_viewer(input, resources.fds.take(&FdUse::Leds))), polled })
        }
        DeviceConfig::Usb { devices, device, function, .. } => {
            let input = resources.fds.take(&FdUse::Input);
            let polled = input
                .iter()
                .map(|fd| rustix::io::dup(fd).map(|fd| (usb::INPUT, fd)))
                .collect::<Result<_, _>>()
                .map_err(|e| e.to_string())?;
            Ok(Built {
                device: Box::new(usb::Uhci::new(
                    (*device, *function),
                    devices,
                    input,
                    resources.fds.take(&FdUse::UsbTakes),
                )),
                polled,
            })
        }
        DeviceConfig::FwCfg { vcpus, online, memory_mib, menu, kernel, initrd, command_line } => {
            let config = fw_cfg::Config {
                vcpus: *vcpus,
                online: *online,
                memory_mib: *memory_mib,
                menu: menu.clone(),
                command_line: command_line.clone(),
            };
            let boot = fw_cfg::Boot {
                kernel: resources.fds.take(&FdUse::Kernel).zip(*kernel),
                initrd: resources.fds.take(&FdUse::Initrd).zip(*initrd),
            };
            Ok(Built { device: Box::new(FwCfg::new(&config, boot)?), polled: Vec::new() })
        }
        DeviceConfig::Nic { model, device, mac, rom, end, settings, lease, .. } => {
            let fd = resources.fds.want(&FdUse::Net).map_err(|e| e.to_string())?;
            let polled = vec![(FRAMES, rustix::io::dup(&fd).map_err(|e| e.to_string())?)];
            let host = |fd, receive: Receive| {
                Box::new(Host::new(fd, Abilities { checksum: true, segmentation: true }, receive))
            };
            let other: Box<dyn Backend> = match end {
                NicEnd::Tap => host(fd, |fd, to| Ok((rustix::io::read(fd, to)?, None))),
                NicEnd::Packet => host(fd, bulkhead_runtime::receive_packet),
                NicEnd::Stream => Box::new(Stream::new(fd)),
            };
            Ok(match model {
                NicModel::E1000 => Built {
                    device: Box::new(E1000::new(*device, *rom, *mac, other, settings).with_lease(lease.clone())),
                    polled,
                },
                NicModel::Rtl8139 => Built {
                    device: Box::new(Rtl8139::new(*device, *rom, *mac, other, settings).with_lease(lease.clone())),
                    polled,
                },
            })
        }
        DeviceConfig::Vnc { name, password, layout, .. } => {
            let view = viewer::SurfaceView::new(&mut resources.fds)?;
            let listen = resources
                .fds
                .take_all(|u| (*u == FdUse::Viewers).then_some(()))
                .into_iter()
                .map(|(_, fd)| fd)
                .collect();
            let password = if *password { vnc::Password::Unset } else { vnc::Password::None };
            let layout = vnc::Layout::named(layout).ok_or_else(|| format!("no keyboard layout {layout}"))?;
            let config = vnc::Config { name: name.clone(), layout, password };
            let console = vnc::Console {
                input: sinks(&mut resources.fds),
                leds: resources.fds.take(&FdUse::Leds),
                wishes: resources.fds.take(&FdUse::Wishes),
            };
            let server = vnc::Vnc::new(Box::new(view), listen, console, config).map_err(|e| e.to_string())?;
            let polled = vec![(vnc::READY, rustix::io::dup(server.ready()).map_err(|e| e.to_string())?)];
            Ok(Built { device: Box::new(Unseen(server)), polled })
        }
        DeviceConfig::Fbdev { spread } => {
            let view = viewer::SurfaceView::new(&mut resources.fds)?;
            let screen = resources.fds.want(&FdUse::Screen).map_err(|e| e.to_string())?;
            let screen = viewer::FbdevScreen(bulkhead_runtime::FrameBuffer::new(screen)?);
            let mut events = Vec::new();
            let mut polled = Vec::new();
            while let Some(fd) = resources.fds.take(&FdUse::Events) {
                polled.push((events.len() as u32, rustix::io::dup(&fd).map_err(|e| e.to_string())?));
                events.push(fd);
            }
            let input = sinks(&mut resources.fds);
            for fd in input.changes() {
                polled.push((events.len() as u32, rustix::io::dup(fd).map_err(|e| e.to_string())?));
            }
            Ok(Built {
                device: Box::new(Unseen(
                    fbdev::Fbdev::new(Box::new(view), Box::new(screen), events, input).with_spread(*spread),
                )),
                polled,
            })
        }
        DeviceConfig::Vchan { port } => {
            let mut want = |what: &FdUse| resources.fds.want(what).map_err(|e| e.to_string());
            let server = bulkhead_xen::VchanServer::new(want(&FdUse::VchanPage)?.as_fd()).map_err(|e| e.to_string())?;
            let (evtchn, sessions) = (want(&FdUse::Evtchn)?, want(&FdUse::Sessions)?);
            let dup = |fd: &OwnedFd| rustix::io::dup(fd).map_err(|e| e.to_string());
            let polled = vec![(vchan::EVTCHN, dup(&evtchn)?), (vchan::SESSIONS, dup(&sessions)?)];
            Ok(Built { device: Box::new(Unseen(vchan::Vchan::new(server, evtchn, *port, sessions))), polled })
        }
        DeviceConfig::Xenbus { devices } => {
            let store = resources.fds.want(&FdUse::Xenstore).map_err(|e| e.to_string())?;
            let mut polled = vec![(xenbus::STORE, rustix::io::dup(&store).map_err(|e| e.to_string())?)];
            let mut sockets = Vec::new();
            for i in (0u8..).take(devices.len()) {
                let socket = resources.fds.want(&FdUse::Nodes(i)).map_err(|e| e.to_string())?;
                polled.push((u32::from(i).saturating_add(1), rustix::io::dup(&socket).map_err(|e| e.to_string())?));
                sockets.push(socket);
            }
            let store = bulkhead_xen::Xenstore::from_stream(store).map_err(|e| e.to_string())?;
            Ok(Built { device: Box::new(Unseen(xenbus::Xenbus::new(store, devices, sockets)?)), polled })
        }
        DeviceConfig::Grant => {
            let (mut polled, mut callers) = (Vec::new(), Vec::new());
            for (i, socket) in resources.fds.take_all(|u| if let FdUse::Grants(i) = u { Some(*i) } else { None }) {
                let device = resources.fds.want(&FdUse::Gntdev(i)).map_err(|e| e.to_string())?;
                let grants = bulkhead_xen::Gntdev::new(device, resources.domid);
                let buffer = resources.fds.take(&FdUse::GrantBuffer(i));
                let buffer = buffer
                    .map(|fd| bulkhead_xen::Mapping::new(fd.as_fd(), pv::BUFFER_PAGES))
                    .transpose()
                    .map_err(|e| e.to_string())?;
                polled.push((callers.len() as u32, rustix::io::dup(&socket).map_err(|e| e.to_string())?));
                callers.push((socket, grant::Device { grants, buffer }));
            }
            Ok(Built { device: Box::new(Unseen(grant::Grant::new(callers))), polled })
        }
        DeviceConfig::Qdisk { disk, discard, .. } => {
            let (front, memory) = frontend::Front::new(resources.domid, pv_disk::BUFFER, &mut resources.fds)?;
            let memory: Arc<dyn bulkhead_bus::GuestMemory> = memory;
            let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| e.to_string())?);
            let (events, nodes) = front.polled().map_err(|e| e.to_string())?;
            let jobs = rustix::io::dup(&bell).map_err(|e| e.to_string())?;
            let polled = vec![(pv::EVENTS, events), (pv::NODES, nodes), (pv_disk::JOBS, jobs)];
            let threads = Threads::new(pv_disk::LANES, &memory, &bell).map_err(|e| e.to_string())?;
            let image = image(disk, &mut resources.fds)?.ok_or("no image")?;
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
        DeviceConfig::Vkbd { .. } => {
            let (front, _) = frontend::Front::new(resources.domid, vkbd::PAGES, &mut resources.fds)?;
            let (events, nodes) = front.polled().map_err(|e| e.to_string())?;
            let mut polled = vec![(pv::EVENTS, events), (pv::NODES, nodes)];
            let input = resources.fds.take(&FdUse::PvInput);
            polled.extend(
                input.as_ref().map(rustix::io::dup).transpose().map_err(|e| e.to_string())?.map(|fd| (vkbd::INPUT, fd)),
            );
            Ok(Built {
                device: Box::new(Unseen(vkbd::Vkbd::new(Box::new(front), input, resources.fds.take(&FdUse::PvTakes)))),
                polled,
            })
        }
        DeviceConfig::Console { devid, listens } => {
            let (front, memory) = frontend::Front::new(resources.domid, console::PAGES, &mut resources.fds)?;
            let (events, nodes) = front.polled().map_err(|e| e.to_string())?;
            let (host, ready) = character(&mut resources.fds, *listens)?;
            let mut polled = vec![(pv::EVENTS, events), (pv::NODES, nodes)];
            polled.extend(ready.map(|fd| (console::HOST, fd)));
            Ok(Built {
                device: Box::new(Unseen(console::Console::new(Box::new(front), memory, host, *devid == 0))),
                polled,
            })
        }
        DeviceConfig::Vfb { .. } => {
            let privcmd = resources.fds.want(&FdUse::Frames).map_err(|e| e.to_string())?;
            let front = frontend::Front::without_grants(resources.domid, &mut resources.fds)?;
            let (events, nodes) = front.polled().map_err(|e| e.to_string())?;
            let polled = vec![(pv::EVENTS, events), (pv::NODES, nodes)];
            let frames = frontend::DomainFrames { privcmd, domid: resources.domid };
            Ok(Built { device: Box::new(Unseen(vfb::Vfb::new(Box::new(front), Box::new(frames)))), polled })
        }
        DeviceConfig::Vga { device, vram, rom, .. } => {
            let wishes = resources.fds.take(&FdUse::Wishes);
            let polled = wishes
                .iter()
                .map(|fd| rustix::io::dup(fd).map(|fd| (0, fd)))
                .collect::<Result<_, _>>()
                .map_err(|e| e.to_string())?;
            Ok(Built {
                device: Box::new(vga::Vga::new(*device, *vram, *rom, resources.memory).with_wishes(wishes)),
                polled,
            })
        }
    }
}

/// A character device of the host, and what becomes ready when it is.
fn character(fds: &mut Fds, listens: bool) -> Result<(Box<dyn serial::Backend>, Option<OwnedFd>), String> {
    let fail = |e: rustix::io::Errno| e.to_string();
    Ok(match fds.take(&FdUse::Serial) {
        Some(fd) if listens => {
            let backend = serial::ListenBackend::new(fd).map_err(|e| e.to_string())?;
            let ready = rustix::io::dup(backend.ready()).map_err(fail)?;
            (Box::new(backend), Some(ready))
        }
        Some(fd) => {
            let ready = rustix::io::dup(&fd).map_err(fail)?;
            (Box::new(serial::FdBackend::new(fd)), Some(ready))
        }
        None => (Box::new(serial::NullBackend), None),
    })
}

/// Where viewers' input goes.
fn sinks(fds: &mut Fds) -> Sinks {
    let mut sink = |input: &FdUse, takes: &FdUse| {
        fds.take(input).zip(fds.take(takes)).map(|(input, takes)| Sink::new(input, takes))
    };
    let others = [
        sink(&FdUse::GuestInput, &FdUse::GuestTakes),
        sink(&FdUse::PvInput, &FdUse::PvTakes),
        sink(&FdUse::UsbInput, &FdUse::UsbTakes),
    ];
    Sinks::new(fds.take(&FdUse::Input), others.into_iter().flatten().collect())
}

/// A drive's medium, of the descriptors that were handed over for it.
fn image(drive: &DriveConfig, fds: &mut Fds) -> Result<Option<Image>, String> {
    let Some((file, size)) = fds.take(&FdUse::Drive(drive.index)).zip(drive.size) else { return Ok(None) };
    if let [ImageFormat::Raw] = drive.formats.as_slice() {
        return Ok(Some(Image::raw(file, size).when_full(drive.full)));
    }
    let format = |f: &ImageFormat| match f {
        ImageFormat::Raw => Format::Raw,
        ImageFormat::Qcow2 => Format::Qcow2,
    };
    let mut chain = Vec::new();
    let mut next = Some(file);
    for (below, told) in (1u8..).zip(&drive.formats) {
        let file = next.take().ok_or_else(|| format!("drive {}: an image of its chain is missing", drive.id))?;
        chain.push((file, format(told)));
        next = fds.take(&FdUse::Backing(drive.index, below));
    }
    Image::chain(chain, !drive.read_only)
        .map(|i| Some(i.when_full(drive.full)))
        .map_err(|e| format!("drive {}: {e}", drive.id))
}

/// The board's own form of its configuration.
fn board(config: &DeviceConfig) -> bulkhead_platform::Config {
    match config {
        DeviceConfig::Platform { vcpus, online, xen_platform, boot, serial, unplug } => bulkhead_platform::Config {
            vcpus: *vcpus,
            online: *online,
            xen_platform: *xen_platform,
            boot: boot.clone(),
            serial: *serial,
            unplug: *unplug,
        },
        _ => bulkhead_platform::Config {
            vcpus: 1,
            online: 1,
            xen_platform: false,
            boot: String::new(),
            serial: false,
            unplug: false,
        },
    }
}
