//! PV disks that nobody serves now: of an emulated drive until the guest unplugs it, CDs, formats that are not served. A guest's driver
//! that comes to one of them would wait for ever: OVMF's waits for its back end to connect or to close, before any operating system
//! has unplugged anything. It is told that the back end is closed, and goes on with the emulated drive. When the guest starts that
//! front end anew (Linux does it for one that a driver before it has left), the back end is made anew too (xen/include/public/io/xenbus.h).
use bulkhead_bus::pv::State;
use bulkhead_xen::{XenError, Xenstore};

/// PV disks of a domain that are looked at.
const DISKS: usize = 64;

/// A connection for answers. It is not the one that watches: news that comes among answers is in no descriptor any more.
pub(crate) struct Answers {
    xenstore: Xenstore,
    /// xenstored has not answered: what it says later would be taken for another answer.
    silent: bool,
}

impl Answers {
    pub(crate) fn connect() -> Result<Self, XenError> {
        Ok(Self { xenstore: Xenstore::connect()?, silent: false })
    }

    /// Whether it can be used again.
    pub(crate) fn is_good(&self) -> bool {
        !self.silent
    }

    fn heard<T>(&mut self, answer: Result<T, XenError>) -> Option<T> {
        self.silent |= answer.as_ref().is_err_and(|e| !e.is_answer());
        answer.ok()
    }
}

/// xenstore, as far as it is needed.
pub(crate) trait Nodes {
    fn names(&mut self, path: &str) -> Vec<String>;
    fn value(&mut self, path: &str) -> Option<String>;
    fn set(&mut self, path: &str, value: &str) -> bool;
}

impl Nodes for Answers {
    fn names(&mut self, path: &str) -> Vec<String> {
        // A directory that is not there and one of which nothing is heard look alike.
        if self.value(path).is_none() && self.silent { Vec::new() } else { self.xenstore.directory(path) }
    }
    fn value(&mut self, path: &str) -> Option<String> {
        if self.silent {
            return None;
        }
        let answer = self.xenstore.read(path);
        self.heard(answer)
    }
    fn set(&mut self, path: &str, value: &str) -> bool {
        if self.silent {
            return false;
        }
        let answer = self.xenstore.write(path, value);
        self.heard(answer).is_some()
    }
}

/// The next state of a back end that nobody serves; `kept`: who runs the host does not take it away.
fn next(front: State, back: State, kept: bool) -> Option<State> {
    match (front, back) {
        // It has named its ring, or ends; or who runs the host wants the back end to end.
        (State::Initialised | State::Connected | State::Closing, back) if back != State::Closed => Some(State::Closed),
        (State::Closed, State::InitWait | State::Initialised | State::Connected) => Some(State::Closed),
        (_, State::Closing) => Some(State::Closed),
        // It begins anew.
        (State::Initialising, State::Closed) if kept => Some(State::InitWait),
        _ => None,
    }
}

