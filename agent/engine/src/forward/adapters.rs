//! Adapters at work: rows of one step may each have another, or none.
//!
//! The model's own products are the same for all rows. What an adapter adds to them is computed
//! beside, adapter by adapter, of the rows that have it: gathered, made narrow, made wide again and
//! added (as Punica's, arXiv 2310.18547). So what a row comes to does not depend on what the rows
//! beside it have.

use std::collections::BTreeMap;

use realm_kernels::backend::{Backend, BackendError, Product};

use crate::{
    adapter::{AdapterId, RANK_MAX},
    architecture::Architecture,
    batch::Batch,
    weights::{AdapterWeights, Target},
};

/// The adapters of a model, and the memory in which they compute.
pub(super) struct Adapters<B: Backend> {
    loaded: BTreeMap<AdapterId, AdapterWeights<B>>,
    /// `(rows, widest input)`
    input: B::Buffer,
    /// `(rows, rank)`
    narrow: B::Buffer,
    /// `(rows, widest output)`
    output: B::Buffer,
    step: Step,
}

/// Which rows of a step have which adapter.
#[derive(Debug)]
struct Step {
    /// By adapter, one group behind the other, ascending in each.
    rows: Vec<u32>,
    groups: Vec<Group>,
    /// As many of one factor as a group has rows.
    factors: Vec<f32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    adapter: AdapterId,
    first: usize,
    count: usize,
}

impl Step {
    /// For steps of so many rows, for which no memory is asked for any more.
    fn of(rows: usize) -> Self {
        let groups = Vec::with_capacity(rows);
        Self { rows: Vec::with_capacity(rows), groups, factors: Vec::with_capacity(rows) }
    }

    fn plan(&mut self, batch: &Batch) {
        let Self { rows, groups, factors: _ } = self;
        rows.clear();
        groups.clear();
        for adapter in batch.spans.iter().filter_map(|span| span.adapter) {
            if groups.iter().any(|group| group.adapter == adapter) {
                continue;
            }
            let first = rows.len();
            for span in batch.spans.iter().filter(|span| span.adapter == Some(adapter)) {
                // Rows are counted in 32 bits wherever a batch is made.
                let end = span.first_row + span.count;
                rows.extend(
                    (span.first_row..end).map(|row| u32::try_from(row).unwrap_or(u32::MAX)),
                );
            }
            groups.push(Group { adapter, first, count: rows.len() - first });
        }
    }
}

/// Floats of the memory in which adapters compute.
fn sizes(rows: usize, a: &Architecture) -> [usize; 3] {
    let widest = a.adapted_width();
    [rows * widest, rows * RANK_MAX, rows * widest]
}

/// Bytes of the memory in which adapters compute.
pub(super) fn bytes(rows: usize, a: &Architecture) -> u64 {
    sizes(rows, a).into_iter().map(|floats| 4 * floats as u64).sum()
}

impl<B: Backend> Adapters<B> {
    pub(super) fn new(
        backend: &mut B,
        rows: usize,
        a: &Architecture,
    ) -> Result<Self, BackendError> {
        let [input, narrow, output] = sizes(rows, a);
        Ok(Self {
            loaded: BTreeMap::new(),
            input: backend.buffer(input)?,
            narrow: backend.buffer(narrow)?,
            output: backend.buffer(output)?,
            step: Step::of(rows),
        })
    }

    pub(super) fn put(&mut self, id: AdapterId, weights: AdapterWeights<B>) {
        self.loaded.insert(id, weights);
    }

    /// Forgets an adapter; `true` where there is none any more.
    pub(super) fn forget(&mut self, id: AdapterId) -> bool {
        self.loaded.remove(&id);
        self.loaded.is_empty()
    }

    /// Takes note of whose rows are whose.
    pub(super) fn plan(&mut self, batch: &Batch) -> Result<(), BackendError> {
        self.step.plan(batch);
        // Never so: an adapter goes after its sequences.
        match self.step.groups.iter().find(|group| !self.loaded.contains_key(&group.adapter)) {
            None => Ok(()),
            Some(Group { adapter: AdapterId(id), .. }) => {
                let index = usize::try_from(*id).unwrap_or(usize::MAX);
                let limit = self.loaded.len();
                Err(BackendError::Range { op: "adapt", what: "adapter", index, limit })
            }
        }
    }

    /// Adds to what the matrices of a layer have made of `input` what the rows' adapters make of it.
    ///
    /// `input`: `(rows, inputs)`; each output: `(rows, outputs of its matrix)`.
    pub(super) fn add(
        &mut self,
        backend: &mut B,
        layer: usize,
        (input, inputs): (&B::Buffer, usize),
        outputs: &mut [(Target, &mut B::Buffer)],
    ) -> Result<(), BackendError> {
        let Self { loaded, input: gathered, narrow, output, step } = self;
        let Step { rows, groups, factors } = step;
        for Group { adapter, first, count } in groups.iter().copied() {
            let Some(layer) = loaded.get(&adapter).and_then(|it| it.layers.get(layer)) else {
                continue;
            };
            if outputs.iter().all(|(target, _)| layer.of(*target).is_none()) {
                continue;
            }
            let rows = &rows[first..first + count];
            backend.gather_rows(input, inputs, rows, gathered)?;
            for (target, out) in &mut *outputs {
                let Some(pair) = layer.of(*target) else { continue };
                let mut product = [Product { matrix: &*pair.down, out: &mut *narrow }];
                backend.matmul(gathered, count, &mut product)?;
                backend.matmul(narrow, count, &mut [Product { matrix: &pair.up, out: output }])?;
                factors.clear();
                factors.resize(count, pair.factor);
                backend.add_rows(out, pair.outputs, rows, factors, output)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::SequenceId;

    #[test]
    fn the_rows_of_an_adapter_are_together_and_in_order() {
        let mut batch = Batch::default();
        let adapters = [Some(7), None, Some(3), Some(7)];
        for (number, adapter) in (0..).zip(adapters) {
            let blocks: [u32; 1] = [number];
            let sequence = SequenceId(u64::from(number));
            let of = (sequence, adapter.map(AdapterId));
            batch.push(of, &[1, 2], 0, [&blocks[..]].into_iter(), 16);
        }
        let mut step = Step::of(0);
        for _ in 0..2 {
            step.plan(&batch);
            assert_eq!(step.rows, [0, 1, 6, 7, 4, 5]);
            let group = |adapter, first, count| Group { adapter: AdapterId(adapter), first, count };
            assert_eq!(step.groups, [group(7, 0, 4), group(3, 4, 2)]);
        }
    }
}
