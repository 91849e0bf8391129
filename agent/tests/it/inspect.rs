//! What a model says of itself before anybody fetches it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use realm_core::{
    desired::{Artifact, Stage},
    name::ModelName,
    report::ModelFacts,
    residents::Residents as _,
};
use realm_engine::gguf::{Array, Value, writer};
use realm_kernels::format::Format;

use crate::{
    house::{House, WRONG},
    residents::model,
    tiny_gguf, tiny_parts,
};

/// The bytes of the one large tensor.
const LARGE_BYTES: u64 = 10 << 30;

/// What may be on its way in sockets when somebody hangs up.
const IN_FLIGHT_MAX: u64 = 16 << 20;

const LARGE: &str = "blk.0.large.weight";

/// The first bytes of a file that is mostly one large tensor, and how many it has.
fn large_model(metadata: &[(String, Value)]) -> (Vec<u8>, u64) {
    let mut tensors = tiny_gguf::tensors(Format::Q8_0);
    let block = writer::Tensor {
        name: LARGE.to_owned(),
        shape: vec![32],
        format: Format::F32,
        bytes: vec![0; 128],
    };
    tensors.push(block);
    let mut file = Vec::new();
    writer::write(&mut file, metadata, &tensors).unwrap();
    // Its name, the number of its dimensions, and the one dimension.
    let at = file.windows(LARGE.len()).position(|bytes| bytes == LARGE.as_bytes()).unwrap();
    let at = at + LARGE.len() + 4;
    assert_eq!(file[at..at + 8], 32_u64.to_le_bytes());
    file[at..at + 8].copy_from_slice(&(LARGE_BYTES / 4).to_le_bytes());
    let total = file.len() as u64 - 128 + LARGE_BYTES;
    (file, total)
}

/// A web server of one file that begins with some bytes and goes on with zeros.
struct Server {
    url: String,
    served: Arc<AtomicU64>,
}

impl Server {
    fn start(head: Vec<u8>, total: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = Arc::new(AtomicU64::new(0));
        let counted = served.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &head, total, &counted);
            }
        });
        Self { url, served }
    }
}

/// Answers one request: with the range it asks for, unless it asks for `/whole`.
fn serve(mut stream: TcpStream, head: &[u8], total: u64, served: &AtomicU64) {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let lines: Vec<String> =
        lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let Some(request) = lines.first() else { return };
    let range = lines
        .iter()
        .find_map(|line| line.to_lowercase().strip_prefix("range: bytes=0-")?.parse::<u64>().ok());
    let range = range.filter(|_| !request.contains("/whole"));
    let bytes = range.map_or(total, |last| total.min(last + 1));
    let answer = match range {
        Some(_) => format!(
            "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-{}/{total}\r\n",
            bytes - 1
        ),
        None => "HTTP/1.1 200 OK\r\n".to_owned(),
    };
    let answer = format!("{answer}content-length: {bytes}\r\nconnection: close\r\n\r\n");
    let mut is_read = stream.write_all(answer.as_bytes()).is_ok();
    let (mut at, zeros) = (0, vec![0; 1 << 16]);
    while is_read && at < bytes {
        let start = usize::try_from(at).unwrap();
        let part = head.get(start..).filter(|part| !part.is_empty()).unwrap_or(&zeros);
        let part = &part[..part.len().min(usize::try_from(bytes - at).unwrap())];
        is_read = stream.write_all(part).is_ok();
        at += part.len() as u64;
        served.fetch_add(part.len() as u64, Ordering::Relaxed);
    }
}

