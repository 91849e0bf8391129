//! How tokens are chosen, and what may be asked for: whoever meets a wish first holds it to the
//! bounds here, and the engine does so last.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::collections::HashSet;

use crate::refusal::Refusal;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the `top_k` likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the likeliest tokens whose probabilities sum to this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Keep the tokens that tell about as much as can be expected, those nearest to it first, whose
    /// probabilities sum to this; 1 keeps all.
    pub typical_p: f32,
    /// Makes tokens of the prompt and the answer less likely: positive logits are divided by it,
    /// negative ones multiplied; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Taken from a token's logit for each time the answer has it; 0 changes nothing.
    pub frequency_penalty: f32,
    /// Taken from a token's logit once if the answer has it; 0 changes nothing.
    pub presence_penalty: f32,
    /// How many of the likeliest tokens to tell with each token, with their probabilities; `None`
    /// tells nothing, 0 the token's own.
    pub logprobs: Option<u32>,
    /// Same seed, same prompt, same model: same tokens, since a draw depends on the seed and the
    /// place in the answer alone. `None` draws one.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logprobs: None,
            seed: None,
        }
    }
}

/// Tokens that may be told with each token: as many as the common APIs tell.
pub const LOGPROBS_MAX: u32 = 20;

/// Biases one generation may name: three times what the common APIs take.
pub const BIASES_MAX: usize = 1024;

/// What a bias may add or take: it bans a token, or leaves nothing else.
pub const BIAS: Range = Range::from("logit_bias", -100.0, 100.0);

/// Stop strings one generation may name, four times what the common APIs allow, and bytes of each:
/// every token is held against all of them.
pub const STOPS_MAX: usize = 16;
pub const STOP_BYTES_MAX: usize = 256;

/// Beyond 5 every token is as likely as the next.
pub const TEMPERATURE: Range = Range::from("temperature", 0.0, 5.0);
pub const TOP_P: Range = Range::above("top_p", 0.0, 1.0);
pub const MIN_P: Range = Range::from("min_p", 0.0, 1.0);
pub const TYPICAL_P: Range = Range::above("typical_p", 0.0, 1.0);
/// Beyond 10 nothing that came before comes again.
pub const REPETITION_PENALTY: Range = Range::above("repetition_penalty", 0.0, 10.0);
/// As in the common APIs.
pub const FREQUENCY_PENALTY: Range = Range::from("frequency_penalty", -2.0, 2.0);
pub const PRESENCE_PENALTY: Range = Range::from("presence_penalty", -2.0, 2.0);

/// The bounds of every number that is not whole.
pub const RANGES: [Range; 7] =
    [TEMPERATURE, TOP_P, MIN_P, TYPICAL_P, REPETITION_PENALTY, FREQUENCY_PENALTY, PRESENCE_PENALTY];

/// What a number may be, under the name that clients give it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    pub name: &'static str,
    pub min: f64,
    pub max: f64,
    /// Whether `min` itself is too little.
    pub is_open: bool,
}

impl Range {
    const fn from(name: &'static str, min: f64, max: f64) -> Self {
        Self { name, min, max, is_open: false }
    }

    const fn above(name: &'static str, min: f64, max: f64) -> Self {
        Self { name, min, max, is_open: true }
    }

    /// The comparisons are written so that NaN fails each of them.
    pub fn check(&self, value: f64) -> Result<(), Refusal> {
        let Self { name, min, max, is_open } = *self;
        let is_enough = if is_open { value > min } else { value >= min };
        if is_enough && value <= max {
            return Ok(());
        }
        Err(Refusal::Invalid(if is_open {
            format!("`{name}` must be above {min} and at most {max}")
        } else {
            format!("`{name}` must be from {min} to {max}")
        }))
    }
}

impl Sampling {
    /// Refuses what is out of bounds, by name.
    pub fn check(&self) -> Result<(), Refusal> {
        let Self {
            temperature,
            top_k: _,
            top_p,
            min_p,
            typical_p,
            repetition_penalty,
            frequency_penalty,
            presence_penalty,
            logprobs,
            seed: _,
        } = *self;
        TEMPERATURE.check(temperature.into())?;
        TOP_P.check(top_p.into())?;
        MIN_P.check(min_p.into())?;
        TYPICAL_P.check(typical_p.into())?;
        REPETITION_PENALTY.check(repetition_penalty.into())?;
        FREQUENCY_PENALTY.check(frequency_penalty.into())?;
        PRESENCE_PENALTY.check(presence_penalty.into())?;
        if logprobs.is_some_and(|count| count > LOGPROBS_MAX) {
            return Err(Refusal::Invalid(format!("`logprobs` must be from 0 to {LOGPROBS_MAX}")));
        }
        Ok(())
    }
}

