//! Turns the core module that the compiler writes into a component: `build-tool IN OUT`.

use std::{env, error::Error, fs};

use wit_component::ComponentEncoder;

fn main() -> Result<(), Box<dyn Error>> {
    let mut paths = env::args_os().skip(1);
    let (Some(module), Some(component), None) = (paths.next(), paths.next(), paths.next()) else {
        return Err("usage: build-tool MODULE COMPONENT".into());
    };
    let bytes = ComponentEncoder::default().validate(true).module(&fs::read(module)?)?.encode()?;
    fs::write(component, bytes)?;
    Ok(())
}
