//! Whatever becomes of a call, its tenant's account holds what it should.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;
use realm_core::{
    auth::{self, Credential, Roster},
    call::{Call, CallId, Deadline},
    desired::ApiKey,
    engine::Finish,
    limit::{Left, Limiter, PerMinute},
};
use serde_json::Value;

use super::*;
use crate::relay::look::tests::tenant;

/// Tokens that the tenant has each way: more than any call here costs.
const TOKENS: u32 = 1_000_000;

fn admitted(now: Instant) -> Admitted {
    admitted_until(now, None)
}

fn admitted_until(now: Instant, deadline: Option<Deadline>) -> Admitted {
    let mut tenant = tenant(&["a"]);
    tenant.limits.input_tokens_per_minute = TOKENS;
    tenant.limits.output_tokens_per_minute = TOKENS;
    let sha256 = Credential::of("key").digest();
    tenant.keys = vec![ApiKey { name: "k".into(), sha256, expires_at: None, disabled: false }];
    let roster = Roster::new([Arc::new(tenant)]);
    let caller = auth::verify(&roster, Credential::of("key"), 0).unwrap();
    let mut call = Call::new(CallId("1".into()), "chat", Value::Null);
    call.deadline = deadline;
    Limiter::default().admit(caller, call, now).unwrap()
}

fn usage(prompt_tokens: u32, cached_tokens: u32, completion_tokens: u32) -> Usage {
    Usage { prompt_tokens, cached_tokens, completion_tokens }
}

fn done() -> Done {
    Done { data: Value::Null, finish: Finish::Stop, usage: Usage::default() }
}

/// What is left in an account that has paid so much.
fn left_after(paid: Usage) -> Left {
    let per_minute = Some(PerMinute { input_tokens: TOKENS, output_tokens: TOKENS });
    Left {
        per_minute,
        input_tokens: TOKENS - (paid.prompt_tokens - paid.cached_tokens),
        output_tokens: TOKENS - paid.completion_tokens,
    }
}

/// What happens to a call on its way.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Its node has spent so much since it told of it last.
    Told(Usage),
    /// Of prompts that it has been paid for it has not begun so many tokens, and never will.
    Unbegun(u32),
    Lost,
    Asked,
}

fn event() -> impl Strategy<Value = Event> {
    let told = (0_u32..200, 0_u32..200, 0_u32..200)
        .prop_map(|(prompt, cached, made)| Event::Told(usage(prompt, cached.min(prompt), made)));
    // A node that was lost tells of nothing, and the next one is asked.
    let unbegun = (0_u32..200).prop_map(Event::Unbegun);
    prop_oneof![4 => told, 1 => unbegun, 1 => Just(Event::Lost), 2 => Just(Event::Asked)]
}

fn ended() -> impl Strategy<Value = Result<Done, Refusal>> {
    prop_oneof![
        Just(Ok(done())),
        Just(Err(Refusal::Internal)),
        Just(Err(Refusal::DeadlineExceeded { deadline_ms: 1 })),
        Just(Err(Refusal::Cancelled)),
    ]
}

proptest! {
    /// The account has paid for the work of the node that had the call last and for no other, but
    /// that lost work is paid for until somebody is asked to do it again, and for good where the
    /// client has gone by then.
    #[test]
    fn work_is_paid_for_once(
        events in prop::collection::vec(event(), 0..30),
        end in ended(),
    ) {
        let now = Instant::now();
        let (call, mut bill) = (admitted(now), Bill::default());
        let (mut at_node, mut lost, mut is_there) = (Usage::default(), Usage::default(), false);
        for event in events {
            match event {
                Event::Told(more) if is_there => {
                    at_node = sum(at_node, more);
                    bill.pay(&call, at_node, now).unwrap();
                }
                Event::Unbegun(tokens) if is_there => {
                    let computed = at_node.prompt_tokens - at_node.cached_tokens;
                    at_node.prompt_tokens -= tokens.min(computed);
                    bill.pay(&call, at_node, now).unwrap();
                }
                Event::Lost if is_there => {
                    bill.lose();
                    (lost, at_node, is_there) = (sum(lost, at_node), Usage::default(), false);
                }
                Event::Asked if !is_there => {
                    bill.move_on(&call);
                    (lost, is_there) = (Usage::default(), true);
                }
                Event::Told(_) | Event::Unbegun(_) | Event::Lost | Event::Asked => {}
            }
            prop_assert_eq!(call.left(now), left_after(sum(at_node, lost)));
            prop_assert_eq!(*call.spent().borrow(), sum(at_node, lost));
        }
        bill.settle(&call, &end, now);
        let is_gone = matches!(end, Err(Refusal::Cancelled));
        let due = if is_gone { sum(at_node, lost) } else { at_node };
        prop_assert_eq!(call.left(now), left_after(due));
        prop_assert_eq!(*call.spent().borrow(), due);
    }
}

