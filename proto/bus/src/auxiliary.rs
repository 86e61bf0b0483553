//! Processes that run like devices but are invisible to the guest: no registers, no state that survives a restart.
use crate::{
    Access, Callers, Context, Declaration, Device, Display, Inspect, IoError, IoResult, Ready, Reset, StateError,
    Viewers,
};

/// The work of such a process.
pub trait Auxiliary: Send {
    /// Starts the work; called once per process.
    fn start(&mut self, cx: &mut Context) {
        let _ = cx;
    }

    /// A timer, descriptor or left-over work became ready.
    fn poll(&mut self, ready: Ready, cx: &mut Context);

    /// See [`Device::running`].
    fn running(&mut self, running: bool, cx: &mut Context) {
        let _ = (running, cx);
    }

    /// See [`Device::at_rest`].
    fn at_rest(&self) -> bool {
        true
    }

    /// See [`Device::display`].
    fn display(&mut self) -> Option<&mut dyn Display> {
        None
    }

    /// See [`Device::viewers`].
    fn viewers(&mut self) -> Option<&mut dyn Viewers> {
        None
    }

    /// See [`Device::callers`].
    fn callers(&mut self) -> Option<&mut dyn Callers> {
        None
    }

    /// Collects values by name for people to read.
    fn inspect(&self, out: &mut Inspect);
}

/// Wraps an auxiliary as a device without registers, for the process's event loop.
#[derive(Debug)]
pub struct Unseen<T>(pub T);

impl<T: Auxiliary> Device for Unseen<T> {
    fn declaration(&self) -> Declaration {
        Declaration::default()
    }

    fn read(&mut self, _: Access, _: &mut Context) -> IoResult<u64> {
        Err(IoError::NoRegister)
    }

    fn write(&mut self, _: Access, _: u64, _: &mut Context) -> IoResult<()> {
        Err(IoError::NoRegister)
    }

    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        self.0.poll(ready, cx);
    }

    fn reset(&mut self, _: Reset, cx: &mut Context) {
        self.0.start(cx);
    }

    fn running(&mut self, running: bool, cx: &mut Context) {
        self.0.running(running, cx);
    }

    fn at_rest(&self) -> bool {
        self.0.at_rest()
    }

    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    fn load(&mut self, _: &[u8], _: &mut Context) -> Result<(), StateError> {
        Ok(())
    }

    fn display(&mut self) -> Option<&mut dyn Display> {
        self.0.display()
    }

    fn viewers(&mut self) -> Option<&mut dyn Viewers> {
        self.0.viewers()
    }

    fn callers(&mut self) -> Option<&mut dyn Callers> {
        self.0.callers()
    }

    fn inspect(&self, out: &mut Inspect) {
        self.0.inspect(out);
    }
}
