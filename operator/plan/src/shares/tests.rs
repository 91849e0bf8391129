use std::collections::{VecDeque, btree_map::Entry};

use proptest::prelude::*;

use super::*;

impl Slices {
    fn of(&self, tenant: &Name) -> Each<u32> {
        self.tenants.get(tenant).copied().unwrap_or([self.share; 4])
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn acme() -> Name {
    Name::new("default", "acme").unwrap()
}

/// An agent: what it spends by, and what its disk has.
#[derive(Clone, Debug, Default)]
struct Agent {
    held: Arc<Slices>,
    /// What its tenant uses, and whether calls are refused.
    used: u32,
    is_short: bool,
    /// Parts that calls in hand take.
    calls: u32,
}

impl Agent {
    fn spends(&self) -> Arc<Spends> {
        let calls_over = if self.calls > self.held.of(&acme())[CALLS] { self.calls } else { 0 };
        let it = Use {
            used: [self.used, 0, 0, self.calls],
            is_short: [self.is_short, false, false, false],
            calls_over,
        };
        let tenants = if it == Use::default() { BTreeMap::new() } else { [(acme(), it)].into() };
        Arc::new(Spends { epoch: self.held.epoch, tenants, reached: None })
    }

    /// What it may be letting in.
    fn enforces(&self, tenant: &Name) -> Each<u32> {
        let mut parts = self.held.of(tenant);
        if *tenant == acme() {
            parts[CALLS] = parts[CALLS].max(self.calls);
        }
        parts
    }

    fn take(&mut self, slices: &Arc<Slices>) {
        if self.held.epoch < slices.epoch {
            self.held = slices.clone();
        }
    }
}

/// Agents that hear at once what they are left and say at once what they hold.
struct Town {
    shares: Shares,
    agents: BTreeMap<String, Agent>,
    now: Duration,
}

impl Town {
    fn of(nodes: &[&str]) -> Self {
        let mut town =
            Self { shares: Shares::new(1), agents: BTreeMap::new(), now: Duration::ZERO };
        for node in nodes {
            town.join(node);
        }
        town.settle();
        town
    }

    fn join(&mut self, node: &str) {
        let agent = self.agents.entry(node.to_owned()).or_default();
        self.shares.holds(node, agent.held.clone());
        self.shares.spends(node, agent.spends());
    }

    /// Turns until nothing more goes out; how many did.
    fn settle(&mut self) -> usize {
        let mut sent = 0;
        let count = u32::try_from(self.agents.len()).unwrap();
        loop {
            for (node, agent) in &self.agents {
                self.shares.spends(node, agent.spends());
            }
            let left = self.shares.turn(count, self.now).unwrap_or_default();
            if left.is_empty() {
                return sent;
            }
            sent += left.len();
            for (node, slices) in left {
                self.agents.get_mut(&node).unwrap().take(&slices);
            }
        }
    }

    /// The parts of the requests of `default/acme` at each door, `seconds` later.
    fn after(&mut self, seconds: u32) -> Vec<u32> {
        for _ in 0..seconds {
            self.now += SECOND;
            self.settle();
        }
        self.agents.values().map(|agent| agent.held.of(&acme())[0]).collect()
    }

    fn agent(&mut self, node: &str) -> &mut Agent {
        self.agents.get_mut(node).unwrap()
    }
}

/// Who enforces the limits of `default/acme`.
fn applied(town: &Town) -> Applied {
    let (named, others) = town.shares.applied();
    named.get(&acme()).cloned().unwrap_or(others)
}

#[test]
fn doors_begin_with_even_parts_and_one_door_has_all() {
    let mut town = Town::of(&["a"]);
    assert_eq!(town.after(0), [PARTS]);
    assert_eq!(applied(&town), Applied::default());
    town.join("b");
    town.settle();
    assert_eq!(town.after(0), [PARTS / 2, PARTS / 2]);
    assert_eq!(applied(&town), Applied::default());
    assert_eq!(town.settle(), 0, "what all have alike is said once");
}

#[test]
fn a_tenant_that_calls_at_one_door_has_nearly_all_there_and_evenly_when_it_is_gone() {
    let mut town = Town::of(&["a", "b"]);
    (town.agent("a").used, town.agent("a").is_short) = (PARTS / 2, true);
    let kept = PARTS / 16;
    assert_eq!(town.after(6), [PARTS - kept, kept]);
    let applied = applied(&town);
    assert_eq!((applied.sliced, applied.largest), (2, Some(("a".to_owned(), 93))));
    assert_eq!(town.shares.tenants(), 1);
    let sent = town.shares.newest();
    assert_eq!(town.after(60), [PARTS - kept, kept]);
    assert_eq!(town.shares.newest(), sent, "what is right stays");
    *town.agent("a") = Agent { held: town.agent("a").held.clone(), ..Agent::default() };
    assert_eq!(town.after(126), [PARTS / 2, PARTS / 2]);
    assert!(town.agent("a").held.tenants.is_empty() && town.shares.tenants() == 0);
}

#[test]
fn a_tenant_that_calls_at_both_doors_comes_to_share_them_evenly() {
    let mut town = Town::of(&["a", "b"]);
    town.agent("a").is_short = true;
    town.after(6);
    town.agent("b").is_short = true;
    let mut parts = Vec::new();
    for _ in 0..6 {
        let used = town.agent("b").held.of(&acme())[0];
        town.agent("b").used = used;
        parts = town.after(5);
    }
    assert_eq!(parts, [PARTS / 2, PARTS / 2]);
}

#[test]
fn a_larger_slice_waits_until_the_other_door_has_let_go() {
    let mut town = Town::of(&["a", "b"]);
    town.agent("a").is_short = true;
    town.now += 6 * SECOND;
    let spends = town.agent("a").spends();
    town.shares.spends("a", spends);
    let left = town.shares.turn(2, town.now).unwrap_or_default();
    let nodes: Vec<&str> = left.iter().map(|(node, _)| node.as_str()).collect();
    assert_eq!(nodes, ["b"], "a smaller one goes out at once");
    assert!(
        town.shares.turn(2, town.now + SECOND).unwrap_or_default().is_empty(),
        "without an answer nothing does"
    );
    let smaller = left[0].1.clone();
    town.agent("b").take(&smaller);
    let spends = town.agent("b").spends();
    town.shares.spends("b", spends);
    let left = town.shares.turn(2, town.now + SECOND).unwrap_or_default();
    assert_eq!((left.len(), left[0].0.as_str()), (1, "a"));
}

#[test]
fn calls_that_go_on_at_one_door_are_not_let_in_at_another_until_they_end() {
    let mut town = Town::of(&["a", "b"]);
    (town.agent("a").calls, town.agent("a").is_short) = (PARTS / 4, true);
    town.now += 6 * SECOND;
    let spends = town.agent("a").spends();
    town.shares.spends("a", spends);
    let left = town.shares.turn(2, town.now).unwrap_or_default();
    // They came in before the smaller slice did.
    town.agent("b").calls = PARTS / 2;
    town.agent("b").take(&left[0].1);
    town.settle();
    let calls = |town: &Town, node: &str| town.agents[node].held.of(&acme())[CALLS];
    assert_eq!((calls(&town, "a"), calls(&town, "b")), (PARTS / 2, PARTS / 16));
    town.agent("b").calls = 0;
    town.settle();
    assert_eq!((calls(&town, "a"), calls(&town, "b")), (PARTS - PARTS / 16, PARTS / 16));
}

#[test]
fn what_was_used_before_a_door_came_back_does_not_tell_what_goes_on_now() {
    let mut town = Town::of(&["a", "b"]);
    let (before, epoch) = (town.agent("b").spends(), town.agent("b").held.epoch + 1);
    // It took these when its stream broke, and has more calls in hand than they let in.
    let tenants = [(acme(), [PARTS / 2, PARTS / 2, PARTS / 2, 1])].into();
    let held = Slices { epoch, share: PARTS / 2, tenants };
    *town.agent("b") = Agent { held: held.into(), calls: PARTS / 2, ..Agent::default() };
    town.shares.away("b");
    town.shares.holds("b", town.agents["b"].held.clone());
    town.shares.spends("b", before);
    (town.agent("a").calls, town.agent("a").is_short) = (PARTS / 4, true);
    let spends = town.agent("a").spends();
    town.shares.spends("a", spends);
    let left = town.shares.turn(2, town.now + 6 * SECOND).unwrap_or_default();
    assert!(left.iter().all(|(_, slices)| slices.of(&acme())[CALLS] <= PARTS / 2), "{left:?}");
}

#[test]
fn a_door_that_is_away_keeps_what_it_has_until_it_is_lost() {
    let mut town = Town::of(&["a", "b"]);
    town.agent("a").is_short = true;
    town.after(6);
    let gone = town.agents.remove("a").unwrap();
    town.shares.away("a");
    town.agent("b").is_short = true;
    for _ in 0..5 {
        town.now += 5 * SECOND;
        for (node, slices) in town.shares.turn(2, town.now).unwrap_or_default() {
            town.agent(&node).take(&slices);
            let spends = town.agent(&node).spends();
            town.shares.spends(&node, spends);
        }
    }
    let b = town.agent("b").held.of(&acme())[0];
    assert_eq!(b + gone.held.of(&acme())[0], PARTS);
    town.shares.retain(|node| node == "b");
    assert_eq!(town.after(6), [PARTS]);
}

#[test]
fn nobody_is_given_more_before_every_door_of_before_has_said_what_it_holds() {
    let mut town = Town::of(&["a", "b"]);
    town.agent("a").is_short = true;
    town.after(6);
    let before = town.after(0);
    town.shares = Shares::new(1_000_000);
    town.agent("b").is_short = true;
    let b = town.agent("b").clone();
    town.shares.holds("b", b.held.clone());
    town.shares.spends("b", b.spends());
    for seconds in 0..30 {
        assert!(town.shares.turn(2, seconds * SECOND).unwrap_or_default().is_empty());
    }
    town.join("a");
    town.now += 30 * SECOND;
    town.settle();
    assert_eq!(town.after(0).iter().sum::<u32>(), PARTS);
    assert_ne!(town.after(30), before);
}

#[test]
fn a_door_of_an_older_release_counts_with_an_even_part() {
    let mut town = Town::of(&["a", "b"]);
    town.shares.older("c");
    town.agents.remove("b");
    town.shares.retain(|node| node != "b");
    town.agent("a").is_short = true;
    for _ in 0..4 {
        town.now += 5 * SECOND;
        let spends = town.agent("a").spends();
        town.shares.spends("a", spends);
        for (node, slices) in town.shares.turn(2, town.now).unwrap_or_default() {
            town.agent(&node).take(&slices);
        }
    }
    assert_eq!(town.agent("a").held.of(&acme())[0], PARTS / 2);
    assert_eq!(applied(&town).older, 1);
}

#[test]
fn a_door_that_has_lost_its_disk_may_yet_take_what_it_was_left() {
    let mut town = Town::of(&["a", "b"]);
    let before = town.agent("a").held.clone();
    *town.agent("a") = Agent::default();
    town.join("a");
    // What the operator has left for it goes out again with the new stream.
    let left = town.shares.turn(2, town.now).unwrap_or_default();
    assert!(left.iter().all(|(node, _)| node != "a"), "{left:?}");
    town.agent("a").take(&before);
    town.settle();
    assert_eq!(town.after(1), [PARTS / 2, PARTS / 2]);
}

/// What may happen.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// A message to the agent arrives.
    Hear(usize),
    /// A message of the agent arrives.
    Say(usize),
    /// A stream breaks, with all that was on its way.
    Cut(usize),
    Connect(usize),
    Restart(usize),
    Join(usize),
    /// A node ends for good, and is said to be lost.
    Lose(usize),
    NewLeader,
    Use(usize, u32, bool, u32),
    Time(u32),
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let at = 0_usize..4;
    let turn = prop_oneof![
        6 => at.clone().prop_map(Turn::Hear),
        6 => at.clone().prop_map(Turn::Say),
        1 => at.clone().prop_map(Turn::Cut),
        3 => at.clone().prop_map(Turn::Connect),
        1 => at.clone().prop_map(Turn::Restart),
        2 => at.clone().prop_map(Turn::Join),
        1 => at.clone().prop_map(Turn::Lose),
        1 => Just(Turn::NewLeader),
        4 => (at, 0..=PARTS, any::<bool>(), 0..=PARTS)
            .prop_map(|(at, used, is_short, calls)| Turn::Use(at, used, is_short, calls)),
        4 => (0_u32..10).prop_map(Turn::Time),
    ];
    proptest::collection::vec(turn, 1..300)
}

/// One of three has not come back, and may hold nearly all; who is new says nothing of it.
#[test]
fn a_new_door_does_not_make_up_for_one_that_the_last_leader_knew() {
    let mut shares = Shares::new(100);
    shares.recall(3);
    let says = |shares: &mut Shares, node: &str, epoch: u64, share: u32| {
        shares.holds(node, Arc::new(Slices { epoch, share, ..Slices::default() }));
        shares.spends(node, Arc::new(Spends { epoch, ..Spends::default() }));
    };
    says(&mut shares, "a", 7, PARTS / 10);
    says(&mut shares, "b", 8, PARTS / 10);
    says(&mut shares, "new", 0, 0);
    let raised = |left: Option<Vec<(String, Arc<Slices>)>>| {
        left.unwrap_or_default().iter().any(|(_, slices)| PARTS / 10 < slices.share)
    };
    let left = shares.turn(3, Duration::ZERO);
    assert!(left.iter().flatten().all(|(node, it)| node != "new" || it.share == 0), "{left:?}");
    assert!(!raised(left));
    // It is said to be lost.
    shares.recall(0);
    shares.spends("new", Arc::new(Spends { epoch: 100, ..Spends::default() }));
    assert!(raised(shares.turn(3, SECOND)));
}

#[derive(Clone, Debug)]
enum Said {
    Holds(Arc<Slices>),
    Spends(Arc<Spends>),
}

/// A network between one leader and agents.
#[derive(Default)]
struct World {
    agents: BTreeMap<String, Agent>,
    /// Streams: what is on its way to the agent, and from it.
    streams: BTreeMap<String, (VecDeque<Arc<Slices>>, VecDeque<Said>)>,
    /// What the leader has left for each node.
    left: BTreeMap<String, Arc<Slices>>,
    /// Doors that the leader has seen, and how many its predecessor had.
    known: BTreeSet<String>,
    recalled: u32,
    now: Duration,
}

impl World {
    /// Of how many doors the leader knows.
    fn count(&self) -> u32 {
        u32::try_from(self.known.len()).unwrap().max(self.recalled)
    }

