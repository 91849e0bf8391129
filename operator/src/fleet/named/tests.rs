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
    let mut named = Named::new();
    assert!(named.admit(form("t", 1, &[])).is_some());
    assert_eq!(told(&mut named), Vec::<String>::new());
}

#[test]
fn what_names_secrets_waits_until_somebody_has_looked_at_all_of_them() {
    let mut named = Named::new();
    assert!(named.admit(form("t", 1, &["a", "b"])).is_none());
    assert_eq!(told(&mut named), ["a", "b"]);
    assert_eq!(generations(&named.look(&name("a"))), Vec::<i64>::new());
    assert_eq!(generations(&named.look(&name("b"))), [1]);
    assert!(named.admit(form("u", 2, &["b"])).is_some(), "it is known");
    assert_eq!(told(&mut named), ["a", "b"]);
}

#[test]
fn only_the_newest_form_waits() {
    let mut named = Named::new();
    named.admit(form("t", 1, &["a"]));
    named.admit(form("t", 2, &["b"]));
    assert_eq!(told(&mut named), ["b"]);
    assert_eq!(generations(&named.look(&name("b"))), [2]);
    named.admit(form("t", 3, &["c"]));
    named.refuse(&object("t"));
    assert_eq!(told(&mut named), ["b"], "what it was before is still wanted");
    assert_eq!(generations(&named.look(&name("c"))), Vec::<i64>::new());
}

#[test]
fn what_nobody_names_any_more_is_forgotten_and_what_is_named_anew_is_not() {
    let mut named = Named::new();
    named.admit(form("t", 1, &["a"]));
    named.look(&name("a"));
    named.remove(&object("t"));
    assert_eq!(told(&mut named), Vec::<String>::new());
    assert!(named.forget(&name("a")));
    named.admit(form("t", 2, &["a"]));
    assert_eq!(generations(&named.look(&name("a"))), [2], "it was looked at anew");
    assert!(!named.forget(&name("a")), "somebody names it");
    assert!(named.admit(form("t", 3, &["a"])).is_some());
}

#[test]
fn all_is_known_when_everybody_is_and_nobody_waits() {
    let mut named = Named::new();
    named.admit(form("t", 1, &["a"]));
    named.synced(Kind::Tenant);
    named.look(&name("a"));
    assert!(!named.is_whole(), "models may name others");
    named.synced(Kind::Model);
    assert!(named.is_whole());
}
