use proptest::prelude::*;

use super::*;

fn tenant() -> Name {
    Name::new("default", "acme").unwrap()
}

fn used(generated_tokens: u64) -> Used {
    Used { generated_tokens, program_fuel: 10 * generated_tokens, ..Used::default() }
}

/// A node that says how much its agent has counted in an epoch.
fn says(node: &str, epoch: u64, tokens: u64) -> BTreeMap<String, NodeView> {
    let of_tenant = TenantUse { tenant: tenant(), epoch, used: used(tokens) };
    let uses = Some(Arc::from([of_tenant]));
    let view = NodeView { is_connected: true, uses, ..NodeView::default() };
    BTreeMap::from([(node.to_owned(), view)])
}

fn hear(totals: &mut Totals, node: &str, epoch: u64, tokens: u64) {
    totals.hear(&says(node, epoch, tokens), |_| true);
}

/// What is told of the tenant at a time when anything is.
fn told(totals: &mut Totals, now: Instant) -> u64 {
    totals.accounts.values_mut().for_each(|account| account.told_at = None);
    totals.tell(now);
    totals.of(&tenant()).map_or(0, |told| told.generated_tokens)
}

#[test]
fn what_is_said_again_counts_once_and_what_is_new_is_added() {
    let (mut totals, now) = (Totals::default(), Instant::now());
    hear(&mut totals, "a", 1, 5);
    hear(&mut totals, "a", 1, 5);
    assert_eq!(told(&mut totals, now), 5);
    hear(&mut totals, "a", 1, 8);
    hear(&mut totals, "b", 2, 100);
    assert_eq!(told(&mut totals, now), 108);
    let told = totals.of(&tenant()).unwrap();
    assert_eq!(told.program_fuel, 1080);
    assert_eq!(told.nodes.iter().map(|it| it.generated_tokens).collect::<Vec<_>>(), [8, 100]);
}

#[test]
fn an_agent_that_starts_again_takes_nothing_away() {
    let (mut totals, now) = (Totals::default(), Instant::now());
    hear(&mut totals, "a", 1, 5);
    hear(&mut totals, "a", 2, 3);
    assert_eq!(told(&mut totals, now), 8);
    totals.leave("a");
    assert_eq!(told(&mut totals, now), 8);
    assert!(totals.of(&tenant()).unwrap().nodes.is_empty());
}

#[test]
fn what_an_agent_says_last_counts_though_it_has_gone_and_not_once_its_node_has_left() {
    let (mut totals, now) = (Totals::default(), Instant::now());
    let goes = |totals: &mut Totals, tokens| {
        let mut views = says("a", 1, tokens);
        for view in views.values_mut() {
            view.is_connected = false;
        }
        totals.hear(&views, |_| true);
    };
    goes(&mut totals, 3);
    assert_eq!(told(&mut totals, now), 0, "of a node that nobody has heard of");
    hear(&mut totals, "a", 1, 5);
    goes(&mut totals, 8);
    assert_eq!(told(&mut totals, now), 8);
    totals.leave("a");
    goes(&mut totals, 9);
    assert_eq!(told(&mut totals, now), 8);
}

