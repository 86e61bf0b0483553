//! Names of sections.

/// The name of a section: 1 to 24 letters, digits and dashes. Names are stable: a section is found by its name in all releases.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name([u8; Self::LEN]);

impl Name {
    /// Most bytes of a name.
    pub const LEN: usize = 24;
    /// The guest-visible facts of the machine, which the reader compares with its own.
    pub const MACHINE: Self = Self::padded(b"machine");
    /// What the launcher has to know before anything else.
    pub const LAUNCHER: Self = Self::padded(b"launcher");
    /// The broker's state.
    pub const BROKER: Self = Self::padded(b"broker");
    /// The board, whose devices others depend on.
    const PLATFORM: Self = Self::padded(b"platform");

    const fn padded(text: &[u8]) -> Self {
        let (mut bytes, mut to) = ([0; Self::LEN], 0usize);
        let mut rest = text;
        while let [byte, more @ ..] = rest {
            if let Some(place) = bytes.as_mut_slice().split_at_mut(to).1.first_mut() {
                *place = *byte;
            }
            (to, rest) = (to.wrapping_add(1), more);
        }
        Self(bytes)
    }

    /// The name with this text; `None` if it cannot be one.
    pub fn new(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let good = (1..=Self::LEN).contains(&bytes.len()) && bytes.iter().all(|b| allowed(*b));
        good.then(|| Self::padded(bytes))
    }

    /// The name in these bytes, which are padded by zeroes.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Option<Self> {
        let len = bytes.iter().position(|b| *b == 0).unwrap_or(Self::LEN);
        let (name, rest) = bytes.split_at_checked(len)?;
        let good = len > 0 && name.iter().all(|b| allowed(*b)) && rest.iter().all(|b| *b == 0);
        good.then_some(Self(bytes))
    }

    /// Its bytes, padded by zeroes.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        self.0
    }

    /// Its text.
    pub fn text(&self) -> &str {
        let len = self.0.iter().position(|b| *b == 0).unwrap_or(Self::LEN);
        self.0.get(..len).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or_default()
    }

    /// Sections stand in this order: the machine, the launcher, the broker, the board, others by name.
    pub(crate) fn rank(self) -> (usize, [u8; Self::LEN]) {
        let first = [Self::MACHINE, Self::LAUNCHER, Self::BROKER, Self::PLATFORM];
        (first.iter().position(|n| *n == self).unwrap_or(first.len()), self.0)
    }
}

fn allowed(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}
