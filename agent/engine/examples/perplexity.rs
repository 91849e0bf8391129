//! Perplexity of model files on a text, by the protocol of llama.cpp's own tool: the text is cut
//! into chunks of 512 tokens, and the second half of each counts.
//!
//! `cargo run --release -p realm-engine --example perplexity -- TEXT FILE...` prints a line for
//! each file.

#![expect(clippy::print_stdout, reason = "a program that prints")]

use std::{error::Error, fs, path::Path};

use realm_engine::eval::{EvalOptions, Evaluation};
use realm_kernels::backend::KvType;

const CHUNK: usize = 512;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let text = fs::read_to_string(args.next().ok_or("no text is named")?)?;
    let options = EvalOptions { context: 512, kv_type: KvType::F16, threads: None };
    for file in args {
        let mut evaluation = Evaluation::open(Path::new(&file), &options)?;
        let tokens = evaluation.tokenize(&text)?;
        let perplexity = evaluation.perplexity(&tokens, CHUNK)?;
        println!("{:.4}  {file}", perplexity.value);
    }
    Ok(())
}
