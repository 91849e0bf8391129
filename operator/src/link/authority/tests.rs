use proptest::prelude::*;
use rcgen::{CertificateParams, SanType};
use rustls::pki_types::UnixTime;
use x509_parser::extensions::GeneralName;

use super::*;
use crate::link::identity::AgentIdentity;

const HOUR: Duration = Duration::from_hours(1);

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(500_000)
}

fn agent() -> AgentIdentity {
    AgentIdentity {
        node: "worker-1".to_owned(),
        pod: "realm-agent-x".to_owned(),
        namespace: "realm-system".to_owned(),
        pod_uid: "6f1d".to_owned(),
        pod_ip: Some([10, 0, 0, 7].into()),
    }
}

fn request(names: &[&str]) -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.subject_alt_names.push(SanType::URI(node_uri("worker-2").as_str().try_into().unwrap()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.serialize_request(&key).unwrap().der().to_vec()
}

fn parse(chain: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()
}

/// Whether somebody who holds `bundle` believes the operator's certificate at `now`.
fn is_trusted(bundle: &str, certificate: &CertificateDer<'_>, now: SystemTime) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(ca.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
    let name = "operator.realm.svc".try_into().unwrap();
    let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap());
    rustls::client::danger::ServerCertVerifier::verify_server_cert(
        &*verifier,
        certificate,
        &[],
        &name,
        &[],
        now,
    )
    .is_ok()
}

fn serving(authority: &Authority, now: SystemTime) -> CertificateDer<'static> {
    authority.issue_serving(&["operator.realm.svc".to_owned()], now).unwrap().certificate
}

#[test]
fn an_authority_comes_back_from_its_pem() {
    let authority = Authority::create(start()).unwrap().rotated(start() + HOUR).unwrap();
    let pem = authority.to_pem();
    let again = Authority::from_pem(&pem).unwrap();
    assert_eq!(again.to_pem(), pem);
    assert_eq!(again.bundle().matches("BEGIN CERTIFICATE").count(), 2);
    assert!(is_trusted(&authority.bundle(), &serving(&again, start()), start()));
}

#[test]
fn a_key_is_never_printed() {
    let authority = Authority::create(start()).unwrap();
    let printed = format!("{:?} {authority:?}", authority.to_pem());
    assert!(!printed.contains("PRIVATE"), "{printed}");
}

#[test]
fn a_damaged_pem_is_refused_by_what_is_wrong_with_it() {
    let good = Authority::create(start()).unwrap().to_pem();
    let other = Authority::create(start()).unwrap().to_pem();
    let check = |certificates: &str, keys: &str, expected: &str| {
        let pem = AuthorityPem { certificates: certificates.to_owned(), keys: keys.to_owned() };
        let error = Authority::from_pem(&pem).unwrap_err();
        assert!(error.to_string().contains(expected), "{error} does not say `{expected}`");
    };
    check("", "", "0 certificates");
    check(&good.certificates, "", "and 0 keys");
    check(&good.certificates, &other.keys, "does not belong");
    let leaf = Authority::create(start()).unwrap();
    let leaf = leaf.issue_node(&agent(), &request(&[]), start()).unwrap();
    check(&leaf.chain, &good.keys, "not one of an authority");
}

#[test]
fn a_csr_cannot_choose_its_own_name() {
    let authority = Authority::create(start()).unwrap();
    let csr = request(&["operator.realm.svc", "worker-2"]);
    let issued = authority.issue_node(&agent(), &csr, start()).unwrap();
    let certificate = parse(&issued.chain);
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
    let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
    let expected = [
        GeneralName::URI("spiffe://realm.dev/node/worker-1"),
        GeneralName::IPAddress(&[10, 0, 0, 7]),
    ];
    assert_eq!(names.as_slice(), expected);
    assert!(!parsed.is_ca());
    assert_eq!(issued.not_after, start() + LEAF_LIFE);
    assert!(!is_trusted(&authority.bundle(), &certificate, start()), "it is not the operator's");
}

#[test]
fn a_request_that_is_none_or_is_not_signed_by_its_key_is_refused() {
    let authority = Authority::create(start()).unwrap();
    let check = |csr: &[u8]| authority.issue_node(&agent(), csr, start()).unwrap_err();
    assert!(matches!(check(b"no request"), AuthorityError::Request(_)));
    let mut forged = request(&[]);
    *forged.last_mut().unwrap() ^= 1;
    assert!(matches!(check(&forged), AuthorityError::Request(_)));
    assert!(matches!(check(&vec![0; 9 << 10]), AuthorityError::RequestTooLarge { .. }));
}

