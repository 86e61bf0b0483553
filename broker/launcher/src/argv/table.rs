//! What becomes of each option.

/// What becomes of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is obeyed; how far.
    Implemented(&'static str),
    /// It has no meaning here; it is logged.
    Ignored(&'static str),
    /// Something else takes its place; it is logged.
    Substituted(&'static str),
    /// An error; what is missing.
    Refused(&'static str),
}

impl Fate {
    /// In a word, and why or how far.
    pub fn words(&self) -> (&'static str, &'static str) {
        match self {
            Self::Implemented(text) => ("implemented", text),
            Self::Ignored(text) => ("ignored", text),
            Self::Substituted(text) => ("substituted", text),
            Self::Refused(text) => ("refused", text),
        }
    }
}

/// An option of the table.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// Without dash; a second word narrows it down: `device VGA`.
    pub name: &'static str,
    /// A value follows.
    pub value: bool,
    /// What becomes of it.
    pub fate: Fate,
    /// What in a guest's xl.cfg makes libxl emit it; empty: nothing, an operator adds it by device_model_args.
    pub cause: &'static str,
}

const fn flag(name: &'static str, fate: Fate, cause: &'static str) -> OptionSpec {
    OptionSpec { name, value: false, fate, cause }
}

const fn option(name: &'static str, fate: Fate, cause: &'static str) -> OptionSpec {
    OptionSpec { name, value: true, fate, cause }
}

use Fate::{Ignored, Implemented, Refused, Substituted};

/// Network cards of a guest: what libxl can number, and slots of the bus that are free.
pub(super) const MAX_NICS: usize = 8;
/// Ports of the USB controller.
pub(super) const USB_PORTS: usize = 2;

/// What a toolstack that is not libxl always gives.
const XENOPSD: &str = "always, by xenopsd (XenServer, XCP-ng)";
const XENOPSD_LOGS: &str = "xenopsd, where the host logs consoles";
const QUBES: &str = "always, by Qubes OS";
/// What a toolstack asks before it has a guest ([`super::Question`]).
const ASKED: &str = "always, by libvirt (which asks before it has a guest)";
const VERSION: &str = "the version on standard output, status 0; no guest is started. `--version` too";
const HELP: &str = "the version and this table on standard output, status 0; no guest is started. `--help` too";
const SOUND: Fate = Refused("sound");
const USB: Fate = Refused("USB 2 and 3 (usbversion=1 is there)");
const USB_REDIRECTION: Fate = Refused("USB devices of other machines");

/// Every option that libxl emits (4.17 to 4.22, libxl_dm.c: libxl__build_device_model_args_new), and those that operators add.
pub const OPTIONS: &[OptionSpec] = &[
    option("xen-domid", Implemented("the guest"), "always"),
    flag("version", Implemented(VERSION), ASKED),
    flag("help", Implemented(HELP), ASKED),
    flag("h", Implemented(HELP), ASKED),
    flag("no-shutdown", Ignored("the launcher stays until libxl ends it"), "always"),
    option("chardev socket", Implemented("path= or fd=, server=on,wait=off; for QMP, or a channel"), "always, channel"),
    option("chardev pty", Implemented("a channel; where it goes is read from its nodes in xenstore"), "channel"),
    option("chardev file", Implemented("path=, append=; for a serial port"), XENOPSD_LOGS),
    option("chardev null", Implemented("for a serial port"), ""),
    option("chardev", Refused("a character device of this kind"), ""),
    option("mon", Implemented("mode=control"), "always"),
    flag("nodefaults", Ignored("there are no defaults"), "always"),
    flag("no-user-config", Ignored("no QEMU configuration is read"), "always"),
    option("name", Implemented("for logs and `bulkhead ps`"), "name"),
    flag("S", Implemented("the machine waits for `cont` and says `prelaunch`"), "dm_restrict"),
    option(
        "vnc",
        Implemented("HOST:DISPLAY[,to=N][,password=on], unix:PATH, none; a VNC server for the guest's display"),
        "vnc",
    ),
    option("display", Ignored("no window is opened"), "always"),
    option("display sdl", Refused("a window in dom0"), "sdl"),
    flag("nographic", Ignored("no window is opened"), "nographic"),
    option(
        "k",
        Implemented(
            "en-us, en-gb, de, fr, es, it, sv: for VNC viewers that tell characters and no keys; with another name it is as without",
        ),
        "keymap",
    ),
    option(
        "serial",
        Implemented("pty, file:PATH, null, none, /dev/…, unix:PATH[,server=on,wait=off], chardev:ID"),
        "serial",
    ),
    option("monitor", Ignored("there is no human monitor"), ""),
    option("qmp", Implemented("unix:PATH,server=on,wait=off, or server,nowait: one more QMP server"), XENOPSD),
    option("qmp-pretty", Implemented("the same"), ""),
    option("pidfile", Implemented("the launcher's number, in a file that is locked while it lives"), XENOPSD),
    option("parallel none", Implemented("no port"), ""),
    option("parallel null", Implemented("no port"), XENOPSD),
    option("parallel /dev/null", Implemented("no port"), "dom0's own back ends"),
    option("parallel", Refused("parallel ports"), ""),
    option(
        "boot",
        Implemented(
            "order, once (for the machine's life, which ends when the guest restarts), menu, splash-time, reboot-timeout; without an order it is disk, floppy, CD; the keys splash and strict are ignored",
        ),
        "boot",
    ),
    option("m", Implemented("1 MiB and up"), "maxmem"),
    option("smp", Implemented("1 to 128 vCPUs; the keys of their order are ignored"), "vcpus, maxvcpus"),
    option(
        "machine",
        Implemented(
            "xenfv, xenpv, pc and their versions, none; keys that concern QEMU's own machine are ignored, igd-passthru=on is refused",
        ),
        "always",
    ),
    option("M", Implemented("the same"), ""),
    option("accel", Ignored("Xen is the accelerator"), ""),
    flag("enable-kvm", Ignored("Xen is the accelerator"), ""),
    option("cpu", Ignored("Xen has the processors"), ""),
    option("uuid", Ignored("hvmloader tells the guest"), ""),
    option("smbios", Ignored("hvmloader makes the SMBIOS tables"), ""),
    option("rtc", Ignored("Xen has the clock (localtime= and rtc_timeoffset= in xl.cfg)"), ""),
    flag("localtime", Ignored("Xen has the clock (localtime= in xl.cfg)"), ""),
    flag("no-fd-bootchk", Implemented("the firmware does not look for a floppy disk's signature"), ""),
    flag("no-hpet", Ignored("Xen has the timers"), ""),
    flag("no-reboot", Ignored("the toolstack decides what follows on a reset"), ""),
    option("action", Ignored("the toolstack decides what follows"), ""),
    option("overcommit", Ignored("Xen has the guest's memory"), ""),
    option(
        "global",
        Implemented(
            "ide-hd.KEY=VALUE with the keys of -device ide-hd, for all disks; other devices' revisions and subsystem numbers are as without",
        ),
        XENOPSD,
    ),
    option("set", Ignored("properties of QEMU's devices"), ""),
    option(
        "trace",
        Ignored("messages of the guest's drivers through the xen-platform device are always in the log"),
        XENOPSD,
    ),
    option("msg", Ignored("the log has one format"), ""),
    option("d", Ignored("QEMU's debugging output"), ""),
    option("D", Ignored("the log is standard error"), ""),
    option("L", Ignored("firmware is where the host's packages have it"), ""),
    flag("daemonize", Refused("going into the background: libxl and its like wait for the process itself"), ""),
    flag("priv", Ignored("no process has privileges"), XENOPSD),
    flag("trad-compat", Ignored("places and revisions of devices are fixed"), XENOPSD),
    flag("acpi", Ignored("hvmloader makes the ACPI tables"), XENOPSD),
    flag("syslog", Ignored("the log is standard error"), XENOPSD),
    option("videoram", Ignored("the standard VGA has 16 MiB"), XENOPSD),
    flag("std-vga", Implemented("as -device VGA"), XENOPSD),
    option("vnc-clipboard-socket-fd", Ignored("viewers' clipboards are not passed on"), XENOPSD),
    option("vga none", Implemented("no display"), "a guest that is not HVM"),
    option("vga std", Implemented("as -device VGA"), ""),
    option("vga cirrus", Substituted("the standard VGA takes its place"), ""),
    option("vga", Refused("this display"), ""),
    option("nic none", Implemented("no card"), ""),
    option("nic", Refused("network cards by -nic"), ""),
    option("net none", Implemented("no card"), "no emulated vif"),
    option("net", Refused("network cards by -net"), ""),
    option("netdev tap", Implemented("ifname or fd; in a stub domain the interface with the card's address"), "vif"),
    option("netdev stream", Implemented("server=off,addr.type=unix"), ""),
    option("netdev", Refused("network cards on anything but a tap or a stream"), ""),
    option(
        "nic-rules",
        Implemented("[id=nicN,]level=off|guard|addresses[,ip=A…][,rate=N[,burst=N]][,link=off]; not QEMU's"),
        "",
    ),
    option("nic-lease", Implemented("id=nicN,ip=A/BITS[,gateway=A][,dns=A]; not QEMU's"), ""),
    option("drive", Implemented("if=ide or none, format=raw, host_device or qcow2, cache=writeback"), "disk"),
    option("device VGA", Implemented("vgamem_mb 1 to 256, rounded up to a power of two"), "vga=\"stdvga\""),
    option("device cirrus-vga", Substituted("the standard VGA takes its place"), "vga=\"cirrus\", the default"),
    option("device ide-cd", Implemented("on bus ide.0 or ide.1"), "disk, devtype=cdrom"),
    option("device e1000", Implemented("the 82540EM"), "vif, model=e1000"),
    option("device rtl8139", Implemented("the RTL8139C+"), "vif, the default model"),
    option("device qxl-vga", Refused("the QXL display"), "vga=\"qxl\""),
    option("device lsi53c895a", Refused("SCSI disks (sd*)"), "disk sd*"),
    option("device scsi-hd", Refused("SCSI disks (sd*)"), "disk sd*"),
    option("device ahci", Refused("AHCI (hdtype=\"ahci\")"), "hdtype=\"ahci\""),
    option(
        "device ide-hd",
        Implemented("on bus ide.0 or ide.1; serial, ver, model, cyls with heads and secs, bios-chs-trans"),
        XENOPSD,
    ),
    option("device xen-platform", Implemented("as with -machine xenfv"), XENOPSD),
    option("device piix3-usb-uhci", Implemented("two ports"), "usbversion=1"),
    option("device ich9-usb-ehci1", USB, "usbversion=2"),
    option("device ich9-usb-uhci1", USB, "usbversion=2"),
    option("device ich9-usb-uhci2", USB, "usbversion=2"),
    option("device ich9-usb-uhci3", USB, "usbversion=2"),
    option("device nec-usb-xhci", USB, "usbversion=3"),
    option("device usb-ehci", Substituted("the PIIX3's UHCI controller takes its place"), QUBES),
    option("device usb-tablet", Implemented("with a controller"), ""),
    option("device usb-mouse", Implemented("with a controller"), ""),
    option("device usb-kbd", Implemented("with a controller"), ""),
    option("device usb-redir", USB_REDIRECTION, "spiceusbredirection"),
    option("device xen-pvdevice", Refused("vendor_device"), "vendor_device"),
    option("device intel-hda", SOUND, "soundhw"),
    option("device hda-duplex", SOUND, "soundhw"),
    option("device ac97", SOUND, "soundhw"),
    option("device es1370", SOUND, "soundhw"),
    option("device sb16", SOUND, "soundhw"),
    option("device gus", SOUND, "soundhw"),
    option("device adlib", SOUND, "soundhw"),
    option("device cs4231a", SOUND, "soundhw"),
    option("device pcspk", SOUND, "soundhw"),
    option("device virtio-serial", Refused("SPICE's agent"), "spicevdagent"),
    option("device virtserialport", Refused("SPICE's agent"), "spicevdagent"),
    option("soundhw", SOUND, "soundhw"),
    flag("usb", Implemented("the PIIX3's UHCI controller, two ports"), "usb"),
    option("usbdevice", Implemented("tablet, mouse, keyboard; others are refused, and more than two"), "usbdevice"),
    option("spice", Refused("SPICE"), "spice"),
    option("kernel", Implemented("a Linux bzImage; in a stub domain a file of that domain"), "kernel"),
    option("initrd", Implemented("with -kernel"), "ramdisk"),
    option("append", Implemented("with -kernel; alone it is ignored, as some toolstacks always give it"), "cmdline"),
    flag("qubes-net:…", Ignored("addresses for the stub domain's own DHCP server (-nic-lease is the one here)"), QUBES),
    flag("qubes-audio:…", Ignored("sound"), QUBES),
    option("incoming", Refused("restoring a saved guest"), "xl restore, migration"),
    option("loadvm", Refused("restoring a saved guest"), "xenopsd: resume, migration"),
    flag("no-acpi", Ignored("hvmloader makes the ACPI tables"), "acpi=0"),
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
    flag(
        "xen-attach",
        Implemented(
            "the domain's PV back ends are served; if it has one of a kind that is not, all are given to the host's QEMU",
        ),
        "a guest that is not HVM, a stub domain",
    ),
    option(
        "sandbox",
        Implemented("level=strict or level=kernel; QEMU's on,… and off change nothing: there is always a sandbox"),
        XENOPSD,
    ),
    option(
        "image-backing",
        Implemented(
            "files that an image may be based on: any, directory (of the guest's image, or below), none; not QEMU's",
        ),
        "",
    ),
    option(
        "pv-others",
        Implemented(
            "who serves a domain with a PV device of a kind that is not served here: qemu (all of it the host's QEMU, if there is one), or leave (nobody serves that device); not QEMU's",
        ),
        "",
    ),
    option(
        "image-full",
        Implemented(
            "a write that the host has no room for: report it to the guest, or stop (it waits until there is room); not QEMU's",
        ),
        "",
    ),
    option(
        "placement",
        Implemented(
            "CPUs of the threads that carry out register accesses: together (on one at a time), free (wherever the scheduler puts each), or a list like 0-3,6 (together on one of these); not QEMU's",
        ),
        "",
    ),
    option("substitutes", Implemented("allow, or refuse: what would be substituted is an error; not QEMU's"), ""),
    option("sim", Implemented("the simulated machine, for tests"), ""),
];

/// Keys of the options that are implemented: option, keys that are obeyed, keys that are logged and ignored. Any other key
/// is an error, because it asks for something that would silently not be there.
pub(super) const KEYS: &[(&str, &[&str], &[&str])] = &[
    ("chardev socket", &["backend", "id", "path", "fd", "server", "wait"], &[]),
    ("chardev pty", &["backend", "id"], &[]),
    ("chardev file", &["backend", "id", "path", "append"], &[]),
    ("chardev null", &["backend", "id"], &[]),
    ("mon", &["chardev", "mode"], &[]),
    // The firmware shows no picture, and strict concerns QEMU's own parser.
    ("boot", &["order", "once", "menu", "splash-time", "reboot-timeout"], &["splash", "strict"]),
    ("m", &["size"], &["maxmem", "slots"]),
    ("smp", &["cpus", "maxcpus"], &["sockets", "dies", "clusters", "modules", "cores", "threads"]),
    ("machine", &["type", "accel", "igd-passthru"], MACHINE),
    ("M", &["type", "accel", "igd-passthru"], MACHINE),
    (
        "drive",
        &["file", "if", "index", "media", "format", "readonly", "read-only", "id", "cache"],
        // What a guest gives back is given back anyway; nothing is ever opened again in another way.
        &["auto-read-only", "discard", "detect-zeroes"],
    ),
    // The bridge is what the hotplug script puts it into; it, not this program, brings the interface up.
    ("netdev tap", &["type", "id", "ifname", "fd"], &["br", "script", "downscript", "vhost", "sndbuf", "vnet_hdr"]),
    ("netdev stream", &["type", "id", "server", "addr.type", "addr.path"], &[]),
    ("device e1000", &["driver", "id", "netdev", "mac"], PLACE),
    ("device rtl8139", &["driver", "id", "netdev", "mac"], PLACE),
    ("run-with", &["user", "chroot"], &[]),
    ("sandbox", &["level", "enable"], &["obsolete", "elevateprivileges", "spawn", "resourcecontrol"]),
    ("device VGA", &["driver", "vgamem_mb"], PLACE),
    ("device cirrus-vga", &["driver", "vgamem_mb"], PLACE),
    ("device ide-cd", &["driver", "id", "drive", "bus", "unit"], DISK),
    (
        "device ide-hd",
        &["driver", "id", "drive", "bus", "unit", "serial", "ver", "model", "cyls", "heads", "secs", "bios-chs-trans"],
        &["bootindex"],
    ),
    ("device xen-platform", &["driver"], PLACE),
];

/// Where a device is on the bus and what it calls itself are as without these keys.
const PLACE: &[&str] = &[
    "id",
    "addr",
    "bus",
    "bootindex",
    "romfile",
    "rombar",
    "multifunction",
    "device-id",
    "vendor-id",
    "class-id",
    "revision",
    "subvendor_id",
    "subsystem_id",
    "qemu-extended-regs",
];
/// The translation that a BIOS makes, and what a disk calls itself.
const DISK: &[&str] = &["bios-chs-trans", "bootindex", "ver"];
/// What concerns QEMU's own machine and how it is run.
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

/// Finds the entry of an option, the narrower one first.
pub fn lookup(name: &str, value: Option<&str>) -> Option<&'static OptionSpec> {
    // Options whose value is behind a colon: those that Qubes OS leaves for the stub domain's own scripts.
    if let Some((prefix, _)) = name.split_once(':') {
        return OPTIONS.iter().find(|o| !o.value && o.name.strip_suffix(":…") == Some(prefix));
    }
    let first = value.and_then(|v| v.split(',').next()).unwrap_or("");
    let narrow = format!(
        "{name} {}",
        ["driver=", "type=", "backend="].iter().find_map(|k| first.strip_prefix(k)).unwrap_or(first)
    );
    OPTIONS.iter().find(|o| o.name == narrow).or_else(|| OPTIONS.iter().find(|o| o.name == name))
}

/// What becomes of one word of an argument vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The option, with its value.
    pub shown: String,
    /// Its fate in a word, and why or how far; an option that is in no table is `unknown`.
    pub fate: (&'static str, &'static str),
}

