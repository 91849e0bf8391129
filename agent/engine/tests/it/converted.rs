//! Models in other formats, made as `realm models quantize` makes them.

use std::{num::NonZeroUsize, ops::ControlFlow};

use realm_engine::{
    gguf::Gguf,
    quantise::{Plan, QuantiseError, Requantise, recipe::Recipe},
};
use realm_kernels::format::Format;

use crate::support::smollm2;

/// The default model with every matrix in `format`.
pub(crate) fn smollm2_in(format: Format) -> Gguf {
    smollm2_through(&[Recipe::Plain(format)])
}

/// The default model written by each of `steps` in turn.
pub(crate) fn smollm2_through(steps: &[Recipe]) -> Gguf {
    let source = Gguf::open(&smollm2()).unwrap();
    steps.iter().fold(source, |gguf, &recipe| {
        Gguf::parse(bytes_of(&gguf, recipe, Requantise::Allowed).unwrap()).unwrap()
    })
}

/// The file that a recipe makes of another.
pub(crate) fn bytes_of(
    gguf: &Gguf,
    recipe: Recipe,
    requantise: Requantise,
) -> Result<Vec<u8>, QuantiseError> {
    let plan = Plan::new(gguf, recipe, requantise)?;
    let mut out = Vec::new();
    let threads = NonZeroUsize::new(2).unwrap();
    let mut read = 0;
    plan.write(&mut out, threads, &mut |bytes| {
        read += bytes;
        ControlFlow::Continue(())
    })?;
    assert_eq!(u64::try_from(out.len()).unwrap(), plan.bytes_to_write());
    assert_eq!(read, plan.bytes_to_read());
    Ok(out)
}
