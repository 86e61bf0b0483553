//! QMP over a stub domain's vchan: its page and event channel, and the socket to control.
use super::host::Part;
use crate::failure::{Failure, system};
use crate::stubdom::Stubdom;
use bulkhead_plan::{DeviceConfig, FdUse};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Opens the process that carries QMP between a stub domain's vchan and control.
pub(crate) fn open(stubdom: &mut Stubdom) -> Result<Part, Failure> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (near, far) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(system("socketpair"))?;
    let mut control = vec![(FdUse::Sessions, near)];
    control.extend(stubdom.save.take().map(|fd| (FdUse::SaveStream, fd)));
    let kept = vec![
        (FdUse::Sessions, far),
        (FdUse::VchanPage, rustix::io::dup(&stubdom.qmp.page).map_err(system("dup"))?),
        (FdUse::Evtchn, rustix::io::dup(&stubdom.qmp.evtchn).map_err(system("dup"))?),
    ];
    Ok(Part { kept, control, ..Part::new(DeviceConfig::Vchan { port: stubdom.qmp.port }) })
}
