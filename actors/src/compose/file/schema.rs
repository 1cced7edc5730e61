//! The reader against the JSON schema of the Specification (`compose-spec.json`, Apache-2.0): every key that the schema has
//! is known to the reader wherever it may stand, and documents made from the schema are read as it judges them.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use serde_json::{Map, Value, json};

use super::decode::Decode;
use super::model::Model;
use super::node::Source;
use super::report::{Report, Trail};
use super::*;

fn schema() -> Value {
    serde_json::from_str(include_str!("compose-spec.json")).expect("the schema")
}

/// What a `$ref` points to.
fn target<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(path) => target(root, root.pointer(path.trim_start_matches('#')).expect("a definition")),
        None => schema,
    }
}

/// What the reader says to the shape of a document.
fn faults(document: &Value) -> Vec<String> {
    let mut report = Report::default();
    let text = serde_json::to_string(document).expect("JSON");
    let source = Source::named("compose.yaml");
    let mut root = yaml::parse(&source, &text, &mut report).into_iter().next().expect("a document");
    if let Some(map) = root.as_map_mut() {
        map.remove("include");
    }
    canonical::write_out(&mut root);
    Model::decode(&root, Trail::Root, &mut report);
    report.faults.iter().map(ToString::to_string).collect()
}

/// A document in which one thing stands at `path`; `*` is any name and `[]` an item.
fn at(path: &[String], value: Value) -> Value {
    path.iter().rev().fold(value, |value, key| match key.as_str() {
        "[]" => json!([value]),
        "*" => json!({ "a": value }),
        key => json!({ key: value }),
    })
}

/// Every mapping of the schema with the places where it may stand and the keys it has.
fn mappings(root: &Value, schema: &Value, path: &mut Vec<String>, found: &mut Vec<(Vec<String>, Vec<String>)>) {
    let schema = target(root, schema);
    for choice in ["oneOf", "anyOf", "allOf"] {
        for schema in schema.get(choice).and_then(Value::as_array).into_iter().flatten() {
            mappings(root, schema, path, found);
        }
    }
    let mut below = |key: &str, schema: &Value| {
        path.push(key.to_owned());
        mappings(root, schema, path, found);
        path.pop();
    };
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        properties.iter().for_each(|(key, schema)| below(key, schema));
    }
    for (pattern, schema) in schema.get("patternProperties").and_then(Value::as_object).into_iter().flatten() {
        if pattern != "^x-" {
            below("*", schema);
        }
    }
    if let Some(items) = schema.get("items") {
        below("[]", items);
    }
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        found.push((path.clone(), properties.keys().cloned().collect()));
    }
}

/// What is read elsewhere: written out before types, or named and not looked into.
fn elsewhere(path: &[String]) -> bool {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    matches!(
        path.as_slice(),
        ["include" | "models", ..]
            | ["services", "*", "extends" | "models" | "provider" | "credential_spec", ..]
            | ["services", "*", "deploy", "rollback_config" | "update_config" | "placement", ..]
            | ["services", "*", "deploy", "resources", _, "generic_resources", ..]
    )
}

#[test]
fn every_key_of_the_schema_is_known_and_no_other() {
    let schema = schema();
    let mut found = Vec::new();
    mappings(&schema, &schema, &mut Vec::new(), &mut found);
    assert!(found.len() > 40, "{} mappings", found.len());
    let mut keys = 0;
    for (path, properties) in found.iter().filter(|(path, _)| !elsewhere(path)) {
        for key in properties {
            let faults = faults(&at(path, json!({ key: null })));
            let unknown = faults.iter().find(|fault| fault.contains("unknown key"));
            assert_eq!(unknown, None, "{} {key}", path.join("."));
            keys += 1;
        }
        let faults = faults(&at(path, json!({ "no-such-key": 1, "x-free": 1 })));
        assert!(
            faults.iter().any(|fault| fault.contains("unknown key `no-such-key`")),
            "{}: {faults:?}",
            path.join(".")
        );
        assert!(!faults.iter().any(|fault| fault.contains("x-free")), "{}: {faults:?}", path.join("."));
    }
    assert!(keys > 250, "{keys} keys");
}

