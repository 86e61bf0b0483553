//! Displays and their viewers.
use crate::error::BuildError;
use crate::role::{Prepared, Role, Seen, Visible, wrong};
use crate::{frontend, viewer};
use bulkhead_bus::{Unseen, pv};
use bulkhead_dev_display::{Sink, Sinks, fbdev, vfb, vga, vnc};
use bulkhead_plan::{self as plan, DeviceConfig, FdUse, kind};
use bulkhead_runtime::{Fds, Resources};

pub(crate) static VGA: Role = Role {
    kind: &kind::VGA,
    seen: Seen::ByGuest(|config| {
        let DeviceConfig::Vga { device, vram, gfn, rom } = config else { return Err(wrong(config)) };
        let declaration = vga::declare(*device, *vram, *rom);
        Ok(Visible { rom: *rom, video_ram: Some((*gfn, *vram >> 12)), ..Visible::new(declaration) })
    }),
    prepare: prepare_vga,
};

pub(crate) static VNC: Role = Role { kind: &kind::VNC, seen: Seen::No, prepare: prepare_vnc };

pub(crate) static FBDEV: Role = Role { kind: &kind::FBDEV, seen: Seen::No, prepare: prepare_fbdev };

pub(crate) static VFB: Role = Role { kind: &kind::VFB, seen: Seen::No, prepare: prepare_vfb };

fn prepare_vga(config: &DeviceConfig, mut resources: Resources) -> Result<Prepared, BuildError> {
    let DeviceConfig::Vga { device, vram, rom, .. } = config else { return Err(wrong(config)) };
    let wishes = resources.fds.take(&FdUse::WishesFrom);
    let polled =
        wishes.iter().map(|fd| rustix::io::dup(fd).map(|fd| (0, fd))).collect::<Result<_, rustix::io::Errno>>()?;
    Ok(Prepared::device(vga::Vga::new(*device, *vram, *rom, resources.memory).with_wishes(wishes), polled))
}

fn prepare_vnc(config: &DeviceConfig, mut resources: Resources) -> Result<Prepared, BuildError> {
    let DeviceConfig::Vnc { name, password, layout, .. } = config else { return Err(wrong(config)) };
    let view = viewer::SurfaceView::new(&mut resources.fds)?;
    let listen =
        resources.fds.take_all(|u| (*u == FdUse::Viewers).then_some(())).into_iter().map(|(_, fd)| fd).collect();
    let password = if *password { vnc::Password::Unset } else { vnc::Password::None };
    let layout = vnc::Layout::named(layout).ok_or_else(|| BuildError::Layout(layout.clone()))?;
    let config = vnc::Config { name: name.clone(), layout, password };
    let console = vnc::Console {
        input: sinks(&mut resources.fds),
        leds: resources.fds.take(&FdUse::LedsFrom),
        wishes: resources.fds.take(&FdUse::WishesTo),
    };
    let server = vnc::Vnc::new(Box::new(view), listen, console, config)?;
    let polled = vec![(vnc::READY, rustix::io::dup(server.ready())?)];
    Ok(Prepared::device(Unseen(server), polled))
}

fn prepare_fbdev(config: &DeviceConfig, mut resources: Resources) -> Result<Prepared, BuildError> {
    let DeviceConfig::Fbdev { spread } = config else { return Err(wrong(config)) };
    let view = viewer::SurfaceView::new(&mut resources.fds)?;
    let screen = resources.fds.require(&FdUse::Screen)?;
    let screen = viewer::FbdevScreen(bulkhead_runtime::FrameBuffer::new(screen)?);
    let mut events = Vec::new();
    let mut polled = Vec::new();
    while let Some(fd) = resources.fds.take(&FdUse::Events) {
        polled.push((events.len() as u32, rustix::io::dup(&fd)?));
        events.push(fd);
    }
    let input = sinks(&mut resources.fds);
    for fd in input.changes() {
        polled.push((events.len() as u32, rustix::io::dup(fd)?));
    }
    Ok(Prepared::device(
        Unseen(fbdev::Fbdev::new(Box::new(view), Box::new(screen), events, input).with_spread(*spread)),
        polled,
    ))
}

fn prepare_vfb(config: &DeviceConfig, mut resources: Resources) -> Result<Prepared, BuildError> {
    let DeviceConfig::Vfb { .. } = config else { return Err(wrong(config)) };
    let privcmd = resources.fds.require(&FdUse::Privcmd)?;
    let front = frontend::Front::without_grants(resources.domid, &mut resources.fds)?;
    let (events, nodes) = front.polled()?;
    let polled = vec![(pv::EVENTS, events), (pv::NODES, nodes)];
    let frames = frontend::DomainFrames { privcmd, domid: resources.domid };
    Ok(Prepared::device(Unseen(vfb::Vfb::new(Box::new(front), Box::new(frames))), polled))
}

/// The devices for viewers' input; the first that accepts an event gets it.
fn sinks(fds: &mut Fds) -> Sinks {
    let mut others = Vec::new();
    for sink in [plan::InputTarget::GuestKeyboard, plan::InputTarget::PvKeyboard, plan::InputTarget::Usb] {
        let ends = fds.take(&FdUse::InputTo(sink)).zip(fds.take(&FdUse::TakesFrom(sink)));
        others.extend(ends.map(|(input, takes)| Sink::new(input, takes)));
    }
    Sinks::new(fds.take(&FdUse::InputTo(plan::InputTarget::Keyboard)), others)
}
