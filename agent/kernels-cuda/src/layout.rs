//! How weights lie on the device, and laying them out.
//!
//! A run is 32 neighbouring weights of a row. Of each run the low bits of its codes, the bits above
//! and what scales it go to planes of their own, in the order of rows and runs: a thread takes a run, so
//! neighbouring threads read neighbouring bytes, in the largest pieces there are. What a file holds is
//! all there, and nothing is rounded. `kernels/blocks.cu` reads it, by the definitions made here.

use half::f16;
use realm_kernels::{
    format::Format,
    formats::{
        block::Block,
        iq4_nl::BlockIq4Nl,
        iq4_xs::BlockIq4Xs,
        mxfp4::BlockMxfp4,
        q2_k::BlockQ2K,
        q3_k::BlockQ3K,
        q4_0::BlockQ4_0,
        q4_1::BlockQ4_1,
        q4_k::{BlockQ4K, Factors},
        q5_0::BlockQ5_0,
        q5_1::BlockQ5_1,
        q5_k::BlockQ5K,
        q6_k::BlockQ6K,
        q8_0::BlockQ8_0,
    },
};

/// Weights of a run.
pub(crate) const RUN: usize = 32;
/// Runs of a super-block.
const SUPER: usize = 8;

/// How codes become integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Codes {
    /// As they are.
    Plain,
    /// Less an offset.
    Less(u8),
    /// By the table of IQ4_NL.
    NonLinear,
    /// By the table of FP4.
    Fp4,
}

/// SCALES in blocks.cu, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scales {
    Half,
    HalfPair,
    Factors,
    Nibbles,
    SignedHalves,
    Signed,
    Exponent,
}

impl Scales {
    /// Bytes of each run, and of each eight.
    const fn bytes(self) -> (usize, usize) {
        match self {
            Self::Half => (2, 0),
            Self::HalfPair => (4, 0),
            Self::Factors | Self::Nibbles => (2, 4),
            Self::SignedHalves => (2, 2),
            Self::Signed => (1, 2),
            Self::Exponent => (1, 0),
        }
    }
}

/// How a format of blocks lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Bits of a code in the low plane: 0, 4 or 8.
    low: u32,
    /// Whether two bits lie above.
    high2: bool,
    /// Whether one bit lies above those.
    high1: bool,
    codes: Codes,
    scales: Scales,
}

/// The planes, in order: low, two bits, one bit, factors, supers.
pub(crate) const PLANES: usize = 5;

impl Layout {
    /// `None` for floats, which have no blocks, and for what weights are not stored in.
    pub(crate) const fn of(format: Format) -> Option<Self> {
        let plain =
            Self { low: 4, high2: false, high1: false, codes: Codes::Plain, scales: Scales::Half };
        let layout = match format {
            Format::F32 | Format::F16 | Format::BF16 | Format::Q8_1 | Format::Q8K => return None,
            Format::Q4_0 => Self { codes: Codes::Less(8), ..plain },
            Format::Q4_1 => Self { scales: Scales::HalfPair, ..plain },
            Format::Q5_0 => Self { high1: true, codes: Codes::Less(16), ..plain },
            Format::Q5_1 => Self { high1: true, scales: Scales::HalfPair, ..plain },
            Format::Q8_0 => Self { low: 8, ..plain },
            Format::Q2K => Self { low: 0, high2: true, scales: Scales::Nibbles, ..plain },
            Format::Q3K => Self {
                low: 0,
                high2: true,
                high1: true,
                codes: Codes::Less(4),
                scales: Scales::SignedHalves,
            },
            Format::Q4K => Self { scales: Scales::Factors, ..plain },
            Format::Q5K => Self { high1: true, scales: Scales::Factors, ..plain },
            Format::Q6K => {
                Self { high2: true, codes: Codes::Less(32), scales: Scales::SignedHalves, ..plain }
            }
            Format::IQ4NL => Self { codes: Codes::NonLinear, ..plain },
            Format::IQ4XS => Self { codes: Codes::NonLinear, scales: Scales::Signed, ..plain },
            Format::MXFP4 => Self { codes: Codes::Fp4, scales: Scales::Exponent, ..plain },
        };
        Some(layout)
    }

