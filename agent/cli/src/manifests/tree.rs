//! The lines of one YAML document: a tree of its fields, each with the line it stands on.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use serde_saphyr::granit_parser::{Event, Marker, Parser};

/// Fields within fields. A pipeline's step needs five.
const DEPTH_MAX: usize = 32;

/// Fields and entries of one document: a Secret full of keys has a quarter of these.
const NODES_MAX: usize = 65_536;

/// One document. The root is the first node.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug)]
struct Node {
    line: usize,
    /// Characters before it on its line.
    column: usize,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Scalar(String),
    /// Places in `Tree::nodes`.
    Sequence(Vec<usize>),
    Mapping(Vec<Field>),
    /// What an alias stands for is read elsewhere; here only its line counts.
    Alias,
}

#[derive(Clone, Debug)]
struct Field {
    key: String,
    line: usize,
    node: usize,
}

/// Why a text is not a document, and on which line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TreeError {
    pub(super) line: usize,
    pub(super) message: String,
}

impl Tree {
    /// Reads a text of at most one document; `None` if there is nothing but comments. Lines are
    /// counted from `lines_before`, those of its file before the text.
    pub(super) fn read(text: &str, lines_before: usize) -> Result<Option<Self>, TreeError> {
        let line = |marker: &Marker| lines_before.saturating_add(marker.line());
        let mut builder = Builder::default();
        for event in Parser::new_from_str(text) {
            let (event, span) = event
                .map_err(|error| TreeError { line: line(error.marker()), message: error.info() })?;
            builder.take(event, (line(&span.start), span.start.col()))?;
        }
        Ok((!builder.nodes.is_empty()).then_some(Self { nodes: builder.nodes }))
    }

    /// The line of the document's first field.
    pub(crate) fn line(&self) -> usize {
        self.nodes.first().map_or(1, |root| root.line)
    }

    /// Whether the document says nothing: `---` alone is one too.
    pub(super) fn is_empty(&self) -> bool {
        match self.nodes.first() {
            None => true,
            Some(Node { content: Content::Scalar(text), .. }) => {
                // The parser spells what is not there as one of the ways to write null.
                text.is_empty() || text == "~"
            }
            Some(_) => false,
        }
    }

    pub(super) fn is_mapping(&self) -> bool {
        matches!(self.nodes.first(), Some(Node { content: Content::Mapping(_), .. }))
    }

    /// The text at `path`, such as `["metadata", "name"]`.
    pub(super) fn text(&self, path: &[&str]) -> Option<&str> {
        match &self.node_at(path)?.content {
            Content::Scalar(text) => Some(text),
            Content::Sequence(_) | Content::Mapping(_) | Content::Alias => None,
        }
    }

    /// The fields of the mapping at `path`, each with its line.
    pub(super) fn fields(&self, path: &[&str]) -> impl Iterator<Item = (&str, usize)> {
        let fields = match self.node_at(path).map(|node| &node.content) {
            Some(Content::Mapping(fields)) => fields.as_slice(),
            _ => &[],
        };
        fields.iter().map(|field| (field.key.as_str(), field.line))
    }

    /// The line of the field at a path such as `spec.steps[1].prompt`, or of the nearest field
    /// around it that is there.
    pub(crate) fn line_of(&self, path: &str) -> usize {
        self.nearest(path).0
    }

    /// The line of the field at a path, if it is there.
    pub(crate) fn find(&self, path: &str) -> Option<usize> {
        let (line, rest) = self.nearest(path);
        rest.is_empty().then_some(line)
    }

    /// The path of the value that begins at a line and a column, both counted from 1, with its text
    /// if it is one.
    pub(super) fn value_at(&self, line: usize, column: usize) -> Option<(String, Option<&str>)> {
        let mut open = vec![(0_usize, String::new())];
        while let Some((at, path)) = open.pop() {
            let node = self.nodes.get(at)?;
            if node.line == line && node.column.saturating_add(1) == column && !path.is_empty() {
                let text = match &node.content {
                    Content::Scalar(text) => Some(text.as_str()),
                    Content::Sequence(_) | Content::Mapping(_) | Content::Alias => None,
                };
                return Some((path, text));
            }
            match &node.content {
                Content::Sequence(items) => {
                    let item = |(i, &at): (usize, &usize)| (at, format!("{path}[{i}]"));
                    open.extend(items.iter().enumerate().map(item));
                }
                Content::Mapping(fields) => {
                    let dot = if path.is_empty() { "" } else { "." };
                    let field = |field: &Field| (field.node, format!("{path}{dot}{}", field.key));
                    open.extend(fields.iter().map(field));
                }
                Content::Scalar(_) | Content::Alias => {}
            }
        }
        None
    }

