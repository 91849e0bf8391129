//! Prompts that nobody has sent before, all about as long as each other.

use crate::draw::Draw;

/// Short common words, each a token of its own in most vocabularies, so that prompts of as many
/// words take about as long to compute.
const WORDS: [&str; 64] = [
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world",
    "school", "state", "family", "student", "group", "country", "problem", "hand", "part", "place",
    "case", "week", "company", "system", "program", "question", "work", "number", "night", "point",
    "home", "water", "room", "mother", "area", "money", "story", "fact", "month", "lot", "right",
    "study", "book", "eye", "job", "word", "business", "issue", "side", "kind", "head", "house",
    "service", "friend", "father", "power", "hour", "game", "line", "end", "member", "law", "car",
];

/// `words` words in an order of their own: sixteen of them are one of 2⁹⁶ orders, so that no two
/// prompts share a block of a cache.
pub fn fresh(draw: &mut Draw, words: usize) -> String {
    let drawn = (0..words).filter_map(|_| WORDS.get(draw.below(WORDS.len())).copied());
    drawn.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_prompts_begin_alike() {
        let mut draw = Draw::new(1);
        let prompts: Vec<_> = (0..2_000).map(|_| fresh(&mut draw, 16)).collect();
        assert!(prompts.iter().all(|prompt| prompt.split(' ').count() == 16));
        assert_eq!(prompts.iter().collect::<HashSet<_>>().len(), prompts.len());
    }
}
