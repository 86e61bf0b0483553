//! Answers drivers that connect to a PV disk which no process serves now: the disk of an emulated drive before the unplug, a CD, or
//! an image of another format. Without an answer the driver would wait for ever: OVMF's driver waits until its back end connects or
//! closes, before any operating system has unplugged a drive. The answer is a closed back end, and the driver goes on with the
//! emulated drive. When a later driver opens the front end again (Linux does so), the back end opens again too (Xen's
//! public/io/xenbus.h).
use crate::nodes::Nodes;
use crate::store::Write;
use bulkhead_bus::pv::State;

/// Most PV disks of a domain that are answered.
const DISKS: usize = 64;

/// The answer to a front end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) devid: u32,
    /// The back end's state. Its directory is not made anew if it has gone.
    pub(crate) write: Write,
    /// It is closed to a driver that has come.
    pub(crate) closes: bool,
}

/// The next state of a back end that is not served; `None`: it stays. `kept`: the toolstack does not remove the back end.
fn next(front: State, back: State, kept: bool) -> Option<State> {
    match (front, back) {
        // The driver has named its ring or ends, or the toolstack ends the back end.
        (State::Initialised | State::Connected | State::Closing, back) if back != State::Closed => Some(State::Closed),
        (State::Closed, State::InitWait | State::Initialised | State::Connected) => Some(State::Closed),
        (_, State::Closing) => Some(State::Closed),
        // The driver opens the front end again.
        (State::Initialising, State::Closed) if kept => Some(State::InitWait),
        _ => None,
    }
}

/// The answers to the front ends of a domain's disks that are not `served`.
pub(crate) fn answers(domid: u16, nodes: &mut impl Nodes, served: impl Fn(u32) -> bool) -> Vec<Answer> {
    let top = format!("/local/domain/0/backend/qdisk/{domid}");
    let ids: Vec<u32> = nodes.names(&top).iter().filter_map(|id| id.parse().ok()).collect();
    let mut answers = Vec::new();
    for devid in ids.into_iter().filter(|devid| !served(*devid)).take(DISKS) {
        let back = format!("{top}/{devid}");
        let own = State::of(nodes.value(&format!("{back}/state")).as_deref());
        let kept = nodes.value(&format!("{back}/online")).as_deref() != Some("0");
        // dom0 has written this node.
        let Some(front) = nodes.value(&format!("{back}/frontend")) else { continue };
        let there = State::of(nodes.value(&format!("{front}/state")).as_deref());
        let Some(state) = next(there, own, kept) else { continue };
        let closes = state == State::Closed && matches!(there, State::Initialised | State::Connected);
        let [there, path] = ["frontend", "state"].map(|name| format!("{back}/{name}"));
        let write = Write { there, path, value: (state as u8).to_string(), lines: [None, None] };
        answers.push(Answer { devid, write, closes });
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Answers as the launcher does. Returns the numbers of the disks that were closed to a driver.
    fn answer(domid: u16, nodes: &mut BTreeMap<String, String>, served: impl Fn(u32) -> bool) -> Vec<u32> {
        let answers = answers(domid, nodes, served);
        for Answer { write, .. } in &answers {
            if nodes.contains_key(&write.there) {
                nodes.insert(write.path.clone(), write.value.clone());
            }
        }
        answers.iter().filter(|a| a.closes).map(|a| a.devid).collect()
    }

    const DISK: u32 = 768;
    const CD: u32 = 5632;

    /// A disk's nodes after libxl has made them: both ends in state 1.
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
        // OVMF's driver writes 4 at once and waits for 4 or more; others write 3 first. OVMF has a driver for CDs too.
        says(&mut nodes, DISK, "4");
        says(&mut nodes, CD, "3");
        assert_eq!(answer(7, &mut nodes, |_| false), [CD, DISK]);
        assert_eq!((hears(&nodes, DISK), hears(&nodes, CD)), ("6", "6"));
        assert!(answer(7, &mut nodes, |_| false).is_empty(), "once");
        // Linux finds a front end in state 4, opens it again, and waits five seconds for the back end.
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
                // No driver waits: each one that has connected is answered at the end.
                prop_assert!(!matches!(state.as_str(), "3" | "4" | "5") || first == "6");
            }
            prop_assert!(nodes.keys().all(|k| k.matches('/').count() == 8 || !k.contains("backend")));
        }
    }
}
