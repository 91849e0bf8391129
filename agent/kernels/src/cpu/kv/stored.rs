//! What a cache may hold of a number: one that stands for itself, or a byte under a scale.
//!
//! A byte times its scale is exact in f32, so that bytes are read as if the cache held what they stand
//! for.

#![expect(clippy::inline_always, reason = "kernels inline into the entry of an instruction set")]

use bytemuck::Zeroable;
use half::{f16, slice::HalfFloatSliceExt};

use super::super::simd::{LANES, Simd};
use crate::{
    backend::KV_GROUP,
    formats::q8_0::{nearest, scale},
};

/// An element of a cache, and what it is multiplied with.
pub(crate) trait Stored: Copy + Zeroable + Send + Sync {
    /// The scales of sixteen tokens' keys.
    type KeyScales: Copy + Zeroable + Send + Sync;
    /// The scale of one token's value.
    type ValueScale: Copy + Zeroable + Send + Sync;

    /// Whether the scales are anything.
    const SCALED: bool;

    /// Up to [`KV_GROUP`] numbers as the cache holds them.
    fn of(values: &[f32]) -> [Self; KV_GROUP];

    /// Their scale.
    fn scale_of(values: &[f32]) -> f16;

    fn put_key_scale(scales: &mut Self::KeyScales, lane: usize, scale: f16);
    fn put_value_scale(to: &mut Self::ValueScale, scale: f16);

    fn key_scales<S: Simd>(simd: S, scales: &Self::KeyScales) -> S::F;
    fn value_scale<S: Simd>(simd: S, scale: &Self::ValueScale) -> S::F;
    fn load<S: Simd>(simd: S, from: &[Self; LANES], scale: S::F) -> S::F;
}

/// Numbers that stand for themselves: their scales are nothing, and take nothing.
macro_rules! unscaled {
    ($element:ty, $of:expr, $load:ident) => {
        impl Stored for $element {
            type KeyScales = ();
            type ValueScale = ();
            const SCALED: bool = false;

            fn of(values: &[f32]) -> [Self; KV_GROUP] {
                let mut stored = [Self::zeroed(); KV_GROUP];
                $of(&mut stored[..values.len()], values);
                stored
            }

            fn scale_of(_values: &[f32]) -> f16 {
                f16::ONE
            }

            fn put_key_scale((): &mut (), _lane: usize, _scale: f16) {}

            fn put_value_scale((): &mut (), _scale: f16) {}

            #[inline(always)]
            fn key_scales<S: Simd>(simd: S, (): &()) -> S::F {
                simd.splat(1.0)
            }

            #[inline(always)]
            fn value_scale<S: Simd>(simd: S, (): &()) -> S::F {
                simd.splat(1.0)
            }

            #[inline(always)]
            fn load<S: Simd>(simd: S, from: &[Self; LANES], _scale: S::F) -> S::F {
                simd.$load(from)
            }
        }
    };
}

unscaled!(f32, <[f32]>::copy_from_slice, load);
unscaled!(f16, HalfFloatSliceExt::convert_from_f32_slice, load_f16);

impl Stored for i8 {
    type KeyScales = [f16; LANES];
    type ValueScale = f16;
    const SCALED: bool = true;

    fn of(values: &[f32]) -> [Self; KV_GROUP] {
        let mut group = [0.0; KV_GROUP];
        for (to, value) in group.iter_mut().zip(values) {
            *to = *value;
        }
        nearest(&group).1
    }

    fn scale_of(values: &[f32]) -> f16 {
        // No byte says that a number is none, so that the scale has to.
        let is_none = values.iter().any(|value| value.is_nan());
        f16::from_f32(if is_none { f32::NAN } else { scale(values) })
    }

    fn put_key_scale(scales: &mut [f16; LANES], lane: usize, scale: f16) {
        scales[lane] = scale;
    }

    fn put_value_scale(to: &mut f16, scale: f16) {
        *to = scale;
    }

    #[inline(always)]
    fn key_scales<S: Simd>(simd: S, scales: &[f16; LANES]) -> S::F {
        simd.load_f16(scales)
    }

    #[inline(always)]
    fn value_scale<S: Simd>(simd: S, scale: &f16) -> S::F {
        simd.splat(scale.to_f32())
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; LANES], scale: S::F) -> S::F {
        simd.mul(simd.load_i8(from), scale)
    }
}
