//! The host's settings: `/etc/bulkhead/bulkhead.toml`. Each setting stands for an argument. The guest's own arguments come after
//! them, so they win.
use crate::groups::Choice;
use crate::machine::images::Writable;
use crate::machine::option::bytes;
use crate::machine::serial;
use crate::placement::Placement;
use serde::Deserialize;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Path of the settings file.
pub const FILE: &str = "/etc/bulkhead/bulkhead.toml";

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    sandbox: Sandbox,
    devices: Devices,
    network: Network,
    images: Images,
    consoles: Consoles,
    pv: Pv,
    sched: Sched,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
struct Sched {
    placement: Option<Place>,
}

/// A value of `-placement`.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
struct Place(String);

impl TryFrom<String> for Place {
    type Error = NotAPlacement;

    fn try_from(text: String) -> Result<Self, NotAPlacement> {
        match Placement::try_from(text.as_str()) {
            Ok(_) => Ok(Self(text)),
            Err(expected) => Err(NotAPlacement { text, expected }),
        }
    }
}

/// A wrong value of `placement`. toml adds the line of the file.
#[derive(Debug, thiserror::Error)]
#[error("{text:?}: expected {expected}")]
struct NotAPlacement {
    text: String,
    expected: &'static str,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
struct Pv {
    others: Option<Others>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Others {
    Qemu,
    Leave,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
struct Images {
    backing: Option<Backing>,
    full: Option<Full>,
    limit: Option<Limit>,
    directories: Option<Directories>,
}

/// A value of `-image-directories`.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "Vec<String>")]
struct Directories(String);

impl TryFrom<Vec<String>> for Directories {
    type Error = NotDirectories;

    fn try_from(paths: Vec<String>) -> Result<Self, NotDirectories> {
        let text = paths.join(":");
        let good = Writable::parse(&text).is_some() && paths.iter().all(|p| !p.contains(':'));
        if good { Ok(Self(text)) } else { Err(NotDirectories(paths)) }
    }
}

/// A wrong list of directories. toml adds the line of the file.
#[derive(Debug, thiserror::Error)]
#[error("{0:?}: expected [\"any\"], or absolute paths without a colon, as [\"/srv/images\"]")]
struct NotDirectories(Vec<String>);

/// A value of `-image-limit`.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
struct Limit(String);

impl TryFrom<String> for Limit {
    type Error = NotASize;

    fn try_from(text: String) -> Result<Self, NotASize> {
        let expected = "none, or bytes, as \"40G\" (K, M, G or T)";
        if text == "none" || bytes(&text).is_some() { Ok(Self(text)) } else { Err(NotASize { text, expected }) }
    }
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
struct Consoles {
    limit: Option<ConsoleLimit>,
}

/// A value of `-console-limit`.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
struct ConsoleLimit(String);

impl TryFrom<String> for ConsoleLimit {
    type Error = NotASize;

    fn try_from(text: String) -> Result<Self, NotASize> {
        let expected = "bytes from 64K to 1G, as \"4M\"";
        if serial::limit(&text).is_some() { Ok(Self(text)) } else { Err(NotASize { text, expected }) }
    }
}

/// A wrong number of bytes. toml adds the line of the file.
#[derive(Debug, thiserror::Error)]
#[error("{text:?}: expected {expected}")]
struct NotASize {
    text: String,
    expected: &'static str,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Full {
    Report,
    Stop,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Backing {
    Any,
    Directory,
    None,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
struct Sandbox {
    level: Option<Level>,
    cgroup: Option<Cgroup>,
}

/// A value of `-cgroup`.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
struct Cgroup(String);

impl TryFrom<String> for Cgroup {
    type Error = NotACgroup;

    fn try_from(text: String) -> Result<Self, NotACgroup> {
        match Choice::try_from(text.as_str()) {
            Ok(_) => Ok(Self(text)),
            Err(expected) => Err(NotACgroup { text, expected }),
        }
    }
}

/// A wrong value of `cgroup`. toml adds the line of the file.
#[derive(Debug, thiserror::Error)]
#[error("{text:?}: expected {expected}")]
struct NotACgroup {
    text: String,
    expected: &'static str,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Level {
    Strict,
    Kernel,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
struct Devices {
    substitutes: Option<Substitutes>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Substitutes {
    Allow,
    Refuse,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
struct Network {
    level: Option<Filter>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Filter {
    Off,
    Guard,
}

/// Parses a settings file into the arguments that it stands for.
///
/// # Errors
/// The first wrong place, shown in several lines.
pub fn parse(text: &str) -> Result<Vec<String>, toml::de::Error> {
    let settings: Settings = toml::from_str(text)?;
    let mut all = Vec::new();
    let mut add = |option: &str, value: Option<&str>| {
        all.extend(value.into_iter().flat_map(|v| [option.to_owned(), v.to_owned()]))
    };
    add("-sandbox", settings.sandbox.level.map(|l| if l == Level::Strict { "level=strict" } else { "level=kernel" }));
    add("-cgroup", settings.sandbox.cgroup.as_ref().map(|c| c.0.as_str()));
    add(
        "-substitutes",
        settings.devices.substitutes.map(|s| if s == Substitutes::Refuse { "refuse" } else { "allow" }),
    );
    add("-nic-rules", settings.network.level.map(|l| if l == Filter::Guard { "level=guard" } else { "level=off" }));
    add(
        "-image-backing",
        settings.images.backing.map(|b| match b {
            Backing::Any => "any",
            Backing::Directory => "directory",
            Backing::None => "none",
        }),
    );
    add("-image-full", settings.images.full.map(|f| if f == Full::Stop { "stop" } else { "report" }));
    add("-image-limit", settings.images.limit.as_ref().map(|l| l.0.as_str()));
    add("-image-directories", settings.images.directories.as_ref().map(|d| d.0.as_str()));
    add("-console-limit", settings.consoles.limit.as_ref().map(|l| l.0.as_str()));
    add("-pv-others", settings.pv.others.map(|o| if o == Others::Leave { "leave" } else { "qemu" }));
    add("-placement", settings.sched.placement.as_ref().map(|p| p.0.as_str()));
    Ok(all)
}

/// Reads a settings file. A missing file has no settings.
///
/// # Errors
/// The file cannot be read, could have been written by another user than root, or is wrong.
pub fn read(path: &Path) -> Result<Vec<String>, SettingsFault> {
    let fail = |source| SettingsFault::File { path: path.to_owned(), source };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(fail(e)),
    };
    let metadata = std::fs::metadata(path).map_err(fail)?;
    if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
        return Err(SettingsFault::Owner { path: path.to_owned() });
    }
    parse(&text).map_err(|source| SettingsFault::Wrong { path: path.to_owned(), source: Box::new(source) })
}

/// Why a settings file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsFault {
    /// It cannot be read.
    #[error("{}: {source}", .path.display())]
    File {
        /// The path of the settings file.
        path: PathBuf,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// Another user than root could have written it.
    #[error("{}: it must be root's and written by nobody else", .path.display())]
    Owner {
        /// The path of the settings file.
        path: PathBuf,
    },
    /// It is no TOML, or has a key or a value that is not known.
    #[error("{}: {source}", .path.display())]
    Wrong {
        /// The path of the settings file.
        path: PathBuf,
        /// The place, and the value that is expected there.
        source: Box<toml::de::Error>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_arguments() {
        assert_eq!(parse(""), Ok(Vec::new()));
        let all = "[sandbox]\nlevel = \"strict\"\ncgroup = \"none\"\n[devices]\nsubstitutes = \"refuse\"\n[network]\nlevel = \"guard\"\n[images]\nbacking = \"directory\"\nfull = \"stop\"\nlimit = \"40G\"\ndirectories = [\"/srv/a\", \"/b\"]\n[consoles]\nlimit = \"8M\"\n[pv]\nothers = \"leave\"\n[sched]\nplacement = \"0-3,6\"\n";
        assert_eq!(
            parse(all).unwrap(),
            [
                "-sandbox",
                "level=strict",
                "-cgroup",
                "none",
                "-substitutes",
                "refuse",
                "-nic-rules",
                "level=guard",
                "-image-backing",
                "directory",
                "-image-full",
                "stop",
                "-image-limit",
                "40G",
                "-image-directories",
                "/srv/a:/b",
                "-console-limit",
                "8M",
                "-pv-others",
                "leave",
                "-placement",
                "0-3,6"
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_shown_with_its_line() {
        let error = parse("[sandbox]\nlevl = \"strict\"\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("levl") && error.contains("level"), "{error}");
        let error = parse("[sandbox]\ncgroup = \"here\"\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("auto, none, or the path"), "{error}");
        assert!(parse("[sandbox]\nlevel = \"high\"\n").unwrap_err().to_string().contains("strict"));
        let error = parse("\n[sched]\nplacement = \"apart\"\n").unwrap_err().to_string();
        assert!(
            error.contains("line 3") && error.contains("apart") && error.contains("together, free, or a list"),
            "{error}"
        );
        assert!(parse("[sched]\nplacement = \"8-4\"\n").is_err() && parse("[sched]\nplacement = 1\n").is_err());
        let error = parse("[images]\nlimit = \"much\"\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("much") && error.contains("40G"), "{error}");
        for wrong in ["[\"images\"]", "[]", "[\"/a:/b\"]", "[\"/a\", \"any\"]"] {
            let error = parse(&format!("[images]\ndirectories = {wrong}\n")).unwrap_err().to_string();
            assert!(error.contains("line 2") && error.contains("/srv/images"), "{error}");
        }
        assert!(parse("[consoles]\nlimit = \"1K\"\n").unwrap_err().to_string().contains("64K to 1G"));
        assert!(parse("[sandbox\n").is_err());
    }

    #[test]
    fn a_file_that_is_not_there_has_no_settings() {
        assert!(read(Path::new("/no/such/file")).unwrap().is_empty());
    }
}
