//! Writes the component that every program in Go is put into: `template WIT FOLDER OUT`.
//!
//! `FOLDER/program.wat` stands for the program: it imports and exports what any may.
//! `FOLDER/system.wat` answers what Go's runtime asks of a system.

use std::{env, error::Error, fs, path::Path};

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

fn main() -> Result<(), Box<dyn Error>> {
    let paths: Vec<_> = env::args_os().skip(1).collect();
    let [wit, folder, out] = paths.as_slice() else {
        return Err("usage: template WIT FOLDER OUT".into());
    };
    let folder = Path::new(folder);
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit)?;
    let world = resolve.select_world(&[package], Some("program"))?;
    let mut program = wat::parse_file(folder.join("program.wat"))?;
    let canonical_names = false;
    embed_component_metadata(&mut program, &resolve, world, StringEncoding::UTF8, canonical_names)?;
    let system = wat::parse_file(folder.join("system.wat"))?;
    let component = ComponentEncoder::default()
        .validate(true)
        .module(&program)?
        .adapter("wasi_snapshot_preview1", &system)?
        .encode()?;
    fs::write(out, component)?;
    Ok(())
}
