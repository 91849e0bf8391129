//! Adapters of a step. What one takes whatever its rows are is shared by the sequences that have it,
//! as what a step takes is by all that are in it.

use super::cost::Cost;
use crate::adapter::{Adapted, AdapterId};

/// The adapters that sequences have, and how many of them have each.
#[derive(Debug, Default)]
pub(super) struct InUse(Vec<Used>);

#[derive(Debug)]
struct Used {
    id: AdapterId,
    pairs: u64,
    by: usize,
}

impl InUse {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes note of one more sequence.
    pub(super) fn add(&mut self, adapter: Option<Adapted>) {
        let Some(adapter) = adapter else { return };
        match self.0.iter_mut().find(|used| used.id == adapter.id) {
            Some(used) => used.by += 1,
            None => self.0.push(Used { id: adapter.id, pairs: adapter.work.pairs, by: 1 }),
        }
    }

    /// Takes note that a sequence is not there any more.
    pub(super) fn remove(&mut self, adapter: Option<Adapted>) {
        let Some(adapter) = adapter else { return };
        let Some(at) = self.0.iter().position(|used| used.id == adapter.id) else { return };
        self.0[at].by -= 1;
        if self.0[at].by == 0 {
            self.0.swap_remove(at);
        }
    }

    /// Pairs of matrices of all of them.
    pub(super) fn pairs(&self) -> u64 {
        self.0.iter().map(|used| used.pairs).sum()
    }

    /// What one of the sequences has to pay where a pair costs so much.
    pub(super) fn part(&self, adapter: Option<Adapted>, pair: Cost) -> Cost {
        self.of(adapter).map_or_else(Cost::default, |used| pair.times(used.pairs).part(used.by))
    }

    /// What it costs all of them together that this one comes to them as well.
    pub(super) fn more(&self, adapter: Option<Adapted>, pair: Cost) -> Cost {
        match adapter {
            Some(new) if self.of(adapter).is_none() => pair.times(new.work.pairs),
            _ => Cost::default(),
        }
    }

    fn of(&self, adapter: Option<Adapted>) -> Option<&Used> {
        let id = adapter?.id;
        self.0.iter().find(|used| used.id == id)
    }
}

#[cfg(test)]
mod tests {
    use realm_core::desired::Sha256;

    use super::*;
    use crate::adapter::AdapterWork;

    fn adapter(id: u64, pairs: u64) -> Adapted {
        let work = AdapterWork { kops: 1, pairs };
        Adapted { id: AdapterId(id), sha256: Sha256([0; 32]), work }
    }

    #[test]
    fn those_who_have_an_adapter_share_what_it_costs_and_nobody_else_does() {
        let pair = Cost::from_millis(6);
        let [none, first, second] = [None, Some(adapter(1, 10)), Some(adapter(2, 3))];
        let mut in_use = InUse::default();
        for adapter in [none, first, second, first] {
            in_use.add(adapter);
        }
        let part = |adapter| in_use.part(adapter, pair);
        assert_eq!([none, first, second].map(part), [0, 30, 18].map(Cost::from_millis));
        assert_eq!(in_use.pairs(), 13);
        let more = |in_use: &InUse, adapter| in_use.more(adapter, pair);
        assert_eq!(more(&in_use, second), Cost::default(), "it is there");
        in_use.remove(first);
        assert_eq!(in_use.part(first, pair), Cost::from_millis(60));
        in_use.remove(second);
        in_use.remove(none);
        assert_eq!(in_use.pairs(), 10);
        assert_eq!(more(&in_use, second), Cost::from_millis(18));
        in_use.clear();
        assert_eq!(in_use.pairs(), 0);
    }
}