/// A text that is good where the schema asks for any text.
fn text(path: &[String]) -> &'static str {
    let at = |index: usize| path.get(path.len().wrapping_sub(index)).map_or("", String::as_str);
    match (at(2), at(1)) {
        (_, "interval" | "timeout" | "start_period" | "start_interval" | "stop_grace_period" | "delay" | "window") => {
            "1m"
        }
        (_, "memory" | "mem_limit" | "mem_reservation" | "memswap_limit" | "shm_size" | "size" | "rate") => "64m",
        (_, "mode") if path.iter().any(|key| key == "ports") => "host",
        (_, "mode") if path.iter().any(|key| key == "deploy") => "replicated",
        (_, "mode") => "0440",
        (_, "restart") if path.iter().any(|key| key == "depends_on") => "true",
        (_, "restart") => "always",
        (_, "host_ip") => "127.0.0.1",
        (_, "protocol") => "udp",
        ("ports", "[]") => "80",
        ("volumes", "[]") => "/data",
        ("extra_hosts", _) | ("additional_contexts", "[]") => "a=1",
        (_, "test") => "true",
        ("test", "[]") => "CMD",
        (_, "format") => "raw",
        (_, "target" | "source") if path.iter().any(|key| key == "volumes") => "/data",
        (_, "gpus" | "count") => "all",
        _ => NUMBERS
            .iter()
            .find(|key| **key == at(1) || **key == at(2))
            .map_or_else(|| if FLAGS.contains(&at(1)) { "true" } else { "text" }, |_| "1"),
    }
}

const NUMBERS: &[&str] = &[
    "cpus",
    "cpu_period",
    "cpu_quota",
    "cpu_rt_period",
    "cpu_rt_runtime",
    "cpu_shares",
    "cpu_count",
    "cpu_percent",
    "mem_swappiness",
    "oom_score_adj",
    "pids",
    "pids_limit",
    "retries",
    "replicas",
    "scale",
    "max_attempts",
    "published",
    "target",
    "weight",
    "ulimits",
    "hard",
    "soft",
    "priority",
    "gw_priority",
];
const FLAGS: &[&str] = &[
    "attachable",
    "create_host_path",
    "disable",
    "enable_ipv4",
    "enable_ipv6",
    "external",
    "init",
    "internal",
    "no_cache",
    "nocopy",
    "oom_kill_disable",
    "privileged",
    "pull",
    "read_only",
    "required",
    "restart",
    "stdin_open",
    "tty",
];

/// Documents that are valid beneath `schema`, or nothing where it asks for what is not made here.
fn valid(root: &Value, schema: &Value, path: &[String], depth: usize) -> BoxedStrategy<Value> {
    let schema = target(root, schema);
    if let Some(choices) = schema.get("oneOf").and_then(Value::as_array) {
        let choices: Vec<_> = choices.iter().map(|schema| valid(root, schema, path, depth)).collect();
        return proptest::strategy::Union::new(choices).boxed();
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return proptest::sample::select(values.clone()).boxed();
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => vec!["object"],
    };
    let made: Vec<_> = types.into_iter().map(|kind| of_type(root, schema, kind, path, depth)).collect();
    proptest::strategy::Union::new(made).boxed()
}

