//! Reads the PV devices whose back ends Bulkhead serves from xenstore. libxl writes these nodes before it starts a device model.
//! They are in dom0's directory, where no guest can write.
use crate::machine::disk::Properties;
use crate::machine::drives::MachineDrive;
use crate::machine::serial::Serial;
use crate::nodes::{Nodes, Seen};
use bulkhead_plan::{DriveId, ImageFormat, PvNodes};
use bulkhead_xen::Xenstore;

/// Most consoles of a domain that are served.
const CONSOLES: usize = 16;
/// Most disks of a domain that are served.
const DISKS: usize = 16;

/// A PV console with a back end of the kind `ioemu` in dom0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PvConsole {
    /// xenbus' number of the device; 0 is the domain's first.
    pub devid: u32,
    /// The console's two directories in xenstore.
    pub nodes: PvNodes,
    /// The host end of the console.
    pub output: Serial,
    /// Its name in `query-chardev`; for a channel libxl's name.
    pub label: String,
}

/// A PV disk with a back end of the kind `qdisk` in dom0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PvDisk {
    /// xenbus' number of the device.
    pub devid: u32,
    /// The disk's two directories in xenstore.
    pub nodes: PvNodes,
    /// The image and how it is used.
    pub drive: MachineDrive,
    /// The guest may discard sectors.
    pub discard: bool,
}

/// The PV disks of an HVM guest, and a line for each disk that is not served. CDs are left out: an HVM guest uses emulated ones.
pub fn disks(domid: u16, xenstore: &mut impl Nodes) -> (Vec<PvDisk>, Vec<String>) {
    let (disks, notes) = all_disks(domid, xenstore);
    (disks.into_iter().filter(|d| !d.drive.cdrom).collect(), notes)
}

/// The PV disks of a domain, and a line for each disk that is not served.
pub fn all_disks(domid: u16, xenstore: &mut impl Nodes) -> (Vec<PvDisk>, Vec<String>) {
    let top = format!("/local/domain/0/backend/qdisk/{domid}");
    let devids: Vec<u32> = xenstore.names(&top).iter().filter_map(|id| id.parse().ok()).collect();
    let (mut disks, mut notes) = (Vec::new(), Vec::new());
    for devid in devids {
        match disk(devid, &format!("{top}/{devid}"), |path| xenstore.value(path)) {
            Ok(Some(_)) if disks.len() == DISKS => {
                notes.push(format!("PV disk {devid} is not served: there are more than {DISKS}"))
            }
            Ok(disk) => disks.extend(disk),
            Err(e) => notes.push(format!("PV disk {devid} is not served: {e}")),
        }
    }
    (disks, notes)
}

/// The PV keyboards of a guest, by xenbus' number.
pub fn keyboards(domid: u16, xenstore: &mut impl Nodes) -> Vec<(u32, PvNodes)> {
    first(domid, "vkbd", xenstore)
}

/// The PV frame buffers of a domain, by xenbus' number.
pub fn screens(domid: u16, xenstore: &mut impl Nodes) -> Vec<(u32, PvNodes)> {
    first(domid, "vfb", xenstore)
}

/// The first device of a kind. libxl makes one of each.
fn first(domid: u16, kind: &str, xenstore: &mut impl Nodes) -> Vec<(u32, PvNodes)> {
    let top = format!("/local/domain/0/backend/{kind}/{domid}");
    let first = xenstore.names(&top).iter().filter_map(|id| id.parse::<u32>().ok()).min();
    let device = first.and_then(|devid| {
        let back = format!("{top}/{devid}");
        Some((devid, PvNodes { front: xenstore.value(&format!("{back}/frontend"))?, back }))
    });
    device.into_iter().collect()
}

/// The begins of the files to which libxl has a stub domain save, and from which it restores (LIBXL_DEVICE_MODEL_SAVE_FILE and
/// LIBXL_DEVICE_MODEL_RESTORE_FILE of libxl_internal.h).
const SAVED_TO: &str = "/var/lib/xen/qemu-save.";
const SAVED_FROM: &str = "/var/lib/xen/qemu-resume.";

