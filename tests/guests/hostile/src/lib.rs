//! A program of attacks on its host, one a function. None of them may work.

use realm_guest::{
    Error, Finish, FunctionInfo, GenerateParams, Logprobs, Model, Outcome, Params, Program, Result,
    ScoredToken, TokenId, clock, config,
    hooks::{Hooks, Plan, Request, Stages, Steer},
    log, open, random, reply, store,
};

struct Hostile;

const ATTACKS: [&str; 22] = [
    "loop",
    "eat_memory",
    "flood_host_calls",
    "flood_output",
    "flood_logprobs",
    "flood_log",
    "trap",
    "overflow_stack",
    "steal_model",
    "garbage_json",
    "garbage_data",
    "garbage_logprobs",
    "hoard_handles",
    "hoard_prefixes",
    "swallow_refusal",
    "disguise_refusal",
    "flood_store",
    "peek_store",
    "flood_store_calls",
    "read_clock",
    "flood_random",
    "overrun_hook",
];

/// The seed of the one generation whose hooks attack.
const OVERRUN: u64 = 0x0bad;

impl Program for Hostile {
    fn functions() -> Vec<FunctionInfo> {
        let attack = |name: &&str| FunctionInfo {
            name: (*name).into(),
            description: String::new(),
            params_schema: "{}".into(),
            streams: true,
        };
        ATTACKS.iter().map(attack).collect()
    }

