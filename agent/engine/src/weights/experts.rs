//! The weights of feed-forwards: one in each layer, or many of which each row takes a few.

use realm_kernels::backend::Backend;

use super::{Loader, Vectors, WeightsError, all_of};
use crate::architecture::{self, Architecture, Part};

/// What a layer's second half computes with.
pub(crate) enum FeedForward<B: Backend> {
    Dense(Gated<B>),
    Plain(Plain<B>),
    Experts(Experts<B>),
}

/// `down(gelu(up(x)))`
pub(crate) struct Plain<B: Backend> {
    pub(crate) up: B::Matrix,
    pub(crate) down: B::Matrix,
    /// Of `up` and `down`.
    pub(crate) biases: Option<[B::Buffer; 2]>,
}

/// `down(act(gate(x)) * up(x))`
pub(crate) struct Gated<B: Backend> {
    pub(crate) gate: B::Matrix,
    pub(crate) up: B::Matrix,
    pub(crate) down: B::Matrix,
}

pub(crate) struct Experts<B: Backend> {
    /// `(experts, width)`: how much a row wants each.
    pub(crate) router: B::Matrix,
    pub(crate) each: Vec<Gated<B>>,
    /// `(1, width)` and the expert that every row goes to, as much as that says.
    pub(crate) shared: Option<(B::Matrix, Gated<B>)>,
}

impl<B: Backend> Loader<'_, B> {
    pub(super) fn feed_forward(
        &mut self,
        i: usize,
        a: &Architecture,
    ) -> Result<FeedForward<B>, WeightsError> {
        let name = |part: &str| format!("blk.{i}.{part}.weight");
        if let Some(experts) = a.experts {
            return self.experts(&name, a, experts).map(FeedForward::Experts);
        }
        if a.has(Part::Ungated) {
            let biases = [("ffn_up.bias", a.feed_forward), ("ffn_down.bias", a.width)];
            return Ok(FeedForward::Plain(Plain {
                up: self.matrix(&name("ffn_up"), a.feed_forward, a.width)?,
                down: self.matrix(&name("ffn_down"), a.width, a.feed_forward)?,
                biases: Vectors { index: i }.load_if(self, a.has(Part::OutputBiases), biases)?,
            }));
        }
        let gated = if a.has(Part::FusedGate) {
            let [gate, up] = self.matrices(&name("ffn_up"), [a.feed_forward; 2], a.width)?;
            Gated { gate, up, down: self.matrix(&name("ffn_down"), a.width, a.feed_forward)? }
        } else {
            self.gated(["ffn_gate", "ffn_up", "ffn_down"].map(name), (a.width, a.feed_forward))?
        };
        Ok(FeedForward::Dense(gated))
    }

    fn gated(
        &mut self,
        [gate, up, down]: [String; 3],
        (width, inner): (usize, usize),
    ) -> Result<Gated<B>, WeightsError> {
        Ok(Gated {
            gate: self.matrix(&gate, inner, width)?,
            up: self.matrix(&up, inner, width)?,
            down: self.matrix(&down, width, inner)?,
        })
    }

    fn experts(
        &mut self,
        name: &dyn Fn(&str) -> String,
        a: &Architecture,
        experts: architecture::Experts,
    ) -> Result<Experts<B>, WeightsError> {
        let (width, inner, count) = (a.width, a.feed_forward, experts.count);
        let router = self.matrix(&name("ffn_gate_inp"), count, width)?;
        let gates = self.take(&name("ffn_gate_exps"), &[width, inner, count])?;
        let ups = self.take(&name("ffn_up_exps"), &[width, inner, count])?;
        let downs = self.take(&name("ffn_down_exps"), &[inner, width, count])?;
        let expert = |at: usize| {
            let [gate, up] = all_of(
                [gates, ups].map(|tensor| self.part(tensor, at * inner..(at + 1) * inner, width)),
            )?;
            Ok(Gated { gate, up, down: self.part(downs, at * width..(at + 1) * width, inner)? })
        };
        let each = (0..count).map(expert).collect::<Result<_, _>>()?;
        let shared = experts.shared.map(|inner| {
            let gate = self.take(&name("ffn_gate_inp_shexp"), &[width])?;
            let parts = ["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"].map(name);
            Ok((self.part(gate, 0..1, width)?, self.gated(parts, (width, inner))?))
        });
        Ok(Experts { router, each, shared: shared.transpose()? })
    }
}
