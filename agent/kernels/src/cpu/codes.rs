//! How the codes of 32 columns of sixteen rows lie in cache lines, and become bytes to multiply.
//!
//! A line holds four bytes of each row. Wherever codes are narrower than bytes, the four bytes of a
//! line share the codes of several groups of four columns, so that a shift and a mask give one group
//! of all sixteen rows at once. Codes stay as they are in the file, unsigned; what the format takes
//! away from each is taken from the sum instead, before it starts.

#![expect(clippy::inline_always, reason = "kernels inline into the entry of an instruction set")]

use std::marker::PhantomData;

use super::activations::ActivationBlock;
use super::simd::{Line, Simd};
use crate::formats::grid::{Fp4, NonLinear};
use crate::formats::plane::Plane;

/// The codes of one kind of format.
pub(crate) trait Codes {
    /// The lines of 32 columns.
    type Lines: Copy + AsRef<[Line]> + AsMut<[Line]>;
    const EMPTY: Self::Lines;
    /// How much larger what [`Codes::half`] gives is than the integers of the format.
    const BIAS: u8;

    /// The bytes of one row: four for each line, the rest zero.
    fn pack(codes: &[u8; 32]) -> [u8; 32];
    /// The first or the second sixteen columns, in four groups of four.
    fn half<S: Simd>(simd: S, lines: &Self::Lines, half: usize) -> [S::Q; 4];
    /// What a sum of products starts from: with 32 columns, or with those of one half.
    fn start<S: Simd>(simd: S, x: &ActivationBlock, half: Option<usize>) -> S::I;
    /// Adds the products of sixteen columns of each panel.
    fn dot<S: Simd, const P: usize>(
        simd: S,
        sums: [S::I; P],
        weights: &[[S::Q; 4]; P],
        x: &[i8; 16],
    ) -> [S::I; P];
}

/// Puts the parts of a row's bytes one behind the other.
fn join<const A: usize, const B: usize>(a: [u8; A], b: [u8; B]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (byte, part) in bytes.iter_mut().zip(a.into_iter().chain(b)) {
        *byte = part;
    }
    bytes
}

/// `-bias` times the sum of the activations.
#[inline(always)]
fn lift(x: &ActivationBlock, half: Option<usize>, bias: u8) -> i32 {
    half.map_or_else(|| x.lift(bias), |half| x.half_lift(bias, half))
}

/// What [`Simd::signed`] adds to each weight where it multiplies unsigned ones.
const SIGNED: u8 = 128;

/// Signed bytes.
pub(crate) struct Eight;

impl Codes for Eight {
    type Lines = [Line; 8];
    const EMPTY: [Line; 8] = [Line([0; 64]); 8];
    const BIAS: u8 = 0;

    fn pack(codes: &[u8; 32]) -> [u8; 32] {
        *codes
    }

    #[inline(always)]
    fn half<S: Simd>(simd: S, lines: &[Line; 8], half: usize) -> [S::Q; 4] {
        let lines = &lines.as_chunks::<4>().0[half];
        [
            simd.signed(&lines[0]),
            simd.signed(&lines[1]),
            simd.signed(&lines[2]),
            simd.signed(&lines[3]),
        ]
    }

    #[inline(always)]
    fn start<S: Simd>(simd: S, x: &ActivationBlock, half: Option<usize>) -> S::I {
        simd.start_signed(lift(x, half, SIGNED))
    }

    #[inline(always)]
    fn dot<S: Simd, const P: usize>(
        simd: S,
        sums: [S::I; P],
        weights: &[[S::Q; 4]; P],
        x: &[i8; 16],
    ) -> [S::I; P] {
        simd.dot_signed(sums, weights, x)
    }
}

/// The nibbles of four lines: line `i` has group `i` in its low halves and `i + 4` in its high ones.
#[inline(always)]
fn nibbles<S: Simd>(simd: S, lines: [&Line; 4], half: usize) -> [S::Q; 4] {
    let [a, b, c, d] = lines;
    let shift = if half == 0 { 0 } else { 4 };
    [
        simd.field(simd.bytes(a), shift, 15),
        simd.field(simd.bytes(b), shift, 15),
        simd.field(simd.bytes(c), shift, 15),
        simd.field(simd.bytes(d), shift, 15),
    ]
}

/// Two bits of each code from two lines, in turns, `at` bits up.
#[inline(always)]
fn pairs<S: Simd>(simd: S, [a, b]: [&Line; 2], half: usize, at: i32) -> [S::Q; 4] {
    let (a, b) = (simd.bytes(a), simd.bytes(b));
    let (first, mask) = (if half == 0 { 0 } else { 4 }, 3 << at);
    [
        simd.field(a, first - at, mask),
        simd.field(b, first - at, mask),
        simd.field(a, first + 2 - at, mask),
        simd.field(b, first + 2 - at, mask),
    ]
}

/// One bit of each code from one line, `at` bits up.
#[inline(always)]
fn bits<S: Simd>(simd: S, line: &Line, half: usize, at: i32) -> [S::Q; 4] {
    let (line, first, mask) = (simd.bytes(line), if half == 0 { 0 } else { 4 }, 1 << at);
    [
        simd.field(line, first - at, mask),
        simd.field(line, first + 1 - at, mask),
        simd.field(line, first + 2 - at, mask),
        simd.field(line, first + 3 - at, mask),
    ]
}

