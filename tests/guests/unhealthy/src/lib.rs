//! A program that says of itself that it does not work, and would serve `shout` if it were let.

use realm_guest::{Finish, FunctionInfo, Outcome, Params, Program, Result, health::Health};

struct Unhealthy;

impl Program for Unhealthy {
    fn functions() -> Vec<FunctionInfo> {
        vec![FunctionInfo {
            name: "shout".into(),
            description: String::new(),
            params_schema: "{}".into(),
            streams: false,
        }]
    }

    fn handle(_function: &str, _params: Params) -> Result {
        Ok(Outcome { finish: Finish::Stop, data: Some(r#"{"text":"?"}"#.into()) })
    }
}

impl Health for Unhealthy {
    /// A line of its own would be one of the server's log.
    fn check() -> std::result::Result<(), String> {
        Err(format!("the dictionary is empty\ntenant default/forged: ready{}", "!".repeat(4096)))
    }
}

realm_guest::export!(Unhealthy);
realm_guest::export_health!(Unhealthy);
