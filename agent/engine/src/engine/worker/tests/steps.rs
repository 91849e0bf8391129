//! What a step allocates: nothing but what its tokens' readers take away.

use realm_core::engine::TokenStream;
use realm_kernels::backend::KvType;

use super::*;
use crate::{
    kv::{BlockPool, Layout, Namespace, Owner, Secret},
    scheduler::{self, Limits, Prices},
};

const BLOCK_TOKENS: usize = 16;
const CONTEXT: usize = 1024;
const SEQUENCES_MAX: usize = 16;

fn scheduler(layout: Layout) -> Scheduler {
    let limits = Limits {
        context: CONTEXT,
        batch_tokens: 64,
        running: SEQUENCES_MAX,
        queued: SEQUENCES_MAX,
    };
    let blocks = CONTEXT / BLOCK_TOKENS * SEQUENCES_MAX;
    let blocks = u32::try_from(layout.in_bands(blocks)).unwrap();
    let sha256 = realm_core::desired::Sha256([1; 32]);
    let namespace = Namespace::new(Secret([1; 32]), sha256, KvType::F16);
    Scheduler::new(limits, BlockPool::new(blocks, layout, namespace), Prices::MEASURED)
}

/// A sequence that generates until its context is full, and its reader.
fn endless(worker: &Worker, (id, tenant): (u64, &str)) -> (Submitted, TokenStream) {
    let generation = generation(u32::MAX);
    let (output, stream) = Output::new(&generation, id, &worker.tokenizer).unwrap();
    let tenant = TenantName::new("default", tenant).unwrap();
    let model = ModelName::new("default", "scripted").unwrap();
    let submitted = Submitted {
        submission: Submission {
            public: None,
            adapter: None,
            id: SequenceId(id),
            tenant: tenant.clone(),
            terms: Terms { weight: 1, priority: Priority::Normal },
            kv_blocks_max: u32::MAX,
            context_max: u32::MAX,
            prompt: generation.prompt,
            resumed: 0,
            tokens_max: generation.tokens_max,
            deadline: None,
        },
        adapter: None,
        output,
        begin: None,
        beside: None,
        way: Way::Direct,
        figures: worker.board.enter(&tenant, &model).unwrap(),
        milestones: None,
        at: Instant::now(),
    };
    (submitted, stream)
}

/// A prefix of two blocks that is kept for as long as the second is there.
fn kept((id, tenant): (u64, &str)) -> (Keep, Arc<Interest>) {
    let tenant = TenantName::new("default", tenant).unwrap();
    let keep = scheduler::Keep {
        id: SequenceId(id),
        owner: Owner::alone(&tenant),
        terms: Terms { weight: 1, priority: Priority::Normal },
        tokens: [0, 1].repeat(BLOCK_TOKENS),
        kept_tokens: 0,
    };
    let wanted = Arc::new(Interest(std::sync::Weak::new()));
    let places = [(); 2].map(|()| Arc::new(Places::new(PLACES_MAX)).take(&tenant).unwrap());
    let pinned = Pinned { way: Way::Direct, wanted: Arc::downgrade(&wanted), places };
    (Keep { keep, pinned }, wanted)
}

/// Allocations in `steps` steps of so many sequences, of four tenants if there are enough, each with
/// a prefix that it keeps beside, and the tokens that they gave.
fn allocations(layout: Layout, sequences: usize, steps: usize) -> (u64, u64) {
    let (_commands, received) = sync_channel(1);
    let (tokenizer, board) = (Arc::new(tokenizer()), Arc::new(Board::default()));
    let mut worker = Worker::new(received, scheduler(layout), scripted(), tokenizer, board);
    let mut streams: Vec<TokenStream> = (0_u64..)
        .take(sequences)
        .map(|id| {
            let tenant = ["a", "b", "c", "d"][(id % 4) as usize];
            let (submitted, stream) = endless(&worker, (id, tenant));
            worker.submit(submitted);
            stream
        })
        .collect();
    let _wanted: Vec<Arc<Interest>> = (1000_u64..)
        .take(sequences)
        .map(|id| {
            let (keep, wanted) = kept((id, ["a", "b", "c", "d"][(id % 4) as usize]));
            worker.keep(keep);
            wanted
        })
        .collect();
    let mut tokens = 0;
    let mut step = || {
        worker.turn();
        for stream in &mut streams {
            while let Ok(event) = stream.try_recv() {
                tokens += u64::from(matches!(event, TokenEvent::Token(_)));
            }
        }
    };
    // Prompts, and the first of everything.
    (0..WARM_UP).for_each(|_| step());
    let counted = allocation_counter::measure(|| (0..steps).for_each(|_| step()));
    (counted.count_total, tokens - (WARM_UP * sequences) as u64)
}

const WARM_UP: usize = 100;

#[test]
fn a_step_allocates_nothing_but_the_text_of_its_tokens() {
    for sequences in [1, SEQUENCES_MAX] {
        let whole = Layout::of_one_kind(BLOCK_TOKENS, None);
        let (count, tokens) = allocations(whole, sequences, 200);
        assert_eq!(tokens, 200 * sequences as u64);
        assert_eq!(count, tokens, "{sequences} sequences");
    }
}

#[test]
fn blocks_that_windows_leave_behind_are_given_back_in_memory_that_is_there() {
    let windowed = Layout { block_tokens: BLOCK_TOKENS, whole: 1, windowed: 5, window: 40 };
    for sequences in [1, SEQUENCES_MAX] {
        let (count, tokens) = allocations(windowed, sequences, 200);
        assert_eq!(tokens, 200 * sequences as u64);
        // A list of each of four tenants, and two of all, which the warm-up has filled by a third.
        assert!(count <= tokens + 6 * 2, "{} of {sequences} sequences", count - tokens);
    }
}
