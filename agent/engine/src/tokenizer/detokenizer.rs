//! Bytes of tokens to text as they come: a character is given out once it is whole.

/// Holds back the bytes of a character that is not whole yet: three at most.
#[derive(Debug, Default)]
pub(crate) struct Detokenizer {
    pending: Vec<u8>,
}

impl Detokenizer {
    /// The text that `bytes` complete. Bytes that can never become a character give U+FFFD.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend(bytes);
        let mut text = String::new();
        let mut held = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            held = chunk.invalid().len();
            if held > 0 {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        let tail = self.pending.len() - held;
        if held > 0 && is_unfinished(&self.pending[tail..]) {
            text.pop();
            self.pending.drain(..tail);
        } else {
            self.pending.clear();
        }
        text
    }

    /// What is left when nothing more comes.
    pub(crate) fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

/// Whether `bytes` could be the start of a character.
fn is_unfinished(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_cut_anywhere_comes_out_whole(text in ".{0,40}", cuts in prop::collection::vec(0..160_usize, 0..8)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut detokenizer = Detokenizer::default();
            let mut out = String::new();
            for pair in cuts.windows(2) {
                out.push_str(&detokenizer.push(&bytes[pair[0]..pair[1]]));
            }
            out.push_str(&detokenizer.finish());
            prop_assert_eq!(out, text);
        }

        #[test]
        fn any_bytes_give_what_a_lossy_reading_of_the_whole_gives(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut detokenizer = Detokenizer::default();
            let mut out = String::new();
            for byte in &bytes {
                out.push_str(&detokenizer.push(std::slice::from_ref(byte)));
            }
            out.push_str(&detokenizer.finish());
            prop_assert_eq!(out, String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn an_emoji_waits_for_its_last_byte() {
        let mut detokenizer = Detokenizer::default();
        let texts: Vec<String> = "a😀".bytes().map(|byte| detokenizer.push(&[byte])).collect();
        assert_eq!(texts, ["a", "", "", "", "😀"]);
    }
}
