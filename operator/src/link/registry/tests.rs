use std::time::Duration;

use futures_util::FutureExt as _;

use super::*;
use crate::link::report::Failure;

fn hello(node: &str) -> Hello {
    Hello {
        node: node.to_owned(),
        agent_version: "1.0.0".to_owned(),
        boot_id: "first".to_owned(),
        generation: 7,
        supply: Supply::default(),
        link: Versions::OURS,
    }
}

fn view(registry: &Registry, node: &str) -> NodeView {
    registry.snapshot().remove(node).unwrap()
}

fn has_changed(registry: &Registry) -> bool {
    registry.changed().now_or_never().is_some()
}

fn report(generation: u64) -> Report {
    Report { generation, ..Report::default() }
}

#[test]
fn a_hundred_reports_wake_the_loop_once() {
    let (registry, now) = (Registry::new(), Instant::now());
    for node in 0..100 {
        let connected = registry.connect(hello(&format!("n{node}")), now).unwrap();
        registry.report(&connected.node, connected.id, report(1), now);
    }
    assert!(has_changed(&registry));
    assert!(!has_changed(&registry));
    assert_eq!(registry.snapshot().len(), 100);
}

#[test]
fn a_heartbeat_that_says_nothing_new_wakes_nobody_and_is_heard() {
    let (registry, now) = (Registry::new(), Instant::now());
    let agent = registry.connect(hello("n"), now).unwrap();
    assert!(has_changed(&registry));
    let later = now + Duration::from_secs(5);
    registry.supply("n", agent.id, Supply::default(), later);
    assert!(!has_changed(&registry));
    assert_eq!(view(&registry, "n").heard_at, Some(later));
    registry.supply("n", agent.id, Supply { memory_bytes_free: 1, ..Supply::default() }, later);
    assert!(has_changed(&registry));
}

#[test]
fn a_newer_connection_replaces_the_older_which_is_heard_no_more() {
    let (registry, now) = (Registry::new(), Instant::now());
    let older = registry.connect(hello("n"), now).unwrap();
    let newer = registry.connect(hello("n"), now).unwrap();
    assert!(*older.replaced.borrow() && !*newer.replaced.borrow());
    registry.report("n", older.id, report(1), now);
    registry.disconnect("n", older.id);
    assert_eq!(view(&registry, "n").report, None);
    assert!(view(&registry, "n").is_connected);
    registry.disconnect("n", newer.id);
    assert!(!view(&registry, "n").is_connected);
}

#[test]
fn only_the_newest_desired_state_waits_for_a_slow_agent() {
    let (registry, now) = (Registry::new(), Instant::now());
    let desired = |generation| Arc::new(Desired { generation, ..Desired::default() });
    registry.set_desired("n", desired(1)).unwrap();
    let agent = registry.connect(hello("n"), now).unwrap();
    for generation in 2..100 {
        registry.set_desired("n", desired(generation)).unwrap();
    }
    assert_eq!(agent.orders.borrow().desired.as_ref().unwrap().generation, 99);
}

#[test]
fn a_refusal_is_known_until_the_agent_reports_on_it_or_is_left_another_state() {
    let (registry, now) = (Registry::new(), Instant::now());
    let agent = registry.connect(hello("n"), now).unwrap();
    let failure = Failure { reason: "DiskFull".to_owned(), message: "0 bytes are free".to_owned() };
    let refused = Refused { generation: 3, failure };
    registry.refused("n", agent.id, refused.clone(), now);
    registry.report("n", agent.id, report(7), now);
    assert_eq!(view(&registry, "n").refused, Some(refused.clone()));
    registry.report("n", agent.id, report(3), now);
    assert_eq!(view(&registry, "n").refused, None);
    registry.refused("n", agent.id, refused, now);
    let next = Desired { generation: 4, ..Desired::default() };
    registry.set_desired("n", Arc::new(next)).unwrap();
    assert_eq!(view(&registry, "n").refused, None);
}

#[test]
fn a_lost_node_is_forgotten_and_one_that_has_come_back_is_not() {
    let (registry, now) = (Registry::new(), Instant::now());
    let agent = registry.connect(hello("n"), now).unwrap();
    registry.forget("n");
    assert!(view(&registry, "n").is_connected);
    registry.disconnect("n", agent.id);
    registry.forget("n");
    assert!(registry.snapshot().is_empty());
}

