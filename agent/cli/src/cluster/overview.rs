//! How a cluster is: who leads, which agents there are, how many objects are ready, and before all
//! of that what is wrong.

use jiff::Timestamp;
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use realm_crds::{Model, Pipeline, Tenant};

use super::{Cluster, ClusterError, Scope, Served};
use crate::table::Table;

/// The Lease of the operators.
const LEASE: &str = "realm-operator";

/// Labels of the agents' Pods, as long as no model's status tells those that the operator goes by.
const AGENTS: &str = "app.kubernetes.io/component=agent";

/// The label by which charts tell a version.
const VERSION: &str = "app.kubernetes.io/version";

/// How old the last word of a leader may be. It renews every two seconds; its clock may be off by
/// what clocks without NTP are off after a day or two.
const SILENCE_SECONDS_MAX: i64 = 60;

/// What is wrong, named one by one: a screen of it. The rest is counted.
const WRONG_SHOWN_MAX: usize = 20;

/// Nodes named in one line.
const NODES_SHOWN_MAX: usize = 8;

/// A part of the picture, or the rule that a person lacks to see it.
type Part<T> = Result<T, String>;

/// What was found of a cluster.
struct Facts {
    url: String,
    /// Of the operator and the agents.
    namespace: String,
    operator: Part<Operator>,
    /// By which the agents' Pods are found.
    selector: String,
    agents: Part<Vec<Agent>>,
    /// Of each kind, in the order of the lines.
    objects: [(&'static str, Part<Vec<Object>>); 3],
}

#[derive(Debug, Default)]
struct Operator {
    leader: Option<String>,
    version: Option<String>,
    renewed: Option<Timestamp>,
}

struct Agent {
    node: String,
    is_ready: bool,
}

struct Object {
    name: String,
    is_ready: bool,
    is_stalled: bool,
    state: String,
    message: String,
}

/// The lines of `realm info`, of a cluster whose operator is in the namespace of `cluster`.
pub(crate) async fn lines(cluster: &Cluster) -> Result<Vec<String>, ClusterError> {
    let tenants = part(cluster.list::<Tenant>(&Scope::All, "").await)?;
    let models = part(cluster.list::<Model>(&Scope::All, "").await)?;
    let pipelines = part(cluster.list::<Pipeline>(&Scope::All, "").await)?;
    let selector =
        models.iter().flatten().find_map(|model| model.status.as_ref()?.selector.clone());
    let selector = selector.unwrap_or_else(|| AGENTS.to_owned());
    let facts = Facts {
        url: cluster.url().to_owned(),
        namespace: cluster.namespace().to_owned(),
        objects: [
            ("tenants", tenants.map(|all| objects(&all))),
            ("models", models.map(|all| objects(&all))),
            ("pipelines", pipelines.map(|all| objects(&all))),
        ],
        operator: operator(cluster).await?,
        agents: agents(cluster, &selector).await?,
        selector,
    };
    Ok(render(&facts, Timestamp::now()))
}

/// Lets the rest be seen where one part may not be.
fn part<T>(found: Result<T, ClusterError>) -> Result<Part<T>, ClusterError> {
    match found {
        Ok(found) => Ok(Ok(found)),
        Err(ClusterError::Forbidden { verb, object, said: _ }) => {
            Ok(Err(format!("not shown: you may not {verb} {object}")))
        }
        Err(error) => Err(error),
    }
}

async fn operator(cluster: &Cluster) -> Result<Part<Operator>, ClusterError> {
    let lease = match part(cluster.find::<Lease>(LEASE).await)? {
        Ok(lease) => lease,
        Err(why) => return Ok(Err(why)),
    };
    let spec = lease.and_then(|lease| lease.spec).unwrap_or_default();
    let leader = spec.holder_identity.filter(|holder| !holder.is_empty());
    let pod = match &leader {
        // Without its Pod only its version is unknown.
        Some(leader) => part(cluster.find::<Pod>(leader).await)?.ok().flatten(),
        None => None,
    };
    let version = pod.as_ref().and_then(version);
    let renewed = spec.renew_time.map(|MicroTime(time)| time);
    Ok(Ok(Operator { leader, version, renewed }))
}

/// What a Pod runs: its label, else the tag of its image.
fn version(pod: &Pod) -> Option<String> {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(VERSION));
    let image = || pod.spec.as_ref()?.containers.first()?.image.as_ref()?.rsplit_once(':');
    label.cloned().or_else(|| image().map(|(_, tag)| tag.to_owned()))
}

async fn agents(cluster: &Cluster, selector: &str) -> Result<Part<Vec<Agent>>, ClusterError> {
    let scope = Scope::Namespace(cluster.namespace().to_owned());
    let pods = part(cluster.list::<Pod>(&scope, selector).await)?;
    Ok(pods.map(|pods| {
        let mut agents: Vec<_> = pods.iter().map(agent).collect();
        agents.sort_by(|one, other| one.node.cmp(&other.node));
        agents
    }))
}

fn agent(pod: &Pod) -> Agent {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let is_ready = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    Agent { node: node.unwrap_or_else(|| "no node yet".to_owned()), is_ready }
}

fn objects<K: Served>(objects: &[K]) -> Vec<Object> {
    objects.iter().map(object).collect()
}

fn object<K: Served>(object: &K) -> Object {
    let said = object.said();
    let meta = object.meta();
    let [namespace, name] =
        [&meta.namespace, &meta.name].map(|text| text.clone().unwrap_or_default());
    Object {
        name: format!("{} {namespace}/{name}", K::kind(&()).to_lowercase()),
        is_ready: said.is_ready(),
        is_stalled: said.is_stalled(),
        state: said.state(),
        message: said.condition("Ready").map(|ready| ready.message.clone()).unwrap_or_default(),
    }
}

/// The lines, what is wrong before all else. Pure.
fn render(facts: &Facts, now: Timestamp) -> Vec<String> {
    let Facts { url, namespace: _, operator, selector: _, agents, objects } = facts;
    let wrong = wrong(facts, now);
    let mut lines = Vec::new();
    if wrong.is_empty() {
        lines.push("wrong       nothing".to_owned());
    } else {
        lines.push(format!("wrong       {}", wrong.len()));
        let mut table = Table::<3>::plain();
        for (what, why) in wrong.iter().take(WRONG_SHOWN_MAX) {
            table.add([String::from(" "), what.clone(), why.clone()]);
        }
        lines.extend(table.lines());
        if let Some(more) = wrong.len().checked_sub(WRONG_SHOWN_MAX).filter(|more| *more > 0) {
            lines.push(format!("   and {more} more"));
        }
    }
    lines.push(format!("cluster     {url}"));
    lines.push(format!("operator    {}", operator.as_ref().map_or_else(Clone::clone, said_of)));
    let (agents, doors) = match agents {
        Ok(agents) => {
            (agents_line(agents), agents.iter().filter(|a| a.is_ready).count().to_string())
        }
        Err(why) => (why.clone(), why.clone()),
    };
    lines.push(format!("agents      {agents}"));
    // Every agent is one.
    lines.push(format!("doors       {doors}"));
    for (kind, objects) in objects {
        let count = objects.as_ref().map_or_else(Clone::clone, |objects| {
            let ready = objects.iter().filter(|object| object.is_ready).count();
            format!("{ready} of {} ready", objects.len())
        });
        lines.push(format!("{kind:<10}  {count}"));
    }
    lines
}

fn said_of(Operator { leader, version, renewed: _ }: &Operator) -> String {
    let version = version.as_deref().unwrap_or("unknown");
    match leader {
        Some(leader) => format!("{leader} leads, version {version}"),
        None => "none leads".to_owned(),
    }
}

fn agents_line(agents: &[Agent]) -> String {
    let ready = agents.iter().filter(|agent| agent.is_ready);
    let names: Vec<_> = ready.clone().take(NODES_SHOWN_MAX).map(|a| a.node.as_str()).collect();
    let count = ready.count();
    let more = if count > names.len() { ", …" } else { "" };
    let names =
        if names.is_empty() { String::new() } else { format!(": {}{more}", names.join(", ")) };
    format!("{count} of {} ready{names}", agents.len())
}

/// Everything that is wrong, each as what and why; what holds most others up comes first.
fn wrong(facts: &Facts, now: Timestamp) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    if let Ok(Operator { leader, renewed, .. }) = &facts.operator {
        let silent = renewed.map(|renewed| now.duration_since(renewed).as_secs());
        let why = match (leader, silent) {
            (None, _) => Some(format!(
                "none leads in namespace {}: nothing is planned, and what is served goes on",
                facts.namespace
            )),
            (Some(leader), Some(seconds)) if seconds > SILENCE_SECONDS_MAX => {
                Some(format!("{leader} has said nothing for {seconds} s: is it running?"))
            }
            (Some(_), _) => None,
        };
        wrong.extend(why.map(|why| ("operator".to_owned(), why)));
    }
    if let Ok(agents) = &facts.agents {
        if agents.is_empty() {
            let why = format!(
                "no Pod of namespace {} has the labels {}",
                facts.namespace, facts.selector
            );
            wrong.push(("agents".to_owned(), why));
        }
        let unready = agents.iter().filter(|agent| !agent.is_ready);
        wrong.extend(
            unready.map(|a| (format!("agent on {}", a.node), "its Pod is not ready".to_owned())),
        );
    }
    let all = || facts.objects.iter().filter_map(|(_, objects)| objects.as_ref().ok()).flatten();
    let told =
        |object: &Object| (object.name.clone(), format!("{}: {}", object.state, object.message));
    wrong.extend(all().filter(|object| object.is_stalled).map(told));
    wrong.extend(all().filter(|object| !object.is_ready && !object.is_stalled).map(told));
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, state: &str, is_stalled: bool) -> Object {
        Object {
            name: name.to_owned(),
            is_ready: state == "Ready",
            is_stalled,
            state: state.to_owned(),
            message: "because".to_owned(),
        }
    }

    fn facts() -> Facts {
        Facts {
            url: "https://api:6443/".to_owned(),
            namespace: "realm-system".to_owned(),
            operator: Ok(Operator {
                leader: Some("operator-0".to_owned()),
                version: Some("1.2.3".to_owned()),
                renewed: Some(Timestamp::from_second(100).unwrap()),
            }),
            selector: AGENTS.to_owned(),
            agents: Ok(vec![Agent { node: "alpha".to_owned(), is_ready: true }]),
            objects: [
                ("tenants", Ok(vec![object("tenant shop/acme", "Ready", false)])),
                ("models", Ok(vec![])),
                ("pipelines", Err("not shown: you may not list pipelines".to_owned())),
            ],
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_cluster_that_is_well_says_who_and_how_many() {
        assert_eq!(
            render(&facts(), at(103)),
            [
                "wrong       nothing",
                "cluster     https://api:6443/",
                "operator    operator-0 leads, version 1.2.3",
                "agents      1 of 1 ready: alpha",
                "doors       1",
                "tenants     1 of 1 ready",
                "models      0 of 0 ready",
                "pipelines   not shown: you may not list pipelines",
            ]
        );
    }

    #[test]
    fn what_is_wrong_comes_first_and_what_holds_others_up_before_it() {
        let mut facts = facts();
        facts.operator = Ok(Operator::default());
        facts.agents = Ok(vec![Agent { node: "beta".to_owned(), is_ready: false }]);
        facts.objects[1].1 = Ok(vec![
            object("model shop/slow", "Fetching", false),
            object("model shop/big", "DoesNotFit", true),
        ]);
        let lines = render(&facts, at(103));
        assert_eq!(lines[0], "wrong       4");
        let starts = ["operator", "agent on beta", "model shop/big", "model shop/slow"];
        for (line, start) in lines[1..5].iter().zip(starts) {
            assert!(line.trim_start().starts_with(start), "{line}");
        }
        assert!(lines[3].ends_with("DoesNotFit: because"), "{lines:?}");
    }

    #[test]
    fn a_leader_that_has_been_silent_is_asked_after() {
        let wrong = wrong(&facts(), at(100 + SILENCE_SECONDS_MAX + 1));
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].1.contains("61 s"), "{wrong:?}");
    }

    #[test]
    fn a_version_is_a_label_or_the_tag_of_an_image() {
        let pod = |labels: &str, image: &str| -> Pod {
            serde_json::from_str(&format!(
                r#"{{"metadata": {{"labels": {labels}}},
                     "spec": {{"containers": [{{"name": "c", "image": "{image}"}}]}}}}"#
            ))
            .unwrap()
        };
        assert_eq!(version(&pod(r#"{"app.kubernetes.io/version": "1"}"#, "x:2")).unwrap(), "1");
        assert_eq!(version(&pod("{}", "x/y:2")).unwrap(), "2");
        assert_eq!(version(&pod("{}", "x")), None);
    }
}
