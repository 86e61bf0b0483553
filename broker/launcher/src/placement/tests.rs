use super::choose::{Load, better, first, permille, since, waits_for_others, works_alone};
use super::host::{Host, Spent, parse_interrupts, parse_loads, parse_spent};
use super::*;
use std::cell::RefCell;

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_setting_is_a_word_or_a_list() {
    assert_eq!(Placement::try_from("together"), Ok(Placement::Together));
    assert_eq!(Placement::try_from("free"), Ok(Placement::Free));
    assert_eq!(Placement::try_from("0-3,6"), Ok(Placement::Among(vec![0, 1, 2, 3, 6])));
    assert_eq!(Placement::try_from("6,1-1,6"), Ok(Placement::Among(vec![1, 6])));
    for wrong in ["", "apart", "Free", "3-1", "0,", "-1", "0-", "1024", "0-99999999999", "0 1", "+1-2-3"] {
        assert!(Placement::try_from(wrong).unwrap_err().contains("together, free, or a list"), "{wrong}");
    }
}

#[test]
fn the_first_cpu_is_an_idle_one_and_guests_take_turns() {
    let loads = [(0, 100), (1, 900), (2, 0), (3, 200)];
    let taken: Vec<_> = (0..4).map(|turn| first(&[0, 1, 2, 3], &loads, turn).unwrap()).collect();
    assert_eq!(taken, [0, 2, 3, 0]);
    assert_eq!(first(&[1], &loads, 7), Some(1));
    assert_eq!(first(&[], &loads, 0), None);
    // A CPU that /proc/stat does not show is offline.
    assert_eq!(first(&[2, 9], &loads, 1), Some(2));
}

#[test]
fn a_cpu_is_left_for_one_that_is_clearly_less_loaded_by_others() {
    let all = [0, 1];
    assert_eq!(better(&all, &[(0, 1000), (1, 0)], 0, 300), Some(1), "another process takes the rest");
    assert_eq!(better(&all, &[(0, 1000), (1, 0)], 0, 1000), None, "all of it is the guest's own work");
    assert_eq!(better(&all, &[(0, 1000), (1, 600)], 0, 300), None, "not clearly");
    assert_eq!(better(&all, &[(0, 1000), (1, 1000)], 0, 300), None, "all are full");
    assert_eq!(better(&[0], &[(0, 1000), (1, 0)], 0, 0), None, "there is no other");
}

#[test]
fn threads_that_wait_for_each_other_do_not_wait_for_others() {
    let ns = |ms: u64| ms * 1_000_000;
    assert!(!waits_for_others(ns(300), ns(300), 400 * MS));
    assert!(waits_for_others(ns(100), ns(150), 400 * MS));
    assert!(!waits_for_others(ns(1), ns(30), 400 * MS));
    assert_eq!((permille(ns(100), 400 * MS), permille(1, Duration::ZERO)), (250, 1_000));
}

#[test]
fn a_device_that_works_without_pause_is_let_go_and_comes_back_when_it_rests() {
    let ns = |ms: u64| ms * 1_000_000;
    assert!(works_alone(ns(390), 400 * MS, false) && !works_alone(ns(250), 400 * MS, false));
    assert!(works_alone(ns(250), 400 * MS, true) && !works_alone(ns(150), 400 * MS, true));
    assert!(!works_alone(0, Duration::ZERO, false));
}

#[test]
fn the_kernels_figures_are_read() {
    let text =
        "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 2 3 40 5 6 7 8 1 0\ncpu12 100 0 0 300 0 0 0 0 0 0\nintr 5\ncpufreq 1 2 3\n";
    let first = parse_loads(text);
    assert_eq!(first, [(0, Load { busy: 27, all: 72 }), (12, Load { busy: 100, all: 400 })]);
    let later = [(0, Load { busy: 37, all: 92 }), (3, Load { busy: 5, all: 5 })];
    assert_eq!(since(&first, &later), [(0, 500), (3, 0)]);
    assert_eq!(parse_spent("120 7 3\n"), Some(Spent { ran: 120, waited: 7 }));
    assert_eq!(parse_spent("0\n"), None);
    let text = "           CPU0       CPU1\n 24:    1   0  xen-dyn    -event     evtchn:bulkhead-5\n 25:    0   0  xen-dyn-lateeoi    evtchn:bulkhead-51\nNMI:  0 0  evtchn:bulkhead-5\n";
    assert_eq!(parse_interrupts(text, "evtchn:bulkhead-5"), [24]);
}

