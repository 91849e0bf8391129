use std::{
    process::Command,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use realm_core::constraint::{Constraint, SOURCE_BYTES_MAX};
use serde_json::{Value, json};

use super::{matcher::BYTES_MAX, *};

/// Tokens of a vocabulary, the last of which ends an answer.
fn vocabulary(tokens: &[&str]) -> Vocabulary {
    let ending = u32::try_from(tokens.len()).unwrap();
    let tokens = tokens.iter().map(|token| token.as_bytes()).chain([&b""[..]]);
    Vocabulary::new(tokens, &[ending]).unwrap()
}

/// Every byte, some longer pieces, and the end.
fn pieces() -> (Vocabulary, Vec<Vec<u8>>) {
    let longer = ["\": \"", "\",\"", "{\"", "\"}", "true", "null", "name", "ag", "e\":", "  ", "é"];
    let mut tokens: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
    tokens.extend(longer.map(|text| text.as_bytes().to_vec()));
    tokens.push(b"<end>".to_vec());
    let ending = u32::try_from(tokens.len() - 1).unwrap();
    let vocabulary = Vocabulary::new(tokens.iter().map(Vec::as_slice), &[ending]).unwrap();
    (vocabulary, tokens)
}

fn schema(schema: &Value) -> Constraint {
    Constraint::JsonSchema(schema.to_string())
}

fn regex(text: &str) -> Constraint {
    Constraint::Regex(text.to_owned())
}

fn lark(text: &str) -> Constraint {
    Constraint::Lark(text.to_owned())
}

/// Which of the tokens may come next.
fn allowed(matcher: &mut Matcher, len: u32) -> Vec<u32> {
    let mask = matcher.mask().unwrap();
    (0..len).filter(|&id| mask.allows(id)).collect()
}

#[test]
fn a_mask_has_the_tokens_that_lead_on_and_the_end_where_it_may_come() {
    let vocabulary = vocabulary(&["a", "b", "ab", "abb", "c", "ba"]);
    let grammar = vocabulary.compile(&regex("ab+c?")).unwrap();
    let mut matcher = grammar.matcher();
    assert_eq!(allowed(&mut matcher, 7), [0, 2, 3]);
    matcher.accept(2).unwrap();
    assert_eq!(allowed(&mut matcher, 7), [1, 4, 6]);
    matcher.accept(1).unwrap();
    assert_eq!(allowed(&mut matcher, 7), [1, 4, 6]);
    matcher.accept(4).unwrap();
    assert_eq!(allowed(&mut matcher, 7), [6], "whole: nothing but the end");
    assert_eq!(matcher.accept(1), Err(MatcherError::NotAllowed { id: 1 }));

    let mut other = grammar.matcher();
    assert_eq!(allowed(&mut other, 7), [0, 2, 3], "each answer begins anew");
    assert_eq!(other.accept(5), Err(MatcherError::NotAllowed { id: 5 }));
    assert_eq!(other.mask(), Err(MatcherError::NotAllowed { id: 5 }), "and stays where it failed");
}

#[test]
fn any_of_a_models_endings_ends_an_answer_and_is_no_text() {
    let tokens = [&b"a"[..], b"<end>", b"</s>"];
    let vocabulary = Vocabulary::new(tokens.into_iter(), &[1, 2, 9]).unwrap();
    let mut matcher = vocabulary.compile(&regex("a")).unwrap().matcher();
    matcher.accept(0).unwrap();
    assert_eq!(allowed(&mut matcher, 3), [1, 2]);
    let mut spelled = vocabulary.compile(&regex("<end>")).unwrap().matcher();
    assert_eq!(spelled.mask(), Err(MatcherError::DeadEnd));
    let without = Vocabulary::new(tokens.into_iter(), &[]);
    assert!(matches!(without, Err(VocabularyError::NoEnding)));
}

#[test]
fn a_grammar_that_no_token_leads_on_in_is_a_dead_end() {
    let vocabulary = vocabulary(&["a", "b"]);
    let mut matcher = vocabulary.compile(&regex("a[xy]")).unwrap().matcher();
    matcher.accept(0).unwrap();
    assert_eq!(matcher.mask(), Err(MatcherError::DeadEnd));
}

#[test]
fn a_rule_may_name_itself() {
    let vocabulary = vocabulary(&["(", ")", "x"]);
    let grammar = vocabulary.compile(&lark("start: \"(\" start \")\" | \"x\"")).unwrap();
    let mut matcher = grammar.matcher();
    for id in [0, 0, 2, 1] {
        matcher.accept(id).unwrap();
    }
    assert_eq!(allowed(&mut matcher, 4), [1]);
    matcher.accept(1).unwrap();
    assert_eq!(allowed(&mut matcher, 4), [3]);
}

#[test]
fn what_cannot_be_compiled_is_refused_with_a_reason_of_one_line() {
    let vocabulary = pieces().0;
    let long = "a".repeat(SOURCE_BYTES_MAX + 1);
    let cases = [
        (regex("("), "unclosed group"),
        (regex(&long), "65537 bytes"),
        (lark("begin: \"a\""), "start"),
        (lark("start: other"), "other"),
        (lark("start: <|im_end|>"), "more than can be compiled"),
        (Constraint::JsonSchema("{".to_owned()), "no JSON"),
        (Constraint::JsonSchema("3".to_owned()), "an object or a boolean"),
        (schema(&json!(false)), "nothing is of this schema"),
        (schema(&json!({"type": "strin"})), "strin"),
        (schema(&json!({"unevaluatedItems": 3})), "unevaluatedItems"),
        (lark("start: %json {}"), "%json"),
        (schema(&many_patterns(65)), "65 patterns"),
        (schema(&json!({"$ref": "https://example.com/a"})), "example.com"),
        (schema(&json!({"$ref": "#/$defs/none"})), "none"),
    ];
    for (constraint, says) in cases {
        let Err(error) = vocabulary.compile(&constraint) else { panic!("{constraint:?} compiles") };
        let message = error.to_string();
        assert!(message.contains(says), "{constraint:?}: {message}");
        assert!(message.lines().count() == 1 && message.len() < 400, "{message}");
    }
}

#[test]
fn a_schema_brings_no_options_of_its_own() {
    let vocabulary = vocabulary(&["1", " ", "_"]);
    let lenient = json!({"type": "integer", "x-guidance": {"whitespace_pattern": "_+"}});
    let mut matcher = vocabulary.compile(&schema(&lenient)).unwrap().matcher();
    assert_eq!(allowed(&mut matcher, 4), [0]);
}

#[test]
fn the_keys_of_an_object_come_in_the_order_of_its_schema() {
    let vocabulary = vocabulary(&["{\"", "z", "a", "\":", "1", ",\"", "}"]);
    let two = json!({
        "type": "object", "required": ["z", "a"], "additionalProperties": false,
        "properties": {"z": {"type": "integer"}, "a": {"type": "integer"}},
    });
    let mut matcher = vocabulary.compile(&schema(&two)).unwrap().matcher();
    matcher.accept(0).unwrap();
    assert_eq!(allowed(&mut matcher, 8), [1]);
}

#[test]
fn blanks_come_to_an_end() {
    let (vocabulary, tokens) = pieces();
    let mut matcher = vocabulary.compile(&Constraint::JsonObject).unwrap().matcher();
    matcher.accept(u32::from(b'{')).unwrap();
    let blanks = (0..100).take_while(|_| matcher.accept(u32::from(b' ')).is_ok()).count();
    assert_eq!((blanks, tokens.len()), (32, 268));
}

/// An answer whose tokens are drawn from what is allowed alone; `None` if it does not end in time.
fn drawn(constraint: &Constraint, draws: &[u16]) -> Option<String> {
    let (vocabulary, tokens) = pieces();
    let ending = u32::try_from(tokens.len() - 1).unwrap();
    let mut matcher = vocabulary.compile(constraint).unwrap().matcher();
    let mut answer = Vec::new();
    for draw in draws {
        let ids = allowed(&mut matcher, ending + 1);
        let id = ids[usize::from(*draw) % ids.len()];
        if id == ending {
            return Some(String::from_utf8(answer).unwrap());
        }
        matcher.accept(id).unwrap();
        answer.extend(&tokens[id as usize]);
    }
    None
}

fn draws() -> impl Strategy<Value = Vec<u16>> {
    prop::collection::vec(any::<u16>(), 400)
}

/// A schema, and what holds of everything that is of it.
type Case = (Value, fn(&Value) -> bool);

fn cases() -> Vec<Case> {
    vec![
        (
            json!({
                "type": "object", "required": ["name", "age"], "additionalProperties": false,
                "properties": {
                    "name": {"type": "string", "maxLength": 12},
                    "age": {"type": "integer", "minimum": 0, "maximum": 150},
                },
            }),
            |value| {
                let age = value["age"].as_i64().unwrap();
                value.as_object().unwrap().len() == 2
                    && value["name"].as_str().unwrap().chars().count() <= 12
                    && (0..=150).contains(&age)
            },
        ),
        (
            json!({
                "type": "array", "minItems": 1, "maxItems": 3,
                "items": {"enum": ["red", "green", {"mixed": null}]},
            }),
            |value| {
                let items = value.as_array().unwrap();
                let known = [json!("red"), json!("green"), json!({"mixed": null})];
                (1..=3).contains(&items.len()) && items.iter().all(|item| known.contains(item))
            },
        ),
        (
            json!({
                "$defs": {"list": {"anyOf": [{"type": "null"}, {
                    "type": "object", "required": ["rest"], "additionalProperties": false,
                    "properties": {"rest": {"$ref": "#/$defs/list"}},
                }]}},
                "$ref": "#/$defs/list",
            }),
            |value| {
                let mut value = value;
                while let Some(rest) = value.get("rest") {
                    value = rest;
                }
                value.is_null()
            },
        ),
        (json!({"type": "string", "pattern": "^[a-c]{2,4}-[0-9]+$", "maxLength": 20}), |value| {
            let (letters, digits) = value.as_str().unwrap().split_once('-').unwrap();
            (2..=4).contains(&letters.len())
                && letters.bytes().all(|byte| (b'a'..=b'c').contains(&byte))
                && !digits.is_empty()
                && digits.bytes().all(|byte| byte.is_ascii_digit())
        }),
        (json!({"type": ["boolean", "null"]}), |value| value.is_boolean() || value.is_null()),
        (json!({"const": {"a": [1, 2.5, "é"]}}), |value| *value == json!({"a": [1, 2.5, "é"]})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_is_drawn_every_answer_that_ends_is_of_its_schema(draws in draws()) {
        for (wanted, holds) in cases() {
            let Some(answer) = drawn(&schema(&wanted), &draws) else { continue };
            let value: Value = serde_json::from_str(&answer).unwrap();
            prop_assert!(holds(&value), "{answer} is not of {wanted}");
        }
    }

    #[test]
    fn whatever_is_drawn_an_object_that_ends_is_one(draws in draws()) {
        if let Some(answer) = drawn(&Constraint::JsonObject, &draws) {
            match serde_json::from_str::<Value>(&answer) {
                Ok(value) => prop_assert!(value.is_object(), "{}", answer),
                // JSON all the same, but not for a reader who wants its numbers in 64 bits.
                Err(error) => prop_assert!(error.to_string().contains("out of range"), "{}", error),
            }
        }
    }

    #[test]
    fn whatever_text_is_compiled_it_ends_in_time(text in ".{0,60}") {
        let vocabulary = vocabulary(&["a", "{", "\""]);
        for constraint in [Constraint::JsonSchema(text.clone()), regex(&text), lark(&text)] {
            if let Ok(grammar) = vocabulary.compile(&constraint) {
                let _ = grammar.matcher().mask();
            }
        }
    }
}

/// Set where the test below is its own child, so that what it prints can be read.
const CHILD: &str = "REALM_GRAMMAR_CHILD";

#[test]
fn a_panic_that_a_constraint_causes_is_not_printed_and_any_other_is() {
    if std::env::var_os(CHILD).is_some() {
        vocabulary(&["a"]).compile(&regex("a")).unwrap();
        let caught = grammar::caught(|| -> Result<(), String> { panic!("a tenant's") });
        assert_eq!(caught, Err("it is more than can be compiled".to_owned()));
        assert!(std::thread::spawn(|| panic!("nobody's")).join().is_err());
        return;
    }
    let name = "tests::a_panic_that_a_constraint_causes_is_not_printed_and_any_other_is";
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("nobody's") && !told.contains("a tenant's"), "{told}");
}

/// Runs with the stack that compiling may take.
fn on_a_thread(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work);
    thread.unwrap().join().unwrap();
}

fn many_patterns(count: usize) -> Value {
    let pattern = |at| (format!("^(a|b)*{at}(a|b){{20}}$"), json!({"type": "null"}));
    let patterns: serde_json::Map<String, Value> = (0..count).map(pattern).collect();
    json!({"properties": {"a": {"patternProperties": patterns}}})
}

/// Constraints that are made to be expensive.
fn hostile() -> Vec<(&'static str, Constraint)> {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let rules = |name: &str| {
        let chain = (0..4000).map(|at| format!("{name}{at}: {name}{}\n", at + 1));
        format!("start: {name}0\n{}{name}4000: \"a\"\n", chain.collect::<String>())
    };
    let objects = (0..60).fold(json!({}), |inner, _| json!({"properties": {"a": inner}}));
    let definitions: serde_json::Map<String, Value> = (0..1500)
        .map(|at| (format!("d{at}"), json!({"$ref": format!("#/$defs/d{}", at + 1)})))
        .chain([("d1500".to_owned(), json!({"type": "null"}))])
        .collect();
    let both = |depth: usize| {
        let pair =
            |inner: Value| json!({"allOf": [inner.clone(), {"anyOf": [inner.clone(), inner]}]});
        (0..depth).fold(json!({"type": "object", "properties": {"a": {}}}), |inner, _| pair(inner))
    };
    vec![
        ("alternatives that explode", regex("(a|b)*a(a|b){40}")),
        ("repeats of repeats", regex("((a{1,100}){1,100}){1,100}")),
        ("a repeat without bound", regex("(.{1000000})*")),
        ("classes without number", regex(&"\\p{L}".repeat(10_000))),
        ("groups in groups", regex(&format!("{}a{}", "(".repeat(30_000), ")".repeat(30_000)))),
        ("alternatives without number", regex(&"ab|".repeat(20_000))),
        ("a long word", regex(&"ab?".repeat(20_000))),
        ("intersections", lark("start: A\nA: /(a|b)*a(a|b){30}/ & /(a|b)*b(a|b){29}/ & ~/(ab)*/")),
        ("brackets in brackets", lark(&format!("start: {}", nested(30_000)))),
        ("a chain of rules", lark(&rules("r"))),
        ("a chain of terminals", lark(&rules("R"))),
        ("an ambiguous grammar", lark("start: start start | start start start | \"a\" | ")),
        ("a repeat of rules", lark("start: a{1,1000000}\na: \"x\" a?")),
        ("arrays in arrays", Constraint::JsonSchema(nested(30_000))),
        ("objects in objects", schema(&objects)),
        ("a chain of references", schema(&json!({"$defs": definitions, "$ref": "#/$defs/d0"}))),
        ("intersections of schemas", schema(&both(6))),
        ("patterns of keys", schema(&many_patterns(64))),
        ("a long text", schema(&json!({"type": "string", "minLength": 100_000_000}))),
        ("many items", schema(&json!({"type": "array", "minItems": 100_000_000}))),
        ("a fine multiple", schema(&json!({"type": "number", "multipleOf": 0.000_000_000_1}))),
        ("a reference to itself", schema(&json!({"$ref": "#"}))),
        ("all of itself", schema(&json!({"allOf": [{"$ref": "#"}, {"type": "object"}]}))),
    ]
}

