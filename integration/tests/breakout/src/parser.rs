//! A disk controller whose parsers are compromised, in the place of bulkhead-roles; all other roles are `real-roles` beside it. The
//! disk's first word says where it makes a call that its filter forbids:
//!
//! | word | where |
//! |---|---|
//! | `prepare` | before the filter: the control run, in which the call works |
//! | `build` | where images are read |
//! | `load` | where the state of the process before is read |
//! | `nowhere` | the control run without the call |
use bulkhead_bus::{Access, Context, Declaration, Device, Inspect, IoResult, Reset, StateError};
use bulkhead_plan::FdUse;
use bulkhead_runtime::{Prepared, StartError, run_device};
use std::ffi::CString;
use std::os::fd::AsFd as _;

const ROLE: &str = "ide";

fn main() {
    let role = std::env::args().next().unwrap_or_default();
    if role != ROLE {
        let own = std::fs::read_link("/proc/self/exe").expect("this program's path");
        let real = std::fs::File::open(own.with_file_name("real-roles")).expect("real-roles");
        // The launcher's cage has this way to another program alone.
        let error = bulkhead_policy::become_role(real.as_fd(), &CString::new(role).expect("a role"));
        panic!("real-roles: {error}");
    }
    let result = run_device(ROLE, |_, mut resources| {
        let file = resources.fds.take_all(|what| matches!(what, FdUse::Drive(_)).then_some(())).pop();
        let (_, file) = file.ok_or(Said("no disk"))?;
        let mut bytes = [0; 16];
        let _ = rustix::io::pread(&file, &mut bytes, 0);
        let words = String::from_utf8_lossy(&bytes).into_owned();
        let place = words.split_whitespace().next().unwrap_or_default().to_owned();
        if place == "prepare" {
            forbidden();
            return Err(Said("the call has worked"));
        }
        let build = move || {
            if place == "build" {
                forbidden();
            }
            Ok(Box::new(Hostile { loads: place == "load" }) as Box<dyn Device>)
        };
        Ok(Prepared { polled: Vec::new(), build: Box::new(build) })
    });
    let status = match result {
        Ok(()) => 0,
        Err(e) => say(&e),
    };
    bulkhead_runtime::end(status)
}

fn say(error: &StartError) -> u8 {
    eprintln!("{error}");
    1
}

/// A call that the role's profile does not have.
fn forbidden() {
    // SAFETY: without a pointer the call only returns a number.
    unsafe { libc::getppid() };
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(&'static str);

/// It answers every access; its state is one byte.
struct Hostile {
    loads: bool,
}

impl Device for Hostile {
    fn declaration(&self) -> Declaration {
        bulkhead_dev_blk::ide::declare()
    }
    fn read(&mut self, _: Access, _: &mut Context) -> IoResult<u64> {
        Ok(0x50)
    }
    fn write(&mut self, _: Access, _: u64, _: &mut Context) -> IoResult<()> {
        Ok(())
    }
    fn reset(&mut self, _: Reset, _: &mut Context) {}
    fn checkpoint(&mut self) -> Option<Vec<u8>> {
        Some(self.save())
    }
    fn save(&self) -> Vec<u8> {
        vec![1]
    }
    fn load(&mut self, _: &[u8], _: &mut Context) -> Result<(), StateError> {
        if self.loads {
            forbidden();
        }
        Ok(())
    }
    fn inspect(&self, _: &mut Inspect) {}
}
