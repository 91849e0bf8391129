use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use super::*;

fn account() -> ServiceAccount {
    ServiceAccount { namespace: "realm-system".to_owned(), name: "realm-agent".to_owned() }
}

/// What a real API server says about a good token.
fn review() -> TokenReview {
    let extra = [
        ("authentication.kubernetes.io/credential-id", "JTI=1"),
        (NODE_NAME, "worker-1"),
        ("authentication.kubernetes.io/node-uid", "9a"),
        (POD_NAME, "realm-agent-x"),
        (POD_UID, "6f1d"),
    ];
    TokenReview {
        authenticated: true,
        error: None,
        audiences: vec![AUDIENCE.to_owned()],
        username: "system:serviceaccount:realm-system:realm-agent".to_owned(),
        extra: extra.map(|(key, value)| (key.to_owned(), vec![value.to_owned()])).into(),
        pod_ip: None,
    }
}

fn refuse(spoil: impl FnOnce(&mut TokenReview), expected: &str) {
    let mut review = review();
    spoil(&mut review);
    let error = check(&review, &account()).unwrap_err();
    assert!(error.to_string().contains(expected), "{error} does not say `{expected}`");
}

#[test]
fn a_good_token_proves_the_node_it_is_bound_to() {
    let identity = check(&review(), &account()).unwrap();
    assert_eq!((identity.node.as_str(), identity.pod.as_str()), ("worker-1", "realm-agent-x"));
}

#[test]
fn a_token_of_another_audience_is_refused() {
    refuse(|r| r.audiences = vec!["https://kubernetes.default.svc".to_owned()], "not for");
    refuse(|r| r.audiences.clear(), "not for `realm-operator`");
}

#[test]
fn a_token_of_another_account_is_refused() {
    for name in ["default", "realm-agent2", "realm-agent:x"] {
        let username = format!("system:serviceaccount:realm-system:{name}");
        refuse(|r| r.username = username, "agents are");
    }
    refuse(|r| "system:serviceaccount:other:realm-agent".clone_into(&mut r.username), "agents are");
}

#[test]
fn a_token_that_is_not_bound_to_one_pod_on_one_node_is_refused() {
    for key in [NODE_NAME, POD_NAME, POD_UID] {
        refuse(|r| drop(r.extra.remove(key)), "0 values");
        refuse(|r| r.extra.get_mut(key).unwrap().push("second".to_owned()), "2 values");
    }
    refuse(|r| drop(r.extra.insert(NODE_NAME.to_owned(), vec!["a/b".to_owned()])), "no name");
}

#[test]
fn a_token_that_is_not_authenticated_is_refused_with_the_reason() {
    refuse(|r| (r.authenticated, r.error) = (false, Some("expired".to_owned())), "expired");
    refuse(|r| r.authenticated = false, "does not say");
}

/// Counts how often it is asked, and knows one token.
struct Counting(Arc<AtomicUsize>);

impl TokenReviewer for Counting {
    async fn review(&self, token: &str, _audience: &str) -> Result<TokenReview, ReviewError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(if token == "good" { review() } else { TokenReview::default() })
    }
}

#[tokio::test(start_paused = true)]
async fn a_good_token_is_reviewed_once_in_a_while_and_a_bad_one_each_time() {
    let asked = Arc::new(AtomicUsize::new(0));
    let identities = Identities::new(Counting(asked.clone()), account());
    for _ in 0..3 {
        identities.identify("good").await.unwrap();
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    for _ in 0..2 {
        identities.identify("bad").await.unwrap_err();
    }
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    time::advance(Duration::from_mins(1)).await;
    identities.identify("good").await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 4);
}

/// Says of every token what it is told to say, or nothing.
#[derive(Clone)]
struct Told(Arc<Mutex<Result<TokenReview, ()>>>);

impl TokenReviewer for Told {
    async fn review(&self, _token: &str, _audience: &str) -> Result<TokenReview, ReviewError> {
        let told = self.0.lock().unwrap().clone();
        told.map_err(|()| ReviewError { message: "503".to_owned() })
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_reviewed_for_as_long_as_its_agent_is_connected() {
    let told = Told(Arc::new(Mutex::new(Ok(review()))));
    let identities = Arc::new(Identities::new(told.clone(), account()));
    let mut refuted = Box::pin(identities.refuted("good".into()));
    let an_hour = Duration::from_hours(1);
    let waited = time::timeout(an_hour, refuted.as_mut()).await;
    assert!(waited.is_err(), "it is as good as it was");
    *told.0.lock().unwrap() = Err(());
    let waited = time::timeout(an_hour, refuted.as_mut()).await;
    assert!(waited.is_err(), "an API server that is away says nothing");
    *told.0.lock().unwrap() = Ok(TokenReview::default());
    let error = time::timeout(PROVEN_FOR * 2, refuted).await.unwrap();
    assert!(matches!(error, IdentityError::NotAuthenticated { .. }), "{error}");
}

/// Never answers.
struct Silent;

impl TokenReviewer for Silent {
    async fn review(&self, _token: &str, _audience: &str) -> Result<TokenReview, ReviewError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_not_waited_for_for_ever() {
    let identities = Identities::new(Silent, account());
    assert!(matches!(identities.identify("good").await, Err(IdentityError::Busy)));
}
