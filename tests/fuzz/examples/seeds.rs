//! Writes the seeds that are not text: model files.

use std::{fs, path::Path};

fn main() -> std::io::Result<()> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds/gguf");
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    fs::write(seeds.join("model"), realm_fuzz::seed_model(template))?;
    fs::write(seeds.join("header"), realm_fuzz::header())
}
