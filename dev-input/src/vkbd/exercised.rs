//! The back end for its fuzz target and its corpus test.
use super::{INPUT, PAGES, Vkbd, WAITING, means, page};
use bulkhead_bus::exercise::{Kind, Random, Record, Target};
use bulkhead_bus::pv::State;
use bulkhead_bus::pv::exercise::{ACTIONS, Subject, add, event, node, state, word};
use bulkhead_bus::{Auxiliary, Context, InputEvent, Inspect, Ready};

/// The back end with a viewer that types or points whenever there is room.
struct Typed(Vkbd, u16);

impl Auxiliary for Typed {
    fn start(&mut self, cx: &mut Context) {
        self.0.start(cx);
    }
    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        if ready == Ready::Fd(INPUT) && self.0.connected && self.0.waiting.len() < WAITING {
            self.1 = self.1.wrapping_add(1);
            let all = [
                InputEvent::At { x: self.1, y: 2 },
                InputEvent::Key { code: self.1 & 0x7f, down: self.1 & 0x80 == 0 },
                InputEvent::Move { dx: 1, dy: -1, dz: 1 },
                InputEvent::Button { button: (self.1 & 7) as u8, down: self.1 & 8 == 0 },
            ];
            let one = all.get(usize::from(self.1 & 3)).and_then(|e| self.0.event(*e));
            self.0.waiting.extend(one);
        }
        self.0.poll(ready, cx);
    }
    fn running(&mut self, running: bool, cx: &mut Context) {
        self.0.running(running, cx);
    }
    fn at_rest(&self) -> bool {
        self.0.at_rest()
    }
    fn inspect(&self, out: &mut Inspect) {
        self.0.inspect(out);
    }
}

static SUBJECT: Subject = Subject {
    make: |guest, _| Box::new(Typed(Vkbd::new(Box::new(guest.clone()), None, None), 0)),
    pages: PAGES,
    nodes: &["page-gref", "event-channel", "request-abs-pointer"],
    means: &means::VKBD,
};

/// The back end under test.
pub static TARGET: Target = Target {
    actions: ACTIONS,
    recipes: &[connected, typed, read],
    ..Target::new("vkbd", |stage| SUBJECT.host(stage.settings))
};

/// The guest connects.
fn connected(random: &mut Random, to: &mut Vec<Record>) {
    to.push(node(0, "8"));
    to.push(node(1, "17"));
    to.push(node(2, if random.one_in(2) { "1" } else { "0" }));
    to.push(state(State::Initialised));
    if random.one_in(2) {
        to.push(state(State::Connected));
    }
}

/// A viewer types.
fn typed(random: &mut Random, to: &mut Vec<Record>) {
    for _ in 0..=random.below(40) {
        to.push(Record { place: INPUT as u8, ..Record::new(Kind::Ready) });
    }
}

/// The guest reads events, or says that it has.
fn read(random: &mut Random, to: &mut Vec<Record>) {
    let at = page::IN_CONS as u32;
    to.push(if random.one_in(4) { word(at, random.number(4) as u32) } else { add(at, random.below(12) as u8) });
    to.push(event());
}