    fn connect(&mut self, node: &str) {
        let Some(agent) = self.agents.get(node) else { return };
        self.known.insert(node.to_owned());
        let says = VecDeque::from([Said::Holds(agent.held.clone()), Said::Spends(agent.spends())]);
        let hears = self.left.get(node).into_iter().cloned().collect();
        self.streams.insert(node.to_owned(), (hears, says));
    }

    fn cut(&mut self, shares: &mut Shares, node: &str) {
        self.streams.remove(node);
        shares.away(node);
    }

    fn step(&mut self, shares: &mut Shares, turn: Turn) {
        let name = |at: usize| format!("n{at}");
        match turn {
            Turn::Hear(at) => {
                let node = name(at);
                let heard = self.streams.get_mut(&node).and_then(|(hears, _)| hears.pop_front());
                let Some(slices) = heard else { return };
                let agent = self.agents.get_mut(&node).unwrap();
                agent.take(&slices);
                let spends = Said::Spends(agent.spends());
                self.streams.get_mut(&node).unwrap().1.push_back(spends);
            }
            Turn::Say(at) => {
                let node = name(at);
                let said = self.streams.get_mut(&node).and_then(|(_, says)| says.pop_front());
                match said {
                    Some(Said::Holds(slices)) => shares.holds(&node, slices),
                    Some(Said::Spends(spends)) => shares.spends(&node, spends),
                    None => {}
                }
            }
            Turn::Cut(at) => self.cut(shares, &name(at)),
            Turn::Connect(at) => {
                self.cut(shares, &name(at));
                self.connect(&name(at));
            }
            Turn::Restart(at) => {
                self.cut(shares, &name(at));
                if let Some(agent) = self.agents.get_mut(&name(at)) {
                    agent.calls = 0;
                }
            }
            Turn::Join(at) => {
                if let Entry::Vacant(free) = self.agents.entry(name(at)) {
                    free.insert(Agent::default());
                    self.connect(&name(at));
                }
            }
            Turn::Lose(at) => {
                self.cut(shares, &name(at));
                self.agents.remove(&name(at));
                self.left.remove(&name(at));
                self.known.remove(&name(at));
                shares.retain(|node| node != name(at));
            }
            Turn::NewLeader => {
                self.recalled = self.count();
                *shares = Shares::new(shares.newest() + 1000);
                shares.recall(self.recalled);
                self.streams.clear();
                self.left.clear();
                self.known.clear();
            }
            Turn::Use(at, used, is_short, calls) => {
                let node = name(at);
                let Some(agent) = self.agents.get_mut(&node) else { return };
                (agent.used, agent.is_short) = (used, is_short);
                // Calls end at any time, and begin within the slice alone.
                let most = agent.held.of(&acme())[CALLS];
                agent.calls =
                    if calls < agent.calls { calls } else { agent.calls.max(calls.min(most)) };
                let spends = Said::Spends(agent.spends());
                if let Some((_, says)) = self.streams.get_mut(&node) {
                    says.push_back(spends);
                }
            }
            Turn::Time(seconds) => self.now += seconds * SECOND,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever becomes of messages, streams, agents and leaders.
    #[test]
    fn doors_never_have_more_than_the_whole_between_them(turns in turns()) {
        let (mut world, mut shares) = (World::default(), Shares::new(1));
        for turn in turns {
            world.step(&mut shares, turn);
            for (node, slices) in shares.turn(world.count(), world.now).unwrap_or_default() {
                world.left.insert(node.clone(), slices.clone());
                if let Some((hears, _)) = world.streams.get_mut(&node) {
                    hears.push_back(slices);
                }
            }
            for tenant in [acme(), Name::new("default", "zeta").unwrap()] {
                let all = world.agents.values().map(|agent| agent.enforces(&tenant));
                let all = all.fold([0_u64; 4], |all, parts| {
                    std::array::from_fn(|limit| all[limit] + u64::from(parts[limit]))
                });
                let is_within = all.iter().all(|all| *all <= u64::from(PARTS));
                prop_assert!(is_within, "{tenant} has {all:?} after {turn:?}");
            }
        }
        // When all is calm again everything is given out, but for what division leaves over.
        shares.recall(0);
        world.recalled = 0;
        let nodes: Vec<String> = world.agents.keys().cloned().collect();
        for node in &nodes {
            world.agents.get_mut(node).unwrap().calls = 0;
            world.cut(&mut shares, node);
            world.connect(node);
        }
        for _ in 0..20 {
            for at in 0..4 {
                for _ in 0..4 {
                    world.step(&mut shares, Turn::Hear(at));
                    world.step(&mut shares, Turn::Say(at));
                }
            }
            world.now += 6 * SECOND;
            for (node, slices) in shares.turn(world.count(), world.now).unwrap_or_default() {
                world.left.insert(node.clone(), slices.clone());
                if let Some((hears, _)) = world.streams.get_mut(&node) {
                    hears.push_back(slices);
                }
            }
        }
        let all: u32 = world.agents.values().map(|agent| agent.held.of(&acme())[0]).sum();
        prop_assert!(nodes.is_empty() || PARTS - 4 <= all, "{all}");
    }
}
