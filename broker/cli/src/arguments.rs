//! The command line of `bulkhead`, the source of its help, completions and man pages.
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Inspects and controls the device models of guests.
///
/// GUEST is a domain's number or name, or the path of a QMP socket; a device model in a stub domain is addressed in the same way.
///
/// Exit status: 0 done; 1 the guest's device model refused the command, or the command failed; 2 wrong usage; 3 there is no such
/// guest, or its device model does not answer; 4 `doctor` or `check-config` found a fault, `check-migrate` an obstacle, or `compat` a refused argument.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version = crate::VERSION.as_str(), propagate_version = true, max_term_width = 100)]
pub(crate) struct Arguments {
    /// Prints JSON, for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Compares the processes of guests with their sandbox profiles and control groups; exit status 4 if one is weaker
    Audit {
        /// Only the guest with this name or number; its device model may be in a stub domain
        guest: Option<String>,
        /// Compares the contents of the system call filters too. Each thread is stopped for some microseconds; only root without a
        /// filter of its own can do it
        #[arg(long)]
        filters: bool,
    },
    /// Lists the processes of all guests in this domain, from /proc; of one guest, from its launcher
    Ps {
        /// Lists only this guest, whose device model may be in a stub domain
        guest: Option<String>,
    },
    /// Shows the rates of each process of a guest, every second
    Top {
        guest: String,
        /// Seconds between two readings
        #[arg(long, default_value_t = 1)]
        seconds: u64,
        /// Number of tables to print; without it, until interrupted
        #[arg(long)]
        count: Option<u64>,
    },
    /// Prints every register and counter of a device
    Inspect {
        guest: String,
        /// The device's name in the output of `ps`, or `broker`
        device: String,
    },
    /// Prints the last log lines of a guest's processes
    Logs {
        guest: String,
        /// Prints new lines as they are logged
        #[arg(short, long)]
        follow: bool,
    },
    /// Prints the past events of a guest's devices and new ones, until the guest ends
    Events { guest: String },
    /// Writes the guest's display to a PNG file
    Screenshot {
        guest: String,
        /// The new file; it must not exist
        file: PathBuf,
    },
    /// Types a text on the guest's keyboard (US layout)
    Type { guest: String, text: String },
    /// Presses keys together: `bulkhead key GUEST ctrl alt delete` (QEMU's names)
    Key {
        guest: String,
        #[arg(required = true)]
        keys: Vec<String>,
    },
    /// Says whether the guest can be saved and moved to another host now, why not, and the sizes of its state; exit status 4 if it
    /// cannot be moved
    CheckMigrate { guest: String },
    /// Kills a device's process; it is started again with its state
    Restart { guest: String, device: String },
    /// Shows and changes network cards
    #[command(subcommand)]
    Net(Net),
    /// Records a device's frames or register accesses
    #[command(subcommand)]
    Trace(Trace),
    /// Prints the counters of all processes of a guest, in Prometheus' text format
    Metrics { guest: String },
    /// Sends one QMP command and prints the answer
    Qmp { guest: String, command: String },
    /// Explains how the arguments that libxl passes to a device model are handled
    Compat {
        /// The arguments, as in the guest's log or the output of `xl -vvv create`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        arguments: Vec<String>,
    },
    /// Checks the settings file and prints its settings as arguments
    CheckConfig {
        #[arg(default_value = bulkhead_launcher::settings::FILE)]
        file: PathBuf,
    },
    /// Checks that this host meets the requirements of guests, and prints a remedy for each fault
    Doctor,
    /// Prints completions for a shell
    Completions { shell: Shell },
    /// Writes man pages into a directory
    Man { directory: PathBuf },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Net {
    /// Prints every card: its link, its filter, and the frames dropped by each rule in the process and on the interface
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
    /// Records a card's frames as pcap, until interrupted
    Net(TraceTo),
    /// Records the guest's accesses to a device, as lines that `bulkhead-qtest` can replay, until interrupted
    Registers {
        #[command(flatten)]
        to: TraceTo,
        /// Records only lines that contain this text, such as `outb 0x1f7`
        #[arg(long)]
        only: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TraceTo {
    pub(crate) guest: String,
    pub(crate) device: String,
    /// The new file; it must not exist
    pub(crate) file: PathBuf,
    /// Ends the recording after this number of seconds
    pub(crate) seconds: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}
