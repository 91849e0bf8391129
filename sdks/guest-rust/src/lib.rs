//! Write a tenant's program for Realm in Rust.
//!
//! A program serves functions. It sees its own tenant's models, settings and client, and nothing
//! else of the machine. Implement [`Program`], hand the type to [`export!`], build for
//! `wasm32-unknown-unknown` and wrap the module with `build-tool`; `rebuild.sh` does both for the
//! programs in `programs/`.
//!
//! ```ignore
//! struct Echo;
//!
//! impl realm_guest::Program for Echo {
//!     fn functions() -> Vec<realm_guest::FunctionInfo> { .. }
//!     fn handle(function: &str, params: realm_guest::Params) -> realm_guest::Result { .. }
//! }
//!
//! realm_guest::export!(Echo);
//! ```
//!
//! A program that is to stand beside its own generations, token by token, has [`hooks::Hooks`] too,
//! and one that says whether it works before it takes a call has [`health::Health`].

mod answer;
pub mod embed;
mod format;
pub mod health;
pub mod hooks;
mod params;
mod raw;
mod shared;

pub use answer::{Asked, answer, answer_with, open};
pub use bindings::{
    exports::realm::tenant::handler::{FunctionInfo, Outcome},
    realm::tenant::{
        clock, config, log,
        model::{
            Abilities, Bias, Constraint, EmbedInfo, EmbedParams, Embedded, Generation, Info, Model,
            Params as GenerateParams, Prefix, Sampling, Summary, Text, list_models,
        },
        random, reply, store,
        types::{Error, Finish, Logprobs, Message, ScoredToken, Token, TokenId, TokenLimit, Usage},
    },
};
pub use miniserde::json;
pub use params::Params;
pub use shared::{chat_beginning, system_tokens};

/// The end of a call.
pub type Result<T = Outcome> = core::result::Result<T, Error>;

/// A tenant's program. One instance serves one call.
pub trait Program {
    /// What it serves. Must not call the host: no tenant is known yet.
    fn functions() -> Vec<FunctionInfo>;

    /// Serves one call of `function`.
    fn handle(function: &str, params: Params) -> Result;
}

/// Exports a type that implements [`Program`] as this component's program.
#[macro_export]
macro_rules! export {
    ($program:ty) => {
        const _: () = {
            struct Exported;

            impl $crate::bindings::exports::realm::tenant::handler::Guest for Exported {
                fn functions() -> ::std::vec::Vec<$crate::FunctionInfo> {
                    <$program as $crate::Program>::functions()
                }

                fn handle(
                    request: $crate::bindings::exports::realm::tenant::handler::Request,
                ) -> $crate::Result {
                    let params = $crate::Params::parse(&request.params)?;
                    <$program as $crate::Program>::handle(&request.function, params)
                }
            }

    $crate::bindings::export_program!(Exported with_types_in $crate::bindings);
        };
    };
}

#[doc(hidden)]
#[expect(clippy::pedantic, reason = "generated")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../proto/wit",
        world: "program",
        pub_export_macro: true,
        export_macro_name: "export_program",
        default_bindings_module: "realm_guest::bindings",
    });
}

#[doc(hidden)]
#[expect(clippy::pedantic, reason = "generated")]
pub mod hook_bindings {
    wit_bindgen::generate!({
        path: "../../proto/wit",
        inline: "
            package realm:hooked;

            world hooked {
                export realm:tenant/hooks@0.1.0;
            }
        ",
        world: "realm:hooked/hooked",
        pub_export_macro: true,
        export_macro_name: "export_hooked",
        default_bindings_module: "realm_guest::hook_bindings",
        with: {
            "realm:tenant/types@0.1.0": crate::bindings::realm::tenant::types,
            "realm:tenant/model@0.1.0": crate::bindings::realm::tenant::model,
        },
    });
}

#[doc(hidden)]
#[expect(clippy::pedantic, reason = "generated")]
pub mod health_bindings {
    wit_bindgen::generate!({
        path: "../../proto/wit",
        inline: "
            package realm:checked;

            world checked {
                export realm:tenant/health@0.1.0;
            }
        ",
        world: "realm:checked/checked",
        pub_export_macro: true,
        export_macro_name: "export_checked",
        default_bindings_module: "realm_guest::health_bindings",
    });
}
