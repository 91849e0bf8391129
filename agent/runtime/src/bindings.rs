//! The world of `proto/wit` as Rust types.

wasmtime::component::bindgen!({
    path: "../../proto/wit",
    world: "program",
    imports: {
        // These wait: for a tokenizer's thread, for tokens, for the client.
        "realm:tenant/model": async | trappable,
        "realm:tenant/reply": async | trappable,
        // This gives way.
        "realm:tenant/random": async | trappable,
        default: trappable,
    },
    exports: { default: async },
    with: {
        "realm:tenant/model.model": crate::host::OpenModel,
        "realm:tenant/model.generation": crate::host::Generation,
        "realm:tenant/model.prefix": crate::host::Prefix,
    },
    trappable_error_type: {
        "realm:tenant/types.error" => crate::refusal::HostError,
    },
});

/// The hooks of a program that has them.
pub(crate) mod hooked {
    wasmtime::component::bindgen!({
        path: "../../proto/wit",
        inline: "
            package realm:hooked;

            world hooked {
                export realm:tenant/hooks@0.1.0;
            }
        ",
        world: "realm:hooked/hooked",
        imports: { default: trappable },
        exports: { default: async },
        with: {
            "realm:tenant/types": crate::bindings::realm::tenant::types,
            "realm:tenant/model": crate::bindings::realm::tenant::model,
        },
    });
}

/// What a program that has it says of its health.
pub(crate) mod checked {
    wasmtime::component::bindgen!({
        path: "../../proto/wit",
        inline: "
            package realm:checked;

            world checked {
                export realm:tenant/health@0.1.0;
            }
        ",
        world: "realm:checked/checked",
        exports: { default: async },
    });
}
