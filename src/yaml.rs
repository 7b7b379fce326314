//! Strict YAML with positions: a tree in which every key and value knows where it stands, and a
//! mapping reader that reports unknown, missing, repeated and wrongly typed keys. Built on parser
//! events, because a loaded tree has already resolved anchors and dropped repeated keys.
//! Deliberately without anchors, aliases, merge keys, tags and multiple documents.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::str::FromStr;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};

use crate::error::Error;
use crate::source::{Position, Problems, Spanned, choice_hint};

/// Largest YAML text read.
pub const BYTES_MAX: usize = 1 << 20;
/// Deepest nesting of lists and mappings read.
pub const DEPTH_MAX: usize = 16;

/// YAML text and where it stands in its file: a header's lines lose their `-- ` before parsing.
#[derive(Debug, Clone, Copy)]
pub struct Embedded<'a> {
    pub text: &'a str,
    pub lines_before: usize,
    pub columns_before: usize,
}

/// A value, and where it begins.
#[derive(Debug, Clone)]
pub struct Node {
    pub position: Position,
    kind: NodeKind,
}

#[derive(Debug, Clone)]
enum NodeKind {
    Scalar { text: String, is_plain: bool },
    List(Vec<Node>),
    Mapping(Vec<(Spanned<String>, Node)>),
}

/// Reads one document. `None` when there is nothing to go on with; the reasons are in `problems`.
pub fn parse(embedded: Embedded<'_>, problems: &Problems<'_>) -> Option<Node> {
    if embedded.text.len() > BYTES_MAX {
        problems.report(Position::FILE, format!("more than {BYTES_MAX} bytes of YAML"));
        return None;
    }
    if let Some(position) = lone_carriage_return(embedded) {
        let hint = "save the file with Unix or Windows line ends";
        problems.report_hint(position, "a carriage return that ends no line", hint);
        return None;
    }
    let mut builder = Builder { embedded, problems, open: Vec::new(), root: None, documents: 0 };
    for event in Parser::new_from_str(embedded.text) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let position = builder.position(Span::empty(*error.marker()));
                problems.report(position, format!("bad YAML: {}", error.info()));
                return None;
            }
        };
        let position = builder.position(span);
        if builder.take(event, position).is_err() {
            return None;
        }
    }
    if builder.root.is_none() {
        let position = Position {
            line: embedded.lines_before + 1,
            column: embedded.columns_before + 1,
            width: 1,
        };
        problems.report(position, "expected a mapping, found nothing");
    }
    builder.root
}

/// YAML takes it for the end of a line, and nothing else here does: places would be wrong.
fn lone_carriage_return(embedded: Embedded<'_>) -> Option<Position> {
    embedded.text.split('\n').enumerate().find_map(|(index, line)| {
        let at = line.strip_suffix('\r').unwrap_or(line).find('\r')?;
        Some(Position {
            line: index + 1 + embedded.lines_before,
            column: line[..at].chars().count() + 1 + embedded.columns_before,
            width: 1,
        })
    })
}

/// Builds the tree from events; an open mapping remembers the key that waits for its value.
struct Builder<'a> {
    embedded: Embedded<'a>,
    problems: &'a Problems<'a>,
    open: Vec<(Node, Option<Spanned<String>>)>,
    root: Option<Node>,
    documents: usize,
}

/// The rest of the document cannot be read.
struct Stop;

