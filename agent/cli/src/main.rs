//! The command line `realm`: reads the arguments and hands over to one module a command.

mod access;
mod api_key;
mod args;
mod bench;
mod check;
mod cluster;
mod conditions;
mod conformance;
mod door;
mod explain;
mod home;
mod info;
mod keys;
mod machine;
mod manifests;
mod metrics;
mod models;
mod output;
mod pipeline;
mod run;
mod sample;
mod serve;
mod source;
mod table;
mod talk;
mod target;
mod tenant;
mod top;
mod usage;

use std::{io::IsTerminal as _, process::ExitCode, time::Duration};

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::{
    args::{Cli, Command},
    home::Home,
};

/// How long threads may take to end once everything has been answered: a write to a disk, not a
/// prompt on a terminal that waits for a person.
const SHUTDOWN_WAIT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(cli) {
        Ok(code) => code,
        Err(error) => {
            output::note(format!("realm: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    let filter = EnvFilter::try_new(&cli.log)?;
    let is_terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(is_terminal)
        .with_writer(std::io::stderr)
        .init();
    let home = Home::find(cli.home.as_deref());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        match cli.command {
            Command::Serve(args) => serve::serve(&home, args).await,
            Command::Run(args) => run::run(&home, args).await,
            Command::Tenant(command) => tenant::run(&home, command).await,
            Command::ApiKey(command) => api_key::run(&home, command).await,
            Command::Models(command) => models::run(&home, command).await,
            Command::Pipeline(command) => pipeline::run(&home, command).await,
            Command::Check(args) => check::check(args).await,
            Command::Conformance(command) => conformance::run(command).await,
            Command::Bench(args) => bench::bench(&home, args).await,
            Command::Usage(args) => usage::run(args).await,
            Command::Top(args) => top::run(args).await,
            Command::Explain(args) => explain::run(&home, args).await,
            Command::Info(args) => info::info(&home, args).await,
        }
    });
    // Work on other threads that nobody waits for any more must not keep the process alive.
    runtime.shutdown_timeout(SHUTDOWN_WAIT);
    ended
}
