//! An order in which every step comes after those it waits for.

use std::collections::BTreeSet;

/// Orders the steps `0..waits.len()`, where step `i` waits for `waits[i]`: of those that could
/// be next, always the first. Returns a cycle, first step repeated last, if there is one.
pub(super) fn order(waits: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut order = Vec::with_capacity(waits.len());
    let mut left = (0..waits.len()).collect::<BTreeSet<_>>();
    while let Some(&first) = left.first() {
        let is_next = |i: &&usize| waits_for(waits, **i, &left).is_none();
        let Some(&next) = left.iter().find(is_next) else {
            return Err(cycle(waits, &left, first));
        };
        left.remove(&next);
        order.push(next);
    }
    Ok(order)
}

/// A step among `left` that step `i` waits for.
fn waits_for(waits: &[Vec<usize>], i: usize, left: &BTreeSet<usize>) -> Option<usize> {
    waits.get(i)?.iter().copied().find(|other| left.contains(other))
}

/// Every step in `left` waits for another in it, so following them from `start` must come round.
fn cycle(waits: &[Vec<usize>], left: &BTreeSet<usize>, start: usize) -> Vec<usize> {
    let mut path = vec![start];
    while let Some(next) = path.last().and_then(|&i| waits_for(waits, i, left)) {
        let seen = path.iter().position(|&i| i == next);
        path.push(next);
        if let Some(seen) = seen {
            return path.split_off(seen);
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_order_respects_every_wait_and_a_cycle_is_real(
            edges in prop::collection::vec((0_usize..8, 0_usize..8), 0..12)
        ) {
            let mut waits = vec![Vec::new(); 8];
            for (from, to) in edges {
                waits[from].push(to);
            }
            match order(&waits) {
                Ok(order) => {
                    let place = |i: usize| order.iter().position(|&j| j == i).unwrap();
                    prop_assert_eq!(order.len(), 8);
                    for (i, after) in waits.iter().enumerate() {
                        prop_assert!(after.iter().all(|&j| place(j) < place(i)));
                    }
                }
                Err(cycle) => {
                    prop_assert!(cycle.len() >= 2 && cycle.first() == cycle.last());
                    for pair in cycle.windows(2) {
                        prop_assert!(waits[pair[0]].contains(&pair[1]));
                    }
                }
            }
        }
    }
}
