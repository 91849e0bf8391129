//! Which block of threads attends what: a batch's spans as `kernels/attention.cu` reads them.
//!
//! A line is one query head at one row. Neighbouring lines of a span that read the same KV head make an
//! item; a block of threads takes an item and a KV head, and where there are too few of those to fill
//! the device, several blocks share an item's tokens and their parts are merged.

use realm_kernels::backend::{Attention, BackendError, KvShape, Reach};

/// Lines that a block keeps in its registers: LINES in attention.cu.
const fn lines_max(head_dim: usize) -> usize {
    if head_dim > 128 { 2 } else { 4 }
}

/// Tokens for which a block of its own is worth while: sixteen are at work at once.
const PIECE_TOKENS: usize = 64;
/// Blocks of 128 threads that a multiprocessor runs at once, by the registers they take.
const BLOCKS_AT_ONCE: usize = 3;

/// A batch in words, kept between calls.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Spans of four words each, items of two, then the block tables.
    pub(crate) words: Vec<u32>,
    /// Where the items and the tables begin among the words.
    pub(crate) items_at: usize,
    pub(crate) tables_at: usize,
    pub(crate) items: u32,
    /// Blocks that share the tokens of each item.
    pub(crate) splits: u32,
}

/// What a device can run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) processors: usize,
    /// Floats for the parts of items.
    pub(crate) parts: usize,
    /// Words for a plan.
    pub(crate) words: usize,
}

/// Floats that the parts of an item take, for each KV head and split.
pub(crate) const fn part_floats(head_dim: usize) -> usize {
    lines_max(head_dim) * (head_dim + 2)
}

impl Plan {
    pub(crate) fn with_capacity(words: usize) -> Self {
        Self { words: Vec::with_capacity(words), ..Self::default() }
    }

    /// Plans a batch whose spans were checked.
    pub(crate) fn make(
        &mut self,
        call: &Attention<'_>,
        shape: &KvShape,
        room: Room,
    ) -> Result<(), BackendError> {
        let (group, lines_max) = (call.heads / shape.kv_heads, lines_max(shape.head_dim));
        let items =
            call.spans.iter().map(|span| (span.rows * group).div_ceil(lines_max)).sum::<usize>();
        let blocks_of = |tokens: usize| tokens.div_ceil(shape.block_tokens);
        let tables: usize = call.spans.iter().map(|span| blocks_of(span.past + span.rows)).sum();
        let need = call.spans.len() * 4 + items.saturating_mul(2).saturating_add(tables);
        if need > room.words {
            let (op, what, have) = ("attention", "words of a batch", room.words);
            return Err(BackendError::Shape { op, what, need, have });
        }
        self.words.clear();
        let mut table_at = 0;
        for span in call.spans {
            let words = [span.first_row, span.rows, span.past, table_at];
            self.words.extend(words.map(word));
            table_at += blocks_of(span.past + span.rows);
        }
        self.items_at = self.words.len();
        for (index, span) in call.spans.iter().enumerate() {
            let lines = (0..span.rows * group).step_by(lines_max);
            self.words.extend(lines.flat_map(|line| [word(index), word(line)]));
        }
        self.tables_at = self.words.len();
        for span in call.spans {
            self.words.extend(&span.blocks[..blocks_of(span.past + span.rows)]);
        }
        self.items = word(items);
        self.splits = word(splits(call, shape, items, room));
        Ok(())
    }
}

/// Blocks for each item, so that the device is full where there is enough to read.
fn splits(call: &Attention<'_>, shape: &KvShape, items: usize, room: Room) -> usize {
    let blocks = items.saturating_mul(shape.kv_heads).max(1);
    let wanted = (room.processors * BLOCKS_AT_ONCE) / blocks;
    let seen = call.spans.iter().map(|span| longest(call, span.past, span.rows)).max();
    let worth = seen.unwrap_or(0).div_ceil(PIECE_TOKENS);
    let fit = room.parts / blocks.saturating_mul(part_floats(shape.head_dim)).max(1);
    wanted.min(worth).min(fit).max(1)
}

/// Tokens that one item of a span sees at most.
fn longest(call: &Attention<'_>, past: usize, rows: usize) -> usize {
    let len = past + rows;
    match (call.reach, call.window) {
        (_, None) => len,
        (Reach::Back, Some(window)) => len.min(window.saturating_add(rows)),
        (Reach::Both, Some(window)) => len.min(window.saturating_add(rows).saturating_add(1)),
    }
}

