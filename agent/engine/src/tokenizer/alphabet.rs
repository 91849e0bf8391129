//! The alphabet in which byte-level vocabularies are written: one printable character a byte.

use std::collections::HashMap;

/// The bytes that characters spell.
pub(super) struct Alphabet {
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
        Self { bytes: (0..=u8::MAX).map(|byte| (spelling(byte), byte)).collect() }
    }

    /// The bytes that `spelled` stands for; `None` if a character stands for none.
    pub(super) fn bytes(&self, spelled: &str) -> Option<Vec<u8>> {
        spelled.chars().map(|c| self.bytes.get(&c).copied()).collect()
    }
}
