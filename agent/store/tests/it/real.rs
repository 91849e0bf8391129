//! A real registry and a real object store: whether what the store asks is what they answer.
//!
//! The set-up of the tests builds both. They run on this machine for one test each, behind a proxy
//! that cuts their connections.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use rcgen::SigningKey as _;
use realm_core::credentials::{Credentials, RegistryLogin, S3Keys, Secret};
use reqwest::{
    Client, Method, StatusCode, Url,
    header::{CONTENT_TYPE, LOCATION},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rusty_s3::{Bucket, S3Action as _, UrlStyle};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, copy},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

use crate::{
    server::{Reply, Request, Server},
    world::{World, artifact, bytes, digest},
};

/// Longer than either takes to start on a busy machine.
const START: Duration = Duration::from_mins(1);

/// After how many bytes the proxy cuts a connection: a body takes several.
const CUT_BYTES: u64 = 200_000;

const BODY_BYTES: usize = 500_000;

/// `user:hunter2`, as RFC 7617 writes it, and as a file of passwords keeps it.
const BASIC: &str = "Basic dXNlcjpodW50ZXIy";
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.\n";

/// A server that the set-up of the tests has built.
fn program(name: &str) -> PathBuf {
    let folder = env::var_os("REALM_TEST_SERVERS").map_or_else(
        || {
            let home = PathBuf::from(env::var_os("HOME").expect("HOME is set"));
            let cache =
                env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from);
            cache.join("realm/tests/servers")
        },
        PathBuf::from,
    );
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "{} is not there: run tests/run, whose set-up builds it, or name its folder in \
         REALM_TEST_SERVERS",
        path.display()
    );
    path
}

/// A running server, ended with the test.
struct Running {
    host: String,
    _child: Child,
}

fn world() -> World {
    World::with(|options| options.retry.attempts_max = 10)
}

/// A client that talks to this machine, and needs to trust nobody for it.
fn http() -> Client {
    let tls = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap()
}

/// Passes connections on to `host` and cuts each when enough has come back.
async fn cutting_proxy(host: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, host) = (listener.local_addr().unwrap(), host.to_owned());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let Ok(mut server) = TcpStream::connect(&host).await else { continue };
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.split();
                let (from_server, mut to_server) = server.split();
                let mut answer = from_server.take(CUT_BYTES);
                tokio::select! {
                    _ = copy(&mut from_client, &mut to_server) => {}
                    _ = copy(&mut answer, &mut to_client) => {}
                }
            });
        }
    });
    address.to_string()
}

// The object store.

const BUCKET: &str = "models";
const KEY: &str = "dir/a b+c%.gguf";

async fn object_store(root: &Path) -> Running {
    // It takes no port 0, so that one is chosen for it.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = free.local_addr().unwrap().to_string();
    drop(free);
    let folders = ["objects", "metadata"].map(|name| root.join(name));
    for folder in &folders {
        std::fs::create_dir(folder).unwrap();
    }
    let child = Command::new(program("versitygw"))
        .args(["--quiet", "--access", "AKIDEXAMPLE", "--secret", "hunter2", "--port", &host])
        .args(["posix", "--sidecar"])
        .args([&folders[1], &folders[0]])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let answers = async {
        while TcpStream::connect(&host).await.is_err() {
            looks.tick().await;
        }
    };
    tokio::time::timeout(START, answers).await.expect("the object store starts");
    Running { host, _child: child }
}

fn keys(host: &str, secret: &str) -> Credentials {
    let keys = S3Keys {
        access_key_id: Secret::new("AKIDEXAMPLE"),
        secret_access_key: Secret::new(secret),
        session_token: None,
    };
    let s3_keys = [(host.to_owned(), keys)].into();
    Credentials { s3_keys, ..Credentials::default() }
}

/// Makes the bucket and puts the object into it.
async fn put_object(host: &str, body: &[u8]) {
    let endpoint = format!("http://{host}").parse().unwrap();
    let bucket = Bucket::new(endpoint, UrlStyle::Path, BUCKET, "us-east-1").unwrap();
    let credentials = rusty_s3::Credentials::new("AKIDEXAMPLE", "hunter2");
    let (http, expires) = (http(), Duration::from_mins(1));
    for (url, body) in [
        (bucket.create_bucket(&credentials).sign(expires), Vec::new()),
        (bucket.put_object(Some(&credentials), KEY).sign(expires), body.to_vec()),
    ] {
        let response = http.put(url).body(body).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{}", response.text().await.unwrap());
    }
}

