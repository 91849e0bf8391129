//! Merges neighbours, the pair of the lowest rank first and the leftmost of equals, until no pair
//! may be merged.
//!
//! Both kinds of byte pair encoding end here; they differ in which pairs merge. Each merge makes two
//! new pairs at most, so a text of `n` symbols takes `n log n` steps whatever the vocabulary is.

use std::{cmp::Reverse, collections::BinaryHeap, ops::Range};

/// What a pair becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Merge {
    /// Lower ranks merge first.
    pub(super) rank: u32,
    pub(super) id: u32,
}

/// A part of the text, with the token that it is, if it is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Symbol {
    pub(super) range: Range<usize>,
    pub(super) id: Option<u32>,
    left: Option<usize>,
    right: Option<usize>,
}

/// A pair that may merge, as it was when it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: usize,
    right: usize,
    /// Where the right one ended: if it ends elsewhere by now, it is no longer this pair.
    end: usize,
    id: u32,
}

/// The symbols of a text on their way to tokens. Kept between texts for its memory.
#[derive(Debug, Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.queue.clear();
    }

    /// Adds the symbol that ends the text so far.
    pub(super) fn push(&mut self, range: Range<usize>, id: Option<u32>) {
        let at = self.symbols.len();
        let left = at.checked_sub(1);
        if let Some(last) = self.symbols.last_mut() {
            last.right = Some(at);
        }
        self.symbols.push(Symbol { range, id, left, right: None });
    }

    /// Merges all there is to merge.
    pub(super) fn merge(&mut self, merge: impl Fn(&Symbol, &Symbol) -> Option<Merge>) {
        for left in 0..self.symbols.len() {
            self.consider(Some(left), &merge);
        }
        while let Some(Reverse(Candidate { left, right, end, id, .. })) = self.queue.pop() {
            let current = &self.symbols[left];
            if current.right != Some(right) || self.symbols[right].range.end != end {
                continue;
            }
            let beyond = self.symbols[right].right.take();
            if let Some(beyond) = beyond {
                self.symbols[beyond].left = Some(left);
            }
            self.symbols[right].range = end..end;
            let merged = &mut self.symbols[left];
            merged.range.end = end;
            merged.right = beyond;
            merged.id = Some(id);
            let before = merged.left;
            self.consider(before, &merge);
            self.consider(Some(left), &merge);
        }
    }

    /// Queues the pair that begins with `left`, if there is one and it may merge.
    fn consider(&mut self, left: Option<usize>, merge: impl Fn(&Symbol, &Symbol) -> Option<Merge>) {
        let Some(left) = left else { return };
        let Some(right) = self.symbols[left].right else { return };
        let pair = (&self.symbols[left], &self.symbols[right]);
        if let Some(Merge { rank, id }) = merge(pair.0, pair.1) {
            let end = pair.1.range.end;
            self.queue.push(Reverse(Candidate { rank, left, right, end, id }));
        }
    }

    /// The symbols that are left, in order.
    pub(super) fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|symbol| !symbol.range.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Merges by looking for the best pair of the whole text each time.
    fn plainly(text: &str, merge: impl Fn(&str) -> Option<Merge>) -> Vec<String> {
        let mut parts: Vec<String> = text.chars().map(String::from).collect();
        loop {
            let pairs = parts.windows(2).enumerate();
            let best = pairs.filter_map(|(at, pair)| Some((merge(&pair.concat())?.rank, at))).min();
            let Some((_, at)) = best else { return parts };
            let right = parts.remove(at + 1);
            parts[at].push_str(&right);
        }
    }

    proptest! {
        #[test]
        fn the_heap_merges_what_a_search_of_the_whole_text_merges(
            text in "[abc]{0,24}",
            tokens in prop::collection::btree_map("[abc]{2,5}", 0..6_u32, 0..20),
        ) {
            let merge = |text: &str| tokens.get(text).map(|&rank| Merge { rank, id: rank });
            let mut merger = Merger::default();
            for (at, c) in text.char_indices() {
                merger.push(at..at + c.len_utf8(), None);
            }
            merger.merge(|left, right| merge(&text[left.range.start..right.range.end]));
            let got: Vec<&str> = merger.symbols().map(|s| &text[s.range.clone()]).collect();
            prop_assert_eq!(got, plainly(&text, merge));
        }
    }

    #[test]
    fn a_long_text_that_merges_everywhere_takes_no_square_of_its_length() {
        let len = 1 << 19;
        let mut merger = Merger::default();
        (0..len).for_each(|at| merger.push(at..at + 1, None));
        // Any two parts of equal length merge: twenty rounds, or a thousand million steps if each
        // merge looked at the whole text.
        merger.merge(|left, right| {
            let len = left.range.len();
            (len == right.range.len()).then(|| Merge { rank: len.ilog2(), id: 0 })
        });
        assert_eq!(merger.symbols().count(), 1);
    }
}
