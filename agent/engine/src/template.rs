//! A conversation to the text a model was trained on, by the template in its file.
//!
//! Rendered as the `transformers` library renders it: blocks trimmed, `raise_exception` and
//! `tojson` given, Python's methods on strings and maps. What is not known is an error, never a
//! guess; `strftime_now` is absent because a prompt that depends on the clock is never the same
//! twice.

mod expressions;
mod guards;
mod python;
mod weight;

use std::{
    sync::{Arc, OnceLock, mpsc},
    thread,
    time::Duration,
};

use minijinja::{
    Environment, Error, ErrorKind, UndefinedBehavior, context, machinery, syntax::SyntaxConfig,
    value::Value,
};
use realm_core::engine::{ChatMessage, TextError};

use crate::{
    gguf::{Gguf, GgufError},
    tokenizer::{TEXT_BYTES_MAX, Tokenizer},
};

/// Steps and 64-byte pieces of data that one rendering may use.
///
/// A message takes about fifty steps, twice that with the guards, and a text of [`TEXT_BYTES_MAX`] is
/// 8192 pieces, copied a few times on its way; this leaves room for thousands of messages and bounds
/// memory to 32 MiB.
const FUEL: u64 = 1 << 19;
/// How long a template may be compiled or rendered.
///
/// The fuel bounds the work too, and what is in order takes some milliseconds; this is hundreds of
/// times that, so that no load of the node breaks a template that is in order.
const TIME_MAX: Duration = Duration::from_secs(5);
/// Bytes of a template that is read: twice the longest in use.
const TEMPLATE_BYTES_MAX: usize = 64 << 10;
/// Bytes of stack to compile and render on, which go as deep as what they are given.
///
/// A value has at most 64 lists around it, an expression at most two Ki operators, and statements
/// nest to the compiler's own limit. Where nothing is optimised the deepest template that is taken
/// needs between two and four MiB; this is eight times that. What is not touched takes no memory.
const STACK_BYTES: usize = 32 << 20;
/// The template's name in its own error messages.
const NAME: &str = "chat_template";
/// Characters that no text may hold in an exchange between programs, and so almost never does.
const MARKS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// A model's chat template, compiled.
pub(crate) struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    bos: Option<String>,
    eos: Option<String>,
    /// Why the template cannot be used, told to who tries. One that once took too long stays so:
    /// its thread cannot be stopped, and a model is worth one such thread.
    broken: OnceLock<String>,
}

#[derive(Clone)]
struct Message {
    role: String,
    content: String,
}

