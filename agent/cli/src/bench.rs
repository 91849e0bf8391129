//! `realm bench`: a model's speed, and the machine's own ceilings measured in the same run.
//!
//! A speed alone says little: it is printed as a share of what this machine could do at best, with
//! the same threads and minutes apart. Rounds of all measurements alternate, so that a slow minute
//! of the machine is shared by all of them, and medians are printed.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use realm_engine::bench::{Bench, SEQUENCES_MAX, StepSeconds};
use realm_kernels::{
    ceiling,
    cpu::{self, Cpu},
};
use serde::Serialize;
use tokio::task::spawn_blocking;

use crate::{args::BenchArgs, home::Home, models, output};

/// How long each ceiling is measured in each round: hundreds of passes over a small model.
const CEILING_SPAN: Duration = Duration::from_millis(500);

/// A prompt of a question's length, for the time to the first token of a chat.
const QUESTION_TOKENS: usize = 32;

/// Context that decoding starts with, as in `llama-bench`: none but one token.
const DECODE_PROMPT: usize = 1;

/// Depths of one bench: each takes as long as its prompt in every round.
const DEPTHS_MAX: usize = 8;

/// Tokens that are decoded behind a long prompt, for what it costs to attend to it.
const BEHIND_PROMPT_TOKENS: usize = 8;

