//! What each kind of back end may use of `xenbus` and `grant`, which hold it to this. A back end may be compromised; xenstore and the
//! hypervisor's table of mapped grants belong to all guests, so neither may grow with what a back end does.

/// A node that a back end writes in its own directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: &'static str,
    /// Most bytes of its value.
    pub longest: usize,
}

/// The nodes of the handshake, which every back end writes.
const HANDSHAKE: &[Node] = &[Node { name: "state", longest: 1 }, Node { name: "error", longest: 128 }];
/// Most decimal digits of a 32-bit number.
const U32: usize = 10;
/// Most decimal digits of a 64-bit number.
const U64: usize = 20;

/// What a kind of back end may use.
#[derive(Debug, PartialEq, Eq)]
pub struct Means {
    /// The nodes that it writes besides those of the handshake.
    features: &'static [Node],
    /// Most granted pages that one connection maps. With 0 it has no grant device.
    pub connection: u32,
    /// Most granted pages that one life of its process maps, over all its connections. It has room for several connections, because
    /// `grant` cannot know which pages a process has unmapped.
    pub life: u32,
}

impl Means {
    /// All nodes that it may write.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        HANDSHAKE.iter().chain(self.features)
    }

    /// Whether it may write this value to a node of this name.
    pub fn may_write(&self, name: &str, value: &str) -> bool {
        self.nodes().any(|node| node.name == name && value.len() <= node.longest)
    }
}

/// A node with the value 0 or 1.
const fn flag(name: &'static str) -> Node {
    Node { name, longest: 1 }
}

/// A PV disk.
pub static QDISK: Means = Means {
    features: &[
        flag("feature-flush-cache"),
        flag("feature-barrier"),
        flag("feature-discard"),
        flag("feature-persistent"),
        Node { name: "feature-max-indirect-segments", longest: U32 },
        Node { name: "max-ring-page-order", longest: U32 },
        Node { name: "sector-size", longest: U32 },
        Node { name: "sectors", longest: U64 },
        Node { name: "info", longest: U32 },
    ],
    connection: 1104,
    life: 4 * 1104,
};

/// A PV keyboard and pointer.
pub static VKBD: Means = Means {
    features: &[
        flag("feature-abs-pointer"),
        flag("feature-raw-pointer"),
        Node { name: "width", longest: U32 },
        Node { name: "height", longest: U32 },
    ],
    connection: 1,
    life: 64,
};

/// A PV console.
pub static CONSOLE: Means = Means { features: &[], connection: 1, life: 64 };

/// A PV frame buffer. It maps frames of the domain, not grants.
pub static VFB: Means = Means {
    features: &[flag("feature-resize"), flag("feature-update"), flag("request-update")],
    connection: 0,
    life: 0,
};

/// Most calls to `xenbus` that a back end makes after a notice of changed nodes, and after its start. `xenbus` reports a change only
/// while the back end has so many left, so a guest cannot bring its back end to the limit.
pub const CALLS_PER_NOTICE: u32 = 256;
/// Most calls to `xenbus` that a back end has left after a rest; a new life begins with so many.
pub const CALLS: u32 = 8 * CALLS_PER_NOTICE;
/// Calls to `xenbus` that a back end gains in each second.
pub const CALLS_PER_SECOND: u32 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_back_end_writes_its_own_nodes_and_no_longer_values() {
        assert!(QDISK.may_write("state", "4") && QDISK.may_write("sectors", &u64::MAX.to_string()));
        assert!(!QDISK.may_write("state", "44") && !QDISK.may_write("sectors", &"9".repeat(21)));
        assert!(!CONSOLE.may_write("sectors", "1") && !QDISK.may_write("frontend", "1") && !QDISK.may_write("", ""));
    }

    #[test]
    fn all_that_a_back_end_can_leave_in_xenstore_is_small() {
        for means in [&QDISK, &VKBD, &CONSOLE, &VFB] {
            let bytes: usize = means.nodes().map(|node| node.name.len() + node.longest).sum();
            assert!(bytes <= 512 && means.nodes().count() <= 16, "{bytes} bytes");
            // A life serves several connections.
            assert!(means.life >= 4 * means.connection);
        }
    }
}
