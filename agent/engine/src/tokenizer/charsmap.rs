//! The table by which SentencePiece makes one spelling of many before it looks for pieces.
//!
//! Sequences of bytes lie in a double array, in which a node is found by its place xor the next
//! byte; a sequence that is replaced ends in a leaf, which says where the text lies that it becomes.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

/// Bytes of the longest sequence that is looked for, and of the longest that it becomes.
///
/// The tables in use replace at most a handful of characters, by at most 33 bytes (one Arabic
/// ligature). A file could have more, and each place of a text would cost that.
const SEQUENCE_BYTES_MAX: usize = 64;

pub(super) struct Charsmap {
    nodes: Vec<u32>,
    texts: Vec<u8>,
}

impl Charsmap {
    /// Reads the table; `None` if the bytes are none.
    pub(super) fn new(bytes: &[u8]) -> Option<Self> {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
        let (nodes, texts) = rest.split_at_checked(len)?;
        let (nodes, []) = nodes.as_chunks::<4>() else { return None };
        let nodes = nodes.iter().map(|node| u32::from_le_bytes(*node)).collect();
        Some(Self { nodes, texts: texts.to_vec() })
    }

    /// The longest sequence that `text` starts with and that is replaced: its length, and what it
    /// becomes.
    pub(super) fn replaced(&self, text: &[u8]) -> Option<(usize, &str)> {
        let mut at = base(self.node(0)?);
        let mut found = None;
        for (length, &byte) in (1..).zip(text.iter().take(SEQUENCE_BYTES_MAX)) {
            at ^= u32::from(byte);
            let Some(node) = self.node(at).filter(|&node| check(node) == u32::from(byte)) else {
                break;
            };
            at ^= base(node);
            if is_leaf(node) {
                found = self.node(at).and_then(|value| self.text(value)).map(|text| (length, text));
            }
        }
        found
    }

    fn node(&self, at: u32) -> Option<u32> {
        self.nodes.get(usize::try_from(at).ok()?).copied()
    }

    /// The text at a leaf's place, which ends with a zero.
    fn text(&self, value: u32) -> Option<&str> {
        let start = usize::try_from(value & (u32::MAX >> 1)).ok()?;
        let rest = self.texts.get(start..)?;
        let len = rest.iter().take(SEQUENCE_BYTES_MAX).position(|&byte| byte == 0)?;
        std::str::from_utf8(rest.get(..len)?).ok()
    }
}

/// Where the children of a node lie: 21 bits, which bit 9 moves up by eight.
const fn base(node: u32) -> u32 {
    (node >> 10) << ((node & (1 << 9)) >> 6)
}

/// The byte that leads to a node; leaves, marked by the highest bit, are reached by none.
const fn check(node: u32) -> u32 {
    node & ((1 << 31) | 0xff)
}

const fn is_leaf(node: u32) -> bool {
    (node >> 8) & 1 == 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_table_makes_the_search_fail(
            nodes in prop::collection::vec(any::<u32>(), 0..600),
            texts in prop::collection::vec(any::<u8>(), 0..100),
            text in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let nodes: Vec<u8> = nodes.iter().flat_map(|node| node.to_le_bytes()).collect();
            let mut bytes = u32::try_from(nodes.len()).unwrap().to_le_bytes().to_vec();
            bytes.extend(nodes);
            bytes.extend(texts);
            let map = Charsmap::new(&bytes).unwrap();
            if let Some((len, becomes)) = map.replaced(&text) {
                prop_assert!(len <= text.len() && becomes.len() < SEQUENCE_BYTES_MAX);
            }
        }
    }

    #[test]
    fn a_table_that_is_cut_short_is_none() {
        assert!(Charsmap::new(&[]).is_none());
        assert!(Charsmap::new(&[8, 0, 0, 0, 1, 2, 3, 4]).is_none());
        assert!(Charsmap::new(&[3, 0, 0, 0, 1, 2, 3]).is_none());
    }
}
