//! Numbers of what can keep a guest from running. The first line on standard error stands alone: libxl shows the log's path and no
//! more. docs/errors.md is made from the table.

/// What has gone wrong: the number in `BH-0201`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// An argument.
    Argument = 101,
    /// Something that QEMU has and this does not.
    Unsupported = 102,
    /// The settings file.
    Settings = 110,
    /// A disk or CD image.
    Image = 201,
    /// A kernel or ramdisk.
    Kernel = 202,
    /// A network card's other end.
    Network = 203,
    /// A serial port's other end.
    Serial = 204,
    /// A socket that libxl connects to.
    Socket = 205,
    /// The socket for viewers.
    Viewers = 208,
    /// Firmware.
    Firmware = 206,
    /// The file with this process' number.
    PidFile = 209,
    /// The user or the root directory.
    User = 207,
    /// The sandbox.
    Sandbox = 301,
    /// A process that did not come up.
    Start = 302,
    /// Xen's interfaces.
    Xen = 401,
    /// xenstore.
    Xenstore = 402,
    /// The machine, after it had started.
    Machine = 501,
    /// The stub domain.
    Stubdom = 601,
}

/// A code, what it means, and what to do.
pub struct Entry {
    /// The code.
    pub code: Code,
    /// What has happened.
    pub cause: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

const fn entry(code: Code, cause: &'static str, remedy: &'static str) -> Entry {
    Entry { code, cause, remedy }
}

/// All codes.
pub const ERRORS: &[Entry] = &[
    entry(
        Code::Argument,
        "An argument of the device model's is not known, lacks its value, or has one that cannot be.",
        "`bulkhead compat ARGUMENTS…` goes through all of them; those that are not libxl's come from device_model_args* in xl.cfg.",
    ),
    entry(
        Code::Unsupported,
        "The guest's configuration asks for something that QEMU has and Bulkhead does not (yet).",
        "docs/compat.md says what is there. Take the line out of xl.cfg, or leave this guest to QEMU (no device_model_override).",
    ),
    entry(
        Code::Settings,
        "/etc/bulkhead/bulkhead.toml cannot be read, has a key that does not exist, or can be written by others than root.",
        "`bulkhead check-config` says where. The guests' own arguments are not concerned.",
    ),
    entry(
        Code::Image,
        "An image cannot be opened, is used by somebody else, or is not what the configuration says.",
        "The line names it. A lock is another guest's, or a qemu-img that runs; a backing file without a format is told by `qemu-img rebase -u -F FORMAT -b FILE IMAGE`.",
    ),
    entry(
        Code::Kernel,
        "The kernel or ramdisk of kernel=, ramdisk= cannot be opened, or is none that a BIOS guest can start.",
        "A bzImage; enough memory= for it and its ramdisk. In a stub domain dom0's files are not there: boot from a disk.",
    ),
    entry(
        Code::Network,
        "The other end of a network card cannot be opened, or the rules for its interface cannot be set.",
        "The kernel modules tun, sch_ingress, cls_bpf, act_gact; libxl's hotplug script must have made the interface.",
    ),
    entry(
        Code::Serial,
        "The other end of a serial port cannot be opened.",
        "The path in serial=; a Unix socket without server=on must have somebody who listens.",
    ),
    entry(Code::Socket, "A socket that libxl connects to cannot be made.", "Room and rights in /var/run/xen."),
    entry(
        Code::PidFile,
        "The file of -pidfile cannot be written, or another process that lives has it.",
        "The path that the toolstack gives; its directory must be there.",
    ),
    entry(Code::Firmware, "The VGA firmware is not there.", "The package seabios, or the file in /usr/share/bulkhead."),
    entry(
        Code::User,
        "The user of device_model_user or dm_restrict is not there, is root, or could not be become; or its empty root directory could not be made.",
        "The users xen-qemuuser-range-base and xen-qemuuser-reaper as in Xen's docs/features/qemu-deprivilege.pandoc.",
    ),
    entry(
        Code::Viewers,
        "The socket for VNC viewers cannot be made: the port is taken, or the address is not this host's.",
        "vncdisplay= or vncunused=1 in xl.cfg; vnclisten= with an address of this host.",
    ),
    entry(
        Code::Sandbox,
        "The sandbox cannot be what the configuration asks for, or the kernel lacks what every process needs.",
        "`bulkhead doctor`. level=strict needs Linux 6.12 with Landlock; every level needs user namespaces.",
    ),
    entry(
        Code::Start,
        "A process was not ready in 30 s, or ended before the machine ran; its last words are in the line.",
        "The line names the process and says why. What it says of a device is that device's configuration.",
    ),
    entry(
        Code::Xen,
        "An interface of Xen's could not be used: /dev/xen is missing, the domain does not exist, or Xen said no.",
        "`bulkhead doctor`. In a stub domain whose kernel forbids hypercalls: xen_privcmd.unrestricted=1 on its command line.",
    ),
    entry(Code::Xenstore, "xenstore does not answer or does not let itself be written.", "Is xenstored running?"),
    entry(
        Code::Machine,
        "The machine ended after it had started: the broker or something that all need has died. The guest is reported crashed.",
        "The lines before it say of what. A device that dies does not end the machine.",
    ),
    entry(Code::Stubdom, "The stub domain could not be set up.", "docs/operations.md, \"A stub domain\"."),
];

impl Code {
    /// `text` with the code before it, unless it has one.
    pub fn line(self, text: impl std::fmt::Display) -> String {
        let text = text.to_string();
        if text.starts_with("BH-") { text } else { format!("BH-{:04}: {text}", self as u16) }
    }
}

/// Puts a code before an error.
pub(crate) trait Coded<T> {
    /// The same result; an error with `code` before it.
    fn coded(self, code: Code) -> Result<T, String>;
}

impl<T, E: std::fmt::Display> Coded<T> for Result<T, E> {
    fn coded(self, code: Code) -> Result<T, String> {
        self.map_err(|e| code.line(e))
    }
}

/// The table, for docs/errors.md.
pub fn markdown() -> String {
    let mut out = String::from("| code | what has happened | what to do |\n|---|---|---|\n");
    for entry in ERRORS {
        out.push_str(&format!("| BH-{:04} | {} | {} |\n", entry.code as u16, entry.cause, entry.remedy));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_one_code_and_each_code_stands_once() {
        assert_eq!(Code::Image.line("x"), "BH-0201: x");
        assert_eq!(Code::Start.line(Code::Image.line("x")), "BH-0201: x");
        for (i, a) in ERRORS.iter().enumerate() {
            assert!(ERRORS.iter().skip(i + 1).all(|b| a.code != b.code));
        }
    }
}
