//! The interface that QEMU's own qtest programs (libqtest) expect of the program in `QTEST_QEMU_BINARY`: it connects to two
//! sockets of theirs, one for the qtest protocol and one for QMP, and ends with status 0 on SIGTERM.
mod boot;
mod drives;
mod monitor;

use boot::Boot;
use drives::Drives;
pub use drives::Scripted;
pub use monitor::{Monitor, Restart, answer_probe};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// An option's value: keys and values; the first key may be omitted.
#[derive(Clone, Debug, Default)]
struct Pairs(Vec<(String, String)>);

impl Pairs {
    fn parse(first: &str, text: &str) -> Self {
        let pair = |(n, part): (usize, &str)| match part.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None if n == 0 => (first.to_owned(), part.to_owned()),
            None => (part.to_owned(), "on".to_owned()),
        };
        Self(text.split(',').enumerate().filter(|(_, p)| !p.is_empty()).map(pair).collect())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

/// Options of libqtest that bulkhead-dm does not take, and whether a value follows.
const FOREIGN: [(&str, bool); 9] = [
    ("-vga", true),
    ("-uuid", true),
    ("-qtest-log", true),
    ("-display", true),
    ("-audio", true),
    ("-audiodev", true),
    ("-run-with", true),
    ("-accel", true),
    ("-trace", true),
];

/// The parsed arguments of libqtest.
#[derive(Debug, Default)]
pub struct Invocation {
    /// The socket of the qtest protocol; without it, the protocol uses standard input and output.
    pub qtest: Option<String>,
    /// The socket on which QMP's client listens.
    pub qmp: Option<String>,
    /// The arguments for bulkhead-dm.
    pub machine: Vec<String>,
    /// The far ends of the cables of network cards without `netdev=`: they listen and send nothing.
    pub cables: Vec<UnixListener>,
    /// The test only queries the available machines; none is started.
    pub probe: bool,
    /// The disks' storage has a debugging back end.
    pub debugged: bool,
    /// Faults of the debugging back end from the start.
    pub scripted: Vec<Scripted>,
    /// Arguments that only the first start gets.
    boot: Boot,
}

impl Invocation {
    /// Parses `arguments`. A network card without `netdev=` gets a socket in `dir`.
    pub fn parse(arguments: impl IntoIterator<Item = String>, dir: &Path) -> Result<Self, String> {
        let mut this = Self::default();
        let (mut drives, mut typed) = (Drives::default(), false);
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
                        // A server's socket is created by the machine itself.
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
                "-drive" => drives.drive(&value()?),
                "-blockdev" => drives.blockdev(&value()?)?,
                "-global" => {
                    let text = value()?;
                    if !drives.global(&text) {
                        this.machine.extend([argument, text]);
                    }
                }
                "-boot" => this.boot.add(&value()?),
                "-machine" | "-M" => {
                    let text = value()?;
                    typed = true;
                    this.probe |= text == "none";
                    this.machine.extend([argument, text]);
                }
                "-device" => {
                    let mut text = value()?;
                    let driver = text.split(',').next().unwrap_or_default().to_owned();
                    if matches!(driver.as_str(), "ide-hd" | "ide-cd") {
                        drives.device(&text)?;
                        continue;
                    }
                    let card = matches!(driver.as_str(), "e1000" | "e1000-82540em" | "rtl8139");
                    if card {
                        // Two names of one model; the first card's place is the fourth.
                        text = text.replacen("e1000-82540em", "e1000", 1).replace(",addr=04.0", "");
                    }
                    if !card || text.contains("netdev=") {
                        this.machine.extend([argument, text]);
                        continue;
                    }
                    let n = this.cables.len();
                    let path = dir.join(format!("cable{n}"));
                    this.cables.push(UnixListener::bind(&path).map_err(|e| format!("{}: {e}", path.display()))?);
                    let path = path.display();
                    let mac = match text.contains("mac=") {
                        true => String::new(),
                        false => format!(",mac=52:54:00:12:34:{:02x}", n & 0x3f),
                    };
                    this.machine.extend([argument, format!("{text},id=nic{n},netdev=cable{n}{mac}")]);
                    this.machine.extend([
                        "-netdev".to_owned(),
                        format!("stream,id=cable{n},server=off,addr.type=unix,addr.path={path}"),
                    ]);
                }
                _ => this.machine.push(argument),
            }
        }
        if !typed {
            this.machine.extend(["-machine".to_owned(), "pc".to_owned()]);
        }
        this.machine.extend(drives.arguments()?);
        (this.debugged, this.scripted) = (drives.debugged, drives.scripted);
        Ok(this)
    }

    /// bulkhead-dm's arguments for the machine's first start, or for one after a reset.
    pub fn arguments(&self, first: bool) -> Vec<String> {
        self.machine.iter().cloned().chain(self.boot.arguments(first)).collect()
    }
}

