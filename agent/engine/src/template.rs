//! A conversation to the text a model was trained on, by the template in its file.
//!
//! Rendered as the `transformers` library renders it: blocks trimmed, `raise_exception` and
//! `tojson` given, Python's methods on strings and maps. What is not known is an error, never a
//! guess; `strftime_now` is absent because a prompt that depends on the clock is never the same
//! twice.

mod expressions;
mod python;

use std::thread;

use minijinja::{
    Environment, Error, ErrorKind, UndefinedBehavior, context, syntax::SyntaxConfig, value::Value,
};
use realm_core::engine::{ChatMessage, TextError};

use crate::{
    gguf::{Gguf, GgufError},
    tokenizer::{TEXT_BYTES_MAX, Tokenizer},
};

/// Steps and 64-byte pieces of data that one rendering may use.
///
/// A message takes about fifty steps and a text of [`TEXT_BYTES_MAX`] is 8192 pieces, copied a few
/// times on its way; this leaves room for thousands of messages and bounds memory to 16 MiB.
const FUEL: u64 = 1 << 18;
/// Bytes of a template that is read: twice the longest in use.
const TEMPLATE_BYTES_MAX: usize = 64 << 10;
/// Bytes of stack to compile and render on, which go as deep as what they are given.
///
/// A value has a level for each list around it, and each of those takes about eight steps of the
/// fuel, so 32 Ki at most; an expression has one for each of its operators, and so far fewer. This
/// is 8 KiB a level, and they take a few where nothing is optimised. What is not touched takes no
/// memory.
const STACK_BYTES: usize = 256 << 20;
/// The template's name in its own error messages.
const NAME: &str = "chat_template";
/// Characters that no text may hold in an exchange between programs, and so almost never does.
const MARKS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// A model's chat template, compiled.
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    bos: Option<String>,
    eos: Option<String>,
    /// Why the template cannot be used, told to who tries.
    broken: Option<String>,
}

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
        let mut environment = Environment::new();
        let broken =
            on_a_deep_stack(|| add(&mut environment, source)).and_then(|added| added).err();
        environment.set_fuel(Some(FUEL));
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", python::to_json);
        environment.set_unknown_method_callback(python::method);
        Self { environment, bos, eos, broken }
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
        tokenizer.encode_marked(&self.render(&messages)?, mark)
    }

    fn render(&self, messages: &[Message]) -> Result<String, TextError> {
        if let Some(broken) = &self.broken {
            return Err(TextError::Template(broken.clone()));
        }
        on_a_deep_stack(|| self.fill(messages)).and_then(|text| text).map_err(TextError::Template)
    }

    fn fill(&self, messages: &[Message]) -> Result<String, String> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|Message { role, content }| context! { role => role, content => content })
            .collect();
        let context = context! {
            messages => messages,
            add_generation_prompt => true,
            bos_token => self.bos.as_deref().unwrap_or_default(),
            eos_token => self.eos.as_deref().unwrap_or_default(),
            tools => Value::from(()),
            documents => Value::from(()),
        };
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(context))
            .map_err(|error| error.to_string())
    }
}

/// Compiles `source` into `environment`.
fn add(environment: &mut Environment<'static>, source: &str) -> Result<(), String> {
    let bytes = source.len();
    if bytes > TEMPLATE_BYTES_MAX {
        return Err(format!("it has {bytes} bytes; {TEMPLATE_BYTES_MAX} are the most"));
    }
    expressions::check(source)?;
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| error.to_string())?);
    environment.add_template_owned(NAME, source.to_owned()).map_err(|error| error.to_string())
}

/// Does what recurses as deep as a stranger's template says.
fn on_a_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("realm-template".to_owned());
        let spawned = thread.stack_size(STACK_BYTES).spawn_scoped(scope, work);
        let ended = spawned.map_err(|error| format!("no thread to use it on: {error}"))?.join();
        ended.map_err(|_panicked| "it could not be used".to_owned())
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
        ChatTemplate::compile(source, Some("<s>".to_owned()), None).render(&messages)
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
            "{{ ([messages[0].content] * 32768) | tojson }}",
            "{{ ([messages[0].content] * 32768) | tojson(indent=2) }}",
        ] {
            let before = peak_bytes();
            let error = render(source, &[("user", &content)]).unwrap_err();
            assert!(error.to_string().contains("fuel"), "{error}");
            let grown = peak_bytes() - before;
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
    fn a_value_nested_as_deep_as_the_fuel_allows_ends_in_an_error_or_a_text() {
        for end in ["", "{{ ns.x | tojson }}", "{{ ns.x }}", "{{ ns.x == ns.y }}"] {
            let source = format!(
                "{{% set ns = namespace(x=[], y=[]) %}}{{% for i in range(12000) %}}\
                 {{% set ns.x = [ns.x] %}}{{% set ns.y = [ns.y] %}}{{% endfor %}}{end}"
            );
            drop(render(&source, &[]));
        }
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
