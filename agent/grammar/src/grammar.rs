//! A constraint, compiled for a vocabulary.
//!
//! The library panics where an input is one that it was not made for, and hooks itself into the
//! process's panics with its first grammar, whoever calls it: nothing of it works without. Within
//! [`caught`] its hook takes a panic for itself, so that no tenant writes to the log; on every other
//! thread, and outside of it, the hook that was there before has its say. It prints nothing, starts
//! no thread and ends no process; what could is a stack that runs out, which [`STACK_BYTES`] is for.

use std::panic::AssertUnwindSafe;

use llguidance::{
    ParserFactory, TokenParser,
    api::{GrammarWithLexer, ParserLimits, TopLevelGrammar},
    panic_utils,
};
use realm_core::constraint::{Constraint, SOURCE_BYTES_MAX};
use serde_json::{Value, json};
use thiserror::Error;

use crate::matcher::{BYTES_MAX, Matcher};

/// Stack that compiling may take, of which it touches what it needs: rules that name each other in
/// a chain are compiled one within the other, five thousand of them at some kilobytes each.
pub const STACK_BYTES: usize = 256 << 20;
/// Characters of a reason that a client is told: it may quote what the client sent.
const REASON_CHARS_MAX: usize = 300;
/// Blanks between two tokens of JSON. A pretty printer's line of sixteen levels has as many, and a
/// model that got stuck in blanks writes no more of them.
const BLANKS_MAX: usize = 32;

/// Patterns of keys in one schema: each is held against every other, which takes some sixty
/// microseconds, so all of them together an eighth of a second.
const PATTERNS_MAX: usize = 64;

/// How far one constraint may go. The library's own figures, but for what piles up in memory.
pub(crate) const fn limits() -> ParserLimits {
    ParserLimits {
        // An item is an alternative that is still open; a row of a JSON object has one for each
        // key that may come next.
        max_items_in_row: 1000,
        // About 20 ms of compiling.
        initial_lexer_fuel: 1_000_000,
        // About 15 ms of a mask for regular expressions, and 3 ms for rules.
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        // A schema of a hundred keys needs a few hundred. What they take is bounded by `BYTES_MAX`.
        max_lexer_states: 20_000,
        // A constraint of `SOURCE_BYTES_MAX` has hardly more symbols than bytes, unless it repeats
        // itself on purpose.
        max_grammar_size: 100_000,
        precompute_large_lexemes: true,
        // Errors go to clients.
        verbose_errors: false,
    }
}

/// Why there is no grammar: the fault of who wrote it.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GrammarError {
    #[error("it has {bytes} bytes; {SOURCE_BYTES_MAX} are the most")]
    TooLong { bytes: usize },
    #[error("the schema is no JSON: {0}")]
    Json(String),
    #[error("a schema is an object or a boolean")]
    NoSchema,
    #[error("the schema has {patterns} patterns of keys; {PATTERNS_MAX} are the most")]
    TooManyPatterns { patterns: usize },
    #[error("`%json` has no place in rules; a schema is a constraint of its own")]
    SchemaInRules,
    #[error("it takes more than {} MiB when it is compiled", BYTES_MAX >> 20)]
    TooLarge,
    #[error("{0}")]
    Refused(String),
}

/// A compiled constraint, from which any number of answers begin.
pub struct Grammar {
    /// Never used: answers begin with copies, so that none has anything of another, be it only
    /// that something went fast because it had been done before.
    parser: TokenParser,
}

impl Grammar {
    pub(crate) fn compile(
        factory: &ParserFactory,
        constraint: &Constraint,
    ) -> Result<Self, GrammarError> {
        let source = source(constraint)?;
        let parser = caught(|| factory.create_parser(source)).map_err(GrammarError::Refused)?;
        if parser.parser.lexer_stats().num_bytes > BYTES_MAX {
            return Err(GrammarError::TooLarge);
        }
        Ok(Self { parser })
    }

