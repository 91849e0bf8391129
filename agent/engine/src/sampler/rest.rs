//! What many unlikely tokens weigh together, without looking at each.

use super::Scale;

const LANES: usize = 16;

/// Rows of lanes that are added up in single precision before the sum goes on in double.
const ROWS: usize = 64;

/// The weight of all tokens whose logits are below `floor`, to a few parts in a hundred thousand. None
/// counts for less than 1e-38, even where it cannot come.
#[expect(clippy::cast_possible_truncation, reason = "within what is said of the sum")]
pub(super) fn weight(logits: &[f32], floor: f32, scale: Scale) -> f64 {
    let (best, by) = (scale.best as f32, (1.0 / scale.temperature) as f32);
    let of = |logit: f32| if logit < floor { exp((logit - best) * by) } else { 0.0 };
    let mut sum = 0.0;
    for block in logits.chunks(LANES * ROWS) {
        let (rows, last) = block.as_chunks::<LANES>();
        let mut lanes = [0.0_f32; LANES];
        for row in rows {
            for (lane, logit) in lanes.iter_mut().zip(row) {
                *lane += of(*logit);
            }
        }
        let last = last.iter().map(|logit| of(*logit));
        sum += lanes.into_iter().chain(last).map(f64::from).sum::<f64>();
    }
    sum
}

/// `e^x` for no `x` above zero; 1e-38 for those below -87.
///
/// A power of two that goes into the exponent, times a polynomial over what is left, which is at most
/// a half of one: the Taylor series, whose seventh term is a ten-millionth.
fn exp(x: f32) -> f32 {
    /// Added to a number of up to 22 bits, it leaves its nearest whole one in the last bits.
    const WHOLE: f32 = 12_582_912.0;
    const TERMS: [f32; 6] = [
        1.540_353_e-4,
        1.333_355_8e-3,
        9.618_129e-3,
        5.550_411e-2,
        0.240_226_5,
        std::f32::consts::LN_2,
    ];
    let x = if x > -87.0 { x } else { -87.0 };
    let power = x * std::f32::consts::LOG2_E;
    let shifted = power + WHOLE;
    let left = power - (shifted - WHOLE);
    let series = TERMS.iter().fold(0.0, |sum, term| (sum + term) * left) + 1.0;
    f32::from_bits(series.to_bits().wrapping_add(shifted.to_bits() << 23))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_right_to_a_few_parts_in_a_hundred_thousand() {
        for step in 0..43_500_u16 {
            let x = -f32::from(step) / 500.0;
            let (is, should) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((is / should - 1.0).abs() < 2e-5, "{is} for {should}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }
}