    /// Follows a path as far as it leads: the line there, and what is left of the path.
    fn nearest<'a>(&self, path: &'a str) -> (usize, &'a str) {
        let mut line = self.line();
        let mut rest = path;
        let mut at = self.nodes.first();
        while let Some(node) = at {
            let Some((next, next_line, after)) = self.descend(node, rest) else { break };
            (at, line, rest) = (self.nodes.get(next), next_line, after);
        }
        (line, rest)
    }

    fn node_at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self.nodes.first()?, |node, key| match &node.content {
            Content::Mapping(fields) => {
                let field = fields.iter().find(|field| field.key == *key)?;
                self.nodes.get(field.node)
            }
            Content::Scalar(_) | Content::Sequence(_) | Content::Alias => None,
        })
    }

    /// One step of a path: the place of the next node, its line, and the rest of the path.
    fn descend<'a>(&self, node: &Node, path: &'a str) -> Option<(usize, usize, &'a str)> {
        let path = path.strip_prefix('.').unwrap_or(path);
        match &node.content {
            Content::Mapping(fields) => {
                let here = fields.iter().filter_map(|field| {
                    after_key(path, &field.key).map(|rest| (field.node, field.line, rest))
                });
                // A key may itself hold dots: the longest that fits is meant.
                here.min_by_key(|(_, _, rest)| rest.len())
            }
            Content::Sequence(items) => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                let item = *items.get(index.parse::<usize>().ok()?)?;
                Some((item, self.nodes.get(item)?.line, rest))
            }
            Content::Scalar(_) | Content::Alias => None,
        }
    }
}

/// What follows `key` at the head of `path`, written plainly or as `[key]`.
fn after_key<'a>(path: &'a str, key: &str) -> Option<&'a str> {
    if let Some(rest) = path.strip_prefix('[') {
        return rest.strip_prefix(key)?.strip_prefix(']');
    }
    let rest = path.strip_prefix(key)?;
    (rest.is_empty() || rest.starts_with(['.', '['])).then_some(rest)
}

#[derive(Default)]
struct Builder {
    nodes: Vec<Node>,
    /// Sequences and mappings that are still open, outermost first.
    open: Vec<Open>,
}

struct Open {
    node: usize,
    /// In a mapping, the key whose value comes next.
    key: Option<(String, usize)>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, at: (usize, usize)) -> Result<(), TreeError> {
        match event {
            Event::Scalar(text, ..) => self.scalar(text.into_owned(), at),
            Event::SequenceStart(..) => self.begin(Content::Sequence(Vec::new()), at),
            Event::MappingStart(..) => self.begin(Content::Mapping(Vec::new()), at),
            Event::SequenceEnd | Event::MappingEnd => {
                self.open.pop();
                Ok(())
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => self.add(Content::Alias, at).map(drop),
            Event::DocumentStart(..) if !self.nodes.is_empty() => {
                Err(error(at.0, "a second document without `---` before it"))
            }
            _ => Ok(()),
        }
    }

    fn scalar(&mut self, text: String, at: (usize, usize)) -> Result<(), TreeError> {
        if let Some(Open { node, key: key @ None }) = self.open.last_mut()
            && let Some(Node { content: Content::Mapping(_), .. }) = self.nodes.get(*node)
        {
            *key = Some((text, at.0));
            return Ok(());
        }
        self.add(Content::Scalar(text), at).map(drop)
    }

    fn begin(&mut self, content: Content, at: (usize, usize)) -> Result<(), TreeError> {
        if self.open.len() >= DEPTH_MAX {
            return Err(error(at.0, &format!("more than {DEPTH_MAX} fields within fields")));
        }
        let node = self.add(content, at)?;
        self.open.push(Open { node, key: None });
        Ok(())
    }

    /// Adds a node to the innermost sequence or mapping.
    fn add(
        &mut self,
        content: Content,
        (line, column): (usize, usize),
    ) -> Result<usize, TreeError> {
        let node = self.nodes.len();
        if node >= NODES_MAX {
            return Err(error(line, &format!("more than {NODES_MAX} fields")));
        }
        if let Some(Open { node: parent, key }) = self.open.last_mut()
            && let Some(parent) = self.nodes.get_mut(*parent)
        {
            match (&mut parent.content, key.take()) {
                (Content::Sequence(items), _) => items.push(node),
                (Content::Mapping(fields), Some((key, line))) => {
                    fields.push(Field { key, line, node });
                }
                _ => return Err(error(line, "the name of a field must be a text")),
            }
        }
        self.nodes.push(Node { line, column, content });
        Ok(node)
    }
}