#[inline(always)]
fn merge<S: Simd>(simd: S, low: [S::Q; 4], high: [S::Q; 4]) -> [S::Q; 4] {
    [
        simd.or(low[0], high[0]),
        simd.or(low[1], high[1]),
        simd.or(low[2], high[2]),
        simd.or(low[3], high[3]),
    ]
}

/// Defines unsigned codes of so many bits.
macro_rules! unsigned {
    ($(#[$doc:meta])* $Name:ident, $bits:literal, $lines:literal,
        |$codes:ident| $pack:expr, |$simd:ident, $line:pat, $half:ident| $unpack:expr) => {
        $(#[$doc])*
        pub(crate) struct $Name<const BIAS: u8>;

        impl<const BIAS: u8> Codes for $Name<BIAS> {
            type Lines = [Line; $lines];
            const EMPTY: [Line; $lines] = [Line([0; 64]); $lines];
            const BIAS: u8 = BIAS;

            fn pack($codes: &[u8; 32]) -> [u8; 32] {
                $pack
            }

            #[inline(always)]
            fn half<S: Simd>($simd: S, $line: &[Line; $lines], $half: usize) -> [S::Q; 4] {
                $unpack
            }

            #[inline(always)]
            fn start<S: Simd>(simd: S, x: &ActivationBlock, half: Option<usize>) -> S::I {
                simd.start(lift(x, half, BIAS))
            }

            #[inline(always)]
            fn dot<S: Simd, const P: usize>(
        simd: S,
        sums: [S::I; P],
        weights: &[[S::Q; 4]; P],
        x: &[i8; 16],
    ) -> [S::I; P] {
                simd.dot::<$bits, P>(sums, weights, x)
            }
        }
    };
}

unsigned!(
    /// Two bits.
    Two, 2, 2,
    |codes| join(Plane::<2, 8>::pack::<8>(codes, 0), []),
    |simd, [a, b], half| pairs(simd, [a, b], half, 0)
);

unsigned!(
    /// Two bits and one.
    Three, 3, 3,
    |codes| join(Plane::<2, 8>::pack::<8>(codes, 0), Plane::<1, 4>::pack::<4>(codes, 2)),
    |simd, [a, b, top], half| {
        merge(simd, pairs(simd, [a, b], half, 0), bits(simd, top, half, 2))
    }
);

unsigned!(
    /// Nibbles.
    Four, 4, 4,
    |codes| join(Plane::<4, 16>::pack::<16>(codes, 0), []),
    |simd, [a, b, c, d], half| nibbles(simd, [a, b, c, d], half)
);

unsigned!(
    /// Nibbles and one bit.
    Five, 5, 5,
    |codes| join(Plane::<4, 16>::pack::<16>(codes, 0), Plane::<1, 4>::pack::<4>(codes, 4)),
    |simd, [a, b, c, d, top], half| {
        merge(simd, nibbles(simd, [a, b, c, d], half), bits(simd, top, half, 4))
    }
);

unsigned!(
    /// Nibbles and two bits.
    Six, 6, 6,
    |codes| join(Plane::<4, 16>::pack::<16>(codes, 0), Plane::<2, 8>::pack::<8>(codes, 4)),
    |simd, [a, b, c, d, tops @ ..], half| {
        merge(simd, nibbles(simd, [a, b, c, d], half), pairs(simd, tops.each_ref(), half, 4))
    }
);

/// Nibbles that choose from a table.
pub(crate) struct Lookup<T>(PhantomData<T>);

/// Sixteen integers.
pub(crate) trait Table {
    const TABLE: [i8; 16];
}

impl Table for NonLinear {
    const TABLE: [i8; 16] = Self::TABLE;
}

impl Table for Fp4 {
    const TABLE: [i8; 16] = Self::TABLE;
}

impl<T: Table> Codes for Lookup<T> {
    type Lines = [Line; 4];
    const EMPTY: [Line; 4] = [Line([0; 64]); 4];
    const BIAS: u8 = 0;

    fn pack(codes: &[u8; 32]) -> [u8; 32] {
        Four::<0>::pack(codes)
    }

    #[inline(always)]
    fn half<S: Simd>(simd: S, [a, b, c, d]: &[Line; 4], half: usize) -> [S::Q; 4] {
        let [a, b, c, d] = nibbles(simd, [a, b, c, d], half);
        [
            simd.lookup(a, &T::TABLE),
            simd.lookup(b, &T::TABLE),
            simd.lookup(c, &T::TABLE),
            simd.lookup(d, &T::TABLE),
        ]
    }

    #[inline(always)]
    fn start<S: Simd>(simd: S, x: &ActivationBlock, half: Option<usize>) -> S::I {
        simd.start_signed(lift(x, half, SIGNED))
    }

    #[inline(always)]
    fn dot<S: Simd, const P: usize>(
        simd: S,
        sums: [S::I; P],
        weights: &[[S::Q; 4]; P],
        x: &[i8; 16],
    ) -> [S::I; P] {
        simd.dot_signed(sums, weights, x)
    }
}
