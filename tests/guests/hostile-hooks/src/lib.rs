//! A program whose hooks attack their host: the setting `attack` says how. None of them may work.

use realm_guest::{
    Bias, Error, Finish, FunctionInfo, GenerateParams, Model, Outcome, Params, Program, Result,
    TokenId, config,
    hooks::{Hooks, Plan, Request, Stages, Steer, Verdict},
    open, reply,
};

struct Hostile;

impl Program for Hostile {
    fn functions() -> Vec<FunctionInfo> {
        vec![FunctionInfo {
            name: "generate".into(),
            description: String::new(),
            params_schema: "{}".into(),
            streams: true,
        }]
    }

    /// Writes the answer as it comes.
    fn handle(_function: &str, mut params: Params) -> Result {
        let prompt = params.required_text("prompt")?;
        let tokens_max = params.whole_u32("max_tokens", 1)?;
        let model = open(None)?;
        let prompt = model.tokenize(&prompt, false)?;
        let params = GenerateParams { tokens_max, logprobs: Some(0), ..GenerateParams::default() };
        let generation = model.generate(&prompt, &params)?;
        while let Some(tokens) = generation.next()? {
            for token in tokens {
                reply::write_text(&token.text);
            }
        }
        let summary = generation.summary().ok_or_else(|| Error::Failed("no summary".into()))?;
        let tokens = summary.usage.completion_tokens;
        Ok(Outcome { finish: summary.finish, data: Some(tokens.to_string()) })
    }
}

/// What one generation is attacked with.
struct Attack {
    name: String,
    model: String,
    count: usize,
}

impl Hooks for Attack {
    fn on_request(request: Request) -> Result<(Plan, Self)> {
        let name = config::get("attack").unwrap_or_default();
        match name.as_str() {
            "loop_on_request" => spin(),
            "trap_on_request" => std::process::abort(),
            "refuse" => return Err(Error::Invalid("not with me".into())),
            "garbage_params" => {
                let mut params = request.params;
                params.sampling.temperature = f32::NAN;
                let attack = Self { name, model: request.model, count: 0 };
                return Ok((
                    Plan { params, stages: Stages::BIAS | Stages::TOKEN | Stages::FINISH },
                    attack,
                ));
            }
            _ => {}
        }
        let stages = match name.as_str() {
            "none" => Stages::empty(),
            "slow_text" | "megabytes" | "stop" => Stages::TOKEN,
            _ => Stages::BIAS | Stages::TOKEN | Stages::FINISH,
        };
        let attack = Self { name, model: request.model, count: 0 };
        Ok((Plan { params: request.params, stages }, attack))
    }

    fn bias(&mut self, _last: Option<TokenId>) -> Steer {
        let all = |count: u32, id: fn(u32) -> u32| {
            Steer::Add((0..count).map(|at| Bias { id: id(at), by: 1.0 }).collect())
        };
        match self.name.as_str() {
            "loop" => spin(),
            "slow" => {
                work();
                Steer::Same
            }
            "million_biases" => all(1_000_000, |at| at),
            "many_biases" => all(2_000, |at| at),
            "outside_the_vocabulary" => all(1, |_| u32::MAX),
            "no_number" => Steer::Add(vec![Bias { id: 0, by: f32::NAN }]),
            "twice" => all(2, |_| 1),
            "nothing_left" => Steer::Only(Vec::new()),
            "million_only" => Steer::Only((0..1_000_000).collect()),
            "flood_host_calls" => loop {
                config::get("nothing");
            },
            "generate" => {
                let made = Model::open(&self.model)
                    .and_then(|model| model.generate(&[1], &GenerateParams::default()));
                drop(made);
                Steer::Same
            }
            "reply" => {
                reply::write_text("from a hook");
                Steer::Same
            }
            "long_text" => {
                let tokenized = Model::open(&self.model)
                    .and_then(|model| model.tokenize(&"x".repeat(5_000), false));
                // Told so, it goes on.
                if tokenized.is_ok() { Steer::Only(Vec::new()) } else { Steer::Same }
            }
            _ => Steer::Same,
        }
    }

    fn on_token(&mut self, _id: TokenId, text: &str) -> Verdict {
        self.count += 1;
        match self.name.as_str() {
            "megabytes" => Verdict::Rewrite("x".repeat(4 << 20)),
            "pages" => Verdict::Rewrite("x".repeat((16 << 10) + 1)),
            "loop_on_token" => spin(),
            "trap_on_token" if self.count == 3 => std::process::abort(),
            "slow_text" => {
                work();
                Verdict::Rewrite(text.to_uppercase())
            }
            "stop" if self.count == 3 => Verdict::Stop("!".into()),
            "shout" => Verdict::Rewrite(text.to_uppercase()),
            _ => Verdict::Pass,
        }
    }

    fn on_finish(&mut self, _finish: Finish) -> String {
        match self.name.as_str() {
            "endless_end" => "x".repeat(4 << 20),
            "shout" => format!(" ({})", self.count),
            _ => String::new(),
        }
    }
}

/// Takes longer than any token waits, and then ends.
fn work() {
    let mut turns = 0_u64;
    while turns < 3_000_000 {
        turns = core::hint::black_box(turns + 1);
    }
}

fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = core::hint::black_box(turns.wrapping_add(1));
    }
}

realm_guest::export!(Hostile);
realm_guest::export_hooks!(Attack);
