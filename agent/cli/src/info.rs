//! `realm info`: what this build and this machine can do, or how a cluster is.

use std::process::ExitCode;

use realm_agent::{Device, DeviceOptions};
use realm_kernels::format::Format;

use crate::{
    args::InfoArgs,
    cluster::{Cluster, overview},
    home::Home,
    output, target,
};

pub(crate) async fn info(home: &Home, args: InfoArgs) -> anyhow::Result<ExitCode> {
    if target::is_cluster(&args.cluster) {
        let cluster = Cluster::open(&args.cluster, Some(&args.realm_namespace)).await?;
        for line in overview::lines(&cluster).await? {
            output::line(line)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let device = Device::open(DeviceOptions::default())?;
    output::line(format!("version     {}", env!("CARGO_PKG_VERSION")))?;
    output::line(format!("device      {}", device.describe()))?;
    output::line(format!("memory      {} MB free for models", device.memory_bytes() / 1_000_000))?;
    let formats = Format::WEIGHTS.map(|format| format.to_string());
    output::line(format!("formats     {}", formats.join(" ")))?;
    output::line(format!("models of   {}", realm_engine::architectures().join(" ")))?;
    let home = home.path().map_or_else(|why| why.to_string(), |path| path.display().to_string());
    output::line(format!("home        {home}"))?;
    Ok(ExitCode::SUCCESS)
}
