//! What can be said to `bulkhead`; help, completions and man pages are made from it.
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Looks into the device models of guests and changes them.
///
/// GUEST is a domain's number or name, or the path of a QMP socket; guests in stub domains are no different.
///
/// Exit status: 0 done; 1 the guest's device model said no, or something failed; 2 wrong usage; 3 there is no such guest, or its
/// device model does not answer; 4 `doctor` or `check-config` found something wrong, or `compat` something that is refused.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version = crate::VERSION.as_str(), propagate_version = true, max_term_width = 100)]
pub(crate) struct Arguments {
    /// JSON, for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The processes of all guests in this domain, from /proc; of one guest as its launcher sees them
    Ps {
        /// Only this one, also in a stub domain
        guest: Option<String>,
    },
    /// What each process of a guest does, every second
    Top {
        guest: String,
        /// Seconds between two looks
        #[arg(long, default_value_t = 1)]
        seconds: u64,
        /// Looks, then it ends; without it, it goes on
        #[arg(long)]
        count: Option<u64>,
    },
    /// Every register and counter of a device
    Inspect {
        guest: String,
        /// As `ps` names it; or `broker`
        device: String,
    },
    /// The last lines of a guest's processes
    Logs {
        guest: String,
        /// Goes on with what comes
        #[arg(short, long)]
        follow: bool,
    },
    /// What has happened to a guest's devices, and what happens, until it is gone
    Events { guest: String },
    /// The guest's display as a PNG
    Screenshot {
        guest: String,
        /// It must not exist
        file: PathBuf,
    },
    /// Types a text at the guest's keyboard (of the United States)
    Type { guest: String, text: String },
    /// Presses keys together: `bulkhead key GUEST ctrl alt delete` (QEMU's names)
    Key {
        guest: String,
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Kills a device's process; it is started again with its state
    Restart { guest: String, device: String },
    /// Network cards
    #[command(subcommand)]
    Net(Net),
    /// Records what a device does
    #[command(subcommand)]
    Trace(Trace),
    /// Counters of all processes of a guest, in Prometheus' text format
    Metrics { guest: String },
    /// One QMP command; prints the answer
    Qmp { guest: String, command: String },
    /// What becomes of the arguments that libxl gives a device model
    Compat {
        /// As in the guest's log or `xl -vvv create`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        arguments: Vec<String>,
    },
    /// Whether the settings file can be used; what it says, as arguments
    CheckConfig {
        #[arg(default_value = bulkhead_launcher::settings::FILE)]
        file: PathBuf,
    },
    /// Whether this host has what guests need, and what to do if not
    Doctor,
    /// Completions for a shell, on standard output
    Completions { shell: Shell },
    /// Man pages, into a directory
    Man { directory: PathBuf },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Net {
    /// Every card: its link, its filter, what was dropped by which rule and where
    Show { guest: String },
    /// Changes a card: link=up|down, level=off|guard|addresses, ip=ADDRESS (several), rate=FRAMES-A-SECOND, burst=FRAMES
    Set {
        guest: String,
        device: String,
        #[arg(required = true)]
        settings: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Trace {
    /// A card's frames as pcap, until interrupted
    Net(TraceTo),
    /// The guest's accesses of a device, as lines that `bulkhead-qtest` can make again, until interrupted
    Registers {
        #[command(flatten)]
        to: TraceTo,
        /// Only lines that contain this: `outb 0x1f7`
        #[arg(long)]
        only: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TraceTo {
    pub(crate) guest: String,
    pub(crate) device: String,
    /// It must not exist
    pub(crate) file: PathBuf,
    /// Ends after so many
    pub(crate) seconds: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}
