//! YAML text as a tree that knows where each part was written.
//!
//! Built from the parser's events rather than by serde, so that every error has its line and column. Depth and size are
//! bounded, aliases are expanded within that bound, duplicate keys are refused, merge keys (`<<`) are resolved, and
//! scalars mean what they mean to compose-go's YAML library (`0644` is octal, `yes` is a text).

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, StrInput, Tag as YamlTag};

use super::node::{At, Map, Node, Source, Tag, Value};
use super::report::{Report, Trail};
use super::scalar::{resolve, shorten};

/// How deep a file may nest.
const MAX_DEPTH: usize = 64;
/// How many nodes a file may have, aliases expanded.
pub(super) const MAX_NODES: usize = 200_000;
/// How many bytes of text a file may have, aliases expanded.
const MAX_TEXT: usize = 16 << 20;

/// Reads every document of `text`; none at all when it is not YAML.
pub(crate) fn parse(file: &Arc<Source>, text: &str, report: &mut Report) -> Vec<Node> {
    // The parser is somebody else's: should it panic on some text, that text is refused and nothing else happens.
    let read = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let events = Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
        Builder { events, file, anchors: HashMap::new(), nodes: 0, text: 0 }.documents()
    }));
    match read {
        Ok(Ok(documents)) => documents,
        Ok(Err(Broken { at, message })) => {
            report.fault(&at, Trail::Root, message);
            Vec::new()
        }
        Err(_) => {
            report.fault(&At::file(file), Trail::Root, "this is not YAML");
            Vec::new()
        }
    }
}

fn at(file: &Arc<Source>, marker: &Marker) -> At {
    let column = u32::try_from(marker.col()).unwrap_or(u32::MAX).saturating_add(1);
    At { file: Arc::clone(file), line: u32::try_from(marker.line()).unwrap_or(u32::MAX), column }
}

struct Broken {
    at: At,
    message: String,
}

struct Builder<'a> {
    events: Parser<'a, StrInput<'a>>,
    file: &'a Arc<Source>,
    /// Finished nodes by anchor; an alias inside its own anchor finds nothing.
    anchors: HashMap<usize, Node>,
    nodes: usize,
    text: usize,
}

impl<'a> Builder<'a> {
    fn documents(mut self) -> Result<Vec<Node>, Broken> {
        let mut documents = Vec::new();
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(documents),
                (Event::DocumentStart(_), _) => {
                    self.anchors.clear();
                    let node = self.node(0)?;
                    documents.push(node);
                }
                _ => {}
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, At), Broken> {
        match self.events.next_event() {
            Some(Ok((event, span))) => Ok((event, at(self.file, &span.start))),
            Some(Err(error)) => {
                let at = at(self.file, error.marker());
                Err(Broken { at, message: format!("this is not YAML: {}", error.info()) })
            }
            None => Ok((Event::StreamEnd, At::file(self.file))),
        }
    }

    fn node(&mut self, depth: usize) -> Result<Node, Broken> {
        let (event, at) = self.next()?;
        self.node_from(event, at, depth)
    }

    fn node_from(&mut self, event: Event<'a>, at: At, depth: usize) -> Result<Node, Broken> {
        if depth > MAX_DEPTH {
            return Err(Broken { at, message: format!("nested deeper than {MAX_DEPTH} levels") });
        }
        self.spend(1, 0, &at)?;
        let (value, anchor, tag) = match event {
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(Broken { at, message: "an alias within its own anchor".into() });
                };
                let (nodes, text, levels) = weight(&node);
                if depth + levels > MAX_DEPTH {
                    return Err(Broken { at, message: format!("nested deeper than {MAX_DEPTH} levels") });
                }
                self.spend(nodes, text, &at)?;
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.spend(0, text.len(), &at)?;
                let plain = style == ScalarStyle::Plain;
                let core = tag.as_ref().filter(|tag| tag.is_yaml_core_schema()).map(|tag| tag.suffix.clone());
                let value = match core.as_deref() {
                    Some("str") => Value::Text(text.into_owned()),
                    Some("null") => Value::Null,
                    Some("bool" | "int" | "float") => resolve(&text),
                    _ if plain => resolve(&text),
                    _ => Value::Text(text.into_owned()),
                };
                (value, anchor, tag)
            }
            Event::SequenceStart(anchor, tag) => {
                let mut items = Vec::new();
                loop {
                    let (event, at) = self.next()?;
                    if event == Event::SequenceEnd {
                        break;
                    }
                    let item = self.node_from(event, at, depth + 1)?;
                    if item.tag != Some(Tag::Reset) {
                        items.push(item);
                    }
                }
                (Value::List(items), anchor, tag)
            }
            Event::MappingStart(anchor, tag) => (Value::Map(self.map(depth)?), anchor, tag),
            _ => return Err(Broken { at, message: "this is not YAML: a value is missing".into() }),
        };
        let tag = match tag {
            None => None,
            Some(tag) => self.tag(&tag, &at)?,
        };
        // What is taken away has no value of its own.
        let value = if tag == Some(Tag::Reset) { Value::Null } else { value };
        let node = Node { value, at, tag };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn map(&mut self, depth: usize) -> Result<Map, Broken> {
        let mut map = Map::default();
        let mut seen: HashMap<String, u32> = HashMap::new();
        let mut merged: Vec<Node> = Vec::new();
        loop {
            let (event, at) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let key = self.node_from(event, at, depth + 1)?;
            let Some(name) = key.as_text().map(str::to_owned) else {
                return Err(Broken {
                    at: key.at.clone(),
                    message: format!("a key must be a text, not {}", key.kind()),
                });
            };
            let node = self.node(depth + 1)?;
            if merge {
                let at = node.at.clone();
                let sources = if let Value::List(items) = node.value { items } else { vec![node] };
                if sources.iter().any(|source| source.as_map().is_none()) {
                    return Err(Broken { at, message: "`<<` takes a mapping, or a list of mappings".into() });
                }
                merged.extend(sources);
                continue;
            }
            if let Some(line) = seen.insert(name.clone(), key.at.line) {
                let message = format!("the key `{}` is there twice (first on line {line})", shorten(&name));
                return Err(Broken { at: key.at, message });
            }
            map.entries.push((name, key.at, node));
        }
        // What is said here wins over what is merged in; among what is merged in, the first wins.
        for source in merged {
            let Value::Map(source) = source.value else { continue };
            for (key, at, node) in source.into_entries() {
                if !seen.contains_key(&key) {
                    seen.insert(key.clone(), at.line);
                    map.entries.push((key, at, node));
                }
            }
        }
        Ok(map)
    }

    fn tag(&self, tag: &YamlTag, at: &At) -> Result<Option<Tag>, Broken> {
        if tag.is_yaml_core_schema() {
            return Ok(None);
        }
        match (tag.handle.as_str(), tag.suffix.as_str()) {
            ("!", "reset") => Ok(Some(Tag::Reset)),
            ("!", "override") => Ok(Some(Tag::Override)),
            ("!" | "", "") => Ok(None),
            _ => Err(Broken {
                at: at.clone(),
                message: format!("unknown tag `{}`: there are `!reset` and `!override`", shorten(&tag.to_string())),
            }),
        }
    }

    fn spend(&mut self, nodes: usize, text: usize, at: &At) -> Result<(), Broken> {
        self.nodes += nodes;
        self.text += text;
        if self.nodes > MAX_NODES || self.text > MAX_TEXT {
            return Err(Broken { at: at.clone(), message: "too large once its aliases are expanded".into() });
        }
        Ok(())
    }
}

