//! libxl's argument vector → [`Machine`]. The tables of the groups are the only place that says what becomes of an option;
//! docs/compat.md is printed from them.
//!
//! | file | what |
//! |---|---|
//! | `table.rs` | all groups' tables as one |
//! | `general.rs` | options that concern the whole machine |
//! | `chardev.rs` | `-chardev`, and QMP servers |
//! | `question.rs` | options that ask for the version or for help |
//!
//! Options that ask for a device are in `machine/`, one file for each kind.
mod chardev;
mod general;
mod question;
mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod toolstacks;

use crate::machine::Machine;
pub use crate::machine::option::{ArgumentError, Fate, Group, OptionSpec};
use crate::machine::option::{Given, Keys, wrong};
use crate::options::Options;
pub use question::{Question, question};
pub use table::{Verdict, lookup, markdown, options, verdicts};

/// A machine, and lines for the log about options that were ignored or substituted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The machine.
    pub machine: Machine,
    /// What to tell the operator.
    pub notes: Vec<String>,
}

/// Parses the arguments, without argv\[0\].
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Parsed, ArgumentError> {
    let mut machine = Machine::default();
    let mut notes = Vec::new();
    let mut substituted = None;
    let mut groups: Vec<_> = table::groups().map(|group| (group, (group.arguments)())).collect();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')).filter(|n| !n.is_empty());
        let Some(name) = name else { return Err(ArgumentError::Unknown(argument)) };
        let value = match table::any(name) {
            Some(spec) if spec.value => Some(arguments.next().ok_or(ArgumentError::Missing(argument.clone()))?),
            Some(_) => None,
            None => return Err(ArgumentError::Unknown(argument)),
        };
        let shown = value.as_ref().map_or(argument.clone(), |v| format!("{argument} {v}"));
        let Some(spec) = lookup(name, value.as_deref()) else {
            return Err(ArgumentError::Refused { option: shown, why: "no such device here" });
        };
        match spec.fate {
            Fate::Refused(why) => return Err(ArgumentError::Refused { option: shown, why }),
            Fate::Ignored(why) => {
                notes.push(format!("{shown}: ignored: {why}"));
                continue;
            }
            Fate::Substituted(why) => {
                substituted.get_or_insert_with(|| shown.clone());
                notes.push(format!("{shown}: {why}"));
            }
            Fate::Implemented(_) => {}
        }
        let value = value.unwrap_or_default();
        let options = Options::parse(&value);
        let mut given = Given { name: name.to_owned(), value, shown, options, notes: Vec::new() };
        // The driver decides: a key of another option's, or two drivers, name no device.
        let driver = spec.name.strip_prefix("device ");
        if driver.is_some() && given.options.head("driver") != driver {
            return Err(given.refused("no such device here"));
        }
        let of = |group: &Group| group.options.iter().any(|o| o.name == spec.name);
        let Some((group, taker)) = groups.iter_mut().find(|(group, _)| of(group)) else {
            return Err(ArgumentError::Unknown(argument));
        };
        check_keys(group.keys.iter().find(|k| k.option == spec.name), &mut given)?;
        taker.take(&mut given, &mut machine)?;
        notes.append(&mut given.notes);
    }
    for (_, taker) in &mut groups {
        notes.extend(taker.finish(&mut machine)?);
    }
    if let Some(option) = substituted.filter(|_| !machine.substitutes) {
        return Err(ArgumentError::Refused {
            option,
            why: "something else would take its place (-substitutes refuse)",
        });
    }
    if !machine.probe && machine.domid.is_none() {
        return Err(ArgumentError::Incomplete("-xen-domid is missing"));
    }
    Ok(Parsed { machine, notes })
}

/// The keys of an option: a note for each that is ignored, an error for one that is not known.
fn check_keys(keys: Option<&Keys>, given: &mut Given) -> Result<(), ArgumentError> {
    let Some(Keys { option, obeyed, ignored }) = keys else { return Ok(()) };
    for (key, _) in given.options.pairs.iter().filter(|(key, _)| !obeyed.contains(&key.as_str())) {
        if !ignored.contains(&key.as_str()) {
            let name = option.split(' ').next().unwrap_or(option);
            return Err(wrong(name, &given.value, format!("{key}= is not known here")));
        }
        // What libxl always writes is not worth a line.
        if !matches!(key.as_str(), "suppress-vmdesc" | "br" | "script" | "downscript" | "id") {
            given.notes.push(format!("-{option} {key}=: ignored"));
        }
    }
    Ok(())
}
