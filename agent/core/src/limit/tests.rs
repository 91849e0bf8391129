use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    auth::{self, Credential, Roster, verify},
    call::CallId,
    desired::{ApiKey, DesiredTenant, Limits},
    fixtures::tenant,
    slices::{Each, PARTS, Slices},
};

fn caller(change: impl Fn(&mut Limits)) -> Caller {
    caller_of(|tenant| change(&mut tenant.limits))
}

fn in_mode(mode: LimitsMode) -> Caller {
    caller_of(|tenant| tenant.limits_mode = mode)
}

fn caller_of(change: impl Fn(&mut DesiredTenant)) -> Caller {
    let mut tenant = tenant("acme");
    change(&mut tenant);
    let sha256 = Credential::of("key").digest();
    tenant.keys.push(ApiKey { name: "k".into(), sha256, expires_at: None, disabled: false });
    verify(&Roster::new([Arc::new(tenant)]), Credential::of("key"), 0).unwrap()
}

fn call() -> Call {
    let id = CallId("1".into());
    Call::new(id, "chat", serde_json::Value::Null)
}

fn usage(prompt_tokens: u32, cached_tokens: u32, completion_tokens: u32) -> Usage {
    Usage { prompt_tokens, cached_tokens, completion_tokens }
}

#[test]
fn the_request_after_the_last_allowed_one_is_told_when_to_return() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    for _ in 0..60 {
        drop(limiter.admit(caller.clone(), call(), now).unwrap());
    }
    let refusal = limiter.admit(caller.clone(), call(), now).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyRequests { per_minute: 60, retry_after_ms: 1000 });
    limiter.admit(caller, call(), now + Duration::from_secs(1)).unwrap();
}

#[test]
fn a_place_is_given_back_when_the_call_is_dropped() {
    let (limiter, caller, now) = (Limiter::default(), caller(|l| l.calls_max = 1), Instant::now());
    let running = limiter.admit(caller.clone(), call(), now).unwrap();
    let refusal = limiter.admit(caller.clone(), call(), now).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyCalls { calls_max: 1 });
    drop(running);
    limiter.admit(caller, call(), now).unwrap();
}

#[test]
fn a_debt_is_paid_back_before_the_next_call() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    let running = limiter.admit(caller.clone(), call(), now).unwrap();
    running.charge(usage(10, 0, 149), now);
    let refusal = limiter.admit(caller.clone(), call(), now).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyTokens { per_minute: 100, retry_after_ms: 30_000 });
    limiter.admit(caller, call(), now + Duration::from_secs(30)).unwrap();
}

#[test]
fn a_running_call_may_not_go_on_spending_while_in_debt() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    let running = limiter.admit(caller, call(), now).unwrap();
    running.charge(usage(0, 0, 99), now);
    running.check(now).unwrap();
    running.charge(usage(0, 0, 50), now);
    let refusal = running.check(now).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyTokens { per_minute: 100, retry_after_ms: 30_000 });
    running.check(now + Duration::from_secs(30)).unwrap();
}

#[test]
fn a_stream_gets_what_is_left_and_then_what_time_earns() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    let running = limiter.admit(caller.clone(), call(), now).unwrap();
    let mut reserve = running.reserve(10, now).unwrap();
    reserve.spend_input(now);
    for _ in 0..100 {
        reserve.take_token(now).unwrap();
    }
    let refusal = reserve.take_token(now).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyTokens { per_minute: 100, retry_after_ms: 600 });
    let early = now + Duration::from_millis(599);
    limiter.admit(caller.clone(), call(), early).unwrap_err();
    let later = now + Duration::from_millis(600);
    limiter.admit(caller.clone(), call(), later).unwrap();
    reserve.take_token(later).unwrap();
    reserve.take_token(later).unwrap_err();
    assert_eq!(*running.spent().borrow(), usage(10, 0, 101));
    assert_eq!(limiter.quota(&caller, later).output_tokens, 0);
}

#[test]
fn a_prompt_that_is_larger_than_what_is_left_waits_for_all_of_it() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    let running = limiter.admit(caller.clone(), call(), now).unwrap();
    running.reserve(700, now).unwrap().spend_input(now);
    let refusal = running.reserve(400, now).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyTokens { per_minute: 1000, retry_after_ms: 6000 });
    assert_eq!(limiter.quota(&caller, now).input_tokens, 300, "it takes nothing");
    running.reserve(400, now + Duration::from_secs(6)).unwrap();
}

#[test]
fn a_prompt_that_no_minute_has_the_tokens_for_is_refused_for_good() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    let running = limiter.admit(caller.clone(), call(), now).unwrap();
    let refusal = running.reserve(1001, now).unwrap_err();
    assert_eq!(refusal, Refusal::TooLongForLimit { tokens: 1001, per_minute: 1000 });
    assert_eq!((refusal.code(), refusal.retry_after_ms()), ("too_long", None));
    assert!(refusal.to_string().contains("limits.inputTokensPerMinute is 1000"), "{refusal}");
}

