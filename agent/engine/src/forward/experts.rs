//! A layer of experts at work: each row goes to the few that it wants most, and what those make of it
//! is added to it by their shares.
//!
//! Which rows go where is settled beside the device. An expert then computes all its rows at once,
//! expert by expert in their order, so that a row's sum does not depend on the rows beside it.

use realm_kernels::backend::{Backend, BackendError, Product};

use super::{Activations, Inner, LayerStep};
use crate::{
    architecture::{self, Shares},
    weights::Experts,
};

/// What a step of experts needs, allocated at load.
pub(super) struct ExpertStep<B: Backend> {
    shape: architecture::Experts,
    /// `(rows, experts)`
    scores: B::Buffer,
    /// `(rows, width)`
    input: B::Buffer,
    /// `(rows, width)`
    output: B::Buffer,
    routing: Routing,
}

impl<B: Backend> ExpertStep<B> {
    pub(super) fn new(
        backend: &mut B,
        shape: architecture::Experts,
        (rows, width): (usize, usize),
    ) -> Result<Self, BackendError> {
        Ok(Self {
            shape,
            scores: backend.buffer(rows * shape.count)?,
            input: backend.buffer(rows * width)?,
            output: backend.buffer(rows * width)?,
            routing: Routing::new(rows, shape),
        })
    }
}

impl<B: Backend> LayerStep<'_, B> {
    /// `x = x + sum(share * expert(norm(x)))` over each row's experts.
    pub(super) fn experts(&mut self, weights: &Experts<B>) -> Result<(), BackendError> {
        let Self { backend, a, t, rows, .. } = self;
        let (rows, curve) = (*rows, a.curve());
        let Activations { x, normed, gate, up, hidden, experts, .. } = &mut **t;
        let Some(ExpertStep { shape, scores, input, output, routing }) = experts else {
            return Ok(());
        };
        let mut product = [Product { matrix: &weights.router, out: &mut *scores }];
        backend.matmul(normed, rows, &mut product)?;
        backend.read(scores, 0, routing.scores(rows * shape.count))?;
        routing.choose(*shape);
        for (expert, weights) in weights.each.iter().enumerate() {
            let (chosen, shares) = routing.rows_of(expert);
            if chosen.is_empty() {
                continue;
            }
            backend.gather_rows(normed, a.width, chosen, input)?;
            let inner = Inner { gate, up, hidden, width: a.feed_forward };
            inner.compute(*backend, weights, curve, (input, chosen.len()), output)?;
            backend.add_rows(x, a.width, chosen, shares, output)?;
        }
        let Some((wanted, expert)) = &weights.shared else { return Ok(()) };
        let mut product = [Product { matrix: wanted, out: &mut *scores }];
        backend.matmul(normed, rows, &mut product)?;
        backend.read(scores, 0, routing.scores(rows))?;
        let (all, shares) = routing.by_wish();
        let inner = Inner { gate, up, hidden, width: shape.shared.unwrap_or(0) };
        inner.compute(*backend, expert, curve, (normed, rows), output)?;
        backend.add_rows(x, a.width, all, shares, output)
    }
}

/// Which experts each row goes to. Allocates nothing once it is made.
#[derive(Debug)]
struct Routing {
    scores: Vec<f32>,
    chosen: Vec<Choice>,
    /// The rows of one expert, and their shares.
    rows: Vec<u32>,
    shares: Vec<f32>,
    /// Experts of one row in the order of their scores.
    order: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Choice {
    expert: usize,
    row: u32,
    share: f32,
}

impl Routing {
    fn new(rows: usize, shape: architecture::Experts) -> Self {
        Self {
            scores: Vec::with_capacity(rows * shape.count),
            chosen: Vec::with_capacity(rows * shape.used),
            rows: Vec::with_capacity(rows),
            shares: Vec::with_capacity(rows),
            order: Vec::with_capacity(shape.count),
        }
    }

    /// Room for so many scores.
    fn scores(&mut self, len: usize) -> &mut [f32] {
        self.scores.clear();
        self.scores.resize(len, 0.0);
        &mut self.scores
    }

    /// Chooses for each row the experts of its highest scores, the first of equals.
    fn choose(&mut self, shape: architecture::Experts) {
        self.chosen.clear();
        for (row, scores) in (0..).zip(self.scores.chunks_exact(shape.count)) {
            let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weight = |expert: usize| f64::from(scores[expert] - most).exp();
            self.order.clear();
            self.order.extend(0..shape.count);
            self.order.sort_unstable_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
            let best = &self.order[..shape.used];
            let total: f64 = match shape.shares {
                Shares::AmongChosen => best.iter().map(|&expert| weight(expert)).sum(),
                Shares::AmongAll => (0..shape.count).map(weight).sum(),
            };
            #[expect(clippy::cast_possible_truncation, reason = "the nearest f32 is meant")]
            let choice =
                |&expert: &usize| Choice { expert, row, share: (weight(expert) / total) as f32 };
            self.chosen.extend(best.iter().map(choice));
        }
    }

    /// The rows that go to an expert, in order, and by what share.
    fn rows_of(&mut self, expert: usize) -> (&[u32], &[f32]) {
        let chosen = self.chosen.iter().filter(|choice| choice.expert == expert);
        self.rows.clear();
        self.rows.extend(chosen.clone().map(|choice| choice.row));
        self.shares.clear();
        self.shares.extend(chosen.map(|choice| choice.share));
        (&self.rows, &self.shares)
    }

    /// All rows, each by the logistic function of its one score.
    fn by_wish(&mut self) -> (&[u32], &[f32]) {
        self.rows.clear();
        self.rows.extend((0..).zip(&self.scores).map(|(row, _)| row));
        self.shares.clear();
        self.shares.extend(self.scores.iter().map(|score| 1.0 / (1.0 + (-score).exp())));
        (&self.rows, &self.shares)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_row_goes_to_as_many_experts_as_it_should_and_to_those_it_wants_most(
            (count, used) in (1_usize..9).prop_flat_map(|count| (Just(count), 1..=count)),
            rows in 1_usize..6,
            seed in prop::collection::vec(-9.0_f32..9.0, 48),
            shares in prop::sample::select(vec![Shares::AmongChosen, Shares::AmongAll]),
        ) {
            let shape = architecture::Experts { count, used, shares, shared: None };
            let mut routing = Routing::new(rows, shape);
            let scores = seed[..rows * count].to_vec();
            routing.scores(rows * count).copy_from_slice(&scores);
            routing.choose(shape);
            let mut sums = vec![(0_usize, 0.0_f32); rows];
            for expert in 0..count {
                let (chosen, shares) = routing.rows_of(expert);
                prop_assert!(chosen.is_sorted_by(|a, b| a < b));
                for (row, share) in chosen.iter().zip(shares) {
                    let row = *row as usize;
                    sums[row].0 += 1;
                    sums[row].1 += share;
                    let own = &scores[row * count..][..count];
                    let better = own.iter().filter(|score| **score > own[expert]).count();
                    prop_assert!(better < used);
                }
            }
            for (number, share) in sums {
                prop_assert_eq!(number, used);
                prop_assert!(share <= 1.0 + 1e-5);
                if shares == Shares::AmongChosen || used == count {
                    prop_assert!((share - 1.0).abs() < 1e-5);
                }
            }
        }
    }
}