/// The consoles of a domain that xenconsoled leaves to a device model, and a line for each console that is not served.
pub fn consoles(domid: u16, xenstore: &mut impl Nodes) -> (Vec<PvConsole>, Vec<String>) {
    let top = format!("/local/domain/0/backend/console/{domid}");
    let devids: Vec<u32> = xenstore.names(&top).iter().filter_map(|id| id.parse().ok()).collect();
    let (mut consoles, mut notes) = (Vec::new(), Vec::new());
    for devid in devids {
        match console(devid, &format!("{top}/{devid}"), |path| xenstore.value(path)) {
            Ok(console) => consoles.extend(console.filter(|_| consoles.len() < CONSOLES)),
            Err(e) => notes.push(format!("PV console {devid} is not served: {e}")),
        }
    }
    (consoles, notes)
}

/// Reads a console; `None` if xenconsoled serves it. The nodes of the front end that are read here belong to dom0.
fn console(devid: u32, back: &str, mut read: impl FnMut(&str) -> Option<String>) -> Result<Option<PvConsole>, PvFault> {
    let front = read(&format!("{back}/frontend")).ok_or(PvFault::NoFrontEnd)?;
    if read(&format!("{front}/type")).as_deref() != Some("ioemu") {
        return Ok(None);
    }
    let output = read(&format!("{front}/output")).unwrap_or_else(|| "null".to_owned());
    // A channel (xl.cfg): the nodes have all that `-chardev` has, also for a guest with its device model in a stub domain.
    let connection = read(&format!("{back}/connection"));
    let label = format!("{}{devid}", if connection.is_some() { "libxl-channel" } else { "console" });
    let output = if output.starts_with("chardev:") {
        match (connection.as_deref(), read(&format!("{back}/path")).filter(|p| p.starts_with('/'))) {
            (Some("pty"), _) => Serial::Pty,
            (Some("socket"), Some(path)) => Serial::UnixServer(path),
            (Some("socket"), None) => return Err(PvFault::NoSocketPath),
            (_, _) => return Err(PvFault::Channel { output, connection }),
        }
    } else if let Some(path) = output.strip_prefix("pipe:") {
        if path.starts_with(SAVED_FROM) { Serial::SavedFrom(path.to_owned()) } else { Serial::Null }
    } else if let Some(path) = output.strip_prefix("file:").filter(|path| path.starts_with(SAVED_TO)) {
        Serial::SavedTo(path.to_owned())
    } else {
        Serial::parse(&output).ok_or(PvFault::Output { output })?
    };
    Ok(Some(PvConsole { devid, nodes: PvNodes { back: back.to_owned(), front }, output, label }))
}

/// A line for each PV device of a domain that a device model must serve and Bulkhead does not.
pub fn not_served(domid: u16, xenstore: &mut impl Nodes) -> Vec<String> {
    let mut lines: Vec<String> = Xenstore::open_stream().err().map(|e| e.to_string()).into_iter().collect();
    for kind in xenstore.names("/local/domain/0/backend") {
        let others = ["qusb", "vusb", "9pfs", "pvcalls", "vsnd", "vdispl", "vinput", "virtio", "virtio_disk"]
            .contains(&kind.as_str());
        if others && !xenstore.names(&format!("/local/domain/0/backend/{kind}/{domid}")).is_empty() {
            lines.push(format!("a PV device of the kind {kind}"));
        }
    }
    lines.extend(all_disks(domid, xenstore).1);
    lines.extend(consoles(domid, xenstore).1);
    lines
}

/// The node with the state of a disk's back end.
pub fn state_node(domid: u16, devid: u32) -> String {
    format!("/local/domain/0/backend/qdisk/{domid}/{devid}/state")
}

