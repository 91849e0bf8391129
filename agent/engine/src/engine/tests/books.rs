//! What is booked adds up.

use realm_core::{books::Used, name::PipelineName};

use super::*;

fn digest() -> Way {
    Way::Pipeline(PipelineName::new("default", "digest").unwrap())
}

/// What tenant `name` has used by `way`.
fn used(books: &Books, name: &str, way: &Way) -> Used {
    let of_tenant = books.tenants().find(|(tenant, _)| tenant.name() == name).unwrap().1;
    of_tenant.rows().find(|(its_way, _)| *its_way == way).unwrap().1
}

/// The sums are the engine's own numbers.
fn check_sums(engine: &EngineHandle) -> Books {
    let (books, load) = (engine.books(), engine.load());
    let sum = books.sum();
    let tokens = (sum.prompt_tokens, sum.cached_tokens, sum.generated_tokens);
    let of_engine =
        (load.prompt_tokens_total, load.cached_tokens_total, load.generated_tokens_total);
    assert_eq!(tokens, of_engine);
    assert_eq!((sum.device_ns, sum.block_ns), (books.time.computing_ns, books.block_ns));
    books
}

#[test]
fn what_tenants_used_adds_up_to_what_the_engine_did_and_to_its_whole_time() {
    let before = Instant::now();
    let gate = Arc::new(Mutex::new(()));
    let (engine, forwards) = gated(gate.clone());
    let after = Instant::now();
    let closed = gate.lock().unwrap();
    let first = start(&engine, &[0, 1]).unwrap();
    while forwards.load(Ordering::SeqCst) < 1 {
        thread::yield_now();
    }
    // All of these are in the next steps together.
    let long = [0; 20];
    let calls = [("a", digest()), ("b", digest()), ("b", Way::Direct), ("c", Way::Direct)];
    let streams = calls.map(|(tenant, way)| start_as(&engine, tenant, way, &long[..7]).unwrap());
    let texts = embedding::ask(&engine, &[&[1; 30], &[1; 9]]);
    drop(closed);
    assert_eq!(end(first), Ok(Finish::Length));
    for stream in streams {
        assert_eq!(end(stream), Ok(Finish::Length));
    }
    embedding::answer(texts).unwrap();
    run(&engine, &[0, PANIC]).unwrap_err();

    let at_least = after.elapsed();
    let books = check_sums(&engine);
    let at_most = before.elapsed();
    let whole = Duration::from_nanos(books.time.total_ns());
    assert!((at_least..=at_most).contains(&whole), "{at_least:?} {whole:?} {at_most:?}");
    assert!(books.time.idle_ns > 0 && books.time.overhead_ns > 0);

    let direct = used(&books, "a", &Way::Direct);
    // The prompt, the texts, and the prompt whose step failed.
    assert_eq!((direct.prompt_tokens, direct.generated_tokens), (2 + 39 + 2, 3));
    for (tenant, way) in [("a", digest()), ("b", digest()), ("b", Way::Direct)] {
        let used = used(&books, tenant, &way);
        assert_eq!((used.prompt_tokens, used.generated_tokens), (7, 3));
        assert!(used.device_ns > 0 && used.block_ns > 0, "{used:?}");
    }

    engine.forget(&TenantName::new("default", "b").unwrap());
    let forgotten = check_sums(&engine);
    assert_eq!((forgotten.sum(), forgotten.gone().prompt_tokens), (books.sum(), 14));
}

#[test]
fn a_step_that_fails_is_overhead_and_nobodys_device_time() {
    let (engine, _) = engine();
    for bad in [ERROR, PANIC] {
        run(&engine, &[0, bad]).unwrap_err();
    }
    let books = check_sums(&engine);
    assert_eq!((books.time.computing_ns, books.sum().device_ns), (0, 0));
    assert!(books.time.overhead_ns > 0);
}
