//! AVX-512 with VNNI: one register per sixteen lanes, `vpdpbusd` for integer products.

#![expect(unsafe_code, reason = "intrinsics; the token proves that the processor has them")]
#![expect(clippy::inline_always, reason = "intrinsics compile to instructions only when inlined")]

use std::arch::x86_64::{
    __m512, __m512i, _CMP_GE_OQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T0,
    _mm_cvtph_ps, _mm_cvtps_ph, _mm_cvtsi32_si128, _mm_cvtss_f32, _mm_loadu_si128, _mm_prefetch,
    _mm_set_ss, _mm_storeu_si128, _mm256_loadu_si256, _mm512_abs_ps, _mm512_add_epi32,
    _mm512_add_ps, _mm512_and_si512, _mm512_broadcast_i32x4, _mm512_castsi512_ps,
    _mm512_cmp_ps_mask, _mm512_cvtepi8_epi32, _mm512_cvtepi32_epi8, _mm512_cvtepi32_ps,
    _mm512_cvtepu8_epi32, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_cvtps_epi32,
    _mm512_div_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_load_si512, _mm512_loadu_ps,
    _mm512_maskz_mov_ps, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps, _mm512_or_si512,
    _mm512_reduce_add_epi32, _mm512_reduce_max_ps, _mm512_roundscale_ps, _mm512_set1_epi8,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_sll_epi16,
    _mm512_slli_epi32, _mm512_srl_epi16, _mm512_srli_epi32, _mm512_storeu_ps, _mm512_xor_si512,
};

use half::{bf16, f16};

use super::{Kernel, LANES, Lanes, Line, PAIR_ROWS, Simd};

/// Proof that the processor has AVX-512 F, BW, DQ, VL and VNNI, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Self(()))
    }
}

/// Evaluates intrinsics on behalf of a token.
macro_rules! proven {
    ($token:expr, $operation:expr) => {{
        let Avx512(()) = $token;
        // SAFETY: a token exists only where `detect` found every feature that this file uses, and
        // pointers come from references to at least as many bytes as the operation touches.
        unsafe { $operation }
    }};
}

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn enter<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
    kernel.run(simd)
}

impl Simd for Avx512 {
    const ROWS: usize = PAIR_ROWS;
    const SUMS: usize = 28;

