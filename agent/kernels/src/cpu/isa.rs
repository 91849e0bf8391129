//! Which instructions the kernels use, chosen at run time.

use std::fmt;

use super::simd::scalar::Scalar;
use super::simd::{Kernel, Simd};

#[cfg(target_arch = "x86_64")]
use super::simd::{avx2::Avx2, avx512::Avx512};

/// An instruction set that kernels exist for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust: the oracle, and the way out on processors with nothing better.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
}

impl Isa {
    /// Those that this processor has, the best last.
    pub fn available() -> Vec<Self> {
        [Self::Scalar, Self::Avx2, Self::Avx512]
            .into_iter()
            .filter(|isa| Proof::of(*isa).is_some())
            .collect()
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An instruction set that this processor is known to have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Proof {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

/// Binds the token inside of a proof and evaluates an expression with it.
macro_rules! with_simd {
    ($proof:expr, $simd:ident => $body:expr) => {
        match $proof {
            $crate::cpu::isa::Proof::Scalar($simd) => $body,
            #[cfg(target_arch = "x86_64")]
            $crate::cpu::isa::Proof::Avx2($simd) => $body,
            #[cfg(target_arch = "x86_64")]
            $crate::cpu::isa::Proof::Avx512($simd) => $body,
        }
    };
}
pub(crate) use with_simd;

impl Proof {
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn of(isa: Isa) -> Option<Self> {
        match isa {
            Isa::Scalar => Some(Self::Scalar(Scalar)),
            Isa::Avx2 => Avx2::detect().map(Self::Avx2),
            Isa::Avx512 => Avx512::detect().map(Self::Avx512),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn of(isa: Isa) -> Option<Self> {
        (isa == Isa::Scalar).then_some(Self::Scalar(Scalar))
    }

    pub(crate) fn best() -> Self {
        let fastest_first = [Isa::Avx512, Isa::Avx2];
        fastest_first.into_iter().find_map(Self::of).unwrap_or(Self::Scalar(Scalar))
    }

    pub(crate) fn isa(self) -> Isa {
        match self {
            Self::Scalar(_) => Isa::Scalar,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Isa::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Isa::Avx512,
        }
    }

    /// The most rows of activations in a tile.
    pub(crate) fn tile_rows(self) -> usize {
        fn rows<S: Simd>(_: S) -> usize {
            S::ROWS
        }
        with_simd!(self, simd => rows(simd))
    }

    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        with_simd!(self, simd => simd.run(kernel))
    }
}
