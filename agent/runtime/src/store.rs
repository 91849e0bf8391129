//! What programs keep from one call to the next: a little, in memory, each tenant's for itself.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use realm_core::refusal::Refusal;

/// Entries of one tenant, and bytes of them. A thousand tenants that fill theirs take 256 MiB, which
/// is little beside weights; who needs more needs something that lasts.
const ENTRIES_MAX: usize = 1024;
const BYTES_MAX: usize = 256 << 10;

/// What an entry takes besides its key and its value.
const ENTRY_BYTES: usize = 64;

/// Bytes of a key, which is a path or an id, and of a value, of which four fill the whole.
const KEY_BYTES_MAX: usize = 256;
const VALUE_BYTES_MAX: usize = 64 << 10;

/// Keys told at once.
const LISTED_MAX: usize = 256;

/// One tenant's store. A clone is the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    values: BTreeMap<String, Arc<[u8]>>,
    bytes: usize,
}

impl Store {
    pub(crate) fn get(&self, key: &str) -> Option<Arc<[u8]>> {
        self.entries().values.get(key).cloned()
    }

    /// Keeps `value`, or says why not; then what was there before still is.
    pub(crate) fn set(&self, key: String, value: Vec<u8>) -> Result<(), Refusal> {
        let invalid = |message: String| Err(Refusal::Invalid(message));
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return invalid(format!("a key has 1 to {KEY_BYTES_MAX} bytes"));
        }
        if value.len() > VALUE_BYTES_MAX {
            return invalid(format!("a value has {VALUE_BYTES_MAX} bytes at most"));
        }
        let mut entries = self.entries();
        let before = entries.values.get(&key).map(|value| size(&key, value));
        let bytes = entries.bytes - before.unwrap_or(0) + size(&key, &value);
        if bytes > BYTES_MAX {
            return invalid(format!("the tenant's store is full: {BYTES_MAX} bytes are the most"));
        }
        if before.is_none() && entries.values.len() >= ENTRIES_MAX {
            return invalid(format!("the tenant's store is full: {ENTRIES_MAX} are the most"));
        }
        entries.bytes = bytes;
        entries.values.insert(key, value.into());
        Ok(())
    }

    /// Whether there was one.
    pub(crate) fn delete(&self, key: &str) -> bool {
        let mut entries = self.entries();
        let Some(value) = entries.values.remove(key) else { return false };
        entries.bytes -= size(key, &value);
        true
    }

    /// The first keys that begin with `prefix` and come after `after`.
    pub(crate) fn keys(&self, prefix: &str, after: Option<&str>) -> Vec<String> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            Some(_) | None => Bound::Included(prefix),
        };
        let entries = self.entries();
        let keys = entries.values.range::<str, _>((from, Bound::Unbounded)).map(|(key, _)| key);
        keys.take_while(|key| key.starts_with(prefix)).take(LISTED_MAX).cloned().collect()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Nothing between the first change of a call and its last can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an entry counts as.
const fn size(key: &str, value: &[u8]) -> usize {
    key.len() + value.len() + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(store: &Store, key: &str, bytes: usize) -> Result<(), Refusal> {
        store.set(key.to_owned(), vec![7; bytes])
    }

    #[test]
    fn what_is_kept_is_there_until_it_is_deleted() {
        let store = Store::default();
        assert_eq!(store.get("a"), None);
        store.clone().set("a".to_owned(), b"one".to_vec()).unwrap();
        store.set("a".to_owned(), b"two".to_vec()).unwrap();
        assert_eq!(store.get("a").as_deref(), Some(&b"two"[..]));
        assert!(store.delete("a") && !store.delete("a"));
        assert_eq!((store.get("a"), store.entries().bytes), (None, 0));
    }

    #[test]
    fn keys_are_told_in_order_by_prefix_and_in_pieces() {
        let store = Store::default();
        for number in 0..600 {
            set(&store, &format!("k/{number:03}"), 1).unwrap();
        }
        set(&store, "j", 1).unwrap();
        set(&store, "l", 1).unwrap();
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let piece = store.keys("k/", after.as_deref());
            assert!(piece.len() <= LISTED_MAX);
            let Some(last) = piece.last() else { break };
            after = Some(last.clone());
            all.extend(piece);
        }
        assert_eq!(all, (0..600).map(|number| format!("k/{number:03}")).collect::<Vec<_>>());
        assert_eq!(store.keys("k/", Some("a")).first().unwrap(), "k/000");
        assert!(store.keys("x", None).is_empty() && store.keys("k/", Some("k0")).is_empty());
    }

    #[test]
    fn a_store_holds_so_much_and_no_more_and_pushes_nothing_out() {
        let store = Store::default();
        for bytes in [VALUE_BYTES_MAX + 1, usize::from(u16::MAX) * 8] {
            set(&store, "large", bytes).unwrap_err();
        }
        set(&store, "", 1).unwrap_err();
        set(&store, &"k".repeat(KEY_BYTES_MAX + 1), 1).unwrap_err();
        let fits = BYTES_MAX / (VALUE_BYTES_MAX + 1);
        for number in 0..fits {
            set(&store, &number.to_string(), VALUE_BYTES_MAX).unwrap();
        }
        let rest = BYTES_MAX - store.entries().bytes;
        set(&store, "rest", rest).unwrap_err();
        set(&store, "rest", rest - ENTRY_BYTES - 4).unwrap();
        set(&store, "r", 0).unwrap_err();
        assert_eq!(store.entries().bytes, BYTES_MAX);
        set(&store, "0", 1).unwrap();
        set(&store, "r", 0).unwrap();

        let many = Store::default();
        for number in 0..ENTRIES_MAX {
            set(&many, &number.to_string(), 1).unwrap();
        }
        set(&many, "one more", 1).unwrap_err();
        set(&many, "0", 2).unwrap();
        assert_eq!(many.entries().values.len(), ENTRIES_MAX);
    }
}
