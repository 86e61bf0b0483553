//! What QEMU's own qtest programs (libqtest) expect of the program in `QTEST_QEMU_BINARY`: it connects to two sockets of
//! theirs, one for the qtest protocol and one for QMP, and ends with status 0 when it is told to (SIGTERM).
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Options that are libqtest's own, not the machine's, and whether a value follows.
const FOREIGN: [(&str, bool); 8] = [
    ("-vga", true),
    ("-qtest-log", true),
    ("-display", true),
    ("-audio", true),
    ("-audiodev", true),
    ("-run-with", true),
    ("-accel", true),
    ("-trace", true),
];

/// libqtest's arguments, taken apart.
#[derive(Debug, Default)]
pub struct Invocation {
    /// The socket of the qtest protocol; without it that is standard input and output.
    pub qtest: Option<String>,
    /// The socket on which QMP's client waits.
    pub qmp: Option<String>,
    /// What is left for bulkhead-dm.
    pub machine: Vec<String>,
    /// The far ends of cables that nobody named: they listen, and say nothing.
    pub cables: Vec<UnixListener>,
}

impl Invocation {
    /// Takes `arguments` apart. A network card without `netdev=` gets a cable that ends in `dir`.
    pub fn parse(arguments: impl IntoIterator<Item = String>, dir: &Path) -> Result<Self, String> {
        let mut this = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument}: a value must follow"));
            if let Some((_, has_value)) = FOREIGN.iter().find(|(name, _)| *name == argument) {
                if *has_value {
                    value()?;
                }
                continue;
            }
            match argument.as_str() {
                "-qtest" => {
                    let value = value()?;
                    this.qtest = Some(value.strip_prefix("unix:").ok_or("-qtest: only unix:PATH")?.to_owned());
                }
                "-chardev" => {
                    let text = value()?;
                    let path = text.split(',').find_map(|p| p.strip_prefix("path="));
                    match path {
                        // A server is the machine's own.
                        Some(path) if !text.contains("server") => this.qmp = Some(path.to_owned()),
                        _ => this.machine.extend([argument, text]),
                    }
                }
                "-mon" => {
                    let text = value()?;
                    if !text.contains("char0") {
                        this.machine.extend([argument, text]);
                    }
                }
                "-drive" => {
                    let text = value()?;
                    // One without a medium, for devices that come later and are not here.
                    if !(text.contains("if=none") && text.contains("file=null-co://")) {
                        this.machine.extend([argument, text]);
                    }
                }
                "-device" => {
                    let text = value()?;
                    let card = ["e1000", "rtl8139"].iter().any(|m| text.split(',').next() == Some(*m));
                    if !card || text.contains("netdev=") {
                        this.machine.extend([argument, text]);
                        continue;
                    }
                    let n = this.cables.len();
                    let path = dir.join(format!("cable{n}"));
                    this.cables.push(UnixListener::bind(&path).map_err(|e| format!("{}: {e}", path.display()))?);
                    let path = path.display();
                    this.machine.extend([
                        argument,
                        format!("{text},id=nic{n},netdev=cable{n},mac=52:54:00:12:34:{:02x}", n & 0x3f),
                    ]);
                    this.machine.extend([
                        "-netdev".to_owned(),
                        format!("stream,id=cable{n},server=off,addr.type=unix,addr.path={path}"),
                    ]);
                }
                _ => this.machine.push(argument),
            }
        }
        Ok(this)
    }
}

/// Carries QMP between its client and the machine, until either closes.
pub fn carry(client: &str, machine: &Path) -> std::io::Result<()> {
    let client = UnixStream::connect(client)?;
    let machine = UnixStream::connect(machine)?;
    for (mut from, mut to) in [(client.try_clone()?, machine.try_clone()?), (machine, client)] {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    }
    Ok(())
}

/// Ends the qtest session, as the end of its input would, when the program is told to end.
pub fn end_when_told(stream: UnixStream) -> std::io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM])?;
    std::thread::spawn(move || {
        for _ in &mut signals {
            let _ = stream.shutdown(std::net::Shutdown::Read);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libqtests_arguments() {
        let text = "-qtest unix:/tmp/q.sock -qtest-log /dev/null -chardev socket,path=/tmp/q.qmp,id=char0 -mon chardev=char0,mode=control -display none -device rtl8139 -m 64 -accel qtest";
        let dir = tempfile::tempdir().unwrap();
        let it = Invocation::parse(text.split(' ').map(str::to_owned), dir.path()).unwrap();
        assert_eq!(
            (it.qtest.as_deref(), it.qmp.as_deref(), it.cables.len()),
            (Some("/tmp/q.sock"), Some("/tmp/q.qmp"), 1)
        );
        assert_eq!(it.machine[0], "-device");
        assert!(it.machine[1].starts_with("rtl8139,id=nic0,netdev=cable0,mac="));
        assert!(it.machine[3].starts_with("stream,id=cable0,") && it.machine[4..] == ["-m", "64"]);
        assert!(Invocation::parse(["-qtest".to_owned()], dir.path()).is_err());
    }
}