#[test]
fn two_certificates_for_one_key_have_different_numbers() {
    let authority = Authority::create(start()).unwrap();
    let csr = request(&[]);
    let number = |now| {
        let chain = authority.issue_node(&agent(), &csr, now).unwrap().chain;
        let certificate = parse(&chain);
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
        parsed.raw_serial().to_vec()
    };
    assert_ne!(number(start()), number(start() + Duration::from_nanos(1)));
}

#[test]
fn an_authority_is_renewed_at_two_thirds_of_its_life_and_not_before() {
    let authority = Authority::create(start()).unwrap();
    let due = start() + CA_LIFE * 2 / 3;
    assert!(authority.advanced(due - HOUR).unwrap().is_none());
    let renewed = authority.advanced(due).unwrap().unwrap();
    assert_eq!(renewed.cas.len(), 2);
    assert!(renewed.advanced(due + HOUR).unwrap().is_none());
    let alone = renewed.advanced(due + SETTLE + LEAF_LIFE + SKEW + HOUR).unwrap().unwrap();
    assert_eq!(alone.cas.len(), 1);
}

#[test]
fn an_authority_that_slept_through_its_whole_life_makes_a_new_one_that_signs_at_once() {
    let authority = Authority::create(start()).unwrap();
    let now = start() + CA_LIFE + HOUR;
    let new = authority.advanced(now).unwrap().unwrap();
    assert!(is_trusted(&new.bundle(), &serving(&new, now), now));
}

#[test]
fn rotation_has_a_limit() {
    let mut authority = Authority::create(start()).unwrap();
    for _ in 1..CAS_MAX {
        authority = authority.rotated(start()).unwrap();
    }
    assert!(matches!(authority.rotated(start()), Err(AuthorityError::Rotating)));
}

/// Who signed a certificate, and whose an authority's certificates are, oldest first.
fn issuer(certificate: &CertificateDer<'_>) -> String {
    x509_parser::parse_x509_certificate(certificate).unwrap().1.issuer().to_string()
}

fn subjects(bundle: &str) -> Vec<String> {
    let all = CertificateDer::pem_slice_iter(bundle.as_bytes());
    let subject = |certificate: CertificateDer<'_>| {
        x509_parser::parse_x509_certificate(&certificate).unwrap().1.subject().to_string()
    };
    all.map(|certificate| subject(certificate.unwrap())).collect()
}

#[test]
fn a_rotation_hands_out_before_it_signs_and_trusts_until_nothing_of_the_old_one_lives() {
    let second = Duration::from_secs(1);
    let before = Authority::create(start()).unwrap();
    let rotated_at = start() + CA_LIFE * 2 / 3;
    let after = before.advanced(rotated_at).unwrap().unwrap();
    let [old, new] = subjects(&after.bundle()).try_into().unwrap();
    // As the operator's own certificates, those of agents.
    let signed_by = |now| {
        let issued = after.issue_node(&agent(), &request(&[]), now).unwrap();
        assert_eq!(subjects(&issued.ca), [old.clone(), new.clone()], "both are believed");
        let issuers = (issuer(&serving(&after, now)), issuer(&parse(&issued.chain)));
        assert_eq!(issuers.0, issuers.1);
        issuers.0
    };
    let signs = rotated_at + SETTLE;
    assert_eq!(signed_by(rotated_at), old);
    assert_eq!(signed_by(signs - second), old);
    assert_eq!(signed_by(signs), new);
    let last = signs - second + LEAF_LIFE;
    assert!(is_trusted(&after.bundle(), &serving(&after, signs - second), last - second));
    assert!(after.advanced(last + SKEW).unwrap().is_none(), "a clock that is behind needs it");
    let alone = after.advanced(last + SKEW + second * 2).unwrap().unwrap();
    assert_eq!(subjects(&alone.bundle()), [new]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever is signed during a rotation is trusted by those who still have the bundle from
    /// [`SETTLE`] before, and for as long as it lives by those who have the newest.
    #[test]
    fn rotation_leaves_nobody_without_trust(minutes in 0_u32..60 * 24 * 3, later in 0_u32..60 * 24) {
        let minute = Duration::from_mins(1);
        let rotated_at = start() + HOUR * 24;
        let before = Authority::create(start()).unwrap();
        let after = before.rotated(rotated_at).unwrap();
        let now = rotated_at + minute * minutes;
        let advanced = after.advanced(now).unwrap().unwrap_or_else(|| after.clone());
        let certificate = serving(&advanced, now);
        let stale = if now - SETTLE < rotated_at { before.bundle() } else { after.bundle() };
        prop_assert!(is_trusted(&stale, &certificate, now));
        let then = now + minute * later;
        let newest = advanced.advanced(then).unwrap().unwrap_or(advanced);
        prop_assert!(is_trusted(&newest.bundle(), &certificate, then));
    }
}
