use proptest::prelude::*;
use realm_core::desired::Sha256;
use realm_kernels::backend::KvType;

use super::*;

const BLOCK: usize = 4;

fn pool(blocks: u32) -> BlockPool {
    windowed(blocks, None)
}

fn windowed(blocks: u32, window: Option<usize>) -> BlockPool {
    let namespace = Namespace::new(Secret([7; 32]), Sha256([1; 32]), KvType::F16);
    BlockPool::new(blocks, Layout { block_tokens: BLOCK, window }, namespace)
}

fn tenant(n: usize) -> TenantName {
    TenantName::new("default", &format!("t{n}")).unwrap()
}

/// Runs a whole sequence through the pool and returns how many of its tokens were cached.
fn run(pool: &mut BlockPool, tenant: &TenantName, tokens: &[u32], quota: usize) -> usize {
    let mut table = pool.open(tenant, tokens);
    let cached = table.blocks().len() * BLOCK;
    pool.grow(&mut table, tokens.len(), quota).unwrap();
    pool.seal(&mut table, tokens, tokens.len());
    pool.slide(&mut table, tokens.len());
    pool.release(table);
    cached
}

#[test]
fn blocks_that_a_window_hides_for_good_are_given_back_and_no_others() {
    let mut pool = windowed(8, Some(6));
    let tokens: Vec<u32> = (0..32).collect();
    let mut table = pool.open(&tenant(0), &tokens);
    pool.grow(&mut table, 32, 8).unwrap();
    // Token `computed` sees the five before itself.
    for (computed, gone) in [(0, 0), (8, 0), (9, 1), (12, 1), (13, 2), (32, 6)] {
        pool.seal(&mut table, &tokens, computed);
        pool.slide(&mut table, computed);
        assert_eq!(table.held().len(), 8 - gone, "after {computed}");
        assert_eq!((pool.used(), pool.idle()), (8 - gone, gone));
    }
    pool.release(table);
    assert_eq!((pool.used(), pool.idle()), (0, 8));
}

#[test]
fn a_prefix_is_gone_on_from_where_its_window_is_cached_and_nowhere_else() {
    let tokens: Vec<u32> = (0..33).collect();
    // The window of what follows 32 tokens begins in their sixth block.
    let mut windows = windowed(9, Some(10));
    run(&mut windows, &tenant(0), &tokens, 9);
    let taken = |pool: &mut BlockPool, count: usize| {
        let mut other = pool.open(&tenant(1), &[99]);
        pool.grow(&mut other, count * BLOCK, 9).unwrap();
        other
    };
    // The block that was not full, and five of those that nobody needs for that.
    let other = taken(&mut windows, 6);
    assert_eq!(run_cached(&mut windows, &tokens), 32);
    windows.release(other);
    let other = taken(&mut windows, 7);
    assert_eq!(run_cached(&mut windows, &tokens), 0);
    windows.release(other);
    // Without a window the first block that is missing ends it.
    let mut whole = pool(9);
    run(&mut whole, &tenant(0), &tokens, 9);
    let mut other = whole.open(&tenant(1), &[99]);
    whole.grow(&mut other, 2 * BLOCK, 9).unwrap();
    // From the end, so that a prefix outlives what continues it.
    assert_eq!(run_cached(&mut whole, &tokens), 28);
    whole.release(other);
}

/// How many of these tokens the first tenant would find now.
fn run_cached(pool: &mut BlockPool, tokens: &[u32]) -> usize {
    let table = pool.open(&tenant(0), tokens);
    let cached = table.blocks().len() * BLOCK;
    pool.release(table);
    cached
}

#[test]
fn a_tenant_finds_its_own_prefix_again() {
    let mut pool = pool(8);
    let tokens: Vec<u32> = (0..12).collect();
    assert_eq!(run(&mut pool, &tenant(0), &tokens, 8), 0);
    // The last block holds the last token, which must be computed.
    assert_eq!(run(&mut pool, &tenant(0), &tokens, 8), 8);
    assert_eq!(run(&mut pool, &tenant(0), &(0..13).collect::<Vec<_>>(), 8), 12);
    assert_eq!(run(&mut pool, &tenant(0), &[0, 1, 2, 9, 4, 5], 8), 0);
}

#[test]
fn a_second_tenant_with_the_same_prompt_never_gets_the_first_ones_blocks() {
    let mut pool = pool(16);
    let tokens: Vec<u32> = (0..12).collect();
    run(&mut pool, &tenant(0), &tokens, 16);
    assert_eq!(run(&mut pool, &tenant(1), &tokens, 16), 0);
}

#[test]
fn another_secret_model_or_kv_type_starts_another_chain() {
    let roots = [
        Namespace::new(Secret([7; 32]), Sha256([1; 32]), KvType::F16),
        Namespace::new(Secret([8; 32]), Sha256([1; 32]), KvType::F16),
        Namespace::new(Secret([7; 32]), Sha256([2; 32]), KvType::F16),
        Namespace::new(Secret([7; 32]), Sha256([1; 32]), KvType::F32),
    ]
    .map(|namespace| namespace.root(&tenant(0)));
    let distinct: std::collections::HashSet<_> = roots.into_iter().collect();
    assert_eq!(distinct.len(), 4);
}

#[test]
fn a_tenant_over_its_quota_evicts_only_its_own_prefixes() {
    let mut pool = pool(16);
    let (victim, flooder) = (tenant(0), tenant(1));
    let precious: Vec<u32> = (0..9).collect();
    run(&mut pool, &victim, &precious, 16);
    for n in 1..50_u32 {
        run(&mut pool, &flooder, &(n * 100..n * 100 + 16).collect::<Vec<_>>(), 4);
    }
    assert_eq!(run(&mut pool, &victim, &precious, 16), 8);
}

