//! Whatever one agent says is what the other hears, and what makes no sense is named.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proptest::{collection::vec, option, prelude::*, sample::select};
use prost::Message as _;
use realm_core::{
    auth::{self, Credential, Roster},
    desired::{ApiKey, DesiredTenant, Limits, LimitsMode, Priority, ProgramLimits},
    limit::{Limiter, PerMinute},
    refusal::{ProgramLimit, Refusal},
};

use super::*;

fn usage() -> impl Strategy<Value = Usage> {
    any::<[u32; 3]>().prop_map(|[prompt_tokens, cached_tokens, completion_tokens]| Usage {
        prompt_tokens,
        cached_tokens,
        completion_tokens,
    })
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,4}", inner, 0..4)
                .prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

/// Any refusal; a new variant has to be in this list to compile.
fn refusal() -> impl Strategy<Value = Refusal> {
    let limits = vec![
        ProgramLimit::Memory,
        ProgramLimit::Fuel,
        ProgramLimit::HostCalls,
        ProgramLimit::Output,
    ];
    let numbers = (any::<[u32; 2]>(), any::<[u64; 2]>());
    (0..27_u8, ".{0,8}", ".{0,8}", numbers, select(limits)).prop_map(
        |(kind, text, other, ([small, _], [large, more]), limit)| {
            let (count, count_max) = (narrow_to_usize(large), narrow_to_usize(more));
            match kind {
                0 => Refusal::Unauthenticated,
                1 => Refusal::Suspended,
                2 => Refusal::NotAllowed(text),
                3 => Refusal::UnknownFunction(text),
                4 => Refusal::UnknownModel(text),
                5 => Refusal::UnknownPipeline(text),
                6 => Refusal::Invalid(text),
                7 => Refusal::TooLarge { bytes_max: count },
                8 => Refusal::TooManyRequests { per_minute: small, retry_after_ms: large },
                9 => Refusal::TooManyTokens { per_minute: small, retry_after_ms: large },
                10 => Refusal::TooManyCalls { calls_max: small },
                11 => Refusal::TooLong { tokens: count, tokens_max: count_max },
                12 => Refusal::ModelNotReady { model: text, reason: other },
                13 => Refusal::Busy { retry_after_ms: large },
                14 => Refusal::Draining,
                15 => Refusal::Moved,
                16 => Refusal::DeadlineExceeded { deadline_ms: large },
                17 => Refusal::SlowReader,
                18 => Refusal::Cancelled,
                19 => Refusal::ProgramLimit { limit, max: large },
                20 => Refusal::ProgramFailed(text),
                21 => Refusal::Starting,
                22 => Refusal::ProgramNotReady { reason: text },
                23 => Refusal::TextTooLong {
                    at: narrow_to_usize(small.into()),
                    tokens: count,
                    tokens_max: count_max,
                },
                24 => Refusal::Unsupported(text),
                25 => Refusal::TooLongForLimit { tokens: small, per_minute: small },
                _ => Refusal::Internal,
            }
        },
    )
}

fn narrow_to_usize(count: u64) -> usize {
    usize::try_from(count).unwrap()
}

fn progress() -> impl Strategy<Value = Progress> {
    (any::<u64>(), vec(any::<u32>(), 0..5), any::<Option<u64>>())
        .prop_map(|(first, tokens, seed)| Progress { first, tokens, seed })
}

fn logprobs() -> impl Strategy<Value = Logprobs> {
    let token = (any::<u32>(), vec(any::<u8>(), 0..4), -9999.0_f32..=0.0)
        .prop_map(|(id, bytes, logprob)| ScoredToken { id, bytes, logprob });
    (token.clone(), vec(token, 0..3)).prop_map(|(chosen, top)| Logprobs { chosen, top })
}

fn event() -> impl Strategy<Value = ReplyEvent> {
    let body = prop_oneof![".{0,16}".prop_map(ChunkBody::Text), value().prop_map(ChunkBody::Json),];
    let chunk = (option::of(".{0,8}"), body, vec(logprobs(), 0..3), option::of(progress()))
        .prop_map(|(step, body, logprobs, progress)| {
            ReplyEvent::Chunk(Chunk { step: step.map(Into::into), body, logprobs, progress })
        });
    let done = (value(), any::<bool>(), usage()).prop_map(|(data, stop, usage)| {
        let finish = if stop { Finish::Stop } else { Finish::Length };
        ReplyEvent::Done(Done { data, finish, usage })
    });
    prop_oneof![chunk, done, refusal().prop_map(ReplyEvent::Failed)]
}

