//! A feed-forward with a gate, with what adapters add to it.

use realm_kernels::backend::{Backend, BackendError, Curve, Product};

use super::adapters::Adapters;
use crate::weights::{Gated, Target};

/// The adapters beside a feed-forward.
pub(super) struct Beside<'a, B: Backend> {
    pub(super) adapters: &'a mut Adapters<B>,
    pub(super) layer: usize,
    /// How wide what goes in is.
    pub(super) inputs: usize,
}

/// Where a feed-forward computes, and how wide it is.
pub(super) struct Inner<'a, B: Backend> {
    pub(super) gate: &'a mut B::Buffer,
    pub(super) up: &'a mut B::Buffer,
    pub(super) hidden: &'a mut B::Buffer,
    pub(super) width: usize,
}

impl<B: Backend> Inner<'_, B> {
    /// `out = down(act(gate(x)) * up(x))`
    pub(super) fn compute(
        mut self,
        backend: &mut B,
        weights: &Gated<B>,
        curve: Curve,
        x: (&B::Buffer, usize),
        out: &mut B::Buffer,
    ) -> Result<(), BackendError> {
        self.compute_adapted(backend, weights, curve, x, (out, None))
    }

    /// The same, with what adapters add.
    pub(super) fn compute_adapted(
        &mut self,
        backend: &mut B,
        weights: &Gated<B>,
        curve: Curve,
        (x, rows): (&B::Buffer, usize),
        (out, mut beside): (&mut B::Buffer, Option<Beside<'_, B>>),
    ) -> Result<(), BackendError> {
        let Self { gate, up, hidden, width } = self;
        let mut products = [
            Product { matrix: &weights.gate, out: &mut **gate },
            Product { matrix: &weights.up, out: &mut **up },
        ];
        backend.matmul(x, rows, &mut products)?;
        if let Some(Beside { adapters, layer, inputs }) = &mut beside {
            let mut outputs = [(Target::Gate, &mut **gate), (Target::Up, &mut **up)];
            adapters.add(backend, *layer, (x, *inputs), &mut outputs)?;
        }
        backend.gated(curve, gate, up, rows * *width, hidden)?;
        backend.matmul(hidden, rows, &mut [Product { matrix: &weights.down, out: &mut *out }])?;
        match beside {
            None => Ok(()),
            Some(Beside { adapters, layer, .. }) => {
                let mut outputs = [(Target::Down, out)];
                adapters.add(backend, layer, (&**hidden, *width), &mut outputs)
            }
        }
    }
}
