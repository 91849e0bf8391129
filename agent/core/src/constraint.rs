//! What an answer keeps to, whatever the model would rather say.

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
