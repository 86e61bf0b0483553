//! Network cards.
use crate::error::BuildError;
use crate::role::{Prepared, Role, Seen, Visible, wrong};
use bulkhead_bus::Declaration;
use bulkhead_dev_net::FRAMES;
use bulkhead_dev_net::backend::{Abilities, Backend, InterfaceBackend, Receive, Stream};
use bulkhead_dev_net::e1000::{self, E1000};
use bulkhead_dev_net::rtl8139::{self, Rtl8139};
use bulkhead_plan::{DeviceConfig, FdUse, NicEnd, NicModel, kind};
use bulkhead_runtime::Resources;

pub(crate) static E1000_CARD: Role =
    Role { kind: &kind::E1000, seen: Seen::ByGuest(|config| seen(config, e1000::declare)), prepare };

pub(crate) static RTL8139_CARD: Role =
    Role { kind: &kind::RTL8139, seen: Seen::ByGuest(|config| seen(config, rtl8139::declare)), prepare };

fn seen(config: &DeviceConfig, declare: fn(u8, u32) -> Declaration) -> Result<Visible, BuildError> {
    let DeviceConfig::Nic { device, rom, .. } = config else { return Err(wrong(config)) };
    Ok(Visible { rom: *rom, ..Visible::new(declare(*device, *rom)) })
}

fn prepare(config: &DeviceConfig, mut resources: Resources) -> Result<Prepared, BuildError> {
    let DeviceConfig::Nic { model, device, mac, rom, end, settings, lease, .. } = config else {
        return Err(wrong(config));
    };
    let fd = resources.fds.require(&FdUse::Net)?;
    let polled = vec![(FRAMES, rustix::io::dup(&fd)?)];
    let host = |fd, receive: Receive| {
        Box::new(InterfaceBackend::new(fd, Abilities { checksum: true, segmentation: true }, receive))
    };
    let other: Box<dyn Backend> = match end {
        NicEnd::Tap => host(fd, |fd, to| Ok((rustix::io::read(fd, to)?, None))),
        NicEnd::Bare => Box::new(InterfaceBackend::bare(fd)),
        NicEnd::Packet => host(fd, bulkhead_runtime::receive_packet),
        NicEnd::Stream => Box::new(Stream::new(fd)),
    };
    Ok(match model {
        NicModel::E1000 => {
            Prepared::device(E1000::new(*device, *rom, *mac, other, settings).with_lease(lease.clone()), polled)
        }
        NicModel::Rtl8139 => {
            Prepared::device(Rtl8139::new(*device, *rom, *mac, other, settings).with_lease(lease.clone()), polled)
        }
    })
}
