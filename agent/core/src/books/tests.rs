use proptest::prelude::*;

use super::*;

fn tenant(n: usize) -> TenantName {
    TenantName::new("default", &format!("t{n}")).unwrap()
}

fn pipeline(n: usize) -> Way {
    Way::of((n > 0).then(|| PipelineName::new("default", &format!("p{n}")).unwrap()))
}

fn used(n: u64) -> Used {
    Used {
        prompt_tokens: n,
        cached_tokens: n / 2,
        generated_tokens: 2 * n,
        device_ns: 3 * n,
        block_ns: u128::from(n) << 64,
    }
}

fn divide(whole: u64, by: &[u64]) -> Vec<u64> {
    Divider::default().divide(whole, by).to_vec()
}

#[test]
fn books_that_were_cleared_tell_nothing_and_keep_no_row_for_long() {
    let (mut step, mut all) = (Books::default(), Books::default());
    step.add(&tenant(0), &pipeline(0), used(3));
    all.absorb(&step);
    step.clear();
    let before = all.clone();
    all.absorb(&step);
    all.forget(&tenant(0));
    all.absorb(&step);
    assert_eq!((all.tenants().count(), all.sum(), step.sum()), (0, before.sum(), Used::default()));
    assert_eq!(step.tenants().count(), 1, "a row that the next step finds");
    step.clear();
    assert_eq!(step, Books::default());
}

#[test]
fn what_is_left_goes_to_those_that_miss_most_of_their_due() {
    assert_eq!(divide(10, &[1, 1, 1]), [4, 3, 3]);
    // 1.25, 2.5 and 6.25 are due.
    assert_eq!(divide(10, &[1, 2, 5]), [1, 3, 6]);
    assert_eq!(divide(5, &[0, 0]), [3, 2]);
    assert_eq!(divide(5, &[0, 7]), [0, 5]);
    assert!(divide(5, &[]).is_empty());
    assert_eq!(divide(u64::MAX, &[u64::MAX, u64::MAX]), [u64::MAX / 2 + 1, u64::MAX / 2]);
}

proptest! {
    #[test]
    fn the_pieces_add_up_and_each_is_its_due_to_less_than_one(
        whole: u64,
        by in prop::collection::vec(any::<u64>(), 1..70),
    ) {
        let pieces = divide(whole, &by);
        prop_assert_eq!(pieces.len(), by.len());
        let sum: u128 = pieces.iter().map(|&piece| u128::from(piece)).sum();
        prop_assert_eq!(sum, u128::from(whole));
        let all: u128 = by.iter().map(|&part| u128::from(part)).sum();
        prop_assume!(all > 0);
        for (piece, part) in pieces.into_iter().zip(by) {
            let due = u128::from(whole) * u128::from(part) / all;
            prop_assert!((due..=due + 1).contains(&u128::from(piece)));
        }
    }

    #[test]
    fn sums_stay_whatever_is_absorbed_and_forgotten(
        steps in prop::collection::vec((0..4_usize, 0..40_usize, 0..1000_u64, any::<bool>()), 0..200),
    ) {
        let (mut books, mut step, mut all) = (Books::default(), Books::default(), Used::default());
        for (n, way, amount, forgets) in steps {
            step.add(&tenant(n), &pipeline(way), used(amount));
            all += used(amount);
            if forgets {
                books.absorb(&std::mem::take(&mut step));
                books.forget(&tenant(n));
            }
        }
        books.absorb(&step);
        prop_assert_eq!(books.sum(), all);
        for (_, of_tenant) in books.tenants() {
            prop_assert!(of_tenant.rows().count() <= PIPELINES_MAX + 2);
        }
        books.retain(|name| *name == tenant(1));
        prop_assert_eq!(books.sum(), all);
        prop_assert!(books.tenants().all(|(name, _)| *name == tenant(1)));
    }
}

#[test]
fn pipelines_beyond_the_most_share_a_row() {
    let mut ways = ByWay::default();
    for n in 0..=PIPELINES_MAX + 5 {
        ways.add(&pipeline(n), used(2));
        ways.add(&pipeline(n), used(2));
    }
    assert_eq!(ways.rows().count(), PIPELINES_MAX + 2);
    assert_eq!(ways.rows().last(), Some((&Way::OtherPipelines, used(20))));
    assert_eq!(Way::OtherPipelines.label(), "other");
}