/// What becomes of every option of an argument vector, without looking at what their values mean.
pub fn verdicts(arguments: &[String]) -> Vec<Verdict> {
    let mut all = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let name = argument.trim_start_matches('-');
        let named = OPTIONS.iter().find(|o| o.name.split(' ').next() == Some(name));
        let value = if named.is_some_and(|o| o.value) { arguments.next() } else { None };
        let shown = value.map_or(argument.clone(), |v| format!("{argument} {v}"));
        let fate = match lookup(name, value.map(String::as_str)) {
            Some(spec) => spec.fate.words(),
            None if named.is_some() => ("refused", "no such device here"),
            None => ("unknown", "no such option here"),
        };
        all.push(Verdict { shown, fate });
    }
    all
}

/// The table, for docs/compat.md.
pub fn markdown() -> String {
    let mut out = String::from("| option | what becomes of it | what makes libxl emit it |\n|---|---|---|\n");
    let plain = |text: &str| text.replace('|', "\\|");
    for spec in OPTIONS {
        let (fate, why) = spec.fate.words();
        let value = if spec.value && !spec.name.contains(' ') { " …" } else { "" };
        out.push_str(&format!(
            "| `-{}{value}` | **{fate}**: {} | {} |\n",
            spec.name,
            plain(why),
            if spec.cause.is_empty() { "device_model_args" } else { spec.cause }
        ));
    }
    out
}