impl ChatTemplate {
    /// The template of `gguf`, if it has one.
    pub(crate) fn of(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Option<Self>, GgufError> {
        let source = gguf.text("tokenizer.chat_template")?;
        let [bos, eos] = tokenizer.bos_and_eos();
        Ok(source.map(|source| Self::compile(source, bos, eos)))
    }

    /// Compiles a template. One that does not compile still lets its model complete plain text, so
    /// the error comes when a conversation does.
    fn compile(source: &str, bos: Option<String>, eos: Option<String>) -> Self {
        let source = source.to_owned();
        let compiled = on_own_thread(move || environment(source)).unwrap_or_else(|e| Err(e.into()));
        let (environment, broken) = match compiled {
            Ok(environment) => (environment, OnceLock::new()),
            Err(why) => (Environment::new(), OnceLock::from(why)),
        };
        Self { environment: Arc::new(environment), bos, eos, broken }
    }

    /// The ids of a conversation, ready for an answer.
    ///
    /// Messages come from strangers: a control token that one of them spells stays text.
    pub(crate) fn encode(
        &self,
        messages: &[ChatMessage],
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>, TextError> {
        let bytes = messages.iter().map(|m| m.role.len() + m.content.len()).sum();
        if bytes > TEXT_BYTES_MAX {
            return Err(TextError::TooLong { bytes, bytes_max: TEXT_BYTES_MAX });
        }
        let mark = free_mark(messages)?;
        let messages = messages
            .iter()
            .map(|message| Message {
                role: tokenizer.mark(&message.role, mark),
                content: tokenizer.mark(&message.content, mark),
            })
            .collect::<Vec<_>>();
        tokenizer.encode_marked(&self.render(messages)?, mark)
    }

    fn render(&self, messages: Vec<Message>) -> Result<String, TextError> {
        if let Some(broken) = self.broken.get() {
            return Err(TextError::Template(broken.clone()));
        }
        let environment = self.environment.clone();
        let [bos, eos] = [self.bos.clone(), self.eos.clone()].map(Option::unwrap_or_default);
        let rendered = on_own_thread(move || fill(&environment, messages, &bos, &eos));
        let text = rendered.unwrap_or_else(|lost| {
            if let Lost::TookTooLong = lost {
                // Whoever came first has said the same.
                let _ = self.broken.set(lost.to_string());
            }
            Err(lost.into())
        });
        text.map_err(TextError::Template)
    }
}

/// Compiles `source`.
fn environment(source: String) -> Result<Environment<'static>, String> {
    let bytes = source.len();
    if bytes > TEMPLATE_BYTES_MAX {
        return Err(format!("it has {bytes} bytes; {TEMPLATE_BYTES_MAX} are the most"));
    }
    expressions::check(&source)?;
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    let syntax = syntax.map_err(|error| error.to_string())?;
    guards::check(&source, syntax.clone())?;
    let mut environment = Environment::new();
    environment.set_syntax(syntax);
    environment.set_fuel(Some(FUEL));
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_filter("tojson", python::to_json);
    environment.set_unknown_method_callback(python::method);
    guards::add_to(&mut environment);
    environment.add_template_owned(NAME, source).map_err(|error| error.to_string())?;
    Ok(environment)
}

/// The text of a conversation.
fn fill(
    environment: &Environment<'_>,
    messages: Vec<Message>,
    bos: &str,
    eos: &str,
) -> Result<String, String> {
    let messages: Vec<Value> = messages
        .into_iter()
        .map(|Message { role, content }| context! { role => role, content => content })
        .collect();
    let context = context! {
        messages => messages,
        add_generation_prompt => true,
        bos_token => bos,
        eos_token => eos,
        tools => Value::from(()),
        documents => Value::from(()),
    };
    let template = environment.get_template(NAME).map_err(|error| error.to_string())?;
    let compiled = machinery::get_compiled_template(&template);
    let instructions = guards::guarded(&compiled.instructions)?;
    let mut text = String::new();
    let mut out = machinery::make_string_output(&mut text);
    let escape = compiled.initial_auto_escape.clone();
    machinery::eval(environment, &instructions, context, &compiled.blocks, &mut out, escape)
        .map_err(|error| error.to_string())?;
    Ok(text)
}

/// Why work came to no end.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("no thread to use it on: {0}")]
    NoThread(std::io::Error),
    #[error("it takes more than {} s", TIME_MAX.as_secs())]
    TookTooLong,
    #[error("it could not be used")]
    Panicked,
}

impl From<Lost> for String {
    fn from(lost: Lost) -> Self {
        lost.to_string()
    }
}

/// Does what recurses as deep as a stranger's template says, and as long. The thread of work that
/// takes too long is left to its fuel.
fn on_own_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Lost> {
    let (done, result) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name("realm-template".to_owned()).stack_size(STACK_BYTES);
    let run = move || {
        // Nobody waits any more for what came too late.
        let _ = done.send(work());
    };
    drop(thread.spawn(run).map_err(Lost::NoThread)?);
    result.recv_timeout(TIME_MAX).map_err(|error| match error {
        mpsc::RecvTimeoutError::Timeout => Lost::TookTooLong,
        mpsc::RecvTimeoutError::Disconnected => Lost::Panicked,
    })
}