#[test]
fn a_prompt_that_is_larger_than_its_doors_slice_takes_all_of_it_and_owes_the_rest() {
    let now = Instant::now();
    let owing = |limiter: &Limiter| {
        limiter.divide(slices(1, PARTS / 4), now);
        let running = limiter.admit(caller(|_| ()), call(), now).unwrap();
        running.reserve(700, now).unwrap().spend_input(now);
        running
    };
    // Less than its slice is had when it is there, and more when the slice is full.
    for (prompt, due) in [(100, 100_u64), (250, 250), (700, 250)] {
        let running = owing(&Limiter::default());
        let wait_ms = (due + 450) * 60_000 / 250;
        let refused_at = |ms: u64| {
            let refusal = running.reserve(prompt, now + Duration::from_millis(ms)).unwrap_err();
            assert!(
                matches!(refusal, Refusal::TooManyTokens { per_minute: 250, .. }),
                "{refusal:?}"
            );
            refusal.retry_after_ms().unwrap()
        };
        // A door with more of the limit would be done sooner, so it is to be asked each minute.
        assert_eq!(refused_at(0), 60_000);
        assert_eq!(refused_at(wait_ms - 40_000), 40_000);
        let after = |ms: u64| running.reserve(prompt, now + Duration::from_millis(ms));
        drop(after(wait_ms - 2).unwrap_err());
        drop(after(wait_ms).unwrap());
    }
    let limiter = Limiter::default();
    let running = owing(&limiter);
    limiter.divide(slices(2, 0), now);
    let at_last = now + Duration::from_mins(10);
    let refusal = running.reserve(700, at_last).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyTokens { per_minute: 0, retry_after_ms: 5000 });
}

/// A prompt that has begun with all that its door's slice holds is in debt for input, of which an
/// answer needs none.
#[test]
fn a_debt_of_input_cuts_no_answer() {
    let now = Instant::now();
    let limiter = Limiter::default();
    limiter.divide(slices(1, PARTS / 2), now);
    let caller = || caller(|limits| limits.calls_max = 6);
    let [long, other, afar] = [(); 3].map(|()| limiter.admit(caller(), call(), now).unwrap());
    let mut others = other.reserve(1, now).unwrap();
    others.spend_input(now);
    let later = now + Duration::from_secs(1);
    let mut reserve = long.reserve(900, later).unwrap();
    reserve.spend_input(later);
    for _ in 0..10 {
        reserve.take_token(later).unwrap();
        others.take_token(later).unwrap();
        afar.charge_from_afar(usage(0, 0, 1), later).unwrap();
    }
    drop(other.reserve(1, later).unwrap_err());
}

#[test]
fn no_answer_is_too_long_to_go_on_with() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    let running = limiter.admit(caller.clone(), call(), now).unwrap();
    let refusal = running.reserve_resumed(1001, 9, now).unwrap_err();
    assert_eq!(refusal, Refusal::TooLongForLimit { tokens: 1001, per_minute: 1000 });
    running.reserve_resumed(400, 700, now).unwrap().spend_input(now);
    let refusal = running.reserve(400, now).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyTokens { per_minute: 1000, retry_after_ms: 30_000 });
}

#[test]
fn who_waits_for_what_others_set_aside_is_not_told_a_time_that_brings_nothing() {
    let now = Instant::now();
    let (limiter, caller) =
        (Limiter::default(), caller(|limits| limits.output_tokens_per_minute = 3));
    let calls: Vec<_> =
        (0..4).map(|_| limiter.admit(caller.clone(), call(), now).unwrap()).collect();
    let mut held: Vec<_> = calls[..3].iter().map(|call| call.reserve(1, now).unwrap()).collect();
    let refusal = calls[3].reserve(1, now).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyTokens { per_minute: 3, retry_after_ms: 5000 });
    calls[3].reserve(1, now + Duration::from_mins(5)).unwrap_err();
    drop(held.pop());
    calls[3].reserve(1, now).unwrap();
}

#[test]
fn what_was_set_aside_and_not_spent_is_given_back() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    let running = limiter.admit(caller.clone(), call(), now).unwrap();
    let before = running.left(now);
    let mut reserve = running.reserve(600, now).unwrap();
    let left = running.left(now);
    assert_eq!((left.input_tokens, left.output_tokens), (400, 99));
    running.reserve(600, now).unwrap_err();
    reserve.spend_input(now);
    drop(reserve);
    let left = running.left(now);
    assert_eq!((left.input_tokens, left.output_tokens), (400, 100));
    running.give_back(600);
    assert_eq!(running.left(now), before);
    assert_eq!(*running.spent().borrow(), Usage::default());
    drop(running.reserve_texts(1000, now).unwrap());
    assert_eq!(running.left(now), before);
}

#[test]
fn what_is_set_aside_is_a_part_of_the_minute_and_nothing_beyond_it() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    let calls: Vec<_> =
        (0..4).map(|_| limiter.admit(caller.clone(), call(), now).unwrap()).collect();
    let waiting = calls.iter().map(|call| call.reserve(1, now).unwrap());
    let mut waiting: Vec<_> = waiting.collect();
    // They wait for so long that the bucket is full again.
    let later = now + Duration::from_mins(1);
    let had =
        |reserve: &mut Reserve| (0..200).filter(|_| reserve.take_token(later).is_ok()).count();
    let had: usize = waiting.iter_mut().map(had).sum();
    assert_eq!(had, 100);
}

