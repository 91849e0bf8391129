//! MXFP4 against the OCP specification of microscaling formats, version 1.0.
//!
//! There, an element of E2M1 has a sign, two bits of exponent with a bias of one and one bit of
//! mantissa; a code `s ee m` is `(-1)^s * 2^(ee - 1) * (1 + m / 2)`, and `(-1)^s * m / 2` where `ee`
//! is zero. A scale of E8M0 is `2^(e - 127)`, and no number where `e` is 255. The values below are
//! worked out by hand from that.

#![expect(clippy::float_cmp, reason = "the format and these sums of it are exact")]

use crate::format::Format;
use crate::formats::{dequantise, dot, quantise};

/// Codes 0 to 7; those from 8 on are the same below zero.
const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// A block whose low halves count up through all codes and whose high halves count down.
fn block(e: u8) -> [u8; 17] {
    std::array::from_fn(|i| match u8::try_from(i).unwrap() {
        0 => e,
        i => (i - 1) | ((16 - i) << 4),
    })
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; 32];
    dequantise(Format::MXFP4, bytes, &mut out).unwrap();
    out
}

fn value(code: usize) -> f32 {
    if code < 8 { MAGNITUDES[code] } else { -MAGNITUDES[code - 8] }
}

#[test]
fn each_code_is_what_the_specification_says_under_every_scale() {
    for (e, scale) in [
        (127, 1.0_f64),
        (128, 2.0),
        (120, 0.007_812_5),
        (0, 2_f64.powi(-127)),
        (1, 2_f64.powi(-126)),
        (252, 2_f64.powi(125)),
    ] {
        let found = floats(&block(e));
        for i in 0..16 {
            assert_eq!(f64::from(found[i]), f64::from(value(i)) * scale, "{e} {i}");
            assert_eq!(f64::from(found[16 + i]), f64::from(value(15 - i)) * scale, "{e} {i}");
        }
    }
}

#[test]
fn a_scale_of_255_makes_the_block_no_number() {
    assert!(floats(&block(255)).iter().all(|value| value.is_nan()));
}

#[test]
fn what_the_format_holds_comes_back_and_what_lies_between_goes_to_the_nearest() {
    let exact: Vec<f32> = (0..32).map(|i| value(i % 16) * 4.0).collect();
    assert_eq!(floats(&quantise(Format::MXFP4, &exact).unwrap()), exact);
    // Halfway between two values, the one with an even mantissa.
    let mut values = vec![0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0];
    values.extend([0.26, 0.74, -1.24, 1.76, -2.6, 3.4, 5.1]);
    let mut expected = vec![0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 6.0];
    expected.extend([0.5, 0.5, -1.0, 2.0, -3.0, 3.0, 6.0]);
    values.resize(32, 0.0);
    expected.resize(32, 0.0);
    assert_eq!(floats(&quantise(Format::MXFP4, &values).unwrap()), expected);
}

#[test]
fn a_product_is_that_of_the_values() {
    let y: Vec<f32> = (0_u8..32).map(|i| f32::from(i) * 8.0 - 127.0).collect();
    let w = block(128);
    let expected: f64 = floats(&w).iter().zip(&y).map(|(w, y)| f64::from(*w) * f64::from(*y)).sum();
    // These activations are whole numbers up to 127, which Q8_0 holds as they are.
    let y = quantise(Format::Q8_0, &y).unwrap();
    assert_eq!(dot((Format::MXFP4, &w), (Format::Q8_0, &y), 32).unwrap(), expected);
}