#[test]
fn rows_of_nodes_that_went_while_nobody_led_end_and_what_they_counted_stays() {
    let (mut before, mut after) = (Totals::default(), Totals::default());
    let now = Instant::now();
    hear(&mut before, "a", 1, 5);
    hear(&mut before, "b", 2, 3);
    assert_eq!(told(&mut before, now), 8);
    after.recall(tenant(), Told::clone(&before.of(&tenant()).unwrap()));
    after.sweep(|node| node == "b");
    after.sweep(|_| false);
    assert_eq!(told(&mut after, now), 8);
    let nodes = after.of(&tenant()).unwrap().nodes.clone();
    assert_eq!(nodes.into_iter().map(|it| it.node).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_new_leader_goes_on_from_the_status() {
    let (mut totals, now) = (Totals::default(), Instant::now());
    hear(&mut totals, "a", 1, 5);
    hear(&mut totals, "b", 2, 7);
    hear(&mut totals, "b", 3, 1);
    assert_eq!(told(&mut totals, now), 13);
    let mut next = Totals::default();
    next.recall(tenant(), (*totals.of(&tenant()).unwrap()).clone());
    assert_eq!(next.of(&tenant()), totals.of(&tenant()), "nothing is new yet");
    hear(&mut next, "a", 1, 6);
    hear(&mut next, "b", 4, 2);
    assert_eq!(told(&mut next, now), 6 + 7 + 1 + 2);
}

#[test]
fn totals_are_told_at_once_and_then_at_a_pace_and_only_where_there_is_news() {
    let (mut totals, now) = (Totals::default(), Instant::now());
    hear(&mut totals, "a", 1, 5);
    assert_eq!(totals.due(), None, "nobody waits for what is told in this turn");
    totals.tell(now);
    assert_eq!(totals.of(&tenant()).unwrap().generated_tokens, 5);
    assert_eq!(totals.due(), None);
    hear(&mut totals, "a", 1, 6);
    totals.tell(now + TOLD_EVERY / 2);
    assert_eq!(totals.of(&tenant()).unwrap().generated_tokens, 5);
    assert_eq!(totals.due(), Some(now + TOLD_EVERY));
    totals.tell(now + TOLD_EVERY);
    assert_eq!(totals.of(&tenant()).unwrap().generated_tokens, 6);
}

#[test]
fn what_is_said_of_nobody_is_kept_nowhere() {
    let mut totals = Totals::default();
    totals.hear(&says("a", 1, 5), |_| false);
    totals.tell(Instant::now());
    assert_eq!(totals.of(&tenant()), None);
}

#[derive(Clone, Debug)]
enum Act {
    /// A node's agent has computed some tokens more.
    Use {
        node: usize,
        tokens: u64,
    },
    /// It tells what it has counted.
    Say {
        node: usize,
    },
    Restart {
        node: usize,
    },
    /// Another operator leads, which knows what was told last.
    Lead,
    Tell,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..3_usize, 1..100_u64).prop_map(|(node, tokens)| Act::Use { node, tokens }),
        (0..3_usize).prop_map(|node| Act::Say { node }),
        (0..3_usize).prop_map(|node| Act::Restart { node }),
        Just(Act::Lead),
        Just(Act::Tell),
    ]
}

const NODES: [&str; 3] = ["a", "b", "c"];

proptest! {
    /// Whatever happens in whichever order, the totals are all that was used, but for what an agent
    /// had not told, or no status said, when its process ended.
    #[test]
    fn what_was_used_is_counted_once(acts in prop::collection::vec(act(), 0..60)) {
        let now = Instant::now();
        let mut totals = Totals::default();
        // Of each node: its epoch and what it has counted in it.
        let mut nodes = [(0_u64, 0_u64); 3];
        let (mut epochs, mut of_the_dead, mut last) = (3, 0, 0);
        for (at, node) in nodes.iter_mut().enumerate() {
            node.0 = at as u64;
        }
        for act in acts {
            match act {
                Act::Use { node, tokens } => nodes[node].1 += tokens,
                Act::Say { node } => hear(&mut totals, NODES[node], nodes[node].0, nodes[node].1),
                Act::Restart { node } => {
                    // All was told, and written, before it ended.
                    hear(&mut totals, NODES[node], nodes[node].0, nodes[node].1);
                    told(&mut totals, now);
                    of_the_dead += nodes[node].1;
                    nodes[node] = (epochs, 0);
                    epochs += 1;
                }
                Act::Lead => {
                    let written = totals.of(&tenant());
                    totals = Totals::default();
                    if let Some(written) = written {
                        totals.recall(tenant(), (*written).clone());
                    }
                }
                Act::Tell => {
                    let told = told(&mut totals, now);
                    prop_assert!(last <= told, "totals only grow");
                    last = told;
                }
            }
        }
        for (node, (epoch, tokens)) in NODES.iter().zip(nodes) {
            hear(&mut totals, node, epoch, tokens);
        }
        let used = of_the_dead + nodes.iter().map(|node| node.1).sum::<u64>();
        prop_assert_eq!(told(&mut totals, now), used);
    }
}
