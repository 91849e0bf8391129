//! The integers that codes stand for.

#![expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "values are cut to the range of their codes before they become one"
)]

/// A set of integers, in the order of the codes that stand for them.
pub trait Grid {
    const LOWEST: f32;
    const HIGHEST: f32;
    /// How far apart the integers are at the ends.
    const STEP: f32;

    /// The code of the nearest integer.
    fn code(x: f32) -> u8;
    fn integer(code: u8) -> i8;
    /// The nearest integer, as a float.
    #[inline]
    fn nearest(x: f32) -> f32 {
        f32::from(Self::integer(Self::code(x)))
    }
}

/// The nearest integer of a float of a few hundred at most, halves to even.
///
/// In the sum, the last bit of the mantissa counts ones. Searches round so often that the function
/// of processors without an instruction for it would be most of their time.
#[inline]
fn round(x: f32) -> f32 {
    const ONES: f32 = 12_582_912.0;
    (x + ONES) - ONES
}

/// The integers of `LEVELS` codes, half of them negative.
#[derive(Clone, Copy, Debug)]
pub struct Centred<const LEVELS: u8>;

impl<const LEVELS: u8> Centred<LEVELS> {
    const HALF: u8 = LEVELS / 2;
}

impl<const LEVELS: u8> Grid for Centred<LEVELS> {
    const LOWEST: f32 = -(Self::HALF as f32);
    const HIGHEST: f32 = (Self::HALF - 1) as f32;
    const STEP: f32 = 1.0;

    #[inline]
    fn code(x: f32) -> u8 {
        (Self::nearest(x) - Self::LOWEST) as u8
    }

    #[inline]
    fn nearest(x: f32) -> f32 {
        round(x.clamp(Self::LOWEST, Self::HIGHEST))
    }

    #[inline]
    fn integer(code: u8) -> i8 {
        code.wrapping_sub(Self::HALF).cast_signed()
    }
}

/// The integers from zero on.
#[derive(Clone, Copy, Debug)]
pub struct Counted<const LEVELS: u8>;

impl<const LEVELS: u8> Grid for Counted<LEVELS> {
    const LOWEST: f32 = 0.0;
    const HIGHEST: f32 = (LEVELS - 1) as f32;
    const STEP: f32 = 1.0;

    #[inline]
    fn code(x: f32) -> u8 {
        (x + 0.5).clamp(0.0, Self::HIGHEST + 0.5) as u8
    }

    #[inline]
    fn nearest(x: f32) -> f32 {
        round(x.clamp(Self::LOWEST, Self::HIGHEST))
    }

    #[inline]
    fn integer(code: u8) -> i8 {
        code.cast_signed()
    }
}

/// The integers of a signed byte.
#[derive(Clone, Copy, Debug)]
pub struct Bytes;

impl Grid for Bytes {
    const LOWEST: f32 = -128.0;
    const HIGHEST: f32 = 127.0;
    const STEP: f32 = 1.0;

    #[inline]
    fn code(x: f32) -> u8 {
        (round(x.clamp(Self::LOWEST, Self::HIGHEST)) as i8).cast_unsigned()
    }

    #[inline]
    fn integer(code: u8) -> i8 {
        code.cast_signed()
    }
}

/// Sixteen integers that lie closer together around zero, as weights do.
#[derive(Clone, Copy, Debug)]
pub struct NonLinear;

impl NonLinear {
    /// Part of the file format.
    pub(crate) const TABLE: [i8; 16] =
        [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
}

impl Grid for NonLinear {
    const LOWEST: f32 = -127.0;
    const HIGHEST: f32 = 113.0;
    const STEP: f32 = 23.0;

    #[inline]
    fn code(x: f32) -> u8 {
        let between = Self::TABLE.iter().zip(Self::TABLE.iter().skip(1));
        let middles = between.map(|(low, high)| f32::midpoint(f32::from(*low), f32::from(*high)));
        middles.map(|middle| u8::from(x > middle)).sum()
    }

    /// From integer to integer, by as much as each lies above the one before.
    #[inline]
    fn nearest(x: f32) -> f32 {
        let between = Self::TABLE.iter().zip(Self::TABLE.iter().skip(1));
        between.fold(Self::LOWEST, |nearest, (low, high)| {
            let (low, high) = (f32::from(*low), f32::from(*high));
            if x > f32::midpoint(low, high) { high } else { nearest }
        })
    }

    #[inline]
    fn integer(code: u8) -> i8 {
        Self::TABLE.get(usize::from(code)).copied().unwrap_or_default()
    }
}

/// Twice the sixteen values of an E2M1 float: a sign, two bits of exponent, one of mantissa.
#[derive(Clone, Copy, Debug)]
pub struct Fp4;

impl Fp4 {
    pub(crate) const TABLE: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
    /// Halfway between neighbours.
    const MIDDLES: [f32; 7] = [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0];
}

impl Grid for Fp4 {
    const LOWEST: f32 = -12.0;
    const HIGHEST: f32 = 12.0;
    const STEP: f32 = 4.0;

    /// Halves go to the neighbour whose mantissa bit is zero.
    #[inline]
    fn code(x: f32) -> u8 {
        let size = x.abs();
        let mut odd = [false, true].into_iter().cycle();
        let passed = Self::MIDDLES.iter().zip(&mut odd);
        let magnitude: u8 =
            passed.map(|(middle, odd)| u8::from(size > *middle || (odd && size >= *middle))).sum();
        if x < 0.0 { magnitude | 8 } else { magnitude }
    }

    #[inline]
    fn integer(code: u8) -> i8 {
        Self::TABLE.get(usize::from(code)).copied().unwrap_or_default()
    }
}
