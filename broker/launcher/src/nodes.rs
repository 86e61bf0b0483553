//! Nodes of xenstore: read at once at the start, and found by a look ([`Seen`]) while the guest runs.
use bulkhead_xen::Xenstore;
use std::collections::BTreeMap;

/// Reads nodes. A node that cannot be read counts as missing.
pub(crate) trait Nodes {
    /// The names below a node, sorted.
    fn names(&mut self, path: &str) -> Vec<String>;
    /// The value of a node.
    fn value(&mut self, path: &str) -> Option<String>;
}

/// Waits for each answer, up to five seconds: for the start alone.
impl Nodes for Xenstore {
    fn names(&mut self, path: &str) -> Vec<String> {
        self.directory(path)
    }
    fn value(&mut self, path: &str) -> Option<String> {
        self.read(path).ok()
    }
}

/// Most nodes of a look.
const MOST: usize = 2048;
/// Longest path that is asked for.
const LONGEST: usize = 1024;

/// A question about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// The names below it.
    Names(String),
    /// Its value.
    Value(String),
}

/// The nodes that a look has found. A node that is not there yet counts as missing, and is noted: whoever reads here reads again
/// when xenstored has told what was noted, until nothing is.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    names: BTreeMap<String, Vec<String>>,
    values: BTreeMap<String, Option<String>>,
    wanted: Vec<Question>,
}

impl Seen {
    /// What was read and is not there.
    pub(crate) fn take_wanted(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.wanted)
    }

    /// Notes xenstored's answer; `None`: an error.
    pub(crate) fn learn(&mut self, question: Question, answer: Option<&[u8]>) {
        match question {
            Question::Names(path) => {
                let names = answer.map(bulkhead_xen::XenstoreQueue::names).unwrap_or_default();
                self.names.insert(path, names);
            }
            Question::Value(path) => {
                self.values.insert(path, answer.map(bulkhead_xen::XenstoreQueue::value));
            }
        }
    }

    fn want(&mut self, question: Question, path: &str) {
        let known = self.names.len().saturating_add(self.values.len()).saturating_add(self.wanted.len());
        if known < MOST && path.len() <= LONGEST && !self.wanted.contains(&question) {
            self.wanted.push(question);
        }
    }
}

impl Nodes for Seen {
    fn names(&mut self, path: &str) -> Vec<String> {
        if let Some(names) = self.names.get(path) {
            return names.clone();
        }
        self.want(Question::Names(path.to_owned()), path);
        Vec::new()
    }

    fn value(&mut self, path: &str) -> Option<String> {
        if let Some(value) = self.values.get(path) {
            return value.clone();
        }
        self.want(Question::Value(path.to_owned()), path);
        None
    }
}

/// Nodes of a test.
#[cfg(test)]
impl Nodes for BTreeMap<String, String> {
    fn names(&mut self, path: &str) -> Vec<String> {
        let below = |k: &String| Some(k.strip_prefix(path)?.strip_prefix('/')?.split('/').next()?.to_owned());
        let mut names: Vec<String> = self.keys().filter_map(below).collect();
        names.dedup();
        names
    }
    fn value(&mut self, path: &str) -> Option<String> {
        self.get(path).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_has_an_end_whatever_there_is() {
        let mut seen = Seen::default();
        let mut rounds = 0;
        loop {
            // Each name leads to more.
            let names = seen.names("/top");
            for path in names.iter().map(|n| format!("/top/{n}")).chain(["x".repeat(5000)]) {
                seen.value(&path);
                seen.names(&path);
            }
            let wanted = seen.take_wanted();
            if wanted.is_empty() {
                break;
            }
            rounds += 1;
            let names: String = (0..3000).map(|n| format!("{n}\0")).collect();
            wanted.into_iter().for_each(|q| seen.learn(q, Some(names.as_bytes())));
        }
        assert_eq!((rounds, seen.names.len() + seen.values.len()), (2, MOST));
    }
}
