//! What was given to prove who asks is in nothing that the store writes, says or shows.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use realm_core::credentials::{Credentials, RegistryLogin, S3Keys, Secret};
use tracing_subscriber::fmt::MakeWriter;

use crate::{
    server::{Reply, Server},
    world::{World, artifact, bytes},
};

/// What was logged, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn credentials(host: &str) -> Credentials {
    let secret = || Secret::new("hunter2");
    let login = RegistryLogin { user: secret(), password: secret() };
    let (access_key_id, secret_access_key, session_token) = (secret(), secret(), Some(secret()));
    let keys = S3Keys { access_key_id, secret_access_key, session_token };
    Credentials {
        hub_token: Some(secret()),
        web_tokens: [(host.to_owned(), secret())].into(),
        s3_keys: [(host.to_owned(), keys)].into(),
        registry_logins: [(host.to_owned(), login)].into(),
    }
}

/// Everything in the files below a folder.
fn contents(folder: &std::path::Path) -> String {
    let mut all = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        all.push_str(&path.display().to_string());
        if path.is_dir() {
            all.push_str(&contents(&path));
        } else {
            all.push_str(&String::from_utf8_lossy(&std::fs::read(&path).unwrap()));
        }
    }
    all
}

// One thread, so that the log of this test is the log of all its tasks.
#[tokio::test(flavor = "current_thread")]
async fn no_log_no_error_and_no_file_holds_a_credential() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);

    let body = bytes(100_000);
    let file = body.clone();
    let server = Server::start(move |request| match &request.authorization {
        // A registry that wants a password, so that it is shown one.
        None if request.path.starts_with("/v2/") => {
            Reply::new("401 Unauthorized", &[("www-authenticate", "Basic realm=\"r\"")], b"")
        }
        _ if request.number % 2 == 0 => Reply::good(request, &file, "\"a\"").cut(10_000),
        _ => Reply::new("302 Found", &[("location", "http://10.0.0.1/?hunter2")], b""),
    })
    .await;
    let world = World::with(|options| options.hub_endpoint = server.url(""));
    let host = server.address.to_string();
    let sources = [
        "hf://org/repo/a".to_owned(),
        server.url("/a?key=hunter2"),
        format!("s3://bucket/a?endpoint={}", server.url("")),
        format!("oci://{host}/repo"),
    ];
    // Tests beside this one may have come to a line first, whose log nobody wanted then.
    tracing::callsite::rebuild_interest_cache();
    let error = world.fetch_with(&artifact(&body, sources), &credentials(&host)).await.unwrap_err();

    let shown: Vec<_> = server.requests().into_iter().map(|r| (r.path, r.authorization)).collect();
    for proof in ["Bearer hunter2", "Basic aHVudGVyMjpodW50ZXIy"] {
        assert!(shown.iter().any(|(_, shown)| shown.as_deref() == Some(proof)), "{shown:?}");
    }
    assert!(shown.iter().any(|(path, _)| path.contains("X-Amz-Security-Token=hunter2")));

    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("a mirror failed"), "{logged}");
    let left = contents(world.dir.path());
    assert!(left.contains(".state"), "an unfinished file was left: {left}");
    let options = format!("{:?}", crate::world::options(|_| ()));
    for text in [logged, left, options, format!("{error}"), format!("{error:?}")] {
        for secret in ["hunter2", "aHVudGVyMj", "X-Amz"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}
