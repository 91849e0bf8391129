//! The weights that only models have which read texts: what is added to embeddings, norms of sums,
//! and what the vector of a text goes through.

use realm_kernels::backend::Backend;

use super::{Loader, WeightsError, all_of};
use crate::architecture::{Architecture, Part};

/// A norm of mean and variance: what a row is multiplied with, and what is added to it.
pub(crate) struct Norm<B: Backend> {
    pub(crate) weight: B::Buffer,
    pub(crate) bias: B::Buffer,
}

/// What stands around the layers of a model that reads.
pub(crate) struct Reading<B: Backend> {
    /// `(context, width)`
    pub(crate) positions: Option<B::Matrix>,
    /// The kind of every token: texts are of the first kind.
    pub(crate) kind: Option<B::Buffer>,
    /// Of embeddings.
    pub(crate) norm: Option<Norm<B>>,
    /// What the vector of a text goes through, one after the other.
    pub(crate) dense: Vec<B::Matrix>,
}

impl<B: Backend> Loader<'_, B> {
    pub(super) fn reading(&mut self, a: &Architecture) -> Result<Reading<B>, WeightsError> {
        let context = a.context as usize;
        let positions = a.has(Part::LearnedPositions);
        let is_normed = a.has(Part::SumNorms);
        let kind = "token_types.weight";
        let has_kinds = is_normed && self.gguf.tensor(kind).is_some();
        let mut from = a.width;
        let names = ["dense_2.weight", "dense_3.weight"];
        let dense = names.iter().zip(&a.dense).map(|(name, &rows)| {
            let matrix = self.matrix(name, rows, from);
            from = rows;
            matrix
        });
        Ok(Reading {
            dense: dense.collect::<Result<_, _>>()?,
            positions: positions
                .then(|| self.matrix("position_embd.weight", context, a.width))
                .transpose()?,
            kind: has_kinds.then(|| self.first_row(kind, a.width)).transpose()?,
            norm: is_normed.then(|| self.norm("token_embd_norm", a.width)).transpose()?,
        })
    }

    pub(super) fn sum_norms(
        &mut self,
        index: usize,
        a: &Architecture,
    ) -> Result<Option<[Norm<B>; 2]>, WeightsError> {
        if !a.has(Part::SumNorms) {
            return Ok(None);
        }
        let names = ["attn_output_norm", "layer_output_norm"];
        all_of(names.map(|name| self.norm(&format!("blk.{index}.{name}"), a.width))).map(Some)
    }

    fn norm(&mut self, name: &str, len: usize) -> Result<Norm<B>, WeightsError> {
        Ok(Norm {
            weight: self.vector(&format!("{name}.weight"), len)?,
            bias: self.vector(&format!("{name}.bias"), len)?,
        })
    }

    /// The first row of a matrix of any number of rows.
    fn first_row(&mut self, name: &str, len: usize) -> Result<B::Buffer, WeightsError> {
        let rows = self.gguf.tensor(name).and_then(|tensor| tensor.shape.get(1).copied());
        let rows = rows.and_then(|rows| usize::try_from(rows).ok()).unwrap_or(1);
        let tensor = self.take(name, &[len, rows])?;
        let bytes = tensor.format.tensor_bytes(1, len).unwrap_or(usize::MAX);
        let bytes = self.gguf.tensor_bytes(tensor).get(..bytes).unwrap_or_default();
        let values = Self::numbers_of(tensor, bytes, len)?;
        self.upload(name, &values)
    }
}
