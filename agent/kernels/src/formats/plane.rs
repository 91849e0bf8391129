//! Codes of a few bits, packed into bytes.
//!
//! Every block format, and every panel of the CPU backend, packs its codes by the same scheme with
//! other numbers: neighbouring values take the same bits of neighbouring bytes, and when `STRIDE`
//! bytes have been filled that far, the next values take their next bits. Codes wider than one plane
//! have their upper bits in another.

/// Fields of `WIDTH` bits (1, 2 or 4) in turns over `STRIDE` bytes.
pub(crate) struct Plane<const WIDTH: usize, const STRIDE: usize>;

impl<const WIDTH: usize, const STRIDE: usize> Plane<WIDTH, STRIDE> {
    const MASK: u8 = u8::MAX >> (8 - WIDTH);
    const SHIFTS: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
    /// Fields in a byte.
    const FIELDS: usize = 8 / WIDTH;

    /// Puts each field into its code, from bit `at` on.
    #[inline]
    pub(crate) fn read(bytes: &[u8], at: u32, codes: &mut [u8]) {
        let codes = codes.as_chunks_mut::<STRIDE>().0.chunks_exact_mut(Self::FIELDS);
        for (bytes, codes) in bytes.as_chunks::<STRIDE>().0.iter().zip(codes) {
            for (shift, codes) in Self::SHIFTS.iter().step_by(WIDTH).zip(codes) {
                for (byte, code) in bytes.iter().zip(codes) {
                    *code |= ((byte >> shift) & Self::MASK) << at;
                }
            }
        }
    }

    /// Puts the bits of each code from bit `at` on into its field, which must be zero.
    #[inline]
    pub(crate) fn write(codes: &[u8], at: u32, bytes: &mut [u8]) {
        let codes = codes.as_chunks::<STRIDE>().0.chunks_exact(Self::FIELDS);
        for (bytes, codes) in bytes.as_chunks_mut::<STRIDE>().0.iter_mut().zip(codes) {
            for (shift, codes) in Self::SHIFTS.iter().step_by(WIDTH).zip(codes) {
                for (byte, code) in bytes.iter_mut().zip(codes) {
                    *byte |= ((code >> at) & Self::MASK) << shift;
                }
            }
        }
    }

    /// The fields of `bytes`, as codes of their own.
    pub(crate) fn fields<const LEN: usize>(bytes: &[u8]) -> [u8; LEN] {
        let mut codes = [0; LEN];
        Self::read(bytes, 0, &mut codes);
        codes
    }

    /// The bytes that hold the bits of `codes` from bit `at` on.
    pub(crate) fn pack<const LEN: usize>(codes: &[u8], at: u32) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        Self::write(codes, at, &mut bytes);
        bytes
    }
}
