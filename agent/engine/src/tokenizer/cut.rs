//! How a text is cut into words before they are merged, by the name that a file gives the way.
//!
//! Each way is one or more patterns; each pattern cuts what the one before has left, and what none
//! matches between two matches is a word too. The patterns of the vocabularies' makers look ahead in
//! one place only: of blanks before a word, all but the last are a word of their own. That is done
//! by hand here ([`Blanks`]), so that a regular expression of linear time does the rest.

use regex::Regex;

use self::Blanks::{AsMatched, LeaveOne, LeaveOneInLine};

/// What becomes of the last of several blanks before a word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blanks {
    /// What the pattern makes of it.
    AsMatched,
    /// It is left to the word.
    LeaveOne,
    /// It is left to the word, unless it ends a line.
    LeaveOneInLine,
}

type Patterns = &'static [(&'static str, Blanks)];

/// A way to cut text.
struct Way {
    /// The names that files give it.
    names: &'static [&'static str],
    patterns: Patterns,
    /// Whether a word that is a token is not merged from its letters.
    whole_words: bool,
    /// Whether a text begins with a token of its own where the file does not say.
    adds_bos: bool,
}

const DIGIT: (&str, Blanks) = (r"\p{N}", AsMatched);
const GPT_2: (&str, Blanks) =
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+", LeaveOne);
const LLAMA_3: (&str, Blanks) = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    LeaveOneInLine,
);
const QWEN_2: (&str, Blanks) = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    LeaveOneInLine,
);
const QWEN_35: (&str, Blanks) = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    LeaveOneInLine,
);
const TEKKEN: (&str, Blanks) = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
    LeaveOneInLine,
);
const GPT_4O: (&str, Blanks) = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
    LeaveOneInLine,
);
const DEEPSEEK_V3: Patterns = &[
    (r"\p{N}{1,3}", AsMatched),
    (r"[一-龥\u3040-ゟ゠-ヿ]+", AsMatched),
    (
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+"##,
        LeaveOneInLine,
    ),
];
const DEEPSEEK_CODER: Patterns = &[
    (r"[\r\n]", AsMatched),
    (r"\s?\p{L}+", AsMatched),
    (r"\s?\p{P}+", AsMatched),
    (r"[一-龥\u0800-一가-\uD7FF]+", AsMatched),
    DIGIT,
];

/// The ways that are known.
const WAYS: &[Way] = &[
    Way {
        names: &["llama-bpe", "llama3", "llama-v3"],
        patterns: &[LLAMA_3],
        whole_words: true,
        adds_bos: true,
    },
    Way {
        names: &["dbrx", "smaug-bpe"],
        patterns: &[LLAMA_3],
        whole_words: false,
        adds_bos: false,
    },
    Way { names: &["tekken"], patterns: &[TEKKEN], whole_words: true, adds_bos: true },
    Way {
        names: &["qwen2", "deepseek-r1-qwen"],
        patterns: &[QWEN_2],
        whole_words: false,
        adds_bos: false,
    },
    Way { names: &["qwen35"], patterns: &[QWEN_35], whole_words: false, adds_bos: false },
    Way {
        names: &["smollm", "starcoder", "refact"],
        patterns: &[DIGIT, GPT_2],
        whole_words: false,
        adds_bos: false,
    },
    Way {
        names: &["gpt-2", "phi-2", "olmo", "mpt"],
        patterns: &[GPT_2],
        whole_words: false,
        adds_bos: false,
    },
    Way { names: &["gpt-4o", "llama4"], patterns: &[GPT_4O], whole_words: false, adds_bos: false },
    Way { names: &["deepseek-v3"], patterns: DEEPSEEK_V3, whole_words: false, adds_bos: false },
    Way {
        names: &["deepseek-coder"],
        patterns: DEEPSEEK_CODER,
        whole_words: false,
        adds_bos: false,
    },
];

/// The names of the ways that are known.
pub(super) fn known() -> Vec<&'static str> {
    WAYS.iter().flat_map(|way| way.names).copied().collect()
}

/// Cuts text in one of the known ways.
pub(super) struct Cut {
    patterns: Vec<(Regex, Blanks)>,
    pub(super) whole_words: bool,
    pub(super) adds_bos: bool,
}