/// The longest that one constraint may take to be compiled, or one of its masks: ten times what the
/// worst of them takes on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);

/// Goes a hundred tokens along a grammar; the longest time that a mask took, and how it ended.
fn walk(grammar: &Grammar, len: u32) -> (Duration, Option<MatcherError>) {
    let mut matcher = grammar.matcher();
    let mut longest = Duration::ZERO;
    for at in 0..100_u32 {
        let begun = Instant::now();
        let mask = matcher.mask();
        longest = longest.max(begun.elapsed());
        let mask = match mask {
            Ok(mask) => mask,
            Err(error) => return (longest, Some(error)),
        };
        // The first letters of the alphabet, which most of them are made of.
        let letters = [at % 2 + u32::from(b'a'), u32::from(b'a'), u32::from(b'b')];
        let mut ids = letters.into_iter().chain(0..len - 1);
        match ids.find(|&id| mask.allows(id)).map(|id| matcher.accept(id)) {
            Some(Ok(())) => {}
            Some(Err(error)) => return (longest, Some(error)),
            None => return (longest, None),
        }
    }
    (longest, None)
}

#[test]
fn hostile_constraints_end_in_time() {
    on_a_thread(|| {
        let (vocabulary, tokens) = pieces();
        let len = u32::try_from(tokens.len()).unwrap();
        for (name, constraint) in hostile() {
            let at = Instant::now();
            let compiled = vocabulary.compile(&constraint);
            let compiling = at.elapsed();
            let walked = compiled.map(|grammar| walk(&grammar, len));
            println!("{name}: compiled in {compiling:?}, {walked:?}");
            let longest = walked.map_or(Duration::ZERO, |(longest, _)| longest);
            assert!(compiling.max(longest) < PATIENCE, "{name} took too long");
        }
    });
}