/// Lets everybody read what is in the bucket.
async fn open_bucket(host: &str) {
    let policy = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::{BUCKET}/*"}}]}}"#
    );
    let url = rusty_s3::signing::sign(
        &jiff::Timestamp::now(),
        rusty_s3::Method::Put,
        format!("http://{host}/{BUCKET}").parse().unwrap(),
        "AKIDEXAMPLE",
        "hunter2",
        None,
        "us-east-1",
        60,
        [("policy", "")].into_iter(),
        [].into_iter(),
    );
    let response = http().put(url).body(policy).send().await.unwrap();
    assert!(response.status().is_success(), "{}", response.text().await.unwrap());
}

#[tokio::test]
async fn an_object_store_takes_our_signatures_and_resumes_and_refuses_others() {
    let (root, body) = (tempfile::tempdir().unwrap(), bytes(BODY_BYTES));
    let store = object_store(root.path()).await;
    put_object(&store.host, &body).await;
    let proxy = cutting_proxy(&store.host).await;
    let of = |key: &str| {
        artifact(&body, [format!("s3://{BUCKET}/{key}?region=us-east-1&endpoint=http://{proxy}")])
    };
    for (credentials, key, reason) in [
        (Credentials::default(), KEY, "SourceUnauthorized"),
        (keys(&proxy, "wrong"), KEY, "SourceUnauthorized"),
        (keys(&proxy, "hunter2"), "absent", "SourceNotFound"),
    ] {
        let error = world().fetch_with(&of(key), &credentials).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
    }
    let world = world();
    let stored = world.fetch_with(&of(KEY), &keys(&proxy, "hunter2")).await.unwrap();
    assert!(std::fs::read(stored.path).unwrap() == body);
}

#[tokio::test]
async fn an_object_of_a_public_bucket_needs_no_keys() {
    let (root, body) = (tempfile::tempdir().unwrap(), bytes(BODY_BYTES));
    let store = object_store(root.path()).await;
    put_object(&store.host, &body).await;
    open_bucket(&store.host).await;
    let proxy = cutting_proxy(&store.host).await;
    let source = format!("s3://{BUCKET}/{KEY}?endpoint=http://{proxy}");
    world().fetch(&artifact(&body, [source])).await.unwrap();
}

// The registry.

const REPOSITORY: &str = "org/my-models";

/// Starts a registry of the blobs in `root`; `auth` is the part of its configuration of that name.
async fn registry(root: &Path, auth: &str) -> Running {
    let config = root.join("config.yml");
    let blobs = root.join("blobs");
    std::fs::write(
        &config,
        format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {blobs:?}}}}}\n\
             http: {{addr: \"127.0.0.1:0\", secret: test}}\n{auth}"
        ),
    )
    .unwrap();
    let mut child = Command::new(program("registry"))
        .arg("serve")
        .arg(config)
        // Nothing is traced, and nobody is told.
        .env("OTEL_TRACES_EXPORTER", "none")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let listens = async {
        let mut said = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some((_, rest)) = line.split_once("listening on ") {
                return rest.split(['"', ',', ' ']).next().unwrap().to_owned();
            }
            said.push_str(&line);
        }
        panic!("the registry ended: {said}")
    };
    let host = tokio::time::timeout(START, listens).await.expect("the registry starts");
    // It goes on logging, which must not block it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Running { host, _child: child }
}

async fn expect(status: StatusCode, request: reqwest::RequestBuilder) -> reqwest::Response {
    let response = request.send().await.unwrap();
    let found = response.status();
    assert!(found == status, "{found}: {}", response.text().await.unwrap());
    response
}

async fn push_blob(host: &str, body: &[u8]) -> String {
    let (http, digest) = (http(), format!("sha256:{}", digest(body)));
    let uploads = format!("http://{host}/v2/{REPOSITORY}/blobs/uploads/");
    let begun = expect(StatusCode::ACCEPTED, http.post(uploads)).await;
    let location = begun.headers()[LOCATION].to_str().unwrap();
    let mut url = Url::parse(&format!("http://{host}")).unwrap().join(location).unwrap();
    url.query_pairs_mut().append_pair("digest", &digest);
    expect(StatusCode::CREATED, http.put(url).body(body.to_vec())).await;
    digest
}

/// Pushes an artifact of these files; says the digest of its manifest.
async fn push(host: &str, tag: &str, files: &[(&str, &[u8])]) -> String {
    let mut layers = Vec::new();
    for (title, body) in files {
        let (digest, size) = (push_blob(host, body).await, body.len());
        layers.push(format!(
            r#"{{"mediaType":"application/octet-stream","digest":"{digest}","size":{size},"annotations":{{"org.opencontainers.image.title":"{title}"}}}}"#
        ));
    }
    let (config, layers) = (push_blob(host, b"{}").await, layers.join(","));
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{kind}","artifactType":"application/vnd.test","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{config}","size":2}},"layers":[{layers}]}}"#
    );
    let sha256 = digest(manifest.as_bytes());
    let url = format!("http://{host}/v2/{REPOSITORY}/manifests/{tag}");
    let put = http().request(Method::PUT, url).header(CONTENT_TYPE, kind).body(manifest);
    expect(StatusCode::CREATED, put).await;
    format!("sha256:{sha256}")
}

fn login(host: &str, password: &str) -> Credentials {
    let login = RegistryLogin { user: Secret::new("user"), password: Secret::new(password) };
    Credentials { registry_logins: [(host.to_owned(), login)].into(), ..Credentials::default() }
}

#[tokio::test]
async fn a_registry_gives_layers_by_tag_and_digest_and_resumes() {
    let (root, body) = (tempfile::tempdir().unwrap(), bytes(BODY_BYTES));
    let registry = registry(root.path(), "").await;
    let manifest = push(&registry.host, "v1", &[("README.md", b"read"), ("a.gguf", &body)]).await;
    let proxy = cutting_proxy(&registry.host).await;
    let of = |rest: &str| artifact(&body, [format!("oci://{proxy}/{REPOSITORY}{rest}")]);
    for rest in [":v1", ":v1#a.gguf", &format!("@{manifest}")] {
        let world = world();
        let stored = world.fetch(&of(rest)).await.unwrap();
        assert!(std::fs::read(stored.path).unwrap() == body, "{rest}");
    }
    for (rest, reason) in [
        (":absent", "SourceNotFound"),
        ("", "SourceNotFound"),
        (":v1#README.md", "DigestMismatch"),
        (":v1#absent", "LayerNotFound"),
    ] {
        let error = world().fetch(&of(rest)).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{rest}: {error}");
    }
}

#[tokio::test]
async fn a_registry_that_wants_a_password_gets_the_right_one_only() {
    let (root, body) = (tempfile::tempdir().unwrap(), bytes(BODY_BYTES));
    let open = registry(root.path(), "").await;
    push(&open.host, "v1", &[("a.gguf", &body)]).await;
    let passwords = root.path().join("htpasswd");
    std::fs::write(&passwords, HTPASSWD).unwrap();
    let auth = format!("auth: {{htpasswd: {{realm: r, path: {passwords:?}}}}}\n");
    let registry = registry(root.path(), &auth).await;
    let proxy = cutting_proxy(&registry.host).await;
    let wanted = artifact(&body, [format!("oci://{proxy}/{REPOSITORY}:v1")]);
    for credentials in [Credentials::default(), login(&proxy, "wrong")] {
        let error = world().fetch_with(&wanted, &credentials).await.unwrap_err();
        assert_eq!(error.reason(), "SourceUnauthorized", "{error}");
    }
    world().fetch_with(&wanted, &login(&proxy, "hunter2")).await.unwrap();
}

/// What a token server of a registry signs with, and a file of the certificate that vouches for it.
struct Signer {
    key: rcgen::KeyPair,
    certificate: rcgen::Certificate,
}

impl Signer {
    fn new(folder: &TempDir) -> (Self, PathBuf) {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let path = folder.path().join("tokens.pem");
        std::fs::write(&path, certificate.pem()).unwrap();
        (Self { key, certificate }, path)
    }

    /// A token to pull from the repository, for a few minutes.
    fn token(&self) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let certificate = BASE64_STANDARD.encode(self.certificate.der());
        let head = format!(r#"{{"typ":"JWT","alg":"EdDSA","x5c":["{certificate}"]}}"#);
        let claims = format!(
            r#"{{"iss":"tests","sub":"user","aud":"registry","exp":{},"nbf":{},"iat":{now},"jti":"1","access":[{{"type":"repository","name":"{REPOSITORY}","actions":["pull"]}}]}}"#,
            now + 300,
            now - 10,
        );
        let signed = [head, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).join(".");
        let signature = self.key.sign(signed.as_bytes()).unwrap();
        [&*signed, &*BASE64_URL_SAFE_NO_PAD.encode(signature)].join(".")
    }
}

#[tokio::test]
async fn a_registry_takes_the_token_that_its_token_server_gave_us() {
    let (root, body) = (tempfile::tempdir().unwrap(), bytes(BODY_BYTES));
    let open = registry(root.path(), "").await;
    push(&open.host, "v1", &[("a.gguf", &body)]).await;
    let (signer, certificate) = Signer::new(&root);
    let tokens = Server::start(move |request: &Request| match request.authorization.as_deref() {
        Some(BASIC) => Reply::whole(format!("{{\"token\":\"{}\"}}", signer.token()).as_bytes()),
        _ => Reply::new("401 Unauthorized", &[], b""),
    })
    .await;
    let realm = tokens.url("/token");
    let auth = format!(
        "auth: {{token: {{realm: {realm:?}, service: registry, issuer: tests, \
         rootcertbundle: {certificate:?}}}}}\n"
    );
    let registry = registry(root.path(), &auth).await;
    let proxy = cutting_proxy(&registry.host).await;
    let wanted = artifact(&body, [format!("oci://{proxy}/{REPOSITORY}:v1")]);
    let error = world().fetch(&wanted).await.unwrap_err();
    assert_eq!(error.reason(), "SourceUnauthorized", "{error}");
    world().fetch_with(&wanted, &login(&proxy, "hunter2")).await.unwrap();
    let asked = &tokens.requests()[1].path;
    let scope = "scope=repository%3Aorg%2Fmy-models%3Apull";
    assert_eq!(*asked, format!("/token?service=registry&{scope}"));
}
