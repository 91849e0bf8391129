//! The bytes that weights are multiplied as: unpacked when they are needed, or before.

#![expect(clippy::inline_always, reason = "kernels inline into the entry of an instruction set")]

use crate::cpu::codes::Codes;
use crate::cpu::panels::Panel;
use crate::cpu::scales::Scales;
use crate::cpu::simd::{Line, Simd};

/// The weights of `P` panels, sixteen columns at a time.
pub(super) trait Bytes<S: Simd, const P: usize> {
    /// The first or the second sixteen columns of line `line`, counted from the first there is.
    fn half(&self, simd: S, line: usize, half: usize) -> [[S::Q; 4]; P];
}

/// As they lie in memory.
pub(super) struct Packed<'a, C: Codes, T, const P: usize>(pub(super) &'a [Panel<'a, C, T>; P]);

impl<S: Simd, C: Codes, T: Scales, const P: usize> Bytes<S, P> for Packed<'_, C, T, P> {
    #[inline(always)]
    fn half(&self, simd: S, line: usize, half: usize) -> [[S::Q; 4]; P] {
        let Self(panels) = self;
        let mut weights = [C::half(simd, &panels[0].lines[line], half); P];
        for (weights, panel) in weights.iter_mut().zip(*panels).skip(1) {
            *weights = C::half(simd, &panel.lines[line], half);
        }
        weights
    }
}

/// Lines of 32 columns that are unpacked together, whole blocks of every format: 16 KiB of two panels,
/// which leaves half of the smallest L1 cache to the activations and sums that they meet.
pub(super) const LINES: usize = 16;

/// Room for so many lines of bytes.
pub(super) struct Unpacked<S: Simd, const P: usize>([[[[S::Q; 4]; P]; 2]; LINES]);

impl<S: Simd, const P: usize> Unpacked<S, P> {
    #[inline(always)]
    pub(super) fn new(simd: S) -> Self {
        Self([[[[simd.bytes(&Line([0; 64])); 4]; P]; 2]; LINES])
    }

    /// Unpacks lines from `first` on, as many as there are and fit.
    #[inline(always)]
    pub(super) fn fill<C: Codes, T: Scales>(
        &mut self,
        simd: S,
        panels: &[Panel<'_, C, T>; P],
        first: usize,
    ) -> Lines<'_, S, P> {
        let lines = LINES.min(panels[0].lines.len() - first);
        let Self(room) = self;
        for (line, bytes) in room.iter_mut().enumerate().take(lines) {
            *bytes = [0, 1].map(|half| Packed(panels).half(simd, first + line, half));
        }
        Lines(&room[..lines])
    }
}

/// Lines that are unpacked.
pub(super) struct Lines<'a, S: Simd, const P: usize>(&'a [[[[S::Q; 4]; P]; 2]]);

impl<S: Simd, const P: usize> Lines<'_, S, P> {
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }
}

impl<S: Simd, const P: usize> Bytes<S, P> for Lines<'_, S, P> {
    #[inline(always)]
    fn half(&self, _simd: S, line: usize, half: usize) -> [[S::Q; 4]; P] {
        self.0[line][half]
    }
}