impl Builder<'_> {
    fn position(&self, span: Span) -> Position {
        let place = |marker: Marker| {
            (
                marker.line() + self.embedded.lines_before,
                marker.col() + 1 + self.embedded.columns_before,
            )
        };
        let ((line, column), (end_line, end_column)) = (place(span.start), place(span.end));
        let width = if line == end_line { end_column.saturating_sub(column) } else { 1 };
        Position { line, column, width: width.max(1) }
    }

    fn take(&mut self, event: Event<'_>, position: Position) -> Result<(), Stop> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.problems.report(position, "a second YAML document");
                    return Err(Stop);
                }
            }
            Event::Alias(_) => {
                self.problems.report_hint(
                    position,
                    "YAML aliases are not read",
                    "repeat the value",
                );
                self.insert(Node { position, kind: null() });
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_decoration(position, anchor, tag.is_some());
                let is_plain = style == ScalarStyle::Plain;
                let kind = NodeKind::Scalar { text: text.into_owned(), is_plain };
                self.insert(Node { position, kind });
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_decoration(position, anchor, tag.is_some());
                self.open(position, NodeKind::List(Vec::new()))?;
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_decoration(position, anchor, tag.is_some());
                self.open(position, NodeKind::Mapping(Vec::new()))?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some((node, _)) = self.open.pop() {
                    self.insert(node);
                }
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn refuse_decoration(&self, position: Position, anchor: usize, is_tagged: bool) {
        if anchor != 0 {
            self.problems.report_hint(position, "YAML anchors are not read", "repeat the value");
        }
        if is_tagged {
            self.problems.report_hint(position, "YAML tags are not read", "write the plain value");
        }
    }

    fn open(&mut self, position: Position, kind: NodeKind) -> Result<(), Stop> {
        if self.open.len() == DEPTH_MAX {
            self.problems.report(position, format!("nested more than {DEPTH_MAX} levels deep"));
            return Err(Stop);
        }
        // A collection's position is its first character: its end says nothing to a reader.
        let position = Position { width: 1, ..position };
        self.open.push((Node { position, kind }, None));
        Ok(())
    }

    fn insert(&mut self, node: Node) {
        let Some((parent, waiting_key)) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut parent.kind {
            NodeKind::List(items) => items.push(node),
            NodeKind::Mapping(entries) => match waiting_key.take() {
                None => *waiting_key = Some(key_of(node, entries, self.problems)),
                Some(key) => entries.push((key, node)),
            },
            NodeKind::Scalar { .. } => {}
        }
    }
}

fn null() -> NodeKind {
    NodeKind::Scalar { text: String::new(), is_plain: true }
}

fn key_of(
    node: Node,
    entries: &[(Spanned<String>, Node)],
    problems: &Problems<'_>,
) -> Spanned<String> {
    let position = node.position;
    let NodeKind::Scalar { text, .. } = node.kind else {
        problems.report(position, "a key must be a word");
        return Spanned { value: String::new(), position };
    };
    if text == "<<" {
        problems.report_hint(position, "YAML merge keys are not read", "repeat the keys");
    }
    if let Some((first, _)) = entries.iter().find(|(key, _)| key.value == text) {
        let line = first.position.line;
        problems.report(position, format!("key `{text}` is already given on line {line}"));
    }
    Spanned { value: text, position }
}

impl Node {
    /// What a reader would call it: decides types by the core schema of YAML 1.2, where `no` is
    /// text and `1` is a number. <https://yaml.org/spec/1.2.2/#103-core-schema>
    fn described(&self, problems: &Problems<'_>) -> String {
        match &self.kind {
            NodeKind::List(_) => "a list".into(),
            NodeKind::Mapping(_) => "a mapping".into(),
            NodeKind::Scalar { .. } if problems.hides_values() => "something else".into(),
            NodeKind::Scalar { text, is_plain } => match scalar_type(text, *is_plain) {
                ScalarType::Null => "nothing".into(),
                ScalarType::Bool => format!("`{text}`"),
                ScalarType::Number => format!("the number `{text}`"),
                ScalarType::Text => format!("the text `{text}`"),
            },
        }
    }

    /// Opens a mapping for reading; `what` names it in messages, as in "in `source`".
    pub fn mapping<'a>(&'a self, what: &'a str, problems: &'a Problems<'a>) -> Option<Mapping<'a>> {
        match &self.kind {
            NodeKind::Mapping(entries) => Some(Mapping {
                what,
                entries,
                position: self.position,
                asked: RefCell::default(),
                refused: RefCell::default(),
                problems,
            }),
            _ => {
                let message =
                    format!("{what} must be a mapping, found {}", self.described(problems));
                problems.report(self.position, message);
                None
            }
        }
    }
}

#[derive(PartialEq)]
enum ScalarType {
    Null,
    Bool,
    Number,
    Text,
}

