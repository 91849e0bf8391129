//! Stop strings: the text ends before the first of them, wherever tokens happen to be cut.

/// Watches a text for stop strings and holds back what may become one.
#[derive(Debug, Default)]
pub(crate) struct StopWatch {
    stops: Vec<String>,
    held: String,
}

/// What may be given out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Released {
    pub(crate) text: String,
    /// Whether a stop string was met; the text ends before it.
    pub(crate) stopped: bool,
}

impl StopWatch {
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }

    /// Adds text and releases what can no longer become part of a stop string. Where nothing is held
    /// back, what comes is what goes, in the same memory.
    pub(crate) fn push(&mut self, text: String) -> Released {
        let mut text = match std::mem::take(&mut self.held) {
            held if held.is_empty() => text,
            held => held + &text,
        };
        let first = self.stops.iter().filter_map(|stop| text.find(stop.as_str())).min();
        if let Some(at) = first {
            text.truncate(at);
            return Released { text, stopped: true };
        }
        let kept = self.stops.iter().map(|stop| overlap(&text, stop)).max().unwrap_or(0);
        if kept > 0 {
            self.held = text.split_off(text.len() - kept);
        }
        Released { text, stopped: false }
    }

    /// What was held back when nothing more comes.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes of the longest end of `text` that `stop` begins with.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices()
        .map(|(at, _)| at)
        .rev()
        .find(|&len| text.as_bytes().ends_with(&stop.as_bytes()[..len]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stream(stops: &[String], pieces: &[&str]) -> (String, bool) {
        let mut watch = StopWatch::new(stops.to_vec());
        let mut out = String::new();
        for piece in pieces {
            let released = watch.push((*piece).to_owned());
            out.push_str(&released.text);
            if released.stopped {
                return (out, true);
            }
        }
        out.push_str(&watch.finish());
        (out, false)
    }

    #[test]
    fn a_stop_string_across_tokens_is_never_part_of_the_text() {
        let stops = ["\n\nUser:".to_owned()];
        let got = stream(&stops, &["Hi", "\n", "\nUs", "er", ": more"]);
        assert_eq!(got, ("Hi".to_owned(), true));
    }

    #[test]
    fn text_that_only_looked_like_a_stop_string_is_given_out() {
        let stops = ["END".to_owned(), "é!".to_owned()];
        let got = stream(&stops, &["E", "N", "d é", "?"]);
        assert_eq!(got, ("ENd é?".to_owned(), false));
    }

    proptest! {
        #[test]
        fn any_cut_of_a_text_stops_where_the_whole_text_does(
            text in "[abé]{0,24}",
            stops in prop::collection::vec("[abé]{1,4}", 0..3),
            cut in 0..24_usize,
        ) {
            let whole = stops.iter().filter_map(|stop| text.find(stop.as_str())).min();
            let want = (text[..whole.unwrap_or(text.len())].to_owned(), whole.is_some());
            let mut cut = cut.min(text.len());
            while !text.is_char_boundary(cut) { cut -= 1; }
            let chars: Vec<String> = text.chars().map(String::from).collect();
            let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
            prop_assert_eq!(stream(&stops, &[&text[..cut], &text[cut..]]).1, want.1);
            prop_assert_eq!(stream(&stops, &chars).1, want.1);
            if want.1 {
                // A later stop string may end first when tokens are cut between, but none is ever shown.
                let (shown, _) = stream(&stops, &chars);
                prop_assert!(stops.iter().all(|stop| !shown.contains(stop.as_str())));
            } else {
                prop_assert_eq!(stream(&stops, &chars), want);
            }
        }
    }
}
