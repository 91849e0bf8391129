//! What stands beside a program's own generations, token by token.
//!
//! ```ignore
//! struct Quiet;
//!
//! impl Hooks for Quiet {
//!     fn on_request(request: Request) -> Result<(Plan, Self)> {
//!         Ok((Plan { params: request.params, stages: Stages::TOKEN }, Self))
//!     }
//!
//!     fn on_token(&mut self, _id: TokenId, text: &str) -> Verdict {
//!         Verdict::Rewrite(text.to_lowercase())
//!     }
//! }
//!
//! realm_guest::export_hooks!(Quiet);
//! ```

pub use crate::hook_bindings::exports::realm::tenant::hooks::{
    Plan, Request, Stages, Steer, Verdict,
};
use crate::{Finish, Result, TokenId};

/// One generation's hooks. They live in an instance of their own, which knows nothing of the one that
/// serves the call, and may not generate or write a reply.
pub trait Hooks: Sized {
    /// Sees a generation before it begins; what it returns is what that is begun with. An error
    /// refuses it.
    fn on_request(request: Request) -> Result<(Plan, Self)>;

    /// What decides about the next token, once the one before it is known.
    fn bias(&mut self, _last: Option<TokenId>) -> Steer {
        Steer::Same
    }

    /// What becomes of a token's text.
    fn on_token(&mut self, _id: TokenId, _text: &str) -> Verdict {
        Verdict::Pass
    }

    /// What comes behind the answer's text.
    fn on_finish(&mut self, _finish: Finish) -> String {
        String::new()
    }
}

/// Exports a type that implements [`Hooks`] as this component's hooks.
#[macro_export]
macro_rules! export_hooks {
    ($hooks:ty) => {
        const _: () = {
            use $crate::hook_bindings::exports::realm::tenant::hooks as raw;

            ::std::thread_local! {
                static HOOKS: ::core::cell::RefCell<Option<$hooks>> =
                    const { ::core::cell::RefCell::new(None) };
            }

            /// The hooks of the instance's one generation; what they answer where there is none yet.
            fn with<T>(none: T, ask: impl FnOnce(&mut $hooks) -> T) -> T {
                HOOKS.with_borrow_mut(|hooks| match hooks {
                    Some(hooks) => ask(hooks),
                    None => none,
                })
            }

            struct Exported;

            impl raw::Guest for Exported {
                fn on_request(request: raw::Request) -> $crate::Result<raw::Plan> {
                    let (plan, hooks) = <$hooks as $crate::hooks::Hooks>::on_request(request)?;
                    HOOKS.set(Some(hooks));
                    Ok(plan)
                }

                fn bias(last: Option<$crate::TokenId>) -> raw::Steer {
                    with(raw::Steer::Same, |hooks| $crate::hooks::Hooks::bias(hooks, last))
                }

                fn on_token(id: $crate::TokenId, text: ::std::string::String) -> raw::Verdict {
                    with(raw::Verdict::Pass, |hooks| {
                        $crate::hooks::Hooks::on_token(hooks, id, &text)
                    })
                }

                fn on_finish(finish: $crate::Finish) -> ::std::string::String {
                    with(::std::string::String::new(), |hooks| {
                        $crate::hooks::Hooks::on_finish(hooks, finish)
                    })
                }
            }

            $crate::hook_bindings::export_hooked!(
                Exported with_types_in $crate::hook_bindings
            );
        };
    };
}