#[test]
fn what_was_made_and_nobody_got_makes_no_debt() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    let running = limiter.admit(caller.clone(), call(), now).unwrap();
    let mut reserve = running.reserve(0, now).unwrap();
    reserve.spend_unread(30, now);
    assert_eq!(limiter.quota(&caller, now).output_tokens, 70);
    reserve.spend_unread(300, now);
    assert_eq!(running.spent().borrow().completion_tokens, 330);
    // Nothing of what was set aside is there to come back.
    drop(reserve);
    let refusal = running.check(now).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyTokens { per_minute: 100, retry_after_ms: 600 });
}

#[test]
fn who_never_reads_pays_with_the_token_that_was_set_aside() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    let running = limiter.admit(caller.clone(), call(), now).unwrap();
    running.charge(usage(0, 0, 99), now);
    let mut reserve = running.reserve(1, now).unwrap();
    reserve.spend_input(now);
    reserve.spend_unread(256, now);
    drop(reserve);
    drop(running.reserve(1, now).unwrap_err());

    let had = limiter.admit(caller.clone(), call(), now + Duration::from_mins(1)).unwrap();
    let now = now + Duration::from_mins(1);
    let mut reserve = had.reserve(1, now).unwrap();
    reserve.spend_had(150, now);
    drop(reserve);
    let refusal = had.check(now).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyTokens { per_minute: 100, retry_after_ms: 30_600 });
    assert_eq!(had.spent().borrow().completion_tokens, 150);
}

#[test]
fn cached_tokens_are_free() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    let running = limiter.admit(caller.clone(), call(), now).unwrap();
    running.charge(usage(500, 400, 7), now);
    let quota = limiter.quota(&caller, now);
    assert_eq!(quota, Quota { requests: 59, input_tokens: 900, output_tokens: 93 });
}

#[test]
fn a_refund_gives_back_what_was_charged_and_never_more_than_a_minutes_allowance() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    let running = limiter.admit(caller.clone(), call(), now).unwrap();
    running.charge(usage(500, 0, 0), now);
    running.refund(400);
    assert_eq!(limiter.quota(&caller, now).input_tokens, 900);
    running.refund(400);
    assert_eq!(limiter.quota(&caller, now).input_tokens, 1000);
}

#[test]
fn in_shadow_what_would_be_refused_is_counted_and_let_through() {
    let (limiter, now) = (Limiter::default(), Instant::now());
    let shadow = in_mode(LimitsMode::Shadow);
    for _ in 0..63 {
        drop(limiter.admit(shadow.clone(), call(), now).unwrap());
    }
    let running = limiter.admit(shadow.clone(), call(), now).unwrap();
    running.charge(usage(0, 0, 1_000_000), now);
    running.check(now).unwrap();
    running.charge_from_afar(usage(1, 0, 0), now).unwrap();
    running.charge_from_afar(usage(1, 0, 200), now).unwrap();
    let mut reserve = running.reserve(5_000, now).unwrap();
    for _ in 0..5 {
        reserve.take_token(now).unwrap();
    }
    drop(limiter.admit(shadow, call(), now).unwrap());
    let (tenant, shadowed) = limiter.shadowed().remove(0);
    assert_eq!(tenant, TenantName::new("default", "acme").unwrap());
    assert_eq!(shadowed, Shadowed { requests: 5, tokens: 2 }, "each call once");
}

#[test]
fn who_leaves_the_shadow_is_served_again_within_two_minutes_whatever_was_spent_in_it() {
    let (limiter, now) = (Limiter::default(), Instant::now());
    let running = limiter.admit(in_mode(LimitsMode::Shadow), call(), now).unwrap();
    running.charge(usage(1_000_000, 0, 1_000_000), now);
    drop(running);
    let enforced = in_mode(LimitsMode::Enforce);
    limiter.admit(enforced.clone(), call(), now).unwrap_err();
    limiter.admit(enforced, call(), now + Duration::from_secs(61)).unwrap();
}

#[test]
fn in_shadow_a_tenant_still_has_no_more_calls_at_once_than_it_may() {
    let (limiter, now) = (Limiter::default(), Instant::now());
    let shadow = in_mode(LimitsMode::Shadow);
    let calls_max = shadow.rights().limits.calls_max;
    let running: Vec<_> =
        (0..calls_max).map(|_| limiter.admit(shadow.clone(), call(), now).unwrap()).collect();
    let refusal = limiter.admit(shadow, call(), now).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyCalls { calls_max });
    drop(running);
}

#[test]
fn a_changed_limit_scales_what_is_left() {
    let (limiter, now) = (Limiter::default(), Instant::now());
    for _ in 0..30 {
        drop(limiter.admit(caller(|_| ()), call(), now).unwrap());
    }
    let raised = caller(|limits| limits.requests_per_minute = 600);
    assert_eq!(limiter.quota(&raised, now).requests, 300);
}

