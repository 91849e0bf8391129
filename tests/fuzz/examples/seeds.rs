//! Writes the seeds that are not text: model files and programs.

use std::{error::Error, fs, path::Path};

/// The least that is taken in as a program.
const IDLE: &str = include_str!("components/idle.wat");

/// One whose parts hand each other values through a 64-bit memory.
const WIDE: &str = include_str!("components/wide.wat");

fn main() -> Result<(), Box<dyn Error>> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    fs::write(seeds.join("gguf/model"), realm_fuzz::seed_model(template))?;
    fs::write(seeds.join("gguf/header"), realm_fuzz::header())?;
    fs::write(seeds.join("adapter/adapter"), realm_fuzz::seed_adapter())?;
    fs::write(seeds.join("component/idle"), wat::parse_str(IDLE)?)?;
    fs::write(seeds.join("component/wide"), wat::parse_str(WIDE)?)?;
    fs::write(seeds.join("component/empty"), wat::parse_str("(component)")?)?;
    Ok(())
}
