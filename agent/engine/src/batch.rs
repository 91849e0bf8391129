//! What one step computes: the rows of several sequences side by side, or of several texts.

use std::ops::Range;

use crate::adapter::AdapterId;

/// Tokens in one block of what a step of texts attends: as few as a backend takes, for most texts end
/// within a block.
pub(crate) const TEXT_BLOCK_TOKENS: usize = 16;
/// Texts in one step: as many as sequences run at once.
pub(crate) const TEXTS_MAX: usize = 64;

/// A sequence's number in its engine, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SequenceId(pub(crate) u64);

/// The rows of one sequence. They are consecutive in the batch and in the sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) sequence: SequenceId,
    /// What they are computed with besides the model.
    pub(crate) adapter: Option<AdapterId>,
    pub(crate) first_row: usize,
    pub(crate) count: usize,
    /// Tokens of the sequence that were computed before.
    pub(crate) past: usize,
    /// Where in [`Batch::tables`] the sequence's blocks of the first band are. Those of the next band
    /// are right behind them.
    table: usize,
    /// How many blocks it has there of each band: those that hold its tokens up to the last row.
    pub(crate) blocks: usize,
}

impl Rows {
    /// The sequence's blocks of one band, in [`Batch::tables`].
    pub(crate) const fn table(&self, band: usize) -> Range<usize> {
        let first = self.table + band * self.blocks;
        first..first + self.blocks
    }
}

/// One step's work. Kept between steps, so that planning allocates nothing once it is warm.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// `(rows)`
    pub(crate) tokens: Vec<u32>,
    /// `(rows)`
    pub(crate) positions: Vec<u32>,
    /// `(bands, rows)`: where each row's keys and values of a band's layers go.
    slots: Vec<Vec<u32>>,
    pub(crate) spans: Vec<Rows>,
    /// The block tables of all spans, one behind the other, of each those of all bands.
    pub(crate) tables: Vec<u32>,
    /// Rows whose logits are wanted, ascending.
    pub(crate) outputs: Vec<u32>,
    /// Of a step of texts: which of its call's texts each span is.
    pub(crate) texts: Vec<usize>,
}

impl Batch {
    pub(crate) fn clear(&mut self) {
        let Self { tokens, positions, slots, spans, tables, outputs, texts } = self;
        tokens.clear();
        positions.clear();
        slots.iter_mut().for_each(Vec::clear);
        spans.clear();
        tables.clear();
        outputs.clear();
        texts.clear();
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Where each row's keys and values go in the layers of one band.
    pub(crate) fn slots(&self, band: usize) -> &[u32] {
        self.slots.get(band).map_or(&[], Vec::as_slice)
    }

    /// Makes room for block tables of so many blocks in all.
    pub(crate) fn expect_blocks(&mut self, blocks: usize) {
        self.tables.reserve(blocks.saturating_sub(self.tables.len()));
    }

    /// Adds the rows of `tokens`, which come after `past` tokens of their sequence. Each of `bands`
    /// are the sequence's blocks in one band of layers.
    pub(crate) fn push<'a>(
        &mut self,
        (sequence, adapter): (SequenceId, Option<AdapterId>),
        tokens: &[u32],
        past: usize,
        bands: impl Iterator<Item = &'a [u32]>,
        block_tokens: usize,
    ) {
        let (first_row, table) = (self.tokens.len(), self.tables.len());
        let rows = past..past + tokens.len();
        let blocks = rows.end.div_ceil(block_tokens);
        self.tokens.extend(tokens);
        self.positions.extend(rows.clone().map(row_number));
        for (band, own) in bands.enumerate() {
            self.tables.extend(&own[..blocks]);
            let slot = |position| {
                own[position / block_tokens] as usize * block_tokens + position % block_tokens
            };
            self.slots_of(band).extend(rows.clone().map(slot).map(row_number));
        }
        let count = tokens.len();
        self.spans.push(Rows { sequence, adapter, first_row, count, past, table, blocks });
    }

    fn slots_of(&mut self, band: usize) -> &mut Vec<u32> {
        while self.slots.len() <= band {
            self.slots.push(Vec::new());
        }
        &mut self.slots[band]
    }

    /// The sequences whose logits were wanted, each with its place among the outputs.
    pub(crate) fn finished(&self) -> impl Iterator<Item = (SequenceId, usize)> {
        let mut output = 0;
        self.spans.iter().filter_map(move |span| {
            let last = span.first_row + span.count - 1;
            let is_wanted = self.outputs.get(output).is_some_and(|&row| row as usize == last);
            is_wanted.then(|| {
                output += 1;
                (span.sequence, output - 1)
            })
        })
    }

    /// Adds a whole text, number `text` of its call. It holds blocks for the length of the step
    /// only, so texts take one after the other.
    pub(crate) fn push_text(&mut self, call: SequenceId, text: usize, tokens: &[u32]) {
        let (first_row, table) = (self.tokens.len(), self.tables.len());
        let (count, blocks) = (tokens.len(), tokens.len().div_ceil(TEXT_BLOCK_TOKENS));
        self.tables.extend((table..table + blocks).map(row_number));
        self.tokens.extend(tokens);
        self.positions.extend((0..count).map(row_number));
        let slot = |position| row_number(table * TEXT_BLOCK_TOKENS + position);
        self.slots_of(0).extend((0..count).map(slot));
        let (sequence, adapter) = (call, None);
        self.spans.push(Rows { sequence, adapter, first_row, count, past: 0, table, blocks });
        self.texts.push(text);
    }

    /// Asks for the logits of the last row.
    pub(crate) fn want_last(&mut self) {
        self.outputs.push(row_number(self.tokens.len() - 1));
    }
}

/// Rows, positions and slots are below the bounds on context and cache that loading checks.
fn row_number(n: usize) -> u32 {
    u32::try_from(n).expect("contexts and caches were checked to count in 32 bits")
}