#[test]
fn a_raised_limit_pays_a_debt_back_sooner() {
    let (limiter, now) = (Limiter::default(), Instant::now());
    let low = caller(|limits| limits.output_tokens_per_minute = 20);
    limiter.admit(low.clone(), call(), now).unwrap().charge(usage(0, 0, 100), now);
    limiter.admit(low, call(), now).unwrap_err();
    let raised = caller(|limits| limits.output_tokens_per_minute = 60_000);
    let refusal = limiter.admit(raised.clone(), call(), now).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyTokens { per_minute: 60_000, retry_after_ms: 81 });
    limiter.admit(raised, call(), now + Duration::from_millis(81)).unwrap();
}

#[test]
fn a_tenant_with_a_running_call_is_not_forgotten() {
    let (limiter, caller, now) = (Limiter::default(), caller(|l| l.calls_max = 1), Instant::now());
    let _running = limiter.admit(caller.clone(), call(), now).unwrap();
    limiter.retain(|_| false);
    limiter.admit(caller, call(), now).unwrap_err();
}

proptest! {
    /// Over any stretch of time no more is admitted than a full bucket and what the time earned.
    #[test]
    fn the_limiter_never_admits_too_much(gaps_ms in prop::collection::vec(0_u64..3_000, 1..300)) {
        let (limiter, caller, start) = (Limiter::default(), caller(|_| ()), Instant::now());
        let (mut now, mut admitted) = (start, 0_u32);
        for gap in gaps_ms {
            now += Duration::from_millis(gap);
            admitted += u32::from(limiter.admit(caller.clone(), call(), now).is_ok());
            let earned = 60.0 + now.duration_since(start).as_secs_f64();
            prop_assert!(f64::from(admitted) <= earned + 1e-6);
        }
    }
}

/// One thing that happens at a door with some streams.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Call {
        prompt: u32,
    },
    /// Of the streams that run, which one, and how many tokens it is to have.
    Tokens {
        of: usize,
        tokens: u32,
    },
    FromAfar {
        of: usize,
        tokens: u32,
    },
    Unread {
        of: usize,
        tokens: u32,
    },
    End {
        of: usize,
    },
}

fn turn() -> impl Strategy<Value = Turn> {
    let of = 0_usize..4;
    prop_oneof![
        (1_u32..1_200).prop_map(|prompt| Turn::Call { prompt }),
        (of.clone(), 1_u32..40).prop_map(|(of, tokens)| Turn::Tokens { of, tokens }),
        (of.clone(), 1_u32..40).prop_map(|(of, tokens)| Turn::FromAfar { of, tokens }),
        (of.clone(), 1_u32..300).prop_map(|(of, tokens)| Turn::Unread { of, tokens }),
        of.prop_map(|of| Turn::End { of }),
    ]
}

/// Tokens that were had, and when.
#[derive(Default)]
struct Had(Vec<(Duration, u32)>);

impl Had {
    /// Whether in every stretch of time no more were had than a full bucket holds, what that
    /// earns, and one.
    fn keeps_to(&self, per_minute: f64) -> bool {
        self.0.iter().enumerate().all(|(first, (from, _))| {
            let mut sum = 0.0;
            self.0[first..].iter().all(|(to, tokens)| {
                sum += f64::from(*tokens);
                let earned = to.saturating_sub(*from).as_secs_f64() * per_minute / 60.0;
                sum <= per_minute + earned + 1.0
            })
        })
    }
}

