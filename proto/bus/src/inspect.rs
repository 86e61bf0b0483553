//! Registers and counters by name, for people to read.

/// Collects names and values, in groups.
#[derive(Clone, Debug, Default)]
pub struct Inspect {
    prefix: String,
    /// (name, value) in the order in which they were added.
    pub items: Vec<(String, String)>,
}

impl Inspect {
    /// Adds a value.
    pub fn value(&mut self, name: &str, value: impl std::fmt::Display) -> &mut Self {
        self.items.push((format!("{}{name}", self.prefix), value.to_string()));
        self
    }

    /// Adds a number in hexadecimal.
    pub fn hex(&mut self, name: &str, value: impl Into<u64>) -> &mut Self {
        self.value(name, format_args!("{:#x}", value.into()))
    }

    /// Adds a group: all names in it begin with `name.`.
    pub fn group(&mut self, name: &str, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let before = self.prefix.len();
        self.prefix.push_str(name);
        self.prefix.push('.');
        fill(self);
        self.prefix.truncate(before);
        self
    }
}
