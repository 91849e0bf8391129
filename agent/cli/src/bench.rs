//! `realm bench`: a model's speed, and the machine's own ceilings measured in the same run.

use std::process::ExitCode;

use crate::{args::BenchArgs, home::Home};

pub(crate) async fn bench(_home: &Home, _args: BenchArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("later in this commit series")
}
