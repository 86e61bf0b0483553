//! Numbers of failures that keep a guest from running. An operator sees the first line of the log and no context, because libxl
//! prints the log's path alone; the number leads to docs/errors.md, which is made from the table.

/// The number in a line like `BH-0201: …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// An argument is unknown, lacks its value or has an impossible one.
    Argument = 101,
    /// A function of QEMU's that Bulkhead lacks.
    Unsupported = 102,
    /// The settings file cannot be read or has an unknown key.
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
    /// A saved machine.
    Saved = 210,
    /// The user or the root directory.
    User = 207,
    /// The kernel cannot enforce the requested sandbox level.
    Sandbox = 301,
    /// A process that did not come up.
    Start = 302,
    /// Xen's interfaces.
    Xen = 401,
    /// xenstore.
    Xenstore = 402,
    /// The machine, after it had started.
    Machine = 501,
    /// A process that did not come up, or did not end, while the machine runs.
    Late = 502,
    /// The process that starts processes has ended.
    Starter = 503,
    /// The stub domain cannot be set up.
    Stubdom = 601,
}

/// A row of the table.
pub struct Entry {
    /// The number in front of the line.
    pub code: Code,
    /// The cause, in a sentence for operators.
    pub cause: &'static str,
    /// The remedy, in a sentence for operators.
    pub remedy: &'static str,
}

const fn entry(code: Code, cause: &'static str, remedy: &'static str) -> Entry {
    Entry { code, cause, remedy }
}

/// The table: each code once.
pub const ERRORS: &[Entry] = &[
    entry(
        Code::Argument,
        "An argument of the device model is unknown, lacks its value, or has an impossible one.",
        "`bulkhead compat ARGUMENTS…` checks all of them. Those that libxl does not add come from device_model_args* in xl.cfg.",
    ),
    entry(
        Code::Unsupported,
        "The guest's configuration asks for a device or function that QEMU has and Bulkhead does not (yet).",
        "docs/compat.md lists what is supported. Remove the line from xl.cfg, or leave this guest to QEMU (no device_model_override).",
    ),
    entry(
        Code::Settings,
        "/etc/bulkhead/bulkhead.toml cannot be read, has an unknown key, or can be written by users other than root.",
        "`bulkhead check-config` shows the place. The guests' own arguments are not the cause.",
    ),
    entry(
        Code::Image,
        "An image cannot be opened, is locked by another process, or does not match the configuration.",
        "The line names it. Another guest or a running qemu-img holds the lock. If a backing file has no format, set it with `qemu-img rebase -u -F FORMAT -b FILE IMAGE`.",
    ),
    entry(
        Code::Kernel,
        "The kernel or ramdisk of kernel=, ramdisk= cannot be opened, or a BIOS guest cannot start it.",
        "Use a bzImage, and enough memory= for it and its ramdisk. A stub domain has none of dom0's files: boot from a disk.",
    ),
    entry(
        Code::Network,
        "The other end of a network card cannot be opened, or the rules for its interface cannot be set.",
        "Load the kernel modules tun, sch_ingress, cls_bpf, act_gact. libxl's hotplug script must have made the interface.",
    ),
    entry(
        Code::Serial,
        "The other end of a serial port cannot be opened.",
        "Check the path in serial=. Without server=on, another program must already listen on the Unix socket.",
    ),
    entry(
        Code::Socket,
        "A socket to which libxl connects cannot be made.",
        "Check space and permissions in /var/run/xen.",
    ),
    entry(
        Code::PidFile,
        "The file of -pidfile cannot be written, or a living process holds it.",
        "Check the path that the toolstack gives; its directory must exist.",
    ),
    entry(
        Code::Firmware,
        "The VGA firmware is missing.",
        "Install the package seabios, or put the file into /usr/share/bulkhead.",
    ),
    entry(
        Code::Saved,
        "The saved machine cannot go on here: its state is damaged, of another device model or of another machine.",
        "The line says what differs. Restore it with the configuration with which it was saved.",
    ),
    entry(
        Code::User,
        "The user of device_model_user or dm_restrict does not exist, is root, or the change to it failed; or its empty root directory could not be made.",
        "Make the users xen-qemuuser-range-base and xen-qemuuser-reaper as in Xen's docs/features/qemu-deprivilege.pandoc.",
    ),
    entry(
        Code::Viewers,
        "The socket for VNC viewers cannot be made: the port is taken, or the address is not this host's.",
        "Set vncdisplay= or vncunused=1 in xl.cfg, and vnclisten= to an address of this host.",
    ),
    entry(
        Code::Sandbox,
        "The kernel cannot enforce the sandbox that the configuration asks for, or lacks a function that every process needs.",
        "Run `bulkhead doctor`. level=strict needs Linux 6.12 with Landlock; every level needs user namespaces; -cgroup PATH needs that group.",
    ),
    entry(
        Code::Start,
        "A process was not ready within 30 s, or ended before the machine ran. The line has its last message.",
        "The line names the process and the reason. If it names a device, look at that device's configuration.",
    ),
    entry(
        Code::Xen,
        "An interface of Xen could not be used: /dev/xen is missing, the domain does not exist, or Xen refused.",
        "Run `bulkhead doctor`. In a stub domain whose kernel forbids hypercalls, put xen_privcmd.unrestricted=1 on its command line.",
    ),
    entry(Code::Xenstore, "xenstore does not answer, or refuses a write.", "Check that xenstored is running."),
    entry(
        Code::Machine,
        "The machine ended after it had started: the broker, or a process that all others need, has died. The guest is reported crashed.",
        "The lines before it have the reason. A device that dies does not end the machine.",
    ),
    entry(
        Code::Late,
        "A process that was started while the machine runs stopped in its start and was killed, or a killed process does not end.",
        "The line names the process and the step. A killed process that does not end waits for the host's storage: look at the image's file system.",
    ),
    entry(
        Code::Starter,
        "The starter has ended: by the kernel's lack of memory, by somebody who killed it, or because it did not answer in 10 s. The guest goes on.",
        "Start the guest again when it suits. Until then a process that dies stays dead, and a lost connection to xenstored is not replaced; beside the host's QEMU the end of a stub domain is then not seen, and its guest waits.",
    ),
    entry(Code::Stubdom, "The stub domain could not be set up.", "See docs/operations.md, \"A stub domain\"."),
];

impl Code {
    /// The line with this number before `text`.
    pub fn line(self, text: impl std::fmt::Display) -> String {
        format!("BH-{:04}: {text}", self as u16)
    }
}

/// The table as Markdown for docs/errors.md.
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
    fn each_code_is_once_in_the_table() {
        for (i, a) in ERRORS.iter().enumerate() {
            assert!(ERRORS.iter().skip(i + 1).all(|b| a.code != b.code));
        }
    }
}