/// A mark that no message holds.
fn free_mark(messages: &[ChatMessage]) -> Result<char, TextError> {
    MARKS
        .into_iter()
        .find(|&mark| !messages.iter().any(|m| m.role.contains(mark) || m.content.contains(mark)))
        .ok_or_else(|| TextError::Template("the messages hold every noncharacter".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[(&str, &str)]) -> Result<String, TextError> {
        let messages = messages
            .iter()
            .map(|&(role, content)| Message { role: role.to_owned(), content: content.to_owned() })
            .collect::<Vec<_>>();
        ChatTemplate::compile(source, Some("<s>".to_owned()), None).render(messages)
    }

    #[test]
    fn blocks_are_trimmed_as_transformers_trims_them() {
        let source = "{{ bos_token }}{% for m in messages %}\n    {% if loop.first %}\nfirst {% endif %}\n{{ m['role'] }}: {{ m.content }}\n{% endfor %}\n";
        let got = render(source, &[("user", "a"), ("assistant", "b")]).unwrap();
        assert_eq!(got, "<s>first user: a\nassistant: b\n");
    }

    #[test]
    fn python_methods_loop_controls_and_namespaces_work() {
        let source = "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.content.startswith('skip') %}{% continue %}{% endif %}{% set ns.n = ns.n + 1 %}{{ m.content.strip().split(',')[-1] }}{% endfor %}{{ ns.n }}{% for k, v in messages[0].items() %} {{ k }}{% endfor %}";
        let got = render(source, &[("user", " a,b "), ("user", "skip"), ("x", "c")]).unwrap();
        assert_eq!(got, "bc2 role content");
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let got = render("{{ {'a': [1, 'é<'], 'b': none} | tojson }}", &[]).unwrap();
        assert_eq!(got, r#"{"a": [1, "é<"], "b": null}"#);
    }

    #[test]
    fn what_a_template_raises_or_lacks_is_an_error() {
        let error = |source| match render(source, &[("user", "x")]) {
            Err(TextError::Template(text)) => text,
            other => panic!("{other:?}"),
        };
        assert!(error("{{ raise_exception('roles must alternate') }}").contains("alternate"));
        assert!(error("{{ strftime_now('%Y') }}").contains("strftime_now"));
        assert!(error("{% for %}").contains("syntax error"));
        assert!(error("{{ messages[0].content.frobnicate() }}").contains("frobnicate"));
        assert!(
            error("{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}")
                .contains("fuel")
        );
        assert!(error("{{ 'x' * 1000000000 }}").contains("fuel"));
    }

    /// The most memory that this process has held, in bytes.
    #[cfg(target_os = "linux")]
    fn peak_bytes() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kib = line.trim().strip_suffix(" kB").unwrap();
        kib.trim().parse::<u64>().unwrap() << 10
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_a_method_or_filter_makes_is_paid_for_before_it_is_made() {
        let content = "a".repeat(1 << 15);
        for source in [
            "{{ messages[0].content.replace('a', messages[0].content) }}",
            "{% set a = [messages[0].content] %}{{ (a * 32768) | tojson }}",
            "{% set a = [messages[0].content] %}{{ (a * 32768) | tojson(indent=2) }}",
        ] {
            let before = peak_bytes();
            let error = render(source, &[("user", &content)]).unwrap_err();
            assert!(error.to_string().contains("fuel"), "{error}");
            let grown = peak_bytes().saturating_sub(before);
            assert!(grown < 256 << 20, "{source}: {grown} bytes");
        }
    }

    #[test]
    fn many_characters_are_stripped_at_the_price_of_one() {
        let start = std::time::Instant::now();
        let source = "{{ ('a' * 500000).strip('b' * 500000 ~ 'a') }}";
        assert_eq!(render(source, &[]).unwrap(), "");
        assert!(start.elapsed().as_secs() < 1, "{:?}", start.elapsed());
    }

    #[test]
    fn a_value_nested_as_deep_as_it_may_be_ends_in_an_error_or_a_text() {
        let added = format!("[ns.x{}]", " + [1]".repeat(33));
        for (link, levels) in [("[ns.x]", 60), ("[ns.x]", 12_000), (added.as_str(), 8)] {
            for end in
                ["", "{{ ns.x | tojson }}", "{{ ns.x }}", "{{ ns.x == ns.y }}", "{{ {ns.x: 1} }}"]
            {
                let source = format!(
                    "{{% set ns = namespace(x=[], y=[]) %}}{{% for i in range({levels}) %}}\
                     {{% set ns.y = ns.x %}}{{% set ns.x = {link} %}}{{% endfor %}}{end}"
                );
                let rendered = render(&source, &[]);
                if link == "[ns.x]" {
                    assert_eq!(rendered.is_ok(), levels == 60, "{end}: {rendered:?}");
                }
            }
        }
    }

    /// In the manner of the templates in use.
    const IN_USE: [&str; 4] = [
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        "{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}{%- if ns.multi_step_tool and message.role == \"user\" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}{%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}{%- endif %}{%- endfor %}{%- for message in messages %}{%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{%- elif message.role == \"assistant\" %}{%- set content = message.content %}{%- if '</think>' in content %}{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}{%- if loop.index0 > ns.last_query_index %}{{- 'T' }}{%- endif %}{{- content ~ '\n' }}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}",
        "{%- macro show(m, end='\n') %}{{ m.role|upper }}: {{ m['content'] | trim }}{{ end }}{% endmacro %}{%- macro wrap() %}<{{ caller() }}>{% endmacro %}{%- set ns = namespace(kept=[], n=0) %}{%- for m in messages if m.role not in ['tool', 'ipython'] %}{%- set ns.kept = ns.kept + [m] %}{%- set ns.n = ns.n + 1 %}{%- endfor %}{%- for m in ns.kept %}{{ show(m) }}{{ show(m, end=';') }}{% if loop.changed(m.role) %}C{% endif %}{{ loop.cycle('a', 'b') }}{% if loop.last %}{% break %}{% endif %}{% else %}none{% endfor %}{% call wrap() %}{{ ns.n }}{% endcall %}",
        "{% set t = {'name': 'f', 'parameters': {'type': 'object', 'list': [1, 2.5, none, true]}} %}{{ t | tojson }}{{ t | tojson(indent=4) }}{{ t }}{% for k, v in t.items() %}{{ k }}{{ v is mapping }}{% endfor %}{{ t.get('x', 'y') }}{{ 1 < 2 <= 2 }}{% set (a, b) = ('x', [t, t]) %}{{ a * 3 }}{{ b | length }}{{ b == [t, t] }}{% for x in [[1, [2, [3]]], 4] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}{{ messages | map(attribute='role') | unique | sort | join(', ') }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ (messages | last).role if messages else 'no' }}{{ missing | default('d') }}{{ missing is defined }}{{ 'abc'[1:] }}{{ 'abc'[::-1] }}{{ range(3) | list }}{{ 3 in range(5) }}{% set s %}{{ a }}!{% endset %}{{ s | replace('!', '?') }}{% filter upper %}x{% endfilter %}{% with q = 1 %}{{ q }}{% endwith %}{{ messages[0] is eq messages[0] }}{{ messages | reverse | list | length }}{{ messages | groupby('role') | length }}{{ '%s-%d' | format('a', 3) }}{{ dict(a=1) }}",
    ];

    #[test]
    fn the_guards_change_no_text() {
        let messages = [("system", "be\n"), ("user", " hi "), ("assistant", "<think>x</think>\ny")];
        for source in IN_USE {
            let template = ChatTemplate::compile(source, Some("<s>".to_owned()), None);
            assert_eq!(template.broken.get(), None, "{source}");
            let context = context! {
                messages => messages.map(|(role, content)| context! { role => role, content => content }),
                add_generation_prompt => true, bos_token => "<s>", eos_token => "",
            };
            let bare = template.environment.get_template(NAME).unwrap().render(context).unwrap();
            assert_eq!(render(source, &messages).unwrap(), bare);
        }
    }

    #[test]
    fn long_conversations_have_fuel_enough() {
        let long = "a ".repeat(100);
        let messages = [("user", long.as_str()), ("assistant", long.as_str())].repeat(100);
        for source in IN_USE {
            let text = render(source, &messages).map(|text| text.len());
            assert!(text.is_ok(), "{text:?} {source}");
        }
    }

    /// What a template of the file's does, which ends long before its time.
    fn refusal(source: &str) -> String {
        let start = std::time::Instant::now();
        let error = render(source, &[("user", &"a".repeat(1 << 15))]).unwrap_err().to_string();
        assert!(start.elapsed() < TIME_MAX, "{source}: {:?}", start.elapsed());
        assert!(!error.contains("more than"), "{source}: {error}");
        error
    }

    /// Two values that each hold the same 2^40 times.
    fn shared(end: &str) -> String {
        let set = "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}".repeat(40);
        format!("{{% set ns = namespace(x=[], y=[]) %}}{set}{end}")
    }

    #[test]
    fn values_that_share_structure_are_not_walked_without_fuel() {
        for end in [
            "{{ ns.x == ns.y }}",
            "{{ ns.x < ns.y }}",
            "{{ ns.x != ns.y != ns.x }}",
            "{{ ns.x in [ns.y] }}",
            "{{ [ns.x, ns.y] | sort }}",
            "{{ [ns.x, ns.y] | unique }}",
            "{{ ns.x is eq ns.y }}",
            "{{ {ns.x: 1} }}",
            "{{ {}[ns.x] }}",
            "{{ ns.x }}",
            "{{ ns.x ~ '' }}",
            "{{ ns.x | string }}",
            "{{ ns.x | join }}",
            "{{ 'a' | replace('a', ns.x) }}",
        ] {
            assert!(refusal(&shared(end)).contains("fuel"), "{end}");
        }
    }

    #[test]
    fn lists_that_only_repeat_another_weigh_what_they_repeat() {
        let grow = "{% set ns.x = ns.x + ns.x %}".repeat(40);
        let times = "{% set ns.x = [ns.x] %}{% set ns.x = ns.x * 1000 %}".repeat(9);
        for set in [grow, times] {
            for end in ["{{ ns.x == ns.x }}", "{{ ns.x ~ '' }}", "{{ ns.x }}", ""] {
                let source = format!("{{% set ns = namespace(x=[1]) %}}{set}{end}");
                assert!(refusal(&source).contains("fuel"), "{source}");
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_container_is_weighed_before_its_text_is_written() {
        let many = "{% set a = [messages[0].content] %}{% set a = a * 32768 %}";
        for end in ["{{ a }}", "{{ a ~ '' }}", "{{ '' ~ a }}", "{{ a | string }}", "{{ a|pprint }}"]
        {
            let before = peak_bytes();
            assert!(refusal(&format!("{many}{end}")).contains("fuel"), "{end}");
            let grown = peak_bytes().saturating_sub(before);
            assert!(grown < 256 << 20, "{end}: {grown} bytes");
        }
    }

    #[test]
    fn a_namespace_never_comes_to_hold_itself() {
        let begin = "{% set ns = namespace() %}";
        for end in [
            "{% set ns.x = ns %}{{ ns == ns.x }}",
            "{% set ns.x = [ns] %}",
            "{% set ns.x = dict(a=ns) %}",
            "{% set other = namespace(a=ns) %}",
            "{% set ns.x | default(ns, true) %}{% endset %}",
            "{{ ns }}",
        ] {
            assert!(refusal(&format!("{begin}{end}")).contains("namespace"), "{end}");
        }
    }

    #[test]
    fn what_a_method_is_given_costs_fuel() {
        let begin = "{% set b = messages[0].content * 200 %}{% for i in range(300) %}";
        for method in ["strip(b)", "lstrip(b)", "rstrip(b)", "startswith(b)", "split(b)"] {
            let source = format!("{begin}{{{{ 'a'.{method} }}}}{{% endfor %}}");
            assert!(refusal(&source).contains("fuel"), "{method}");
        }
    }

    #[test]
    fn nothing_multiplies_a_list_while_it_compiles() {
        let deep = "[".repeat(9) + "1" + &"]*100000000".repeat(9);
        for source in [
            format!("{{{{ {deep} == {deep} }}}}"),
            format!("{{{{ {deep} ~ '' }}}}"),
            "{{ 31 * (1, 2) ~ '' }}".to_owned(),
            format!("{{% raw %}}{{{{ '{{% endraw %}}{{{{ {deep} ~ '' }}}}"),
        ] {
            assert!(refusal(&source).contains("multiplies"), "{source}");
        }
    }

    #[test]
    fn a_template_that_took_too_long_is_never_tried_again() {
        let template = ChatTemplate::compile("{{ wait() }}", None, None);
        let (release, held) = mpsc::sync_channel::<()>(1);
        let held = std::sync::Mutex::new(held);
        let mut environment = Environment::clone(&template.environment);
        environment.add_function("wait", move || held.lock().unwrap().recv().is_ok());
        let template = ChatTemplate { environment: Arc::new(environment), ..template };
        let error = template.render(Vec::new()).unwrap_err();
        assert!(error.to_string().contains("more than 5 s"), "{error}");
        let start = std::time::Instant::now();
        assert_eq!(template.render(Vec::new()).unwrap_err(), error);
        assert!(start.elapsed() < TIME_MAX);
        drop(release);
    }

    #[test]
    fn a_template_as_deep_as_a_template_may_be_ends_in_an_error_or_a_text() {
        for (begin, link, end) in [
            ("{{ a", "+a", " }}"),
            ("{{ a", "~a", " }}"),
            ("{{ ", "-", "a }}"),
            ("{{ ", "(", ""),
            ("", "{% if a %}", ""),
        ] {
            for bytes in [2_000, 60_000] {
                let source = format!("{begin}{}{end}", link.repeat(bytes / link.len()));
                drop(render(&source, &[]));
            }
        }
    }
}