#[test]
fn what_another_process_said_is_not_what_this_one_says() {
    let (registry, now) = (Registry::new(), Instant::now());
    let agent = registry.connect(hello("n"), now).unwrap();
    registry.report("n", agent.id, report(1), now);
    registry.connect(hello("n"), now).unwrap();
    assert!(view(&registry, "n").report.is_some(), "the same one is back");
    registry.connect(Hello { boot_id: "another".to_owned(), ..hello("n") }, now).unwrap();
    assert_eq!(view(&registry, "n").report, None);
}

#[test]
fn nodes_have_a_limit() {
    let registry = Registry::new();
    let desired = Arc::new(Desired::default());
    for node in 0..NODES_MAX {
        registry.set_desired(&format!("n{node}"), desired.clone()).unwrap();
    }
    assert_eq!(registry.set_desired("one-more", desired), Err(TooManyNodes));
}

#[test]
fn the_end_of_a_connection_is_noted_once_and_its_reason_counted() {
    let (registry, now) = (Registry::new(), Instant::now());
    let agent = registry.connect(hello("n"), now).unwrap();
    assert!(registry.disconnect("n", agent.id));
    assert!(!registry.disconnect("n", agent.id));
    registry.count_ending("Silent");
    registry.count_ending("Silent");
    assert_eq!(registry.endings(), BTreeMap::from([("Silent", 2)]));
}

#[test]
fn an_agent_that_speaks_no_version_of_ours_is_news_once_and_until_one_that_does_has_come() {
    let (registry, now) = (Registry::new(), Instant::now());
    let (eight, nine) = (Versions::said(8, 8), Versions::said(9, 9));
    assert_eq!(registry.note_unspoken("n", nine, Instant::now()), Ok(true));
    assert!(has_changed(&registry));
    assert_eq!(registry.note_unspoken("n", nine, Instant::now()), Ok(false));
    assert!(!has_changed(&registry));
    assert_eq!(registry.note_unspoken("n", eight, Instant::now()), Ok(true));
    assert_eq!(view(&registry, "n").unspoken, Some(eight));
    registry.connect(hello("n"), now).unwrap();
    assert_eq!(view(&registry, "n").unspoken, None);
}

#[test]
fn a_node_that_goes_loses_its_connection_and_is_forgotten_if_it_never_had_one() {
    let (registry, now) = (Registry::new(), Instant::now());
    registry.note_unspoken("new", Versions::said(9, 9), Instant::now()).unwrap();
    let agent = registry.connect(hello("known"), now).unwrap();
    for node in ["new", "known", "unheard-of"] {
        registry.dismiss(node);
    }
    assert_eq!(registry.snapshot().into_keys().collect::<Vec<_>>(), ["known"]);
    agent.replaced.has_changed().unwrap_err();
    registry.report("known", agent.id, report(1), now);
    let known = view(&registry, "known");
    assert_eq!((known.is_connected, known.report), (false, None));
}

#[test]
fn an_answer_for_slices_wakes_the_loop_and_what_is_used_of_them_does_not() {
    let (registry, now) = (Registry::new(), Instant::now());
    let agent = registry.connect(hello("n"), now).unwrap();
    let acme = realm_plan::Name::new("default", "acme").unwrap();
    let spends = |epoch, used: u32| {
        let it = realm_plan::shares::Use { used: [used; 4], ..<_>::default() };
        let tenants = [(acme.clone(), it)].into();
        Spends { epoch, tenants, reached: None }
    };
    registry.holds("n", agent.id, Slices::default(), now);
    registry.spends("n", agent.id, spends(1, 1), now);
    assert!(has_changed(&registry));
    registry.spends("n", agent.id, spends(1, 2), now);
    assert!(!has_changed(&registry));
    assert_eq!(view(&registry, "n").spends.as_deref(), Some(&spends(1, 2)));
    registry.spends("n", agent.id, spends(2, 2), now);
    assert!(has_changed(&registry));
    let reached = Some([(acme.clone(), [true; 6])].into());
    registry.spends("n", agent.id, Spends { reached, ..spends(2, 2) }, now);
    assert!(has_changed(&registry), "another limit is reached");
    registry.connect(hello("n"), now).unwrap();
    let again = view(&registry, "n");
    assert!(again.is_sliced && again.holds.is_none() && again.spends.is_none(), "it says so anew");
}
