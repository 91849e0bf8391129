use futures_util::StreamExt as _;
use realm_plan::{Problem, Reason, validate};
use serde_json::json;

use super::{standing::Hold, *};
use crate::{lease::Given, metrics::Metrics};

fn start() -> (Handle, Metrics) {
    let metrics = Metrics::new().unwrap();
    let given = Arc::new(watch::Sender::new(Given::default()));
    let term = Term { first_generation: 1, doors: 0, given };
    let (fleet, handle) = FleetLoop::new(term, Registry::new(), metrics.fleet.clone());
    tokio::spawn(fleet.run());
    (handle, metrics)
}

fn name(index: usize) -> Name {
    Name::new("default", &format!("t{index}")).unwrap()
}

/// An object that cannot be served, which is told of as well as any.
fn refuse(index: usize, generation: i64) -> Command {
    let problem =
        Problem { path: "spec".to_owned(), reason: Reason::OutOfRange, message: "why".to_owned() };
    Command::Refuse { kind: Kind::Tenant, name: name(index), problems: vec![problem], generation }
}

async fn sync(handle: &Handle) {
    for kind in [Kind::Model, Kind::Tenant, Kind::Pipeline] {
        handle.tell(Command::Synced(kind)).await;
    }
    handle.tell(Command::Labelled).await;
}