    type F = __m512;
    type I = __m512i;
    type Q = __m512i;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        proven!(self, enter(self, kernel))
    }

    #[inline(always)]
    fn fetch<T>(self, from: &T) {
        proven!(self, _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(from).cast()));
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        proven!(self, _mm512_set1_ps(value))
    }

    #[inline(always)]
    fn load(self, from: &Lanes) -> __m512 {
        proven!(self, _mm512_loadu_ps(from.as_ptr()))
    }

    #[inline(always)]
    fn store(self, value: __m512, to: &mut Lanes) {
        proven!(self, _mm512_storeu_ps(to.as_mut_ptr(), value));
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> __m512 {
        proven!(self, _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())))
    }

    #[inline(always)]
    fn load_bf16(self, from: &[bf16; LANES]) -> __m512 {
        proven!(self, {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        })
    }

    #[inline(always)]
    fn load_i8(self, from: &[i8; LANES]) -> __m512 {
        proven!(self, {
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
        })
    }

    #[inline(always)]
    fn load_nibbles(self, from: &[u8; LANES]) -> (__m512, __m512) {
        proven!(self, {
            let wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().cast()));
            (
                _mm512_cvtepi32_ps(_mm512_and_si512(wide, _mm512_set1_epi32(15))),
                _mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(wide)),
            )
        })
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        proven!(self, _mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        proven!(self, _mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        proven!(self, _mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        proven!(self, _mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        proven!(self, _mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        proven!(self, _mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        proven!(self, _mm512_abs_ps(a))
    }

    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        proven!(self, _mm512_roundscale_ps::<NEAREST>(a))
    }

    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        proven!(self, {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        })
    }

    #[inline(always)]
    fn keep_from(self, value: __m512, x: __m512, limit: f32) -> __m512 {
        proven!(self, {
            let kept = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, _mm512_set1_ps(limit));
            _mm512_maskz_mov_ps(kept, value)
        })
    }

    #[inline(always)]
    fn largest(self, value: __m512) -> f32 {
        proven!(self, _mm512_reduce_max_ps(value))
    }

    #[inline(always)]
    fn round_f16(self, value: f32) -> f32 {
        proven!(self, {
            let half = _mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(value));
            _mm_cvtss_f32(_mm_cvtph_ps(half))
        })
    }

    #[inline(always)]
    fn to_bytes(self, value: __m512, to: &mut [i8; LANES]) {
        proven!(self, {
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(value));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        });
    }

    /// The bytes plus 128, because `vpdpbusd` takes its first factor unsigned.
    #[inline(always)]
    fn signed(self, line: &Line) -> __m512i {
        proven!(self, {
            let bytes = _mm512_load_si512(line.0.as_ptr().cast());
            _mm512_xor_si512(bytes, _mm512_set1_epi8(i8::MIN))
        })
    }

    #[inline(always)]
    fn bytes(self, line: &Line) -> __m512i {
        proven!(self, _mm512_load_si512(line.0.as_ptr().cast()))
    }

    #[inline(always)]
    fn field(self, bytes: __m512i, shift: i32, mask: u8) -> __m512i {
        proven!(self, {
            let by = _mm_cvtsi32_si128(shift.abs());
            // The bits that a shift of pairs brings over from the other byte are masked away.
            let shifted =
                if shift < 0 { _mm512_sll_epi16(bytes, by) } else { _mm512_srl_epi16(bytes, by) };
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask.cast_signed()))
        })
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        proven!(self, _mm512_or_si512(a, b))
    }

    /// Plus 128, as [`Self::signed`].
    #[inline(always)]
    fn lookup(self, bytes: __m512i, table: &[i8; 16]) -> __m512i {
        proven!(self, {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(_mm512_xor_si512(table, _mm512_set1_epi8(i8::MIN)), bytes)
        })
    }

    #[inline(always)]
    fn start(self, sum: i32) -> __m512i {
        proven!(self, _mm512_set1_epi32(sum))
    }

    /// `lift` takes back the 128 that [`Self::signed`] added to each weight.
    #[inline(always)]
    fn start_signed(self, lift: i32) -> __m512i {
        self.start(lift)
    }

    #[inline(always)]
    fn dot_signed<const P: usize>(
        self,
        sums: [__m512i; P],
        weights: &[[__m512i; 4]; P],
        x: &[i8; 16],
    ) -> [__m512i; P] {
        proven!(self, dot(sums, weights, x))
    }

    #[inline(always)]
    fn dot<const BITS: u32, const P: usize>(
        self,
        sums: [__m512i; P],
        weights: &[[__m512i; 4]; P],
        x: &[i8; 16],
    ) -> [__m512i; P] {
        proven!(self, dot(sums, weights, x))
    }

    #[inline(always)]
    fn to_floats(self, sums: __m512i) -> __m512 {
        proven!(self, _mm512_cvtepi32_ps(sums))
    }

    /// Twelve independent chains hide the latency of five cycles on two ports.
    #[inline(always)]
    fn spin_dots(self, rounds: u64) -> (u64, i32) {
        const CHAINS: u8 = 12;
        proven!(self, {
            let a = std::hint::black_box(_mm512_set1_epi8(3));
            let b = std::hint::black_box(_mm512_set1_epi8(-5));
            let mut sums = [_mm512_setzero_si512(); CHAINS as usize];
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = _mm512_dpbusd_epi32(*sum, a, b);
                }
            }
            let mut total = 0_i32;
            for sum in sums {
                total = total.wrapping_add(_mm512_reduce_add_epi32(sum));
            }
            (rounds * u64::from(CHAINS) * 128, total)
        })
    }
}

/// Fetching an activation into all lanes costs as much as one product, so each meets all panels
/// before the next is fetched.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dot<const P: usize>(
    mut sums: [__m512i; P],
    weights: &[[__m512i; 4]; P],
    x: &[i8; 16],
) -> [__m512i; P] {
    for (group, four) in x.as_chunks::<4>().0.iter().enumerate() {
        let four = _mm512_set1_epi32(i32::from_le_bytes(four.map(i8::cast_unsigned)));
        for (sum, weights) in sums.iter_mut().zip(weights) {
            *sum = _mm512_dpbusd_epi32(*sum, weights[group], four);
        }
    }
    sums
}
