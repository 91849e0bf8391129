use realm_plan::validate::Site;

use super::*;
use crate::link::report::Failure;

/// The generation of the first state that the leader leaves for a node.
const FIRST: u64 = 7;

/// A node that is connected and has said what it holds by this leader's first state.
fn heard() -> NodeView {
    holds(FIRST)
}

/// One that has said what it holds by the state of a generation.
fn holds(generation: u64) -> NodeView {
    NodeView { report: Some(Arc::new(Report { generation, ..Report::default() })), ..silent() }
}

/// One that is connected and has said nothing of that yet.
fn silent() -> NodeView {
    NodeView { is_connected: true, supply: Some(Arc::default()), ..NodeView::default() }
}

/// One that has said so, and left.
fn gone() -> NodeView {
    NodeView { is_connected: false, ..heard() }
}

fn views<const N: usize>(nodes: [(&str, NodeView); N]) -> BTreeMap<String, NodeView> {
    nodes.into_iter().map(|(node, view)| (node.to_owned(), view)).collect()
}

/// What a leader that starts at `now` knows of nodes.
struct World {
    nodes: Nodes,
    fleet: Fleet,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self { nodes: Nodes::new(now), fleet: Fleet::new(Site::Cluster, 1), now }
    }

    /// Leaves a state for each node. Gives what is lost by then, and whether everybody who was
    /// there has answered.
    fn turn<const N: usize>(
        &mut self,
        after: Duration,
        nodes: [(&str, NodeView); N],
    ) -> (Vec<String>, bool) {
        let now = self.now + after;
        let views = views(nodes);
        let lost = self.nodes.take(&mut self.fleet, &views, now);
        for node in views.keys() {
            self.nodes.tell(node, FIRST);
        }
        (lost, self.nodes.is_settled(now))
    }
}

const SOON: Duration = Duration::from_secs(1);

#[test]
fn a_leader_of_a_fleet_that_held_nothing_waits_for_nobody() {
    assert_eq!(World::new().turn(SOON, []), (vec![], true));
}

#[test]
fn a_new_leader_has_heard_enough_when_every_recalled_node_has_said_what_it_holds() {
    let mut world = World::new();
    world.nodes.recall("a");
    world.nodes.recall("b");
    assert!(!world.turn(SOON, [("a", heard())]).1, "b is missing");
    let both = [("a", heard()), ("b", silent())];
    assert!(!world.turn(SOON, both).1, "b has said nothing yet");
    assert!(world.turn(SOON, [("a", heard()), ("b", heard())]).1);
    assert!(world.turn(SOON, [("a", gone())]).1, "it was heard, and may go again");
}

#[test]
fn what_a_node_said_of_the_last_leaders_state_is_no_answer_and_a_refusal_is_one() {
    let mut world = World::new();
    world.nodes.recall("a");
    world.nodes.expect();
    assert!(!world.turn(SOON, [("a", holds(FIRST - 1))]).1);
    let failure = Failure { reason: "LedgerFull".to_owned(), message: String::new() };
    let refused = Some(Refused { generation: FIRST, failure });
    assert!(world.turn(SOON, [("a", NodeView { refused, ..holds(FIRST - 1) })]).1);
}

#[test]
fn where_tenants_alone_were_held_any_node_is_enough() {
    let mut world = World::new();
    world.nodes.expect();
    assert!(!world.turn(SOON, []).1);
    assert!(world.turn(SOON, [("c", heard())]).1);
}

#[test]
fn a_node_that_does_not_come_back_is_waited_for_and_no_longer() {
    let mut world = World::new();
    world.nodes.recall("a");
    assert_eq!(world.nodes.due(world.now), Some(world.now + SETTLE_WAIT));
    assert_eq!(world.nodes.due(world.now + SETTLE_WAIT), Some(world.now + RECALLED_LOST_AFTER));
    assert_eq!(world.turn(SETTLE_WAIT, []), (vec![], true));
    assert_eq!(world.nodes.due(world.now), Some(world.now + RECALLED_LOST_AFTER));
    assert_eq!(world.turn(RECALLED_LOST_AFTER, []), (vec!["a".to_owned()], true));
    assert_eq!(world.nodes.due(world.now), None);
}

#[test]
fn a_node_is_lost_some_time_after_it_left_and_not_when_it_comes_back_before() {
    let mut world = World::new();
    world.turn(SOON, [("a", heard()), ("b", heard())]);
    let away = [("a", gone()), ("b", gone())];
    assert_eq!(world.turn(SOON, away).0, Vec::<String>::new());
    let back = [("a", heard()), ("b", gone())];
    assert_eq!(world.turn(SOON * 2, back).0, Vec::<String>::new());
    let later = SOON + LOST_AFTER;
    assert_eq!(world.turn(later, [("a", heard()), ("b", gone())]).0, ["b"]);
}
