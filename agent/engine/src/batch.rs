//! What one step computes: the rows of several sequences side by side, or of several texts.

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
    pub(crate) first_row: usize,
    pub(crate) count: usize,
    /// Tokens of the sequence that were computed before.
    pub(crate) past: usize,
    /// The sequence's blocks, in [`Batch::tables`].
    pub(crate) table: std::ops::Range<usize>,
}

/// One step's work. Kept between steps, so that planning allocates nothing once it is warm.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// `(rows)`
    pub(crate) tokens: Vec<u32>,
    /// `(rows)`
    pub(crate) positions: Vec<u32>,
    /// `(rows)`: where each row's keys and values go.
    pub(crate) slots: Vec<u32>,
    pub(crate) spans: Vec<Rows>,
    /// The block tables of all spans, one behind the other.
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
        slots.clear();
        spans.clear();
        tables.clear();
        outputs.clear();
        texts.clear();
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Makes room for block tables of so many blocks in all.
    pub(crate) fn expect_blocks(&mut self, blocks: usize) {
        self.tables.reserve(blocks.saturating_sub(self.tables.len()));
    }

    /// Adds the rows of `tokens`, which come after `past` tokens of their sequence.
    pub(crate) fn push(
        &mut self,
        sequence: SequenceId,
        tokens: &[u32],
        past: usize,
        blocks: &[u32],
        block_tokens: usize,
    ) {
        let first_row = self.tokens.len();
        let table = self.tables.len()..self.tables.len() + blocks.len();
        self.tables.extend(blocks);
        self.tokens.extend(tokens);
        for position in past..past + tokens.len() {
            let slot =
                blocks[position / block_tokens] as usize * block_tokens + position % block_tokens;
            self.positions.push(row_number(position));
            self.slots.push(row_number(slot));
        }
        self.spans.push(Rows { sequence, first_row, count: tokens.len(), past, table });
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
        let (first_row, first_block) = (self.tokens.len(), self.tables.len());
        let blocks = first_block..first_block + tokens.len().div_ceil(TEXT_BLOCK_TOKENS);
        self.tables.extend(blocks.clone().map(row_number));
        self.tokens.extend(tokens);
        for position in 0..tokens.len() {
            self.positions.push(row_number(position));
            self.slots.push(row_number(first_block * TEXT_BLOCK_TOKENS + position));
        }
        let rows = Rows { sequence: call, first_row, count: tokens.len(), past: 0, table: blocks };
        self.spans.push(rows);
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