pub(crate) async fn bench(home: &Home, args: BenchArgs) -> anyhow::Result<ExitCode> {
    let path = match &args.model {
        Some(path) => path.clone(),
        None => models::default_file(home).await?,
    };
    let json = args.json;
    let figures = spawn_blocking(move || measure(&path, &args)).await.context("measure")??;
    if json {
        output::line(serde_json::to_string_pretty(&figures).context("write the figures")?)?;
    } else {
        print(&figures)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What one run measured; medians over its rounds.
#[derive(Debug, Serialize)]
struct Figures {
    device: String,
    threads: usize,
    rounds: usize,
    weights_bytes: u64,
    /// Over a set as large as the weights.
    read_bytes_per_second: f64,
    int8_ops_per_second: f64,
    first_token_ms: Vec<FirstToken>,
    prefill: Speed,
    decode: Speed,
    decode_batched: Speed,
    /// Where adapters were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    decode_adapted: Option<WithAdapters>,
    /// One for each depth that was asked for.
    decode_behind: Vec<Behind>,
    step: Step,
}

/// How fast one sequence decodes behind a context, which it attends with every token.
#[derive(Debug, Serialize)]
struct Behind {
    context_tokens: usize,
    tokens: usize,
    tokens_per_second: f64,
    /// Part of the speed behind none.
    share_of_decode: f64,
}

/// How fast sequences decode together that have adapters by turns.
#[derive(Debug, Serialize)]
struct WithAdapters {
    adapters: usize,
    sequences: usize,
    tokens: usize,
    tokens_per_second: f64,
    /// Part of the speed of as many without.
    share_of_batched: f64,
    /// Of what a step takes: a million multiplies and adds of an adapter, which each of its rows
    /// has, and a pair of matrices of one, whatever its rows are.
    mop_us: f64,
    pair_us: f64,
}

/// What a step takes: so much whatever is in it, and so much for each of what is. The prices by
/// which tenants have their shares.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the unit belongs to each name of the output")]
struct Step {
    base_us: f64,
    prefill_token_us: f64,
    decode_token_us: f64,
    attended_token_us: f64,
}

#[derive(Debug, Serialize)]
struct FirstToken {
    prompt_tokens: usize,
    ms: f64,
}

#[derive(Debug, Serialize)]
struct Speed {
    sequences: usize,
    tokens: usize,
    tokens_per_second: f64,
    /// Part of the ceiling that bounds it: int8 dot rate for prefill, read bandwidth for decoding.
    share_of_ceiling: f64,
}

/// One figure per round.
#[derive(Default)]
struct Rounds {
    read: Vec<f64>,
    int8: Vec<f64>,
    question: Vec<f64>,
    prefill: Vec<f64>,
    decode: Vec<f64>,
    batched: Vec<f64>,
    adapted: Vec<f64>,
    /// For each depth.
    behind: Vec<Vec<f64>>,
}

/// Refuses what cannot be measured.
fn check(args: &BenchArgs) -> anyhow::Result<()> {
    if [args.prefill, args.decode, args.sequences, args.repeat].contains(&0) {
        bail!("nothing can be measured over 0 tokens, sequences or rounds");
    }
    if args.sequences > SEQUENCES_MAX {
        bail!("{} sequences at once; {SEQUENCES_MAX} are the most", args.sequences);
    }
    if args.adapters.len() > args.sequences {
        bail!("{} adapters for {} sequences", args.adapters.len(), args.sequences);
    }
    if args.depth.contains(&0) || args.depth.len() > DEPTHS_MAX {
        bail!("a depth is one token or more, and there are {DEPTHS_MAX} at most");
    }
    Ok(())
}

fn measure(path: &Path, args: &BenchArgs) -> anyhow::Result<Figures> {
    check(args)?;
    let threads = args.threads.unwrap_or_else(cpu::default_threads);
    let deepest = args.depth.iter().copied().max().unwrap_or(DECODE_PROMPT);
    let decode_end = deepest.saturating_add(args.decode);
    let context = args.prefill.max(decode_end).max(QUESTION_TOKENS).saturating_add(1);
    let context = u32::try_from(context).context("that many tokens fit in no context")?;
    let mut bench = Bench::open(path, (context, args.sequences), Some(threads))?;
    for adapter in &args.adapters {
        bench.adapt(adapter).with_context(|| adapter.display().to_string())?;
    }
    let set_bytes = usize::try_from(bench.weights_bytes()).context("measure so many weights")?;
    let mut ceilings = Cpu::detect(threads);
    let behind = vec![Vec::new(); args.depth.len()];
    let mut rounds = Rounds { behind, ..Rounds::default() };
    // The first round warms caches and clocks and does not count.
    for round in 0..=args.repeat {
        let read = ceiling::bandwidth(&mut ceilings, set_bytes, CEILING_SPAN)?;
        let int8 = ceiling::int8_rate(&mut ceilings, CEILING_SPAN);
        let question = bench.prefill(QUESTION_TOKENS)?;
        let prefill = bench.prefill(args.prefill)?;
        let decode = bench.decode(1, DECODE_PROMPT, args.decode)?;
        let batched = bench.decode(args.sequences, DECODE_PROMPT, args.decode)?;
        if !args.adapters.is_empty() {
            let adapted = bench.decode_adapted(args.sequences, DECODE_PROMPT, args.decode)?;
            // Of one row as well, without which its operations are not known from its matrices.
            bench.decode_adapted(1, DECODE_PROMPT, args.decode)?;
            if round > 0 {
                rounds.adapted.push(adapted.tokens_per_second());
            }
        }
        for (speeds, &depth) in rounds.behind.iter_mut().zip(&args.depth) {
            let behind = bench.decode(1, depth, args.decode)?;
            if round > 0 {
                speeds.push(behind.tokens_per_second());
            }
        }
        let long = args.prefill.saturating_sub(BEHIND_PROMPT_TOKENS).max(DECODE_PROMPT);
        bench.decode(1, long, BEHIND_PROMPT_TOKENS)?;
        if round > 0 {
            rounds.read.push(read.bytes_per_second);
            rounds.int8.push(int8.ops_per_second);
            rounds.question.push(question.elapsed.as_secs_f64() * 1e3);
            rounds.prefill.push(prefill.tokens_per_second());
            rounds.decode.push(decode.tokens_per_second());
            rounds.batched.push(batched.tokens_per_second());
        }
    }
    Ok(figures(&bench, args, threads, rounds))
}

fn figures(bench: &Bench, args: &BenchArgs, threads: usize, rounds: Rounds) -> Figures {
    let Rounds { read, int8, question, prefill, decode, batched, adapted, behind } = rounds;
    let read_bytes_per_second = median(read);
    let int8_ops_per_second = median(int8);
    let prefill_speed = median(prefill);
    // The head runs once a prompt, for the token that follows it.
    let prefill_ops = (bench.ops_per_token() * args.prefill as u64 + bench.head_ops()) as f64
        / args.prefill as f64;
    let decode_speed = median(decode);
    let batched_speed = median(batched);
    let bytes = bench.weights_bytes() as f64;
    let share_of_reading = |steps_per_second: f64| steps_per_second * bytes / read_bytes_per_second;
    Figures {
        device: bench.device(),
        threads,
        rounds: args.repeat,
        weights_bytes: bench.weights_bytes(),
        read_bytes_per_second,
        int8_ops_per_second,
        first_token_ms: vec![
            FirstToken { prompt_tokens: QUESTION_TOKENS, ms: median(question) },
            FirstToken {
                prompt_tokens: args.prefill,
                ms: args.prefill as f64 / prefill_speed * 1e3,
            },
        ],
        prefill: Speed {
            sequences: 1,
            tokens: args.prefill,
            tokens_per_second: prefill_speed,
            share_of_ceiling: prefill_speed * prefill_ops / int8_ops_per_second,
        },
        decode: Speed {
            sequences: 1,
            tokens: args.decode,
            tokens_per_second: decode_speed,
            share_of_ceiling: share_of_reading(decode_speed),
        },
        decode_batched: Speed {
            sequences: args.sequences,
            tokens: args.decode,
            tokens_per_second: batched_speed,
            share_of_ceiling: share_of_reading(batched_speed / args.sequences as f64),
        },
        decode_adapted: with_adapters(args, adapted, (batched_speed, bench.step_seconds())),
        decode_behind: behind_each(args, behind, decode_speed),
        step: step(bench.step_seconds()),
    }
}

impl WithAdapters {
    fn words(&self) -> String {
        let Self { adapters, sequences, tokens, tokens_per_second, .. } = self;
        format!(
            "with adapters   {tokens_per_second:.1} tok/s, {sequences} × {tokens} tokens, {adapters} \
             by turns, {:.0}% of decode batched; in a step {:.1} µs a pair of matrices, and {:.2} a \
             million operations",
            self.share_of_batched * 100.0,
            self.pair_us,
            self.mop_us,
        )
    }
}

fn with_adapters(
    args: &BenchArgs,
    speeds: Vec<f64>,
    (batched_speed, seconds): (f64, StepSeconds),
) -> Option<WithAdapters> {
    if speeds.is_empty() {
        return None;
    }
    let tokens_per_second = median(speeds);
    Some(WithAdapters {
        adapters: args.adapters.len(),
        sequences: args.sequences,
        tokens: args.decode,
        tokens_per_second,
        share_of_batched: tokens_per_second / batched_speed,
        mop_us: seconds.adapter_kop * 1e9,
        pair_us: seconds.adapter_pair * 1e6,
    })
}

fn behind_each(args: &BenchArgs, speeds: Vec<Vec<f64>>, decode_speed: f64) -> Vec<Behind> {
    let each = args.depth.iter().zip(speeds).map(|(&context_tokens, speeds)| {
        let tokens_per_second = median(speeds);
        Behind {
            context_tokens,
            tokens: args.decode,
            tokens_per_second,
            share_of_decode: tokens_per_second / decode_speed,
        }
    });
    each.collect()
}

fn step(seconds: StepSeconds) -> Step {
    let StepSeconds { step, prefill_token, decode_token, attended_token, .. } = seconds;
    Step {
        base_us: step * 1e6,
        prefill_token_us: prefill_token * 1e6,
        decode_token_us: decode_token * 1e6,
        attended_token_us: attended_token * 1e6,
    }
}

/// The middle of `values`, of which there is at least one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle.wrapping_sub(1)), values.get(middle)) {
        (Some(low), Some(high)) if values.len().is_multiple_of(2) => f64::midpoint(*low, *high),
        (_, Some(middle)) => *middle,
        (_, None) => f64::NAN,
    }
}