/// Rows, tokens and lines of a batch fit its lists, whose words were counted.
fn word(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use realm_kernels::backend::{KvType, Span};

    use super::*;

    const ROOM: Room = Room { processors: 132, parts: 1 << 20, words: 1 << 16 };

    fn shape(kv_heads: usize, head_dim: usize) -> KvShape {
        let kv_type = KvType::F16;
        KvShape { layers: 1, kv_heads, head_dim, blocks: 4096, block_tokens: 16, kv_type }
    }

    fn call<'a>(heads: usize, spans: &'a [Span<'a>]) -> Attention<'a> {
        let (scale, soft_cap, reach, window) = (1.0, None, Reach::Back, None);
        Attention { layer: 0, heads, scale, soft_cap, reach, window, spans }
    }

    proptest! {
        #[test]
        fn every_line_of_every_span_is_in_one_item(
            (kv_heads, group) in (1_usize..5, 1_usize..10),
            head_dim in prop::sample::select(vec![8, 64, 128, 256]),
            sizes in prop::collection::vec((1_usize..40, 0_usize..300), 1..6),
        ) {
            let tables: Vec<Vec<u32>> = sizes
                .iter()
                .map(|(rows, past)| (0..word((rows + past).div_ceil(16))).rev().collect())
                .collect();
            let mut first_row = 0;
            let spans: Vec<Span<'_>> = sizes
                .iter()
                .zip(&tables)
                .map(|((rows, past), blocks)| {
                    first_row += rows;
                    Span { first_row: first_row - rows, rows: *rows, past: *past, blocks }
                })
                .collect();
            let (shape, mut plan) = (shape(kv_heads, head_dim), Plan::default());
            plan.make(&call(kv_heads * group, &spans), &shape, ROOM).unwrap();
            let items = &plan.words[plan.items_at..plan.tables_at];
            prop_assert_eq!(items.len(), plan.items as usize * 2);
            let mut lines = vec![0; spans.len()];
            for item in items.as_chunks::<2>().0 {
                let (span, line) = (item[0] as usize, item[1] as usize);
                prop_assert_eq!(lines[span], line);
                lines[span] = (line + lines_max(head_dim)).min(spans[span].rows * group);
            }
            for (span, lines) in spans.iter().zip(lines) {
                prop_assert_eq!(lines, span.rows * group);
            }
            for (index, span) in spans.iter().enumerate() {
                let [row, rows, past, table] = plan.words[index * 4..][..4] else { panic!() };
                let at = [row, rows, past].map(|n| n as usize);
                prop_assert_eq!(at, [span.first_row, span.rows, span.past]);
                let table = &plan.words[plan.tables_at + table as usize..][..span.blocks.len()];
                prop_assert_eq!(table, span.blocks);
            }
            let parts = plan.items as usize * kv_heads * plan.splits as usize * part_floats(head_dim);
            prop_assert!(plan.splits == 1 || parts <= ROOM.parts);
        }
    }

    #[test]
    fn one_long_sequence_fills_the_device_and_many_do_so_by_themselves() {
        let blocks: Vec<u32> = (0..512).collect();
        let long = Span { first_row: 0, rows: 1, past: 8000, blocks: &blocks };
        let mut plan = Plan::default();
        plan.make(&call(32, &[long]), &shape(8, 128), ROOM).unwrap();
        assert_eq!((plan.items, plan.splits), (1, 49));
        let spans: Vec<_> = (0..64).map(|first_row| Span { first_row, ..long }).collect();
        plan.make(&call(32, &spans), &shape(8, 128), ROOM).unwrap();
        assert_eq!((plan.items, plan.splits), (64, 1));
        let short = Span { past: 20, ..long };
        plan.make(&call(32, &[short]), &shape(8, 128), ROOM).unwrap();
        assert_eq!((plan.items, plan.splits), (1, 1));
    }

    #[test]
    fn a_batch_beyond_the_list_is_refused() {
        let blocks: Vec<u32> = (0..512).collect();
        let span = Span { first_row: 0, rows: 1, past: 8000, blocks: &blocks };
        let room = Room { words: 400, ..ROOM };
        let refused = Plan::default().make(&call(32, &[span]), &shape(8, 128), room);
        let (need, have) = (4 + 2 + 501, 400);
        let what = "words of a batch";
        assert_eq!(refused, Err(BackendError::Shape { op: "attention", what, need, have }));
    }
}