/// Rules that are all still open after any number of letters.
fn open_rules() -> Constraint {
    let rules = (0..300).map(|at| format!("r{at}: \"a\" r{at} | \"c{at}\"\n"));
    let names: Vec<String> = (0..300).map(|at| format!("r{at}")).collect();
    lark(&format!("start: {}\n{}", names.join(" | "), rules.collect::<String>()))
}

/// Expressions of which each place in an answer has another mix.
fn mixed_expressions() -> Constraint {
    let expressions = (0..330).map(|at| {
        let behind = at % 17 + 5;
        format!("t{at}: /(a|b|c)*a(a|b|c|d){{{behind}}}x{at}/\n")
    });
    let names: Vec<String> = (0..330).map(|at| format!("t{at}")).collect();
    lark(&format!("start: ({})+\n{}", names.join(" | "), expressions.collect::<String>()))
}

#[test]
fn an_answer_that_comes_to_take_too_much_memory_ends() {
    let (vocabulary, tokens) = pieces();
    let len = u32::try_from(tokens.len()).unwrap();
    for (constraint, is_drawn) in [(open_rules(), false), (mixed_expressions(), true)] {
        let mut matcher = vocabulary.compile(&constraint).unwrap().matcher();
        let mut draw = 12_345_u32;
        let mut go_on = || {
            let mask = matcher.mask()?;
            let ids: Vec<u32> = (0..len - 1).filter(|&id| mask.allows(id)).collect();
            draw = draw.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = if is_drawn { (draw >> 8) as usize % ids.len() } else { 0 };
            matcher.accept(ids[at])
        };
        let ended = (0..3000).find_map(|_| go_on().err());
        let Some(MatcherError::TooComplex(reason)) = ended else { panic!("{ended:?}") };
        assert!(reason.contains("8 MiB"), "{reason}");
        assert!(matcher.bytes() < 2 * BYTES_MAX, "{}", matcher.bytes());
    }
}

#[test]
fn a_constraint_that_takes_too_much_memory_is_refused() {
    let classes = (0..1000).map(|at| format!("(\\p{{L}}{{{at}}}\\p{{Lu}}|\\w)*{at}"));
    let classes = regex(&classes.collect::<Vec<_>>().join("|"));
    assert_eq!(pieces().0.compile(&classes).err(), Some(GrammarError::TooLarge));
}