/// A host whose load the test sets.
#[derive(Default)]
struct Made(RefCell<Facts>);

#[derive(Default)]
struct Facts {
    allowed: Vec<usize>,
    loads: Vec<(usize, Load)>,
    spent: HashMap<i32, Spent>,
    kept: HashMap<i32, Vec<usize>>,
    bound: Vec<(String, usize)>,
    refuses: Option<rustix::io::Errno>,
    readings: u32,
}

impl Host for Made {
    fn allowed(&self) -> Vec<usize> {
        self.0.borrow().allowed.clone()
    }
    fn loads(&self) -> Vec<(usize, Load)> {
        self.0.borrow_mut().readings += 1;
        self.0.borrow().loads.clone()
    }
    fn spent(&self, tid: i32) -> Option<Spent> {
        self.0.borrow().spent.get(&tid).copied()
    }
    fn keep(&self, tid: i32, cpus: &[usize]) -> std::io::Result<()> {
        let mut facts = self.0.borrow_mut();
        if let Some(e) = facts.refuses {
            return Err(e.into());
        }
        facts.kept.insert(tid, cpus.to_vec());
        Ok(())
    }
    fn is_kept(&self, tid: i32, cpu: usize) -> bool {
        self.0.borrow().kept.get(&tid) == Some(&vec![cpu])
    }
    fn bind_interrupts(&self, name: &str, cpu: usize) {
        self.0.borrow_mut().bound.push((name.to_owned(), cpu));
    }
}

const BROKER: Member = Member { pid: 10, device: false };
const DEVICE: Member = Member { pid: 11, device: true };
const BOTH: [Member; 2] = [BROKER, DEVICE];

/// A guest on the first of two CPUs.
struct Guest {
    place: Place<Made>,
    now: Instant,
}

impl Guest {
    fn new(placement: &str) -> Self {
        // The turn that begins on the first CPU and moves after the fewest checks.
        Self::of_turn(placement, 6)
    }

    fn of_turn(placement: &str, turn: usize) -> Self {
        let host = Made::default();
        host.0.borrow_mut().allowed = vec![0, 1];
        host.0.borrow_mut().loads = vec![(0, Load::default()), (1, Load::default())];
        let source = Source::Interrupts("evtchn:bulkhead-4".into());
        let place = Place::on(host, &Placement::try_from(placement).unwrap(), turn, source).unwrap();
        let mut guest = Self { place, now: Instant::now() };
        assert_eq!(BOTH.map(|m| guest.place.take(m)), [None, None]);
        guest
    }

    /// Half a second: `busy` is the load of each CPU in thousandths, `threads` how many ms each thread ran and waited.
    fn half_a_second(&mut self, busy: [u64; 2], threads: [(u64, u64); 2]) -> Option<String> {
        {
            let mut facts = self.place.host.0.borrow_mut();
            for ((_, load), busy) in facts.loads.iter_mut().zip(busy) {
                (load.busy, load.all) = (load.busy + busy, load.all + 1000);
            }
            for (member, (ran, waited)) in BOTH.iter().zip(threads) {
                let spent = facts.spent.entry(member.pid).or_default();
                (spent.ran, spent.waited) = (spent.ran + ran * 1_000_000, spent.waited + waited * 1_000_000);
            }
        }
        self.now += 500 * MS;
        self.place.look(&BOTH, self.now)
    }

    fn kept(&self) -> [Vec<usize>; 2] {
        BOTH.map(|m| self.facts(|f| f.kept.get(&m.pid).cloned().unwrap_or_default()))
    }