    /// What blocks.cu is compiled with.
    pub(crate) fn definitions(self) -> Vec<String> {
        let (offset, table) = match self.codes {
            Codes::Plain => (0, 0),
            Codes::Less(offset) => (offset, 0),
            Codes::NonLinear => (0, 1),
            Codes::Fp4 => (0, 2),
        };
        vec![
            format!("LOW={}", self.low),
            format!("HIGH2={}", u8::from(self.high2)),
            format!("HIGH1={}", u8::from(self.high1)),
            format!("OFFSET={offset}"),
            format!("TABLE={table}"),
            format!("SCALES={}", self.scales as u32),
        ]
    }

    /// Bytes of each plane for a row of so many runs.
    pub(crate) const fn row_bytes(self, runs: usize) -> [usize; PLANES] {
        let (factors, supers) = self.scales.bytes();
        let high2 = if self.high2 { RUN / 4 } else { 0 };
        let high1 = if self.high1 { RUN / 8 } else { 0 };
        let low = self.low as usize * RUN / 8;
        [runs * low, runs * high2, runs * high1, runs * factors, runs / SUPER * supers]
    }

    /// Lays out one row of `format`; `planes` have [`Layout::row_bytes`] each.
    pub(crate) fn row(self, format: Format, bytes: &[u8], planes: [&mut [u8]; PLANES]) {
        let runs = bytes.len() / format.block_bytes() * (format.block_len() / RUN);
        let row = Row { layout: self, runs, planes };
        match format {
            Format::Q4_0 => row.put(bytes, |b: &BlockQ4_0, to, _| half(b.d, to)),
            Format::Q4_1 => row.put(bytes, |b: &BlockQ4_1, to, _| pair([b.d, b.m], to)),
            Format::Q5_0 => row.put(bytes, |b: &BlockQ5_0, to, _| half(b.d, to)),
            Format::Q5_1 => row.put(bytes, |b: &BlockQ5_1, to, _| pair([b.d, b.m], to)),
            Format::Q8_0 => row.put(bytes, |b: &BlockQ8_0, to, _| half(b.d, to)),
            Format::Q2K => row.put(bytes, |b: &BlockQ2K, to, both| {
                to.copy_from_slice(&b.factors);
                pair([b.d, b.min], both);
            }),
            Format::Q3K => {
                row.put(bytes, |b: &BlockQ3K, to, one| signed((&b.factors(), b.d), to, one));
            }
            Format::Q4K => row.put(bytes, |b: &BlockQ4K, to, both| {
                factors(b.factors, to);
                pair([b.d, b.min], both);
            }),
            Format::Q5K => row.put(bytes, |b: &BlockQ5K, to, both| {
                factors(b.factors, to);
                pair([b.d, b.min], both);
            }),
            Format::Q6K => {
                row.put(bytes, |b: &BlockQ6K, to, one| signed((&b.factors, b.d), to, one));
            }
            Format::IQ4NL => row.put(bytes, |b: &BlockIq4Nl, to, _| half(b.d, to)),
            Format::IQ4XS => {
                row.put(bytes, |b: &BlockIq4Xs, to, one| signed((&b.factors(), b.d), to, one));
            }
            Format::MXFP4 => row.put(bytes, |b: &BlockMxfp4, to, _| to.fill(b.e)),
            Format::F32 | Format::F16 | Format::BF16 | Format::Q8_1 | Format::Q8K => {}
        }
    }

    /// Puts the codes of a run into its bytes of the planes.
    fn run(self, codes: &[u8; RUN], [first, second, high2, high1]: [&mut [u8]; 4]) {
        let byte = |word: usize, byte: usize| codes[4 * word + byte];
        if self.low == 8 {
            let (low, high) = codes.split_at(RUN / 2);
            first.copy_from_slice(low);
            second.copy_from_slice(high);
        }
        if self.low == 4 {
            for (at, to) in first.iter_mut().enumerate() {
                let (word, place) = (at / 4, at % 4);
                // Tables choose by nibbles in order; masks take every other one.
                *to = match self.codes {
                    Codes::Plain | Codes::Less(_) => {
                        (byte(2 * word, place) & 15) | (byte(2 * word + 1, place) << 4)
                    }
                    Codes::NonLinear | Codes::Fp4 => codes[2 * at] | (codes[2 * at + 1] << 4),
                };
            }
        }
        // Byte `b` of a word has the upper bits of the codes whose low ones are byte `b` of theirs.
        if self.high2 {
            for (at, to) in high2.iter_mut().enumerate() {
                let bits = |word: usize| (byte(at / 4 * 4 + word, at % 4) >> (self.low % 8)) & 3;
                *to = (0..4).fold(0, |all, word| all | (bits(word) << (2 * word)));
            }
        }
        if self.high1 {
            let shift = self.low + 2 * u32::from(self.high2);
            for (at, to) in high1.iter_mut().enumerate() {
                let bit = |word: usize| (byte(word, at) >> shift) & 1;
                *to = (0..8).fold(0, |all, word| all | (bit(word) << word));
            }
        }
    }
}