/// Whether a disk with this image was removed or replaced, as far as a complete look tells. `params` is empty while libxl removes a disk. For a changed CD libxl
/// 4.20 writes the file's name without the format.
pub fn is_gone(domid: u16, devid: u32, file: Option<&str>, seen: &mut Seen) -> bool {
    let back = format!("/local/domain/0/backend/qdisk/{domid}/{devid}");
    let now = seen.value(&format!("{back}/params")).unwrap_or_default();
    let file = file.unwrap_or_default();
    let same = now.is_empty() || now == file || now.split_once(':').is_some_and(|(_, now)| now == file);
    !same || seen.value(&format!("{back}/frontend")).is_none()
}

/// Reads a disk; `None` while libxl has not written all nodes. A CD drive may be without a medium.
fn disk(devid: u32, back: &str, mut read: impl FnMut(&str) -> Option<String>) -> Result<Option<PvDisk>, PvFault> {
    let mut node = |name: &str| read(&format!("{back}/{name}"));
    let cdrom = node("device-type").as_deref() == Some("cdrom");
    let (Some(front), Some(parameters)) = (node("frontend"), node("params").filter(|p| !p.is_empty())) else {
        return Ok(None);
    };
    let (kind, file) = match parameters.split_once(':') {
        // libxl 4.20 names a changed CD in this way.
        _ if cdrom && parameters.starts_with('/') => ("aio", parameters.as_str()),
        Some(parts) => parts,
        None => return Err(PvFault::Parameters { params: parameters }),
    };
    let format = match kind {
        "aio" | "raw" => ImageFormat::Raw,
        "qcow2" => ImageFormat::Qcow2,
        other => return Err(PvFault::Format { format: other.to_owned() }),
    };
    if file.is_empty() && !cdrom {
        return Err(PvFault::NoImage);
    }
    let drive = MachineDrive {
        at: Some(DriveId::PV),
        cdrom,
        read_only: node("mode").as_deref() == Some("r"),
        file: (!file.is_empty()).then(|| file.to_owned()),
        format,
        id: format!("vbd-{devid}"),
        properties: Properties::default(),
    };
    let discard = node("discard-enable").as_deref() != Some("0");
    Ok(Some(PvDisk { devid, nodes: PvNodes { back: back.to_owned(), front }, drive, discard }))
}

