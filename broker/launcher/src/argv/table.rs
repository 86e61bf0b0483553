//! All groups' tables as one. A test holds that every option that libxl emits (4.17 to 4.22, libxl_dm.c:
//! libxl__build_device_model_args_new) is in it.
use super::{chardev, general};
use crate::machine;
use crate::machine::option::{Group, OptionSpec};

/// All groups. Options of a group are finished in this order: those that others refer to come first.
pub(crate) fn groups() -> impl Iterator<Item = &'static Group> {
    [&general::GROUP, &chardev::GROUP].into_iter().chain(machine::groups())
}

/// All options.
pub fn options() -> impl Iterator<Item = &'static OptionSpec> {
    groups().flat_map(|group| group.options)
}

/// An entry of an option, whatever narrows it down: all of them agree whether a value follows.
pub(crate) fn any(name: &str) -> Option<&'static OptionSpec> {
    lookup(name, None).or_else(|| options().find(|o| o.name.split(' ').next() == Some(name)))
}

/// Finds the entry of an option, the narrower one first.
pub fn lookup(name: &str, value: Option<&str>) -> Option<&'static OptionSpec> {
    // Options whose value is behind a colon: those that Qubes OS leaves for the stub domain's own scripts.
    if let Some((prefix, _)) = name.split_once(':') {
        return options().find(|o| !o.value && o.name.strip_suffix(":…") == Some(prefix));
    }
    let first = value.and_then(|v| v.split(',').next()).unwrap_or("");
    let narrow = format!(
        "{name} {}",
        ["driver=", "type=", "backend="].iter().find_map(|k| first.strip_prefix(k)).unwrap_or(first)
    );
    options().find(|o| o.name == narrow).or_else(|| options().find(|o| o.name == name))
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
        let named = options().find(|o| o.name.split(' ').next() == Some(name));
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
    for spec in options() {
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