fn scalar_type(text: &str, is_plain: bool) -> ScalarType {
    if !is_plain {
        return ScalarType::Text;
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return ScalarType::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => return ScalarType::Bool,
        ".nan" | ".NaN" | ".NAN" => return ScalarType::Number,
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_infinity = matches!(unsigned, ".inf" | ".Inf" | ".INF");
    let is_based = text
        .strip_prefix("0o")
        .is_some_and(|digits| u64::from_str_radix(digits, 8).is_ok())
        || text.strip_prefix("0x").is_some_and(|digits| u64::from_str_radix(digits, 16).is_ok());
    let is_decimal = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.parse::<f64>().is_ok();
    if is_infinity || is_based || is_decimal { ScalarType::Number } else { ScalarType::Text }
}

/// Reads the keys of one mapping. Call [`Mapping::finish`] after the last key.
pub struct Mapping<'a> {
    what: &'a str,
    entries: &'a [(Spanned<String>, Node)],
    pub position: Position,
    asked: RefCell<BTreeSet<&'static str>>,
    refused: RefCell<BTreeSet<&'static str>>,
    problems: &'a Problems<'a>,
}

/// The value of a key, not yet typed.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    pub key: &'a Spanned<String>,
    pub node: &'a Node,
    problems: &'a Problems<'a>,
}

impl<'a> Mapping<'a> {
    /// `None` if the key is absent, while `null` is a value. [`Self::finish`] then knows the key.
    pub fn optional(&self, key: &'static str) -> Option<Value<'a>> {
        self.asked.borrow_mut().insert(key);
        self.entries().find(|value| value.key.value == key)
    }

    /// A missing key is reported.
    pub fn required(&self, key: &'static str) -> Option<Value<'a>> {
        let found = self.optional(key);
        if found.is_none() {
            self.problems.report(self.position, format!("{} needs the key `{key}`", self.what));
        }
        found
    }

    /// A key that means something elsewhere, but may not stand here.
    pub fn refuse(&self, key: &'static str, message: &str, hint: &str) {
        self.refused.borrow_mut().insert(key);
        if let Some(value) = self.entries().find(|value| value.key.value == key) {
            self.problems.report_hint(value.key.position, message, hint);
        }
    }

    /// Every entry, for mappings whose keys are names.
    pub fn entries(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let problems = self.problems;
        self.entries.iter().map(move |(key, node)| Value { key, node, problems })
    }

    /// Reports the keys nobody asked for; returns those that somebody did.
    pub fn finish(self) -> BTreeSet<&'static str> {
        let (asked, refused) = (self.asked.into_inner(), self.refused.into_inner());
        for (key, _) in self.entries {
            let name = key.value.as_str();
            let is_reported = refused.contains(name) || name == "<<" || name.is_empty();
            if !asked.contains(name) && !is_reported {
                let message = format!("unknown key `{}` in {}", key.value, self.what);
                let hint = choice_hint(&key.value, asked.iter().copied(), "keys are");
                self.problems.report_hint(key.position, message, hint);
            }
        }
        asked
    }
}

impl<'a> Value<'a> {
    pub fn position(&self) -> Position {
        self.node.position
    }

    /// A problem with this value.
    pub fn report(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.report_hint(self.node.position, message, hint);
    }

    fn mistyped<T>(&self, expected: &str, hint: Option<&str>) -> Option<T> {
        let found = self.node.described(self.problems);
        let message = format!("`{}` must be {expected}, found {found}", self.key.value);
        match hint {
            Some(hint) => self.problems.report_hint(self.node.position, message, hint),
            None => self.problems.report(self.node.position, message),
        }
        None
    }

    /// Text, or in quotes anything that would be read as another type; else reported, and `None`.
    pub fn string(&self) -> Option<Spanned<String>> {
        match &self.node.kind {
            NodeKind::Scalar { text, is_plain } => match scalar_type(text, *is_plain) {
                ScalarType::Text => {
                    Some(Spanned { value: text.clone(), position: self.node.position })
                }
                ScalarType::Null => self.mistyped("text", None),
                _ if self.problems.hides_values() => self.mistyped("text", Some("quote it")),
                _ => self.mistyped("text", Some(&format!("quote it: \"{text}\""))),
            },
            _ => self.mistyped("text", None),
        }
    }

    /// `true` or `false` without quotes; else reported, and `None`.
    pub fn bool(&self) -> Option<bool> {
        if let NodeKind::Scalar { text, is_plain: true } = &self.node.kind {
            match text.as_str() {
                "true" => return Some(true),
                "false" => return Some(false),
                _ => {}
            }
        }
        self.mistyped("true or false", Some("write `true` or `false`, without quotes"))
    }

