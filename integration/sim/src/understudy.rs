//! `bulkhead-understudy`: stands in for `bulkhead-roles` in the tests. Each process becomes the real role, unless a cue waits for its
//! role (see [`bulkhead_sim::Understudies`]): then it goes wrong at that step of its start.
use bulkhead_plan::Ask;
use bulkhead_runtime::{Fds, Process};
use bulkhead_sim::{Cue, REAL_ROLES};
use std::error::Error;
use std::ffi::CString;
use std::os::fd::AsFd as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    bulkhead_policy::end_on_panic();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("understudy: {e}");
            ExitCode::from(4)
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let role = std::env::args().next().unwrap_or_default();
    let own = std::env::current_exe()?;
    let dir = own.parent().ok_or("no directory")?;
    let Some(cue) = Cue::take(dir, &role)? else {
        let real = std::fs::File::open(dir.join(REAL_ROLES))?;
        return Err(bulkhead_policy::become_role(real.as_fd(), &CString::new(role)?).into());
    };
    match cue {
        Cue::DiesAtOnce => return Ok(()),
        Cue::StopsAtOnce => stop(),
        Cue::DiesWithState | Cue::StopsUnsandboxed | Cue::Unfiltered | Cue::StopsUnattached => {}
    }
    let mut process = Process::start(&role)?;
    // It has not sealed its area, so the broker will not take it.
    process.request(Ask::Sealed)?;
    process.await_peer()?;
    match cue {
        Cue::DiesWithState => return Ok(()),
        Cue::StopsUnsandboxed => stop(),
        _ => {}
    }
    process.fds = Fds::default();
    process.confine()?;
    if cue != Cue::Unfiltered {
        process.seal()?;
    }
    process.ready()?;
    Err("the broker has taken an area that is not sealed".into())
}

/// Waits for the launcher's patience to end.
fn stop() -> ! {
    loop {
        std::thread::park();
    }
}