/// Why a PV device is not served: nodes that libxl has written otherwise than this program knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PvFault {
    /// The node `frontend` is missing.
    #[error("its back end does not name the guest's end")]
    NoFrontEnd,
    /// A console's `output` is none that is known.
    #[error("output is {output:?}")]
    Output {
        /// The node's value.
        output: String,
    },
    /// A channel's `connection` is none that is known.
    #[error("output is {output:?}, connection {connection:?}")]
    Channel {
        /// The node `output`.
        output: String,
        /// The node `connection`.
        connection: Option<String>,
    },
    /// A channel is a socket whose `path` is missing or relative.
    #[error("a channel's socket without a path")]
    NoSocketPath,
    /// A disk's `params` has another form.
    #[error("params is {params:?} and not FORMAT:FILE")]
    Parameters {
        /// The node's value.
        params: String,
    },
    /// A disk's image has another format.
    #[error("this image format is not supported: {format} (raw and qcow2 are)")]
    Format {
        /// The format in `params`.
        format: String,
    },
    /// A disk that is no CD drive has no image.
    #[error("it has no image")]
    NoImage,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(nodes: &[(&str, &str)]) -> Result<Option<PvDisk>, PvFault> {
        let all = [("/b/frontend", "/local/domain/7/device/vbd/768")];
        disk(768, "/b", |path| {
            nodes
                .iter()
                .map(|(n, v)| (format!("/b/{n}"), *v))
                .chain(all.iter().map(|(n, v)| ((*n).to_owned(), *v)))
                .find(|(n, _)| n == path)
                .map(|(_, v)| v.to_owned())
        })
    }

    #[test]
    fn libxls_nodes_are_a_disk() {
        let disk = of(&[("params", "aio:/srv/a:b.img"), ("mode", "w"), ("device-type", "disk")]).unwrap().unwrap();
        assert_eq!(
            (disk.drive.file.as_deref(), disk.drive.format, disk.drive.read_only, disk.discard),
            (Some("/srv/a:b.img"), ImageFormat::Raw, false, true)
        );
        let disk = of(&[("params", "qcow2:/x"), ("mode", "r"), ("discard-enable", "0")]).unwrap().unwrap();
        assert_eq!((disk.drive.format, disk.drive.read_only, disk.discard), (ImageFormat::Qcow2, true, false));
        assert!(of(&[("params", "aio:/x"), ("device-type", "cdrom")]).unwrap().unwrap().drive.cdrom);
        assert_eq!(of(&[("params", "aio:"), ("device-type", "cdrom")]).unwrap().unwrap().drive.file, None);
        assert_eq!(of(&[]), Ok(None), "libxl is about to write more");
    }

    #[test]
    fn a_console_goes_where_libxl_says() {
        let of = |kind: &str, output: &str| {
            let nodes = [("/b/frontend", "/f"), ("/f/type", kind), ("/f/output", output)];
            console(3, "/b", |path| nodes.iter().find(|(n, _)| *n == path).map(|(_, v)| (*v).to_owned()))
        };
        assert_eq!(of("xenconsoled", "pty"), Ok(None));
        assert_eq!(of("ioemu", "pty").unwrap().unwrap().output, Serial::Pty);
        assert_eq!(of("ioemu", "file:/var/log/x").unwrap().unwrap().output, Serial::File("/var/log/x".into()));
        assert_eq!(of("ioemu", "pipe:/x").unwrap().unwrap().output, Serial::Null);
        let (to, from) = ("/var/lib/xen/qemu-save.7", "/var/lib/xen/qemu-resume.7");
        assert_eq!(of("ioemu", &format!("pipe:{from}")).unwrap().unwrap().output, Serial::SavedFrom(from.into()));
        assert_eq!(of("ioemu", &format!("file:{to}")).unwrap().unwrap().output, Serial::SavedTo(to.into()));
        assert!(matches!(of("ioemu", "chardev:libxl-channel0"), Err(PvFault::Channel { connection: None, .. })));
        assert!(matches!(of("ioemu", "spice:x"), Err(PvFault::Output { output }) if output == "spice:x"));
    }

    #[test]
    fn a_channel_is_what_its_nodes_say() {
        let of = |connection: &str, path: Option<&str>| {
            let nodes = [
                ("/b/frontend", "/f"),
                ("/f/type", "ioemu"),
                ("/f/output", "chardev:libxl-channel0"),
                ("/b/connection", connection),
            ];
            let path = path.map(|path| ("/b/path", path));
            console(1, "/b", |wanted| {
                nodes.iter().copied().chain(path).find(|(n, _)| *n == wanted).map(|(_, v)| v.to_owned())
            })
        };
        let channel = of("pty", None).unwrap().unwrap();
        assert_eq!((channel.output, channel.label.as_str()), (Serial::Pty, "libxl-channel1"));
        assert_eq!(of("socket", Some("/run/x")).unwrap().unwrap().output, Serial::UnixServer("/run/x".into()));
        assert_eq!(of("socket", None), Err(PvFault::NoSocketPath));
        assert_eq!(of("socket", Some("x")), Err(PvFault::NoSocketPath));
        let spice = of("spice", Some("/run/x"));
        assert!(matches!(spice, Err(PvFault::Channel { connection: Some(c), .. }) if c == "spice"));
    }

    #[test]
    fn those_who_serve_all_back_ends_may_have_so_many_descriptors() {
        for role in ["xenbus", "grant"] {
            let limit = bulkhead_policy::profile(role).unwrap().limits.files as usize;
            // Two sockets, a device and a buffer for each back end; beside disks and consoles a keyboard and a frame buffer.
            assert!((DISKS + CONSOLES + 2) * 4 + 32 <= limit, "{role}: {limit}");
        }
    }

    #[test]
    fn what_is_not_served_says_why() {
        assert_eq!(of(&[("params", "vhd:/x")]), Err(PvFault::Format { format: "vhd".into() }));
        assert_eq!(of(&[("params", "/x")]), Err(PvFault::Parameters { params: "/x".into() }));
        assert_eq!(of(&[("params", "aio:")]), Err(PvFault::NoImage));
    }
}
