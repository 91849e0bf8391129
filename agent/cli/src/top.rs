//! `realm top`: who is served now, who waits and behind whom, as the metrics of a server or of agents
//! have it.
//!
//! Each look reads all addresses (`reading`); two of them make the rows (`rows`), which are printed
//! (`screen`) and looked at again until somebody has seen enough.

pub(crate) mod reading;
pub(crate) mod rows;
pub(crate) mod screen;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use tokio::time::{Instant, sleep_until};

use self::{
    reading::Reading,
    rows::{Row, rows},
};
use crate::{
    args::TopArgs,
    metrics::{samples, scrape},
    output,
};

/// How a look is shown.
#[derive(Clone, Copy, Debug)]
enum Form {
    Json,
    Lines,
    /// In place of the look before.
    Screen,
}

/// Goes to the corner of a terminal and clears it.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(crate) async fn run(args: TopArgs) -> anyhow::Result<ExitCode> {
    let TopArgs { metrics, every, once, json } = args;
    let pause = Duration::from_secs_f64(every);
    let form = match (json, once || !io::stdout().is_terminal()) {
        (true, _) => Form::Json,
        (false, true) => Form::Lines,
        (false, false) => Form::Screen,
    };
    let mut last = (Instant::now(), read(&metrics).await?);
    loop {
        let next = look_again(&metrics, pause, &last).await?;
        let seen = rows(&last.1, &next.1, (next.0 - last.0).as_secs_f64());
        last = next;
        print(&seen, form)?;
        if once {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// A short look at what happens at `metrics`: its seconds, its rows, and the last reading.
pub(crate) async fn look(
    metrics: &[String],
    pause: Duration,
) -> anyhow::Result<(f64, Vec<Row>, Reading)> {
    let first = (Instant::now(), read(metrics).await?);
    let second = look_again(metrics, pause, &first).await?;
    let seconds = (second.0 - first.0).as_secs_f64();
    Ok((seconds, rows(&first.1, &second.1, seconds), second.1))
}

async fn look_again(
    metrics: &[String],
    pause: Duration,
    (at, _): &(Instant, Reading),
) -> anyhow::Result<(Instant, Reading)> {
    sleep_until(*at + pause).await;
    Ok((Instant::now(), read(metrics).await?))
}

/// One look, for what is so at any time.
pub(crate) async fn read(metrics: &[String]) -> anyhow::Result<Reading> {
    let mut reading = Reading::default();
    for address in metrics {
        let address = scrape::host_and_port(address);
        let text = scrape::read(address).await?;
        if !reading.add(address, samples::parse(&text)) {
            bail!(
                "{address} tells of no tenants: it is no `realm serve` and no agent, or an older one"
            );
        }
    }
    Ok(reading)
}

fn print(rows: &[Row], form: Form) -> anyhow::Result<()> {
    match form {
        Form::Json => {
            output::line(screen::json(rows).to_string())?;
            return Ok(());
        }
        Form::Screen => output::piece(CLEAR)?,
        Form::Lines => {}
    }
    output::table(&screen::table(rows), "nobody is served, and nobody waits")
}