/// Ends the qtest session on SIGTERM, as the end of its input does.
pub fn end_on_sigterm(stream: UnixStream) -> std::io::Result<()> {
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
        assert!(it.machine[3].starts_with("stream,id=cable0,") && it.machine[4..] == ["-m", "64", "-machine", "pc"]);
        assert!(Invocation::parse(["-qtest".to_owned()], dir.path()).is_err());
        let cards = tempfile::tempdir().unwrap();
        let text = "-device e1000,mac=02:00:00:00:00:01";
        let it = Invocation::parse(text.split(' ').map(str::to_owned), cards.path()).unwrap();
        assert_eq!(it.machine[1], "e1000,mac=02:00:00:00:00:01,id=nic0,netdev=cable0");
    }

    #[test]
    fn drives_and_orders_as_qemus_tests_write_them() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        std::fs::write(&script, "[inject-error]\nevent = \"flush_to_disk\"\nerrno = \"5\"\n[set-state]\n").unwrap();
        let parse = |text: &str| Invocation::parse(text.split(' ').map(str::to_owned), dir.path()).unwrap();
        let it = parse(
            "-machine pc -drive file=/a,if=ide,cache=writeback,format=raw -drive id=d1,if=ide,index=1,format=raw,file=/b",
        );
        let place = |file: &str, index: u8| format!("file={file},if=ide,index={index},media=disk,format=raw");
        assert_eq!(it.machine[2..], ["-drive", &place("/a", 0), "-drive", &place("/b", 1)]);
        let it = parse(
            "-blockdev driver=file,node-name=hdb,filename=/b -device ide-hd,drive=hdb,bus=ide.0,unit=1 -device ide-cd,bus=ide.0",
        );
        assert_eq!(it.machine[2..], ["-drive", &place("/b", 1), "-drive", "if=ide,index=0,media=cdrom,format=raw"]);
        let it = parse("-drive file=/a,if=ide,format=raw -global ide-hd.serial=testdisk -global ide-hd.ver=version");
        let own = "ide-hd,drive=drive0,bus=ide.0,unit=0,serial=testdisk,ver=version";
        assert_eq!(it.machine[2..], ["-drive", "file=/a,if=none,id=drive0,format=raw", "-device", own]);
        let it = parse("-drive file=/a,if=none,id=a,readonly=on -device ide-hd,drive=a,bus=ide.1");
        assert_eq!(it.machine[..2], ["-machine", "pc"]);
        assert_eq!(it.machine[3], "file=/a,if=ide,index=2,media=disk,format=raw,readonly=on");
        let debugged = format!("-drive file=blkdebug:{}:/a,if=ide,rerror=stop,werror=stop", script.display());
        let it = parse(&debugged);
        assert_eq!((it.debugged, &it.machine[2..]), (true, &["-drive".to_owned(), place("/a", 0)][..]));
        assert_eq!(it.scripted, [Scripted { drive: 0, flush: true, stops: true }]);
        let it = parse("-boot once=a -boot once=b -boot once=c -boot order=nda");
        let ends = |first| it.arguments(first).last().cloned().unwrap();
        assert_eq!([ends(true), ends(false)], ["once=c,order=nda", "order=nda"]);
        assert!(parse("-machine none").probe);
    }
}
