//! What this machine could do at best: how fast memory is read and how fast bytes are multiplied.
//!
//! Speeds are worth telling only as a share of these, measured in the same run with the same threads.

#![expect(clippy::inline_always, reason = "kernels inline into the entry of an instruction set")]

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::backend::BackendError;
use crate::cpu::Cpu;
use crate::cpu::grid::{Division, claim};
use crate::cpu::memory::reserved;
use crate::cpu::simd::{Kernel, LANES, Lanes, Simd};

/// How fast a set of bytes is read by all threads of a backend together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bandwidth {
    /// The set that was read over and over.
    pub set_bytes: usize,
    pub bytes_per_second: f64,
}

/// How many 8-bit multiplies and adds all threads of a backend do together, two per product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Int8Rate {
    pub ops_per_second: f64,
}

/// Reads `set_bytes` again and again for about `span` and takes the fastest pass.
///
/// The fastest, because what slows a pass down is other work on the machine and not the memory. A
/// set as large as a model's weights tells what decoding could reach; it may be served from a cache
/// where the weights would be too.
pub fn bandwidth(
    cpu: &mut Cpu,
    set_bytes: usize,
    span: Duration,
) -> Result<Bandwidth, BackendError> {
    // 64 KiB: long against claiming one.
    const PIECE: usize = (64 << 10) / size_of::<Lanes>();
    let len = (set_bytes / size_of::<Lanes>()).max(1);
    let mut set: Vec<Lanes> = reserved(len)?;
    set.resize(len, [1.0; LANES]);
    let set_bytes = len * size_of::<Lanes>();
    let (proof, threads) = (cpu.proof, cpu.pool.threads());
    let seconds = fastest(span, || {
        let next = AtomicUsize::new(0);
        cpu.pool.run(&|| {
            let take = |left| Division::Parts.take(left, threads);
            while let Some(pieces) = claim(&next, set.len().div_ceil(PIECE), take) {
                let end = set.len().min(pieces.end * PIECE);
                black_box(proof.run(ReadAll(&set[pieces.start * PIECE..end])));
            }
        });
    });
    Ok(Bandwidth { set_bytes, bytes_per_second: set_bytes as f64 / seconds })
}

/// Multiplies bytes in registers for about `span` and takes the fastest round.
pub fn int8_rate(cpu: &mut Cpu, span: Duration) -> Int8Rate {
    // Of each thread: a few hundred microseconds with vectors, long against waking the threads, in
    // pieces that are done by whoever is free.
    const ROUNDS: u64 = 2_000;
    const PIECES: usize = 25;
    let proof = cpu.proof;
    let pieces = PIECES * cpu.pool.threads();
    let ops = AtomicU64::new(0);
    let seconds = fastest(span, || {
        let next = AtomicUsize::new(0);
        ops.store(0, Ordering::Relaxed);
        cpu.pool.run(&|| {
            while claim(&next, pieces, |_| 1).is_some() {
                let (of_piece, result) = proof.run(SpinDots(ROUNDS));
                black_box(result);
                ops.fetch_add(of_piece, Ordering::Relaxed);
            }
        });
    });
    Int8Rate { ops_per_second: ops.load(Ordering::Relaxed) as f64 / seconds }
}

/// The seconds of the fastest of the rounds that fit into `span`, at least three.
fn fastest(span: Duration, mut round: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    let mut rounds = 0;
    while rounds < 3 || start.elapsed() < span {
        let before = Instant::now();
        round();
        best = best.min(before.elapsed().as_secs_f64());
        rounds += 1;
    }
    best
}

struct ReadAll<'a>(&'a [Lanes]);

impl Kernel for ReadAll<'_> {
    type Output = f32;

    /// Four sums, so that additions keep up with loads.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let mut sums = [simd.splat(0.0); 4];
        for four in self.0.as_chunks::<4>().0 {
            for (sum, lanes) in sums.iter_mut().zip(four) {
                *sum = simd.add(*sum, simd.load(lanes));
            }
        }
        let [a, b, c, d] = sums;
        simd.sum(simd.add(simd.add(a, b), simd.add(c, d)))
    }
}

struct SpinDots(u64);

impl Kernel for SpinDots {
    type Output = (u64, i32);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (u64, i32) {
        simd.spin_dots(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Isa;

    #[test]
    fn ceilings_are_measured_with_every_instruction_set() {
        for isa in Isa::available() {
            let mut cpu = Cpu::new(isa, 2).unwrap();
            let found = bandwidth(&mut cpu, 1 << 20, Duration::ZERO).unwrap();
            assert_eq!(found.set_bytes, 1 << 20);
            assert!(found.bytes_per_second.is_finite() && found.bytes_per_second > 1e6);
            let rate = int8_rate(&mut cpu, Duration::ZERO).ops_per_second;
            assert!(rate.is_finite() && rate > 1e6, "{isa}: {rate}");
        }
    }

    #[test]
    fn a_set_that_does_not_fit_is_refused() {
        let mut cpu = Cpu::detect(1);
        let refused = bandwidth(&mut cpu, usize::MAX, Duration::ZERO);
        assert!(matches!(refused, Err(BackendError::OutOfMemory { .. })));
    }
}