proptest! {
    /// Whatever calls, streams, relays and ends there are, and whenever: what is had is within
    /// the limit in every window, who is refused is told the right time, what was set aside
    /// comes back, and nobody is left in debt.
    #[test]
    fn streams_never_have_more_than_the_limit(
        turns in prop::collection::vec((0_u64..2_000, turn()), 1..120),
    ) {
        let (limiter, caller, start) = (Limiter::default(), caller(|_| ()), Instant::now());
        let mut now = start;
        let (mut input, mut output) = (Had::default(), Had::default());
        let mut streams: Vec<(Admitted, Reserve)> = Vec::new();
        for (gap, turn) in turns {
            now += Duration::from_millis(gap);
            let at = now.duration_since(start);
            let refused = match turn {
                Turn::Call { prompt } => {
                    let Ok(call) = limiter.admit(caller.clone(), call(), now) else { continue };
                    match call.reserve(prompt, now) {
                        Ok(mut reserve) => {
                            reserve.spend_input(now);
                            input.0.push((at, prompt));
                            streams.push((call, reserve));
                            None
                        }
                        Err(refusal) => Some((refusal, prompt)),
                    }
                }
                Turn::Tokens { of, tokens } => {
                    let Some((_, reserve)) = streams.get_mut(of) else { continue };
                    let mut taken = (0..tokens).map(|_| reserve.take_token(now));
                    let had = taken.by_ref().take_while(Result::is_ok).count();
                    output.0.push((at, u32::try_from(had).unwrap()));
                    let refused = (had < tokens as usize).then(|| reserve.take_token(now));
                    refused.map(|refused| (refused.unwrap_err(), 0))
                }
                Turn::FromAfar { of, tokens } => {
                    let Some((call, _)) = streams.get(of) else { continue };
                    let is_had = call.charge_from_afar(usage(0, 0, tokens), now).is_ok();
                    if is_had {
                        output.0.push((at, tokens));
                    }
                    prop_assert!(is_had || call.left(now).output_tokens == 0);
                    None
                }
                Turn::Unread { of, tokens } => {
                    if let Some((_, reserve)) = streams.get_mut(of) {
                        reserve.spend_unread(tokens, now);
                    }
                    None
                }
                Turn::End { of } => {
                    if of < streams.len() {
                        streams.swap_remove(of);
                    }
                    None
                }
            };
            if let Some((Refusal::TooManyTokens { retry_after_ms, .. }, prompt)) = refused {
                let probe = limiter.clone().lock().of[caller.tenant()].clone();
                let has = |ms: u64| {
                    let mut probe = probe.clone();
                    let at = now + Duration::from_millis(ms);
                    probe.refill(at);
                    probe.check_for(prompt, 1, at).is_ok()
                };
                prop_assert!(has(retry_after_ms) && !has(retry_after_ms.saturating_sub(2)));
            }
            // A debt would be a wait beyond that for one token.
            if let Err(refusal) = limiter.lock().of.get_mut(caller.tenant()).map_or(Ok(()), |it| {
                it.refill(now);
                it.check_for(0, 1, now)
            }) {
                prop_assert!(refusal.retry_after_ms() <= Some(600), "{refusal:?}");
            }
        }
        prop_assert!(input.keeps_to(1000.0) && output.keeps_to(100.0));
        streams.clear();
        let later = limiter.quota(&caller, now + Duration::from_mins(1));
        prop_assert_eq!((later.input_tokens, later.output_tokens), (1000, 100));
    }

    /// However many streams hold a token that was set aside: giving those back hands out nothing.
    #[test]
    fn reserves_come_back_whole(
        prompts in prop::collection::vec((1_u32..500, 0_u32..3, any::<bool>()), 1..4),
    ) {
        let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
        let (mut spent, mut held) = (Usage::default(), Vec::new());
        for (prompt, tokens, is_begun) in prompts {
            let call = limiter.admit(caller.clone(), call(), now).unwrap();
            let Ok(mut reserve) = call.reserve(prompt, now) else { continue };
            if is_begun {
                reserve.spend_input(now);
                spent.prompt_tokens += prompt;
            }
            for _ in 0..tokens {
                reserve.take_token(now).unwrap();
                spent.completion_tokens += 1;
            }
            held.push((call, reserve));
        }
        drop(held);
        let quota = limiter.quota(&caller, now);
        let left = (1000 - spent.prompt_tokens, 100 - spent.completion_tokens);
        prop_assert_eq!((quota.input_tokens, quota.output_tokens), left);
    }
}

/// A call of the tenant `acme` that a peer hands on with so many tokens left.
fn lent(input_tokens: u32, output_tokens: u32, now: Instant) -> Admitted {
    let tenant = Arc::new(caller(|_| ()).rights().clone());
    lend(handed_on(tenant), call(), Left { input_tokens, output_tokens, per_minute: None }, now)
}

fn handed_on(tenant: Arc<DesiredTenant>) -> HandedOn {
    let name = tenant.name.clone();
    let peer = auth::VerifiedPeer::vouch("n1");
    auth::from_peer(&Roster::new([tenant]), &peer, &name, "k", 0).unwrap()
}

#[test]
fn a_lent_call_is_held_to_what_its_door_has_left_and_tells_what_it_spent() {
    let now = Instant::now();
    let lent = lent(20, 10, now);
    let spent = lent.spent();
    lent.check(now).unwrap();
    lent.charge(Usage { prompt_tokens: 25, cached_tokens: 0, completion_tokens: 3 }, now);
    assert!(matches!(lent.check(now), Err(Refusal::TooManyTokens { per_minute: 1000, .. })));
    lent.refund(10);
    lent.check(now).unwrap();
    let expected = Usage { prompt_tokens: 25, cached_tokens: 10, completion_tokens: 3 };
    assert_eq!(*spent.borrow(), expected);
    drop(lent);
    assert_eq!(*spent.borrow(), expected, "the total outlives the call");
}

const NONE: Each<bool> = Each::all(false);

/// Which limits a door says have refused calls.
fn refused(limiter: &Limiter, now: Instant) -> Each<bool> {
    let spends = limiter.spends(now);
    assert!(spends.reached.len() <= 1);
    spends.reached.into_values().next().unwrap_or_default().refused
}

#[test]
fn limits_that_refuse_calls_are_told_for_a_minute_whatever_part_of_them_the_door_has() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    let running = limiter.admit(caller.clone(), call(), now).unwrap();
    running.charge(usage(0, 0, 90), now);
    assert_eq!(refused(&limiter, now), NONE);
    running.charge(usage(0, 0, 10), now);
    running.check(now).unwrap_err();
    let output = Each { output_tokens: true, ..NONE };
    assert_eq!(refused(&limiter, now), output);
    // Once a second, all the time: the same is told, and not for longer because it was often.
    let last = now + Duration::from_secs(20);
    for seconds in 1..=20 {
        let then = now + Duration::from_secs(seconds);
        running.charge(usage(0, 0, 100), then);
        running.check(then).unwrap_err();
        assert_eq!(refused(&limiter, then), output);
    }
    assert_eq!(refused(&limiter, last + Duration::from_millis(59_999)), output);
    assert_eq!(refused(&limiter, last + Duration::from_mins(1)), NONE);
}