fn admitted(call: Call, now: Instant) -> Admitted {
    let sha256 = Credential::of("key").digest();
    let tenant = DesiredTenant {
        name: TenantName::parse("default/acme").unwrap(),
        weight: 1,
        priority: Priority::Normal,
        suspended: false,
        limits_mode: LimitsMode::Enforce,
        share_group: None,
        limits: Limits {
            requests_per_minute: 10,
            input_tokens_per_minute: 70,
            output_tokens_per_minute: 80,
            calls_max: 1,
            context_max: 1,
            output_tokens_max: 1,
            kv_blocks_max: 1,
            program: ProgramLimits {
                memory_bytes_max: 1,
                fuel_max: 1,
                host_calls_max: 1,
                output_bytes_max: 1,
                deadline_ms: 1,
                token_fuel_max: 1_000_000,
                token_deadline_ms: 1_000,
                instances_max: 64,
                memory64: false,
            },
        },
        models: Vec::new(),
        pipelines: BTreeMap::new(),
        keys: vec![ApiKey { name: "laptop".into(), sha256, expires_at: None, disabled: false }],
        program: None,
    };
    let roster = Roster::new([Arc::new(tenant)]);
    let caller = auth::verify(&roster, Credential::of("key"), 0).unwrap();
    Limiter::default().admit(caller, call, now).unwrap()
}

fn model() -> ModelName {
    ModelName::parse("default/tiny").unwrap()
}

proptest! {
    #[test]
    fn a_step_of_an_answer_comes_as_it_went(
        spent in usage(),
        in_hand: Option<u32>,
        event in option::of(event()),
    ) {
        let went = PeerEvent { spent, in_hand, event };
        let came = reply_from(reply_to(went.clone())).unwrap();
        prop_assert_eq!(format!("{came:?}"), format!("{went:?}"));
    }

    #[test]
    fn a_call_comes_as_it_went(
        (id, function, params) in (".{0,8}", ".{1,8}", value()),
        deadline in option::of(1_u64..1_000_000),
        resumable: bool,
        resume in option::of((vec(any::<u32>(), 0..5), any::<u64>(), any::<u64>())),
        pipeline in option::of(Just("shop/digest")),
    ) {
        let now = Instant::now();
        let resume = resume.map(|(tokens, bytes, seed)| Resume::new(tokens, bytes, seed).unwrap());
        let call = Call {
            deadline: deadline.map(|ms| Deadline::after(now, ms)),
            resumable,
            resume,
            way: Way::of(pipeline.map(|name| PipelineName::parse(name).unwrap())),
            ..Call::new(CallId(id), function, params)
        };
        let request = request_to(&admitted(call.clone(), now), &model(), now);
        let came = request_from(request, now).unwrap();
        prop_assert_eq!(came.caller.tenant.as_str(), "default/acme");
        prop_assert_eq!(came.caller.key.as_str(), "laptop");
        let per_minute = Some(PerMinute { input_tokens: 70, output_tokens: 80 });
        prop_assert_eq!(came.left, Left { input_tokens: 70, output_tokens: 80, per_minute });
        prop_assert_eq!(came.model, model());
        prop_assert_eq!((came.call.id, came.call.function), (call.id, call.function));
        prop_assert_eq!(came.call.params, call.params);
        prop_assert_eq!(came.call.deadline, call.deadline);
        prop_assert_eq!((came.call.resumable, came.call.resume), (call.resumable, call.resume));
        prop_assert_eq!(came.call.way, call.way);
    }
}

#[test]
fn a_deadline_goes_as_what_is_left_of_it() {
    let now = Instant::now();
    let call = Call {
        deadline: Some(Deadline::after(now, 500)),
        ..Call::new(CallId("1".into()), "chat", Value::Null)
    };
    let later = now + Duration::from_millis(200);
    let request = request_to(&admitted(call, now), &model(), later);
    assert_eq!(request.deadline, Some(proto::Deadline { left_ms: 300, asked_ms: 500 }));
    let came = request_from(request, now).unwrap().call.deadline.unwrap();
    assert!(came.is_over(now + Duration::from_millis(300)));
    assert_eq!(came.refusal(), Refusal::DeadlineExceeded { deadline_ms: 500 });
}

