//! What a forward pass allocates.

use std::io::Write as _;

use realm_engine::bench::Bench;
use realm_kernels::format::Format;

use crate::tiny_gguf;

/// Allocations on the engine's thread while so many sequences decode `tokens` tokens each.
fn allocations(bench: &mut Bench, sequences: usize, tokens: usize) -> u64 {
    let counted = allocation_counter::measure(|| {
        bench.decode(sequences, 1, tokens).unwrap();
    });
    counted.count_total
}

/// How often a list doubles that becomes nine times as long.
const DOUBLINGS: usize = 4;

/// Lists that grow with an answer: of each sequence one, and some that all have together. What a
/// step allocated would be there a hundred and sixty times.
const SHARED_LISTS: usize = 4;

#[test]
fn a_longer_answer_costs_scheduler_and_forward_pass_no_allocation_a_token() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&tiny_gguf::tiny_llama(Format::Q8_0)).unwrap();
    let mut bench = Bench::open(file.path(), (200, 16), Some(2)).unwrap();
    for sequences in [1, 16] {
        allocations(&mut bench, sequences, 20);
        let short = allocations(&mut bench, sequences, 20);
        let long = allocations(&mut bench, sequences, 180);
        let more = long.saturating_sub(short);
        let grown = (DOUBLINGS * (sequences + SHARED_LISTS)) as u64;
        assert!(more <= grown, "{more} more, of {sequences} sequences");
    }
}