#[test]
fn a_limit_that_was_changed_has_refused_nothing_yet_and_another_part_of_it_is_the_same_limit() {
    let (limiter, before, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    let running = limiter.admit(before, call(), now).unwrap();
    running.charge(usage(0, 0, 100), now);
    running.check(now).unwrap_err();
    limiter.divide(Division::Even { doors: 2 }, now);
    assert!(refused(&limiter, now).output_tokens);
    let raised = caller(|limits| limits.output_tokens_per_minute *= 10);
    let soon = now + Duration::from_secs(1);
    let _next = limiter.admit(raised, call(), soon).unwrap();
    assert_eq!(refused(&limiter, soon), NONE);
}

#[test]
fn in_shadow_limits_are_told_that_would_have_refused_calls() {
    let (limiter, now) = (Limiter::default(), Instant::now());
    let caller = in_mode(LimitsMode::Shadow);
    for _ in 0..61 {
        assert_eq!(refused(&limiter, now), NONE);
        drop(limiter.admit(caller.clone(), call(), now).unwrap());
    }
    assert!(refused(&limiter, now).requests);
}

#[test]
fn a_prompt_that_is_too_long_for_any_minute_reaches_no_limit() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    let running = limiter.admit(caller, call(), now).unwrap();
    running.reserve(1001, now).unwrap_err();
    assert_eq!(refused(&limiter, now), NONE);
}

#[test]
fn what_a_node_elsewhere_has_refused_counts_at_the_door_that_pays() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    let running = limiter.admit(caller, call(), now).unwrap();
    running.charge(usage(700, 0, 0), now);
    // 300 are left, and a node that was told so had a prompt of 400.
    running.check_from_afar(Lacks::Prompt, now).unwrap();
    assert_eq!(refused(&limiter, now), Each { input_tokens: true, ..NONE });
    let used = limiter.spends(now).tenants.into_values().next().unwrap();
    assert_eq!(used.is_short, Each { input_tokens: true, ..NONE }, "a larger slice is wanted");
    // An answer has spent there what the call went with, and here there is more by now.
    running.check_from_afar(Lacks::Answer, now).unwrap();
    assert!(refused(&limiter, now).output_tokens);
}

#[test]
fn a_call_elsewhere_gets_no_prompt_that_its_door_has_no_tokens_for() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    let one = limiter.admit(caller.clone(), call(), now).unwrap();
    let other = limiter.admit(caller.clone(), call(), now).unwrap();
    one.charge_from_afar(usage(900, 0, 0), now).unwrap();
    // A tenth of a minute is missing of three.
    let refusal = other.charge_from_afar(usage(150, 0, 0), now).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyTokens { per_minute: 1000, retry_after_ms: 3000 });
    assert_eq!(limiter.quota(&caller, now).input_tokens, 100, "it is not charged");
    assert_eq!(other.spent().borrow().prompt_tokens, 150, "and was in work all the same");
    other.charge_from_afar(usage(150, 0, 0), now + Duration::from_secs(3)).unwrap();
}

#[test]
fn calls_elsewhere_get_together_what_their_door_has_and_no_token_more() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    let one = limiter.admit(caller.clone(), call(), now).unwrap();
    let other = limiter.admit(caller.clone(), call(), now).unwrap();
    one.charge_from_afar(usage(10, 0, 60), now).unwrap();
    other.charge_from_afar(usage(10, 0, 37), now).unwrap();
    let refusal = one.charge_from_afar(usage(0, 0, 4), now).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyTokens { per_minute: 100, retry_after_ms: 600 });
    assert_eq!(limiter.quota(&caller, now).output_tokens, 0, "what nobody got is paid for");
    other.charge_from_afar(usage(0, 0, 1), now).unwrap_err();
    other.charge_from_afar(usage(1, 0, 0), now).unwrap_err();
    other.charge_from_afar(usage(0, 0, 1), now + Duration::from_millis(600)).unwrap();
    assert_eq!(one.spent().borrow().completion_tokens, 64);
}

#[test]
fn a_lent_call_waits_as_its_door_earns() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    limiter.divide(slices(1, PARTS / 2), now);
    let admitted = limiter.admit(caller.clone(), call(), now).unwrap();
    admitted.charge(usage(400, 0, 50), now);
    let left = admitted.left(now);
    let per_minute = PerMinute { input_tokens: 500, output_tokens: 50 };
    let expected = Left { input_tokens: 100, output_tokens: 0, per_minute: Some(per_minute) };
    assert_eq!(left, expected);
    let lent = lend(handed_on(Arc::new(caller.rights().clone())), call(), left, now);
    let refusal = lent.reserve(200, now).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyTokens { per_minute: 500, retry_after_ms: 12_000 });
    let mut reserve = lent.reserve(100, now).unwrap();
    reserve.take_token(now).unwrap();
    let refusal = reserve.take_token(now).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyTokens { per_minute: 50, retry_after_ms: 1200 });
}

#[test]
fn a_lent_call_has_no_more_than_its_own_tenants_allowance() {
    let now = Instant::now();
    let left = lent(u32::MAX, u32::MAX, now).left(now);
    assert_eq!((left.input_tokens, left.output_tokens), (1000, 100));
}

