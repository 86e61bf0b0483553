//! Keyboard, mouse, USB, serial ports, and the PV keyboard and console.
use crate::error::BuildError;
use crate::frontend;
use crate::role::{Prepared, Role, Seen, Visible, wrong};
use crate::saved_console::{SavedFrom, SavedTo};
use bulkhead_bus::{Unseen, pv};
use bulkhead_dev_input::{console, ps2, serial, usb, vkbd};
use bulkhead_plan::{DeviceConfig, FdUse, kind};
use bulkhead_runtime::{Fds, Resources};
use rustix::fd::OwnedFd;

pub(crate) static PS2: Role =
    Role { kind: &kind::PS2, seen: Seen::ByGuest(|_| Ok(Visible::new(ps2::declare()))), prepare: prepare_ps2 };

pub(crate) static USB: Role = Role {
    kind: &kind::USB,
    seen: Seen::ByGuest(|config| {
        let DeviceConfig::Usb { device, function, added, .. } = config else { return Err(wrong(config)) };
        Ok(Visible { added: *added, ..Visible::new(usb::declare(*device, *function)) })
    }),
    prepare: prepare_usb,
};

pub(crate) static SERIAL: Role = Role {
    kind: &kind::SERIAL,
    seen: Seen::ByGuest(|config| {
        let DeviceConfig::Serial { index, .. } = config else { return Err(wrong(config)) };
        Ok(Visible::new(serial::declare(*index)))
    }),
    prepare: prepare_serial,
};

pub(crate) static VKBD: Role = Role { kind: &kind::VKBD, seen: Seen::No, prepare: prepare_vkbd };

pub(crate) static CONSOLE: Role = Role { kind: &kind::CONSOLE, seen: Seen::No, prepare: prepare_console };

fn prepare_ps2(config: &DeviceConfig, mut resources: Resources) -> Result<Prepared, BuildError> {
    let DeviceConfig::Ps2 = config else { return Err(wrong(config)) };
    let Some(input) = resources.fds.take(&FdUse::InputFrom) else {
        return Ok(Prepared::device(ps2::Ps2::new(), Vec::new()));
    };
    let polled = vec![(0, rustix::io::dup(&input)?)];
    Ok(Prepared::device(ps2::Ps2::with_viewer(input, resources.fds.take(&FdUse::LedsTo)), polled))
}

fn prepare_usb(config: &DeviceConfig, mut resources: Resources) -> Result<Prepared, BuildError> {
    let DeviceConfig::Usb { devices, device, function, .. } = config else { return Err(wrong(config)) };
    let input = resources.fds.take(&FdUse::InputFrom);
    let polled = input
        .iter()
        .map(|fd| rustix::io::dup(fd).map(|fd| (usb::INPUT, fd)))
        .collect::<Result<_, rustix::io::Errno>>()?;
    Ok(Prepared::device(
        usb::Uhci::new((*device, *function), devices, input, resources.fds.take(&FdUse::TakesTo)),
        polled,
    ))
}

fn prepare_serial(config: &DeviceConfig, mut resources: Resources) -> Result<Prepared, BuildError> {
    let DeviceConfig::Serial { index, listens, limit } = config else { return Err(wrong(config)) };
    let (backend, ready) = character(&mut resources.fds, *listens, *limit)?;
    let polled = ready.into_iter().map(|fd| (0, fd)).collect();
    Ok(Prepared::device(serial::Serial::new(*index, backend), polled))
}

fn prepare_vkbd(config: &DeviceConfig, mut resources: Resources) -> Result<Prepared, BuildError> {
    let DeviceConfig::Vkbd { .. } = config else { return Err(wrong(config)) };
    let (front, _) = frontend::Front::new(resources.domid, vkbd::PAGES, &mut resources.fds)?;
    let (events, nodes) = front.polled()?;
    let mut polled = vec![(pv::EVENTS, events), (pv::NODES, nodes)];
    let input = resources.fds.take(&FdUse::InputFrom);
    polled.extend(input.as_ref().map(rustix::io::dup).transpose()?.map(|fd| (vkbd::INPUT, fd)));
    Ok(Prepared::device(Unseen(vkbd::Vkbd::new(Box::new(front), input, resources.fds.take(&FdUse::TakesTo))), polled))
}

fn prepare_console(config: &DeviceConfig, mut resources: Resources) -> Result<Prepared, BuildError> {
    let DeviceConfig::Console { devid, listens, limit } = config else { return Err(wrong(config)) };
    let (front, memory) = frontend::Front::new(resources.domid, console::PAGES, &mut resources.fds)?;
    let (events, nodes) = front.polled()?;
    let (to, from) = (resources.fds.take(&FdUse::SavedTo), resources.fds.take(&FdUse::SavedFrom));
    let (host, ready): (Box<dyn serial::Backend>, _) = match (to, from) {
        (Some(to), _) => (Box::new(SavedTo::new(to)), None),
        (None, Some(from)) => (Box::new(SavedFrom::new(from)), None),
        (None, None) => character(&mut resources.fds, *listens, *limit)?,
    };
    let mut polled = vec![(pv::EVENTS, events), (pv::NODES, nodes)];
    polled.extend(ready.map(|fd| (console::HOST, fd)));
    Ok(Prepared::device(Unseen(console::Console::new(Box::new(front), memory, host, *devid == 0)), polled))
}

/// A character device of the host, and the descriptor to poll for it. `limit`: it is a file.
fn character(
    fds: &mut Fds,
    listens: bool,
    limit: Option<u64>,
) -> Result<(Box<dyn serial::Backend>, Option<OwnedFd>), BuildError> {
    let file = limit.map(|limit| fds.require(&FdUse::SerialEarlier).map(|earlier| (earlier, limit))).transpose()?;
    Ok(match (fds.take(&FdUse::Serial), file) {
        // It is always ready.
        (Some(fd), Some((earlier, limit))) => (Box::new(serial::FileBackend::new(fd, earlier, limit)?), None),
        (Some(fd), None) if listens => {
            let backend = serial::ListenBackend::new(fd)?;
            let ready = rustix::io::dup(backend.ready())?;
            (Box::new(backend), Some(ready))
        }
        (Some(fd), None) => {
            let ready = rustix::io::dup(&fd)?;
            (Box::new(serial::FdBackend::new(fd)), Some(ready))
        }
        (None, _) => (Box::new(serial::NullBackend), None),
    })
}
