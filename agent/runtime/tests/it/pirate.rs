use realm_core::tenants::Tenants as _;
use serde_json::json;

use crate::{
    echo::{Echo, Mood},
    town::{Citizen, town},
};

#[tokio::test]
async fn a_tenants_own_program_speaks_with_its_own_voice() {
    let town = town().await;
    let mut citizen =
        Citizen::new("pirate").with_model(&town.runtime, Echo::new("tests/pirate", Mood::Echo));
    let program = citizen.tenant.program.as_mut().unwrap();
    program.config.insert("voice".into(), "Be brief.".into());
    let citizen = citizen.moves_into(&town.runtime, &town.pirate);
    let messages = json!([
        { "role": "system", "content": "Be kind." },
        { "role": "user", "content": "hello" },
    ]);

    let told = citizen.done(&town.runtime, "chat", &json!({ "messages": messages })).await;
    assert_eq!(told.text(), "SYSTEM: BE BRIEF.\nUSER: HELLO\n");

    let told = citizen.done(&town.runtime, "shout", &json!({ "text": "stra\u{df}e \"x\"" })).await;
    assert_eq!(told.end.unwrap().data, json!({ "text": "STRASSE \"X\"" }));

    let functions = town.runtime.functions(&citizen.caller()).await;
    let names: Vec<_> = functions.iter().map(|function| function.name.as_str()).collect();
    assert_eq!(names, ["chat", "shout"]);
}
