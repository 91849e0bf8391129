//! A pool of a model with layers of both kinds.

use super::*;

/// One band of layers that attend everything, and two of layers that attend `window` tokens.
const fn mixed(window: usize) -> Layout {
    Layout { block_tokens: BLOCK, whole: 1, windowed: 2, window }
}

/// How many blocks a table holds of each band.
fn held(table: &BlockTable) -> Vec<usize> {
    table.bands.iter().map(|band| band.blocks.len() - band.gone).collect()
}

#[test]
fn only_blocks_of_layers_with_a_window_are_given_back() {
    let mut pool = pool_of(24, mixed(6));
    let tokens: Vec<u32> = (0..32).collect();
    let mut table = pool.open(&alone(0), &tokens);
    pool.grow(&mut table, 32, 24).unwrap();
    for (computed, gone) in [(0, 0), (8, 0), (9, 1), (12, 1), (13, 2), (32, 6)] {
        pool.seal(&mut table, &tokens, computed);
        pool.slide(&mut table, computed);
        assert_eq!(held(&table), [8, 8 - gone, 8 - gone], "after {computed}");
        assert_eq!((pool.used(), pool.idle()), (24 - 2 * gone, 2 * gone));
    }
    pool.release(table);
    assert_eq!((pool.used(), pool.idle()), (0, 24));
}

#[test]
fn a_sequence_begins_with_all_its_blocks_of_one_kind_and_a_steps_of_the_other() {
    let mut pool = pool_of(24, mixed(6));
    let tokens: Vec<u32> = (0..32).collect();
    let mut table = pool.open(&alone(0), &tokens);
    pool.begin(&mut table, (32, 10), 24).unwrap();
    assert_eq!(held(&table), [8, 3, 3]);
    assert_eq!(table.held_count(), 14);
    pool.release(table);
}

#[test]
fn a_quota_counts_the_blocks_of_all_bands() {
    let mut pool = pool_of(24, mixed(6));
    let mut table = pool.open(&alone(0), &[1]);
    assert_eq!(pool.grow(&mut table, 8, 5), Err(NoBlock::Quota));
    assert_eq!((pool.used_by(&tenant(0)), table.held_count()), (5, 5));
    // What it lacked comes when the quota has it.
    pool.grow(&mut table, 8, 6).unwrap();
    assert_eq!(held(&table), [2, 2, 2]);
    pool.release(table);
    assert_eq!((pool.used(), pool.idle()), (0, 0));
}

/// A pool of so many blocks in which the first tenant has computed and released 33 tokens: eight
/// blocks of each band can be found.
fn computed(blocks: u32, window: usize) -> (BlockPool, Vec<u32>) {
    let mut pool = pool_of(blocks, mixed(window));
    let tokens: Vec<u32> = (0..33).collect();
    run(&mut pool, &tenant(0), &tokens, 27);
    assert_eq!(pool.idle(), 24);
    (pool, tokens)
}

/// Forgets what is cached of block number `at` of the tokens in one band.
fn forget(pool: &mut BlockPool, tokens: &[u32], (at, band): (usize, usize)) {
    let mut chain = Vec::new();
    pool.cached_blocks(&alone(0), tokens, &mut chain);
    let id = pool.cached.remove(&(chain[at], band)).unwrap();
    let block = &mut pool.blocks[id as usize];
    let (keeper, since) = block.idle.take().unwrap();
    block.hash = None;
    pool.holdings.take_idle(&keeper, since);
    pool.free.push(id);
}

#[test]
fn a_prefix_needs_all_its_blocks_of_one_kind_and_its_windows_of_the_other() {
    // The window of what follows 32 tokens begins in their sixth block, that of 28 in their fifth.
    for (lost, found) in [
        ((0, 0), 0),
        ((5, 0), 20),
        ((7, 0), 28),
        ((0, 1), 32),
        ((4, 2), 32),
        // Behind what is missing there is no whole window.
        ((5, 1), 20),
        ((7, 2), 28),
        ((6, 1), 24),
    ] {
        let (mut pool, tokens) = computed(27, 10);
        forget(&mut pool, &tokens, lost);
        assert_eq!(run_cached(&mut pool, &tokens), found, "without {lost:?}");
    }
}

#[test]
fn who_goes_on_from_a_prefix_holds_all_of_it_in_one_band_and_its_window_in_the_others() {
    let (mut pool, tokens) = computed(27, 10);
    let table = pool.open(&alone(0), &tokens);
    assert_eq!(held(&table), [8, 3, 3]);
    assert_eq!((pool.used(), pool.idle()), (14, 10));
    pool.release(table);
}

