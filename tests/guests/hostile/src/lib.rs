//! A program of attacks on its host, one a function. None of them may work.

use realm_guest::{
    Error, Finish, FunctionInfo, GenerateParams, Logprobs, Model, Outcome, Params, Program, Result,
    ScoredToken, config, log, open, reply,
};

struct Hostile;

const ATTACKS: [&str; 15] = [
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
    "swallow_refusal",
    "disguise_refusal",
];

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
            "swallow_refusal" => swallow_refusal(),
            "disguise_refusal" => disguise_refusal(),
            _ => Err(Error::UnknownFunction(function.into())),
        }
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

fn hoard_handles() -> Result {
    let mut held = Vec::new();
    loop {
        held.push(open(None)?);
    }
}

/// Goes on as if the host had not refused.
fn swallow_refusal() -> Result {
    let model = open(None)?;
    let prompt = vec![1; 1_000_000];
    let refused = model.generate(&prompt, &GenerateParams::default()).is_err();
    Ok(done(Some(refused.to_string())))
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
