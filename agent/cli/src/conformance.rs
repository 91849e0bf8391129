//! `realm conformance tenancy`: whether what serves keeps tenants apart, tried as two tenants
//! through a door like any client's, and judged by [`realm_conformance`].

mod ask;
mod exhaustion;
mod keys;
mod limits;
mod neighbour;
mod print;
mod retry;
mod timing;

use std::{env, fs, path::Path, process::ExitCode, sync::Arc};

use anyhow::{Context as _, bail};
use clap::ValueEnum as _;
use realm_conformance::report::{self, Check, Claim, Report, Verdict};

use crate::{
    args::{ConformanceCommand, TenancyArgs, TenancyCheck},
    door::{Door, DoorError, session::Session},
    output,
};

/// Trials that are kept at most: as many take a day and more, and a few megabytes.
const TRIALS_MAX: usize = 100_000;

/// Streams beside one kind of neighbour, for the same reason.
const STREAMS_MAX: usize = 10_000;

/// Words of a prompt: two blocks of a cache at least, so that something can be cached, and not more
/// than a common context holds.
const WORDS: std::ops::RangeInclusive<usize> = 64..=4_096;

/// The exit status where nothing failed and not everything is known; that of a failure is 1.
const NOT_KNOWN: u8 = 3;

/// The status where nothing could be tried, as of wrong arguments.
const NOT_TRIED: u8 = 2;

/// What is tried, and as whom.
struct Site {
    door: Door,
    model: Option<String>,
    key: String,
    other_key: String,
    limited_key: Option<String>,
    hostile_key: Option<String>,
    trials: usize,
    words: usize,
    streams: usize,
    seed: u64,
}

impl Site {
    fn from_args(args: &TenancyArgs) -> anyhow::Result<Self> {
        let TenancyArgs { trials, words, streams, .. } = *args;
        if !(1..=TRIALS_MAX).contains(&trials) || !(1..=STREAMS_MAX).contains(&streams) {
            bail!("1 to {TRIALS_MAX} trials and 1 to {STREAMS_MAX} streams can be measured");
        }
        if !WORDS.contains(&words) {
            bail!("a prompt has {} to {} words", WORDS.start(), WORDS.end());
        }
        let seed = match args.seed {
            Some(seed) => seed,
            // Of a size that readers of JSON in every language keep exact.
            None => getrandom::u64().context("draw a seed")? >> 11,
        };
        Ok(Self {
            door: Door::parse(&args.url, args.ca.clone(), args.insecure_plaintext)?,
            model: args.model.clone(),
            key: required_key(args.key_file.as_deref(), "key-file", "REALM_API_KEY")?,
            other_key: required_key(
                args.other_key_file.as_deref(),
                "other-key-file",
                "REALM_OTHER_API_KEY",
            )?,
            limited_key: key(args.limited_key_file.as_deref(), "REALM_LIMITED_API_KEY")?,
            hostile_key: key(args.hostile_key_file.as_deref(), "REALM_HOSTILE_API_KEY")?,
            trials,
            words,
            streams,
            seed,
        })
    }

    async fn own(&self) -> Result<Session, DoorError> {
        self.door.open(&self.key).await
    }

    async fn other(&self) -> Result<Session, DoorError> {
        self.door.open(&self.other_key).await
    }
}

/// A key from a file, or else from the environment.
fn key(file: Option<&Path>, variable: &str) -> anyhow::Result<Option<String>> {
    let key = match file {
        Some(file) => Some(
            fs::read_to_string(file)
                .with_context(|| format!("read the key in {}", file.display()))?,
        ),
        None => env::var(variable).ok(),
    };
    Ok(key.map(|key| key.trim().to_owned()).filter(|key| !key.is_empty()))
}

fn required_key(file: Option<&Path>, flag: &str, variable: &str) -> anyhow::Result<String> {
    key(file, variable)?
        .with_context(|| format!("there is no key: name its file with --{flag}, or set {variable}"))
}

pub(crate) async fn run(command: ConformanceCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConformanceCommand::Tenancy(args) => tenancy(args).await,
    }
}

/// The endpoint, and the two tenants: who cannot come in at all has nothing to try.
async fn come_in(args: &TenancyArgs) -> anyhow::Result<(Arc<Site>, [String; 2])> {
    let site = Arc::new(Site::from_args(args)?);
    let one = site.own().await.context("come in with the first key")?.tenant().to_owned();
    let other = site.other().await.context("come in with the other key")?.tenant().to_owned();
    Ok((site, [one, other]))
}

async fn tenancy(args: TenancyArgs) -> anyhow::Result<ExitCode> {
    let (site, [one, other]) = match come_in(&args).await {
        Ok(come_in) => come_in,
        Err(error) => {
            output::note(format!("realm: {error:#}"));
            return Ok(ExitCode::from(NOT_TRIED));
        }
    };
    let mut checks = Vec::new();
    for wanted in TenancyCheck::value_variants() {
        if args.checks.is_empty() || args.checks.contains(wanted) {
            output::note(format!("{} …", about(*wanted).id));
            checks.push(check(*wanted, &site, [&one, &other]).await);
        }
    }
    let (tenants, seed) = ([one, other], site.seed);
    let verdict = report::overall(&checks);
    let report = Report { url: args.url, tenants, seed, verdict, checks };
    if args.json {
        output::line(serde_json::to_string_pretty(&report).context("write the report")?)?;
    } else {
        print::print(&report)?;
    }
    Ok(match verdict {
        Verdict::Pass => ExitCode::SUCCESS,
        Verdict::Fail => ExitCode::FAILURE,
        Verdict::Inconclusive | Verdict::Skipped => ExitCode::from(NOT_KNOWN),
    })
}

const fn about(check: TenancyCheck) -> Claim {
    match check {
        TenancyCheck::Keys => realm_conformance::keys::ABOUT,
        TenancyCheck::StreamLimits => realm_conformance::limits::ABOUT,
        TenancyCheck::RetryAfter => realm_conformance::retry::ABOUT,
        TenancyCheck::ProgramExhaustion => realm_conformance::exhaustion::ABOUT,
        TenancyCheck::NoisyNeighbour => realm_conformance::neighbour::ABOUT,
        TenancyCheck::PrefixTiming => realm_conformance::timing::ABOUT,
    }
}

async fn check(wanted: TenancyCheck, site: &Arc<Site>, tenants: [&str; 2]) -> Check {
    let measured = match wanted {
        TenancyCheck::Keys => keys::measure(site, tenants).await,
        TenancyCheck::StreamLimits => limits::measure(site).await,
        TenancyCheck::RetryAfter => retry::measure(site).await,
        TenancyCheck::ProgramExhaustion => exhaustion::measure(site).await,
        TenancyCheck::NoisyNeighbour => neighbour::measure(site).await,
        TenancyCheck::PrefixTiming => timing::measure(site).await,
    };
    measured.unwrap_or_else(|error| {
        let why = format!("{:#}", anyhow::Error::from(error));
        Check::without_figures(about(wanted), Verdict::Inconclusive, why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_called_on_the_command_line_what_it_is_called_in_the_report() {
        for check in TenancyCheck::value_variants() {
            let name = check.to_possible_value().unwrap();
            assert_eq!(name.get_name(), about(*check).id);
        }
    }
}