#[test]
fn a_lowered_quota_frees_what_is_cached_above_it() {
    let mut pool = pool(16);
    run(&mut pool, &tenant(0), &(0..32).collect::<Vec<_>>(), 16);
    assert_eq!(pool.idle(), 8);
    let mut table = pool.open(&tenant(0), &[100]);
    pool.grow(&mut table, 1, 3).unwrap();
    assert_eq!((pool.used(), pool.idle()), (1, 2));
    pool.release(table);
}

#[test]
fn a_flood_without_a_quota_flushes_the_flooder_first() {
    let mut pool = pool(8);
    let (victim, flooder) = (tenant(0), tenant(1));
    let precious: Vec<u32> = (0..9).collect();
    run(&mut pool, &victim, &precious, 8);
    for n in 1..50_u32 {
        run(&mut pool, &flooder, &(n * 100..n * 100 + 16).collect::<Vec<_>>(), 8);
    }
    assert_eq!(run(&mut pool, &victim, &precious, 8), 8);
}

#[test]
fn blocks_in_use_are_never_evicted() {
    let mut pool = pool(4);
    let tokens: Vec<u32> = (0..16).collect();
    let mut table = pool.open(&tenant(0), &tokens);
    pool.grow(&mut table, 16, 8).unwrap();
    pool.seal(&mut table, &tokens, 16);
    let mut other = pool.open(&tenant(1), &tokens);
    assert_eq!(pool.grow(&mut other, 1, 8), Err(NoBlock::Exhausted));
    assert_eq!(pool.grow(&mut table, 17, 4), Err(NoBlock::Quota));
    pool.release(table);
    pool.grow(&mut other, 1, 8).unwrap();
    pool.release(other);
    assert_eq!(pool.used(), 0);
}

#[test]
fn sequences_with_the_same_prefix_share_its_blocks() {
    let mut pool = pool(8);
    let tokens: Vec<u32> = (0..9).collect();
    run(&mut pool, &tenant(0), &tokens, 8);
    let first = pool.open(&tenant(0), &tokens);
    let second = pool.open(&tenant(0), &tokens);
    assert_eq!(first.blocks(), second.blocks());
    assert_eq!(pool.used_by(&tenant(0)), 2);
    pool.release(first);
    assert_eq!(pool.used(), 2);
    pool.release(second);
    assert_eq!((pool.used(), pool.idle()), (0, 2));
}

#[derive(Clone, Debug)]
enum Act {
    Open { tenant: usize, start: u32, len: usize },
    Grow { which: usize, by: usize, quota: usize },
    Release { which: usize },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..3_usize, 0..3_u32, 1..20_usize).prop_map(|(tenant, start, len)| Act::Open {
            tenant,
            start,
            len
        }),
        (any::<usize>(), 1..9_usize, 1..12_usize).prop_map(|(which, by, quota)| Act::Grow {
            which,
            by,
            quota
        }),
        any::<usize>().prop_map(|which| Act::Release { which }),
    ]
}

/// A sequence of the property test.
struct Open {
    tenant: usize,
    tokens: Vec<u32>,
    computed: usize,
    table: BlockTable,
}

/// Every block is free, cached or in use, exactly once, and belongs to one tenant.
fn check_conserved(pool: &BlockPool, open: &[Open]) {
    let mut owner = HashMap::new();
    let mut used = std::collections::BTreeSet::new();
    for sequence in open {
        for &block in sequence.table.held() {
            used.insert(block);
            let tenant = *owner.entry(block).or_insert(sequence.tenant);
            assert_eq!(tenant, sequence.tenant, "block {block} is in use by two tenants");
        }
    }
    for (tenant, holding) in &pool.tenants {
        for &block in holding.idle.values() {
            assert!(!used.contains(&block) && !pool.free.contains(&block), "{tenant} {block}");
        }
    }
    assert!(pool.free.iter().all(|block| !used.contains(block)));
    assert_eq!(pool.used(), used.len());
    assert_eq!(pool.free.len() + pool.idle() + used.len(), pool.total());
}

proptest! {
    #[test]
    fn blocks_are_conserved_and_belong_to_one_tenant(
        acts in prop::collection::vec(act(), 0..80),
        window in prop_oneof![Just(None), (1..16_usize).prop_map(Some)],
    ) {
        let mut pool = windowed(12, window);
        let mut open: Vec<Open> = Vec::new();
        for act in acts {
            match act {
                Act::Open { tenant: n, start, len } => {
                    let tokens: Vec<u32> = (start..).take(len + 40).collect();
                    let table = pool.open(&tenant(n), &tokens[..len]);
                    let computed = table.blocks().len() * BLOCK;
                    open.push(Open { tenant: n, tokens, computed, table });
                }
                Act::Grow { which, by, quota } if !open.is_empty() => {
                    let at = which % open.len();
                    let sequence = &mut open[at];
                    let wanted = (sequence.computed + by).min(sequence.tokens.len());
                    if pool.grow(&mut sequence.table, wanted, quota).is_ok() {
                        sequence.computed = wanted;
                        pool.seal(&mut sequence.table, &sequence.tokens, wanted);
                        pool.slide(&mut sequence.table, wanted);
                    }
                }
                Act::Release { which } if !open.is_empty() => {
                    let sequence = open.swap_remove(which % open.len());
                    pool.release(sequence.table);
                }
                Act::Grow { .. } | Act::Release { .. } => {}
            }
            check_conserved(&pool, &open);
        }
        for sequence in open {
            pool.release(sequence.table);
        }
        prop_assert_eq!(pool.used(), 0);
    }
}
