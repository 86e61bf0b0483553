//! One option: its entry in the table of its group, and as it was given.
use super::Machine;
use crate::errors::Code;
use crate::options::Options;

/// Why the arguments cannot be used: one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// No such option.
    #[error("{0}: unknown option")]
    Unknown(String),
    /// A value is missing.
    #[error("{0}: a value must follow")]
    Missing(String),
    /// The value is wrong.
    #[error("{option} {value}: {why}")]
    Value {
        /// The option with its dash.
        option: String,
        /// As it was given.
        value: String,
        /// What is wrong.
        why: String,
    },
    /// QEMU has it, this device model does not.
    #[error("{option}: not supported: {why}")]
    Refused {
        /// The option, with its value.
        option: String,
        /// What is missing.
        why: &'static str,
    },
    /// Something that must be there is not.
    #[error("{0}")]
    Incomplete(&'static str),
}

impl ArgumentError {
    /// The BH number: an unsupported option has one of its own.
    pub fn code(&self) -> Code {
        if matches!(self, Self::Refused { .. }) { Code::Unsupported } else { Code::Argument }
    }
}

/// What becomes of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The option is obeyed, to this extent.
    Implemented(&'static str),
    /// The option has no effect, for this reason; a line is logged.
    Ignored(&'static str),
    /// A similar device is substituted; a line is logged.
    Substituted(&'static str),
    /// The option is an error: this is missing.
    Refused(&'static str),
}

impl Fate {
    /// The fate in a word, and its reason or extent.
    pub fn words(&self) -> (&'static str, &'static str) {
        match self {
            Self::Implemented(text) => ("implemented", text),
            Self::Ignored(text) => ("ignored", text),
            Self::Substituted(text) => ("substituted", text),
            Self::Refused(text) => ("refused", text),
        }
    }
}

/// An option of a table.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// Without dash; a second word narrows it down: `device VGA`.
    pub name: &'static str,
    /// The next argument is its value.
    pub value: bool,
    /// The option's fate.
    pub fate: Fate,
    /// What in a guest's xl.cfg makes libxl emit it; empty: nothing, an operator adds it by device_model_args.
    pub cause: &'static str,
}

/// An option without a value.
pub(crate) const fn flag(name: &'static str, fate: Fate, cause: &'static str) -> OptionSpec {
    OptionSpec { name, value: false, fate, cause }
}

/// An option with a value.
pub(crate) const fn option(name: &'static str, fate: Fate, cause: &'static str) -> OptionSpec {
    OptionSpec { name, value: true, fate, cause }
}

/// Keys in the values of an implemented option. Any other key is an error, because it asks for something that would silently not
/// be there.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    /// The option's name in its table.
    pub option: &'static str,
    /// Keys that are obeyed.
    pub obeyed: &'static [&'static str],
    /// Keys that are logged and ignored.
    pub ignored: &'static [&'static str],
}

/// A line of a table of keys.
pub(crate) const fn keys(
    option: &'static str,
    obeyed: &'static [&'static str],
    ignored: &'static [&'static str],
) -> Keys {
    Keys { option, obeyed, ignored }
}

/// Keys of any device that change nothing: where it is on the bus and what it calls itself are as without them.
pub(crate) const PLACE: &[&str] = &[
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

/// An option as it was given.
pub(crate) struct Given {
    /// Its name, without dash.
    pub(crate) name: String,
    /// Its value; empty if it has none.
    pub(crate) value: String,
    /// Name and value, for messages.
    pub(crate) shown: String,
    /// The value, taken apart.
    pub(crate) options: Options,
    /// Lines for the log.
    pub(crate) notes: Vec<String>,
}

impl Given {
    /// The value is wrong.
    pub(crate) fn bad(&self, why: impl Into<String>) -> ArgumentError {
        wrong(&self.name, &self.value, why)
    }

    /// The value asks for something that QEMU has and this device model does not.
    pub(crate) fn refused(&self, why: &'static str) -> ArgumentError {
        ArgumentError::Refused { option: self.shown.clone(), why }
    }

    /// A key that must be there.
    pub(crate) fn need(&self, key: &str) -> Result<&str, ArgumentError> {
        self.options.get(key).ok_or_else(|| self.bad(format!("{key}= is missing")))
    }
}

/// The value of an option is wrong.
pub(crate) fn wrong(option: &str, value: &str, why: impl Into<String>) -> ArgumentError {
    ArgumentError::Value { option: format!("-{option}"), value: value.to_owned(), why: why.into() }
}

/// A number, as the option's value or a key's has it.
pub(crate) fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

/// A number of bytes: digits, and K, M, G or T for a power of 1024.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()?.to_ascii_uppercase() {
        b'K' => (text.get(..text.len().checked_sub(1)?)?, 10),
        b'M' => (text.get(..text.len().checked_sub(1)?)?, 20),
        b'G' => (text.get(..text.len().checked_sub(1)?)?, 30),
        b'T' => (text.get(..text.len().checked_sub(1)?)?, 40),
        _ => (text, 0),
    };
    // `parse` would accept a sign.
    let number: u64 = if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok()? } else { return None };
    number.checked_mul(1 << shift)
}

/// Applies the options of one group, in their order.
pub(crate) trait Arguments {
    /// Applies an implemented or substituted option to the machine.
    fn take(&mut self, given: &mut Given, machine: &mut Machine) -> Result<(), ArgumentError>;

    /// Called after the last option: combines options that refer to each other. Returns lines for the log.
    fn finish(&mut self, _machine: &mut Machine) -> Result<Vec<String>, ArgumentError> {
        Ok(Vec::new())
    }
}

/// Options that belong together.
#[derive(Debug)]
pub struct Group {
    /// Their table.
    pub options: &'static [OptionSpec],
    /// The keys of their values.
    pub(crate) keys: &'static [Keys],
    /// Makes the object that applies them.
    pub(crate) arguments: fn() -> Box<dyn Arguments>,
}

/// Causes: toolstacks that are not libxl and always give the option.
pub(crate) const XENOPSD: &str = "always, by xenopsd (XenServer, XCP-ng)";
pub(crate) const QUBES: &str = "always, by Qubes OS";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_digits_and_a_unit() {
        assert_eq!(
            [bytes("0"), bytes("512"), bytes("4k"), bytes("3M")],
            [Some(0), Some(512), Some(4096), Some(3 << 20)]
        );
        assert_eq!([bytes("40G"), bytes("2T")], [Some(40 << 30), Some(2 << 40)]);
        for wrong in ["", "G", "+1G", "1.5G", "1 G", "-1", "20000000T", "1GB", "ä"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }
}
