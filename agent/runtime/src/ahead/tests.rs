mod hooks;

use std::{fs, path::Path};

use tokio::{task::yield_now, time::sleep};
use wasmtime::Trap;

use super::*;
use crate::{
    Prepared, Runtime,
    meter::{Allowance, Left},
    pool::{self, Instance},
};

const LIMITS: ProgramLimits = ProgramLimits {
    memory_bytes_max: 512 << 20,
    fuel_max: 10_000_000,
    host_calls_max: 0,
    output_bytes_max: 0,
    deadline_ms: 10_000,
    token_fuel_max: 0,
    token_deadline_ms: 0,
    instances_max: 64,
    memory64: false,
};

type Calls = Arc<Ahead<ProgramPre<Host>>>;

/// A program that counts to a hundred thousand when it comes up, in so many pages of memory.
async fn counting(pages: u32) -> Prepared {
    let idle = Path::new(env!("CARGO_MANIFEST_DIR"));
    let idle = fs::read_to_string(idle.join("../../tests/fuzz/examples/components/idle.wat"));
    let begin = "(func $count (local $left i32) (local.set $left (i32.const 100000))
      (loop $more
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br_if $more (local.get $left))))
    (start $count)
    (func (export \"realloc\")";
    let counting = idle
        .unwrap()
        .replace("(memory (export \"memory\") 1)", &format!("(memory (export \"memory\") {pages})"))
        .replace("(func (export \"realloc\")", begin);
    assert!(counting.contains("$count") && counting.contains(&pages.to_string()));
    let bytes = wat::parse_str(counting).unwrap();
    Runtime::new().unwrap().prepare_program(bytes, &LIMITS).await.unwrap()
}

fn places(worth: Duration) -> Places {
    Places { worth, ..Places::default() }
}

/// Where one of it waits, whatever it takes to be made.
fn calls(program: &Prepared, places: &Places) -> Calls {
    Arc::new(Ahead::new(program.0.pre.clone(), &LIMITS, places))
}

fn free(places: &Places) -> usize {
    places.free.available_permits()
}

/// Waits until it is so, by a clock that no test pauses.
async fn until(is_so: impl Fn() -> bool) {
    let begun_at = Instant::now();
    while !is_so() {
        assert!(begun_at.elapsed() < Duration::from_secs(20), "it hangs");
        yield_now().await;
    }
}

async fn until_made<P: Linked>(ahead: &Ahead<P>) {
    until(|| ahead.state().made.is_some()).await;
}

/// An instance for a call that may burn `fuel`.
async fn checkout(calls: &Calls, fuel: u64) -> (wasmtime::Result<Instance>, Left) {
    let limits = ProgramLimits { fuel_max: fuel, ..LIMITS };
    let fuel = Allowance::new(&limits, None, Instant::now()).fuel;
    let host = Host::without_call(LIMITS.memory_bytes_max);
    (pool::checkout(calls, host, fuel.clone()).await, fuel)
}

/// What a call has left of so much fuel once its instance is there, or why there is none.
async fn left_of(calls: &Calls, fuel: u64) -> Result<u64, Option<Trap>> {
    let (instance, left) = checkout(calls, fuel).await;
    let came = instance.map(drop).map_err(|error| error.downcast_ref().copied());
    came.map(|()| left.get()).inspect_err(|_| assert_eq!(left.get(), 0, "it is spent"))
}

#[tokio::test(start_paused = true)]
async fn one_waits_while_calls_come_and_a_minute_longer() {
    let places = places(Duration::ZERO);
    let calls = calls(&counting(1).await, &places);
    assert!(calls.take().is_none(), "nobody has called");
    let (first, _) = checkout(&calls, LIMITS.fuel_max).await;
    first.unwrap();
    for _ in 0..3 {
        until_made(&calls).await;
        assert!(calls.take().is_some());
        assert!(calls.take().is_none(), "one at a time");
    }
    until_made(&calls).await;
    sleep(Duration::from_secs(59)).await;
    assert_eq!(free(&places), PLACES as usize - 1);
    sleep(Duration::from_secs(2)).await;
    assert!(calls.take().is_none());
    assert_eq!(free(&places), PLACES as usize);
    calls.keep();
    until_made(&calls).await;
}

#[tokio::test]
async fn a_tenant_that_is_gone_has_no_place() {
    let places = places(Duration::ZERO);
    let calls = calls(&counting(1).await, &places);
    calls.keep();
    until_made(&calls).await;
    let gone = Arc::downgrade(&calls);
    drop(calls);
    assert!(gone.upgrade().is_none(), "nothing else holds it");
    until(|| free(&places) == PLACES as usize).await;
}

#[tokio::test]
async fn each_has_one_place_and_all_together_have_so_many() {
    let (program, places) = (counting(1).await, places(Duration::ZERO));
    let all: Vec<Calls> = (0..=PLACES).map(|_| calls(&program, &places)).collect();
    let mut keepers: Vec<_> = all.iter().map(Ahead::keeper).collect();
    assert!(keepers.pop().unwrap().is_none(), "there are only so many");
    assert!(keepers.iter().all(Option::is_some));
    assert!(all[0].keeper().is_none(), "it has one");
    keepers.pop();
    assert!(all[PLACES as usize].keeper().is_some());
}

#[tokio::test]
async fn what_is_made_at_once_or_takes_much_memory_has_no_place() {
    let cheap = places(Duration::from_hours(1));
    let calls_of_cheap = calls(&counting(1).await, &cheap);
    let (instance, _) = checkout(&calls_of_cheap, LIMITS.fuel_max).await;
    instance.unwrap();
    assert_eq!(free(&cheap), PLACES as usize, "nobody makes one");
    assert!(calls_of_cheap.make_worthy().await.is_none());
    assert!(calls_of_cheap.keeper().is_none(), "it is known by then");

    let places = places(Duration::ZERO);
    let pages = u32::try_from(BYTES_MAX >> 16).unwrap();
    assert!(calls(&counting(pages).await, &places).make_worthy().await.is_some());
    let large = calls(&counting(pages + 1).await, &places);
    large.keep();
    until(|| large.state().is_unworthy && free(&places) == PLACES as usize).await;
    let (instance, _) = checkout(&large, LIMITS.fuel_max).await;
    instance.unwrap();
    assert!(large.state().keeper.is_none(), "none is made for nothing again");
}

#[tokio::test]
async fn a_call_pays_for_its_instance_whenever_that_was_made() {
    let (program, places) = (counting(1).await, places(Duration::from_hours(1)));
    let calls = calls(&program, &places);
    let made = left_of(&calls, LIMITS.fuel_max).await.unwrap();
    assert!((100_000..1_000_000).contains(&(LIMITS.fuel_max - made)), "{made} are left");
    let poor = left_of(&calls, 100_000).await;
    assert_eq!(poor, Err(Some(Trap::OutOfFuel)));
    for (fuel, whenever) in [(LIMITS.fuel_max, Ok(made)), (100_000, poor)] {
        calls.put(calls.make().await.unwrap());
        assert_eq!(left_of(&calls, fuel).await, whenever);
        assert!(calls.take().is_none(), "it was the call's");
    }
}
