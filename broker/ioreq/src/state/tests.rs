use super::*;
use crate::dispatcher::tests::Bench;
use bulkhead_bus::pci::Decode;

#[test]
fn what_the_guest_has_decoded_and_unplugged_is_so_in_the_next_machine() {
    let mut old = Bench::new(1);
    for (i, channel) in old.dispatcher.channels.iter_mut().enumerate() {
        (channel.declaration.unplug, channel.declaration.unplug_removes) = if i == 0 { (2, true) } else { (5, false) };
    }
    let bdf = old.dispatcher.channels[0].functions[0].spec.bdf();
    let bars: Vec<_> = old.dispatcher.channels[0].functions[0].spec.bars.iter().enumerate().collect();
    let (number, bar) = bars.into_iter().find_map(|(i, bar)| Some((i, (*bar)?))).unwrap();
    let at = BARS[number];
    old.dispatcher.config_written(0, bdf, at, 4, bar.size.max(0x4000));
    old.dispatcher.config_written(0, bdf, reg::COMMAND, 2, 7);
    let decoded = old.dispatcher.channels[0].functions[0].decoded;
    assert_ne!(decoded, Decode::default());
    old.dispatcher.channels[1].presence.change(Change::UnplugParts);
    old.dispatcher.channels[1].unplugged_parts = 4;
    old.dispatcher.set_rom_writable(false);
    let state = old.dispatcher.save().unwrap();

    let mut new = Bench::new(1);
    for (i, channel) in new.dispatcher.channels.iter_mut().enumerate() {
        (channel.declaration.unplug, channel.declaration.unplug_removes) = if i == 0 { (2, true) } else { (5, false) };
    }
    new.dispatcher.edge.calls.clear();
    assert_eq!(new.dispatcher.load(&state), Ok(()));
    assert_eq!(new.dispatcher.channels[0].functions[0].decoded, decoded);
    assert!(new.dispatcher.edge.calls.contains(&"rom false".to_owned()), "{:?}", new.dispatcher.edge.calls);
    assert_eq!(new.dispatcher.save().unwrap(), state);
    assert_eq!(new.dispatcher.take_actions(), [], "the machine does not run yet");
    new.dispatcher.stop(false);
    let slot = new.dispatcher.channels[1].slot;
    assert_eq!(new.dispatcher.take_actions(), [Action::PartsUnplugged(slot, 4)]);
    new.dispatcher.stop(false);
    assert_eq!(new.dispatcher.take_actions(), [], "once");
}

/// Found by reading Xen: it keeps an ioreq server as long as the domain lives, and asks the first one that has an address.
#[test]
fn after_a_soft_reset_the_former_ioreq_server_ends_and_no_other() {
    let state = BrokerState::decode(Bench::new(1).dispatcher.save().unwrap().as_slice()).unwrap();
    let replaced = |boot: &str, domid: u32, id: u32| {
        let mut s = state.clone();
        s.server = Some(ServerState { boot: boot.into(), domid, id });
        let mut new = Bench::new(1);
        new.dispatcher.domain = Domain { boot: "this".into(), domid: 3 };
        new.dispatcher.load(&s.encode_to_vec()).unwrap();
        new.dispatcher.edge.calls.into_iter().filter(|c| c.starts_with("replace")).collect::<Vec<_>>()
    };
    assert_eq!(replaced("this", 3, 6), ["replace 6"]);
    // Its own; another boot's; another domain's; nobody's.
    for (boot, domid, id) in [("this", 3, 7), ("other", 3, 6), ("this", 4, 6), ("", 3, 6), ("this", 3, 1 << 16)] {
        assert_eq!(replaced(boot, domid, id), Vec::<String>::new());
    }
}

#[test]
fn a_state_of_another_machine_is_refused() {
    let bench = || Bench::new(1);
    let state = BrokerState::decode(bench().dispatcher.save().unwrap().as_slice()).unwrap();
    let refused = |change: &dyn Fn(&mut BrokerState)| {
        let mut other = state.clone();
        change(&mut other);
        bench().dispatcher.load(&other.encode_to_vec())
    };
    assert_eq!(refused(&|_| {}), Ok(()));
    assert_eq!(refused(&|s| s.version = 2), Err(StateError::Version(2, VERSION)));
    assert_eq!(refused(&|s| s.video_ram = 1), Err(StateError::Value("place of video RAM")));
    assert_eq!(refused(&|s| s.functions[0].bdf = 0xfff8), Err(StateError::Value("function")));
    assert_eq!(refused(&|s| s.functions[0].bdf = 1 << 16), Err(StateError::Value("function")));
    assert!(refused(&|s| s.functions[0].bars.truncate(5)).is_err());
    assert!(refused(&|s| s.functions = vec![s.functions[0].clone(); MOST + 1]).is_err());
    for (name, parts) in [("none", 0), ("", 1 << 16)] {
        let wrong = UnpluggedState { name: name.into(), parts };
        assert!(refused(&|s| s.unplugged.push(wrong.clone())).is_err());
    }
    assert!(matches!(bench().dispatcher.load(b"\xff\xff"), Err(StateError::Decode(_))));
    assert_eq!(saved_video_ram(b"\xff"), None);
}