    /// A number of 64 bits without quotes; else reported, and `None`.
    pub fn int(&self) -> Option<i64> {
        match &self.node.kind {
            NodeKind::Scalar { text, is_plain: true } if text.parse::<i64>().is_ok() => {
                text.parse().ok()
            }
            _ => self.mistyped("a whole number", None),
        }
    }

    /// The values of a list, which may be empty; else reported, and `None`.
    pub fn list(&self) -> Option<Vec<Value<'a>>> {
        let (key, problems) = (self.key, self.problems);
        match &self.node.kind {
            NodeKind::List(nodes) => {
                Some(nodes.iter().map(|node| Value { key, node, problems }).collect())
            }
            _ => self.mistyped("a list", None),
        }
    }

    /// The texts of a list, without those that are not text.
    pub fn strings(&self) -> Option<Vec<Spanned<String>>> {
        match &self.node.kind {
            NodeKind::List(_) => Some(self.list()?.iter().filter_map(Value::string).collect()),
            NodeKind::Scalar { text, .. } if !text.is_empty() && !self.problems.hides_values() => {
                self.mistyped("a list", Some(&format!("write [{text}]")))
            }
            _ => self.mistyped("a list", None),
        }
    }

    /// `what` names the mapping in problems. What is none is reported, and `None`.
    pub fn mapping(&self, what: &'a str) -> Option<Mapping<'a>> {
        self.node.mapping(what, self.problems)
    }

    /// Text of a type that reads itself; its error is reported here.
    pub fn parse<T: FromStr<Err = Error>>(&self) -> Option<Spanned<T>> {
        let text = self.string()?;
        match text.value.parse() {
            Ok(value) => Some(Spanned { value, position: text.position }),
            Err(error) => {
                self.problems.report_error(text.position, error);
                None
            }
        }
    }

    /// One of some words.
    pub fn one_of<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let text = self.string()?;
        let found = choices.iter().find(|(name, _)| *name == text.value);
        if found.is_none() {
            let names = choices.iter().map(|(name, _)| *name);
            let hint = choice_hint(&text.value, names, "choices are");
            self.report(format!("unknown {} `{}`", self.key.value, text.value), hint);
        }
        found.map(|(_, value)| *value)
    }