/// A row on its way into its planes.
struct Row<'a> {
    layout: Layout,
    runs: usize,
    planes: [&'a mut [u8]; PLANES],
}

impl Row<'_> {
    fn put<B, const LEN: usize, const BYTES: usize>(
        self,
        bytes: &[u8],
        scales: impl Fn(&B, &mut [u8], &mut [u8]),
    ) where
        B: Block<LEN, BYTES>,
    {
        let Self { layout, runs, planes: [low, high2, high1, all_factors, supers] } = self;
        let blocks = bytes.as_chunks::<BYTES>().0;
        // Of each block: its runs have their factors, and a super-block what scales those.
        let runs_each = LEN / RUN;
        let [.., factor_bytes, super_bytes] = layout.row_bytes(runs_each);
        let (low_bytes, low_halves) = if layout.low == 8 { (16, runs * 16) } else { (16, 0) };
        for (index, block) in blocks.iter().enumerate() {
            let block = B::from_bytes(block);
            let codes = block.codes();
            let first = index * runs_each;
            for (run, codes) in (first..).zip(codes.as_chunks::<RUN>().0) {
                let (one, other) = low.split_at_mut(low_halves);
                let (one, other) = if layout.low == 8 { (one, other) } else { (other, one) };
                let planes = [
                    part(one, run, low_bytes),
                    part(other, run, low_bytes),
                    part(high2, run, RUN / 4),
                    part(high1, run, RUN / 8),
                ];
                layout.run(codes, planes);
            }
            let own = part(all_factors, index, factor_bytes);
            scales(&block, own, part(supers, index, super_bytes));
        }
    }
}

/// Piece number `index` of a plane; empty where the plane is.
fn part(plane: &mut [u8], index: usize, bytes: usize) -> &mut [u8] {
    plane.get_mut(index * bytes..(index + 1) * bytes).unwrap_or_default()
}

fn half(d: f16, to: &mut [u8]) {
    to.copy_from_slice(&d.to_le_bytes());
}

fn pair([d, m]: [f16; 2], to: &mut [u8]) {
    let (first, second) = to.split_at_mut(2);
    half(d, first);
    half(m, second);
}

/// Signed scales of runs or halves, and what scales them.
fn signed((factors, d): (&[i8], f16), to: &mut [u8], one: &mut [u8]) {
    for (to, factor) in to.iter_mut().zip(factors) {
        *to = factor.cast_unsigned();
    }
    half(d, one);
}