/// Refuses biases that are too many, too large, of no token, or of one token twice.
pub fn check_bias(bias: &[(u32, f32)], vocabulary: u32) -> Result<(), Refusal> {
    let name = BIAS.name;
    if bias.len() > BIASES_MAX {
        let count = bias.len();
        let message = format!("`{name}` names {count} tokens; {BIASES_MAX} are the most");
        return Err(Refusal::Invalid(message));
    }
    let mut seen = HashSet::with_capacity(bias.len());
    for &(id, by) in bias {
        if id >= vocabulary {
            let message = format!("`{name}` names token {id} of a vocabulary of {vocabulary}");
            return Err(Refusal::Invalid(message));
        }
        if !seen.insert(id) {
            return Err(Refusal::Invalid(format!("`{name}` names token {id} twice")));
        }
        BIAS.check(by.into())?;
    }
    Ok(())
}

/// Refuses stop strings that are too many, too long or empty.
pub fn check_stop(stop: &[String]) -> Result<(), Refusal> {
    let is_proper = |stop: &String| !stop.is_empty() && stop.len() <= STOP_BYTES_MAX;
    if stop.len() <= STOPS_MAX && stop.iter().all(is_proper) {
        return Ok(());
    }
    let message = format!("`stop` holds at most {STOPS_MAX} texts of 1 to {STOP_BYTES_MAX} bytes");
    Err(Refusal::Invalid(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(checked: Result<(), Refusal>) -> String {
        let Err(Refusal::Invalid(message)) = checked else { panic!("{checked:?}") };
        message
    }

    #[test]
    fn the_bounds_themselves_are_taken_but_for_open_ones_and_what_is_no_number_never_is() {
        for range in RANGES.into_iter().chain([BIAS]) {
            range.check(range.max).unwrap();
            assert_eq!(range.check(range.min).is_err(), range.is_open, "{range:?}");
            let (nan, infinity) = (f64::NAN, f64::INFINITY);
            for value in [nan, infinity, -infinity, range.max + 0.1, range.min - 0.1] {
                let message = refused(range.check(value));
                assert!(message.contains(&format!("`{}`", range.name)), "{message}");
                assert!(message.contains(&range.max.to_string()), "{message}");
            }
        }
    }

    #[test]
    fn a_setting_out_of_bounds_is_refused_by_its_name() {
        let settings: [fn(&mut Sampling) -> &mut f32; 7] = [
            |s| &mut s.temperature,
            |s| &mut s.top_p,
            |s| &mut s.min_p,
            |s| &mut s.typical_p,
            |s| &mut s.repetition_penalty,
            |s| &mut s.frequency_penalty,
            |s| &mut s.presence_penalty,
        ];
        for (setting, range) in settings.into_iter().zip(RANGES) {
            let mut sampling = Sampling::default();
            sampling.check().unwrap();
            *setting(&mut sampling) = f32::NAN;
            let message = refused(sampling.check());
            assert!(message.starts_with(&format!("`{}` must be", range.name)), "{message}");
        }
        let logprobs = |count| Sampling { logprobs: Some(count), ..Sampling::default() }.check();
        logprobs(LOGPROBS_MAX).unwrap();
        assert_eq!(refused(logprobs(LOGPROBS_MAX + 1)), "`logprobs` must be from 0 to 20");
    }

    #[test]
    fn biases_are_few_small_and_each_of_another_token_of_the_vocabulary() {
        let count = u32::try_from(BIASES_MAX).unwrap();
        let many: Vec<_> = (0..=count).map(|id| (id, 1.0)).collect();
        let fewer = many.get(1..).unwrap();
        check_bias(fewer, count + 1).unwrap();
        for (bias, said) in [
            (many.as_slice(), "1024 are the most"),
            (fewer, "token 1024 of a vocabulary of 1024"),
            (&[(1, -100.0), (1, 5.0)], "token 1 twice"),
            (&[(1, 100.5)], "from -100 to 100"),
            (&[(1, f32::NAN)], "from -100 to 100"),
        ] {
            let message = refused(check_bias(bias, count));
            assert!(message.starts_with("`logit_bias`") && message.contains(said), "{message}");
        }
    }

    #[test]
    fn stop_strings_are_few_and_short() {
        let stops = |count: usize, bytes: usize| check_stop(&vec!["x".repeat(bytes); count]);
        stops(STOPS_MAX, STOP_BYTES_MAX).unwrap();
        stops(0, 0).unwrap();
        for (count, bytes) in [(STOPS_MAX + 1, 1), (1, STOP_BYTES_MAX + 1), (1, 0)] {
            assert!(refused(stops(count, bytes)).starts_with("`stop`"));
        }
    }
}