    /// A time zone of the IANA database.
    pub fn timezone(&self) -> Option<chrono_tz::Tz> {
        let text = self.string()?;
        let found = text.value.parse::<chrono_tz::Tz>().ok();
        if found.is_none() {
            let names = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
            let hint = match crate::error::did_you_mean(&text.value, names) {
                Some(name) => format!("did you mean `{name}`?"),
                None => "use a name of the IANA database, such as Europe/Rome or UTC".into(),
            };
            self.report(format!("unknown time zone `{}`", text.value), hint);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Source, printed};

    /// Reads a mapping with one key of each type, and prints what was wrong.
    fn check(text: &str, expect: &str) {
        let source = Source::new("a.yaml", text);
        let problems = Problems::new(&source);
        let embedded = Embedded { text, lines_before: 0, columns_before: 0 };
        if let Some(node) = parse(embedded, &problems)
            && let Some(map) = node.mapping("the file", &problems)
        {
            map.required("name").and_then(|value| value.string());
            map.optional("flag").and_then(|value| value.bool());
            map.optional("count").and_then(|value| value.int());
            map.optional("tags").and_then(|value| value.strings());
            map.optional("zone").and_then(|value| value.timezone());
            if let Some(inner) = map.optional("inner").and_then(|value| value.mapping("`inner`")) {
                inner.required("every").and_then(|value| value.parse::<crate::interval::Every>());
                inner.finish();
            }
            map.finish();
        }
        assert_eq!(printed(&problems.into_diagnostics()), expect.trim_matches('\n'));
    }

    #[test]
    fn a_good_document_reports_nothing() {
        check(
            "name: \"no\"\nflag: true\ncount: -3\ntags: [a, \"1\"]\nzone: Europe/Rome\ninner: {every: 1d}\n",
            "",
        );
        check("name: no\n", "");
    }

    #[test]
    fn every_problem_of_a_document_is_reported() {
        check(
            "name: 12\nflag: no\ncount: many\ntags: [a, 2026]\nzone: Europe/Rom\ninner:\n  evry: 1d\nname: twice\n",
            r#"
a.yaml:1:7: `name` must be text, found the number `12`
    name: 12
          ^^
    hint: quote it: "12"
a.yaml:2:7: `flag` must be true or false, found the text `no`
    flag: no
          ^^
    hint: write `true` or `false`, without quotes
a.yaml:3:8: `count` must be a whole number, found the text `many`
    count: many
           ^^^^
a.yaml:4:11: `tags` must be text, found the number `2026`
    tags: [a, 2026]
              ^^^^
    hint: quote it: "2026"
a.yaml:5:7: unknown time zone `Europe/Rom`
    zone: Europe/Rom
          ^^^^^^^^^^
    hint: did you mean `Europe/Rome`?
a.yaml:7:3: `inner` needs the key `every`
      evry: 1d
      ^
a.yaml:7:3: unknown key `evry` in `inner`
      evry: 1d
      ^^^^
    hint: did you mean `every`?
a.yaml:8:1: key `name` is already given on line 1
    name: twice
    ^^^^"#,
        );
    }

    #[test]
    fn a_file_of_secrets_shows_no_line_and_no_value() {
        let source = Source::new("a.yaml", "name: 12\ntags: planted\ninner: planted\n");
        let problems = Problems::hiding_values(&source);
        let node =
            parse(Embedded { text: &source.text, lines_before: 0, columns_before: 0 }, &problems);
        let node = node.unwrap();
        let map = node.mapping("the file", &problems).unwrap();
        assert_eq!(map.optional("name").unwrap().string(), None);
        assert_eq!(map.optional("tags").unwrap().strings(), None);
        assert!(map.optional("inner").unwrap().mapping("`inner`").is_none());
        assert_eq!(
            printed(&problems.into_diagnostics()),
            "a.yaml:1:7: `name` must be text, found something else\n    hint: quote it\n\
             a.yaml:2:7: `tags` must be a list, found something else\n\
             a.yaml:3:8: `inner` must be a mapping, found something else"
        );
    }

    #[test]
    fn anchors_aliases_merge_keys_and_tags_are_refused() {
        check(
            "name: &a x\nzone: *a\ninner: {<<: {}, every: !!str 1d}\n",
            r#"
a.yaml:1:7: YAML anchors are not read
    name: &a x
          ^^^^
    hint: repeat the value
a.yaml:2:7: YAML aliases are not read
    zone: *a
          ^^
    hint: repeat the value
a.yaml:2:7: `zone` must be text, found nothing
    zone: *a
          ^^
a.yaml:3:9: YAML merge keys are not read
    inner: {<<: {}, every: !!str 1d}
            ^^
    hint: repeat the keys
a.yaml:3:24: YAML tags are not read
    inner: {<<: {}, every: !!str 1d}
                           ^^^^^^^^
    hint: write the plain value"#,
        );
    }

    #[test]
    fn what_is_missing_at_the_end_is_reported_at_the_end() {
        let missing = "bad YAML: while parsing a node, did not find expected node content";
        check("[", &format!("a.yaml:1:2: {missing}\n    [\n     ^"));
    }

    #[test]
    fn a_lone_carriage_return_is_refused_at_its_place() {
        check(
            "name: a\r\nzone: b\rflag: true\r\n",
            "a.yaml:2:8: a carriage return that ends no line\n    zone: b\rflag: true\n           ^\n    \
             hint: save the file with Unix or Windows line ends",
        );
    }

    #[test]
    fn depth_is_bounded() {
        let deep = format!("name: {}{}\n", "[".repeat(40), "]".repeat(40));
        let caret = format!("{}^", " ".repeat(21));
        check(
            &deep,
            &format!(
                "a.yaml:1:22: nested more than 16 levels deep\n    {}\n    {caret}",
                deep.trim()
            ),
        );
    }

    #[test]
    fn embedded_yaml_points_into_the_file() {
        let source = Source::new("a.sql", "-- /// flowguard\n-- kind: 1\n-- ///\nSELECT 1\n");
        let problems = Problems::new(&source);
        let embedded = Embedded { text: "kind: 1", lines_before: 1, columns_before: 3 };
        let node = parse(embedded, &problems).unwrap();
        let map = node.mapping("the header", &problems).unwrap();
        assert_eq!(map.required("kind").unwrap().string(), None);
        assert_eq!(
            printed(&problems.into_diagnostics()),
            "a.sql:2:10: `kind` must be text, found the number `1`\n    -- kind: 1\n             ^\n    hint: quote it: \"1\""
        );
    }
}
