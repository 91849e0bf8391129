//! `realm usage`: who has used how much, as the metrics of a server or of agents have it.
//!
//! In order: each address is read ([`scrape`]), its lines become samples ([`samples`]), and those
//! become rows (`rows`), in which what several agents say is added up. Nothing is kept here: the
//! numbers count from when each model was loaded, and each program came, on its agent.

mod rows;

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use realm_core::name::TenantName;

use self::rows::Rows;
use crate::{
    args::{UsageArgs, UsageFormat},
    metrics::{samples, scrape},
    output,
};

pub(crate) async fn run(args: UsageArgs) -> anyhow::Result<ExitCode> {
    let UsageArgs { metrics, tenant, namespace, format } = args;
    let tenant = tenant.map(|name| tenant_name(&name, &namespace)).transpose()?;
    let mut rows = Rows::default();
    for address in &metrics {
        let text = scrape::read(scrape::host_and_port(address)).await?;
        if !rows.add(samples::parse(&text)) {
            bail!("{address} tells no use: it is no `realm serve` and no agent, or an older one");
        }
    }
    if let Some(tenant) = &tenant {
        rows.retain(tenant);
    }
    match format {
        UsageFormat::Csv => rows.csv().try_for_each(output::line)?,
        UsageFormat::Json => output::line(serde_json::to_string_pretty(&rows.json())?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn tenant_name(name: &str, namespace: &str) -> anyhow::Result<TenantName> {
    let name =
        if name.contains('/') { TenantName::parse(name) } else { TenantName::new(namespace, name) };
    name.context("read the name of the tenant")
}
