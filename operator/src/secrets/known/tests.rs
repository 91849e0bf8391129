use std::sync::Arc;

use tokio::sync::Semaphore;

use super::*;
use crate::fleet::handle::Content;

const SECOND: Duration = Duration::from_secs(1);

fn name(text: &str) -> Name {
    Name::new("lab", text).unwrap()
}

fn found(text: &str, version: &str, bytes: usize) -> Read {
    let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let secret = validate::withheld(name(text), Reason::UnknownSecret, String::new());
    let content = Content { secret, opening: None, place };
    Read::Found(Found { version: version.to_owned(), bytes, content })
}

/// One namespace at some moment.
struct World {
    known: Known,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self { known: Known::default(), now: Instant::now() }
    }

    /// Names these Secrets, and gives what the fleet is told.
    fn name<const N: usize>(&mut self, names: [&str; N]) -> Vec<String> {
        let names = names.map(name).into_iter().collect();
        said(&self.known.name(&names, self.now))
    }

    /// What is to be read now.
    fn due(&mut self) -> Vec<Task> {
        std::iter::from_fn(|| self.known.next(self.now)).collect()
    }

    /// Reads the only Secret that is to be read.
    fn read(&mut self, read: Read) -> Vec<String> {
        let [task] = self.due().try_into().unwrap();
        said(&self.known.take(&task, read, self.now))
    }
}

fn said(looks: &[(Name, Look)]) -> Vec<String> {
    let word = |look: &Look| match look {
        Look::Absent => "absent".to_owned(),
        Look::Found(_) => "found".to_owned(),
        Look::Withheld(secret) => secret.problems()[0].reason.as_str().to_owned(),
        Look::Unnamed => "unnamed".to_owned(),
    };
    looks.iter().map(|(name, look)| format!("{}: {}", name.name(), word(look))).collect()
}

fn refused() -> Read {
    Read::Failed(ReadError::Refused)
}

#[test]
fn only_what_is_named_is_read() {
    let mut world = World::new();
    world.known.list();
    world.known.see(&name("other"), Some("1"), world.now);
    world.known.listed(world.now);
    world.known.change(&name("another"), Some("2"), world.now);
    assert_eq!((world.due(), world.known.by_name.len()), (vec![], 0));
    assert!(world.known.listed.is_empty(), "nothing is held of what nobody names");
}

#[test]
fn a_secret_that_is_named_later_than_it_came_is_read_when_it_is_named() {
    let mut world = World::new();
    world.known.change(&name("a"), Some("1"), world.now);
    assert_eq!(world.name(["a"]), Vec::<String>::new());
    assert_eq!(world.read(found("a", "1", 10)), ["a: found"]);
    assert_eq!((world.due(), world.known.due()), (vec![], None));
}

#[test]
fn a_secret_that_comes_later_than_it_is_named_is_read_when_it_comes() {
    let mut world = World::new();
    world.name(["a"]);
    assert_eq!(world.read(Read::Absent), ["a: absent"]);
    assert_eq!(world.due(), []);
    world.known.change(&name("a"), Some("1"), world.now);
    assert_eq!(world.read(found("a", "1", 10)), ["a: found"]);
}

#[test]
fn a_secret_that_changes_is_read_anew_and_one_that_does_not_is_not() {
    let mut world = World::new();
    world.name(["a"]);
    world.read(found("a", "1", 10));
    world.known.change(&name("a"), Some("1"), world.now);
    assert_eq!(world.due(), [], "it is what was read");
    world.known.change(&name("a"), Some("2"), world.now);
    let [task] = world.due().try_into().unwrap();
    world.known.change(&name("a"), Some("3"), world.now);
    assert_eq!(world.due(), [], "one read at a time");
    assert_eq!(said(&world.known.take(&task, found("a", "2", 10), world.now)), ["a: found"]);
    assert_eq!(world.read(found("a", "3", 10)), ["a: found"]);
    world.known.change(&name("a"), None, world.now);
    assert_eq!(world.read(Read::Absent), ["a: absent"]);
}

#[test]
fn what_a_new_list_does_not_show_is_looked_for() {
    let mut world = World::new();
    world.name(["a"]);
    world.read(found("a", "1", 10));
    for (shown, expected) in [(true, 0), (false, 1)] {
        world.known.list();
        if shown {
            world.known.see(&name("a"), Some("1"), world.now);
        }
        world.known.listed(world.now);
        assert_eq!(world.due().len(), expected);
    }
}

