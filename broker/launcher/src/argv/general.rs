//! Options that concern the whole machine, and those that QEMU has and nobody needs here.
use crate::groups::Choice;
use crate::machine::option::{
    ArgumentError, Arguments, Fate, Given, Group, Keys, OptionSpec, PLACE, QUBES, XENOPSD, flag, keys, number, option,
};
use crate::machine::{Incoming, Machine, Sim};
use crate::placement::Placement;
use Fate::{Ignored, Implemented, Refused};
use bulkhead_plan::Level;

pub(super) static GROUP: Group = Group { options: OPTIONS, keys: KEYS, arguments: || Box::new(General::default()) };

/// What a toolstack asks before it has a guest ([`super::Question`]).
const ASKED: &str = "always, by libvirt (which asks before it has a guest)";
const VERSION: &str = "the version on standard output, status 0; no guest is started. `--version` too";
const HELP: &str = "the version and this table on standard output, status 0; no guest is started. `--help` too";
const SOUND: Fate = Refused("sound");

const OPTIONS: &[OptionSpec] = &[
    option("xen-domid", Implemented("the guest"), "always"),
    flag("version", Implemented(VERSION), ASKED),
    flag("help", Implemented(HELP), ASKED),
    flag("h", Implemented(HELP), ASKED),
    option("name", Implemented("for logs and `bulkhead ps`"), "name"),
    option(
        "machine",
        Implemented(
            "xenfv, xenpv, pc and their versions, none; keys that concern QEMU's own machine are ignored, igd-passthru=on is refused",
        ),
        "always",
    ),
    option("M", Implemented("the same"), ""),
    option("m", Implemented("1 MiB and up"), "maxmem"),
    option("smp", Implemented("1 to 128 vCPUs; the keys of their order are ignored"), "vcpus, maxvcpus"),
    option("device xen-platform", Implemented("as with -machine xenfv"), XENOPSD),
    option("device xen-pvdevice", Refused("vendor_device"), "vendor_device"),
    flag("S", Implemented("the machine waits for `cont` and says `prelaunch`"), "dm_restrict"),
    option(
        "incoming",
        Implemented(
            "fd:N: the saved machine goes on here, at `cont`; in a stub domain the word that libxl has for its console",
        ),
        "xl restore, migration",
    ),
    flag(
        "xen-attach",
        Implemented(
            "the domain's PV back ends are served; if it has one of a kind that is not, all are given to the host's QEMU",
        ),
        "a guest that is not HVM, a stub domain",
    ),
    option(
        "pv-others",
        Implemented(
            "who serves a domain with a PV device of a kind that is not served here: qemu (all of it the host's QEMU, if there is one), or leave (nobody serves that device); not QEMU's",
        ),
        "",
    ),
    flag(
        "xen-domid-restrict",
        Implemented("always so: every descriptor of Xen's is restricted to the guest before anything runs"),
        "dm_restrict",
    ),
    option("chroot", Implemented("as pivot_root, into an empty directory"), "dm_restrict"),
    option("run-with", Implemented("user= as -runas, chroot= as -chroot"), "dm_restrict, Xen 4.20 and later"),
    option(
        "runas",
        Implemented("NAME or UID:GID, for the launcher and all processes"),
        "dm_restrict, device_model_user",
    ),
    option(
        "sandbox",
        Implemented("level=strict or level=kernel; QEMU's on,… and off change nothing: there is always a sandbox"),
        XENOPSD,
    ),
    option(
        "placement",
        Implemented(
            "CPUs of the threads that carry out register accesses: together (on one at a time), free (wherever the scheduler puts each), or a list like 0-3,6 (together on one of these); not QEMU's",
        ),
        "",
    ),
    option(
        "cgroup",
        Implemented(
            "control groups of the processes in dom0: auto (where the host lets them be made), none, or the directory of a group in which the guest's are made; not QEMU's",
        ),
        "",
    ),
    option("substitutes", Implemented("allow, or refuse: what would be substituted is an error; not QEMU's"), ""),
    option("pidfile", Implemented("the launcher's number, in a file that is locked while it lives"), XENOPSD),
    option("sim", Implemented("the simulated machine, for tests"), ""),
    option("parallel none", Implemented("no port"), ""),
    option("parallel null", Implemented("no port"), XENOPSD),
    option("parallel /dev/null", Implemented("no port"), "dom0's own back ends"),
    option("parallel", Refused("parallel ports"), ""),
    flag("no-shutdown", Ignored("the launcher stays until libxl ends it"), "always"),
    flag("nodefaults", Ignored("there are no defaults"), "always"),
    flag("no-user-config", Ignored("no QEMU configuration is read"), "always"),
    option("monitor", Ignored("there is no human monitor"), ""),
    option("accel", Ignored("Xen is the accelerator"), ""),
    flag("enable-kvm", Ignored("Xen is the accelerator"), ""),
    option("cpu", Ignored("Xen has the processors"), ""),
    option("uuid", Ignored("hvmloader tells the guest"), ""),
    option("smbios", Ignored("hvmloader makes the SMBIOS tables"), ""),
    flag("acpi", Ignored("hvmloader makes the ACPI tables"), XENOPSD),
    flag("no-acpi", Ignored("hvmloader makes the ACPI tables"), "acpi=0"),
    option("rtc", Ignored("Xen has the clock (localtime= and rtc_timeoffset= in xl.cfg)"), ""),
    flag("localtime", Ignored("Xen has the clock (localtime= in xl.cfg)"), ""),
    flag("no-hpet", Ignored("Xen has the timers"), ""),
    flag("no-reboot", Ignored("the toolstack decides what follows on a reset"), ""),
    option("action", Ignored("the toolstack decides what follows"), ""),
    option("overcommit", Ignored("Xen has the guest's memory"), ""),
    option("set", Ignored("properties of QEMU's devices"), ""),
    option(
        "trace",
        Ignored("messages of the guest's drivers through the xen-platform device are always in the log"),
        XENOPSD,
    ),
    option("msg", Ignored("the log has one format"), ""),
    option("d", Ignored("QEMU's debugging output"), ""),
    option("D", Ignored("the log is standard error"), ""),
    flag("syslog", Ignored("the log is standard error"), XENOPSD),
    option("L", Ignored("firmware is where the host's packages have it"), ""),
    flag("priv", Ignored("no process has privileges"), XENOPSD),
    flag("trad-compat", Ignored("places and revisions of devices are fixed"), XENOPSD),
    flag("qubes-audio:…", Ignored("sound"), QUBES),
    flag("daemonize", Refused("going into the background: libxl and its like wait for the process itself"), ""),
    option("loadvm", Refused("restoring a saved guest by a path"), "xenopsd: resume, migration"),
    option("spice", Refused("SPICE"), "spice"),
    option("device virtio-serial", Refused("SPICE's agent"), "spicevdagent"),
    option("device virtserialport", Refused("SPICE's agent"), "spicevdagent"),
    option("soundhw", SOUND, "soundhw"),
    option("device intel-hda", SOUND, "soundhw"),
    option("device hda-duplex", SOUND, "soundhw"),
    option("device ac97", SOUND, "soundhw"),
    option("device es1370", SOUND, "soundhw"),
    option("device sb16", SOUND, "soundhw"),
    option("device gus", SOUND, "soundhw"),
    option("device adlib", SOUND, "soundhw"),
    option("device cs4231a", SOUND, "soundhw"),
    option("device pcspk", SOUND, "soundhw"),
];

