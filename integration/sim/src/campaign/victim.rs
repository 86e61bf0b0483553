//! The machine that faults befall, its files, and where a fault can take hold of it.
use crate::disk::{FORMATTED_BYTES, RAW_BYTES, qemu_img};
use crate::fault::Part;
use bulkhead_sim::{Faults, Options, Sim, Understudies};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of the file system of the images. Both disks have room in it, with little to spare.
const ROOM: u64 = 24 << 20;
/// The word that the first and the second disc repeat.
pub const DISCS: [u32; 2] = [0x1111_1111, 0x2222_2222];

/// The files of one or more machines, one after the other: the images, on a file system of their own.
pub struct Files {
    dir: tempfile::TempDir,
    understudies: Understudies,
}

impl Files {
    /// Makes them. The caller is in a mount namespace of its own.
    pub fn new() -> Result<Self, String> {
        let fail = |e: std::io::Error| e.to_string();
        let understudies = Understudies::new(&Options::new(&[]).binaries).map_err(fail)?;
        let this = Self { dir: tempfile::tempdir().map_err(fail)?, understudies };
        let room = this.room();
        std::fs::create_dir(&room).map_err(|e| e.to_string())?;
        let size = std::ffi::CString::new(format!("size={ROOM},mode=755")).map_err(|e| e.to_string())?;
        mount("tmpfs", &room, "tmpfs", MountFlags::empty(), Some(size.as_c_str()))
            .map_err(|e| format!("a tmpfs for images: {e}"))?;
        for (name, word) in ["first", "second"].into_iter().zip(DISCS) {
            std::fs::write(this.path(name), word.to_le_bytes().repeat(16 * 512)).map_err(|e| e.to_string())?;
        }
        let raw = std::fs::File::create(this.raw()).map_err(|e| e.to_string())?;
        raw.set_len(RAW_BYTES).map_err(|e| e.to_string())?;
        this.format()?;
        Ok(this)
    }

    /// Makes the qcow2 image anew.
    pub fn format(&self) -> Result<(), String> {
        let _ = std::fs::remove_file(self.formatted());
        let size = FORMATTED_BYTES.to_string();
        match qemu_img(&["create", "-q", "-f", "qcow2", &self.formatted().display().to_string(), &size])? {
            (0, _) => Ok(()),
            (status, said) => Err(format!("qemu-img create: status {status}: {said}")),
        }
    }

    /// The executables, which take cues.
    pub fn understudies(&self) -> &Understudies {
        &self.understudies
    }

    fn room(&self) -> PathBuf {
        self.path("room")
    }

    /// A file beside the images.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The raw image.
    pub fn raw(&self) -> PathBuf {
        self.room().join("raw")
    }

    /// The qcow2 image.
    pub fn formatted(&self) -> PathBuf {
        self.room().join("formatted")
    }

    /// The file that takes all room.
    pub fn filler(&self) -> PathBuf {
        self.room().join("filler")
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = unmount(self.room(), UnmountFlags::DETACH);
    }
}

/// What a thread needs that strikes.
pub struct Hands {
    pub launcher: u32,
    pub qmp: PathBuf,
    pub faults: Faults,
    pub vnc: u16,
    pub files: Arc<Files>,
}

impl Hands {
    /// The process of a part, if it runs.
    pub fn process(&self, part: Part) -> Option<i32> {
        if part == Part::Launcher {
            return i32::try_from(self.launcher).ok();
        }
        Sim::children(self.launcher).into_iter().find(|(role, _)| role == part.role()).map(|(_, pid)| pid)
    }

    /// A QMP command's answer.
    pub fn qmp(&self, command: &str) -> Result<serde_json::Value, String> {
        Sim::qmp_at(&self.qmp, command, None).map_err(|e| e.to_string())
    }
}

/// A machine, and what it was like when it had just started.
pub struct Victim {
    pub sim: Sim,
    pub hands: Arc<Hands>,
    /// Open files of the launcher and of the broker.
    pub open: BTreeMap<&'static str, usize>,
}

