//! The weights of an adapter: for each matrix that it changes, two that are narrow.

use std::{collections::BTreeSet, sync::Arc};

use realm_kernels::backend::Backend;

use super::{Loader, WeightsError};
use crate::{
    adapter::{AdapterError, AdapterFile, AdapterWork, RANK_MAX},
    architecture::{Architecture, Part},
    gguf::Gguf,
};

/// A matrix of a layer that an adapter may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Q,
    K,
    V,
    AttentionOut,
    Gate,
    Up,
    Down,
}

const TARGETS: usize = 7;

/// What is added to what a matrix makes of a row: `factor * up(down(row))`.
pub(crate) struct LowRank<B: Backend> {
    /// `(rank, inputs)`; matrices that lie in one tensor of the model's file share it.
    pub(crate) down: Arc<B::Matrix>,
    /// `(outputs, rank)`
    pub(crate) up: B::Matrix,
    pub(crate) outputs: usize,
    pub(crate) factor: f32,
}

/// What an adapter changes of one layer.
pub(crate) struct AdapterLayer<B: Backend>([Option<LowRank<B>>; TARGETS]);

impl<B: Backend> AdapterLayer<B> {
    pub(crate) const fn of(&self, target: Target) -> Option<&LowRank<B>> {
        self.0[target as usize].as_ref()
    }
}

/// An adapter on a device.
pub(crate) struct AdapterWeights<B: Backend> {
    pub(crate) layers: Vec<AdapterLayer<B>>,
    pub(crate) work: AdapterWork,
}

/// A tensor of the model's file that an adapter may change: its name, how many values a row of it
/// takes, and the matrices that lie in it with how many they make.
type Tensor = (&'static str, usize, Vec<(Target, usize)>);

/// The tensors of a layer that adapters may change.
fn tensors(a: &Architecture) -> Vec<Tensor> {
    let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
    let one = |name, inputs, target, outputs| (name, inputs, vec![(target, outputs)]);
    let mut tensors = if a.has(Part::FusedQkv) {
        let all = vec![(Target::Q, q), (Target::K, kv), (Target::V, kv)];
        vec![("attn_qkv", a.width, all)]
    } else {
        vec![
            one("attn_q", a.width, Target::Q, q),
            one("attn_k", a.width, Target::K, kv),
            one("attn_v", a.width, Target::V, kv),
        ]
    };
    tensors.push(one("attn_output", q, Target::AttentionOut, a.width));
    if a.experts.is_some() {
        return tensors;
    }
    let inner = a.feed_forward;
    if a.has(Part::FusedGate) {
        tensors.push(("ffn_up", a.width, vec![(Target::Gate, inner), (Target::Up, inner)]));
    } else {
        tensors.push(one("ffn_gate", a.width, Target::Gate, inner));
        tensors.push(one("ffn_up", a.width, Target::Up, inner));
    }
    tensors.push(one("ffn_down", inner, Target::Down, a.width));
    tensors
}

impl<B: Backend> AdapterWeights<B> {
    /// Copies an adapter's matrices to the device. Every tensor of its file has a place, or it is
    /// refused: what it was trained to change would be something else.
    pub(crate) fn load(
        backend: &mut B,
        file: &AdapterFile<'_>,
        a: &Architecture,
    ) -> Result<Self, AdapterError> {
        // Before anything is copied: it is known by then that all of it has its place.
        all_known(file.gguf, a)?;
        let mut loader = Loader { backend, gguf: file.gguf, taken: BTreeSet::new() };
        // What is made narrow is read again, and a device has room for no wider rows than the model's.
        let rank_max = RANK_MAX.min(a.adapted_width());
        let (tensors, mut layers) = (tensors(a), Vec::with_capacity(a.layers));
        let (mut ops, mut pairs) = (0_u64, 0);
        for index in 0..a.layers {
            let mut layer = AdapterLayer([const { None }; TARGETS]);
            for (name, inputs, matrices) in &tensors {
                let name = format!("blk.{index}.{name}.weight");
                let Some(rank) = rank(&loader, &name, rank_max)? else { continue };
                for (target, pair) in loader.low_ranks(&name, (rank, *inputs), matrices, file)? {
                    ops = ops.saturating_add(2 * (rank * (inputs + pair.outputs)) as u64);
                    pairs += 1;
                    layer.0[target as usize] = Some(pair);
                }
            }
            layers.push(layer);
        }
        if pairs == 0 {
            return Err(AdapterError::Empty);
        }
        Ok(Self { layers, work: AdapterWork { kops: ops.div_ceil(1000), pairs } })
    }
}

/// Refuses a file with a tensor that changes nothing of the model.
fn all_known(gguf: &Gguf, a: &Architecture) -> Result<(), AdapterError> {
    let parts = tensors(a);
    let pairs = (0..a.layers).flat_map(|index| {
        let names = parts.iter().map(move |(name, ..)| format!("blk.{index}.{name}.weight"));
        names.flat_map(|name| ["lora_a", "lora_b"].map(|part| format!("{name}.{part}")))
    });
    let known: BTreeSet<String> = pairs.collect();
    let unknown = gguf.tensors().iter().find(|tensor| !known.contains(&tensor.name));
    unknown.map_or(Ok(()), |tensor| Err(WeightsError::Unexpected(tensor.name.clone()).into()))
}

/// The rank by which a tensor of the model is changed, if it is; no more than `max`.
fn rank<B: Backend>(
    loader: &Loader<'_, B>,
    name: &str,
    max: usize,
) -> Result<Option<usize>, AdapterError> {
    let pair = ["lora_a", "lora_b"].map(|part| format!("{name}.{part}"));
    let [a, b] = pair.each_ref().map(|name| loader.gguf.tensor(name));
    let [name_of_a, name_of_b] = pair;
    match (a, b) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(WeightsError::Missing(name_of_a).into()),
        (Some(_), None) => Err(WeightsError::Missing(name_of_b).into()),
        (Some(a), Some(_)) => {
            let rank = a.shape.get(1).copied().unwrap_or(0);
            match usize::try_from(rank) {
                Ok(found) if 0 < found && found <= max => Ok(Some(found)),
                _ => Err(AdapterError::Rank { tensor: name_of_a, rank, max }),
            }
        }
    }
}

impl<B: Backend> Loader<'_, B> {
    /// What is added to the matrices that lie in the model's tensor of that name.
    fn low_ranks(
        &mut self,
        name: &str,
        (rank, inputs): (usize, usize),
        matrices: &[(Target, usize)],
        file: &AdapterFile<'_>,
    ) -> Result<Vec<(Target, LowRank<B>)>, WeightsError> {
        #[expect(clippy::cast_precision_loss, reason = "a rank is small")]
        let factor = file.alpha.map_or(1.0, |alpha| alpha / rank as f32);
        let down = Arc::new(self.matrix(&format!("{name}.lora_a"), rank, inputs)?);
        let all = matrices.iter().map(|(_, outputs)| outputs).sum();
        let of_up = self.take(&format!("{name}.lora_b"), &[rank, all])?;
        let mut first = 0;
        let pair = |&(target, outputs): &(Target, usize)| {
            let up = self.part(of_up, first..first + outputs, rank)?;
            first += outputs;
            Ok((target, LowRank { down: down.clone(), up, outputs, factor }))
        };
        matrices.iter().map(pair).collect()
    }
}
