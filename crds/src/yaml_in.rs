//! Reading YAML as strictly as the API server's strict mode does, and within bounds.
//!
//! Scalars mean what they mean to Kubernetes, whose reader follows YAML 1.1: a plain `on` or `yes` is a boolean, `0777`
//! is octal. Duplicate keys, custom tags and aliases that expand without end are errors. Memory grows with the text
//! read and never with what its aliases would expand to: see [`MAX_EXPANDED`].

use std::collections::{BTreeMap, HashMap};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Value};

mod scalar;

/// How deep values may be nested.
pub(crate) const MAX_DEPTH: usize = 64;
/// How much one document may hold after its aliases are expanded: each value counts [`VALUE_COST`] and its text, in
/// bytes.
pub(crate) const MAX_EXPANDED: usize = 8 << 20;
/// What one value costs of [`MAX_EXPANDED`] besides its text.
pub(crate) const VALUE_COST: usize = 48;

/// Why a text is not one YAML document that JSON can hold.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line}, column {column}: {problem}")]
pub(crate) struct YamlError {
    /// The line in the text, from 1.
    pub(crate) line: usize,
    /// The column, from 1.
    pub(crate) column: usize,
    /// The field being read, where one is known.
    pub(crate) field: String,
    /// What is wrong.
    pub(crate) problem: String,
}

/// Where each field of a document begins, by its path: line and column, from 1.
pub(crate) type Places = BTreeMap<String, (usize, usize)>;

/// Reads one document. `None`: there is nothing but comments.
pub(crate) fn read(text: &str) -> Result<Option<Value>, YamlError> {
    Reader::new(text, false).document()
}

/// Finds the fields of a document that [`read`] accepts. Not done on the way, as only errors need it.
pub(crate) fn places(text: &str) -> Places {
    let mut reader = Reader::new(text, true);
    // What was found before an error counts.
    let _ = reader.document();
    reader.places
}

struct Reader<'text> {
    parser: Parser<'text, saphyr_parser::StrInput<'text>>,
    anchors: HashMap<usize, (Value, usize)>,
    expanded: usize,
    path: Vec<Step>,
    record: bool,
    places: Places,
}

enum Step {
    Key(String),
    Index(usize),
}

impl<'text> Reader<'text> {
    fn new(text: &'text str, record: bool) -> Self {
        Self {
            parser: Parser::new_from_str(text),
            anchors: HashMap::new(),
            expanded: 0,
            path: Vec::new(),
            record,
            places: Places::new(),
        }
    }

