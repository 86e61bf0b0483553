//! What toolstacks tell Xen of a domain, and attempts on its interfaces of a hostile program in the place of each role.
use crate::Done;
use bulkhead_breakout::{Outcome, ids, run};
use bulkhead_plan::kind::{BROKER, of_role};
use bulkhead_plan::{Memory, Starts};
use bulkhead_policy::PROFILES;
use bulkhead_xen_abi::{domctl, ioctl};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};

fn node(path: &str, restrict: Option<(u32, u16)>) -> Result<OwnedFd, Box<dyn std::error::Error>> {
    let file = std::fs::File::options().read(true).write(true).open(path)?;
    if let Some((request, domid)) = restrict {
        // SAFETY: the request reads one domid.
        if unsafe { libc::ioctl(file.as_raw_fd(), u64::from(request), &raw const domid) } < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
    }
    Ok(file.into())
}

/// SCHEDOP_remote_shutdown (public/sched.h), which toolstacks use.
pub(crate) fn crash(domid: u16) -> Done {
    let fd = node("/dev/xen/privcmd", None)?;
    let what = [u32::from(domid), 3];
    let call = ioctl::Hypercall { op: 29, arg: [4, what.as_ptr() as u64, 0, 0, 0] };
    // SAFETY: Xen reads a sched_remote_shutdown: a domid and a reason.
    match unsafe { libc::ioctl(fd.as_raw_fd(), u64::from(ioctl::PRIVCMD_HYPERCALL), &raw const call) } {
        0.. => Ok(()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

/// XEN_DOMCTL_settscinfo (public/domctl.h) with TSC_MODE_NEVER_EMULATE. A processor with an invariant counter gives PV domains
/// that by itself; the one that the bed emulates has none, and Xen then emulates every RDTSC.
pub(crate) fn native_tsc(domid: u16) -> Done {
    let fd = node("/dev/xen/privcmd", None)?;
    for version in domctl::VERSIONS.rev() {
        let mut arg = [0u64; 18];
        arg[..5].copy_from_slice(&[60 | u64::from(version) << 32, u64::from(domid), 2, 0, 0]);
        let call = ioctl::Hypercall { op: domctl::HYPERVISOR_DOMCTL, arg: [arg.as_mut_ptr() as u64, 0, 0, 0, 0] };
        // SAFETY: Xen reads one xen_domctl: command and version, domain, mode, frequency and incarnation, elapsed time.
        if unsafe { libc::ioctl(fd.as_raw_fd(), u64::from(ioctl::PRIVCMD_HYPERCALL), &raw const call) } == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EACCES) {
            return Err(error.into());
        }
    }
    Err("this Xen's interface version is not known".into())
}

/// Every attempt with its control run. `domid` is a guest that exists; a descriptor that is restricted to another number
/// stands for a device of another guest.
pub(crate) fn breakout(domid: u16) -> Done {
    let beside = std::env::current_exe()?.with_file_name("bulkhead-hostile");
    let executable = std::fs::File::open(beside)?;
    let own = Some((ioctl::PRIVCMD_RESTRICT, domid));
    let other = Some((ioctl::PRIVCMD_RESTRICT, domid + 1000));
    let (dm_op, map) = (format!("device model operation={domid}"), format!("map guest memory={domid}"));
    let bind = format!("bind an event channel={domid}");
    let (privcmd, evtchn) = ("/dev/xen/privcmd", "/dev/xen/evtchn");
    let killed = Outcome::Killed(libc::SIGSYS);
    let mut failed = false;
    let mut check = |path: &str, restrict, role: &str, layer: &str, attempt: &str, want: &[Outcome]| -> Done {
        let fd = node(path, restrict)?;
        let ids = if layer == "none" { None } else { ids() };
        let outcome = run(executable.as_fd(), role, ids, layer, attempt, Some(fd.as_fd()))?;
        let good = want.contains(&outcome);
        failed |= !good;
        println!(
            "{} {role}, layer {layer}, restricted to {restrict:?}: {attempt}: {outcome:?}",
            if good { "as wanted:" } else { "WRONG:" }
        );
        Ok(())
    };
    // Control runs: without the layer in question, the attempt succeeds.
    check(privcmd, None, "ide", "none", "hypercall", &[Outcome::Worked])?;
    check(privcmd, own, "ide", "none", &dm_op, &[Outcome::Worked])?;
    check(privcmd, own, "ide", "none", &map, &[Outcome::Worked])?;
    check(evtchn, None, "broker", "none", &bind, &[Outcome::Worked])?;
    // (Nothing restricts a grant device: only the filter stands between a back end and every domain's grants.)
    let gntdev = "/dev/xen/gntdev";
    let (name, copy) = (format!("name a granted page={domid}"), format!("copy a granted page={domid}"));
    check(gntdev, None, "qdisk", "none", &name, &[Outcome::Worked])?;
    check(gntdev, None, "qdisk", "none", &copy, &[Outcome::Worked])?;
    // The kernel's restriction alone.
    let refused = [Outcome::Refused(libc::EPERM as u8), Outcome::Refused(libc::EACCES as u8)];
    check(privcmd, own, "ide", "none", "hypercall", &refused)?;
    check(privcmd, other, "ide", "none", &dm_op, &refused)?;
    check(privcmd, other, "ide", "none", &map, &refused)?;
    check(evtchn, Some((ioctl::EVTCHN_RESTRICT_DOMID, domid + 1000)), "broker", "none", &bind, &refused)?;
    // The filter alone, on a descriptor that the kernel has not restricted, and everything together.
    for layer in ["filter", "all"] {
        for profile in PROFILES {
            check(privcmd, None, profile.role, layer, "hypercall", std::slice::from_ref(&killed))?;
            // Restricted, as in a running machine: what may a role that has the descriptor do with it?
            let kind = of_role(profile.role).ok_or("a profile without a kind")?;
            let may_op = if std::ptr::eq(kind, &BROKER) { Outcome::Worked } else { Outcome::Killed(libc::SIGSYS) };
            check(privcmd, own, profile.role, layer, &dm_op, &[may_op])?;
            let may_map = if kind.memory.maps() { Outcome::Worked } else { Outcome::Killed(libc::SIGSYS) };
            check(privcmd, own, profile.role, layer, &map, &[may_map])?;
            for attempt in [&name, &copy] {
                let may_grant = if kind.starts == Starts::WithBackEnds && kind.memory == Memory::Granted {
                    Outcome::Worked
                } else {
                    Outcome::Killed(libc::SIGSYS)
                };
                check(gntdev, None, profile.role, layer, attempt, &[may_grant])?;
            }
            let may_bind = if kind.back_end.is_some() { Outcome::Worked } else { Outcome::Killed(libc::SIGSYS) };
            check(evtchn, Some((ioctl::EVTCHN_RESTRICT_DOMID, domid)), profile.role, layer, &bind, &[may_bind])?;
        }
        check(privcmd, other, "broker", layer, &dm_op, &refused)?;
        check(privcmd, other, "ide", layer, &map, &refused)?;
    }
    if failed { Err("an attempt did not end as it must".into()) } else { Ok(()) }
}
