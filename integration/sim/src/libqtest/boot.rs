//! `-boot`, which QEMU's tests pass several times: later keys override earlier ones, and `once` applies to the first start only.
use super::Pairs;

/// The keys and values of all `-boot` options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boot(Vec<(String, String)>);

impl Boot {
    /// Adds the keys of one `-boot`.
    pub fn add(&mut self, text: &str) {
        for (key, value) in Pairs::parse("order", text).0 {
            self.0.retain(|(k, _)| *k != key);
            self.0.push((key, value));
        }
    }

    /// bulkhead-dm's arguments for the machine's first start, or for one after a reset.
    pub fn arguments(&self, first: bool) -> Vec<String> {
        let keys = self.0.iter().filter(|(key, _)| first || key != "once");
        let text: Vec<String> = keys.map(|(key, value)| format!("{key}={value}")).collect();
        if text.is_empty() { Vec::new() } else { vec!["-boot".to_owned(), text.join(",")] }
    }
}