#[test]
fn what_is_missing_is_computed_again_and_the_rest_is_shared() {
    let (mut pool, tokens) = computed(32, 10);
    forget(&mut pool, &tokens, (7, 2));
    assert_eq!(run(&mut pool, &tenant(0), &tokens, 32), 28);
    assert_eq!(run_cached(&mut pool, &tokens), 32);
    assert_eq!(pool.idle(), 24);
}

#[test]
fn what_lies_behind_a_window_goes_before_the_window_itself() {
    let (mut pool, tokens) = computed(27, 10);
    // Three blocks are free, and of ten that are hidden from what comes next nine go for the rest.
    let mut other = pool.open(&alone(1), &[99]);
    pool.begin(&mut other, (4 * BLOCK, 4 * BLOCK), 27).unwrap();
    assert_eq!(run_cached(&mut pool, &tokens), 32);
    pool.grow(&mut other, 5 * BLOCK, 27).unwrap();
    assert_eq!(run_cached(&mut pool, &tokens), 0);
    pool.release(other);
}

#[test]
fn a_prefix_is_kept_whole_in_one_band_and_its_window_in_the_others() {
    let mut pool = pool_of(48, mixed(6));
    let tokens: Vec<u32> = (0..33).collect();
    // What follows 32 tokens sees the last five of them, in two blocks.
    let pin = pool.pin(&alone(0), &tokens, 0);
    assert_eq!(pin.len(), 8 + 2 * 2);
    assert_eq!(pool.layout().kept_blocks(33, 0), 9 + 2 * 3);
    // Behind twelve tokens of it five blocks of eight.
    let behind = pool.pin(&alone(0), &tokens, 12);
    assert_eq!(behind.len(), 5 + 2 * 2);
    run(&mut pool, &tenant(0), &tokens, 48);
    assert_eq!((pool.idle(), pool.paid()), (24, 12));
    // What the tenant computes besides takes all but what is kept, and that goes on being found.
    for n in 1..9_u32 {
        run(&mut pool, &tenant(0), &(n * 100..n * 100 + 32).collect::<Vec<_>>(), 36);
    }
    assert_eq!((run_cached(&mut pool, &tokens), pool.paid()), (32, 12));
    pool.unpin(pin);
    assert_eq!(pool.paid(), 9);
    pool.unpin(behind);
    assert_eq!(pool.paid(), 0);
}

#[test]
fn a_prefix_of_whole_blocks_is_kept_for_who_goes_on_from_exactly_it() {
    let mut pool = pool_of(48, mixed(6));
    let tokens: Vec<u32> = (0..32).collect();
    // Its last token is computed again, so that all but a block are used, and what precedes these.
    let pin = pool.pin(&alone(0), &tokens, 0);
    assert_eq!(pin.len(), 8 + 2 * 3);
    run(&mut pool, &tenant(0), &tokens, 32);
    for n in 1..9_u32 {
        run(&mut pool, &tenant(0), &(n * 100..n * 100 + 32).collect::<Vec<_>>(), 38);
    }
    assert_eq!(run_cached(&mut pool, &tokens), 28);
    pool.unpin(pin);
}

/// The most blocks of one band that a sequence of `tokens` tokens holds, computed in steps of 256
/// rows, and those that it holds in the end.
fn held_by(layout: Layout, tokens: usize) -> (u64, u64) {
    let ids: Vec<u32> = (0..).take(tokens).collect();
    let mut pool = pool_of(1 << 16, layout);
    let mut table = pool.open(&alone(0), &ids);
    let mut most = 0;
    for computed in (256..=tokens).step_by(256) {
        pool.grow(&mut table, computed, usize::MAX).unwrap();
        most = most.max(table.held_count());
        pool.seal(&mut table, &ids, computed);
        pool.slide(&mut table, computed);
    }
    let last = table.held_count();
    pool.release(table);
    (most, last)
}

#[test]
fn a_sequence_of_8192_tokens_holds_a_quarter_of_the_blocks_that_it_would_without_windows() {
    // Gemma 3 of 270 million parameters: six bands of three layers, of which five attend 512 tokens.
    let layout = Layout { block_tokens: 32, whole: 1, windowed: 5, window: 512 };
    let (most, last) = held_by(layout, 8192);
    assert_eq!((most, last), (256 + 5 * 24, 256 + 5 * 16));
    assert!(most <= layout.held_max(8192, 256) as u64);
    let in_all_layers = |blocks: u64| layout.in_all_layers(usize::try_from(blocks).unwrap());
    assert_eq!((in_all_layers(most), in_all_layers(last)), (63, 56));
    let without = Layout::of_one_kind(32, None);
    assert_eq!(held_by(without, 8192), (256, 256));
}

/// What was written for one token: in which band, for whom, and behind which tokens.
type Written = (usize, String, Vec<u32>);

