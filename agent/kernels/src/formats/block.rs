//! What all block formats have in common: integers under a scale, less a minimum.

use super::grid::Grid;

/// A block of `LEN` weights in `BYTES` bytes: `w[i] = scale * integer[i] - min`, with one scale and
/// one minimum for each run of neighbouring weights.
pub trait Block<const LEN: usize, const BYTES: usize>: Sized {
    /// The integers there are.
    type Grid: Grid;
    /// Weights under one scale: 16 or 32.
    const RUN: usize = 32;

    fn from_bytes(bytes: &[u8; BYTES]) -> Self;
    fn to_bytes(&self) -> [u8; BYTES];
    /// A block near to `values`.
    fn quantise(values: &[f32; LEN]) -> Self;
    /// The codes of the integers, in order.
    fn codes(&self) -> [u8; LEN];
    /// The scale and the minimum of each run, which is zero where the format has none.
    fn scales(&self) -> impl Iterator<Item = (f32, f32)>;

    fn dequantise(&self, out: &mut [f32; LEN]) {
        let codes = self.codes();
        let runs = out.chunks_mut(Self::RUN).zip(codes.chunks(Self::RUN));
        for ((out, codes), (scale, min)) in runs.zip(self.scales()) {
            for (out, code) in out.iter_mut().zip(codes) {
                *out = f32::from(Self::Grid::integer(*code)) * scale - min;
            }
        }
    }

    /// The product with as many activations: in integers within a run, in f64 from there on.
    fn dot(&self, activations: &[Rounded]) -> f64 {
        let codes = self.codes();
        let runs = codes.chunks(Self::RUN).zip(self.scales());
        let activations = activations.iter().flat_map(|x| x.runs(Self::RUN));
        let products = runs.zip(activations).map(|((codes, (scale, min)), (q, d, sum))| {
            let products = codes
                .iter()
                .zip(q)
                .map(|(w, y)| i32::from(Self::Grid::integer(*w)).wrapping_mul(i32::from(*y)));
            let product: i32 = products.sum();
            f64::from(scale) * d * f64::from(product) - f64::from(min) * sum
        });
        products.sum()
    }
}

/// 32 activations as their format holds them.
#[derive(Clone, Debug, PartialEq)]
pub struct Rounded {
    pub(super) d: f64,
    pub(super) q: [i8; 32],
    /// Scale times sum, where the format stores it.
    pub(super) s: Option<f64>,
}

impl Rounded {
    /// The integers, the scale and the scaled sum of each run of `len`.
    fn runs(&self, len: usize) -> impl Iterator<Item = (&[i8], f64, f64)> {
        self.q.chunks(len).map(move |q| {
            let sum: i32 = q.iter().map(|q| i32::from(*q)).sum();
            let stored = self.s.filter(|_| q.len() == self.q.len());
            (q, self.d, stored.unwrap_or_else(|| self.d * f64::from(sum)))
        })
    }
}

/// The parts of a block in the order of its bytes.
pub(super) struct Parts<'a>(pub(super) &'a [u8]);

impl Parts<'_> {
    /// The next bytes; zeros behind the end, which no block reaches.
    pub(super) fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => [0; N],
        }
    }
}

/// Parts one behind the other.
pub(super) fn join<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut bytes = parts.iter().flat_map(|part| part.iter().copied());
    std::array::from_fn(|_| bytes.next().unwrap_or_default())
}
