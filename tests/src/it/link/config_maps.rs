//! Who is brought what a ConfigMap holds, and who is not.

use std::sync::Arc;

use realm_core::{
    config_maps::{ConfigMapErrorKind, WantedEntry},
    desired as core,
};
use realm_plan::desired::{Artifact, Desired, DesiredTenant, HostedProgram, Program, Sha256};
use realm_proto::link::v1::{self as proto, link_client::LinkClient};
use tonic::{Code, Request};

use super::{
    load,
    raw::channel,
    world::{Agent, CONFIG_MAPS, World, name, token},
};

const SOURCE: &str = "configmap://programs/a.wasm";

/// A state with one tenant, whose program comes from [`SOURCE`].
fn state(namespace: &str) -> Desired {
    let mut desired = load::state(1, 1);
    let sources = vec!["https://a.example/a.wasm".to_owned(), SOURCE.to_owned()];
    let artifact = Artifact { sources, sha256: Some(Sha256([7; 32])), parts: Vec::new() };
    let [tenant] = &desired.tenants[..] else { panic!("one tenant") };
    let tenant = DesiredTenant {
        name: name(&format!("{namespace}/tenant")),
        models: Vec::new(),
        pipelines: [].into(),
        program: Some(HostedProgram { code: Program::Component(artifact), config: [].into() }),
        ..DesiredTenant::clone(tenant)
    };
    desired.tenants = vec![Arc::new(tenant)];
    desired
}

fn wanted(namespace: &str, source: &str, digest: u8) -> WantedEntry {
    let (namespace, source) = (namespace.to_owned(), source.to_owned());
    WantedEntry { namespace, source, sha256: core::Sha256([digest; 32]) }
}

/// Why an agent is not brought an entry.
async fn refused(agent: &Agent, wanted: WantedEntry) -> (ConfigMapErrorKind, String) {
    let error = agent.config_maps.read(wanted).await.unwrap_err();
    (error.kind, error.message)
}

#[tokio::test]
async fn an_entry_is_for_agents_whose_state_names_it_and_for_nobody_else() {
    let world = World::start().await;
    let (runs, other) = (world.agent("worker-1").await, world.agent("worker-2").await);
    for agent in [&runs, &other] {
        agent.until_state(|state| state.connected.is_some()).await;
    }
    let any = wanted(CONFIG_MAPS, SOURCE, 7);
    let (kind, message) = refused(&runs, any.clone()).await;
    assert_eq!(kind, ConfigMapErrorKind::Unreachable, "nothing is planned: {message}");
    world.order("worker-1", &state(CONFIG_MAPS));
    world.order("worker-2", &load::state(1, 1));
    // It may be read, by an API server that is not there.
    let (kind, message) = refused(&runs, any.clone()).await;
    assert_eq!(kind, ConfigMapErrorKind::Unreachable, "{message}");
    assert!(message.contains("read ConfigMap `programs`"), "{message}");
    let not_its = [
        wanted("elsewhere", SOURCE, 7),
        wanted(CONFIG_MAPS, "configmap://programs/b.wasm", 7),
        wanted(CONFIG_MAPS, "https://b.example/a.wasm", 7),
        wanted(CONFIG_MAPS, SOURCE, 8),
    ];
    for wanted in not_its {
        let (kind, message) = refused(&runs, wanted).await;
        assert_eq!(kind, ConfigMapErrorKind::NotAllowed, "{message}");
    }
    let (kind, message) = refused(&other, any).await;
    assert_eq!(kind, ConfigMapErrorKind::NotAllowed, "{message}");
}

#[tokio::test]
async fn a_namespace_that_the_operator_may_not_read_is_named() {
    let world = World::start().await;
    let agent = world.agent("worker-1").await;
    agent.until_state(|state| state.connected.is_some()).await;
    world.order("worker-1", &state("elsewhere"));
    let (kind, message) = refused(&agent, wanted("elsewhere", SOURCE, 7)).await;
    assert_eq!(kind, ConfigMapErrorKind::NotAllowed, "{message}");
    assert!(message.contains("`elsewhere`") && message.contains("tenantNamespaces"), "{message}");
}

#[tokio::test]
async fn without_a_link_an_agent_is_told_at_once_and_hears_again_with_one() {
    let mut world = World::start().await;
    let agent = world.agent("worker-1").await;
    agent.until_state(|state| state.connected.is_some()).await;
    world.order("worker-1", &state(CONFIG_MAPS));
    world.close_door().await;
    agent.until_state(|state| state.connected.is_none()).await;
    let (kind, message) = refused(&agent, wanted(CONFIG_MAPS, SOURCE, 7)).await;
    assert_eq!(kind, ConfigMapErrorKind::Unreachable);
    assert!(message.contains("no link"), "{message}");
    world.open_door().await;
    agent.until_state(|state| state.connected.is_some()).await;
    let (_, message) = refused(&agent, wanted(CONFIG_MAPS, SOURCE, 7)).await;
    assert!(message.contains("read ConfigMap `programs`"), "{message}");
}

#[tokio::test]
async fn nobody_is_brought_anything_beside_no_stream_or_without_a_token() {
    let world = World::start().await;
    world.order("worker-1", &state(CONFIG_MAPS));
    let ask = async |bearer: Option<&str>| {
        let (namespace, source) = (CONFIG_MAPS.to_owned(), SOURCE.to_owned());
        let wanted = proto::ConfigMapRequest { namespace, source, sha256: vec![7; 32] };
        let mut request = Request::new(wanted);
        if let Some(bearer) = bearer {
            let bearer = format!("Bearer {bearer}").parse().unwrap();
            request.metadata_mut().insert("authorization", bearer);
        }
        let mut client = LinkClient::new(channel(&world).await);
        client.read_config_map(request).await.unwrap_err()
    };
    assert_eq!(ask(None).await.code(), Code::Unauthenticated);
    let status = ask(Some(&token("worker-1"))).await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("no stream"), "{status}");
}