fn wanted(sources: Vec<String>) -> realm_core::desired::DesiredModel {
    let name = ModelName::parse("tests/large").unwrap();
    model(name, Artifact { sources, sha256: Some(WRONG), parts: Vec::new() }, Stage::Inspect)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_model_is_known_before_its_weights_come() {
    let house = House::new();
    let (head, total) = large_model(&tiny_gguf::metadata(Format::Q8_0));
    let server = Server::start(head, total);
    let ranges = wanted(vec![format!("{}/a", server.url)]);
    let facts = house.agent.put_model(&ranges, &|_| ()).await.unwrap();
    assert!(facts.weights_bytes >= LARGE_BYTES && facts.memory.is_some(), "{facts:?}");
    assert_eq!(facts.sha256, None, "nobody can vouch for a part");
    let served = server.served.swap(0, Ordering::Relaxed);
    assert!(served <= 1 << 20, "{served} bytes of {total}");

    let whole = wanted(vec![format!("{}/whole", server.url)]);
    assert_eq!(house.agent.put_model(&whole, &|_| ()).await.unwrap(), facts);
    let served = server.served.load(Ordering::Relaxed);
    assert!(served <= IN_FLIGHT_MAX, "{served} bytes of {total}");
    for folder in ["blobs/sha256", "partial"] {
        let folder = house.dir.path().join("store").join(folder);
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0, "nothing is kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_is_read_of_a_long_header_and_no_more_than_the_most() {
    let house = House::new();
    let with = |name: &str, texts: usize| {
        let mut metadata = tiny_gguf::metadata(Format::Q8_0);
        let texts = Array::String(vec!["x".repeat(992); texts]);
        metadata.push((name.to_owned(), Value::Array(texts)));
        large_model(&metadata)
    };
    let (head, total) = with("tests.long", 5000);
    let server = Server::start(head, total);
    let long = wanted(vec![format!("{}/a", server.url)]);
    let facts = house.agent.put_model(&long, &|_| ()).await.unwrap();
    assert!(facts.weights_bytes >= LARGE_BYTES);

    let (head, total) = with("tests.endless", 40_000);
    let endless = Server::start(head, total);
    let source = format!("{}/a", endless.url);
    let failure = house.agent.put_model(&wanted(vec![source.clone()]), &|_| ()).await.unwrap_err();
    assert_eq!(failure.reason, "HeaderTooLong", "{}", failure.message);
    // The next mirror may be better.
    let both =
        wanted(vec!["http://127.0.0.1:1/dead".to_owned(), source, format!("{}/a", server.url)]);
    assert_eq!(house.agent.put_model(&both, &|_| ()).await.unwrap(), facts);
}

#[tokio::test]
async fn a_file_that_is_here_already_is_read_whole_and_vouched_for() {
    let house = House::new();
    let (path, artifact) = house.file("tiny.gguf", &tiny_gguf::tiny_llama(Format::Q8_0));
    let name = ModelName::parse("tests/tiny").unwrap();
    let inspected = model(name.clone(), artifact.clone(), Stage::Inspect);
    let fetched = model(name, artifact, Stage::Prefetch);
    let head = house.agent.put_model(&inspected, &|_| ()).await.unwrap();
    let file = house.agent.put_model(&fetched, &|_| ()).await.unwrap();
    assert!(head.sha256.is_none() && file.sha256.is_some());
    assert_eq!(ModelFacts { sha256: None, ..file }, head);
    drop(path);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_in_parts_is_known_by_all_their_headers_and_loads_from_all() {
    let house = House::new();
    let parts = tiny_parts::tiny_llama_parts(Format::Q8_0, 7);
    let count = parts.len();
    let path =
        |number: usize| house.dir.path().join(format!("tiny-{number:05}-of-{count:05}.gguf"));
    for (bytes, number) in parts.iter().zip(1..) {
        std::fs::write(path(number), bytes).unwrap();
    }
    let name = ModelName::parse("tests/split").unwrap();
    let artifact = Artifact {
        sources: vec![format!("file://{}", path(1).display())],
        sha256: None,
        parts: Vec::new(),
    };
    let at = |stage| model(name.clone(), artifact.clone(), stage);
    let inspected = house.agent.put_model(&at(Stage::Inspect), &|_| ()).await.unwrap();
    let loaded = house.agent.put_model(&at(Stage::Load), &|_| ()).await.unwrap();
    assert!(loaded.sha256.is_some() && inspected.sha256.is_none());
    assert_eq!(ModelFacts { sha256: None, ..loaded }, inspected);

    std::fs::remove_file(path(count)).unwrap();
    for stage in [Stage::Inspect, Stage::Load] {
        let failure = house.agent.put_model(&at(stage), &|_| ()).await.unwrap_err();
        assert_eq!(failure.reason, "SourceNotFound");
    }
    std::fs::copy(path(1), path(count)).unwrap();
    let failure = house.agent.put_model(&at(Stage::Load), &|_| ()).await.unwrap_err();
    assert_eq!(failure.reason, "ModelFileInvalid", "{}", failure.message);
}
