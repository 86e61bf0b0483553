//! Properties that all processes of a role share. Code that treats roles differently reads a field here; no code compares their
//! names.
use bulkhead_bus::pv::{Means, means};

/// The part of the guest's memory that a process can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// No guest memory.
    None,
    /// All of the guest's RAM: a privcmd restricted to the domain, of which only MMAPBATCH_V2 passes the filter.
    Guest,
    /// Video RAM, mapped before the filter is installed; its privcmd is closed after mapping.
    VideoRam,
    /// Pages that the guest has granted, and that `grant` names for it.
    Granted,
    /// Frames of the domain that the domain names, by a restricted privcmd.
    Frames,
}

impl Memory {
    /// Whether its profile lets it map pages of the domain once the filter is installed.
    pub fn maps(self) -> bool {
        matches!(self, Self::Guest | Self::Frames)
    }
}

/// A process's part in the guest's picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Picture {
    /// It neither draws nor reads the surface.
    None,
    /// It writes a surface.
    Draws,
    /// It reads the surface, and waits until a display has drawn.
    Looks,
}

/// A process's part in the keys and the pointer of viewers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// None.
    None,
    /// The keyboard controller: it receives input that no other device accepts, and has LEDs.
    Keyboard,
    /// It accepts input for devices on USB while the guest has configured them.
    Usb,
    /// It accepts input for the PV keyboard and pointer of its domain while they are connected.
    Pv,
}

/// The event that starts a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starts {
    /// With the machine.
    AtOnce,
    /// When QMP's `device_add` asks for it; the guest may eject it.
    WhenAdded,
    /// When the emulated drive with the same image hands its files off.
    AtHandOff,
    /// With the first back end that it serves.
    WithBackEnds,
}

/// The properties of a role.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// The name of its profile, its argv\[0\], and its name in logs.
    pub role: &'static str,
    /// It has registers that the guest sees: it has a declaration, the broker sends it accesses, and in the simulated machine it
    /// uses the guest's clock.
    pub guest_visible: bool,
    /// The guest memory that it reaches.
    pub memory: Memory,
    /// Its part in the picture.
    pub picture: Picture,
    /// A display that accepts the size which viewers request; or a viewer's server whose viewers, on the network, request a size
    /// and see the keyboard's LEDs.
    pub wishes: bool,
    /// Its part in viewers' input.
    pub input: Input,
    /// The event that starts it, unless its configuration overrides it.
    pub starts: Starts,
    /// The guest waits for it at register accesses: in a stub domain it is SCHED_FIFO, and killed late when memory is short.
    pub urgent: bool,
    /// It stands still while the machine is stopped. Those that serve other processes, or people, go on.
    pub stops: bool,
    /// Of the back end of a PV device: what `xenbus` and `grant` let it use. Its slot is freed when the device is removed.
    pub back_end: Option<&'static Means>,
}

/// A device that the guest sees and that starts with the machine.
const DEVICE: Kind = Kind {
    role: "",
    guest_visible: true,
    memory: Memory::None,
    picture: Picture::None,
    wishes: false,
    input: Input::None,
    starts: Starts::AtOnce,
    urgent: true,
    stops: true,
    back_end: None,
};
/// A process that the guest does not see.
const UNSEEN: Kind = Kind { guest_visible: false, urgent: false, ..DEVICE };

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident: $kind:expr;)*) => {
        $($(#[$doc])* pub static $name: Kind = $kind;)*
        /// All kinds of device processes: for lists in tests.
        pub static KINDS: &[&Kind] = &[$(&$name),*];
    };
}

kinds! {
    /// The board's own registers.
    PLATFORM: Kind { role: "platform", ..DEVICE };
    /// PIIX3's IDE function.
    IDE: Kind { role: "ide", memory: Memory::Guest, ..DEVICE };
    /// Standard VGA.
    VGA: Kind { role: "vga", memory: Memory::VideoRam, picture: Picture::Draws, wishes: true, ..DEVICE };
    /// Keyboard and mouse controller.
    PS2: Kind { role: "ps2", input: Input::Keyboard, ..DEVICE };
    /// The firmware's configuration device, fw_cfg.
    FWCFG: Kind { role: "fwcfg", memory: Memory::Guest, ..DEVICE };
    /// Intel's 82540EM.
    E1000: Kind { role: "e1000", memory: Memory::Guest, ..DEVICE };
    /// Realtek's RTL8139C+.
    RTL8139: Kind { role: "rtl8139", memory: Memory::Guest, ..DEVICE };
    /// A serial port.
    SERIAL: Kind { role: "serial", ..DEVICE };
    /// PIIX3's USB function.
    USB: Kind { role: "usb", memory: Memory::Guest, input: Input::Usb, ..DEVICE };
    /// The picture on a Linux frame buffer.
    FBDEV: Kind { role: "fbdev", picture: Picture::Looks, stops: false, ..UNSEEN };
    /// The picture for viewers that connect by RFB.
    VNC: Kind { role: "vnc", picture: Picture::Looks, wishes: true, stops: false, ..UNSEEN };
    /// QMP over a vchan.
    VCHAN: Kind { role: "vchan", stops: false, ..UNSEEN };
    /// The holder of the connection to xenstored.
    XENBUS: Kind { role: "xenbus", starts: Starts::WithBackEnds, stops: false, ..UNSEEN };
    /// The holder of the devices of granted pages.
    GRANT: Kind { role: "grant", memory: Memory::Granted, starts: Starts::WithBackEnds, stops: false, ..UNSEEN };
    /// The back end of a PV disk.
    QDISK: Kind { role: "qdisk", memory: Memory::Granted, back_end: Some(&means::QDISK), ..UNSEEN };
    /// The back end of a PV keyboard and pointer.
    VKBD: Kind { role: "vkbd", memory: Memory::Granted, input: Input::Pv, back_end: Some(&means::VKBD), ..UNSEEN };
    /// The back end of a PV console.
    CONSOLE: Kind { role: "console", memory: Memory::Granted, back_end: Some(&means::CONSOLE), ..UNSEEN };
    /// The back end of a PV frame buffer.
    VFB: Kind { role: "vfb", memory: Memory::Frames, picture: Picture::Draws, back_end: Some(&means::VFB), ..UNSEEN };
}

/// The kind with this role; control, the broker and `intake` included.
pub fn of_role(role: &str) -> Option<&'static Kind> {
    KINDS.iter().copied().chain([&BROKER, &CONTROL, &INTAKE]).find(|k| k.role == role)
}

/// The broker's kind; it is no device and has no declaration.
pub static BROKER: Kind = Kind { role: "broker", memory: Memory::Guest, urgent: true, ..UNSEEN };
/// Control's kind.
pub static CONTROL: Kind = Kind { role: "control", ..UNSEEN };
/// The kind of the process that answers one question about an image; it has no slot.
pub static INTAKE: Kind = Kind { role: "intake", ..UNSEEN };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_role_of_its_own() {
        let mut roles: Vec<_> = KINDS.iter().map(|k| k.role).collect();
        roles.sort_unstable();
        let all = roles.len();
        roles.dedup();
        assert_eq!(roles.len(), all);
        assert!(roles.iter().all(|r| !r.is_empty()));
    }

    #[test]
    fn only_visible_changes_are_urgent() {
        assert!(KINDS.iter().all(|k| k.urgent == k.guest_visible));
    }
}
