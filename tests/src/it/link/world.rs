//! One operator's door on loopback, and agents that come to it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use realm_core::{
    config_maps::{self, ConfigMaps as Reader},
    report::Report,
    slices::Spends,
    supply,
    uses::TenantUse,
};
use realm_link::{
    client::{self, Feeds, LinkOptions, LinkState, Sources},
    ledger::{Ledger, LedgerError},
    slices::SliceStore,
};
use realm_operator::{
    config_maps::ConfigMaps,
    lease::leading::Lead,
    link::{
        authority::{Authority, Serving},
        identity::{AUDIENCE, Identities, ReviewError, ServiceAccount, TokenReview, TokenReviewer},
        registry::{NodeView, Registry},
        server::Server,
    },
};
use realm_plan::{Name, desired::Desired};
use rustls::ServerConfig;
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::{self, Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// Long enough for the slowest machine; nothing waits for it unless something is broken.
const PATIENCE: Duration = Duration::from_mins(1);

/// Fails instead of hanging.
pub(super) async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    time::timeout(PATIENCE, event).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// What the API server would say about the tokens of these tests.
struct Tokens;

impl TokenReviewer for Tokens {
    async fn review(&self, token: &str, audience: &str) -> Result<TokenReview, ReviewError> {
        assert_eq!(audience, AUDIENCE);
        let (audience, node) = token.split_once('@').unwrap();
        let extra = [("node-name", node), ("pod-name", "realm-agent-x"), ("pod-uid", "6f1d")];
        let extra = extra.map(|(key, value)| {
            (format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()])
        });
        Ok(TokenReview {
            authenticated: true,
            error: None,
            audiences: vec![audience.to_owned()],
            username: "system:serviceaccount:realm-system:realm-agent".to_owned(),
            extra: BTreeMap::from(extra),
            pod_ip: Some([10, 0, 0, 7].into()),
        })
    }
}

/// A token as the kubelet would project it for an agent on `node`.
pub(super) fn token(node: &str) -> String {
    format!("{AUDIENCE}@{node}")
}

/// The namespace whose ConfigMaps the operator may read, if somebody had them.
pub(super) const CONFIG_MAPS: &str = "team-0";

/// A way to an API server that is not there.
fn no_api_server() -> kube::Client {
    kube::Config::new("http://127.0.0.1:1".parse().unwrap()).try_into().unwrap()
}

fn serving(authority: &watch::Sender<Arc<Authority>>) -> Serving {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    Serving::start(authority.subscribe(), names).unwrap()
}

/// An operator, without its Kubernetes side.
pub(super) struct World {
    pub(super) registry: Registry,
    pub(super) authority: watch::Sender<Arc<Authority>>,
    pub(super) lead: Lead,
    pub(super) address: SocketAddr,
    /// The TLS of the door, which changes with the authority.
    pub(super) tls: watch::Receiver<Arc<ServerConfig>>,
    heartbeat: Duration,
    server: Vec<JoinHandle<()>>,
    dir: TempDir,
}

impl World {
    pub(super) async fn start() -> Self {
        Self::with_heartbeat(Duration::from_secs(5)).await
    }

    pub(super) async fn with_heartbeat(heartbeat: Duration) -> Self {
        let authority = Arc::new(Authority::create(SystemTime::now()).unwrap());
        let authority = watch::Sender::new(authority);
        let serving = serving(&authority);
        let mut world = Self {
            registry: Registry::new(),
            authority,
            lead: Lead::new(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: serving.current(),
            heartbeat,
            server: Vec::new(),
            dir: tempfile::tempdir().unwrap(),
        };
        world.lead();
        world.write_bundle();
        world.serve(serving).await;
        world
    }

    /// Leads for as long as any test takes.
    pub(super) fn lead(&self) {
        self.lead.until(Instant::now() + Duration::from_hours(24));
    }

    /// Serves at the address of before, if there was one.
    pub(super) async fn open_door(&mut self) {
        let serving = serving(&self.authority);
        self.tls = serving.current();
        self.serve(serving).await;
    }

    async fn serve(&mut self, serving: Serving) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let account =
            ServiceAccount { namespace: "realm-system".to_owned(), name: "realm-agent".to_owned() };
        let namespaces = [CONFIG_MAPS.to_owned()].into();
        let server = Server {
            identities: Identities::new(Tokens, account),
            registry: self.registry.clone(),
            config_maps: ConfigMaps::new(no_api_server(), namespaces),
            authority: self.authority.subscribe(),
            tls: self.tls.clone(),
            leading: self.lead.subscribe(),
            heartbeat: self.heartbeat,
        };
        self.server = vec![tokio::spawn(serving.follow()), tokio::spawn(server.serve(listener))];
    }

    /// What happens when the process of the operator dies.
    pub(super) async fn close_door(&mut self) {
        for task in self.server.drain(..) {
            task.abort();
            let _ = task.await;
        }
    }

    pub(super) fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// What the operator's ConfigMap would bring to every agent.
    pub(super) fn write_bundle(&self) {
        std::fs::write(self.ca_file(), self.authority.borrow().bundle()).unwrap();
    }

    /// Returns when `is_so` is true of what the registry knows about a node.
    pub(super) async fn until(&self, node: &str, is_so: impl Fn(&NodeView) -> bool) -> NodeView {
        let seen = async {
            loop {
                if let Some(view) = self.registry.snapshot().remove(node)
                    && is_so(&view)
                {
                    return view;
                }
                self.registry.changed().await;
            }
        };
        soon("a node in the registry", seen).await
    }