#[test]
fn a_request_that_says_nonsense_is_refused_by_its_field() {
    let check = |change: fn(&mut proto::CallRequest), says: &str| {
        let now = Instant::now();
        let call = Call::new(CallId("1".into()), "chat", Value::Null);
        let mut request = request_to(&admitted(call, now), &model(), now);
        change(&mut request);
        let error = request_from(request, now).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    check(|r| r.caller = None, "`caller` is missing");
    check(|r| r.caller = Some(proto::Caller::default()), "`caller.tenant` holds no name");
    check(|r| r.left = None, "`call.left` is missing");
    check(|r| r.model.clear(), "`call.model` holds no name");
    check(|r| r.function.clear(), "`call.function` is missing");
    check(|r| r.pipeline = "digest".into(), "`call.pipeline` holds no name");
    check(|r| r.params = "{".into(), "`call.params` is not JSON");
    let too_many = |r: &mut proto::CallRequest| {
        let tokens = vec![1; realm_core::call::RESUMED_TOKENS_MAX + 1];
        r.resume = Some(proto::Resume { tokens, text_bytes: 0, seed: 0 });
    };
    check(too_many, "`call.resume` holds more than it may");
}

#[test]
fn an_answer_that_says_nonsense_is_refused_by_its_field() {
    use proto::call_reply::Event;
    let check = |event: Event, says: &str| {
        let spent = Some(proto::Usage::default());
        let reply = proto::CallReply { spent, event: Some(event), in_hand: None };
        let error = reply_from(reply).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    check(Event::Chunk(proto::Chunk::default()), "`chunk.body` is missing");
    check(Event::Failed(proto::Refusal::default()), "`reply.failed` is missing");
    let done = proto::Done { data: "null".into(), finish: 1, usage: None };
    check(Event::Done(done.clone()), "`done.usage` is missing");
    check(Event::Done(proto::Done { finish: 0, ..done.clone() }), "`done.finish` is missing");
    check(Event::Done(proto::Done { finish: 9, ..done.clone() }), "unknown value 9");
    let error = reply_from(proto::CallReply::default()).unwrap_err();
    assert!(error.to_string().contains("`reply.spent` is missing"));
}

#[test]
fn an_event_that_is_yet_to_come_is_passed_over_and_what_was_spent_is_heard() {
    let spent = proto::Usage { prompt_tokens: 3, ..proto::Usage::default() };
    let known = proto::CallReply { spent: Some(spent), ..proto::CallReply::default() };
    let known = known.encode_to_vec();
    // Field 99, two bytes.
    let reply = [&known[..], &[0x9a, 0x06, 2, 7, 7]].concat();
    let heard = reply_from(proto::CallReply::decode(&*reply).unwrap()).unwrap();
    assert!(heard.event.is_none() && heard.in_hand.is_none(), "an older agent says neither");
    assert_eq!(heard.spent.prompt_tokens, 3);
}

#[test]
fn what_a_tenant_says_is_in_no_debug_text() {
    let now = Instant::now();
    let params = serde_json::json!({ "prompt": "a secret" });
    let call = Call::new(CallId("1".into()), "chat", params);
    let request = request_to(&admitted(call, now), &model(), now);
    let body = ChunkBody::Text("a secret".into());
    let chunk = Chunk { step: None, body, logprobs: Vec::new(), progress: None };
    let event = Some(ReplyEvent::Chunk(chunk));
    let reply = reply_to(PeerEvent { event, ..PeerEvent::default() });
    let shown = format!("{request:?} {reply:?}");
    assert!(!shown.contains("secret"), "{shown}");
}

#[test]
fn functions_come_as_they_went() {
    let function = FunctionInfo {
        name: "chat".into(),
        description: "Talks.".into(),
        params_schema: serde_json::json!({ "type": "object" }),
        streams: true,
    };
    let sent = vec![function];
    assert_eq!(functions_from(functions_to(sent.clone())).unwrap(), sent);
}
