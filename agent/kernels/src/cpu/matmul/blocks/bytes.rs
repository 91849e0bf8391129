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

/// Lines of 32 columns that there is room for: 24 KiB of two panels.
const ROOM: usize = 24;
/// Lines that are unpacked together where there are more, whole blocks of every format: with the
/// activations that they meet they take little more than half of an L1 cache of 48 KiB.
const AT_ONCE: usize = 16;

/// Room for some lines of bytes.
pub(super) struct Unpacked<S: Simd, const P: usize>([[[[S::Q; 4]; P]; 2]; ROOM]);

/// How many of so many lines are unpacked together. Few are all: the sums of each tile are put down
/// between the parts of a product, and taken up again.
pub(in crate::cpu::matmul) const fn at_once(lines: usize) -> usize {
    if lines <= ROOM { lines } else { AT_ONCE }
}

impl<S: Simd, const P: usize> Unpacked<S, P> {
    #[inline(always)]
    pub(super) fn new(simd: S) -> Self {
        Self([[[[simd.bytes(&Line([0; 64])); 4]; P]; 2]; ROOM])
    }

    /// Unpacks lines from `first` on, as many as go together.
    #[inline(always)]
    pub(super) fn fill<C: Codes, T: Scales>(
        &mut self,
        simd: S,
        panels: &[Panel<'_, C, T>; P],
        first: usize,
    ) -> Lines<'_, S, P> {
        let all = panels[0].lines.len();
        let lines = at_once(all).min(all - first);
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