    fn facts<T>(&self, what: impl FnOnce(&mut Facts) -> T) -> T {
        what(&mut self.place.host.0.borrow_mut())
    }
}

#[test]
fn all_data_threads_and_the_interrupts_go_to_one_cpu() {
    let guest = Guest::new("together");
    assert_eq!(guest.kept(), [vec![0], vec![0]]);
    let bound = guest.facts(|f| f.bound.clone());
    assert!(!bound.is_empty() && bound.iter().all(|b| *b == ("evtchn:bulkhead-4".to_owned(), 0)), "{bound:?}");
    assert!(Place::on(Made::default(), &Placement::Free, 0, Source::Unknown).is_none());
}

#[test]
fn a_cpu_that_others_keep_busy_is_left_after_two_looks_and_the_interrupts_follow() {
    let mut guest = Guest::new("together");
    guest.half_a_second([1000, 100], [(50, 200), (50, 100)]);
    guest.half_a_second([1000, 100], [(50, 200), (50, 100)]);
    assert_eq!(guest.kept(), [vec![0], vec![0]], "once is no proof");
    guest.half_a_second([1000, 100], [(50, 200), (50, 100)]);
    assert_eq!(guest.kept(), [vec![1], vec![1]]);
    assert_eq!(guest.facts(|f| f.bound.last().cloned()), Some(("evtchn:bulkhead-4".to_owned(), 1)));
    // The new CPU is full now and the old one is empty: the guest does not move back at once.
    guest.half_a_second([100, 1000], [(50, 200), (50, 100)]);
    assert_eq!(guest.kept(), [vec![1], vec![1]]);
}

#[test]
fn a_guest_that_fills_its_cpu_by_itself_stays() {
    let mut guest = Guest::new("together");
    for _ in 0..5 {
        guest.half_a_second([1000, 0], [(250, 240), (240, 250)]);
    }
    assert_eq!(guest.kept(), [vec![0], vec![0]]);
    assert_eq!(guest.facts(|f| f.readings), 2, "loads are not read while nobody waits for others");
    // With many vCPUs more than one thread is always ready.
    for _ in 0..5 {
        guest.half_a_second([1000, 0], [(250, 480), (240, 480)]);
    }
    assert_eq!(guest.kept(), [vec![0], vec![0]]);
}

#[test]
fn two_guests_that_wait_for_each_other_do_not_move_together() {
    let mut guests = [Guest::of_turn("together", 6), Guest::of_turn("together", 4)];
    let mut rounds_apart = 0;
    for _ in 0..20 {
        let [first, second] = guests.each_ref().map(|g| g.kept()[0].clone());
        let (mut busy, mut threads) = ([700, 700], [(180, 20), (170, 20)]);
        if first == second {
            busy = [0, 0];
            busy[first[0]] = 1000;
            threads = [(130, 200), (120, 200)];
        } else {
            rounds_apart += 1;
        }
        for guest in &mut guests {
            guest.half_a_second(busy, threads);
        }
    }
    assert!(rounds_apart >= 16, "{rounds_apart} of 20 rounds apart");
}

#[test]
fn nothing_is_looked_at_more_often_than_twice_a_second() {
    let mut guest = Guest::new("together");
    guest.half_a_second([0, 0], [(1, 0), (1, 0)]);
    guest.facts(|f| f.kept.clear());
    for _ in 0..100 {
        guest.now += MS;
        guest.place.look(&BOTH, guest.now);
    }
    assert!(guest.kept().iter().all(Vec::is_empty), "a broker that rings without pause costs no work");
}

