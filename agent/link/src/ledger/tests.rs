use std::fs;

use proptest::prelude::*;

use super::*;
use crate::arbitrary;

fn state(generation: u64) -> Desired {
    let mut desired = arbitrary::sample();
    desired.generation = generation;
    desired.models[0].context = Some(u32::try_from(generation).unwrap());
    desired
}

async fn open(dir: &Path) -> Ledger {
    let (ledger, warnings) = Ledger::open(dir).await.unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    ledger
}

#[tokio::test]
async fn an_accepted_state_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    for generation in 1..=5 {
        let ledger = open(dir.path()).await;
        assert_eq!(ledger.newest().generation, generation - 1);
        assert_eq!(ledger.accept(state(generation)).await.unwrap(), Accepted::New);
        assert_eq!(*ledger.newest(), state(generation));
    }
    assert_eq!(*open(dir.path()).await.newest(), state(5));
}

#[tokio::test]
async fn an_older_generation_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path()).await;
    ledger.accept(state(7)).await.unwrap();
    let refused = ledger.accept(state(6)).await;
    assert!(matches!(refused, Err(LedgerError::Older { got: 6, have: 7 })));
    assert_eq!(*ledger.newest(), state(7));
}

#[tokio::test]
async fn the_same_generation_is_taken_twice_only_with_the_same_content() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path()).await;
    ledger.accept(state(7)).await.unwrap();
    assert_eq!(ledger.accept(state(7)).await.unwrap(), Accepted::AlreadyHave);
    let mut changed = state(7);
    changed.tenants.clear();
    let refused = ledger.accept(changed).await;
    assert!(matches!(refused, Err(LedgerError::Changed { generation: 7 })));
    drop(ledger);
    assert_eq!(*open(dir.path()).await.newest(), state(7));
}

#[tokio::test]
async fn subscribers_see_what_was_accepted_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path()).await;
    let mut newest = ledger.subscribe();
    ledger.accept(state(2)).await.unwrap();
    assert!(newest.has_changed().unwrap());
    assert_eq!(**newest.borrow_and_update(), state(2));
    ledger.accept(state(1)).await.unwrap_err();
    assert!(!newest.has_changed().unwrap());
}

#[tokio::test]
async fn a_damaged_newest_slot_falls_back_to_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path()).await;
    for generation in 1..=3 {
        ledger.accept(state(generation)).await.unwrap();
    }
    drop(ledger);
    let path = dir.path().join("desired.0");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();

    let (ledger, warnings) = Ledger::open(dir.path()).await.unwrap();
    assert_eq!(*ledger.newest(), state(2));
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].path, path);
    assert!(matches!(warnings[0].source, SlotError::Damaged));

    // The damaged slot is the one that is replaced, and never the good one.
    ledger.accept(state(3)).await.unwrap();
    drop(ledger);
    assert_eq!(*open(dir.path()).await.newest(), state(3));
}

#[tokio::test]
async fn two_damaged_slots_leave_an_empty_state_and_two_warnings() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("desired.0"), b"").unwrap();
    fs::write(dir.path().join("desired.1"), b"something else").unwrap();
    let (ledger, warnings) = Ledger::open(dir.path()).await.unwrap();
    assert_eq!(warnings.len(), 2);
    assert_eq!(*ledger.newest(), Desired::default());
    ledger.accept(state(1)).await.unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_is_a_typed_error_and_the_state_before_it_stays() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path()).await;
    ledger.accept(state(1)).await.unwrap();
    // A device that has no space left, in the place of the temporary file.
    std::os::unix::fs::symlink("/dev/full", dir.path().join("desired.new")).unwrap();
    let newest = ledger.subscribe();

    let refused = ledger.accept(state(2)).await;
    assert!(matches!(refused, Err(LedgerError::DiskFull { .. })), "{refused:?}");
    assert_eq!(*ledger.newest(), state(1));
    assert!(!newest.has_changed().unwrap());
    drop((ledger, newest));

    let ledger = open(dir.path()).await;
    assert_eq!(*ledger.newest(), state(1));
    assert_eq!(ledger.accept(state(2)).await.unwrap(), Accepted::New);
}

#[tokio::test]
async fn a_folder_that_is_gone_is_a_typed_error() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path()).await;
    dir.close().unwrap();
    let refused = ledger.accept(state(1)).await;
    assert!(matches!(refused, Err(LedgerError::Write { .. })), "{refused:?}");
    assert_eq!(ledger.newest().generation, 0);
}

#[tokio::test]
async fn a_second_process_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path()).await;
    let refused = Ledger::open(dir.path()).await;
    assert!(matches!(refused, Err(LedgerError::InUse { .. })));
    drop(ledger);
    open(dir.path()).await;
}

#[tokio::test]
async fn a_state_that_could_not_be_read_back_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path()).await;
    let mut twice = state(1);
    twice.models.push(twice.models[0].clone());
    let refused = ledger.accept(twice).await;
    assert!(matches!(refused, Err(LedgerError::Invalid(_))), "{refused:?}");
    assert_eq!(ledger.newest().generation, 0);
    ledger.accept(state(1)).await.unwrap();
}

proptest! {
    #[test]
    fn only_a_greater_generation_replaces_a_state(have: u64, got: u64, same: bool) {
        let newest = Desired { generation: have, ..arbitrary::sample() };
        let mut desired = Desired { generation: got, ..arbitrary::sample() };
        if !same {
            desired.pipelines.clear();
        }
        match check(&newest, &desired) {
            Ok(Accepted::New) => prop_assert!(got > have),
            Ok(Accepted::AlreadyHave) => prop_assert!(got == have && same),
            Err(LedgerError::Older { .. }) => prop_assert!(got < have),
            Err(LedgerError::Changed { .. }) => prop_assert!(got == have && !same),
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}