#[test]
fn a_part_spends_from_the_account_of_its_call_and_keeps_its_place() {
    let (limiter, now) = (Limiter::default(), Instant::now());
    let one = || caller(|limits| limits.calls_max = 1);
    let whole = limiter.admit(one(), call(), now).unwrap();
    let part = whole.part(call());
    let spent = whole.spent();
    part.charge(Usage { prompt_tokens: 7, ..Usage::default() }, now);
    assert_eq!(spent.borrow().prompt_tokens, 7);
    assert_eq!(whole.left(now).input_tokens, 993);
    drop(whole);
    assert_eq!(
        limiter.admit(one(), call(), now).unwrap_err(),
        Refusal::TooManyCalls { calls_max: 1 }
    );
    drop(part);
    limiter.admit(one(), call(), now).unwrap();
}

#[test]
fn a_charge_that_is_taken_back_leaves_nothing_behind() {
    let (limiter, now) = (Limiter::default(), Instant::now());
    let admitted = limiter.admit(caller(|_| ()), call(), now).unwrap();
    let before = admitted.left(now);
    admitted.charge(usage(30, 0, 5), now);
    admitted.refund(10);
    admitted.take_back(usage(30, 10, 5));
    assert_eq!(admitted.left(now), before);
    assert_eq!(*admitted.spent().borrow(), Usage::default());
}

/// The slices of a door at which `default/acme` has so many parts of each limit.
fn slices(epoch: u64, parts: u32) -> Division {
    let acme = TenantName::new("default", "acme").unwrap();
    let tenants = [(acme, Each::all(parts))].into();
    Division::Sliced(Arc::new(Slices { epoch, share: PARTS / 2, tenants }))
}

#[test]
fn a_door_of_two_lets_in_half_of_each_limit() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    limiter.divide(Division::Even { doors: 2 }, now);
    let quota = limiter.quota(&caller, now);
    assert_eq!(quota, Quota { requests: 30, input_tokens: 500, output_tokens: 50 });
    let running: Vec<_> =
        (0..2).map(|_| limiter.admit(caller.clone(), call(), now).unwrap()).collect();
    let refusal = limiter.admit(caller, call(), now).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyCalls { calls_max: 2 });
    drop(running);
}

#[test]
fn another_slice_neither_hands_out_nor_takes_more_than_it_holds() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    limiter.divide(Division::Even { doors: 2 }, now);
    for _ in 0..30 {
        drop(limiter.admit(caller.clone(), call(), now).unwrap());
    }
    limiter.divide(slices(1, PARTS), now);
    assert_eq!(limiter.quota(&caller, now).requests, 0, "a raise is earned");
    let later = now + Duration::from_secs(30);
    assert_eq!(limiter.quota(&caller, later).requests, 30, "at the new pace");
    limiter.divide(slices(2, PARTS / 4), later);
    assert_eq!(limiter.quota(&caller, later).requests, 15);
    limiter.divide(slices(3, PARTS), later);
    assert_eq!(limiter.quota(&caller, later).requests, 15);
}

#[test]
fn what_was_earned_before_another_slice_was_earned_at_the_old_one() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    limiter.divide(slices(1, PARTS / 4), now);
    for _ in 0..15 {
        drop(limiter.admit(caller.clone(), call(), now).unwrap());
    }
    let later = now + Duration::from_secs(20);
    limiter.divide(slices(2, PARTS), later);
    assert_eq!(limiter.quota(&caller, later).requests, 5);
}

#[test]
fn a_refused_call_is_told_when_this_doors_slice_lets_it_in() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    limiter.divide(slices(1, PARTS / 16), now);
    for _ in 0..4 {
        drop(limiter.admit(caller.clone(), call(), now).unwrap());
    }
    let refusal = limiter.admit(caller.clone(), call(), now).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyRequests { per_minute: 4, retry_after_ms: 16_000 });
    limiter.admit(caller.clone(), call(), now + Duration::from_secs(16)).unwrap();
    limiter.divide(slices(2, 0), now);
    let refusal = limiter.admit(caller, call(), now).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyCalls { calls_max: 0 }, "a door of no part");
}

#[test]
fn who_waits_long_by_a_part_of_a_limit_is_told_to_ask_again() {
    let caller = caller(|it| it.requests_per_minute = 600);
    for (parts, told) in [(PARTS, 100), (PARTS / 512, 51_200), (PARTS / 1_024, 60_000)] {
        let (limiter, now) = (Limiter::default(), Instant::now());
        limiter.divide(slices(1, parts), now);
        while limiter.admit(caller.clone(), call(), now).is_ok() {}
        let refusal = limiter.admit(caller.clone(), call(), now).unwrap_err();
        assert_eq!(refusal.retry_after_ms(), Some(told), "{parts}");
    }
}