#[test]
fn a_call_whose_node_is_lost_pays_only_the_node_that_does_it_again() {
    let now = Instant::now();
    let (call, mut bill) = (admitted(now), Bill::default());
    bill.pay(&call, usage(50, 20, 3), now).unwrap();
    bill.lose();
    assert_eq!(call.left(now), left_after(usage(50, 20, 3)), "nobody has been asked yet");
    bill.move_on(&call);
    assert_eq!(call.left(now), left_after(Usage::default()));
    bill.pay(&call, usage(50, 0, 0), now).unwrap();
    bill.pay(&call, usage(50, 0, 9), now).unwrap();
    bill.settle(&call, &Ok(done()), now);
    assert_eq!(call.left(now), left_after(usage(50, 0, 9)));
}

#[test]
fn lost_work_is_not_paid_for_where_the_calls_time_is_over() {
    let now = Instant::now();
    let (call, mut bill) = (admitted_until(now, Some(Deadline::after(now, 5))), Bill::default());
    bill.pay(&call, usage(50, 20, 3), now).unwrap();
    bill.lose();
    let late = now + Duration::from_millis(5);
    bill.settle(&call, &Err(Refusal::Cancelled), late);
    assert_eq!(call.left(late), left_after(Usage::default()));
}

#[test]
fn a_prompt_that_a_node_has_not_begun_is_given_back() {
    let now = Instant::now();
    let (call, mut bill) = (admitted(now), Bill::default());
    bill.pay(&call, usage(5000, 0, 0), now).unwrap();
    bill.pay(&call, usage(0, 0, 0), now).unwrap();
    bill.settle(&call, &Err(Refusal::DeadlineExceeded { deadline_ms: 2000 }), now);
    assert_eq!(call.left(now), left_after(Usage::default()));
    assert_eq!(*call.spent().borrow(), Usage::default());
}

#[test]
fn a_node_that_tells_of_less_than_before_is_paid_for_nothing_twice() {
    let now = Instant::now();
    let (call, mut bill) = (admitted(now), Bill::default());
    for spent in [usage(50, 10, 4), usage(0, 0, 0), usage(50, 10, 4), usage(50, 10, 5)] {
        bill.pay(&call, spent, now).unwrap();
    }
    assert_eq!(*call.spent().borrow(), usage(50, 10, 5));
    assert_eq!(call.left(now), left_after(usage(50, 10, 5)));
}

#[test]
fn work_that_is_done_again_is_paid_for_as_any_is() {
    let now = Instant::now();
    let (call, mut bill) = (admitted(now), Bill::default());
    bill.pay(&call, usage(50, 0, 0), now).unwrap();
    bill.lose();
    bill.move_on(&call);
    // The tenant's other calls have spent everything meanwhile.
    call.charge(usage(0, 0, TOKENS), now);
    bill.pay(&call, usage(50, 0, 0), now).unwrap_err();
    assert_eq!(call.left(now), left_after(usage(0, 0, TOKENS)));
}

#[test]
fn of_a_prompt_that_was_refused_nothing_is_given_back() {
    let now = Instant::now();
    let (call, mut bill) = (admitted(now), Bill::default());
    call.charge(usage(TOKENS - 60, 0, 0), now);
    bill.pay(&call, usage(70, 0, 0), now).unwrap_err();
    bill.pay(&call, usage(70, 40, 2), now).unwrap();
    assert_eq!(call.left(now), left_after(usage(TOKENS - 60, 0, 2)));
}

#[test]
fn what_of_a_prompt_was_cached_needs_no_tokens_whenever_that_is_told() {
    let now = Instant::now();
    let (call, mut bill) = (admitted(now), Bill::default());
    call.charge(usage(TOKENS - 60, 0, 0), now);
    bill.pay(&call, usage(70, 20, 0), now).unwrap();
    assert_eq!(call.left(now).input_tokens, 10);
    bill.pay(&call, usage(70, 40, 0), now).unwrap();
    assert_eq!(call.left(now).input_tokens, 30);
}
