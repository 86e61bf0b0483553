//! Why the machine does not start, or cannot go on. Each variant is one subject; its text names the subject and the fault. The
//! number before the text ([`Code`]) belongs to the variant, or to the stage in which the failure happens.
use crate::budget::BudgetFault;
use crate::errors::Code;
use crate::groups::NoGroups;
use crate::machine::boot::{BootFault, BootFile};
use crate::machine::firmware::FirmwareFault;
use crate::machine::host::{PidFileFault, SocketFault, UserFault};
use crate::machine::images::{ImageFault, ImageName};
use crate::machine::nics::{NicFault, missing_modules};
use crate::machine::option::ArgumentError;
use crate::machine::saved::SavedFault;
use crate::machine::serial::SerialFault;
use crate::machine::viewers::ViewersFault;
use crate::settings::SettingsFault;
use crate::stubdom::StubdomFault;
use crate::supervise::StartFault;
use bulkhead_plan::Slot;
use bulkhead_policy::{SandboxError, SpawnError};
use bulkhead_ring::AreaError;
use bulkhead_xen::XenError;
use std::io;
use std::path::PathBuf;

/// Why the launcher fails.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments cannot be used.
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    /// The host's settings cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsFault),
    /// A disk image, a CD image, or a file that one is based on.
    #[error("{image}: {fault}")]
    Image {
        /// Which.
        image: ImageName,
        /// What is wrong with it.
        #[source]
        fault: ImageFault,
    },
    /// The kernel of a direct boot, or its ramdisk.
    #[error("{file}: {fault}")]
    Kernel {
        /// Which.
        file: BootFile,
        /// What is wrong with it.
        #[source]
        fault: BootFault,
    },
    /// The other end of a network card.
    #[error("network card nic{card}: {fault}")]
    Network {
        /// libxl's number of the card.
        card: u8,
        /// What is wrong.
        #[source]
        fault: NicFault,
    },
    /// The kernel refuses the rules on a card's interface.
    #[error("rules on the interface {interface}: {source}{}", missing_modules(.source))]
    Rules {
        /// The interface's name.
        interface: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The other end of a serial port or console.
    #[error("serial port {port}: {fault}")]
    Serial {
        /// Number of the port, or xenbus' number of the console.
        port: usize,
        /// What is wrong.
        #[source]
        fault: SerialFault,
    },
    /// The socket of a QMP server.
    #[error("{monitor}: {fault}")]
    Socket {
        /// The chardev's name.
        monitor: String,
        /// What is wrong.
        #[source]
        fault: SocketFault,
    },
    /// The socket for VNC viewers.
    #[error("-vnc {0}")]
    Viewers(#[from] ViewersFault),
    /// The VGA firmware.
    #[error(transparent)]
    Firmware(#[from] FirmwareFault),
    /// A saved machine that is to go on here.
    #[error("-incoming: {0}")]
    Saved(#[from] SavedFault),
    /// The user or the root directory that dm_restrict asks for.
    #[error(transparent)]
    User(#[from] UserFault),
    /// The file with this process' number.
    #[error("-pidfile {path}: {fault}")]
    PidFile {
        /// The path that `-pidfile` names.
        path: String,
        /// What is wrong with it.
        #[source]
        fault: PidFileFault,
    },
    /// The kernel cannot enforce the sandbox that the arguments ask for.
    #[error("-sandbox level=strict: needs Landlock ABI 6 (Linux 6.12), this kernel has {abi}")]
    Level {
        /// The kernel's Landlock ABI.
        abi: i32,
    },
    /// There are no control groups where the settings demand them.
    #[error("-cgroup {}: {source}", .path.display())]
    Groups {
        /// The group's directory: the demanded one, or one in it.
        path: PathBuf,
        /// Why there are none.
        source: NoGroups,
    },
    /// The launcher cannot give up its own rights.
    #[error("the launcher's own sandbox: {0}")]
    Cage(#[source] SandboxError),
    /// One of Xen's device nodes.
    #[error(transparent)]
    Xen(XenError),
    /// Xen does not populate the guest's video RAM.
    #[error("video RAM of {mib} MiB: {source}")]
    VideoRam {
        /// MiB of video RAM.
        mib: u32,
        /// Xen's error.
        source: XenError,
    },
    /// The stub domain's kernel forbids the one hypercall that a stub domain needs.
    #[error(
        "video RAM: this kernel does not let a stub domain make hypercalls (XSA-482); its command line needs xen_privcmd.unrestricted=1"
    )]
    Hypercalls(#[source] XenError),
    /// xenstore cannot be reached.
    #[error(transparent)]
    Xenstore(XenError),
    /// xenstore refuses a write.
    #[error("{node}: {source}")]
    Node {
        /// The node's path.
        node: String,
        /// xenstored's answer.
        source: XenError,
    },
    /// The domain whose PV back ends are served cannot be watched.
    #[error(transparent)]
    Watch(XenError),
    /// Xen does not shut the domain down when QMP asks for it.
    #[error(transparent)]
    Shutdown(XenError),
    /// The host's QEMU, which serves a domain's PV back ends, has exited, and there is no stub domain to watch.
    #[error("QEMU has ended")]
    QemuExited,
    /// The machine has not come up.
    #[error(transparent)]
    Start(#[from] StartFault),
    /// Without its broker the guest cannot go on.
    #[error("the broker is dead: the guest is reported crashed")]
    BrokerDead,
    /// A process cannot be started.
    #[error("starting {name}: {source}")]
    Spawn {
        /// The process's name in logs.
        name: String,
        /// The step that failed.
        source: SpawnError,
    },
    /// The limits of a process in a stub domain cannot be set.
    #[error(transparent)]
    Budget(#[from] BudgetFault),
    /// A role without a sandbox profile.
    #[error("no profile for {role}")]
    NoProfile {
        /// The role without a profile.
        role: &'static str,
    },
    /// A slot that does not exist.
    #[error("no slot {0}")]
    NoSlot(Slot),
    /// No slot is left for a PV device that comes later, or the machine has more than its servers can number.
    #[error("there are too many PV devices")]
    PvDevices,
    /// More vCPUs than a channel has cells.
    #[error("{0} vCPUs: a machine has 1 to 128")]
    Vcpus(u16),
    /// A descriptor of the simulated machine.
    #[error("-sim: descriptor {fd}: {source}")]
    Sim {
        /// The descriptor's number in `-sim`.
        fd: i32,
        /// The kernel's error.
        source: io::Error,
    },
    /// Memory that is shared with a process.
    #[error(transparent)]
    Area(#[from] AreaError),
    /// A file of the host that is none of the guest's.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file's path: as a rule the executable of the processes.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// A call of the kernel that depends on nothing but the kernel's resources.
    #[error("{what}: {source}")]
    System {
        /// The call, or the file in /proc or /dev.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// The stub domain cannot be set up.
    #[error(transparent)]
    Stubdom(#[from] StubdomFault),
}

impl Failure {
    /// The number of the failure; `None` if the stage in which it happens decides.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Arguments(e) => Some(e.code()),
            Self::Settings(_) => Some(Code::Settings),
            Self::Image { .. } => Some(Code::Image),
            Self::Kernel { .. } => Some(Code::Kernel),
            Self::Network { .. } | Self::Rules { .. } => Some(Code::Network),
            Self::Serial { .. } => Some(Code::Serial),
            Self::Socket { .. } => Some(Code::Socket),
            Self::Viewers(_) => Some(Code::Viewers),
            Self::Firmware(_) => Some(Code::Firmware),
            Self::Saved(_) => Some(Code::Saved),
            Self::User(_) => Some(Code::User),
            Self::PidFile { .. } => Some(Code::PidFile),
            Self::Cage(_) | Self::Level { .. } | Self::Groups { .. } => Some(Code::Sandbox),
            Self::Xen(_) | Self::VideoRam { .. } | Self::Hypercalls(_) => Some(Code::Xen),
            Self::Xenstore(_) | Self::Node { .. } => Some(Code::Xenstore),
            Self::Stubdom(_) => Some(Code::Stubdom),
            Self::Watch(_)
            | Self::Shutdown(_)
            | Self::QemuExited
            | Self::Start(_)
            | Self::BrokerDead
            | Self::Spawn { .. }
            | Self::Budget(_)
            | Self::NoProfile { .. }
            | Self::NoSlot(_)
            | Self::PvDevices
            | Self::Vcpus(_)
            | Self::Sim { .. }
            | Self::Area(_)
            | Self::File { .. }
            | Self::System { .. } => None,
        }
    }

    /// The line for people: the number, and the text. `stage` numbers a failure that has no number of its own.
    pub fn line(&self, stage: Code) -> String {
        self.code().unwrap_or(stage).line(self)
    }
}

/// Turns the kernel's error from the call `what` into a failure.
pub(crate) fn system<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> Failure + Copy {
    move |e| Failure::System { what, source: e.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    fn io() -> io::Error {
        io::ErrorKind::NotFound.into()
    }

    fn xen() -> XenError {
        XenError { what: "call", source: io() }
    }

    /// Each variant once, its number and its text.
    fn table() -> Vec<(Failure, Option<Code>, &'static str)> {
        let path = || "/x".to_owned();
        let wrong = toml::from_str::<toml::Table>("[").unwrap_err();
        let settings = SettingsFault::Wrong { path: "/x".into(), source: Box::new(wrong) };
        let image = Failure::Image { image: ImageName::Disk(path()), fault: ImageFault::Locked };
        let kernel =
            Failure::Kernel { file: BootFile { what: "kernel", path: path() }, fault: BootFault::InDom0(io()) };
        let network = Failure::Network { card: 1, fault: NicFault::NoInterface { mac: [0, 0x16, 0x3e, 1, 2, 3] } };
        let missing = rustix::io::Errno::NOENT.into();
        let serial = Failure::Serial { port: 0, fault: SerialFault::Path { path: path(), source: io() } };
        let socket = Failure::Socket { monitor: "qmp".into(), fault: SocketFault::DoesNotListen { number: 5 } };
        let not_ready = StartFault::NotReady { processes: vec!["ide".into(), "vga".into()] };
        let argument = ArgumentError::Refused { option: "-x".into(), why: "no sound" };
        vec![
            (ArgumentError::Unknown("-y".into()).into(), Some(Code::Argument), "-y: unknown option"),
            (argument.into(), Some(Code::Unsupported), "-x: not supported: no sound"),
            (settings.into(), Some(Code::Settings), "/x: TOML parse error at line 1"),
            (image, Some(Code::Image), "disk image /x: locked by another process"),
            (kernel, Some(Code::Kernel), "kernel /x: entity not found: libxl names a file of dom0"),
            (network, Some(Code::Network), "network card nic1: no interface of this domain has the address 00:16:3e:"),
            (
                Failure::Rules { interface: "vif1.0".into(), source: missing },
                Some(Code::Network),
                "rules on the interface vif1.0: No such file or directory (os error 2); the kernel must have sch_ingress",
            ),
            (serial, Some(Code::Serial), "serial port 0: /x: entity not found"),
            (socket, Some(Code::Socket), "qmp: fd=5 is no socket that listens"),
            (
                ViewersFault::NoAddress { host: "here".into() }.into(),
                Some(Code::Viewers),
                "-vnc here: no IP address (names are not looked up)",
            ),
            (
                FirmwareFault::Size { path: path(), what: "VGA firmware" }.into(),
                Some(Code::Firmware),
                "/x: not a VGA firmware",
            ),
            (
                SavedFault::from(bulkhead_stream::ReadError::Checksum).into(),
                Some(Code::Saved),
                "-incoming: it is damaged: a checksum",
            ),
            (UserFault::Root { text: "0:0".into() }.into(), Some(Code::User), "-runas 0:0: that is root"),
            (
                Failure::PidFile { path: path(), fault: PidFileFault::Held },
                Some(Code::PidFile),
                "-pidfile /x: another process has it",
            ),
            (
                Failure::Level { abi: 4 },
                Some(Code::Sandbox),
                "-sandbox level=strict: needs Landlock ABI 6 (Linux 6.12)",
            ),
            (
                Failure::Groups { path: "/x".into(), source: NoGroups::NotThere("/x".into()) },
                Some(Code::Sandbox),
                "-cgroup /x: /x is no cgroup2 mount",
            ),
            (Failure::Xen(xen()), Some(Code::Xen), "call: entity not found"),
            (
                Failure::VideoRam { mib: 16, source: xen() },
                Some(Code::Xen),
                "video RAM of 16 MiB: call: entity not found",
            ),
            (Failure::Hypercalls(xen()), Some(Code::Xen), "video RAM: this kernel does not let a stub domain"),
            (Failure::Xenstore(xen()), Some(Code::Xenstore), "call: entity not found"),
            (
                Failure::Node { node: "/local".into(), source: xen() },
                Some(Code::Xenstore),
                "/local: call: entity not found",
            ),
            (
                StubdomFault::Memory { free: 9 << 10, total: 20 << 10 }.into(),
                Some(Code::Stubdom),
                "stubdomain_memory is too small: 9 of 20 MiB are free, 16 are needed",
            ),
            (Failure::Watch(xen()), None, "call: entity not found"),
            (Failure::Shutdown(xen()), None, "call: entity not found"),
            (Failure::QemuExited, None, "QEMU has ended"),
            (not_ready.into(), None, "not ready after 30 s: ide, vga"),
            (Failure::BrokerDead, None, "the broker is dead: the guest is reported crashed"),
            (
                BudgetFault::OomScore { of: " of ide".into(), source: io() }.into(),
                None,
                "oom_score_adj of ide: entity not found",
            ),
            (Failure::NoProfile { role: "x" }, None, "no profile for x"),
            (Failure::NoSlot(9), None, "no slot 9"),
            (Failure::PvDevices, None, "there are too many PV devices"),
            (Failure::Vcpus(9999), None, "9999 vCPUs: a machine has 1 to 128"),
            (Failure::Sim { fd: 7, source: io() }, None, "-sim: descriptor 7: entity not found"),
            (AreaError::Length(1).into(), None, "1 is no multiple of the page size"),
            (Failure::File { path: "/x".into(), source: io() }, None, "/x: entity not found"),
            (system("pipe")(io()), None, "pipe: entity not found"),
        ]
    }

    #[test]
    fn each_failure_has_its_own_number_or_the_stages() {
        for (failure, code, text) in table() {
            assert_eq!(failure.code(), code, "{failure}");
            for stage in [Code::Start, Code::Machine, Code::Stubdom] {
                let line = failure.line(stage);
                let want = format!("BH-{:04}: {text}", code.unwrap_or(stage) as u16);
                assert!(line.starts_with(&want), "{line:?} is not {want:?}");
            }
        }
    }

    #[test]
    fn causes_stay_causes() {
        let failure = Failure::Node { node: "/local".into(), source: xen() };
        let cause = failure.source().unwrap().downcast_ref::<XenError>().unwrap();
        assert_eq!(cause.source.kind(), io::ErrorKind::NotFound);
        let failure = Failure::PidFile { path: "/x".into(), fault: PidFileFault::System(io()) };
        assert!(failure.source().unwrap().is::<PidFileFault>() && failure.source().unwrap().source().is_some());
    }
}
