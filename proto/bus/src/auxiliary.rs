//! Processes that are run like devices and of which the guest sees nothing: no registers, no state that a restart keeps.
use crate::{Access, Context, Declaration, Device, Inspect, IoError, IoResult, Ready, Reset, StateError, Surface};
use rustix::fd::OwnedFd;

/// What such a process does.
pub trait Auxiliary: Send {
    /// Begins.
    fn start(&mut self, cx: &mut Context) {
        let _ = cx;
    }

    /// A timer, descriptor or left-over work became ready.
    fn poll(&mut self, ready: Ready, cx: &mut Context);

    /// Takes the surface of a display that was started again (viewers).
    fn set_surface(&mut self, surface: OwnedFd) {
        let _ = surface;
    }

    /// Takes the password of who may look and type (servers of viewers).
    ///
    /// # Errors
    /// This is none, or nobody is asked for one.
    fn set_password(&mut self, password: &[u8]) -> Result<(), String> {
        let _ = password;
        Err("this process asks nobody for a password".into())
    }

    /// Brings the surface to what is to be seen now (what draws for viewers).
    fn refresh(&mut self, surface: &mut dyn Surface) {
        let _ = surface;
    }

    /// The picture as a PNG (what draws for viewers).
    fn screenshot(&mut self) -> Option<Vec<u8>> {
        None
    }

    /// For people.
    fn inspect(&self, out: &mut Inspect);
}

/// The device that the process's event loop runs in its place.
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

    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    fn load(&mut self, _: &[u8], _: &mut Context) -> Result<(), StateError> {
        Ok(())
    }

    fn set_surface(&mut self, surface: OwnedFd) {
        self.0.set_surface(surface);
    }

    fn set_password(&mut self, password: &[u8]) -> Result<(), String> {
        self.0.set_password(password)
    }

    fn refresh(&mut self, surface: &mut dyn Surface) {
        self.0.refresh(surface);
    }

    fn screenshot(&mut self) -> Option<Vec<u8>> {
        self.0.screenshot()
    }

    fn inspect(&self, out: &mut Inspect) {
        self.0.inspect(out);
    }
}
