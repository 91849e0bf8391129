use realm_plan::validate::{self, Site};
use serde_json::json;

use super::*;

fn form(tenant: &str, generation: i64, secrets: &[&str]) -> Form {
    let keys: Vec<_> = secrets.iter().map(|name| json!({ "secretName": name })).collect();
    let tenant = serde_json::from_value(json!({
        "apiVersion": "realm.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": { "name": tenant, "namespace": "lab" },
        "spec": { "apiKeys": keys },
    }));
    let tenant = validate::tenant(&tenant.unwrap(), Site::Cluster).unwrap();
    Form { demand: Box::new(Demand::Tenant(tenant)), generation }
}

fn name(text: &str) -> Name {
    Name::new("lab", text).unwrap()
}

fn object(tenant: &str) -> Object {
    (Kind::Tenant, name(tenant))
}

/// The Secrets that are told to be named.
fn told(named: &mut Named) -> Vec<String> {
    named.tell();
    named.subscribe().borrow().iter().map(|name| name.name().to_owned()).collect()
}

fn generations(forms: &[Form]) -> Vec<i64> {
    forms.iter().map(|form| form.generation).collect()
}

#[test]
fn what_names_no_secret_waits_for_nothing() {
    let (mut named, now) = (Named::new(), Instant::now());
    assert!(named.admit(form("t", 1, &[]), now).is_some());
    assert_eq!(told(&mut named), Vec::<String>::new());
}

#[test]
fn what_names_secrets_waits_until_somebody_has_looked_at_all_of_them() {
    let (mut named, now) = (Named::new(), Instant::now());
    assert!(named.admit(form("t", 1, &["a", "b"]), now).is_none());
    assert_eq!(told(&mut named), ["a", "b"]);
    assert_eq!(generations(&named.look(&name("a"))), Vec::<i64>::new());
    assert_eq!(generations(&named.look(&name("b"))), [1]);
    assert!(named.admit(form("u", 2, &["b"]), now).is_some(), "it is known");
    assert_eq!(told(&mut named), ["a", "b"]);
}

#[test]
fn only_the_newest_form_waits() {
    let (mut named, now) = (Named::new(), Instant::now());
    named.admit(form("t", 1, &["a"]), now);
    named.admit(form("t", 2, &["b"]), now);
    assert_eq!(told(&mut named), ["b"]);
    assert_eq!(generations(&named.look(&name("b"))), [2]);
    named.admit(form("t", 3, &["c"]), now);
    named.refuse(&object("t"));
    assert_eq!(told(&mut named), ["b"], "what it was before is still wanted");
    assert_eq!(generations(&named.look(&name("c"))), Vec::<i64>::new());
}

#[test]
fn what_nobody_names_any_more_is_forgotten_and_what_is_named_anew_is_not() {
    let (mut named, now) = (Named::new(), Instant::now());
    named.admit(form("t", 1, &["a"]), now);
    named.look(&name("a"));
    named.remove(&object("t"));
    assert_eq!(told(&mut named), Vec::<String>::new());
    assert!(named.forget(&name("a")));
    named.admit(form("t", 2, &["a"]), now);
    assert_eq!(generations(&named.look(&name("a"))), [2], "it was looked at anew");
    assert!(!named.forget(&name("a")), "somebody names it");
    assert!(named.admit(form("t", 3, &["a"]), now).is_some());
}

#[test]
fn all_is_known_when_everybody_is_and_nobody_waits() {
    let (mut named, now) = (Named::new(), Instant::now());
    named.admit(form("t", 1, &["a"]), now);
    named.synced(Kind::Tenant, now);
    named.look(&name("a"));
    assert!(!named.is_whole(), "models may name others");
    named.synced(Kind::Model, now);
    assert!(named.is_whole());
}

#[test]
fn nobody_waits_longer_than_so_long_however_often_the_form_changes() {
    let (mut named, now) = (Named::new(), Instant::now());
    begin(&mut named, now);
    named.admit(form("t", 1, &["a"]), now);
    let later = now + LOOK_WAIT / 2;
    named.admit(form("t", 2, &["b"]), later);
    assert_eq!(named.due(), Some(now + LOOK_WAIT));
    assert_eq!(generations(&named.overdue(later).0), Vec::<i64>::new());
    let (forms, unseen) = named.overdue(now + LOOK_WAIT);
    assert_eq!((generations(&forms), unseen), (vec![2], [name("b")].into()));
    assert_eq!(named.due(), None);
    assert!(named.admit(form("u", 1, &["b"]), later).is_some(), "it is known to be unreadable");
    assert!(named.is_whole());
}

#[test]
fn the_first_plan_waits_for_everybody_together_and_not_for_ever() {
    let (mut named, now) = (Named::new(), Instant::now());
    named.admit(form("t", 1, &["a"]), now);
    assert_eq!(named.due(), None, "others may be unknown yet");
    named.synced(Kind::Tenant, now);
    named.synced(Kind::Model, now);
    assert!(!named.is_whole());
    let late = now + FIRST_LOOK_WAIT;
    assert_eq!(named.due(), Some(late));
    named.admit(form("t", 2, &["b"]), late);
    named.admit(form("u", 1, &["c"]), late);
    assert_eq!(generations(&named.overdue(late).0), [2, 1]);
    assert!(named.is_whole());
}

#[test]
fn the_first_plan_waits_no_more_where_the_one_who_waited_names_nothing_now() {
    let (mut named, now) = (Named::new(), Instant::now());
    named.admit(form("t", 1, &["a"]), now);
    named.synced(Kind::Tenant, now);
    named.synced(Kind::Model, now);
    assert!(!named.is_whole());
    assert!(named.admit(form("t", 2, &[]), now).is_some());
    assert!(named.is_whole());
}

/// There has been a first plan.
fn begin(named: &mut Named, now: Instant) {
    named.synced(Kind::Tenant, now);
    named.synced(Kind::Model, now);
    assert!(named.is_whole());
}