/// Scale and minimum of each run, side by side.
fn factors(packed: Factors, to: &mut [u8]) {
    let (scales, mins) = packed.unpack();
    for ((to, scale), min) in to.as_chunks_mut().0.iter_mut().zip(scales).zip(mins) {
        *to = [scale, min];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use realm_kernels::formats;

    use super::*;

    fn word(plane: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(plane[at * 4..][..4].try_into().unwrap())
    }

    /// The codes of a run as `codes` in blocks.cu reads them.
    fn codes_of(layout: Layout, planes: &[Vec<u8>; PLANES], run: usize, runs: usize) -> [u8; RUN] {
        let [low, high2, high1, ..] = planes;
        let mut words = [0_u32; 8];
        for at in 0..4 {
            let (even, odd) = (2 * at, 2 * at + 1);
            if layout.low == 8 {
                words[at] = word(low, run * 4 + at);
                words[at + 4] = word(low, (runs + run) * 4 + at);
            } else if layout.low == 4 && matches!(layout.codes, Codes::NonLinear | Codes::Fp4) {
                let all = word(low, run * 4 + at);
                let nibble = |n: u32| (all >> (4 * n)) & 15;
                words[even] = (0..4).fold(0, |to, n| to | (nibble(n) << (8 * n)));
                words[odd] = (0..4).fold(0, |to, n| to | (nibble(n + 4) << (8 * n)));
            } else if layout.low == 4 {
                words[even] = word(low, run * 4 + at) & 0x0f0f_0f0f;
                words[odd] = (word(low, run * 4 + at) >> 4) & 0x0f0f_0f0f;
            }
        }
        for (at, to) in words.iter_mut().enumerate() {
            if layout.high2 {
                let both = word(high2, run * 2 + at / 4);
                *to |= ((both >> (2 * (at % 4))) & 0x0303_0303) << layout.low;
            }
            if layout.high1 {
                let shift = layout.low + 2 * u32::from(layout.high2);
                *to |= ((word(high1, run) >> at) & 0x0101_0101) << shift;
            }
        }
        let mut codes = [0; RUN];
        for (to, word) in codes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *to = word.to_le_bytes();
        }
        codes
    }

    /// The codes in the order of the weights, as the format's own code reads them.
    fn codes_in(format: Format, bytes: &[u8]) -> Vec<u8> {
        fn all<B: Block<LEN, BYTES>, const LEN: usize, const BYTES: usize>(
            bytes: &[u8],
        ) -> Vec<u8> {
            bytes.as_chunks::<BYTES>().0.iter().flat_map(|b| B::from_bytes(b).codes()).collect()
        }
        match format {
            Format::Q4_0 => all::<BlockQ4_0, _, _>(bytes),
            Format::Q4_1 => all::<BlockQ4_1, _, _>(bytes),
            Format::Q5_0 => all::<BlockQ5_0, _, _>(bytes),
            Format::Q5_1 => all::<BlockQ5_1, _, _>(bytes),
            Format::Q8_0 => all::<BlockQ8_0, _, _>(bytes),
            Format::Q2K => all::<BlockQ2K, _, _>(bytes),
            Format::Q3K => all::<BlockQ3K, _, _>(bytes),
            Format::Q4K => all::<BlockQ4K, _, _>(bytes),
            Format::Q5K => all::<BlockQ5K, _, _>(bytes),
            Format::Q6K => all::<BlockQ6K, _, _>(bytes),
            Format::IQ4NL => all::<BlockIq4Nl, _, _>(bytes),
            Format::IQ4XS => all::<BlockIq4Xs, _, _>(bytes),
            Format::MXFP4 => all::<BlockMxfp4, _, _>(bytes),
            _ => panic!("{format} has no blocks"),
        }
    }

    fn planes_of(layout: Layout, format: Format, bytes: &[u8], runs: usize) -> [Vec<u8>; PLANES] {
        // What is not written stays as it was.
        let mut planes = layout.row_bytes(runs).map(|bytes| vec![0xa5; bytes]);
        layout.row(format, bytes, planes.each_mut().map(Vec::as_mut_slice));
        planes
    }

    proptest! {
        #[test]
        fn a_row_has_the_codes_of_its_blocks_in_order(
            format in prop::sample::select(Format::WEIGHTS.to_vec()),
            blocks in 1_usize..5,
            seed in prop::collection::vec(any::<u8>(), 1024),
        ) {
            let Some(layout) = Layout::of(format) else { return Ok(()) };
            let bytes: Vec<u8> = seed.into_iter().take(blocks * format.block_bytes()).collect();
            let runs = blocks * format.block_len() / RUN;
            let planes = planes_of(layout, format, &bytes, runs);
            let expected = codes_in(format, &bytes);
            for (run, expected) in expected.as_chunks::<RUN>().0.iter().enumerate() {
                prop_assert_eq!(&codes_of(layout, &planes, run, runs), expected);
            }
        }
    }

    #[test]
    fn scales_stand_behind_each_other_in_the_order_of_runs() {
        let values: Vec<f32> = (0..512_u16).map(|i| f32::from(i % 97) - f32::from(i / 2)).collect();
        let bytes = formats::quantise(Format::Q4K, &values).unwrap();
        let layout = Layout::of(Format::Q4K).unwrap();
        let planes = planes_of(layout, Format::Q4K, &bytes, 16);
        for (index, block) in bytes.as_chunks::<144>().0.iter().enumerate() {
            let block = BlockQ4K::from_bytes(block);
            let (scales, mins) = block.factors.unpack();
            for run in 0..8 {
                let at = (index * 8 + run) * 2;
                assert_eq!(planes[3][at..at + 2], [scales[run], mins[run]]);
            }
            let both = [block.d.to_le_bytes(), block.min.to_le_bytes()].concat();
            assert_eq!(planes[4][index * 4..][..4], both);
        }
    }

    #[test]
    fn weights_take_no_more_than_their_file_but_for_scales_that_are_read_alone() {
        for format in Format::WEIGHTS {
            let Some(layout) = Layout::of(format) else { continue };
            let laid_out: usize = layout.row_bytes(8).iter().sum();
            let stored = format.row_bytes(256).unwrap();
            assert!(laid_out >= stored && laid_out <= stored + 4, "{format}: {laid_out}, {stored}");
        }
    }
}