#[test]
fn a_hundred_doors_earn_what_three_requests_a_minute_are() {
    let caller = caller(|it| it.requests_per_minute = 3);
    let start = Instant::now();
    let doors: Vec<_> = (0..100).map(|_| Limiter::default()).collect();
    let mut admitted = 0;
    for door in &doors {
        door.divide(slices(1, PARTS / 100), start);
        // What a bucket holds is no less than one.
        drop(door.admit(caller.clone(), call(), start).unwrap());
    }
    for minute in 1..=120 {
        let now = start + Duration::from_mins(minute);
        let let_in = |door: &&Limiter| door.admit(caller.clone(), call(), now).is_ok();
        admitted += doors.iter().filter(let_in).count();
    }
    assert_eq!(admitted, 300, "one every 33 minutes at each");
    let refusal = doors[0].admit(caller.clone(), call(), start + Duration::from_hours(2));
    let refusal = refusal.unwrap_err().retry_after_ms().unwrap();
    assert_eq!(refusal, 60_000, "when to ask again");
}

#[test]
fn a_call_that_lacks_both_kinds_of_tokens_is_told_the_longer_wait() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    let running = limiter.admit(caller.clone(), call(), now).unwrap();
    running.charge(usage(1099, 0, 149), now);
    let refusal = limiter.admit(caller.clone(), call(), now).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyTokens { per_minute: 100, retry_after_ms: 30_000 });
    limiter.admit(caller, call(), now + Duration::from_secs(30)).unwrap();
}

#[test]
fn a_call_that_lacks_tokens_and_requests_is_told_the_longer_wait() {
    let now = Instant::now();
    let waits_ms = |requests: u32, tokens: u32| {
        let (limiter, caller) = (Limiter::default(), caller(|it| it.requests_per_minute = 3));
        for _ in 1..requests {
            limiter.admit(caller.clone(), call(), now).unwrap();
        }
        let running = limiter.admit(caller.clone(), call(), now).unwrap();
        running.charge(usage(0, 0, tokens), now);
        limiter.admit(caller, call(), now).unwrap_err().retry_after_ms().unwrap()
    };
    assert_eq!(waits_ms(2, 100), 600);
    assert_eq!(waits_ms(3, 0), 20_000);
    assert_eq!(waits_ms(3, 100), 20_000);
    assert_eq!(waits_ms(3, 150), 30_600);
}

#[test]
fn a_door_that_starts_again_has_a_first_part_in_hand_and_earns_the_rest() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    limiter.start_again(now);
    limiter.divide(slices(1, PARTS), now);
    let left = |at| limiter.quota(&caller, at).requests;
    // An eighth of what a door has of which nothing is known.
    assert_eq!((left(now), left(now + Duration::from_secs(30))), (4, 34));
    assert_eq!(left(now + Duration::from_mins(5)), 60);
}

#[test]
fn uses_tell_the_pace_what_is_refused_and_calls_that_go_on_beyond_the_slice() {
    let (limiter, caller, now) = (Limiter::default(), caller(|_| ()), Instant::now());
    assert_eq!(limiter.spends(now), Spends::default());
    let running: Vec<_> =
        (0..4).map(|_| limiter.admit(caller.clone(), call(), now).unwrap()).collect();
    running[0].charge(usage(50, 0, 10), now);
    limiter.admit(caller.clone(), call(), now).unwrap_err();
    limiter.divide(slices(7, PARTS / 2), now);
    let spends = limiter.spends(now);
    let used = spends.tenants[caller.tenant()];
    assert_eq!((spends.epoch, used.calls_over, used.used.calls), (7, PARTS, PARTS));
    // Four requests in twenty seconds are twelve a minute, of sixty.
    assert_eq!(used.used.requests, (PARTS * 12).div_ceil(60));
    assert_eq!(used.used.output_tokens, (PARTS * 30).div_ceil(100));
    assert_eq!(used.is_short, Each { calls: true, ..Each::all(false) });
    drop(running);
    let later = now + Duration::from_mins(3);
    assert_eq!(limiter.spends(later).tenants.len(), 0, "what was minutes ago is no use");
}

proptest! {
    /// Whatever slices two doors have had, as long as they are never more than the whole together:
    /// no more is let in than a full bucket and what the time earned, and the rounding.
    #[test]
    fn doors_together_never_let_in_more_than_the_limit(
        turns in prop::collection::vec((0_u64..5_000, 0_usize..2, 0_u32..=PARTS, any::<bool>()), 1..200)
    ) {
        let (doors, caller, start) =
            ([Limiter::default(), Limiter::default()], caller(|_| ()), Instant::now());
        for door in &doors {
            door.divide(slices(0, PARTS / 2), start);
            // A bucket is full when its tenant calls for the first time.
            drop(door.admit(caller.clone(), call(), start).unwrap());
        }
        let (mut now, mut admitted) = (start, 2_u32);
        for (gap, at, parts, is_divided) in turns {
            now += Duration::from_millis(gap);
            if is_divided {
                doors[at].divide(slices(1, parts.min(PARTS / 2)), now);
                doors[1 - at].divide(slices(1, PARTS - parts.max(PARTS / 2)), now);
                doors[at].divide(slices(2, parts), now);
            }
            while doors[at].admit(caller.clone(), call(), now).is_ok() {
                admitted += 1;
            }
            // What each door's bucket holds is rounded up, and what it earns is not.
            let minutes = now.duration_since(start).as_secs_f64() / 60.0;
            prop_assert!(f64::from(admitted) <= 60.0 * (1.0 + minutes) + 2.0);
        }
    }
}
