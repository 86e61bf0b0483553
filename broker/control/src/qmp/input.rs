//! Keyboard and pointer input by QMP: send-key, input-send-event, x-bulkhead-lights.
use crate::clients::CallError;
use crate::keys;
use crate::outcome::{Outcome, QmpError};
use crate::session_state::Shared;
use bulkhead_control_api::v1;
use bulkhead_control_api::v1::call::Call;
use bulkhead_plan::Input;
use serde_json::{Value, json};
use std::time::Duration;

impl Shared {
    /// x-bulkhead-lights: the state of the PS/2 keyboard's lights.
    pub(super) async fn lights(&self) -> Outcome {
        let slot = self.slot_of(|c| c.kind().input == Input::Keyboard);
        let slot = slot.ok_or_else(|| QmpError::generic("the guest has no keyboard"))?;
        let lights = self.clients.facts(slot).await.and_then(|facts| facts.lights);
        let lights = lights.ok_or_else(|| QmpError::generic("the keyboard's process does not run"))?;
        let shines = |bit: u32| lights >> bit & 1 != 0;
        Ok(json!({ "scroll-lock": shines(0), "num-lock": shines(1), "caps-lock": shines(2) }))
    }

    async fn send_events(&self, events: Vec<v1::InputEvent>) -> Result<(), QmpError> {
        let slot = self.slot_of(|c| c.kind().input == Input::Keyboard);
        let slot = slot.ok_or_else(|| QmpError::generic("the guest has no keyboard"))?;
        self.clients.call(slot, Call::Input(v1::InputEvents { events })).await.map_err(|e| match e {
            CallError::NotRunning => QmpError::generic("the keyboard's process does not run"),
            e => QmpError::generic(e.to_string()),
        })
    }

    /// send-key: presses up to 16 keys, and releases them in reverse order.
    pub(super) async fn send_key(&self, arguments: &Value) -> Outcome {
        let keys = arguments.get("keys").and_then(Value::as_array).filter(|k| !k.is_empty() && k.len() <= 16);
        let keys = keys.ok_or_else(|| QmpError::generic("keys must be a list of 1 to 16 keys"))?;
        let codes: Option<Vec<u16>> = keys.iter().map(keys::of_value).collect();
        let codes = codes.ok_or_else(|| QmpError::generic("an unknown key"))?;
        let hold = arguments.get("hold-time").and_then(Value::as_u64).unwrap_or(100).min(10_000);
        let events = |down: bool, codes: &[u16]| codes.iter().map(|c| key(*c, down)).collect::<Vec<_>>();
        self.send_events(events(true, &codes)).await?;
        tokio::time::sleep(Duration::from_millis(hold)).await;
        let reversed: Vec<u16> = codes.into_iter().rev().collect();
        self.send_events(events(false, &reversed)).await?;
        Ok(json!({}))
    }

    /// input-send-event: sends up to 256 events.
    pub(super) async fn input(&self, arguments: &Value) -> Outcome {
        let events = arguments.get("events").and_then(Value::as_array).filter(|e| e.len() <= 256);
        let events = events.ok_or_else(|| QmpError::generic("events must be a list of at most 256 events"))?;
        let events: Option<Vec<_>> = events.iter().map(input_event).collect();
        let events =
            events.ok_or_else(|| QmpError::generic("an event is neither key, rel nor btn, or its value is unknown"))?;
        self.send_events(events).await.map(|()| json!({}))
    }
}

/// Parses the arguments of `send-key` and `input-send-event` as a session does, without sending anything.
pub(crate) fn exercise(request: &Value) {
    let arguments = request.get("arguments").unwrap_or(request);
    for name in ["events", "keys"] {
        for element in arguments.get(name).and_then(Value::as_array).into_iter().flatten() {
            let _ = (input_event(element), keys::of_value(element));
        }
    }
    let _ = input_event(request);
}

fn key(code: u16, down: bool) -> v1::InputEvent {
    v1::InputEvent { event: Some(v1::input_event::Event::Key(v1::Key { code: u32::from(code), down })) }
}

/// One element of the `events` of input-send-event.
pub(super) fn input_event(value: &Value) -> Option<v1::InputEvent> {
    use v1::input_event::Event;
    let data = value.get("data")?;
    let event = match value.get("type")?.as_str()? {
        "key" => return Some(key(keys::of_value(data.get("key")?)?, data.get("down")?.as_bool()?)),
        "rel" => {
            let by = i32::try_from(data.get("value")?.as_i64()?).ok()?;
            match data.get("axis")?.as_str()? {
                "x" => Event::Move(v1::Move { dx: by, dy: 0, dz: 0 }),
                "y" => Event::Move(v1::Move { dx: 0, dy: by, dz: 0 }),
                _ => return None,
            }
        }
        "btn" => {
            let down = data.get("down")?.as_bool()?;
            match data.get("button")?.as_str()? {
                "left" => Event::Button(v1::Button { button: 0, down }),
                "right" => Event::Button(v1::Button { button: 1, down }),
                "middle" => Event::Button(v1::Button { button: 2, down }),
                "wheel-up" => Event::Move(v1::Move { dx: 0, dy: 0, dz: if down { -1 } else { 0 } }),
                "wheel-down" => Event::Move(v1::Move { dx: 0, dy: 0, dz: if down { 1 } else { 0 } }),
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(v1::InputEvent { event: Some(event) })
}