fn error(line: usize, message: &str) -> TreeError {
    TreeError { line, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PIPELINE: &str = "\
# A comment.
kind: Pipeline
metadata:
  name: digest
spec:
  steps:
  - name: summary
    prompt: |
      Summarise:
      {{ inputs.text }}
  -
    name: headline
    model: {name: tiny,
      namespace: other}
  outputs: [{name: title, step: headline}]
  config:
    a.b: x
    a: {b: y}
";

    fn check(path: &str, line: usize) {
        let tree = Tree::read(PIPELINE, 0).unwrap().unwrap();
        assert_eq!(tree.line_of(path), line, "{path}");
    }

    #[test]
    fn a_field_is_found_on_its_line() {
        check("kind", 2);
        check("metadata.name", 4);
        check("spec.steps[0].name", 7);
        check("spec.steps[0].prompt", 8);
        check("spec.steps[1].model", 13);
        check("spec.steps[1].model.namespace", 14);
        check("spec.outputs[0].step", 15);
    }

    #[test]
    fn a_field_that_is_missing_is_on_the_line_of_what_should_hold_it() {
        check("spec.steps[1].prompt", 12);
        check("spec.steps[7].prompt", 6);
        check("spec.inputs", 5);
        check("status", 2);
        check("", 2);
    }

    #[test]
    fn keys_with_dots_are_found_plainly_and_in_brackets() {
        check("spec.config.a.b", 17);
        check("spec.config[a.b]", 17);
        check("spec.config[a]", 18);
    }

    #[test]
    fn a_value_is_named_by_the_place_where_it_begins() {
        let tree = Tree::read(PIPELINE, 0).unwrap().unwrap();
        let named = |line, column| tree.value_at(line, column);
        assert_eq!(named(7, 11), Some(("spec.steps[0].name".to_owned(), Some("summary"))));
        assert_eq!(
            named(14, 18),
            Some(("spec.steps[1].model.namespace".to_owned(), Some("other")))
        );
        assert_eq!(named(13, 12), Some(("spec.steps[1].model".to_owned(), None)));
        assert_eq!(named(13, 13), None);
    }

    #[test]
    fn a_text_that_is_not_yaml_is_refused_with_its_line() {
        let error = Tree::read("a: 1\nb: [1, 2\nc: 3\n", 0).unwrap_err();
        assert!((2..=3).contains(&error.line), "{error:?}");
        assert_eq!(Tree::read("a: 1\n? [x]\n: 1\n", 0).unwrap_err().line, 2);
    }

    #[test]
    fn nesting_without_end_is_refused() {
        assert!(Tree::read(&"[".repeat(100_000), 0).is_err());
        assert!(Tree::read(&"- ".repeat(100), 0).is_err());
    }

    #[test]
    fn only_comments_are_no_document() {
        for text in ["", "# nothing\n", "---\n", "---\n# nothing\n"] {
            assert!(Tree::read(text, 0).unwrap().is_none_or(|tree| tree.is_empty()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_and_any_path_end_without_a_panic(text in "[a-c:\\[\\]{}&*|>\\-#'\" \n]{0,60}", path in ".{0,20}") {
            if let Ok(Some(tree)) = Tree::read(&text, 0) {
                tree.line_of(&path);
            }
        }
    }
}