fn of_type(root: &Value, schema: &Value, kind: &str, path: &[String], depth: usize) -> BoxedStrategy<Value> {
    let child = |key: &str| path.iter().cloned().chain([key.to_owned()]).collect::<Vec<_>>();
    match kind {
        "null" => Just(Value::Null).boxed(),
        "boolean" => any::<bool>().prop_map(Value::from).boxed(),
        "integer" | "number" => (1_i64..100).prop_map(Value::from).boxed(),
        "string" => Just(Value::from(text(path))).boxed(),
        "array" => {
            let item = valid(root, &schema["items"], &child("[]"), depth + 1);
            proptest::collection::vec(item, 1..2).prop_map(Value::from).boxed()
        }
        _ => {
            let required: Vec<String> = schema["required"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            let chance = if depth < 3 { 0.12 } else { 0.6 };
            let mut parts: Vec<BoxedStrategy<Option<(String, Value)>>> = Vec::new();
            for (key, part) in schema["properties"].as_object().into_iter().flatten() {
                let value = valid(root, part, &child(key), depth + 1);
                let chance = if required.contains(key) { 1.0 } else { chance };
                let key = key.clone();
                parts.push(
                    (proptest::bool::weighted(chance), value)
                        .prop_map(move |(there, value)| there.then(|| (key.clone(), value)))
                        .boxed(),
                );
            }
            for (pattern, part) in schema["patternProperties"].as_object().into_iter().flatten() {
                let key = if pattern == "^x-" { "x-free" } else { "name" };
                if key == "x-free" {
                    parts.push(Just(Some((key.to_owned(), json!({ "any": [1] })))).boxed());
                } else {
                    let value = valid(root, part, &child("*"), depth + 1);
                    parts.push(value.prop_map(move |value| Some((key.to_owned(), value))).boxed());
                }
            }
            parts.prop_map(|parts| Value::Object(parts.into_iter().flatten().collect::<Map<_, _>>())).boxed()
        }
    }
}

/// Ways to make a document wrong that the schema sees.
fn break_one(value: &mut Value, at: &mut usize, how: usize) -> bool {
    if *at == 0 {
        *value = match how {
            0 => json!([[[1]]]),
            1 => json!({ "no-such-key": { "no": 1 } }),
            _ => json!([{ "no-such-key": 1 }]),
        };
        return true;
    }
    *at -= 1;
    match value {
        Value::Object(map) => {
            map.iter_mut().filter(|(key, _)| *key != "x-free").any(|(_, value)| break_one(value, at, how))
        }
        Value::Array(list) => list.iter_mut().any(|value| break_one(value, at, how)),
        _ => false,
    }
}

/// What is said of a document that is not one of its shape: values that contradict each other, or mean nothing.
fn of_meaning(fault: &str) -> bool {
    [
        "`target` is missing",
        "needs a `source`",
        "exclude each other",
        "`path` is missing",
        "`source` is missing",
        "`action` is missing",
        "`path` is missing",
        "must not be negative",
        "target: must be a port",
        "is for Windows or a swarm",
    ]
    .iter()
    .any(|meaning| fault.contains(meaning))
}

fn nodes(value: &Value) -> usize {
    match value {
        Value::Object(map) => {
            1 + map.iter().filter(|(key, _)| *key != "x-free").map(|(_, value)| nodes(value)).sum::<usize>()
        }
        Value::Array(list) => 1 + list.iter().map(nodes).sum::<usize>(),
        _ => 1,
    }
}

/// Keys whose inside is not looked into, which a warning or an error says, or which Docker judges.
const UNSEEN: &[&str] = &[
    "attach",
    "cpu_count",
    "cpu_percent",
    "credential_spec",
    "driver_opts",
    "extends",
    "generic_resources",
    "include",
    "isolation",
    "models",
    "placement",
    "provider",
    "pull_refresh_after",
    "rollback_config",
    "storage_opt",
    "template_driver",
    "driver",
    "update_config",
    "use_api_socket",
    "version",
];

#[test]
fn what_the_schema_accepts_is_read_and_what_it_refuses_is_refused() {
    let schema = schema();
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let documents = (valid(&schema, &schema, &[], 0), any::<proptest::sample::Index>(), 0_usize..3);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..600 {
        let (mut document, place, how) = documents.new_tree(&mut runner).expect("a document").current();
        if validator.is_valid(&document) {
            let faults: Vec<String> = faults(&document).into_iter().filter(|fault| !of_meaning(fault)).collect();
            assert!(faults.is_empty(), "{faults:?} in {document}");
            accepted += 1;
        }
        let mut place = 1 + place.index(nodes(&document).max(2) - 1);
        if !break_one(&mut document, &mut place, how) || validator.is_valid(&document) {
            continue;
        }
        let wrong: Vec<String> =
            validator.iter_errors(&document).map(|error| error.instance_path().to_string()).collect();
        if !wrong.iter().any(|path| path.split('/').any(|key| UNSEEN.contains(&key))) {
            assert!(!faults(&document).is_empty(), "{wrong:?} in {document}");
            refused += 1;
        }
    }
    assert!(accepted > 300 && refused > 200, "{accepted} accepted, {refused} refused");
}