const KEYS: &[Keys] = &[
    keys("m", &["size"], &["maxmem", "slots"]),
    keys("smp", &["cpus", "maxcpus"], &["sockets", "dies", "clusters", "modules", "cores", "threads"]),
    keys("machine", &["type", "accel", "igd-passthru"], MACHINE),
    keys("M", &["type", "accel", "igd-passthru"], MACHINE),
    keys("run-with", &["user", "chroot"], &[]),
    keys("sandbox", &["level", "enable"], &["obsolete", "elevateprivileges", "spawn", "resourcecontrol"]),
    keys("device xen-platform", &["driver"], PLACE),
];

/// Keys of `-machine` that concern QEMU's own machine and how it is run.
const MACHINE: &[&str] = &[
    "suppress-vmdesc",
    "max-ram-below-4g",
    "allow-unassigned",
    "trad_compat",
    "usb",
    "vmport",
    "hpet",
    "acpi",
    "smm",
    "graphics",
    "kernel_irqchip",
    "kernel-irqchip",
    "dump-guest-core",
    "mem-merge",
];

#[derive(Default)]
struct General {
    /// There is a `-device xen-platform`, whatever the machine type says.
    xen_platform: bool,
}

impl Arguments for General {
    fn take(&mut self, given: &mut Given, machine: &mut Machine) -> Result<(), ArgumentError> {
        let bad = |why: &str| given.bad(why);
        let (value, options) = (given.value.as_str(), &given.options);
        match given.name.as_str() {
            "xen-domid" => {
                machine.domid = Some(number(value).filter(|d| *d < 0x7ff0).ok_or(bad("not a domain's number"))?)
            }
            // A name without a key may have any form.
            "name" => machine.name = options.head("guest").unwrap_or(value).to_owned(),
            "S" => machine.stopped = true,
            // In another device model's stub domain a shell puts a device in its place.
            "incoming" if value == "$STUBDOM_RESTORE_INCOMING_ARG" => machine.incoming = Some(Incoming::Console),
            "incoming" => {
                let number = value.strip_prefix("fd:").and_then(number).map(Incoming::Fd);
                machine.incoming = Some(number.ok_or(bad("fd:N, a descriptor that the toolstack has opened"))?);
            }
            "xen-attach" => machine.attach = true,
            "machine" | "M" => {
                if options.flag("igd-passthru", false) != Some(false) {
                    return Err(given.refused("igd-passthru"));
                }
                match options.head("type") {
                    Some(kind) if is_kind(kind, "xenfv") => machine.xen_platform = true,
                    // Its xen-platform device, if it has one, is a -device.
                    Some(kind) if is_kind(kind, "pc") => machine.xen_platform = false,
                    Some("none") => machine.probe = true,
                    Some("xenpv") => machine.attach = true,
                    _ => return Err(bad("xenfv, xenpv, pc or none, or a version of xenfv or pc")),
                }
            }
            "device" => self.xen_platform = true,
            "m" => {
                let mib = mebibytes(options.head("size").unwrap_or(""));
                machine.memory_mib = mib.filter(|m| (1..=1 << 24).contains(m)).ok_or(bad("not a number of MiB"))?;
            }
            "smp" => {
                let max: Option<u16> = options.get("maxcpus").map_or(options.head("cpus"), Some).and_then(number);
                // Without a number of its own, all that there may be.
                let now = options.head("cpus").map_or(max, number);
                let max = now.and(max).filter(|n| (1..=bulkhead_wire::MAX_VCPUS as u16).contains(n));
                machine.vcpus = max.ok_or(bad("1 to 128 vCPUs"))?;
                machine.online =
                    now.filter(|n| (1..=machine.vcpus).contains(n)).ok_or(bad("more vCPUs than maxcpus"))?;
            }
            // attach.rs reads it before the others.
            "pv-others" if matches!(value, "qemu" | "leave") => {}
            "pv-others" => return Err(bad("qemu or leave")),
            "placement" => machine.placement = Placement::try_from(value).map_err(bad)?,
            "cgroup" => machine.cgroup = Choice::try_from(value).map_err(bad)?,
            "substitutes" => {
                machine.substitutes = match value {
                    "allow" => true,
                    "refuse" => false,
                    _ => return Err(bad("allow or refuse")),
                };
            }
            "runas" => machine.user = Some(value.to_owned()),
            "chroot" => machine.chroot = Some(value.to_owned()),
            "run-with" => {
                machine.user = options.get("user").map(str::to_owned).or(machine.user.take());
                machine.chroot = options.get("chroot").map(str::to_owned).or(machine.chroot.take());
            }
            "pidfile" => machine.pid_file = Some(value.to_owned()),
            "sandbox" => match options.get("level") {
                Some("strict") => machine.level = Some(Level::Strict),
                Some("kernel") => machine.level = Some(Level::Kernel),
                // QEMU's: there is a sandbox in any case, and its level is not these words'.
                None if matches!(options.head("enable"), Some("on" | "off")) => {
                    let note =
                        format!("{}: ignored: the sandbox is always on; level= says how much it enforces", given.shown);
                    given.notes.push(note);
                }
                _ => return Err(bad("level=strict or level=kernel, or QEMU's on,…")),
            },
            "sim" => {
                machine.sim = Some(Sim::parse(options).ok_or(bad("ioreq=FD,kick=FD,trace=FD,memory=FD,thread=TID"))?);
            }
            // No parallel port, no access beyond the guest; a question is answered before this is read.
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, machine: &mut Machine) -> Result<Vec<String>, ArgumentError> {
        machine.xen_platform |= self.xen_platform;
        // xl calls a guest so until it runs here (migrate_receive of tools/xl/xl_migrate.c).
        if machine.incoming.is_some()
            && let Some(name) = machine.name.strip_suffix("--incoming").filter(|name| !name.is_empty())
        {
            machine.name = name.to_owned();
        }
        Ok(Vec::new())
    }
}

/// A size as QEMU writes it: a number of MiB, or one with a unit.
fn mebibytes(text: &str) -> Option<u64> {
    let (digits, factor) = match text.strip_suffix(|c: char| c.is_ascii_alphabetic()) {
        None => (text, 1),
        Some(digits) => match text.chars().next_back()?.to_ascii_uppercase() {
            'M' => (digits, 1),
            'G' => (digits, 1 << 10),
            'T' => (digits, 1 << 20),
            _ => return None,
        },
    };
    number::<u64>(digits)?.checked_mul(factor)
}

/// Whether a machine type is this one, or a version of it: `pc-0.10`, `pc-i440fx-8.2`, `xenfv-4.2`.
fn is_kind(text: &str, kind: &str) -> bool {
    let version = |v: &str| v.starts_with(|c: char| c.is_ascii_digit());
    match text.strip_prefix(kind) {
        Some("") => true,
        Some(rest) => rest.strip_prefix("-i440fx").unwrap_or(rest).strip_prefix('-').is_some_and(version),
        None => false,
    }
}
