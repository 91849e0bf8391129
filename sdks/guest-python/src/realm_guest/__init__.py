"""Write a tenant's program for Realm in Python.

A program serves functions. It sees its own tenant's models, settings and client, and nothing else
of the machine. Register functions with a `Program`, call its class of handlers `Handler`, and make
a component of the module with `build.py`.

A program that is to stand beside its own generations, token by token, has a class `Hooks` of
`realm_guest.hooks` too, and one that says whether it works before it takes a call a class `Health`
of `realm_guest.health`.

Refusals are exceptions: `Err` around one of the cases of `Error` in `wit_world.imports.types`. One
of the host's may be caught, or left to be the call's end.
"""

from componentize_py_types import Err
from wit_world.imports.model import (
    Abilities,
    Bias,
    Constraint,
    Constraint_Grammar,
    Constraint_JsonObject,
    Constraint_JsonSchema,
    Constraint_Regex,
    Embedded,
    EmbedInfo,
    EmbedParams,
    Generation,
    Info,
    Model,
    Prefix,
    Sampling,
    Summary,
    Text,
    Text_Tokens,
    Text_Words,
    list_models,
)
from wit_world.imports.model import Params as GenerateParams
from wit_world.imports.types import Error, Finish, Logprobs, Message, ScoredToken, Token, Usage

from realm_guest.answer import Asked, answer, generate, greedy, open_model
from realm_guest.host import (
    elapsed_ms,
    log,
    now_ms,
    random_bytes,
    setting,
    store_delete,
    store_get,
    store_keys,
    store_set,
    tenant,
    write_json,
    write_scored,
    write_text,
)
from realm_guest.params import Params
from realm_guest.program import Outcome, Program
from realm_guest.refusal import invalid

__all__ = [
    "Abilities",
    "Asked",
    "Bias",
    "Constraint",
    "Constraint_Grammar",
    "Constraint_JsonObject",
    "Constraint_JsonSchema",
    "Constraint_Regex",
    "EmbedInfo",
    "EmbedParams",
    "Embedded",
    "Err",
    "Error",
    "Finish",
    "GenerateParams",
    "Generation",
    "Info",
    "Logprobs",
    "Message",
    "Model",
    "Outcome",
    "Params",
    "Prefix",
    "Program",
    "Sampling",
    "ScoredToken",
    "Summary",
    "Text",
    "Text_Tokens",
    "Text_Words",
    "Token",
    "Usage",
    "answer",
    "elapsed_ms",
    "generate",
    "greedy",
    "invalid",
    "list_models",
    "log",
    "now_ms",
    "open_model",
    "random_bytes",
    "setting",
    "store_delete",
    "store_get",
    "store_keys",
    "store_set",
    "tenant",
    "write_json",
    "write_scored",
    "write_text",
]
