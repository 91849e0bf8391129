mod bands;

use std::collections::HashSet;

use proptest::prelude::*;
use realm_core::{desired::Sha256, name::GroupName};
use realm_kernels::backend::KvType;

use super::*;
use crate::adapter::{Adapted, AdapterId, AdapterWork};

const BLOCK: usize = 4;

fn pool(blocks: u32) -> BlockPool {
    windowed(blocks, None)
}

fn windowed(blocks: u32, window: Option<usize>) -> BlockPool {
    pool_of(blocks, Layout::of_one_kind(BLOCK, window))
}

fn pool_of(blocks: u32, layout: Layout) -> BlockPool {
    let namespace = Namespace::new(Secret([7; 32]), Sha256([1; 32]), KvType::F16);
    BlockPool::new(blocks, layout, namespace)
}

fn held_in(pool: &BlockPool, ns: u64) -> HashMap<TenantName, u64> {
    let mut times = HeldTimes::default();
    pool.held_in(ns, &mut times);
    let all: HashMap<TenantName, u64> =
        times.iter().map(|(name, held_ns)| (name.clone(), held_ns)).collect();
    assert_eq!(all.len(), times.iter().count(), "each tenant is there once");
    assert!(all.iter().all(|(name, held_ns)| times.of(name) == *held_ns));
    all
}

fn tenant(n: usize) -> TenantName {
    TenantName::new("default", &format!("t{n}")).unwrap()
}

fn alone(n: usize) -> Owner {
    Owner::alone(&tenant(n))
}

/// A member of a group that makes so many tokens public.
fn member(n: usize, group: &str, tokens: usize) -> Owner {
    let group = GroupName::new("default", group).unwrap();
    Owner { tenant: tenant(n), public: Some(Public { group, tokens }), adapter: None }
}

/// Runs a whole sequence through the pool and returns how many of its tokens were cached.
fn run(pool: &mut BlockPool, tenant: &TenantName, tokens: &[u32], quota: usize) -> usize {
    run_as(pool, &Owner::alone(tenant), tokens, quota)
}

