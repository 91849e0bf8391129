//! What every backend checks before it touches memory.

use crate::backend::{Attention, BackendError, KvShape};

/// Elements of `rows` rows of `cols`; a product that does not fit is larger than any buffer.
pub fn area(rows: usize, cols: usize) -> usize {
    rows.saturating_mul(cols)
}

/// That each of `ids` is below `limit`.
pub fn check_ids(
    op: &'static str,
    what: &'static str,
    ids: &[u32],
    limit: usize,
) -> Result<(), BackendError> {
    match ids.iter().map(|id| *id as usize).find(|id| *id >= limit) {
        Some(index) => Err(BackendError::Range { op, what, index, limit }),
        None => Ok(()),
    }
}

/// That a cache has the layer.
pub fn check_layer(op: &'static str, layer: usize, shape: &KvShape) -> Result<(), BackendError> {
    let limit = shape.layers;
    if layer < limit {
        Ok(())
    } else {
        Err(BackendError::Range { op, what: "layer", index: layer, limit })
    }
}

/// Checks the spans of a batch and returns the rows it has.
pub fn check_spans(call: &Attention<'_>, shape: &KvShape) -> Result<usize, BackendError> {
    let op = "attention";
    let wrong = |what, need, have| Err(BackendError::Shape { op, what, need, have });
    check_layer(op, call.layer, shape)?;
    if call.heads == 0 || !call.heads.is_multiple_of(shape.kv_heads) {
        return wrong("query heads, not a multiple of kv heads", shape.kv_heads, call.heads);
    }
    if call.window == Some(0) {
        return wrong("tokens of the window", 1, 0);
    }
    let mut end = 0;
    for span in call.spans {
        if span.first_row < end {
            return wrong("first row of a span, in order", end, span.first_row);
        }
        end = span.first_row.saturating_add(span.rows);
        let tokens = span.past.saturating_add(span.rows);
        let blocks = tokens.div_ceil(shape.block_tokens);
        if span.blocks.len() < blocks {
            return wrong("blocks of a span", blocks, span.blocks.len());
        }
        check_ids(op, "block", &span.blocks[..blocks], shape.blocks)?;
    }
    Ok(end)
}
