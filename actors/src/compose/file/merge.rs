//! One file over another, as the Specification's rules for merging say: mappings by key, lists one behind the other,
//! everything else as it was said last; some keys have rules of their own. `!reset` takes away what was said before,
//! `!override` stands in its place.

use std::collections::HashMap;

use super::node::{At, Map, Node, Tag, Value};
use super::report::Report;

/// How two values of one key become one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Rule {
    /// By what they are.
    Plain,
    /// The last one.
    Replace,
    /// Names with values, as a mapping or a list of `NAME=value`.
    Pairs,
    /// Lists of texts, or one text alone.
    Texts,
    /// Hosts, without doubles.
    Hosts,
    /// A path alone is the context.
    Build,
    /// A list of names means each as it is usual.
    Depends,
    /// A list of names means each with nothing more said.
    Names,
    /// Options are merged where the driver is the same.
    Logging,
    /// Address ranges are the same when their subnets are.
    Pools,
}

fn rule(path: &[String]) -> Rule {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["networks", _, "ipam", "config"] => Rule::Pools,
        ["networks" | "volumes" | "secrets" | "configs", _, "labels"] => Rule::Pairs,
        ["services", _, rest @ ..] => match rest {
            ["build"] => Rule::Build,
            ["build", "args" | "labels" | "additional_contexts" | "ssh"]
            | ["annotations" | "environment" | "labels" | "sysctls"]
            | ["deploy", "labels"] => Rule::Pairs,
            ["build", "extra_hosts"] | ["extra_hosts"] => Rule::Hosts,
            ["command" | "entrypoint"] | ["healthcheck", "test"] | ["ulimits", _] => Rule::Replace,
            ["depends_on"] => Rule::Depends,
            ["dns" | "dns_opt" | "dns_search" | "env_file" | "label_file" | "tmpfs"] => Rule::Texts,
            ["logging"] => Rule::Logging,
            ["models" | "networks"] => Rule::Names,
            _ => Rule::Plain,
        },
        _ => Rule::Plain,
    }
}

/// What `over` makes of `base`. What it takes away stays in the result as a mark until [`prune`].
pub(super) fn merge(base: Node, over: Node, path: &mut Vec<String>, report: &mut Report) -> Node {
    if over.tag.is_some() || base.tag == Some(Tag::Reset) {
        return over;
    }
    let rule = rule(path);
    if rule == Rule::Replace {
        return over;
    }
    if over.is_null() {
        return base;
    }
    if base.is_null() {
        return over;
    }
    let (base, over) = match rule {
        Rule::Pairs => (pairs(base), pairs(over)),
        Rule::Texts => (listed(base), listed(over)),
        Rule::Hosts => return hosts(base, over),
        Rule::Build => (build(base), build(over)),
        Rule::Depends => (named(base, true), named(over, true)),
        Rule::Names => (named(base, false), named(over, false)),
        Rule::Logging => {
            let driver = |node: &Node| node.as_map().and_then(|map| map.get("driver")).cloned();
            match (driver(&base), driver(&over)) {
                (Some(base), Some(other)) if base != other => return over,
                _ => (base, over),
            }
        }
        Rule::Pools => return pools(base, over, path, report),
        Rule::Plain | Rule::Replace => (base, over),
    };
    let at = over.at.clone();
    match (base.value, over.value) {
        (Value::Map(base), Value::Map(over)) => {
            let map = if rule == Rule::Pairs { replaced(base, over) } else { mappings(base, over, path, report) };
            Node::new(Value::Map(map), at)
        }
        (Value::List(mut base), Value::List(over)) => {
            base.extend(over);
            Node::new(Value::List(base), at)
        }
        (Value::Map(_) | Value::List(_), other) | (_, other @ (Value::Map(_) | Value::List(_))) => {
            let over = Node::new(other, at);
            let message = format!("{} cannot be merged with what another file says here", over.kind());
            report.fault(&over.at, path.join("."), message);
            over
        }
        (_, other) => Node::new(other, at),
    }
}

