use std::{fs, time::Instant};

use realm_core::{
    call::{Call, CallId},
    desired::{DesiredModel, DesiredTenant, ModelGrant, Program, Stage},
    name::ModelName,
    refusal::Refusal,
    reply::{ChunkBody, ReplyEvent},
    report::Failure,
    residents::Residents as _,
    tenants::Tenants as _,
};
use realm_kernels::format::Format;
use serde_json::json;

use crate::{
    house::{House, tenant},
    residents::model,
    tiny_adapter::{ALL, tiny_adapter},
    tiny_gguf,
};

fn name(name: &str) -> ModelName {
    ModelName::new("tests", name).unwrap()
}

fn base(house: &House, format: Format) -> DesiredModel {
    let (_, artifact) = house.file("tiny.gguf", &tiny_gguf::tiny_llama(format));
    DesiredModel { kv_blocks: Some(64), ..model(name("tiny"), artifact, Stage::Load) }
}

fn adapter(house: &House, called: &str, seed: usize) -> DesiredModel {
    let (_, artifact) = house.file(&format!("{called}.gguf"), &tiny_adapter(&ALL, seed));
    DesiredModel { base: Some(name("tiny")), ..model(name(called), artifact, Stage::Load) }
}

async fn put(house: &House, model: &DesiredModel) -> Result<(), Failure> {
    house.agent.put_model(model, &|_| ()).await.map(|_| ())
}

/// A tenant that may use the model and two adapters, by the built-in program.
async fn put_tenant(house: &House) {
    let grant = |alias: &str| ModelGrant { alias: alias.to_owned(), model: name(alias) };
    let models = ["tiny", "one", "two"].map(grant).to_vec();
    let acme = DesiredTenant { models, ..tenant("acme", Program::BuiltIn) };
    house.agent.put_tenant(&acme).await.unwrap();
}

/// What a model writes, greedily.
async fn written(house: &House, model: &str) -> Result<String, Refusal> {
    let params = json!({"model": model, "prompt": "the an in", "max_tokens": 12, "temperature": 0});
    let call = Call::new(CallId("1".into()), "generate", params);
    let caller = house.caller("acme").unwrap();
    let admitted = house.agent.limiter().admit(caller, call, Instant::now()).unwrap();
    let mut reply = house.agent.runtime().start(admitted);
    let mut text = String::new();
    loop {
        match reply.recv().await.unwrap() {
            ReplyEvent::Chunk(chunk) => match chunk.body {
                ChunkBody::Text(more) => text.push_str(&more),
                ChunkBody::Json(value) => panic!("{value}"),
            },
            ReplyEvent::Failed(refusal) => return Err(refusal),
            ReplyEvent::Done(_) => return Ok(text),
        }
    }
}

fn not_ready(written: Result<String, Refusal>) -> String {
    match written {
        Err(Refusal::ModelNotReady { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_is_a_model_to_those_who_may_use_it_and_goes_with_its_own() {
    let house = House::new();
    put_tenant(&house).await;
    let (one, two) = (adapter(&house, "one", 1), adapter(&house, "two", 2));
    let failure = put(&house, &one).await.unwrap_err();
    assert_eq!(failure.reason, "ModelMissing", "{}", failure.message);
    put(&house, &base(&house, Format::F32)).await.unwrap();
    put(&house, &one).await.unwrap();
    put(&house, &two).await.unwrap();
    let texts = [
        written(&house, "tiny").await.unwrap(),
        written(&house, "one").await.unwrap(),
        written(&house, "two").await.unwrap(),
    ];
    assert!(texts[0] != texts[1] && texts[1] != texts[2] && texts[2] != texts[0], "{texts:?}");

    house.agent.remove_model(&name("two")).await;
    assert_eq!(written(&house, "one").await.unwrap(), texts[1]);
    assert!(written(&house, "two").await.is_err());

    // Another file of the model is another model: what was beside it is beside it no more.
    put(&house, &base(&house, Format::Q8_0)).await.unwrap();
    assert_eq!(not_ready(written(&house, "one").await), "failed: ModelReplaced");
    put(&house, &base(&house, Format::F32)).await.unwrap();
    put(&house, &one).await.unwrap();
    assert_eq!(written(&house, "one").await.unwrap(), texts[1]);
    house.agent.remove_model(&name("tiny")).await;
    assert_eq!(not_ready(written(&house, "one").await), "failed: ModelRemoved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_what_its_model_calls_it_is_refused_and_says_so() {
    let house = House::new();
    let whole = base(&house, Format::F32);
    put(&house, &whole).await.unwrap();
    let one = adapter(&house, "one", 1);
    let no_adapter = DesiredModel { base: Some(name("tiny")), name: name("copy"), ..whole.clone() };
    let no_model = DesiredModel { base: None, ..one.clone() };
    for stage in [Stage::Inspect, Stage::Prefetch, Stage::Load] {
        let put = async |model: &DesiredModel| {
            put(&house, &DesiredModel { stage, ..model.clone() }).await.unwrap_err()
        };
        let failure = put(&no_adapter).await;
        assert_eq!(failure.reason, "AdapterInvalid", "{}", failure.message);
        let failure = put(&no_model).await;
        assert_eq!(failure.reason, "IsAdapter", "{}", failure.message);
        assert!(failure.message.contains("adapterOf"), "{}", failure.message);
    }
    let inspect = DesiredModel { stage: Stage::Inspect, ..one.clone() };
    let facts = house.agent.put_model(&inspect, &|_| ()).await.unwrap();
    assert_eq!((&*facts.architecture, facts.context), ("llama", 0));
    // A matrix of another shape than the model's.
    let (path, _) = house.file("one.gguf", &[]);
    let bytes = tiny_adapter(&ALL, 1);
    let at = bytes.windows(5).position(|it| it == b"blk.1").unwrap();
    let mut renamed = bytes.clone();
    renamed[at + 4] = b'7';
    fs::write(path, renamed).unwrap();
    let failure = put(&house, &one).await.unwrap_err();
    assert_eq!(failure.reason, "AdapterMismatch", "{}", failure.message);
}
