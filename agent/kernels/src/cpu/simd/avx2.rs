//! AVX2 with FMA and F16C: two registers per sixteen lanes, `vpmaddubsw` for integer products.

#![expect(unsafe_code, reason = "intrinsics; the token proves that the processor has them")]
#![expect(clippy::inline_always, reason = "intrinsics compile to instructions only when inlined")]

use std::arch::x86_64::{
    __m256, __m256i, _CMP_GE_OQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T0,
    _mm_cvtph_ps, _mm_cvtps_ph, _mm_cvtsi32_si128, _mm_cvtss_f32, _mm_loadu_si128, _mm_max_ps,
    _mm_max_ss, _mm_movehl_ps, _mm_prefetch, _mm_set_ss, _mm_shuffle_ps, _mm_unpackhi_epi64,
    _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32, _mm256_add_ps, _mm256_and_ps,
    _mm256_and_si256, _mm256_andnot_ps, _mm256_broadcastsi128_si256, _mm256_castps256_ps128,
    _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps,
    _mm256_cvtepu8_epi32, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_cvtps_epi32,
    _mm256_div_ps, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_load_si256, _mm256_loadu_ps,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps,
    _mm256_or_si256, _mm256_round_ps, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32,
    _mm256_set1_ps, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_sign_epi8, _mm256_sll_epi16,
    _mm256_slli_epi32, _mm256_srl_epi16, _mm256_srli_epi32, _mm256_storeu_ps, _mm256_storeu_si256,
};

use half::{bf16, f16};

use super::{Kernel, LANES, Lanes, Line, Simd};

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Self(()))
    }
}

/// Evaluates intrinsics on behalf of a token.
macro_rules! proven {
    ($token:expr, $operation:expr) => {{
        let Avx2(()) = $token;
        // SAFETY: a token exists only where `detect` found every feature that this file uses, and
        // pointers come from references to at least as many bytes as the operation touches.
        unsafe { $operation }
    }};
}

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

#[target_feature(enable = "avx2,fma,f16c")]
fn enter<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
    kernel.run(simd)
}

impl Simd for Avx2 {
    // 4 rows of two sums each, two halves of a weight, scales and temporaries: 16 registers.
    const ROWS: usize = 4;
    // Of two registers each, beside two of a value and one of a weight.
    const SUMS: usize = 6;

