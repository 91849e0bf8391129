//! Prefixes that are kept, from the handle to the books.

use super::*;

fn keep(engine: &EngineHandle, tenant: &str, tokens: usize) -> Result<Kept, Refusal> {
    keep_behind(engine, tenant, tokens, 0)
}

fn keep_behind(
    engine: &EngineHandle,
    tenant: &str,
    tokens: usize,
    kept_tokens: u32,
) -> Result<Kept, Refusal> {
    let prefix =
        Prefix { tokens: vec![1; tokens], kept_tokens, shared_tokens: 0, way: Way::Direct };
    engine.keep(&caller(tenant), prefix)
}

fn cached(engine: &EngineHandle, prompt: &[u32]) -> u32 {
    let mut stream = start(engine, prompt).unwrap();
    loop {
        match stream.blocking_recv().unwrap() {
            TokenEvent::Finished { usage, .. } => return usage.cached_tokens,
            TokenEvent::Failed(refusal) => panic!("{refusal}"),
            _ => {}
        }
    }
}

fn busy(kept: Result<Kept, Refusal>) {
    assert_eq!(kept.map(drop), Err(Refusal::Busy { retry_after_ms: BUSY_RETRY_MS }));
}

/// Waits until the thread has let go of what nobody wants any more.
fn until_let_go(engine: &EngineHandle) {
    let begun_at = Instant::now();
    while Arc::strong_count(&engine.kept[0]) > 1 {
        assert!(begun_at.elapsed() < Duration::from_mins(1), "it is kept for nobody");
        thread::yield_now();
    }
}

#[test]
fn a_kept_prefix_outlives_what_its_tenant_computes_besides() {
    let (engine, _) = engine();
    let prompt = [1; 12];
    let kept = keep(&engine, "a", 8).unwrap();
    assert_eq!(cached(&engine, &prompt), 0);
    let flood = || {
        for n in 0..64_u32 {
            // Other tokens each time, of the two that no forward pass fails of.
            let bits = (0..29).map(|bit| (n >> (bit % 6)) & 1);
            let prompt: Vec<u32> = std::iter::once(0).chain(bits).collect();
            cached(&engine, &prompt);
        }
    };
    flood();
    assert_eq!(cached(&engine, &prompt), 8);
    drop(kept);
    until_let_go(&engine);
    flood();
    assert_eq!(cached(&engine, &prompt), 0);
}

#[test]
fn a_tenant_keeps_what_its_quota_holds_and_others_as_much_again() {
    let (engine, _) = engine();
    // Of 64 blocks of four tokens.
    let too_long = keep(&engine, "a", 64 * 4 + 1).map(drop);
    assert_eq!(too_long, Err(Refusal::TooLong { tokens: 257, tokens_max: 256 }));
    let most = keep(&engine, "a", 62 * 4).unwrap();
    busy(keep(&engine, "a", 3 * 4));
    // Nor does it ever hold that and what is behind it.
    let too_long = keep_behind(&engine, "a", 66 * 4, 62 * 4).map(drop);
    assert_eq!(too_long, Err(Refusal::TooLong { tokens: 264, tokens_max: 256 }));
    // What goes on from it counts what is behind it.
    let longer = keep_behind(&engine, "a", 64 * 4, 62 * 4).unwrap();
    busy(keep(&engine, "a", 1));
    drop(keep(&engine, "b", 64 * 4).unwrap());
    drop((most, longer));
    until_let_go(&engine);
    drop(keep(&engine, "a", 64 * 4).unwrap());
}

#[test]
fn a_tenant_keeps_so_many_prefixes_and_the_engine_so_many_of_all() {
    let (engine, _) = engine();
    let of_tenant = worker::PLACES_MAX.of_tenant;
    let mut kept = Vec::new();
    for tenant in ["a", "b", "c", "d"] {
        kept.extend((0..of_tenant).map(|_| keep(&engine, tenant, 1).unwrap()));
        busy(keep(&engine, tenant, 1));
    }
    assert_eq!(kept.len(), worker::PLACES_MAX.all);
    busy(keep(&engine, "late", 1));
    drop(kept);
    until_let_go(&engine);
    drop(keep(&engine, "late", 1).unwrap());
}

#[test]
fn what_is_kept_is_booked_while_the_engine_sleeps() {
    let (engine, _) = engine();
    let kept = keep(&engine, "a", 8).unwrap();
    assert_eq!(cached(&engine, &[1; 12]), 0);
    let before = engine.books();
    let begun_at = Instant::now();
    while begun_at.elapsed() < Duration::from_millis(20) {
        thread::yield_now();
    }
    drop(kept);
    until_let_go(&engine);
    // Shown before whoever asks next has an answer.
    assert_eq!(cached(&engine, &[0]), 0);
    let after = engine.books();
    assert!(after.block_ns - before.block_ns >= 2 * 20_000_000, "{before:?} {after:?}");
    assert_eq!(after.sum().block_ns, after.block_ns);
    let since = after.clone();
    assert_eq!(cached(&engine, &[0]), 0);
    let more = engine.books().block_ns - since.block_ns;
    assert!(more < 20_000_000, "nothing is kept any more: {more}");
}

#[test]
fn an_engine_that_gave_up_keeps_nothing_and_nobody_pays_for_it() {
    let (engine, _) = engine();
    let kept = keep(&engine, "a", 8).unwrap();
    assert_eq!(cached(&engine, &[1; 12]), 0);
    for _ in 0..3 {
        assert_eq!(run(&engine, &[PANIC]), Err(Refusal::Internal));
    }
    until_let_go(&engine);
    drop(kept);
}

#[test]
fn an_engine_that_goes_lets_go_and_what_was_wanted_of_it_hurts_nobody() {
    let (engine, _) = engine();
    let kept = keep(&engine, "a", 8).unwrap();
    drop(engine);
    drop(kept);
}
