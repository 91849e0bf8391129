//! What every backend must get right, checked against f64 arithmetic written out plainly.
//!
//! [`run`] sends each operation through awkward sizes, with outputs full of NaN beforehand, and
//! measures the normalised mean squared error, `sum((a - b)^2) / sum(a^2)`. An operation that leaves
//! an element out, writes one too many, or lets stale cache contents through leaves a NaN where a
//! number belongs or the other way round.

mod attention;
mod encoding;
mod matmul;
mod refusal;
mod rows;
mod variants;

use crate::backend::{Backend, BackendError};

/// What a backend got wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Breach {
    pub op: &'static str,
    /// The sizes with which it happened.
    pub case: String,
    pub fault: Fault,
}

/// How a result was wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Too far from the truth.
    Error { nmse: f64, bound: f64 },
    /// Element `index` is not a finite number.
    NotFinite { index: usize },
    /// Element `index`, beyond the output, was written.
    Overrun { index: usize },
    /// The operation should have worked.
    Failed { error: BackendError },
    /// The operation should have been refused.
    Accepted,
}

/// What a run has found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub checks: usize,
    pub breaches: Vec<Breach>,
}

/// Checks every operation of a backend.
pub fn run<B: Backend>(backend: &mut B) -> Outcome {
    let mut checker = Checker { backend, outcome: Outcome::default(), random: Random(1) };
    matmul::check(&mut checker);
    rows::check(&mut checker);
    variants::check(&mut checker);
    attention::check(&mut checker);
    encoding::check(&mut checker);
    refusal::check(&mut checker);
    checker.outcome
}

/// Sizes around the widths of registers, tiles and steps.
const SIZES: [usize; 8] = [1, 7, 8, 9, 31, 33, 127, 129];

/// Elements behind every output that must stay as they are.
const GUARD: usize = 17;

struct Checker<'a, B> {
    backend: &'a mut B,
    outcome: Outcome,
    random: Random,
}

impl<B: Backend> Checker<'_, B> {
    /// A buffer with these values.
    fn buffer(&mut self, values: &[f32]) -> Result<B::Buffer, BackendError> {
        let mut buffer = self.backend.buffer(values.len())?;
        self.backend.write(&mut buffer, 0, values)?;
        Ok(buffer)
    }

    /// A buffer of NaN, longer than `len`.
    fn poisoned(&mut self, len: usize) -> Result<B::Buffer, BackendError> {
        self.buffer(&vec![f32::NAN; len + GUARD])
    }

    fn numbers(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.random.number()).collect()
    }

    /// Compares what an operation has written with the truth. A truth of NaN means "left alone".
    fn compare(
        &mut self,
        (op, case): (&'static str, &str),
        out: &B::Buffer,
        truth: &[f64],
        bound: f64,
    ) {
        let mut values = vec![0.0; truth.len() + GUARD];
        let fault = match self.backend.read(out, 0, &mut values) {
            Err(error) => Some(Fault::Failed { error }),
            Ok(()) => difference(&values, truth, bound),
        };
        self.note(op, case, fault);
    }

    fn note(&mut self, op: &'static str, case: &str, fault: Option<Fault>) {
        self.outcome.checks += 1;
        if let Some(fault) = fault {
            self.outcome.breaches.push(Breach { op, case: case.to_owned(), fault });
        }
    }

    /// Runs one case, noting it when it cannot be carried through.
    fn case(
        &mut self,
        op: &'static str,
        case: &str,
        body: impl FnOnce(&mut Self) -> Result<(), BackendError>,
    ) {
        if let Err(error) = body(self) {
            self.note(op, case, Some(Fault::Failed { error }));
        }
    }
}

fn difference(values: &[f32], truth: &[f64], bound: f64) -> Option<Fault> {
    let (mut error, mut power) = (0.0, 0.0);
    for (index, (value, truth)) in values.iter().zip(truth).enumerate() {
        if truth.is_nan() {
            if !value.is_nan() {
                return Some(Fault::Overrun { index });
            }
            continue;
        }
        if !value.is_finite() {
            return Some(Fault::NotFinite { index });
        }
        error += (f64::from(*value) - truth).powi(2);
        power += truth.powi(2);
    }
    let beyond = values.iter().skip(truth.len()).position(|value| !value.is_nan());
    if let Some(index) = beyond {
        return Some(Fault::Overrun { index: truth.len() + index });
    }
    let nmse = if error == 0.0 { 0.0 } else { error / power };
    (nmse > bound).then_some(Fault::Error { nmse, bound })
}

/// The same numbers on every machine: SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly in -1 to 1.
    fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Evenly in `0..limit`.
    #[expect(clippy::cast_possible_truncation, reason = "less than limit, which is a usize")]
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// The numbers below `len` in some order.
    fn permutation(&mut self, len: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..len).collect();
        for last in (1..order.len()).rev() {
            let other = self.below(last + 1);
            order.swap(last, other);
        }
        order
    }
}
