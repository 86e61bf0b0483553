//! Past events, for clients that cannot keep a connection open.
use serde_json::{Value, json};
use std::collections::VecDeque;

/// Most events that are kept.
const REMEMBERED: usize = 64;

/// The last events, oldest first; an event's number counts from 1.
#[derive(Default)]
pub(crate) struct Past {
    events: VecDeque<Value>,
    last: u64,
}

impl Past {
    /// Adds an event, and drops the oldest if there are [`REMEMBERED`].
    pub(crate) fn push(&mut self, event: Value) {
        if self.events.len() >= REMEMBERED {
            self.events.pop_front();
        }
        self.events.push_back(event);
        self.last = self.last.saturating_add(1);
    }

    /// The kept events after number `after`, and the number of the last event.
    pub(crate) fn since(&self, after: u64) -> Value {
        let new = usize::try_from(self.last.saturating_sub(after)).unwrap_or(usize::MAX).min(self.events.len());
        let events: Vec<&Value> = self.events.iter().skip(self.events.len().saturating_sub(new)).collect();
        json!({ "last": self.last, "events": events })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_numbered_and_the_oldest_are_forgotten() {
        let mut past = Past::default();
        assert_eq!(past.since(0), json!({ "last": 0, "events": [] }));
        for i in 1..=70 {
            past.push(json!(i));
        }
        assert_eq!(past.since(68), json!({ "last": 70, "events": [69, 70] }));
        assert_eq!((past.since(70)["events"].clone(), past.since(99)["events"].clone()), (json!([]), json!([])));
        assert_eq!(
            (past.since(0)["events"].as_array().unwrap().len(), past.since(0)["events"][0].clone()),
            (64, json!(7))
        );
    }
}
