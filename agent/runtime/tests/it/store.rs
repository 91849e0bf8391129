//! What programs keep between calls, the time they are told, and the randomness they draw.

use std::time::{Duration, SystemTime};

use realm_core::refusal::{ProgramLimit, Refusal};
use serde_json::json;

use crate::town::{Citizen, LIMITS, Town, town};

/// Entries of one tenant.
const ENTRIES_MAX: u64 = 1024;

fn resident(town: &Town, name: &str) -> Citizen {
    Citizen::new(name).moves_into(&town.runtime, &town.hostile)
}

async fn number(town: &Town, citizen: &Citizen, function: &str) -> u64 {
    let done = citizen.done(&town.runtime, function, &json!({})).await.end.unwrap();
    done.data.as_u64().unwrap()
}

#[tokio::test]
async fn a_flooded_store_is_full_and_no_other_tenants() {
    let town = town().await;
    let flooding = resident(town, "store-floods");
    let quiet = resident(town, "store-quiet");
    let kept = number(town, &flooding, "flood_store").await;
    assert!((4..=ENTRIES_MAX).contains(&kept), "{kept}");
    assert_eq!(number(town, &flooding, "peek_store").await, kept, "it outlives the call");
    assert_eq!(number(town, &quiet, "peek_store").await, 0);

    // A change of its limits or its program takes nothing of it.
    let flooding = flooding.moves_into(&town.runtime, &town.hostile);
    assert_eq!(number(town, &flooding, "peek_store").await, kept);
    town.runtime.remove_tenant(&flooding.tenant.name);
    let flooding = flooding.moves_into(&town.runtime, &town.hostile);
    assert_eq!(number(town, &flooding, "peek_store").await, 0, "it goes with its tenant");
}

#[tokio::test]
async fn what_goes_into_a_store_costs_host_calls_by_its_length() {
    let town = town().await;
    let mut citizen = Citizen::new("store-calls");
    citizen.tenant.limits.program.host_calls_max = 6_000;
    let citizen = citizen.moves_into(&town.runtime, &town.hostile);
    let refusal = citizen.refused(&town.runtime, "flood_store_calls", &json!({})).await;
    let expected = Refusal::ProgramLimit { limit: ProgramLimit::HostCalls, max: 6_000 };
    assert_eq!(refusal, expected);
    let fuel = town.runtime.spent().into_iter().find(|(name, _)| *name == citizen.tenant.name);
    assert!(fuel.unwrap().1.sum().fuel < LIMITS.program.fuel_max / 1000, "a hundred of them");
}

#[tokio::test]
async fn a_program_is_told_the_time_in_whole_steps() {
    let town = town().await;
    let citizen = resident(town, "reads-clock");
    let before = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let data = citizen.done(&town.runtime, "read_clock", &json!({})).await.end.unwrap().data;
    let after = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let (now, elapsed) = (data["now"].as_u64().unwrap(), data["elapsed"].as_u64().unwrap());
    assert_eq!((now % 100, elapsed % 100), (0, 0));
    let now = Duration::from_millis(now);
    assert!(before <= now + Duration::from_millis(100) && now <= after, "{now:?}");
    assert!(before + Duration::from_millis(elapsed) <= after, "{elapsed}");
}

#[tokio::test]
async fn randomness_comes_in_pieces_of_a_page_at_most() {
    let town = town().await;
    let citizen = resident(town, "draws");
    let refusal = citizen.refused(&town.runtime, "flood_random", &json!({})).await;
    let Refusal::ProgramFailed(message) = &refusal else { panic!("{refusal:?}") };
    assert!(message.contains("4096 are the most"), "{message}");
}
