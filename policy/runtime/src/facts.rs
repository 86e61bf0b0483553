//! Typed facts of a process, for programs.
use bulkhead_bus::{DriveFacts, ViewerAddress};
use bulkhead_control_api::v1;
use bulkhead_plan::Activity;
use std::net::SocketAddr;

/// What a process answers to control's call `Facts`. A field that does not concern the process is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The drives of a controller that have not been unplugged.
    pub drives: Vec<DriveFacts>,
    /// Of the board: numbers of the vCPUs that are plugged in.
    pub vcpus: Vec<u16>,
    /// Of a network card: each rule's name, and the number of frames that it has dropped.
    pub dropped: Vec<(&'static str, u64)>,
    /// Of a server of viewers: where each viewer comes from.
    pub viewers: Vec<ViewerAddress>,
    /// Of the broker: the PCI functions that the guest can find on bus 0.
    pub functions: Vec<FunctionFacts>,
    /// Of a keyboard: its LEDs, bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock.
    pub lights: Option<u8>,
    /// Counted since the process started.
    pub activity: Activity,
}

/// A PCI function on bus 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionFacts {
    /// The name of the process that serves it.
    pub of: String,
    /// Device number.
    pub device: u8,
    /// Function number.
    pub function: u8,
    /// PCI vendor ID.
    pub vendor: u16,
    /// PCI device ID.
    pub model: u16,
    /// Class, subclass and programming interface, as bytes 0x0b to 0x09.
    pub class: u32,
    /// The interrupt line register.
    pub irq: u8,
    /// The interrupt pin register: 1 to 4 for INTA# to INTD#, 0 for none.
    pub pin: u8,
}

fn viewer(address: ViewerAddress) -> v1::Viewer {
    match address {
        ViewerAddress::Tcp(at) => {
            let family = if matches!(at, SocketAddr::V6(_)) { v1::Family::Ipv6 } else { v1::Family::Ipv4 };
            v1::Viewer { family: family.into(), host: at.ip().to_string(), port: u32::from(at.port()) }
        }
        ViewerAddress::Unix => v1::Viewer { family: v1::Family::Unix.into(), ..v1::Viewer::default() },
    }
}

fn drive(d: DriveFacts) -> v1::Drive {
    v1::Drive {
        index: u32::from(d.index),
        sectors: d.sectors,
        locked: d.locked,
        tray_open: d.tray_open,
        reads: d.counters.reads,
        bytes_read: d.counters.bytes_read,
        writes: d.counters.writes,
        bytes_written: d.counters.bytes_written,
        flushes: d.counters.flushes,
        trims: d.counters.trims,
        failed: d.counters.failed,
    }
}

impl From<FunctionFacts> for v1::PciFunction {
    fn from(f: FunctionFacts) -> Self {
        Self {
            of: f.of,
            device: u32::from(f.device),
            function: u32::from(f.function),
            vendor: u32::from(f.vendor),
            model: u32::from(f.model),
            class: f.class,
            irq: u32::from(f.irq),
            pin: u32::from(f.pin),
        }
    }
}

impl From<Facts> for v1::FactsReply {
    fn from(facts: Facts) -> Self {
        let Facts { drives, vcpus, dropped, viewers, functions, lights, activity } = facts;
        let Activity { accesses, posted, wakeups, doorbells } = activity;
        let counter = |(name, value): (&str, u64)| v1::Counter { name: name.to_owned(), value };
        Self {
            drives: drives.into_iter().map(drive).collect(),
            vcpus: vcpus.into_iter().map(u32::from).collect(),
            dropped: dropped.into_iter().map(counter).collect(),
            viewers: viewers.into_iter().map(viewer).collect(),
            functions: functions.into_iter().map(v1::PciFunction::from).collect(),
            lights: lights.map(u32::from),
            activity: Some(v1::Activity { accesses, posted, wakeups, doorbells }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_viewer_has_the_family_and_the_host_of_its_connection() {
        let seen = |text: &str| viewer(ViewerAddress::Tcp(text.parse().unwrap()));
        let of = |family: v1::Family, host: &str, port| v1::Viewer { family: family.into(), host: host.into(), port };
        assert_eq!(seen("192.0.2.1:4000"), of(v1::Family::Ipv4, "192.0.2.1", 4000));
        assert_eq!(seen("[2001:db8::7]:65535"), of(v1::Family::Ipv6, "2001:db8::7", 65535));
        assert_eq!(viewer(ViewerAddress::Unix), of(v1::Family::Unix, "", 0));
    }
}