fn run_as(pool: &mut BlockPool, owner: &Owner, tokens: &[u32], quota: usize) -> usize {
    let mut table = pool.open(owner, tokens);
    let cached = table.sealed_tokens(pool.layout());
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
    let mut table = pool.open(&alone(0), &tokens);
    pool.grow(&mut table, 32, 8).unwrap();
    // Token `computed` sees the five before itself.
    for (computed, gone) in [(0, 0), (8, 0), (9, 1), (12, 1), (13, 2), (32, 6)] {
        pool.seal(&mut table, &tokens, computed);
        pool.slide(&mut table, computed);
        assert_eq!(table.held_count(), 8 - gone as u64, "after {computed}");
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
        let mut other = pool.open(&alone(1), &[99]);
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
    let mut other = whole.open(&alone(1), &[99]);
    whole.grow(&mut other, 2 * BLOCK, 9).unwrap();
    // From the end, so that a prefix outlives what continues it.
    assert_eq!(run_cached(&mut whole, &tokens), 28);
    whole.release(other);
}

/// How many of these tokens the first tenant would find now.
fn run_cached(pool: &mut BlockPool, tokens: &[u32]) -> usize {
    let table = pool.open(&alone(0), tokens);
    let cached = table.sealed_tokens(pool.layout());
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
    .map(|namespace| namespace.root(&tenant(0), None));
    let distinct: HashSet<_> = roots.into_iter().collect();
    assert_eq!(distinct.len(), 4);
}

fn adapted(adapter: u8) -> Adapted {
    let (id, sha256) = (AdapterId(u64::from(adapter)), Sha256([adapter; 32]));
    Adapted { id, sha256, work: AdapterWork::default() }
}

#[test]
fn what_an_adapter_made_of_the_same_tokens_is_found_by_that_adapter_alone() {
    let mut pool = pool(64);
    let tokens: Vec<u32> = (0..12).collect();
    let with = |adapter| Owner { adapter, ..alone(0) };
    for (owner, cached) in [
        (with(None), 0),
        (with(Some(adapted(1))), 0),
        (with(Some(adapted(2))), 0),
        (with(Some(adapted(1))), 8),
        (with(None), 8),
    ] {
        assert_eq!(run_as(&mut pool, &owner, &tokens, 64), cached, "{owner:?}");
    }
    // Nor does a group share with an adapter what it shares without.
    let member = |n, adapter| Owner { adapter, ..member(n, "g", 8) };
    assert_eq!(run_as(&mut pool, &member(1, None), &tokens, 64), 0);
    assert_eq!(run_as(&mut pool, &member(2, Some(adapted(1))), &tokens, 64), 0);
    assert_eq!(run_as(&mut pool, &member(3, Some(adapted(1))), &tokens, 64), 8);
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
    let mut table = pool.open(&alone(0), &[100]);
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
    let mut table = pool.open(&alone(0), &tokens);
    pool.grow(&mut table, 16, 8).unwrap();
    pool.seal(&mut table, &tokens, 16);
    let mut other = pool.open(&alone(1), &tokens);
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
    let first = pool.open(&alone(0), &tokens);
    let second = pool.open(&alone(0), &tokens);
    assert!(first.bands().eq(second.bands()));
    assert_eq!(pool.used_by(&tenant(0)), 2);
    pool.release(first);
    assert_eq!(pool.used(), 2);
    pool.release(second);
    assert_eq!((pool.used(), pool.idle()), (0, 2));
}

#[test]
fn members_share_the_full_blocks_that_are_public_and_nothing_behind_them() {
    let mut pool = pool(32);
    let tokens: Vec<u32> = (0..25).collect();
    // Ten tokens are two blocks and a half, of which the half is its tenant's own.
    assert_eq!(run_as(&mut pool, &member(0, "g", 10), &tokens, 32), 0);
    assert_eq!(run_as(&mut pool, &member(1, "g", 10), &tokens, 32), 8);
    assert_eq!(run_as(&mut pool, &member(1, "g", 10), &tokens, 32), 24);
    // Who marks less public finds less of the group, and who marks more only what others marked.
    assert_eq!(run_as(&mut pool, &member(2, "g", 4), &tokens, 32), 4);
    assert_eq!(run_as(&mut pool, &member(3, "g", 25), &tokens, 32), 8);
}

#[test]
fn who_is_not_in_the_group_or_has_left_it_finds_nothing_of_it() {
    let mut pool = pool(32);
    let tokens: Vec<u32> = (0..17).collect();
    run_as(&mut pool, &member(0, "g", 16), &tokens, 32);
    assert_eq!(run_as(&mut pool, &alone(1), &tokens, 32), 0);
    assert_eq!(run_as(&mut pool, &member(2, "h", 16), &tokens, 32), 0);
    // Nor does it find its own of the time before, for that is the group's.
    assert_eq!(run_as(&mut pool, &alone(0), &tokens, 32), 0);
    // A group that is called as a tenant is, by which the tenant finds nothing either.
    assert_eq!(run_as(&mut pool, &member(3, "t1", 16), &tokens, 32), 0);
    let elsewhere = GroupName::new("other", "g").unwrap();
    let public = Some(Public { group: elsewhere, tokens: 16 });
    let name = TenantName::new("other", "t0").unwrap();
    let stranger = Owner { tenant: name, public, adapter: None };
    assert_eq!(run_as(&mut pool, &stranger, &tokens, 32), 0);
}

#[test]
fn a_block_of_several_members_counts_for_each_and_its_time_is_divided() {
    let mut pool = pool(16);
    let tokens: Vec<u32> = (0..9).collect();
    run_as(&mut pool, &member(0, "g", 8), &tokens, 16);
    let first = pool.open(&member(0, "g", 8), &tokens);
    let second = pool.open(&member(1, "g", 8), &tokens);
    let third = pool.open(&member(1, "g", 8), &tokens);
    assert_eq!((pool.used(), pool.used_by(&tenant(0)), pool.used_by(&tenant(1))), (2, 2, 2));
    let held = held_in(&pool, 1000);
    assert_eq!((held[&tenant(0)], held[&tenant(1)]), (1000, 1000));
    // One of two sequences that goes leaves its tenant what the other one uses.
    let nobody = Leaving::default();
    assert_eq!(pool.given_by(&third, &nobody), Given { freed: 0, lost: 0 });
    // Those that go together leave nobody anything.
    let mut leaving = Leaving::default();
    leaving.add(&third);
    assert_eq!(pool.given_by(&second, &leaving), Given { freed: 0, lost: 2 });
    leaving.add(&second);
    assert_eq!(pool.given_by(&first, &leaving), Given { freed: 2, lost: 2 });
    pool.release(third);
    assert_eq!(pool.given_by(&second, &nobody), Given { freed: 0, lost: 2 });
    pool.release(first);
    assert_eq!(held_in(&pool, 1000), HashMap::from([(tenant(1), 2000)]));
    assert_eq!(pool.given_by(&second, &nobody), Given { freed: 2, lost: 2 });
    pool.release(second);
    // Whoever used them last keeps them.
    assert_eq!((pool.idle_of(&tenant(0)), pool.idle_of(&tenant(1))), (0, 2));
}

#[test]
fn what_a_group_lends_counts_within_the_quota() {
    let mut pool = pool(16);
    let tokens: Vec<u32> = (0..9).collect();
    run_as(&mut pool, &member(0, "g", 8), &tokens, 16);
    run(&mut pool, &tenant(1), &(100..112).collect::<Vec<_>>(), 3);
    assert_eq!(pool.idle_of(&tenant(1)), 3);
    let mut table = pool.open(&member(1, "g", 8), &tokens);
    pool.grow(&mut table, 9, 3).unwrap();
    assert_eq!((pool.used_by(&tenant(1)), pool.idle_of(&tenant(1))), (3, 0));
    assert_eq!(pool.grow(&mut table, 13, 3), Err(NoBlock::Quota));
    pool.release(table);
}

#[test]
fn of_what_a_tenant_keeps_a_prefix_that_it_wants_goes_last() {
    let mut pool = pool(8);
    let prefix: Vec<u32> = (0..9).collect();
    // Wanted before it is there.
    let pin = pool.pin(&alone(0), &prefix[..8], 0);
    assert_eq!((pin.len(), pool.paid()), (2, 0));
    run(&mut pool, &tenant(0), &prefix, 4);
    for n in 1..20_u32 {
        run(&mut pool, &tenant(0), &(n * 100..n * 100 + 8).collect::<Vec<_>>(), 4);
    }
    assert_eq!(run_cached(&mut pool, &prefix), 8, "all others went before it");
    assert_eq!((pool.idle(), pool.paid()), (4, 2), "it is paid for and may go");
    assert_eq!(held_in(&pool, 1000), HashMap::from([(tenant(0), 2000)]));
    // Its own sequences come before what is only kept.
    run(&mut pool, &tenant(0), &(5000..5016).collect::<Vec<_>>(), 4);
    assert_eq!((run_cached(&mut pool, &prefix), pool.paid()), (0, 0));
    // It is wanted still, and no more when nobody wants it.
    run(&mut pool, &tenant(0), &prefix, 4);
    assert_eq!(pool.paid(), 2);
    pool.unpin(pin);
    assert_eq!(pool.paid(), 0);
    for n in 20..24_u32 {
        run(&mut pool, &tenant(0), &(n * 100..n * 100 + 8).collect::<Vec<_>>(), 4);
    }
    assert_eq!(run_cached(&mut pool, &prefix), 0);
}

#[test]
fn a_prefix_that_is_wanted_twice_is_wanted_until_nobody_does() {
    let mut pool = pool(4);
    let prefix: Vec<u32> = (0..5).collect();
    run(&mut pool, &tenant(0), &prefix, 4);
    let (first, second) = (pool.pin(&alone(0), &prefix, 0), pool.pin(&alone(0), &prefix, 0));
    pool.unpin(first);
    let flood = |pool: &mut BlockPool| {
        for n in 1..9_u32 {
            run(pool, &tenant(0), &[n * 100; 4], 4);
        }
        run_cached(pool, &prefix)
    };
    assert_eq!(flood(&mut pool), 4);
    pool.unpin(second);
    assert_eq!(flood(&mut pool), 0);
}

#[test]
fn a_prefix_counts_what_is_behind_the_one_that_it_goes_on_from() {
    let mut whole = pool(8);
    let tokens: Vec<u32> = (0..15).collect();
    // The second block is not full in the shorter one.
    let shorter = whole.pin(&alone(0), &tokens[..7], 0);
    let longer = whole.pin(&alone(0), &tokens, 7);
    assert_eq!((shorter.len(), longer.len()), (1, 2));
    run(&mut whole, &tenant(0), &tokens, 8);
    assert_eq!(whole.paid(), 3);
    whole.unpin(shorter);
    assert_eq!(whole.paid(), 2);
    whole.unpin(longer);
    // Of a model whose layers attend six tokens, only what these see is needed.
    let mut windows = windowed(8, Some(6));
    let pin = windows.pin(&alone(0), &tokens, 0);
    run(&mut windows, &tenant(0), &tokens, 8);
    assert_eq!((pin.len(), windows.paid()), (2, 2));
    windows.unpin(pin);
}

#[test]
fn what_one_tenant_wants_changes_nothing_of_what_others_keep() {
    let mut pool = pool(8);
    let tokens: Vec<u32> = (0..8).collect();
    let (first, second) = (member(0, "g", 8), member(1, "g", 8));
    run_as(&mut pool, &first, &tokens, 8);
    // The first one keeps what is public in the group, and the second one wants it.
    let pin = pool.pin(&second, &tokens, 0);
    assert_eq!(pool.paid(), 0);
    for n in 1..9_u32 {
        run(&mut pool, &tenant(0), &(n * 100..n * 100 + 8).collect::<Vec<_>>(), 4);
    }
    let table = pool.open(&second, &(0..9).collect::<Vec<_>>());
    assert_eq!(table.sealed_tokens(pool.layout()), 0, "its keeper let go of it as of any");
    pool.release(table);
    pool.unpin(pin);
}

#[test]
fn a_flood_of_others_takes_nothing_of_whoever_holds_less() {
    let mut pool = pool(12);
    let prefix: Vec<u32> = (0..17).collect();
    let pin = pool.pin(&alone(0), &prefix, 0);
    run(&mut pool, &tenant(0), &prefix, 12);
    for n in 1..50_u32 {
        run(&mut pool, &tenant(1), &(n * 100..n * 100 + 16).collect::<Vec<_>>(), 12);
    }
    assert_eq!((run_cached(&mut pool, &prefix), pool.paid()), (16, 4));
    pool.unpin(pin);
}

#[derive(Clone, Debug)]
enum Act {
    Open { tenant: usize, start: u32, len: usize, public: Option<usize> },
    Grow { which: usize, by: usize, quota: usize },
    Release { which: usize },
    Pin { tenant: usize, start: u32, len: usize, kept: usize, public: Option<usize> },
    Unpin { which: usize },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..3_usize, 0..3_u32, 1..20_usize, prop::option::of(0..20_usize))
            .prop_map(|(tenant, start, len, public)| Act::Open { tenant, start, len, public }),
        (any::<usize>(), 1..9_usize, 1..12_usize).prop_map(|(which, by, quota)| Act::Grow {
            which,
            by,
            quota
        }),
        any::<usize>().prop_map(|which| Act::Release { which }),
        (0..3_usize, 0..3_u32, 1..20_usize, 0..8_usize, prop::option::of(0..20_usize)).prop_map(
            |(tenant, start, len, kept, public)| Act::Pin { tenant, start, len, kept, public }
        ),
        any::<usize>().prop_map(|which| Act::Unpin { which }),
    ]
}