/// What each place of each block holds.
#[derive(Default)]
struct Memory(HashMap<(BlockId, usize), Written>);

impl Memory {
    /// Computes the tokens from `sequence.computed` to `wanted`, as a step does: they are written in
    /// every band, and each reads what its window, or all, of the band shows it.
    fn compute(&mut self, layout: &Layout, sequence: &Open, wanted: usize) {
        let Open { owner, tokens, computed, table, .. } = sequence;
        let place = |band: &Band, token: usize| (band.blocks[token / BLOCK], token % BLOCK);
        let written = |band: usize, token: usize| {
            let user = owner.of_block(token / BLOCK, BLOCK);
            let whose = user.group.map_or_else(|| user.tenant.to_string(), ToString::to_string);
            (band, whose, tokens[..=token].to_vec())
        };
        for (number, band) in table.bands.iter().enumerate() {
            for token in *computed..wanted {
                self.0.insert(place(band, token), written(number, token));
            }
        }
        for (number, band) in table.bands.iter().enumerate() {
            for row in *computed..wanted {
                let is_windowed = number >= layout.whole;
                let first = if is_windowed { (row + 1).saturating_sub(layout.window) } else { 0 };
                for token in first..=row {
                    assert!(token / BLOCK >= band.gone, "{token} is given back and seen by {row}");
                    let found = self.0.get(&place(band, token));
                    assert_eq!(found, Some(&written(number, token)), "{row} reads {token}");
                }
            }
        }
    }
}

fn layout() -> impl Strategy<Value = Layout> {
    let bands = prop_oneof![Just((1, 0)), Just((0, 1)), (1..3_usize, 1..4_usize)];
    (bands, 1..16_usize).prop_map(|((whole, windowed), window)| Layout {
        block_tokens: BLOCK,
        whole,
        windowed,
        window,
    })
}

proptest! {
    #[test]
    fn whatever_is_given_back_and_found_again_each_token_reads_what_was_written_for_it(
        acts in prop::collection::vec(act(), 0..80),
        layout in layout(),
    ) {
        let blocks = layout.in_bands(12);
        let mut pool = pool_of(u32::try_from(blocks).unwrap(), layout);
        let mut memory = Memory::default();
        let (mut open, mut pins) = (Vec::<Open>::new(), Vec::<Pin>::new());
        for act in acts {
            match act {
                Act::Open { tenant: n, start, len, public } => {
                    let tokens: Vec<u32> = (start..).take(len + 40).collect();
                    let owner = public.map_or_else(|| alone(n), |public| member(n, "g", public));
                    let mut table = pool.open(&owner, &tokens[..len]);
                    let computed = table.sealed_tokens(&layout);
                    prop_assert!(computed < len);
                    if pool.begin(&mut table, (len, 8), blocks).is_ok() {
                        let most = layout.held_max(len, 8);
                        prop_assert!(table.held_count() <= most as u64);
                    }
                    open.push(Open { owner, tokens, asked: len, computed, table });
                }
                Act::Grow { which, by, quota } if !open.is_empty() => {
                    let at = which % open.len();
                    let sequence = &mut open[at];
                    let wanted = (sequence.computed + by).min(sequence.tokens.len());
                    let quota = layout.in_bands(quota);
                    sequence.asked = sequence.asked.max(wanted);
                    if pool.grow(&mut sequence.table, wanted, quota).is_ok() {
                        memory.compute(&layout, sequence, wanted);
                        sequence.computed = wanted;
                        pool.seal(&mut sequence.table, &sequence.tokens, wanted);
                        pool.slide(&mut sequence.table, wanted);
                        let most = layout.held_max(sequence.asked, 8);
                        prop_assert!(sequence.table.held_count() <= most as u64);
                    }
                }
                Act::Release { which } if !open.is_empty() => {
                    let sequence = open.swap_remove(which % open.len());
                    pool.release(sequence.table);
                }
                Act::Pin { tenant: n, start, len, kept, public } => {
                    let tokens: Vec<u32> = (start..).take(len).collect();
                    let owner = public.map_or_else(|| alone(n), |public| member(n, "g", public));
                    pins.push(pool.pin(&owner, &tokens, kept.min(len)));
                }
                Act::Unpin { which } if !pins.is_empty() => {
                    pool.unpin(pins.swap_remove(which % pins.len()));
                }
                Act::Grow { .. } | Act::Release { .. } | Act::Unpin { .. } => {}
            }
            check_conserved(&pool, &open, &pins);
        }
        for sequence in open {
            pool.release(sequence.table);
        }
        for pin in pins {
            pool.unpin(pin);
        }
        prop_assert_eq!((pool.used(), pool.paid()), (0, 0));
    }
}