/// How many nodes, bytes of text and levels a tree has.
pub(super) fn weight(node: &Node) -> (usize, usize, usize) {
    let add = |total: (usize, usize, usize), child: &Node| {
        let (nodes, text, levels) = weight(child);
        (total.0 + nodes, total.1 + text, total.2.max(levels + 1))
    };
    match &node.value {
        Value::List(items) => items.iter().fold((1, 0, 0), add),
        Value::Map(map) => {
            let (nodes, text, levels) = map.iter().map(|(_, _, node)| node).fold((1, 0, 0), add);
            (nodes, text + map.iter().map(|(key, ..)| key.len()).sum::<usize>(), levels)
        }
        Value::Text(text) => (1, text.len(), 0),
        _ => (1, 0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<serde_json::Value, String> {
        let mut report = Report::default();
        let documents = parse(&Source::named("compose.yaml"), text, &mut report);
        match report.faults.first() {
            Some(fault) => Err(fault.to_string()),
            None => Ok(documents.first().map_or(serde_json::Value::Null, Node::to_json)),
        }
    }

    #[test]
    fn scalars_mean_what_they_mean_to_compose() {
        for (text, expected) in [
            ("0644", serde_json::json!(420)),
            ("0o644", serde_json::json!(420)),
            ("0x1F", serde_json::json!(31)),
            ("1_000", serde_json::json!(1000)),
            ("08", serde_json::json!(8.0)),
            ("1.10", serde_json::json!(1.1)),
            ("yes", serde_json::json!("yes")),
            ("True", serde_json::json!(true)),
            ("~", serde_json::Value::Null),
            ("'1'", serde_json::json!("1")),
            ("!!str 1", serde_json::json!("1")),
            ("-", serde_json::json!([null])),
            ("1.2.3", serde_json::json!("1.2.3")),
            ("22:22", serde_json::json!("22:22")),
            ("-1", serde_json::json!(-1)),
        ] {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn merge_keys_are_resolved_first_wins() {
        let text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], x: 9}\nd:\n  <<: *a\n  <<: *b\n";
        let value = read(text).expect("YAML");
        assert_eq!(value["c"], serde_json::json!({ "x": 9, "y": 1, "z": 2 }));
        assert_eq!(value["d"], serde_json::json!({ "x": 1, "y": 1, "z": 2 }));
    }

    #[test]
    fn what_is_wrong_says_where() {
        for (text, expected) in [
            ("a: 1\na: 2\n", "compose.yaml:2:1: the key `a` is there twice (first on line 1)"),
            ("a: !what 1\n", "unknown tag"),
            ("a: [1\n", "this is not YAML"),
            ("<<: 1", "`<<` takes a mapping"),
            ("a: &a [*a]", "an alias within its own anchor"),
            ("? [a]\n: 1", "a key must be a text, not a list"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn aliases_and_depth_are_bounded() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(read(&text).expect_err("a bomb").contains("too large"));
        assert!(read(&"[".repeat(100_000)).is_err());
        assert!(read(&format!("{}{}", "[".repeat(100), "]".repeat(100))).expect_err("deep").contains("nested deeper"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,60}|[\\-?:,\\[\\]{}#&*!|>'\"%@` \n\ta-c0-9<]{0,80}") {
            let mut report = Report::default();
            let _ = Builder {
                events: Parser::new_from_str(&text), file: &Source::named("x"), anchors: HashMap::new(), nodes: 0, text: 0,
            }.documents().map_err(|broken| report.fault(&broken.at, Trail::Root, broken.message));
        }
    }
}
