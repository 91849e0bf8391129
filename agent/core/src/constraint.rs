//! What an answer keeps to, whatever the model would rather say.

use crate::refusal::Refusal;

/// The name that it has at doors and in refusals.
pub const PARAMETER: &str = "response_format";

/// Bytes of the longest constraint: four times the largest schemas that people write by hand.
pub const SOURCE_BYTES_MAX: usize = 64 << 10;

/// A form that the whole answer has, in text: what it means is known where it is compiled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Constraint {
    /// One JSON object, whatever is in it.
    JsonObject,
    /// One JSON value of the JSON schema in this text, with keys in the schema's order.
    JsonSchema(String),
    /// A text that this regular expression matches as a whole.
    Regex(String),
    /// A text of this grammar in Lark's notation, from its rule `start`.
    Lark(String),
}

impl Constraint {
    /// What it was written as.
    fn source(&self) -> &str {
        match self {
            Self::JsonObject => "",
            Self::JsonSchema(source) | Self::Regex(source) | Self::Lark(source) => source,
        }
    }

    /// Refuses what is too long to be looked at. Whether it means anything is known where it is
    /// compiled.
    pub fn check(&self) -> Result<(), Refusal> {
        let bytes = self.source().len();
        if bytes > SOURCE_BYTES_MAX {
            let message = format!(
                "`{PARAMETER}` has a constraint of {bytes} bytes; {SOURCE_BYTES_MAX} are the most"
            );
            return Err(Refusal::Invalid(message));
        }
        Ok(())
    }
}
