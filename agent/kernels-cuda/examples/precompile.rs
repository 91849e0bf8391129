//! Compiles every kernel for a GPU that need not be here: `precompile NVRTC FOLDER 90 128 64`, where 90
//! is the compute capability without its dot and what follows are the dimensions of heads.

#![expect(clippy::print_stdout, reason = "it is a program for a terminal")]

use std::{env, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let mut next = || arguments.next().ok_or("precompile NVRTC FOLDER CAPABILITY HEAD_DIM...");
    let (nvrtc, folder) = (PathBuf::from(next()?), PathBuf::from(next()?));
    let capability: i32 = next()?.parse()?;
    let head_dims: Vec<usize> = arguments.map(|dim| dim.parse()).collect::<Result<_, _>>()?;
    let capability = (capability / 10, capability % 10);
    let made = realm_kernels_cuda::precompile(Some(&nvrtc), &folder, capability, &head_dims)?;
    println!("{made:?}");
    Ok(())
}
