//! `-chardev`, and the QMP servers that use one.
use crate::machine::option::{
    ArgumentError, Arguments, Fate, Given, Group, Keys, OptionSpec, XENOPSD, keys, number, option, wrong,
};
use crate::machine::{Chardev, Machine, Monitor, Socket};
use Fate::{Implemented, Refused};

pub(super) static GROUP: Group = Group { options: OPTIONS, keys: KEYS, arguments: || Box::new(Chardevs::default()) };

const OPTIONS: &[OptionSpec] = &[
    option("chardev socket", Implemented("path= or fd=, server=on,wait=off; for QMP, or a channel"), "always, channel"),
    option("chardev pty", Implemented("a channel; where it goes is read from its nodes in xenstore"), "channel"),
    option("chardev file", Implemented("path=, append=; for a serial port"), "xenopsd, where the host logs consoles"),
    option("chardev null", Implemented("for a serial port"), ""),
    option("chardev", Refused("a character device of this kind"), ""),
    option("mon", Implemented("mode=control"), "always"),
    option("qmp", Implemented("unix:PATH,server=on,wait=off, or server,nowait: one more QMP server"), XENOPSD),
    option("qmp-pretty", Implemented("the same"), ""),
];

const KEYS: &[Keys] = &[
    keys("chardev socket", &["backend", "id", "path", "fd", "server", "wait"], &[]),
    keys("chardev pty", &["backend", "id"], &[]),
    keys("chardev file", &["backend", "id", "path", "append"], &[]),
    keys("chardev null", &["backend", "id"], &[]),
    keys("mon", &["chardev", "mode"], &[]),
];

#[derive(Default)]
struct Chardevs {
    /// Chardevs that QMP servers name, in the order of the servers.
    monitors: Vec<String>,
}

impl Arguments for Chardevs {
    fn take(&mut self, given: &mut Given, machine: &mut Machine) -> Result<(), ArgumentError> {
        let options = &given.options;
        match given.name.as_str() {
            "chardev" => {
                let id = given.need("id")?.to_owned();
                machine.chardevs.push((id, chardev(given)?));
            }
            "mon" => {
                if options.get("mode") != Some("control") {
                    return Err(given.bad("only mode=control"));
                }
                let id = options.head("chardev").ok_or_else(|| given.bad("chardev= is missing"))?;
                self.monitors.push(id.to_owned());
            }
            // -qmp and -qmp-pretty: the chardev is their own.
            _ => {
                let path = options.head.as_deref().and_then(|h| h.strip_prefix("unix:")).filter(|p| !p.is_empty());
                let path = path.ok_or_else(|| given.bad("unix:PATH,server=on,wait=off is known"))?;
                if !listens(given) {
                    return Err(given.bad("only server=on,wait=off"));
                }
                let id = format!("compat_monitor{}", self.monitors.len());
                machine.chardevs.push((id.clone(), Chardev::Socket(Socket::Path(path.to_owned()))));
                self.monitors.push(id);
            }
        }
        Ok(())
    }

    fn finish(&mut self, machine: &mut Machine) -> Result<Vec<String>, ArgumentError> {
        for id in self.monitors.drain(..) {
            // A client can connect to a socket only.
            let socket = machine.chardevs.iter().find_map(|(name, chardev)| match chardev {
                Chardev::Socket(socket) if *name == id => Some(socket.clone()),
                _ => None,
            });
            let socket = socket.ok_or_else(|| wrong("mon", &id, "there is no chardev of this id"))?;
            machine.monitors.push(Monitor { id, socket });
        }
        Ok(Vec::new())
    }
}

/// A socket that is made here and waits for nobody.
fn listens(given: &Given) -> bool {
    given.options.flag("server", false) == Some(true) && given.options.flag("wait", true) == Some(false)
}

fn chardev(given: &Given) -> Result<Chardev, ArgumentError> {
    let options = &given.options;
    match options.head("backend") {
        Some("socket") if !listens(given) => Err(given.bad("only server=on,wait=off")),
        Some("socket") => match (options.get("path"), options.get("fd").map(number)) {
            (Some(path), None) => Ok(Chardev::Socket(Socket::Path(path.to_owned()))),
            (None, Some(Some(fd))) => Ok(Chardev::Socket(Socket::Fd(fd))),
            _ => Err(given.bad("one of path= and fd= must be there")),
        },
        // A channel, which is opened when its back end is, or a serial port's.
        Some("pty") => Ok(Chardev::Pty),
        Some("null") => Ok(Chardev::Null),
        Some("file") => {
            let path = given.need("path")?.to_owned();
            let append = options.flag("append", false).ok_or_else(|| given.bad("append is on or off"))?;
            Ok(Chardev::File { path, append })
        }
        _ => Err(given.bad("only socket, pty, file and null")),
    }
}
