use realm_crds::Model;
use realm_plan::Kind;
use serde_json::{Value, json};

use super::*;

/// A model as the API server tells of it.
fn model(name: &str, uid: &str, generation: i64) -> Value {
    json!({
        "apiVersion": "realm.dev/v1alpha1",
        "kind": "Model",
        "metadata": {
            "name": name, "namespace": "default", "uid": uid, "generation": generation
        },
        "spec": { "sources": ["file:///tiny.gguf"] },
    })
}

fn held(mut model: Value) -> Value {
    model["status"] = json!({ "nodes": [{ "name": "n0", "state": "Ready" }] });
    model
}

fn deleted(mut model: Value) -> Value {
    model["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    model
}

/// What the fleet is told, one word each.
#[derive(Default)]
struct Told(Wanted);

impl Told {
    fn after(&mut self, events: impl IntoIterator<Item = Event<Value>>) -> Vec<String> {
        let events = events.into_iter().map(|event| match event {
            Event::Apply(object) => Event::Apply(parsed(object)),
            Event::Delete(object) => Event::Delete(parsed(object)),
            Event::InitApply(object) => Event::InitApply(parsed(object)),
            Event::Init => Event::Init,
            Event::InitDone => Event::InitDone,
        });
        events.flat_map(|event| self.0.hear(&event)).map(|command| word(&command)).collect()
    }
}

fn parsed(object: Value) -> Model {
    serde_json::from_value(object).unwrap()
}

fn word(command: &Command) -> String {
    match command {
        Command::Apply { demand, generation } => {
            let (_, name) = crate::fleet::handle::object_of(demand);
            format!("apply {} {generation}", name.name())
        }
        Command::Refuse { name, generation, .. } => format!("refuse {} {generation}", name.name()),
        Command::Remove { name, .. } => format!("remove {}", name.name()),
        Command::Retain { names, .. } => format!("retain {}", names.len()),
        Command::Synced(Kind::Model) => "synced".to_owned(),
        Command::Recall { node, models } => format!("recall {} on {node}", models.len()),
        Command::Expect => "expect".to_owned(),
        Command::Told { name, .. } => format!("told {}", name.name()),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_list_is_recalled_and_wanted_object_by_object_and_then_it_is_whole() {
    let list = [
        Event::Init,
        Event::InitApply(held(model("a", "1", 4))),
        Event::InitApply(model("b", "2", 1)),
        Event::InitDone,
    ];
    let told = ["recall 1 on n0", "expect", "apply a 4", "apply b 1", "retain 2", "synced"];
    assert_eq!(Told::default().after(list), told);
}

#[test]
fn an_object_of_which_a_leader_has_told_is_known_to_be_no_new_one() {
    let mut known = model("a", "1", 4);
    known["status"] = json!({ "conditions": [{
        "type": "Ready", "status": "False", "reason": "NoAgents", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }] });
    let list = [Event::Init, Event::InitApply(known.clone()), Event::InitDone];
    assert_eq!(Told::default().after(list), ["told a", "apply a 4", "retain 1", "synced"]);
    let list = [Event::Init, Event::InitApply(deleted(known)), Event::InitDone];
    assert_eq!(Told::default().after(list), ["retain 1", "synced"], "it goes");
}

#[test]
fn a_status_that_was_written_tells_nothing_and_a_new_spec_does() {
    let mut told = Told::default();
    assert_eq!(told.after([Event::Apply(model("a", "1", 1))]), ["apply a 1"]);
    assert_eq!(told.after([Event::Apply(held(model("a", "1", 1)))]), [""; 0]);
    assert_eq!(told.after([Event::Apply(model("a", "1", 2))]), ["apply a 2"]);
    let mut invalid = model("a", "1", 3);
    invalid["spec"]["sources"] = json!(["nonsense"]);
    assert_eq!(told.after([Event::Apply(invalid)]), ["refuse a 3"]);
}

#[test]
fn a_deleted_object_is_not_wanted_and_that_is_told_once() {
    let mut told = Told::default();
    told.after([Event::Apply(model("a", "1", 1))]);
    assert_eq!(told.after([Event::Apply(deleted(model("a", "1", 2)))]), ["remove a"]);
    assert_eq!(told.after([Event::Delete(deleted(model("a", "1", 2)))]), [""; 0]);
}

#[test]
fn another_object_of_the_same_name_and_generation_is_another_form() {
    let mut told = Told::default();
    told.after([Event::Apply(model("a", "1", 1))]);
    let gone = [Event::Delete(model("a", "1", 1)), Event::Apply(model("a", "2", 1))];
    assert_eq!(told.after(gone), ["remove a", "apply a 1"]);
    assert_eq!(told.after([Event::Apply(model("a", "3", 1))]), ["apply a 1"]);
}

#[test]
fn a_list_that_is_read_again_tells_what_went_meanwhile_and_recalls_nothing() {
    let mut told = Told::default();
    let both = [model("a", "1", 1), model("b", "2", 1)].map(Event::InitApply);
    told.after([Event::Init].into_iter().chain(both).chain([Event::InitDone]));
    let again = [Event::Init, Event::InitApply(held(model("a", "1", 1))), Event::InitDone];
    assert_eq!(told.after(again), ["retain 1"]);
    assert_eq!(told.after([Event::Apply(model("b", "2", 1))]), ["apply b 1"]);
}

#[test]
fn a_list_that_broke_off_counts_for_nothing() {
    let mut told = Told::default();
    let broken = [Event::Init, Event::InitApply(model("a", "1", 1))];
    assert_eq!(told.after(broken), ["apply a 1"]);
    assert_eq!(told.after([Event::Init, Event::InitDone]), ["retain 0", "synced"]);
}