fn print(figures: &Figures) -> anyhow::Result<()> {
    let Figures { device, rounds, weights_bytes, read_bytes_per_second, .. } = figures;
    output::line(format!("{device}, median of {rounds} rounds"))?;
    output::line(format!(
        "ceilings        {:.1} GB/s read over {:.0} MB, {:.0} G int8 ops/s",
        read_bytes_per_second / 1e9,
        *weights_bytes as f64 / 1e6,
        figures.int8_ops_per_second / 1e9,
    ))?;
    for FirstToken { prompt_tokens, ms } in &figures.first_token_ms {
        output::line(format!(
            "first token     {ms:.0} ms after a prompt of {prompt_tokens} tokens"
        ))?;
    }
    let speeds = [
        ("prefill", &figures.prefill, "int8 rate"),
        ("decode", &figures.decode, "read bandwidth"),
        ("decode batched", &figures.decode_batched, "read bandwidth, weights read once a step"),
    ];
    for (name, speed, ceiling) in speeds {
        let Speed { sequences, tokens, tokens_per_second, share_of_ceiling } = speed;
        output::line(format!(
            "{name:<15} {tokens_per_second:.1} tok/s, {sequences} × {tokens} tokens, \
             {:.0}% of {ceiling}",
            share_of_ceiling * 100.0,
        ))?;
    }
    for Behind { context_tokens, tokens, tokens_per_second, share_of_decode } in
        &figures.decode_behind
    {
        output::line(format!(
            "decode behind   {tokens_per_second:.1} tok/s, {tokens} tokens behind {context_tokens}, \
             {:.0}% of decode",
            share_of_decode * 100.0,
        ))?;
    }
    if let Some(adapted) = &figures.decode_adapted {
        output::line(adapted.words())?;
    }
    let Step { base_us, prefill_token_us, decode_token_us, attended_token_us } = &figures.step;
    output::line(format!(
        "a step takes    {base_us:.0} µs, and {prefill_token_us:.0} a token of a prompt, \
         {decode_token_us:.0} a token of an answer, {attended_token_us:.3} a token attended to",
    ))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_or_between_the_two_middles() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
    }
}