    /// What an answer of this grammar begins with.
    pub fn matcher(&self) -> Matcher {
        Matcher::new(self.parser.deep_clone())
    }
}

fn source(constraint: &Constraint) -> Result<TopLevelGrammar, GrammarError> {
    let grammar = match constraint {
        Constraint::JsonObject => {
            GrammarWithLexer::from_json_schema(schema(json!({"type": "object"}))?)
        }
        Constraint::JsonSchema(text) => {
            let parsed = serde_json::from_str(checked(text)?);
            let parsed = parsed.map_err(|error| GrammarError::Json(error.to_string()))?;
            GrammarWithLexer::from_json_schema(schema(parsed)?)
        }
        Constraint::Regex(text) => GrammarWithLexer::from_regex(checked(text)?),
        Constraint::Lark(text) => GrammarWithLexer::from_lark(rules(checked(text)?)?.to_owned()),
    };
    Ok(TopLevelGrammar::from_grammar(grammar))
}

fn checked(text: &str) -> Result<&str, GrammarError> {
    if text.len() > SOURCE_BYTES_MAX {
        return Err(GrammarError::TooLong { bytes: text.len() });
    }
    Ok(text)
}

/// The rules, unless there may be a schema in them, which is held to other limits than rules are.
fn rules(text: &str) -> Result<&str, GrammarError> {
    if text.contains("%json") {
        return Err(GrammarError::SchemaInRules);
    }
    Ok(text)
}

/// How many patterns of keys a schema has. It is no deeper than its text was allowed to be.
fn patterns(schema: &Value) -> usize {
    match schema {
        Value::Object(members) => {
            let own = members.get("patternProperties").and_then(Value::as_object);
            own.map_or(0, serde_json::Map::len) + members.values().map(patterns).sum::<usize>()
        }
        Value::Array(items) => items.iter().map(patterns).sum(),
        _ => 0,
    }
}

/// The schema with our options in place of those that it may bring: some would let answers through
/// that are no JSON, or make the compiler pass over what it does not know.
fn schema(schema: Value) -> Result<Value, GrammarError> {
    /// The library's key for options.
    const OPTIONS: &str = "x-guidance";
    let patterns = patterns(&schema);
    if patterns > PATTERNS_MAX {
        return Err(GrammarError::TooManyPatterns { patterns });
    }
    let mut schema = match schema {
        Value::Object(schema) => schema,
        // Says the same in a form that has room for options.
        Value::Bool(true) => serde_json::Map::new(),
        Value::Bool(false) => {
            return Err(GrammarError::Refused("nothing is of this schema".to_owned()));
        }
        _ => return Err(GrammarError::NoSchema),
    };
    let blanks = format!("[\\x20\\x0A\\x0D\\x09]{{1,{BLANKS_MAX}}}");
    schema.insert(OPTIONS.to_owned(), json!({ "whitespace_pattern": blanks }));
    Ok(Value::Object(schema))
}

/// Does what may panic in the library, on an input that it was not made for; gives errors in a form
/// to be told.
pub(crate) fn caught<T, E: std::fmt::Display>(
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, String> {
    // Its own way of catching keeps the panic out of the log, whose lines tenants must not drive.
    let caught = panic_utils::catch_unwind(AssertUnwindSafe(|| Ok(work())));
    match caught {
        Ok(done) => done.map_err(|error| told(&error.to_string())),
        Err(_) => Err("it is more than can be compiled".to_owned()),
    }
}

/// The part of an error that is for clients, in one line: what a regular expression lacks comes
/// last, below a picture of it, and anything else first.
fn told(error: &str) -> String {
    if error.starts_with("panic:") {
        return "it is more than can be compiled".to_owned();
    }
    let mut lines = error.lines().map(str::trim);
    let first = lines.clone().find(|line| !line.is_empty() && !line.starts_with('<'));
    let last = lines.find_map(|line| line.strip_prefix("error: "));
    let line = last.or(first).unwrap_or("it cannot be compiled");
    line.chars().take(REASON_CHARS_MAX).collect()
}