#[test]
fn what_nobody_names_any_more_is_forgotten() {
    let mut world = World::new();
    world.name(["a", "b"]);
    let [a, b] = world.due().try_into().unwrap();
    world.known.take(&a, found("a", "1", 10), world.now);
    assert_eq!(world.name(["b"]), ["a: unnamed"]);
    world.name(["a", "b"]);
    let [anew] = world.due().try_into().unwrap();
    assert_eq!(said(&world.known.take(&a, found("a", "1", 10), world.now)), Vec::<String>::new());
    assert_eq!(said(&world.known.take(&anew, found("a", "1", 10), world.now)), ["a: found"]);
    assert_eq!(said(&world.known.take(&b, Read::Absent, world.now)), ["b: absent"]);
}

#[test]
fn what_a_namespace_keeps_has_a_limit_and_nobody_takes_room_from_another() {
    let mut world = World::new();
    world.name(["b", "c"]);
    let most = NAMESPACE_BYTES_MAX;
    let [b, c] = world.due().try_into().unwrap();
    assert_eq!(said(&world.known.take(&c, found("c", "1", 10), world.now)), ["c: found"]);
    let looks = world.known.take(&b, found("b", "1", most), world.now);
    assert_eq!(said(&looks), ["b: SecretTooLarge"], "whatever their names are");
    world.known.change(&name("b"), Some("2"), world.now);
    assert_eq!(world.read(found("b", "2", most - 10)), ["b: found"]);
    world.known.change(&name("b"), Some("3"), world.now);
    assert_eq!(world.read(found("b", "3", most)), ["b: SecretTooLarge"], "it has grown");
    world.name(["b"]);
    assert_eq!(world.read(found("b", "3", most)), ["b: found"], "there is room for it again");
    assert_eq!(world.known.due(), None);
}

#[test]
fn what_has_no_room_is_not_read_before_its_pause_is_over() {
    let mut world = World::new();
    world.name(["a", "b"]);
    let [a, b] = world.due().try_into().unwrap();
    world.known.take(&a, found("a", "1", NAMESPACE_BYTES_MAX), world.now);
    world.known.take(&b, found("b", "1", 10), world.now);
    world.name(["b"]);
    assert_eq!(world.read(Read::Failed(ReadError::TimedOut)), Vec::<String>::new());
    let due = world.known.due();
    assert!(due > Some(world.now));
    world.name(["b"]);
    assert_eq!(world.known.due(), due);
}

#[test]
fn a_secret_that_may_not_be_read_is_told_so_after_a_while_and_found_when_it_may() {
    let mut world = World::new();
    world.name(["a"]);
    let began = world.now;
    for _ in 1..REFUSALS_MAX {
        assert_eq!(world.read(refused()), Vec::<String>::new());
        world.now = world.known.due().unwrap();
    }
    assert_eq!(world.read(refused()), ["a: SecretNotReadable"]);
    assert_eq!(world.now, began + SECOND * 7);
    assert!(world.known.due() > Some(world.now + SECOND), "it is tried again, and not at once");
    world.known.list();
    world.known.see(&name("a"), Some("1"), world.now);
    world.known.listed(world.now);
    assert_eq!(world.read(found("a", "1", 10)), ["a: found"]);
}

#[test]
fn only_refusals_in_a_row_say_that_it_may_not_be_read() {
    let mut world = World::new();
    world.name(["a"]);
    for _ in 0..REFUSALS_MAX {
        for failure in [Read::Failed(ReadError::TimedOut), refused()] {
            assert_eq!(world.read(failure), Vec::<String>::new());
            world.now = world.known.due().unwrap();
        }
    }
}

#[test]
fn what_was_read_stays_while_it_cannot_be_read_anew() {
    let mut world = World::new();
    world.name(["a"]);
    world.read(found("a", "1", 10));
    world.known.change(&name("a"), Some("2"), world.now);
    for _ in 0..20 {
        let failures = [refused(), Read::Failed(ReadError::TimedOut)];
        for failure in failures {
            assert_eq!(world.read(failure), Vec::<String>::new());
            world.now = world.known.due().unwrap();
        }
    }
    assert_eq!(world.read(found("a", "2", 10)), ["a: found"]);
}

#[test]
fn pauses_between_failures_grow_up_to_a_limit() {
    let mut world = World::new();
    world.name(["a"]);
    let mut pauses = Vec::new();
    for _ in 0..7 {
        world.read(Read::Failed(ReadError::TimedOut));
        let due = world.known.due().unwrap();
        pauses.push((due - world.now).as_secs());
        world.now = due;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
}