    fn document(&mut self) -> Result<Option<Value>, YamlError> {
        let mut document = None;
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(document),
                (Event::DocumentStart(_), span) if document.is_some() => {
                    return Err(self.error(span.start, "a second document begins here without a line '---'"));
                }
                (Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing, _) => {}
                (event, span) => document = Some(self.value(event, span)?),
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'text>, Span), YamlError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.error(*error.marker(), error.info())),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn error(&self, at: Marker, problem: impl Into<String>) -> YamlError {
        YamlError {
            line: at.line().max(1),
            column: at.col() + 1,
            field: self.path(),
            problem: problem.into(),
        }
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Key(key) => crate::path::push_key(&mut path, key),
                Step::Index(index) => crate::path::push_index(&mut path, *index),
            }
        }
        path
    }

    fn note(&mut self, at: Marker) {
        if self.record {
            let path = self.path();
            self.places.insert(path, (at.line().max(1), at.col() + 1));
        }
    }

    fn spend(&mut self, cost: usize, at: Marker) -> Result<(), YamlError> {
        self.expanded = self.expanded.saturating_add(cost);
        if self.expanded > MAX_EXPANDED {
            return Err(self
                .error(at, "the document holds too much: too many values, or aliases that expand too far"));
        }
        Ok(())
    }

    /// The value that begins with this event. Recursion is bounded by [`MAX_DEPTH`].
    fn value(&mut self, event: Event<'text>, span: Span) -> Result<Value, YamlError> {
        let before = self.expanded;
        self.spend(VALUE_COST, span.start)?;
        if self.path.len() > MAX_DEPTH {
            return Err(self.error(span.start, format!("values are nested more than {MAX_DEPTH} deep")));
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.spend(text.len(), span.start)?;
                let value = self.scalar(&text, style, tag.as_deref(), span)?;
                (value, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), "seq", span)?;
                (self.sequence()?, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), "map", span)?;
                (self.mapping()?, anchor)
            }
            Event::Alias(anchor) => {
                let Some((value, cost)) = self.anchors.get(&anchor) else {
                    return Err(self.error(span.start, "an alias stands inside the value that it names"));
                };
                let cost = *cost;
                // Paid before it is copied.
                if self.expanded.saturating_add(cost) <= MAX_EXPANDED {
                    let value = value.clone();
                    self.spend(cost, span.start)?;
                    return Ok(value);
                }
                return self.spend(cost, span.start).map(|()| Value::Null);
            }
            _ => return Err(self.error(span.start, "a value is missing")),
        };
        if anchor != 0 {
            let cost = self.expanded - before;
            self.spend(cost, span.start)?;
            self.anchors.insert(anchor, (value.clone(), cost));
        }
        Ok(value)
    }

    fn sequence(&mut self) -> Result<Value, YamlError> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Value::Array(items));
            }
            self.path.push(Step::Index(items.len()));
            self.note(span.start);
            items.push(self.value(event, span)?);
            self.path.pop();
        }
    }

    fn mapping(&mut self) -> Result<Value, YamlError> {
        let mut map = Map::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let key = match self.value(event, span)? {
                Value::String(key) => key,
                key @ (Value::Bool(_) | Value::Number(_)) => key.to_string(),
                _ => return Err(self.error(span.start, "a key is neither text nor a number")),
            };
            self.path.push(Step::Key(key.clone()));
            self.note(span.start);
            if map.contains_key(&key) {
                return Err(self.error(span.start, format!("the key {key:?} is there twice")));
            }
            let (event, value_span) = self.next()?;
            let value = self.value(event, value_span)?;
            if is_merge {
                merged.push((value, value_span.start));
            } else {
                map.insert(key, value);
            }
            self.path.pop();
        }
        for (value, at) in merged {
            self.merge(&mut map, value, at)?;
        }
        Ok(Value::Object(map))
    }

    /// What `<<` brings in; keys that the mapping has itself win.
    fn merge(&self, map: &mut Map<String, Value>, value: Value, at: Marker) -> Result<(), YamlError> {
        match value {
            Value::Object(other) => {
                for (key, value) in other {
                    map.entry(key).or_insert(value);
                }
                Ok(())
            }
            Value::Array(others) if others.iter().all(Value::is_object) => {
                others.into_iter().try_for_each(|other| self.merge(map, other, at))
            }
            _ => Err(self.error(at, "'<<' takes a mapping or a list of mappings")),
        }
    }

    fn scalar(
        &self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        span: Span,
    ) -> Result<Value, YamlError> {
        let plain = style == ScalarStyle::Plain;
        let value = match tag {
            None if plain => scalar::resolve(text),
            None => Ok(Value::String(text.to_owned())),
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => {
                Ok(Value::String(text.to_owned()))
            }
            Some(tag) if tag.is_yaml_core_schema() => {
                scalar::resolve(text).and_then(|value| match (tag.suffix.as_str(), &value) {
                    ("int", Value::Number(number)) if !number.is_f64() => Ok(value),
                    ("float", Value::Number(_)) | ("bool", Value::Bool(_)) | ("null", Value::Null) => {
                        Ok(value)
                    }
                    (tag, _) => Err(format!("{text:?} is no !!{tag}")),
                })
            }
            Some(tag) => Err(format!("unknown tag {}{}", tag.handle, tag.suffix)),
        };
        value.map_err(|problem| self.error(span.start, problem))
    }

    fn refuse_tag(&self, tag: Option<&Tag>, expected: &str, span: Span) -> Result<(), YamlError> {
        match tag {
            Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == expected) => {
                Err(self.error(span.start, format!("unknown tag {}{}", tag.handle, tag.suffix)))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use serde_json::json;

    use super::*;

    fn problem(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn scalars_mean_what_they_mean_to_kubernetes() {
        let value =
            read("a: on\nb: 'on'\nc: 0x10\nd: 017\ne: ~\nf: 1.5\ng: 2001-01-01\nh: 1_000\n80: x\n").unwrap();
        let expected = json!({"a": true, "b": "on", "c": 16, "d": 15, "e": null, "f": 1.5, "g": "2001-01-01", "h": 1000, "80": "x"});
        assert_eq!(value, Some(expected));
    }

    #[test]
    fn comments_alone_are_no_document() {
        assert_eq!(read("# nothing\n---\n# here\n").unwrap(), None.or(read("---\n# here\n").unwrap()));
        assert_eq!(read("# nothing\n").unwrap(), None);
    }

    #[test]
    fn a_key_given_twice_is_an_error_that_names_field_and_line() {
        let error = read("spec:\n  mode: Audit\n  mode: Enforce\n").unwrap_err();
        assert_eq!((error.line, error.column, error.field.as_str()), (3, 3, "spec.mode"));
    }

    #[test]
    fn merge_keys_fill_in_what_is_not_there() {
        let value = read("a: &a {k: 1, l: 2}\nb: {l: 3, <<: *a}\n").unwrap().unwrap();
        assert_eq!(value["b"], json!({"k": 1, "l": 3}));
    }

    #[test]
    fn aliases_that_expand_without_end_are_refused_before_they_take_memory() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..40 {
            let previous = format!("*a{}, ", level - 1).repeat(10);
            let _ = writeln!(text, "a{level}: &a{level} [{}]", previous.trim_end_matches(", "));
        }
        let started = std::time::Instant::now();
        assert!(problem(&text).contains("too much"));
        assert!(started.elapsed().as_secs() < 5);
    }

    #[test]
    fn one_long_text_behind_many_aliases_is_refused() {
        let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(500_000), "*a, ".repeat(1000));
        assert!(problem(&text).contains("too much"));
    }

    #[test]
    fn an_alias_inside_its_own_anchor_is_refused() {
        assert!(problem("a: &a [*a]\n").contains("inside the value that it names"));
    }

    #[test]
    fn deep_nesting_is_refused() {
        assert!(problem(&"[".repeat(100)).contains("deep"));
        assert!(read(&"[".repeat(100_000)).is_err());
        assert!(problem(&"- ".repeat(10_000)).contains("deep"));
    }

    #[test]
    fn custom_tags_are_refused_and_core_tags_are_honoured() {
        assert!(problem("a: !ruby/object x\n").contains("unknown tag"));
        assert_eq!(read("a: !!str 80\n").unwrap(), Some(json!({"a": "80"})));
        assert!(problem("a: !!int x\n").contains("!!int"));
    }

    #[test]
    fn malformed_text_gives_line_and_column() {
        let error = read("a: b\n  c: [d\n").unwrap_err();
        assert!(error.line >= 2, "{error}");
    }

    #[test]
    fn places_are_found_for_each_field() {
        let places = places("spec:\n  list:\n  - a: 1\n  - b: 2\n");
        assert_eq!(places["spec.list[1].b"], (4, 5));
    }
}
