//! What strangers and agents gone bad try at the link.

use std::{sync::Arc, time::SystemTime};

use realm_link::client::{self, LinkError};
use realm_operator::link::{
    authority::{Authority, node_uri},
    identity::Stranger,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::extensions::GeneralName;

use super::world::{Agent, World, nothing, soon, token};

async fn agent(options: client::LinkOptions) -> Agent {
    Agent::start(options, tempfile::tempdir().unwrap()).await
}

#[tokio::test]
async fn an_agent_that_lies_about_its_node_is_refused() {
    let world = World::start().await;
    world.order("worker-2", &nothing(1));
    let liar = agent(world.options("worker-2", &token("worker-1"))).await;
    let message = liar.until_refused("Refused").await;
    assert!(message.contains("on `worker-2`; its token is bound to `worker-1`"), "{message}");
    assert_eq!(liar.ledger.newest().generation, 0);
    let seen = world.registry.snapshot();
    assert!(!seen.contains_key("worker-1") && seen["worker-2"].agent.is_none());
}

#[tokio::test]
async fn a_token_of_another_audience_is_refused() {
    let world = World::start().await;
    let options = world.options("worker-1", "https://kubernetes.default.svc@worker-1");
    let message = agent(options).await.until_refused("Refused").await;
    assert!(message.contains("and not for `realm-operator`"), "{message}");
    assert!(world.registry.snapshot().is_empty());
}

#[tokio::test]
async fn who_is_no_agent_is_counted_by_what_told() {
    let world = World::start().await;
    let abroad = agent(world.options("worker-1", "https://kubernetes.default.svc@worker-1")).await;
    abroad.until_refused("Refused").await;
    drop(abroad);
    let nowhere = agent(world.options("worker-2", &token("no node"))).await;
    nowhere.until_refused("Refused").await;
    drop(nowhere);
    let liar = agent(world.options("worker-3", &token("worker-1"))).await;
    liar.until_refused("Refused").await;
    drop(liar);
    let counted = world.registry.strangers().into_iter().filter(|(_, count)| *count > 0);
    let counted: Vec<Stranger> = counted.map(|(stranger, _)| stranger).collect();
    assert_eq!(counted, [Stranger::Audience, Stranger::NotAPod, Stranger::OtherNode]);
    assert_eq!(world.registry.strangers().len(), Stranger::ALL.len(), "the others are told too");
}

#[tokio::test]
async fn an_agent_without_a_token_does_not_even_connect() {
    let world = World::start().await;
    let agent = agent(world.options("worker-1", " \n")).await;
    agent.until_refused("Token").await;
    assert!(world.registry.snapshot().is_empty());
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_not_trusted() {
    let world = World::start().await;
    let other = Authority::create(SystemTime::now()).unwrap();
    std::fs::write(world.ca_file(), other.bundle()).unwrap();
    world.order("worker-1", &nothing(1));
    let agent = world.agent("worker-1").await;
    let message = agent.until_refused("Tls").await;
    assert!(message.contains("certificate"), "{message}");
    assert!(world.registry.snapshot()["worker-1"].agent.is_none(), "no token was sent");
    // The bundle is read again at each connect.
    world.write_bundle();
    agent.until_held(1).await;
}

#[tokio::test]
async fn the_certificate_of_another_name_is_not_trusted() {
    let world = World::start().await;
    let mut options = world.options("worker-1", &token("worker-1"));
    // It leads to the same door, but the door has a certificate for 127.0.0.1 and localhost.
    options.operators =
        vec![format!("https://127.0.0.2:{}", world.address.port()).parse().unwrap()];
    let message = agent(options).await.until_refused_by(&["Tls", "Connect"]).await;
    assert!(!message.is_empty());
    assert!(world.registry.snapshot().is_empty());
}

#[tokio::test]
async fn a_csr_cannot_choose_its_own_name() {
    let world = World::start().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let csr = params.serialize_request(&key).unwrap();
    let options = world.options("worker-1", &token("worker-1"));
    let enrolled = soon("a certificate", client::enroll(&options, csr.der())).await.unwrap();
    let certificate =
        CertificateDer::from_pem_slice(enrolled.certificate_chain.as_bytes()).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
    let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
    let uri = node_uri("worker-1");
    assert_eq!(names[..], [GeneralName::URI(&uri), GeneralName::IPAddress(&[10, 0, 0, 7])]);
    assert_eq!(parsed.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
    assert_eq!(enrolled.ca, world.authority.borrow().bundle());
    assert!(enrolled.not_after > SystemTime::now());
}

#[tokio::test]
async fn a_certificate_is_signed_for_nobody_without_the_right_token() {
    let world = World::start().await;
    let options = world.options("worker-1", "somebody-else@worker-1");
    let error = soon("an answer", client::enroll(&options, b"csr")).await.unwrap_err();
    assert!(matches!(error, LinkError::Refused(_)), "{error}");
    let options = world.options("worker-1", &token("worker-1"));
    let error = soon("an answer", client::enroll(&options, b"csr")).await.unwrap_err();
    assert!(matches!(error, LinkError::Refused(_)), "{error}");
    world.lead.end();
    let error = soon("an answer", client::enroll(&options, b"csr")).await.unwrap_err();
    assert!(matches!(error, LinkError::NotLeading), "{error}");
}

#[tokio::test]
async fn a_node_that_is_no_longer_part_of_the_cluster_loses_its_stream() {
    let world = World::start().await;
    world.registry.set_desired("worker-1", Arc::new(nothing(1))).unwrap();
    let agent = world.agent("worker-1").await;
    agent.until_held(1).await;
    world.registry.dismiss("worker-1");
    let message = agent.until_refused("Broken").await;
    assert!(message.contains("no longer part of the cluster"), "{message}");
}
