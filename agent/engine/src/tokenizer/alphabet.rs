//! The alphabet in which byte-level vocabularies are written: one printable character a byte.

use std::collections::HashMap;

/// Both directions between bytes and the characters that spell them.
pub(super) struct Alphabet {
    spellings: Vec<String>,
    bytes: HashMap<char, u8>,
}

impl Alphabet {
    /// Printable characters of Latin-1 stand for themselves, the other bytes for the characters
    /// from U+0100 on, in order.
    pub(super) fn new() -> Self {
        let mut next = 0x100_u32;
        let mut spelling = |byte: u8| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).expect("U+0100 to U+0143 are characters")
            }
        };
        let characters: Vec<char> = (0..=u8::MAX).map(&mut spelling).collect();
        let bytes = characters.iter().copied().zip(0..=u8::MAX).collect();
        Self { spellings: characters.into_iter().map(String::from).collect(), bytes }
    }

    /// The spelling of a byte.
    pub(super) fn spelling(&self, byte: usize) -> &str {
        &self.spellings[byte]
    }

    /// The bytes that `spelled` stands for; `None` if a character stands for none.
    pub(super) fn bytes(&self, spelled: &str) -> Option<Vec<u8>> {
        spelled.chars().map(|c| self.bytes.get(&c).copied()).collect()
    }
}
