//! How long an agent goes on with what it was told, and whom it believes meanwhile.

use futures_util::FutureExt as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

use super::*;

/// An authority of one installation.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    /// What it gave the agent of `node`, which ends in so many seconds from the epoch.
    fn kept(&self, node: &str, end: u64) -> Kept {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let uri = format!("spiffe://realm.dev/node/{node}");
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into().unwrap())];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let enrolled = Enrolled {
            certificate_chain: certificate.pem(),
            ca: self.pem.clone(),
            not_after: at(end),
        };
        Kept { enrolled, key_der: key.serialize_der() }
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap()
}

const END: u64 = 1_000;

/// Which of two authorities are believed by an agent that was told of the first, and finds these
/// bundles one after another.
fn believed(bundles: impl Fn(&str, &str) -> Vec<Option<String>>) -> (bool, bool) {
    let (ours, next) = (Authority::new(), Authority::new());
    let kept = ours.kept("n1", END);
    let mut said = Said::default();
    for bundle in bundles(&ours.pem, &next.pem) {
        said.hear(bundle.as_deref().map(str::as_bytes));
    }
    let old = old("n1", &kept, &said, at(0)).unwrap().unwrap();
    let believes = |authority: &Authority| {
        let chain = authority.kept("n2", END).enrolled.certificate_chain;
        let chain = certificates(chain.as_bytes()).unwrap();
        old.believes(&chain, UnixTime::now())
    };
    (believes(&ours), believes(&next))
}

#[test]
fn a_certificate_of_before_is_used_until_it_ends_and_not_for_longer() {
    let kept = Authority::new().kept("n1", END);
    assert!(old("n1", &kept, &Said::default(), at(END - 1)).unwrap().is_some());
    assert!(old("n1", &kept, &Said::default(), at(END)).unwrap().is_none());
}

#[test]
fn an_authority_that_is_gone_from_the_bundle_is_believed_no_more() {
    let both = |one: &str, other: &str| vec![Some(format!("{one}{other}"))];
    assert_eq!(believed(|ours, _| vec![Some(ours.to_owned())]), (true, false));
    assert_eq!(believed(both), (true, true));
    assert_eq!(believed(|_, next| vec![Some(next.to_owned())]), (false, true));
}

#[test]
fn a_bundle_that_cannot_be_read_says_nothing() {
    let no_certificate = "-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n";
    for bundle in [None, Some(""), Some("nonsense"), Some(no_certificate)] {
        let bundle = || bundle.map(str::to_owned);
        assert_eq!(believed(|_, _| vec![bundle()]), (true, false), "{:?}", bundle());
        let after = believed(|_, next| vec![Some(next.to_owned()), bundle()]);
        assert_eq!(after, (false, true), "{:?}", bundle());
    }
}

#[test]
fn nobody_goes_on_as_another_node() {
    let kept = Authority::new().kept("n1", END);
    let other = old("n2", &kept, &Said::default(), at(0)).map(drop);
    assert!(matches!(other, Err(IdentityError::OtherNode { .. })), "{other:?}");
}

#[test]
fn what_has_ended_is_shown_to_nobody_any_more() {
    let authority = Authority::new();
    let (identity, shown) = watch::channel(None);
    stand_in("n1", &authority.kept("n1", u64::from(u32::MAX)), &Said::default(), &identity);
    assert!(shown.borrow().is_some());
    stand_in("n1", &authority.kept("n1", END), &Said::default(), &identity);
    assert!(shown.borrow().is_none());
}

fn linked(since: Option<time::Instant>) -> LinkState {
    let operator = "https://operator:8443".parse().unwrap();
    let connected = since.map(|since| client::Connected { operator, since });
    LinkState { connected, ..LinkState::default() }
}

#[tokio::test(start_paused = true)]
async fn an_agent_comes_again_when_there_is_another_link_and_not_for_the_same_one() {
    let first = time::Instant::now();
    let (state, mut link) = watch::channel(linked(Some(first)));
    for same in [linked(Some(first)), linked(None)] {
        state.send_replace(same);
        assert!(linked_again(&mut link, Some(first)).now_or_never().is_none());
    }
    state.send_replace(linked(Some(first + Duration::from_secs(1))));
    linked_again(&mut link, Some(first)).await;
    linked_again(&mut link, None).await;
}