/// Answers the front ends of a domain's disks that are not `served`; the disks that were closed to a driver, by number.
pub(crate) fn answer(domid: u16, nodes: &mut impl Nodes, served: impl Fn(u32) -> bool) -> Vec<u32> {
    let top = format!("/local/domain/0/backend/qdisk/{domid}");
    let ids: Vec<u32> = nodes.names(&top).iter().filter_map(|id| id.parse().ok()).collect();
    let mut closed = Vec::new();
    for devid in ids.into_iter().filter(|devid| !served(*devid)).take(DISKS) {
        let back = format!("{top}/{devid}");
        let own = State::of(nodes.value(&format!("{back}/state")).as_deref());
        // dom0 has written where the front end is. It is looked at last: a directory that has gone must not be made anew.
        let Some(front) = nodes.value(&format!("{back}/frontend")) else { continue };
        let there = State::of(nodes.value(&format!("{front}/state")).as_deref());
        let kept = nodes.value(&format!("{back}/online")).as_deref() != Some("0");
        let Some(state) = next(there, own, kept) else { continue };
        if nodes.value(&format!("{back}/frontend")).is_none() {
            continue;
        }
        if nodes.set(&format!("{back}/state"), &(state as u8).to_string())
            && state == State::Closed
            && matches!(there, State::Initialised | State::Connected)
        {
            closed.push(devid);
        }
    }
    closed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

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
        fn set(&mut self, path: &str, value: &str) -> bool {
            self.insert(path.to_owned(), value.to_owned());
            true
        }
    }

    const DISK: u32 = 768;
    const CD: u32 = 5632;

    /// As libxl leaves a disk's nodes: both ends in state 1.
    fn made(devids: &[u32]) -> BTreeMap<String, String> {
        let mut nodes = BTreeMap::new();
        for devid in devids {
            let (back, front) = (back(*devid), front(*devid));
            nodes.insert(format!("{back}/frontend"), front.clone());
            nodes.insert(format!("{back}/online"), "1".into());
            nodes.insert(format!("{back}/state"), "1".into());
            nodes.insert(format!("{front}/state"), "1".into());
        }
        nodes
    }
    fn back(devid: u32) -> String {
        format!("/local/domain/0/backend/qdisk/7/{devid}")
    }
    fn front(devid: u32) -> String {
        format!("/local/domain/7/device/vbd/{devid}")
    }
    fn says(nodes: &mut BTreeMap<String, String>, devid: u32, state: &str) {
        nodes.insert(format!("{}/state", front(devid)), state.to_owned());
    }
    fn hears(nodes: &BTreeMap<String, String>, devid: u32) -> &str {
        &nodes[&format!("{}/state", back(devid))]
    }

    #[test]
    fn a_front_end_that_comes_before_the_unplug_is_told_that_the_back_end_is_closed() {
        let mut nodes = made(&[DISK, CD]);
        assert!(answer(7, &mut nodes, |_| false).is_empty());
        assert_eq!((hears(&nodes, DISK), hears(&nodes, CD)), ("1", "1"), "nobody has come");
        // OVMF's driver says 4 at once and waits for 4 or more; others say 3 first. CDs have a driver there too.
        says(&mut nodes, DISK, "4");
        says(&mut nodes, CD, "3");
        assert_eq!(answer(7, &mut nodes, |_| false), [CD, DISK]);
        assert_eq!((hears(&nodes, DISK), hears(&nodes, CD)), ("6", "6"));
        assert!(answer(7, &mut nodes, |_| false).is_empty(), "once");
        // Linux finds a front end in state 4, makes it anew, and waits five seconds for the back end to do so too.
        says(&mut nodes, CD, "1");
        answer(7, &mut nodes, |devid| devid == DISK);
        assert_eq!((hears(&nodes, DISK), hears(&nodes, CD)), ("6", "2"), "the disk is its own process' by now");
    }

    #[test]
    fn a_back_end_that_is_served_is_left_alone() {
        let mut nodes = made(&[DISK]);
        says(&mut nodes, DISK, "4");
        assert!(answer(7, &mut nodes, |devid| devid == DISK).is_empty());
        assert_eq!(hears(&nodes, DISK), "1");
    }

    #[test]
    fn what_the_toolstack_takes_away_is_closed_and_not_opened_again() {
        let mut nodes = made(&[CD]);
        nodes.insert(format!("{}/online", back(CD)), "0".into());
        nodes.insert(format!("{}/state", back(CD)), "5".into());
        answer(7, &mut nodes, |_| false);
        answer(7, &mut nodes, |_| false);
        assert_eq!(hears(&nodes, CD), "6");
        nodes.retain(|path, _| !path.starts_with(&back(CD)));
        says(&mut nodes, CD, "4");
        answer(7, &mut nodes, |_| false);
        assert!(nodes.keys().all(|path| !path.starts_with(&back(CD))), "a directory that has gone is not made anew");
    }

    proptest! {
        #[test]
        fn whatever_a_guest_says_it_comes_to_rest(said in proptest::collection::vec("[0-9]{0,2}", 1..20)) {
            let mut nodes = made(&[DISK]);
            for state in said {
                says(&mut nodes, DISK, &state);
                answer(7, &mut nodes, |_| false);
                let first = hears(&nodes, DISK).to_owned();
                answer(7, &mut nodes, |_| false);
                prop_assert_eq!(hears(&nodes, DISK), &first);
                // Nobody waits: who has come is answered by the end.
                prop_assert!(!matches!(state.as_str(), "3" | "4" | "5") || first == "6");
            }
            prop_assert!(nodes.keys().all(|k| k.matches('/').count() == 8 || !k.contains("backend")));
        }
    }
}