/// A sequence of the property test.
struct Open {
    owner: Owner,
    tokens: Vec<u32>,
    /// Of how many tokens room was wanted for at most.
    asked: usize,
    computed: usize,
    table: BlockTable,
}

/// Every block is free, cached or in use, exactly once. One that is in use belongs to one tenant,
/// or is public for all that use it. Those that are paid for besides are the cached ones that their
/// keepers want, which go after all others that these keep.
fn check_conserved(pool: &BlockPool, open: &[Open], pins: &[Pin]) {
    let mut wanted = 0;
    for n in 0..3 {
        let kept = pool.holdings.kept().filter(|(keeper, _)| **keeper == tenant(n));
        let is_wanted = |id: BlockId| {
            let hash = pool.blocks[id as usize].hash;
            pins.iter().any(|pin| *pin.tenant() == tenant(n) && pin.has(hash))
        };
        let in_turn: Vec<bool> = kept.map(|(_, id)| is_wanted(id)).collect();
        assert!(in_turn.is_sorted(), "{in_turn:?}");
        wanted += in_turn.iter().filter(|is_wanted| **is_wanted).count();
    }
    assert_eq!(pool.paid(), pool.used() + wanted);
    let mut users = HashMap::<BlockId, HashSet<(TenantName, bool)>>::new();
    for sequence in open {
        for (at, block) in sequence.table.held_backwards() {
            let user = sequence.owner.of_block(at, BLOCK);
            users.entry(block).or_default().insert((user.tenant.clone(), user.group.is_some()));
        }
    }
    for (block, users) in &users {
        let is_public = users.iter().all(|(_, is_public)| *is_public);
        assert!(users.len() == 1 || is_public, "block {block} is in use by {users:?}");
    }
    for (tenant, block) in pool.holdings.kept() {
        assert!(!users.contains_key(&block) && !pool.free.contains(&block), "{tenant} {block}");
    }
    assert!(pool.free.iter().all(|block| !users.contains_key(block)));
    assert_eq!(pool.used(), users.len());
    assert_eq!(pool.free.len() + pool.idle() + users.len(), pool.total());
    for n in 0..3 {
        let uses = |users: &&HashSet<_>| {
            [true, false].iter().any(|is_public| users.contains(&(tenant(n), *is_public)))
        };
        assert_eq!(pool.used_by(&tenant(n)), users.values().filter(uses).count());
    }
    // A time that divides without a rest by nobody's number of blocks.
    let held = held_in(pool, 1_000_003);
    assert_eq!(held.values().sum::<u64>(), 1_000_003 * pool.paid() as u64);
}

