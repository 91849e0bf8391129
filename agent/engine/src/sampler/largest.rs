//! The largest of many logits, in lanes.

/// The id of the largest logit, the lowest of equals. NaN is never the largest.
///
/// The largest of a block is found first, in lanes that need not know where it is, and its place once.
pub(crate) fn argmax(logits: &[f32]) -> Option<u32> {
    const BLOCK: usize = 512;
    let mut best = (0, f32::NEG_INFINITY);
    for (at, block) in logits.chunks(BLOCK).enumerate() {
        let most = largest(block);
        if most > best.1 {
            best = (at, most);
        }
    }
    let (at, most) = best;
    let block = logits.chunks(BLOCK).nth(at).filter(|_| most.is_finite())?;
    let place = block.iter().position(|logit| *logit >= most)?;
    u32::try_from(at * BLOCK + place).ok()
}

/// The largest that is a number; below all where none is.
pub(super) fn largest(logits: &[f32]) -> f32 {
    const LANES: usize = 32;
    let most = |a: f32, b: f32| if b > a { b } else { a };
    let (lanes, rest) = logits.as_chunks::<LANES>();
    let mut all = [f32::NEG_INFINITY; LANES];
    for lane in lanes {
        for (all, logit) in all.iter_mut().zip(lane) {
            *all = most(*all, *logit);
        }
    }
    all.iter().chain(rest).copied().fold(f32::NEG_INFINITY, most)
}