fn plans(metrics: &Metrics) -> String {
    let text = metrics.text().unwrap();
    let line = text.lines().find(|line| line.starts_with("realm_operator_plan_seconds_count"));
    line.unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_changes_is_one_plan_and_everybody_hears_of_it_once() {
    let (handle, metrics) = start();
    let changes = handle.changes(Kind::Tenant);
    for index in 0..500 {
        handle.tell(refuse(index, 1)).await;
    }
    sync(&handle).await;
    let told: Vec<Name> = changes.take(500).collect().await;
    assert_eq!(told.len(), 500);
    assert_eq!(plans(&metrics), "realm_operator_plan_seconds_count 1");
    let standing = handle.standing(Kind::Tenant, &name(7)).unwrap();
    assert_eq!((standing.generation, standing.problems.len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_of_any_object_before_all_have_been_read() {
    let (handle, _) = start();
    handle.tell(refuse(0, 1)).await;
    tokio::time::advance(GATHER * 4).await;
    assert!(handle.standing(Kind::Tenant, &name(0)).is_none());
    assert_eq!(handle.hold(Kind::Tenant, &name(0)), Hold::Unsaid, "who knows");
    let mut changes = Box::pin(handle.changes(Kind::Tenant));
    sync(&handle).await;
    assert_eq!(changes.next().await, Some(name(0)));
    assert_eq!(handle.hold(Kind::Tenant, &name(0)), Hold::Nobody);
}

#[tokio::test(start_paused = true)]
async fn only_what_changed_is_told_again() {
    let (handle, _) = start();
    let mut changes = Box::pin(handle.changes(Kind::Tenant));
    handle.tell(refuse(0, 1)).await;
    handle.tell(refuse(1, 1)).await;
    sync(&handle).await;
    assert_eq!((changes.next().await, changes.next().await), (Some(name(0)), Some(name(1))));
    handle.tell(refuse(1, 2)).await;
    assert_eq!(changes.next().await, Some(name(1)));
    assert_eq!(handle.standing(Kind::Tenant, &name(1)).unwrap().generation, 2);
    let names = [name(0)].into();
    handle.tell(Command::Retain { kind: Kind::Tenant, names }).await;
    handle.tell(refuse(0, 3)).await;
    assert_eq!(changes.next().await, Some(name(0)));
    assert!(handle.standing(Kind::Tenant, &name(1)).is_none(), "it is gone");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_planned_before_the_labels_of_nodes_are_known() {
    let (handle, _) = start();
    handle.tell(refuse(0, 1)).await;
    for kind in [Kind::Model, Kind::Tenant, Kind::Pipeline] {
        handle.tell(Command::Synced(kind)).await;
    }
    tokio::time::sleep(GATHER * 4).await;
    assert!(handle.standing(Kind::Tenant, &name(0)).is_none());
    let mut changes = Box::pin(handle.changes(Kind::Tenant));
    handle.tell(Command::Labelled).await;
    assert_eq!(changes.next().await, Some(name(0)));
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_never_read_costs_nothing_while_it_is_waited_for() {
    let (handle, metrics) = start();
    handle.tell(refuse(0, 1)).await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    // One for the object, one when agents have had their time, one when it is young no more, one
    // when doors have had their time.
    assert_eq!(plans(&metrics), "realm_operator_plan_seconds_count 4");
}

/// A tenant that names Secrets.
fn tenant(index: usize, generation: i64, secrets: &[&str]) -> Command {
    let keys: Vec<_> = secrets.iter().map(|name| json!({ "secretName": name })).collect();
    let tenant = serde_json::from_value(json!({
        "apiVersion": "realm.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": { "name": format!("t{index}"), "namespace": "default" },
        "spec": { "apiKeys": keys },
    }));
    let tenant = validate::tenant(&tenant.unwrap(), Site::Cluster).unwrap();
    Command::Apply { demand: Box::new(Demand::Tenant(tenant)), generation }
}

fn absent(secret: &str) -> Command {
    Command::Look { name: Name::new("default", secret).unwrap(), look: Look::Absent }
}

fn withheld(secret: &str) -> Command {
    let name = Name::new("default", secret).unwrap();
    let secret = validate::withheld(name.clone(), Reason::SecretTooLarge, "why".to_owned());
    Command::Look { name, look: Look::Withheld(secret) }
}

fn reasons(handle: &Handle, index: usize) -> Option<(i64, Vec<Reason>)> {
    let standing = handle.standing(Kind::Tenant, &name(index))?;
    Some((standing.generation, standing.problems.iter().map(|each| each.reason).collect()))
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_plans_when_somebody_has_looked_at_every_secret_that_is_named() {
    let (handle, _) = start();
    handle.tell(tenant(0, 1, &["a", "b"])).await;
    sync(&handle).await;
    let mut named = handle.named();
    let count = named.wait_for(|named| !named.is_empty()).await.unwrap().len();
    assert_eq!(count, 2);
    handle.tell(absent("a")).await;
    tokio::time::sleep(GATHER * 4).await;
    assert_eq!(reasons(&handle, 0), None);
    let mut changes = Box::pin(handle.changes(Kind::Tenant));
    handle.tell(withheld("b")).await;
    assert_eq!(changes.next().await, Some(name(0)));
    let expected = vec![Reason::UnknownSecret, Reason::SecretTooLarge];
    assert_eq!(reasons(&handle, 0), Some((1, expected)));
}

#[tokio::test(start_paused = true)]
async fn what_an_object_was_serves_until_somebody_has_looked_at_what_it_newly_names() {
    let (handle, _) = start();
    let mut changes = Box::pin(handle.changes(Kind::Tenant));
    handle.tell(tenant(0, 1, &[])).await;
    sync(&handle).await;
    assert_eq!(changes.next().await, Some(name(0)));
    handle.tell(tenant(0, 2, &["a"])).await;
    handle.tell(refuse(1, 1)).await;
    assert_eq!(changes.next().await, Some(name(1)), "it holds up nobody else");
    assert_eq!(reasons(&handle, 0), Some((1, vec![])));
    handle.tell(absent("a")).await;
    assert_eq!(changes.next().await, Some(name(0)));
    assert_eq!(reasons(&handle, 0), Some((2, vec![Reason::UnknownSecret])));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_goes_while_it_waits_holds_up_nothing() {
    let (handle, _) = start();
    handle.tell(tenant(0, 1, &["a"])).await;
    handle.tell(refuse(1, 1)).await;
    sync(&handle).await;
    let mut changes = Box::pin(handle.changes(Kind::Tenant));
    handle.tell(Command::Retain { kind: Kind::Tenant, names: [name(1)].into() }).await;
    assert_eq!(changes.next().await, Some(name(1)));
    assert!(handle.named().borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_object_is_young_for_a_minute_and_its_turning_is_told() {
    let (handle, _) = start();
    let mut changes = Box::pin(handle.changes(Kind::Tenant));
    handle.tell(Command::Told { kind: Kind::Tenant, name: name(0) }).await;
    handle.tell(refuse(0, 1)).await;
    handle.tell(refuse(1, 1)).await;
    sync(&handle).await;
    assert_eq!((changes.next().await, changes.next().await), (Some(name(0)), Some(name(1))));
    let is_young = |index| handle.standing(Kind::Tenant, &name(index)).unwrap().is_young;
    assert!(!is_young(0), "an earlier leader has told of it");
    assert!(is_young(1));
    // By then it is known which limits nobody refuses calls by, which for the other is news.
    let mut news = vec![changes.next().await, changes.next().await];
    news.sort_unstable();
    assert_eq!(news, [Some(name(0)), Some(name(1))], "time alone brings it back");
    assert!(!is_young(1));
}