impl Cut {
    /// The way of that name, if it is known.
    pub(super) fn named(name: &str) -> Option<Self> {
        let way = WAYS.iter().find(|way| way.names.contains(&name))?;
        let patterns = way
            .patterns
            .iter()
            .map(|&(pattern, blanks)| {
                (Regex::new(pattern).expect("a test compiles each of them"), blanks)
            })
            .collect();
        Some(Self { patterns, whole_words: way.whole_words, adds_bos: way.adds_bos })
    }

    /// The words of `text`, which together are the text.
    pub(super) fn words<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut words = vec![text];
        for (regex, blanks) in &self.patterns {
            let mut cut = Vec::with_capacity(words.len());
            for word in words {
                cut_word(regex, *blanks, word, &mut cut);
            }
            words = cut;
        }
        words
    }
}

fn cut_word<'t>(regex: &Regex, blanks: Blanks, text: &'t str, words: &mut Vec<&'t str>) {
    let mut rest = text;
    // What precedes `rest` never matters to these patterns: none looks back.
    while let Some(found) = regex.find(rest) {
        let (start, end) = (found.start(), found.start() + kept(rest, found.range(), blanks));
        if end == 0 {
            break;
        }
        words.extend(Some(&rest[..start]).filter(|gap| !gap.is_empty()));
        words.push(&rest[start..end]);
        rest = &rest[end..];
    }
    words.extend(Some(rest).filter(|rest| !rest.is_empty()));
}

/// Bytes of a match that are its own, when the last blank before a word may be the word's.
fn kept(text: &str, found: std::ops::Range<usize>, blanks: Blanks) -> usize {
    let matched = &text[found.clone()];
    let before_word = || text[found.end..].chars().next().is_some_and(|c| !c.is_whitespace());
    let last = matched.chars().next_back().filter(|c| c.is_whitespace());
    match (blanks, last) {
        (LeaveOneInLine, Some('\r' | '\n')) | (AsMatched, _) | (_, None) => matched.len(),
        (LeaveOne | LeaveOneInLine, Some(last)) if matched.len() > last.len_utf8() => {
            matched.len() - if before_word() { last.len_utf8() } else { 0 }
        }
        (LeaveOne | LeaveOneInLine, Some(_)) => matched.len(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    fn words<'t>(way: &str, text: &'t str) -> Vec<&'t str> {
        Cut::named(way).unwrap().words(text)
    }

    #[test]
    fn the_last_blank_before_a_word_belongs_to_it() {
        assert_eq!(words("gpt-2", "a   b\n\n c \n"), ["a", "  ", " b", "\n\n", " c", " \n"]);
        assert_eq!(words("llama3", "a   b\n\n c \n"), ["a", "  ", " b", "\n\n", " c", " \n"]);
        assert_eq!(words("gpt-2", "a\n\nb"), ["a", "\n", "\n", "b"]);
        assert_eq!(words("qwen2", "a\n\nb\t\tc"), ["a", "\n\n", "b", "\t", "\tc"]);
    }

    #[test]
    fn numbers_are_cut_as_each_family_cuts_them() {
        assert_eq!(words("llama3", "12345"), ["123", "45"]);
        assert_eq!(words("qwen2", "123"), ["1", "2", "3"]);
        assert_eq!(words("gpt-2", " 12345"), [" 12345"]);
        assert_eq!(words("deepseek-v3", "a1234日本"), ["a", "123", "4", "日本"]);
    }

    #[test]
    fn capitals_begin_a_word_where_the_family_cuts_before_them() {
        assert_eq!(words("tekken", "camelCase HTTPServer"), ["camel", "Case", " HTTPServer"]);
        assert_eq!(words("gpt-4o", "IT'S it's"), ["IT'S", " it's"]);
    }

    /// Compiled once: debug builds take a tenth of a second for each.
    static CUTS: LazyLock<Vec<Cut>> =
        LazyLock::new(|| WAYS.iter().filter_map(|way| Cut::named(way.names[0])).collect());

    proptest! {
        #[test]
        fn every_way_keeps_every_byte_and_makes_no_empty_word(
            text in prop_oneof![".{0,40}", "[ a1\n\t.'é日]{0,40}"],
        ) {
            prop_assert_eq!(CUTS.len(), WAYS.len());
            for (cut, way) in CUTS.iter().zip(WAYS) {
                let (words, way) = (cut.words(&text), way.names[0]);
                prop_assert_eq!(words.concat(), text.clone(), "{}", way);
                prop_assert!(words.iter().all(|word| !word.is_empty()), "{}", way);
            }
        }
    }
}