    pub(super) fn order(&self, node: &str, desired: &Desired) {
        self.registry.set_desired(node, Arc::new(desired.clone())).unwrap();
    }

    pub(super) fn options(&self, node: &str, token: &str) -> LinkOptions {
        let token_file = self.dir.path().join(format!("token-{node}"));
        std::fs::write(&token_file, token).unwrap();
        LinkOptions {
            operators: vec![format!("https://{}", self.address).parse().unwrap()],
            ca_file: self.ca_file(),
            token_file,
            node: node.to_owned(),
            agent_version: "1.0.0".to_owned(),
            boot_id: "first".to_owned(),
        }
    }

    /// The folder in which the agent of `node` keeps what it needs when it starts again.
    pub(super) fn state(&self, node: &str) -> PathBuf {
        let state = self.dir.path().join(format!("state-{node}"));
        std::fs::create_dir_all(&state).unwrap();
        state
    }

    /// An agent with an empty ledger and the right token.
    pub(super) async fn agent(&self, node: &str) -> Agent {
        Agent::start(self.options(node, &token(node)), tempfile::tempdir().unwrap()).await
    }
}

/// An agent, without anything that it would hold.
pub(super) struct Agent {
    pub(super) ledger: Ledger,
    pub(super) slices: SliceStore,
    pub(super) spends: watch::Sender<Spends>,
    pub(super) report: watch::Sender<Report>,
    pub(super) supply: watch::Sender<supply::Supply>,
    pub(super) uses: watch::Sender<Vec<TenantUse>>,
    pub(super) credentials: watch::Receiver<supply::Credentials>,
    pub(super) config_maps: Reader,
    pub(super) state: watch::Receiver<LinkState>,
    task: JoinHandle<()>,
    ending: CancellationToken,
    dir: Option<TempDir>,
}

impl Agent {
    pub(super) async fn start(options: LinkOptions, dir: TempDir) -> Self {
        let ledger = soon("the ledger", open(dir.path())).await;
        let (slices, _) = SliceStore::open(dir.path());
        let (spends, used) = watch::channel(Spends::default());
        let (report, reports) = watch::channel(Report::default());
        let (supply, supplies) = watch::channel(supply::Supply::default());
        let (opens, credentials) = watch::channel(supply::Credentials::default());
        let (tell, state) = watch::channel(LinkState::default());
        let (uses, all_uses) = watch::channel(Vec::new());
        let feeds = Feeds { report: reports, supply: supplies, uses: all_uses, spends: used };
        let held = (ledger.clone(), slices.clone());
        let ending = CancellationToken::new();
        let (config_maps, asks) = config_maps::channel();
        let sources = Sources { credentials: opens, config_maps: asks };
        let task = tokio::spawn(client::run(options, held, feeds, sources, tell, ending.clone()));
        Self {
            ledger,
            slices,
            spends,
            report,
            supply,
            uses,
            credentials,
            config_maps,
            state,
            task,
            ending,
            dir: Some(dir),
        }
    }

    /// The folder of its ledger.
    pub(super) fn dir(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    /// Returns when the ledger holds `generation`.
    pub(super) async fn until_held(&self, generation: u64) -> Arc<realm_core::desired::Desired> {
        let mut newest = self.ledger.subscribe();
        let held = newest.wait_for(|desired| desired.generation == generation);
        soon("a state in the ledger", held).await.unwrap().clone()
    }

    pub(super) async fn until_state(&self, is_so: impl FnMut(&LinkState) -> bool) -> LinkState {
        let mut state = self.state.clone();
        soon("a state of the link", state.wait_for(is_so)).await.unwrap().clone()
    }

    /// Why there is no link.
    pub(super) async fn until_refused(&self, reason: &str) -> String {
        self.until_refused_by(&[reason]).await
    }

    pub(super) async fn until_refused_by(&self, reasons: &[&str]) -> String {
        let is_so = |state: &LinkState| {
            state.last_error.as_ref().is_some_and(|error| reasons.contains(&error.reason))
        };
        self.until_state(is_so).await.last_error.unwrap().message
    }

    /// The orderly end of the agent.
    pub(super) async fn end(mut self) {
        self.ending.cancel();
        soon("the end of the link", &mut self.task).await.unwrap();
    }

    /// What happens when the process of the agent dies. Its disk stays.
    pub(super) async fn stop(mut self) -> TempDir {
        self.task.abort();
        let dir = self.dir.take().unwrap();
        let _ = (&mut self.task).await;
        dir
    }
}

/// Opens the ledger in `dir`. A write that an agent began which is stopped goes on to its end, as
/// it would not where its process had died, and holds the ledger for that long.
async fn open(dir: &Path) -> Ledger {
    loop {
        match Ledger::open(dir).await {
            Err(LedgerError::InUse { .. }) => sleep(Duration::from_millis(5)).await,
            opened => {
                let (ledger, warnings) = opened.unwrap();
                assert!(warnings.is_empty());
                return ledger;
            }
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) fn name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').unwrap();
    Name::new(namespace, name).unwrap()
}

/// A state that holds nothing, which is something too.
pub(super) fn nothing(generation: u64) -> Desired {
    Desired { generation, doors: 1, ..Desired::default() }
}