    type F = [__m256; 2];
    type I = [__m256i; 2];
    type Q = [__m256i; 2];

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        proven!(self, enter(self, kernel))
    }

    #[inline(always)]
    fn fetch<T>(self, from: &T) {
        proven!(self, _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(from).cast()));
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [__m256; 2] {
        proven!(self, [_mm256_set1_ps(value); 2])
    }

    #[inline(always)]
    fn load(self, from: &Lanes) -> [__m256; 2] {
        let (low, high) = from.split_at(8);
        proven!(self, [_mm256_loadu_ps(low.as_ptr()), _mm256_loadu_ps(high.as_ptr())])
    }

    #[inline(always)]
    fn store(self, value: [__m256; 2], to: &mut Lanes) {
        let (low, high) = to.split_at_mut(8);
        proven!(self, {
            _mm256_storeu_ps(low.as_mut_ptr(), value[0]);
            _mm256_storeu_ps(high.as_mut_ptr(), value[1]);
        });
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> [__m256; 2] {
        let (low, high) = from.split_at(8);
        proven!(self, {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(low.as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(high.as_ptr().cast())),
            ]
        })
    }

    #[inline(always)]
    fn load_bf16(self, from: &[bf16; LANES]) -> [__m256; 2] {
        let (low, high) = from.split_at(8);
        proven!(self, {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(low.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(high.as_ptr().cast()));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ]
        })
    }

    #[inline(always)]
    fn load_i8(self, from: &[i8; LANES]) -> [__m256; 2] {
        proven!(self, {
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            let high = _mm_unpackhi_epi64(bytes, bytes);
            [
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high)),
            ]
        })
    }

    #[inline(always)]
    fn load_nibbles(self, from: &[u8; LANES]) -> ([__m256; 2], [__m256; 2]) {
        proven!(self, {
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            let high = _mm_unpackhi_epi64(bytes, bytes);
            let low = _mm256_cvtepu8_epi32(bytes);
            let high = _mm256_cvtepu8_epi32(high);
            let mask = _mm256_set1_epi32(15);
            (
                [
                    _mm256_cvtepi32_ps(_mm256_and_si256(low, mask)),
                    _mm256_cvtepi32_ps(_mm256_and_si256(high, mask)),
                ],
                [
                    _mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(low)),
                    _mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(high)),
                ],
            )
        })
    }

    #[inline(always)]
    fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        proven!(self, [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        proven!(self, [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn div(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        proven!(self, [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        proven!(self, [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1]),])
    }

    #[inline(always)]
    fn max(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        proven!(self, [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn min(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        proven!(self, [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn abs(self, a: [__m256; 2]) -> [__m256; 2] {
        proven!(self, {
            let sign = _mm256_set1_ps(-0.0);
            [_mm256_andnot_ps(sign, a[0]), _mm256_andnot_ps(sign, a[1])]
        })
    }

    #[inline(always)]
    fn round(self, a: [__m256; 2]) -> [__m256; 2] {
        proven!(self, [_mm256_round_ps::<NEAREST>(a[0]), _mm256_round_ps::<NEAREST>(a[1])])
    }

    #[inline(always)]
    fn pow2(self, n: [__m256; 2]) -> [__m256; 2] {
        proven!(self, {
            let bias = _mm256_set1_epi32(127);
            let low = _mm256_add_epi32(_mm256_cvtps_epi32(n[0]), bias);
            let high = _mm256_add_epi32(_mm256_cvtps_epi32(n[1]), bias);
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(high)),
            ]
        })
    }

    #[inline(always)]
    fn keep_from(self, value: [__m256; 2], x: [__m256; 2], limit: f32) -> [__m256; 2] {
        proven!(self, {
            let limit = _mm256_set1_ps(limit);
            [
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(x[0], limit), value[0]),
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(x[1], limit), value[1]),
            ]
        })
    }

    #[inline(always)]
    fn largest(self, value: [__m256; 2]) -> f32 {
        proven!(self, {
            let eight = _mm256_max_ps(value[0], value[1]);
            let high = _mm256_extractf128_ps::<1>(eight);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), high);
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            let one = _mm_max_ss(two, _mm_shuffle_ps::<1>(two, two));
            _mm_cvtss_f32(one)
        })
    }

    #[inline(always)]
    fn round_f16(self, value: f32) -> f32 {
        proven!(self, {
            let half = _mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(value));
            _mm_cvtss_f32(_mm_cvtph_ps(half))
        })
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the values are integers in -127..=127")]
    fn to_bytes(self, value: [__m256; 2], to: &mut [i8; LANES]) {
        let mut wide = [0_i32; LANES];
        let (low, high) = wide.split_at_mut(8);
        proven!(self, {
            _mm256_storeu_si256(low.as_mut_ptr().cast(), _mm256_cvtps_epi32(value[0]));
            _mm256_storeu_si256(high.as_mut_ptr().cast(), _mm256_cvtps_epi32(value[1]));
        });
        *to = wide.map(|value| value as i8);
    }

    #[inline(always)]
    fn signed(self, line: &Line) -> [__m256i; 2] {
        proven!(self, halves(line))
    }

    #[inline(always)]
    fn bytes(self, line: &Line) -> [__m256i; 2] {
        proven!(self, halves(line))
    }

    #[inline(always)]
    fn field(self, bytes: [__m256i; 2], shift: i32, mask: u8) -> [__m256i; 2] {
        proven!(self, {
            let mask = _mm256_set1_epi8(mask.cast_signed());
            let by = _mm_cvtsi32_si128(shift.abs());
            // The bits that a shift of pairs brings over from the other byte are masked away.
            let [low, high] = if shift < 0 {
                [_mm256_sll_epi16(bytes[0], by), _mm256_sll_epi16(bytes[1], by)]
            } else {
                [_mm256_srl_epi16(bytes[0], by), _mm256_srl_epi16(bytes[1], by)]
            };
            [_mm256_and_si256(low, mask), _mm256_and_si256(high, mask)]
        })
    }

    #[inline(always)]
    fn or(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        proven!(self, [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])])
    }

    #[inline(always)]
    fn lookup(self, bytes: [__m256i; 2], table: &[i8; 16]) -> [__m256i; 2] {
        proven!(self, {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            [_mm256_shuffle_epi8(table, bytes[0]), _mm256_shuffle_epi8(table, bytes[1])]
        })
    }

    #[inline(always)]
    fn start(self, sum: i32) -> [__m256i; 2] {
        proven!(self, [_mm256_set1_epi32(sum); 2])
    }

    #[inline(always)]
    fn start_signed(self, _lift: i32) -> [__m256i; 2] {
        self.start(0)
    }

    /// `|w| * (y with the sign of w)`: pairs reach at most 2 * 128 * 127, below the 32767 at which
    /// `vpmaddubsw` would saturate.
    #[inline(always)]
    fn dot_signed<const P: usize>(
        self,
        mut sums: [[__m256i; 2]; P],
        weights: &[[[__m256i; 2]; 4]; P],
        x: &[i8; 16],
    ) -> [[__m256i; 2]; P] {
        for (sum, weights) in sums.iter_mut().zip(weights) {
            *sum = proven!(self, dot_signed(*sum, weights, x));
        }
        sums
    }

    #[inline(always)]
    fn dot<const BITS: u32, const P: usize>(
        self,
        mut sums: [[__m256i; 2]; P],
        weights: &[[[__m256i; 2]; 4]; P],
        x: &[i8; 16],
    ) -> [[__m256i; 2]; P] {
        for (sum, weights) in sums.iter_mut().zip(weights) {
            *sum = proven!(self, dot::<BITS>(*sum, weights, x));
        }
        sums
    }

    #[inline(always)]
    fn to_floats(self, sums: [__m256i; 2]) -> [__m256; 2] {
        proven!(self, [_mm256_cvtepi32_ps(sums[0]), _mm256_cvtepi32_ps(sums[1])])
    }

    /// Six independent chains: each round is a byte product, a widening and a sum.
    #[inline(always)]
    fn spin_dots(self, rounds: u64) -> (u64, i32) {
        const CHAINS: u8 = 6;
        proven!(self, {
            let a = std::hint::black_box(_mm256_set1_epi8(3));
            let mut b = std::hint::black_box(_mm256_set1_epi8(-5));
            let ones = _mm256_set1_epi16(1);
            let mut sums = [_mm256_setzero_si256(); CHAINS as usize];
            for _ in 0..rounds {
                for sum in &mut sums {
                    let pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones);
                    *sum = _mm256_add_epi32(*sum, pairs);
                }
                b = std::hint::black_box(b);
            }
            let mut lanes = [0_i32; 8];
            let mut total = 0_i32;
            for sum in sums {
                _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sum);
                total = lanes.iter().fold(total, |total, lane| total.wrapping_add(*lane));
            }
            (rounds * u64::from(CHAINS) * 64, total)
        })
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn halves(line: &Line) -> [__m256i; 2] {
    let (low, high) = line.0.split_at(32);
    // SAFETY: each half is 32 bytes, and a line starts at a multiple of 64.
    unsafe { [_mm256_load_si256(low.as_ptr().cast()), _mm256_load_si256(high.as_ptr().cast())] }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_signed(sum: [__m256i; 2], weights: &[[__m256i; 2]; 4], x: &[i8; 16]) -> [__m256i; 2] {
    let ones = _mm256_set1_epi16(1);
    let mut sums = sum;
    for (weights, four) in weights.iter().zip(x.as_chunks::<4>().0) {
        let four = _mm256_set1_epi32(i32::from_le_bytes(four.map(i8::cast_unsigned)));
        for (sum, weights) in sums.iter_mut().zip(weights) {
            let pairs =
                _mm256_maddubs_epi16(_mm256_abs_epi8(*weights), _mm256_sign_epi8(four, *weights));
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
        }
    }
    sums
}

/// Pairs reach 2 * (2^BITS - 1) * 127. Sixteen bits hold four of them up to five bits, and two of
/// six bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot<const BITS: u32>(
    sum: [__m256i; 2],
    weights: &[[__m256i; 2]; 4],
    x: &[i8; 16],
) -> [__m256i; 2] {
    const { assert!(BITS <= 6) };
    let ones = _mm256_set1_epi16(1);
    let mut sums = sum;
    let [mut low, mut high] = [[_mm256_setzero_si256(); 2]; 2];
    for (group, (weights, four)) in weights.iter().zip(x.as_chunks::<4>().0).enumerate() {
        let four = _mm256_set1_epi32(i32::from_le_bytes(four.map(i8::cast_unsigned)));
        let pairs = if group < 2 { &mut low } else { &mut high };
        for (pairs, weights) in pairs.iter_mut().zip(weights) {
            *pairs = _mm256_add_epi16(*pairs, _mm256_maddubs_epi16(*weights, four));
        }
    }
    for (sum, (low, high)) in sums.iter_mut().zip(low.into_iter().zip(high)) {
        let products = if BITS <= 5 {
            _mm256_madd_epi16(_mm256_add_epi16(low, high), ones)
        } else {
            _mm256_add_epi32(_mm256_madd_epi16(low, ones), _mm256_madd_epi16(high, ones))
        };
        *sum = _mm256_add_epi32(*sum, products);
    }
    sums
}
