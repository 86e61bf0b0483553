//! What is the same for all processes of a role. Whatever else treats roles differently asks here, by a field; nothing
//! compares their names.

/// What of a guest's memory a process can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// None.
    None,
    /// All of the guest's RAM: a privcmd restricted to the domain, of which only MMAPBATCH_V2 passes the filter.
    Guest,
    /// Video RAM, mapped before the filter is on; its privcmd is closed then.
    VideoRam,
    /// Pages that the guest has granted, and that `grant` names for it.
    Granted,
    /// Frames of the domain that the domain names, by a restricted privcmd.
    Frames,
}

impl Memory {
    /// Its profile lets it map pages of the domain once the filter is on.
    pub fn maps(self) -> bool {
        matches!(self, Self::Guest | Self::Frames)
    }
}

/// What a process has to do with the guest's picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Picture {
    /// Nothing.
    None,
    /// It draws on a surface.
    Draws,
    /// It looks at the surface, and waits until somebody draws.
    Looks,
}

/// What a process does with the keys and the pointer of viewers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Nothing.
    None,
    /// It is the keyboard controller: it takes what nobody else wants, and has lights.
    Keyboard,
    /// It takes input for devices on USB while the guest has configured them.
    Usb,
    /// It takes input for the PV keyboard and pointer of its domain while they are connected.
    Pv,
}

/// When a process starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starts {
    /// With the machine.
    AtOnce,
    /// When QMP's `device_add` asks for it; the guest may eject it.
    WhenAdded,
    /// When the emulated drive with the same image hands its files over.
    AtHandOff,
    /// With the first back end that it serves.
    WithBackEnds,
}

/// A role.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// The process's name: its profile, its first argument, its name in logs.
    pub role: &'static str,
    /// The guest sees registers of it: it has a declaration, the broker sends it accesses, and in the simulated machine it lives by
    /// the guest's clock.
    pub guest_visible: bool,
    /// What of the guest's memory it reaches.
    pub memory: Memory,
    /// What it has to do with the picture.
    pub picture: Picture,
    /// It draws the picture and takes the size that viewers wish for; or it looks at the picture for viewers on the network, who wish
    /// for a size and see the keyboard's lights.
    pub wishes: bool,
    /// What it does with the input of viewers.
    pub input: Input,
    /// When it starts, if its configuration says nothing else.
    pub starts: Starts,
    /// The guest waits for it at register accesses: in a stub domain it is SCHED_FIFO, and killed late when memory is short.
    pub urgent: bool,
    /// It is the back end of a PV device: `xenbus` serves it, and its slot is given up when the device goes.
    pub back_end: bool,
}

/// A device that the guest sees, and that starts with the machine.
const DEVICE: Kind = Kind {
    role: "",
    guest_visible: true,
    memory: Memory::None,
    picture: Picture::None,
    wishes: false,
    input: Input::None,
    starts: Starts::AtOnce,
    urgent: true,
    back_end: false,
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
    /// fw_cfg.
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
    FBDEV: Kind { role: "fbdev", picture: Picture::Looks, ..UNSEEN };
    /// The picture for viewers that connect by RFB.
    VNC: Kind { role: "vnc", picture: Picture::Looks, wishes: true, ..UNSEEN };
    /// QMP over a vchan.
    VCHAN: Kind { role: "vchan", ..UNSEEN };
    /// The holder of the connection to xenstored.
    XENBUS: Kind { role: "xenbus", starts: Starts::WithBackEnds, ..UNSEEN };
    /// The holder of the devices of granted pages.
    GRANT: Kind { role: "grant", memory: Memory::Granted, starts: Starts::WithBackEnds, ..UNSEEN };
    /// The back end of a PV disk.
    QDISK: Kind { role: "qdisk", memory: Memory::Granted, back_end: true, ..UNSEEN };
    /// The back end of a PV keyboard and pointer.
    VKBD: Kind { role: "vkbd", memory: Memory::Granted, input: Input::Pv, back_end: true, ..UNSEEN };
    /// The back end of a PV console.
    CONSOLE: Kind { role: "console", memory: Memory::Granted, back_end: true, ..UNSEEN };
    /// The back end of a PV frame buffer.
    VFB: Kind { role: "vfb", memory: Memory::Frames, picture: Picture::Draws, back_end: true, ..UNSEEN };
}

/// The kind of the process with this role; of control and the broker too.
pub fn of_role(role: &str) -> Option<&'static Kind> {
    KINDS.iter().copied().chain([&BROKER, &CONTROL]).find(|k| k.role == role)
}

/// The broker.
pub static BROKER: Kind = Kind { role: "broker", memory: Memory::Guest, urgent: true, ..UNSEEN };
/// Control.
pub static CONTROL: Kind = Kind { role: "control", ..UNSEEN };

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
    fn only_what_the_guest_sees_is_urgent() {
        assert!(KINDS.iter().all(|k| k.urgent == k.guest_visible));
    }
}