#[test]
fn a_device_that_spins_runs_beside_the_others_until_it_rests() {
    let mut guest = Guest::new("together");
    guest.half_a_second([1000, 0], [(10, 100), (480, 0)]);
    guest.half_a_second([1000, 0], [(10, 100), (480, 0)]);
    assert_eq!(guest.kept(), [vec![0], vec![1]]);
    guest.half_a_second([100, 1000], [(10, 0), (300, 0)]);
    assert_eq!(guest.kept(), [vec![0], vec![1]], "not quite");
    guest.half_a_second([100, 100], [(10, 0), (100, 0)]);
    assert_eq!(guest.kept(), [vec![0], vec![0]]);
    // The device's next process starts on the CPU of the others.
    guest.half_a_second([1000, 0], [(10, 100), (480, 0)]);
    assert_eq!(guest.kept(), [vec![0], vec![1]]);
    guest.place.take(DEVICE);
    assert_eq!(guest.kept(), [vec![0], vec![0]]);
}

#[test]
fn a_set_of_cpus_that_changes_is_obeyed() {
    let mut guest = Guest::new("together");
    guest.half_a_second([0, 0], [(1, 0), (1, 0)]);
    // The kernel has moved the threads to the remaining CPU.
    guest.facts(|f| (f.allowed, f.kept) = (vec![1], HashMap::from([(10, vec![1]), (11, vec![1])])));
    guest.half_a_second([0, 0], [(1, 0), (1, 0)]);
    assert_eq!(guest.kept(), [vec![1], vec![1]]);
    // The set grows again, and the kernel has widened one thread's set.
    guest.facts(|f| (f.allowed, f.kept) = (vec![0, 1, 2], HashMap::from([(10, vec![0, 1, 2]), (11, vec![1])])));
    guest.facts(|f| f.bound.clear());
    guest.half_a_second([0, 0], [(1, 0), (1, 0)]);
    assert_eq!(guest.kept(), [vec![1], vec![1]]);
    assert_eq!(guest.facts(|f| f.bound.len()), 1, "the interrupts come back too");
    // The CPU goes offline.
    guest.facts(|f| f.allowed = vec![0, 2]);
    guest.half_a_second([0, 0], [(1, 0), (1, 0)]);
    let [broker, device] = guest.kept();
    assert!(broker == device && [vec![0], vec![2]].contains(&broker), "{broker:?} {device:?}");
}

#[test]
fn what_the_host_refuses_is_said_once_and_what_has_just_changed_is_tried_again() {
    let mut guest = Guest::new("together");
    guest.facts(|f| f.kept.clear());
    // The allowed set changes between reading and setting; then a process exits in between.
    for errno in [rustix::io::Errno::INVAL, rustix::io::Errno::SRCH] {
        guest.facts(|f| f.refuses = Some(errno));
        assert_eq!(guest.half_a_second([0, 0], [(1, 0), (1, 0)]), None);
    }
    guest.facts(|f| f.refuses = None);
    guest.half_a_second([0, 0], [(1, 0), (1, 0)]);
    assert_eq!(guest.kept(), [vec![0], vec![0]]);
    guest.facts(|f| (f.refuses, f.kept) = (Some(rustix::io::Errno::PERM), HashMap::new()));
    assert!(guest.half_a_second([0, 0], [(1, 0), (1, 0)]).unwrap().contains("the scheduler places"));
    assert_eq!(guest.half_a_second([0, 0], [(1, 0), (1, 0)]), None);
}

#[test]
fn a_list_is_obeyed_as_far_as_the_set_of_cpus_lets_it() {
    assert_eq!(Guest::new("1").kept(), [vec![1], vec![1]]);
    let mut guest = Guest::new("1");
    for _ in 0..4 {
        guest.half_a_second([0, 1000], [(50, 200), (50, 100)]);
    }
    assert_eq!(guest.kept(), [vec![1], vec![1]], "there is no other in the list");
    let host = Made::default();
    host.0.borrow_mut().allowed = vec![0];
    host.0.borrow_mut().loads = vec![(0, Load::default())];
    let mut place = Place::on(host, &Placement::Among(vec![5, 6]), 0, Source::Unknown).unwrap();
    assert!(place.take(BROKER).unwrap().contains("none of these CPUs"));
    assert_eq!(place.take(DEVICE), None, "said once");
}
