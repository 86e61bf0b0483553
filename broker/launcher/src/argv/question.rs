//! What a toolstack asks the program before it has a guest: which version it is, what it can.
use super::table;
use std::fmt::Write as _;

/// The version of QEMU whose arguments and QMP these are: what a toolstack looks for.
pub const QEMU_VERSION: &str = "8.2.0";

/// A question that is answered on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Which version.
    Version,
    /// Which options.
    Help,
}

/// The first question among the arguments. A value is none: a guest may be called `-help`.
pub fn question(arguments: &[String]) -> Option<Question> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "-version" | "--version" => return Some(Question::Version),
            "-h" | "--h" | "-help" | "--help" => return Some(Question::Help),
            _ => {}
        }
        let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')).unwrap_or("");
        if table::any(name).is_some_and(|o| o.value) {
            arguments.next();
        }
    }
    None
}

impl Question {
    /// The answer. Toolstacks look for QEMU's words at its start; libvirt would take it for the older device model of Xen's if it
    /// had the words `Options specific to the Xen version`.
    pub fn answer(self) -> String {
        let mut out = format!("QEMU emulator version {QEMU_VERSION} (Bulkhead {})\n", env!("CARGO_PKG_VERSION"));
        if self == Self::Version {
            return out;
        }
        out.push_str("usage: qemu-system-i386 [options]\n\nWhat becomes of each option (docs/compat.md):\n");
        for spec in table::options() {
            let (fate, why) = spec.fate.words();
            let _ = writeln!(
                out,
                "-{}{}  {fate}: {why}",
                spec.name,
                if spec.value && !spec.name.contains(' ') { " VALUE" } else { "" }
            );
        }
        out
    }
}