    fn handle(function: &str, mut params: Params) -> Result {
        match function {
            "loop" => spin(),
            "eat_memory" => eat_memory(),
            "flood_host_calls" => loop {
                config::get("nothing");
            },
            "flood_output" => loop {
                reply::write_text(&"x".repeat(1000));
            },
            "flood_logprobs" => loop {
                reply::write_scored("", &vec![scored(0.0); 1000]);
            },
            "flood_log" => {
                flood_log();
                Ok(done(None))
            }
            "trap" => std::process::abort(),
            "overflow_stack" => Ok(done(Some(deeper(1).to_string()))),
            "steal_model" => steal_model(&params.required_text("model")?),
            "garbage_json" => {
                reply::write_json("{\"open\":");
                Ok(done(None))
            }
            "garbage_data" => Ok(done(Some("nonsense}".into()))),
            "garbage_logprobs" => {
                reply::write_scored("", &[scored(f32::NAN)]);
                Ok(done(None))
            }
            "hoard_handles" => hoard_handles(),
            "hoard_prefixes" => hoard_prefixes(),
            "swallow_refusal" => swallow_refusal(),
            "disguise_refusal" => disguise_refusal(),
            "flood_store" => Ok(done(Some(flood_store().to_string()))),
            "peek_store" => Ok(done(Some(peek_store().to_string()))),
            "flood_store_calls" => loop {
                let _ = store::set("key", &[0; 60 << 10]);
            },
            "read_clock" => {
                let (now, elapsed) = (clock::now(), clock::elapsed());
                Ok(done(Some(format!(r#"{{"now":{now},"elapsed":{elapsed}}}"#))))
            }
            "flood_random" => {
                let ids: Vec<_> = (0..100).map(|_| random::bytes(8)).collect();
                assert!(ids.iter().all(|id| id.len() == 8 && *id != vec![0; 8]));
                random::bytes(u32::MAX);
                Ok(done(None))
            }
            "overrun_hook" => overrun_hook(),
            _ => Err(Error::UnknownFunction(function.into())),
        }
    }
}

/// Hooks that never come to an end, of one generation; of all others they want nothing.
struct Late;

impl Hooks for Late {
    fn on_request(request: Request) -> Result<(Plan, Self)> {
        let attacks = request.params.sampling.seed == Some(OVERRUN);
        let stages = if attacks { Stages::BIAS } else { Stages::empty() };
        Ok((Plan { params: request.params, stages }, Self))
    }

    fn bias(&mut self, _last: Option<TokenId>) -> Steer {
        spin()
    }
}

fn done(data: Option<String>) -> Outcome {
    Outcome { finish: Finish::Stop, data }
}

/// Probabilities of a token that has no text.
fn scored(logprob: f32) -> Logprobs {
    let chosen = ScoredToken { id: 1, bytes: Vec::new(), logprob };
    Logprobs { chosen, top: Vec::new() }
}

fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = core::hint::black_box(turns.wrapping_add(1));
    }
}

fn eat_memory() -> ! {
    let mut held = Vec::new();
    loop {
        held.push(core::hint::black_box(vec![1_u8; 1 << 20]));
    }
}

fn flood_log() {
    for _ in 0..10_000 {
        log::emit(log::Level::Error, &"look at me ".repeat(1000));
    }
}

/// Calls that no compiler sees the end of. The frames are small, so that the stack of calls is
/// full before the memory that Rust keeps large values in.
#[expect(unconditional_recursion, reason = "that is the attack")]
fn deeper(depth: u64) -> u64 {
    core::hint::black_box(deeper(core::hint::black_box(depth) + 1))
}

/// Asks for a model by every name it might go by.
fn steal_model(name: &str) -> Result {
    let model = Model::open(name)?;
    Ok(done(Some(format!("\"{}\"", model.info().architecture))))
}

/// Fills the tenant's store with entries of all sizes; how many it took.
fn flood_store() -> usize {
    let mut kept = 0;
    for (count, bytes) in [(3, 1 << 20), (20, 60 << 10), (1_000, 1_000), (2_000, 0)] {
        for number in 0..count {
            kept += usize::from(store::set(&format!("{bytes}/{number}"), &vec![1; bytes]).is_ok());
        }
    }
    kept
}

/// Keys and bytes that a program finds in its store.
fn peek_store() -> usize {
    let (mut found, mut after) = (0, None);
    loop {
        let keys = store::keys("", after.as_deref());
        let Some(last) = keys.last() else { return found };
        found += keys.iter().filter(|key| store::get(key).is_some()).count();
        after = Some(last.clone());
    }
}

fn hoard_handles() -> Result {
    let mut held = Vec::new();
    loop {
        held.push(open(None)?);
    }
}

/// Keeps as many prefixes as it can, each longer than the one before, and says why there is no more.
fn hoard_prefixes() -> Result {
    let mut held = vec![open(None)?.keep(&[1; 64], 0)?];
    loop {
        match held[held.len() - 1].extend(&[1]) {
            Ok(longer) => held.push(longer),
            Err(refusal) => {
                reply::write_json(&held.len().to_string());
                return Err(refusal);
            }
        }
    }
}

/// Goes on as if the host had not refused.
fn swallow_refusal() -> Result {
    let model = open(None)?;
    let prompt = vec![1; 1_000_000];
    let refused = model.generate(&prompt, &GenerateParams::default()).is_err();
    Ok(done(Some(refused.to_string())))
}

/// Generates beside a hook that is late for every token.
fn overrun_hook() -> Result {
    let model = open(None)?;
    let mut params = GenerateParams { tokens_max: Some(64), ..GenerateParams::default() };
    params.sampling.seed = Some(OVERRUN);
    let generation = model.generate(&model.tokenize("1, 2, 3,", false)?, &params)?;
    let mut tokens = 0;
    while let Some(more) = generation.next()? {
        tokens += more.len();
    }
    Ok(done(Some(tokens.to_string())))
}

/// Returns the host's refusal with a text of its own.
fn disguise_refusal() -> Result {
    match Model::open("no-such-model") {
        Err(Error::UnknownModel(_)) => Err(Error::UnknownModel("everything is fine".into())),
        Err(other) => Err(other),
        Ok(_) => Ok(done(None)),
    }
}

realm_guest::export!(Hostile);
realm_guest::export_hooks!(Late);
