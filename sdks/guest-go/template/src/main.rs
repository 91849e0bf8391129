//! Writes the components that programs in Go are put into: `template WIT FOLDER OUT`.
//!
//! `FOLDER/program.wat` stands for the program: it imports and exports what any may, and what is in
//! `hooks.wat` and `health.wat` it exports where the program has that. `FOLDER/system.wat` answers
//! what Go's runtime asks of a system. `OUT` gets one component for each world.

use std::{env, error::Error, fs, path::Path};

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Each world, and what its programs export besides.
const WORLDS: [(&str, &[&str]); 4] = [
    ("program", &[]),
    ("hooked-program", &["hooks.wat"]),
    ("checked-program", &["health.wat"]),
    ("checked-hooked-program", &["hooks.wat", "health.wat"]),
];

fn main() -> Result<(), Box<dyn Error>> {
    let paths: Vec<_> = env::args_os().skip(1).collect();
    let [wit, folder, out] = paths.as_slice() else {
        return Err("usage: template WIT FOLDER OUT".into());
    };
    for (world, besides) in WORLDS {
        let component = template(Path::new(wit), Path::new(folder), world, besides)?;
        fs::write(Path::new(out).join(format!("{world}.wasm")), component)?;
    }
    Ok(())
}

fn template(
    wit: &Path,
    folder: &Path,
    world: &str,
    besides: &[&str],
) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit)?;
    let world = resolve.select_world(&[package], Some(world))?;
    let text = fs::read_to_string(folder.join("program.wat"))?;
    let mut text = text.trim_end().strip_suffix(')').ok_or("program.wat is cut short")?.to_owned();
    for file in besides {
        text.push('\n');
        text.push_str(&fs::read_to_string(folder.join(file))?);
    }
    let mut program = wat::parse_str(text + ")")?;
    let canonical_names = false;
    embed_component_metadata(&mut program, &resolve, world, StringEncoding::UTF8, canonical_names)?;
    let system = wat::parse_file(folder.join("system.wat"))?;
    let component = ComponentEncoder::default()
        .validate(true)
        .module(&program)?
        .adapter("wasi_snapshot_preview1", &system)?
        .encode()?;
    Ok(component)
}