proptest! {
    #[test]
    fn two_owners_share_what_is_public_in_a_group_of_both_and_nothing_else(
        (a, b) in ((0..2_usize, 0..3_usize, 0..30_usize), (0..2_usize, 0..3_usize, 0..30_usize)),
        len in 2..40_usize,
    ) {
        let owner = |(n, group, tokens): (usize, usize, usize)| match group {
            0 => alone(n),
            group => member(n, ["g", "h"][group - 1], tokens),
        };
        let (a, b) = (owner(a), owner(b));
        let tokens: Vec<u32> = (0..).take(len).collect();
        let mut pool = pool(32);
        run_as(&mut pool, &a, &tokens, 32);
        let found = run_as(&mut pool, &b, &tokens, 32) / BLOCK;
        let reusable = (len - 1) / BLOCK;
        let public = |owner: &Owner| owner.public_blocks(BLOCK).map(|(group, blocks)| (group.clone(), blocks));
        let expected = match (public(&a), public(&b)) {
            (a_public, b_public) if a_public == b_public && a.tenant == b.tenant => reusable,
            (Some((g, x)), Some((h, y))) if g == h => x.min(y).min(reusable),
            _ => 0,
        };
        // One whose public part ends behind the other's goes on in another chain from there.
        prop_assert_eq!(found, expected);
    }
}
