//! What libxl starts in dom0 beside a stub domain: with `-xen-attach` the same program serves the stub domain's PV back
//! ends (consoles, frame buffer, file-backed disks). These are given to the host's QEMU; this program stays and watches.
//! Nobody else tells Xen when a stub domain dies: its guest would wait for ever for a device model that is gone.
use bulkhead_xen::{DomainState, Privcmd, Xenstore};
use bulkhead_xen_abi::Shutdown;
use rustix::event::{PollFd, PollFlags};
use rustix::fd::AsFd;
use rustix::process::{Pid, Signal, WaitOptions};
use std::path::Path;

/// Where distributions put QEMU for Xen: Debian, Xen's own build, others.
const QEMU: &[&str] = &[
    "/usr/libexec/xen-qemu-system-i386",
    "/usr/lib/xen/bin/qemu-system-i386",
    "/usr/local/lib/xen/bin/qemu-system-i386",
    "/usr/libexec/xen/bin/qemu-system-i386",
    "/usr/bin/qemu-system-i386",
];

/// Whether these arguments ask for the back ends of a domain without emulated devices.
pub fn is_asked(arguments: &[String]) -> bool {
    let machine = |a: &str| a == "xenpv" || a.starts_with("xenpv,");
    let pairs = arguments.iter().zip(arguments.iter().skip(1));
    arguments.iter().any(|a| a == "-xen-attach") || pairs.into_iter().any(|(a, b)| matches!(a.as_str(), "-M" | "-machine") && machine(b))
}

/// Starts the host's QEMU and watches the domain until libxl ends it.
pub fn run(arguments: &[String]) -> Result<(), String> {
    let signals = bulkhead_policy::end_signals().map_err(|e| format!("signals: {e}"))?;
    let domid = arguments.iter().skip_while(|a| *a != "-xen-domid").nth(1);
    let domid = domid.and_then(|d| d.parse::<u16>().ok());
    let qemu = QEMU.iter().find(|p| Path::new(p).exists()).ok_or("there is no QEMU for Xen on this host, which has to serve PV back ends")?;
    let mut xenstore = Xenstore::connect().map_err(|e| e.to_string())?;
    let target = domid.and_then(|d| xenstore.read(&format!("/local/domain/{d}/target")).ok()).and_then(|t| t.parse::<u16>().ok());
    let (pid, pidfd) = bulkhead_policy::start_attached(qemu, arguments).map_err(|e| format!("{qemu}: {e}"))?;
    eprintln!("bulkhead-dm: PV back ends are served by {qemu} (pid {pid})");
    let mut watched = domid.zip(target);
    if let Some((stubdom, guest)) = watched {
        xenstore.watch("@releaseDomain").map_err(|e| e.to_string())?;
        xenstore.watch(&format!("/local/domain/{stubdom}/console/vnc-port")).map_err(|e| e.to_string())?;
        eprintln!("bulkhead-dm: if stub domain {stubdom} dies, guest {guest} is reported crashed");
    }
    let (mut served, mut shown) = (true, false);
    loop {
        let store = xenstore.as_fd();
        let mut polled = vec![PollFd::new(&signals, PollFlags::IN)];
        if watched.is_some() {
            polled.push(PollFd::from_borrowed_fd(store, PollFlags::IN));
        }
        if served {
            polled.push(PollFd::new(&pidfd, PollFlags::IN));
        }
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.to_string()),
        }
        let ready: Vec<bool> = polled.iter().map(|p| !p.revents().is_empty()).collect();
        drop(polled);
        if ready.first() == Some(&true) {
            break;
        }
        let changed = watched.is_some() && xenstore.changed().map_err(|e| e.to_string())?;
        if let Some((stubdom, guest)) = watched.filter(|_| changed && !shown) {
            shown = show(&mut xenstore, stubdom, guest);
        }
        if let Some((stubdom, guest)) = watched
            && changed
            // Not to know is no reason to take the back ends away.
            && let Some(line) = look(stubdom, guest).unwrap_or_else(|e| Some(format!("stub domain {stubdom} cannot be watched: {e}")))
        {
            eprintln!("bulkhead-dm: {line}");
            watched = None;
        }
        if served && ready.last() == Some(&true) && rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::NOHANG).is_ok_and(|s| s.is_some()) {
            eprintln!("bulkhead-dm: QEMU (pid {pid}) has ended; nobody serves the PV back ends any more");
            served = false;
            // Without a guest to watch there is nothing left to do.
            if watched.is_none() {
                return Err("QEMU has ended".to_owned());
            }
        }
    }
    if served {
        let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::TERM);
        let patience = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
        if !matches!(rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience)), Ok(1..)) {
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        }
        let _ = rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::empty());
    }
    Ok(())
}

/// libxl writes where the viewer of a stub domain's frame buffer listens into that domain's nodes, and looks for it in the
/// guest's when somebody says `xl vncviewer GUEST`. Whether it is known now.
fn show(xenstore: &mut Xenstore, stubdom: u16, guest: u16) -> bool {
    let from = format!("/local/domain/{stubdom}/console");
    if xenstore.read(&format!("{from}/vnc-port")).is_err() {
        return false;
    }
    for node in xenstore.directory(&from).into_iter().filter(|n| n.starts_with("vnc-")) {
        let copied = xenstore.read(&format!("{from}/{node}")).and_then(|value| xenstore.write(&format!("/local/domain/{guest}/console/{node}"), &value));
        if let Err(e) = copied {
            eprintln!("bulkhead-dm: xl vncviewer will not find guest {guest}: {node}: {e}");
        }
    }
    true
}

/// Looks at the stub domain; reports its guest crashed if it is dead. What was done, if that is all there is to do.
fn look(stubdom: u16, guest: u16) -> Result<Option<String>, String> {
    let state = |domid| Privcmd::open(domid).and_then(|p| p.domain_state()).map_err(|e| e.to_string());
    if state(stubdom)? == DomainState::Alive {
        return Ok(None);
    }
    if state(guest)? != DomainState::Alive {
        return Ok(Some(format!("stub domain {stubdom} and guest {guest} have ended")));
    }
    Privcmd::open(guest).and_then(|p| p.remote_shutdown(Shutdown::Crash)).map_err(|e| format!("guest {guest} could not be reported crashed: {e}"))?;
    Ok(Some(format!("stub domain {stubdom} is dead: guest {guest} is reported crashed")))
}

#[cfg(test)]
mod tests {
    use super::is_asked;

    #[test]
    fn back_ends_are_told_from_guests() {
        let words = |t: &str| t.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(is_asked(&words("-xen-domid 7 -xen-attach -name x")) && is_asked(&words("-M xenpv -nographic")) && is_asked(&words("-machine xenpv,accel=xen")));
        assert!(!is_asked(&words("-xen-domid 7 -machine xenfv -name xenpv")));
    }
}
