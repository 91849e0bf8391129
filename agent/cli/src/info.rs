//! `realm info`: what this build and this machine can do.

use std::process::ExitCode;

use realm_agent::Device;
use realm_kernels::format::Format;

use crate::{home::Home, output};

pub(crate) fn info(home: &Home) -> anyhow::Result<ExitCode> {
    let device = Device::open(None)?;
    output::line(format!("version     {}", env!("CARGO_PKG_VERSION")))?;
    output::line(format!("device      {}", device.describe()))?;
    output::line(format!("memory      {} MB free for models", device.memory_bytes() / 1_000_000))?;
    let formats = Format::WEIGHTS.map(|format| format.to_string());
    output::line(format!("formats     {}", formats.join(" ")))?;
    output::line(format!("models of   {}", realm_engine::architectures().join(" ")))?;
    output::line(format!("home        {}", home.path().display()))?;
    Ok(ExitCode::SUCCESS)
}