/// Number of entries of a folder of /proc.
fn entries(pid: i32, folder: &str) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/{folder}")).map_or(0, Iterator::count)
}

/// The other end of a card's cable, which takes every frame.
fn cable(path: &Path) -> Result<(), String> {
    let listener = UnixListener::bind(path).map_err(|e| format!("{}: {e}", path.display()))?;
    std::thread::spawn(move || {
        let Ok((mut peer, _)) = listener.accept() else { return };
        while peer.read(&mut [0; 65536]).is_ok_and(|n| n > 0) {}
    });
    Ok(())
}

impl Victim {
    /// Starts a machine with these files.
    pub fn start(files: &Arc<Files>) -> Result<Self, String> {
        let drive = |path: PathBuf, index: u8, format: &str| {
            format!("file={},if=ide,index={index},media=disk,format={format},cache=writeback", path.display())
        };
        let mut arguments: Vec<String> =
            ["-name", "victim", "-machine", "xenfv", "-m", "16", "-device", "VGA,vgamem_mb=16"]
                .map(str::to_owned)
                .to_vec();
        arguments.extend(["-vnc", "127.0.0.1:0,to=9999", "-usb", "-usbdevice", "tablet"].map(str::to_owned));
        arguments.extend(["-serial".to_owned(), format!("file:{}", files.path("serial").display())]);
        arguments.extend(["-drive".to_owned(), drive(files.raw(), 0, "raw")]);
        arguments.extend(["-drive".to_owned(), drive(files.formatted(), 1, "qcow2")]);
        let cd = format!("file={},if=none,readonly=on,id=ide-5632,format=raw", files.path("first").display());
        arguments.extend(["-drive".to_owned(), cd]);
        arguments.extend(["-device", "ide-cd,id=ide-5632,drive=ide-5632,bus=ide.1,unit=0"].map(str::to_owned));
        for (number, model) in ["e1000", "rtl8139"].into_iter().enumerate() {
            let path = files.path(&format!("cable{number}"));
            let _ = std::fs::remove_file(&path);
            cable(&path)?;
            let card = format!("{model},id=nic{number},netdev=net{number},mac=02:16:3e:00:00:0{number}");
            let net = format!("stream,id=net{number},server=off,addr.type=unix,addr.path={}", path.display());
            arguments.extend(["-device".to_owned(), card, "-netdev".to_owned(), net]);
        }
        let mut options = Options::new(&[]);
        options.arguments = arguments;
        options.faults = true;
        options.binaries = files.understudies.path().to_owned();
        let sim = Sim::start(&options).map_err(|e| e.to_string())?;
        let faults = sim.faults().and_then(|f| f.another().map_err(Into::into)).map_err(|e| e.to_string())?;
        let qmp = sim.qmp_socket().to_owned();
        let answer = sim.qmp(r#"{"execute":"query-vnc"}"#).map_err(|e| e.to_string())?;
        let vnc = answer["return"]["service"].as_str().and_then(|s| s.parse().ok()).ok_or("no port of VNC")?;
        let files = files.clone();
        let hands = Arc::new(Hands { launcher: sim.pid(), qmp, faults, vnc, files });
        let mut this = Self { sim, hands, open: BTreeMap::new() };
        this.open = this.open_files();
        Ok(this)
    }

    /// Open files of the processes that live as long as the machine.
    pub fn open_files(&self) -> BTreeMap<&'static str, usize> {
        [Part::Launcher, Part::Broker]
            .into_iter()
            .filter_map(|p| Some((p.role(), entries(self.hands.process(p)?, "fd"))))
            .collect()
    }

    /// The processes of all parts that run.
    pub fn processes(&self) -> Vec<(Part, i32)> {
        Part::ALL.into_iter().filter_map(|p| Some((p, self.hands.process(p)?))).collect()
    }
}
