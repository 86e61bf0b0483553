//! `-boot`, of which QEMU's tests give several: later keys take the place of earlier ones, and `once` is for the first life.
use super::Pairs;

/// What they come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boot(Vec<(String, String)>);

impl Boot {
    /// One of them.
    pub fn add(&mut self, text: &str) {
        for (key, value) in Pairs::parse("order", text).0 {
            self.0.retain(|(k, _)| *k != key);
            self.0.push((key, value));
        }
    }

    /// bulkhead-dm's arguments in the machine's first life, or in a later one.
    pub fn arguments(&self, first: bool) -> Vec<String> {
        let keys = self.0.iter().filter(|(key, _)| first || key != "once");
        let text: Vec<String> = keys.map(|(key, value)| format!("{key}={value}")).collect();
        if text.is_empty() { Vec::new() } else { vec!["-boot".to_owned(), text.join(",")] }
    }
}