fn mappings(base: Map, over: Map, path: &mut Vec<String>, report: &mut Report) -> Map {
    let mut merged = base;
    let places: HashMap<String, usize> =
        merged.entries.iter().enumerate().map(|(place, (key, ..))| (key.clone(), place)).collect();
    for (key, at, node) in over.entries {
        let Some(place) = places.get(&key) else {
            merged.push(key, at, node);
            continue;
        };
        let entry = &mut merged.entries[*place];
        let before = std::mem::replace(&mut entry.2, Node::new(Value::Null, at.clone()));
        path.push(key);
        entry.2 = merge(before, node, path, report);
        entry.1 = at;
        path.pop();
    }
    merged
}

/// Entries of `over` instead of those of `base`, those without a value too.
fn replaced(base: Map, over: Map) -> Map {
    let mut merged = base;
    let places: HashMap<String, usize> =
        merged.entries.iter().enumerate().map(|(place, (key, ..))| (key.clone(), place)).collect();
    for (key, at, node) in over.entries {
        match places.get(&key) {
            Some(place) => merged.entries[*place] = (key, at, node),
            None => merged.push(key, at, node),
        }
    }
    merged
}

/// Takes out what was marked to be taken away, and the marks.
pub(super) fn prune(node: &mut Node) {
    node.tag = None;
    match &mut node.value {
        Value::Map(map) => {
            map.retain(|node| node.tag != Some(Tag::Reset));
            map.iter_mut().for_each(|(_, _, node)| prune(node));
        }
        Value::List(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

/// `[A=1, B]` as `{A: 1, B: }`; the last of two wins.
fn pairs(node: Node) -> Node {
    let Value::List(items) = node.value else { return node };
    let mut map = Map::default();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut broken = false;
    for item in &items {
        let Some(text) = item.scalar_text() else {
            broken = true;
            break;
        };
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Value::Text(value.to_owned())),
            None => (text, Value::Null),
        };
        let entry = (name.clone(), item.at.clone(), Node::new(value, item.at.clone()));
        match places.get(&name) {
            Some(place) => map.entries[*place] = entry,
            None => {
                places.insert(name, map.entries.len());
                map.entries.push(entry);
            }
        }
    }
    // What is not a list of texts is told when it is read.
    if broken { Node::new(Value::List(items), node.at) } else { Node::new(Value::Map(map), node.at) }
}

fn listed(node: Node) -> Node {
    match node.value {
        Value::List(_) => node,
        Value::Map(_) if node.as_map().is_some_and(|map| map.get("path").is_none()) => node,
        _ => {
            let at = node.at.clone();
            Node::new(Value::List(vec![node]), at)
        }
    }
}

/// A path alone as `{context: path}`.
pub(super) fn build(node: Node) -> Node {
    if !matches!(node.value, Value::Text(_)) {
        return node;
    }
    let at = node.at.clone();
    let mut map = Map::default();
    map.push("context".into(), at.clone(), node);
    Node::new(Value::Map(map), at)
}

fn named(node: Node, depends: bool) -> Node {
    let Value::List(items) = node.value else { return node };
    let mut map = Map::default();
    for item in items {
        let at = item.at.clone();
        let Some(name) = item.scalar_text().filter(|name| map.get(name).is_none()) else { continue };
        let value = if depends { started(&at) } else { Node::new(Value::Null, at.clone()) };
        map.push(name, at, value);
    }
    Node::new(Value::Map(map), node.at)
}

fn started(at: &At) -> Node {
    let mut map = Map::default();
    for (key, value) in [("condition", Value::Text("service_started".into())), ("required", Value::Bool(true))] {
        map.push(key.into(), at.clone(), Node::new(value, at.clone()));
    }
    Node::new(Value::Map(map), at.clone())
}

fn hosts(base: Node, over: Node) -> Node {
    let list = |node: Node| -> Vec<Node> {
        match node.value {
            Value::List(items) => items,
            Value::Map(map) => map
                .entries
                .into_iter()
                .flat_map(|(name, at, node)| {
                    let addresses = match node.value {
                        Value::List(items) => items,
                        _ => vec![node],
                    };
                    addresses.into_iter().map(move |address| {
                        let text = format!("{name}={}", address.scalar_text().unwrap_or_default());
                        Node::new(Value::Text(text), at.clone())
                    })
                })
                .collect(),
            _ => vec![node],
        }
    };
    let at = over.at.clone();
    let mut items = list(base);
    for item in list(over) {
        if !items.contains(&item) {
            items.push(item);
        }
    }
    Node::new(Value::List(items), at)
}

fn pools(base: Node, over: Node, path: &[String], report: &mut Report) -> Node {
    let at = over.at.clone();
    let (Value::List(mut pools), Value::List(others)) = (base.value, over.value) else {
        report.fault(&at, path.join("."), "must be a list of address ranges");
        return Node::new(Value::List(Vec::new()), at);
    };
    let subnet = |node: &Node| node.as_map().and_then(|map| map.get("subnet")).cloned();
    for other in others {
        let same = subnet(&other);
        match pools.iter().position(|pool| subnet(pool) == same) {
            Some(place) => {
                let before = pools.remove(place);
                pools.insert(place, merge(before, other, &mut vec!["pool".into()], report));
            }
            None => pools.push(other),
        }
    }
    Node::new(Value::List(pools), at)
}

#[cfg(test)]
mod tests {
    use super::super::node::Source;
    use super::super::yaml::parse;
    use super::*;

    fn merged(base: &str, over: &str) -> Result<serde_json::Value, String> {
        let mut report = Report::default();
        let one = |text: &str, report: &mut Report| parse(&Source::named("x"), text, report).remove(0);
        let (mut base, over) = (one(base, &mut report), one(over, &mut report));
        prune(&mut base);
        let mut node = merge(base, over, &mut Vec::new(), &mut report);
        prune(&mut node);
        match report.faults.first() {
            Some(fault) => Err(fault.to_string()),
            None => Ok(node.to_json()),
        }
    }

    #[test]
    fn files_merge_as_the_specification_says() {
        for (base, over, expected) in [
            ("{a: 1, b: 2}", "{b: 3, c: }", r#"{"a":1,"b":3,"c":null}"#),
            (
                "services: {w: {command: [a, b]}}",
                "services: {w: {command: c}}",
                r#"{"services":{"w":{"command":"c"}}}"#,
            ),
            (
                "services: {w: {environment: [A=1, B=2]}}",
                "services: {w: {environment: {B: 3, C: }}}",
                r#"{"services":{"w":{"environment":{"A":"1","B":3,"C":null}}}}"#,
            ),
            (
                "services: {w: {dns: 1.1.1.1}}",
                "services: {w: {dns: [8.8.8.8]}}",
                r#"{"services":{"w":{"dns":["1.1.1.1","8.8.8.8"]}}}"#,
            ),
            (
                "services: {w: {depends_on: [a]}}",
                "services: {w: {depends_on: {a: {condition: service_healthy}}}}",
                r#"{"services":{"w":{"depends_on":{"a":{"condition":"service_healthy","required":true}}}}}"#,
            ),
            (
                "services: {w: {build: ./dir}}",
                "services: {w: {build: {target: t}}}",
                r#"{"services":{"w":{"build":{"context":"./dir","target":"t"}}}}"#,
            ),
            (
                "services: {w: {logging: {driver: a, options: {x: 1}}}}",
                "services: {w: {logging: {driver: b}}}",
                r#"{"services":{"w":{"logging":{"driver":"b"}}}}"#,
            ),
            (
                "services: {w: {ports: ['80:80'], image: x}}",
                "services: {w: {ports: !reset []}}",
                r#"{"services":{"w":{"image":"x"}}}"#,
            ),
            (
                "services: {w: {ports: ['80:80']}}",
                "services: {w: {ports: !override ['81:81']}}",
                r#"{"services":{"w":{"ports":["81:81"]}}}"#,
            ),
            (
                "networks: {n: {ipam: {config: [{subnet: a, gateway: g}]}}}",
                "networks: {n: {ipam: {config: [{subnet: a, ip_range: r}, {subnet: b}]}}}",
                r#"{"networks":{"n":{"ipam":{"config":[{"gateway":"g","ip_range":"r","subnet":"a"},{"subnet":"b"}]}}}}"#,
            ),
        ] {
            let expected: serde_json::Value = serde_json::from_str(expected).expect("JSON");
            assert_eq!(merged(base, over), Ok(expected), "{base} + {over}");
        }
        assert!(merged("services: {w: {ports: [1]}}", "services: {w: {ports: {a: 1}}}").is_err());
    }
}
