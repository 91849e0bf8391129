//! Which tokens a text starts with.
//!
//! Looking takes a step for each byte of the longest token that goes on with the text, so a limit
//! on the length of tokens bounds what each place of a text costs, however many tokens there are.

/// Spellings in order, byte by byte.
#[derive(Default)]
pub(super) struct Prefixes {
    sorted: Vec<(Box<[u8]>, u32)>,
    /// The bytes with which some spelling starts.
    starts: Vec<bool>,
}

impl Prefixes {
    /// Of spellings with their ids; empty ones are no prefix of anything.
    pub(super) fn new(spellings: impl Iterator<Item = (Box<[u8]>, u32)>) -> Self {
        let mut sorted: Vec<_> = spellings.filter(|(spelling, _)| !spelling.is_empty()).collect();
        sorted.sort_unstable();
        let mut starts = vec![false; 256];
        for (spelling, _) in &sorted {
            if let Some(&first) = spelling.first() {
                starts[usize::from(first)] = true;
            }
        }
        Self { sorted, starts }
    }

    /// All spellings, in order.
    pub(super) fn spellings(&self) -> impl Iterator<Item = (&[u8], u32)> {
        self.sorted.iter().map(|(spelling, id)| (&**spelling, *id))
    }

    /// The length and the id of each spelling that `text` starts with, the shortest first.
    pub(super) fn of<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, u32)> + 'a {
        let starts = text.first().is_some_and(|&first| self.starts[usize::from(first)]);
        let mut left = if starts { self.sorted.as_slice() } else { &[] };
        text.iter()
            .enumerate()
            .map_while(move |(depth, byte)| {
                left = going_on(left, depth, *byte);
                let ((spelling, id), longer) = left.split_first()?;
                // The spelling that ends here comes before all that go on from it.
                let ends = spelling.len() == depth + 1;
                if ends {
                    left = longer;
                }
                Some(ends.then_some((depth + 1, *id)))
            })
            .flatten()
    }
}

/// Those of `spellings` that go on with `byte`. They are in order, alike in their first `depth`
/// bytes and longer than that.
fn going_on(spellings: &[(Box<[u8]>, u32)], depth: usize, byte: u8) -> &[(Box<[u8]>, u32)] {
    let at = |spelling: &(Box<[u8]>, u32)| spelling.0.get(depth).copied();
    let ends = [spellings.first(), spellings.last()].map(|end| end.and_then(at));
    if ends == [Some(byte); 2] {
        // All of them: mostly there is only one left.
        return spellings;
    }
    let start = spellings.partition_point(|spelling| at(spelling) < Some(byte));
    let end = spellings.partition_point(|spelling| at(spelling) <= Some(byte));
    &spellings[start..end]
}
