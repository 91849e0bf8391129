//! Whom the time and the blocks of a step are for.

use super::{kept::keep, *};

proptest! {
    #[test]
    fn blocks_are_held_by_sequences_for_as_long_as_the_cache_says(
        submissions in prop::collection::vec((0..4_usize, 1..50_usize, 1..20_u32), 1..40),
        pauses in prop::collection::vec(0..1_000_000_u64, 1..8),
        layout in layout(),
        prefixes in prop::collection::vec((0..4_usize, 0..40_u64, 1..50_usize, 0..20_usize), 0..6),
    ) {
        let mut scheduler = scheduler_of(24, layout, LIMITS);
        let bands = layout.bands() as u128;
        for (id, (n, prompt, tokens_max)) in (0..).zip(submissions) {
            // Those that begin alike share their first blocks.
            let prompt = submission(id % 2, n, prompt, tokens_max).prompt;
            let like = Submission { prompt, ..submission(id, n, 1, tokens_max) };
            scheduler.submit(like).unwrap();
        }
        let (mut batch, mut now) = (Batch::default(), Instant::now());
        let (mut held, mut of_cache, mut charged) = (0_u128, 0_u128, 0_u128);
        let block_ns = |scheduler: &Scheduler| {
            let blocks_ns = scheduler.held_blocks().iter();
            blocks_ns.map(|(_, block_ns)| u128::from(*block_ns)).sum::<u128>()
        };
        // What is kept begins somewhere and ends somewhere, each as long after a charge as any.
        let mut ends: Vec<_> = prefixes.iter().map(|(.., steps)| *steps).collect();
        for (id, (n, like, len, _)) in (1000..).zip(prefixes) {
            let keep = keep(id, n, submission(like % 2, n, len, 1).prompt);
            scheduler.keep(keep, now);
            held += block_ns(&scheduler);
        }
        let mut pauses = pauses.into_iter().map(Duration::from_nanos).cycle();
        while !scheduler.is_idle() {
            for _ in ["planning", "computing"] {
                let pause = pauses.next().unwrap();
                now += pause;
                charged += 1;
                of_cache += scheduler.pool().paid() as u128 * pause.as_nanos();
                for (id, left) in (1000..).zip(&mut ends) {
                    let Some(next) = left.checked_sub(1) else { continue };
                    *left = next;
                    if next == 0 {
                        scheduler.let_go(SequenceId(id), now);
                        held += block_ns(&scheduler);
                        charged += 1;
                    }
                }
                if batch.is_empty() {
                    scheduler.plan_batch(now, &mut batch);
                } else {
                    scheduler.charge_blocks(now);
                }
                held += block_ns(&scheduler);
            }
            let planned: Vec<_> = batch.spans.iter().map(|span| span.sequence).collect();
            let costs: Vec<_> = scheduler.costs().iter().map(|(id, _)| *id).collect();
            prop_assert_eq!(planned, costs);
            scheduler.commit();
            for (id, _) in batch.finished().collect::<Vec<_>>() {
                if scheduler.advance(id, 7).is_some() {
                    scheduler.end(id).unwrap();
                }
            }
            batch.clear();
        }
        prop_assert_eq!(held, scheduler.totals().block_ns);
        // A charge may leave a nanosecond of each band but one to the next.
        let left = charged * (bands - 1) * scheduler.pool().total() as u128;
        prop_assert!((held * bands).abs_diff(of_cache) <= left, "{held} of {of_cache}");
    }
}
