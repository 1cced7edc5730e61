//! `dxflow config get · set · unset`: one setting of the configuration file at a time.
//!
//! The file is edited, not rewritten: comments, order and spacing stay. The result is checked before it replaces the
//! file, so that the engine never finds one that it refuses because of us.

use std::fmt::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde_json::json;
use toml_edit::{DocumentMut, Item, Table, Value};

use super::args::ConfigCommand;
use super::error::{CliError, Done};
use super::output::Output;
use super::settings::{Sections, Settings};
use crate::config::Config;

/// Runs one of the commands.
pub(crate) fn run(command: ConfigCommand, settings: &Settings, output: Output) -> Done {
    match command {
        ConfigCommand::Get { key: Some(key) } => get(&key, settings, output),
        ConfigCommand::Get { key: None } => show(settings, output),
        ConfigCommand::Set { key, value } => {
            let key = Key::parse(&key)?;
            let mut document = read(settings)?;
            set(&mut document, settings.profile.as_deref(), &key, &value)?;
            write(settings, &document)?;
            confirm(settings, output, &key, "set")
        }
        ConfigCommand::Unset { key } => {
            let key = Key::parse(&key)?;
            let mut document = read(settings)?;
            if unset(&mut document, settings.profile.as_deref(), &key) {
                write(settings, &document)?;
            }
            confirm(settings, output, &key, "unset")
        }
    }
}

/// A setting: its section, its name, and the default that tells its type.
struct Key {
    section: String,
    name: String,
    default: toml::Value,
}

impl Key {
    /// Reads `section.key`, also written `section-key`, and checks that there is such a setting.
    fn parse(text: &str) -> Result<Self, CliError> {
        let split = text.split_once('.').or_else(|| text.split_once('-'));
        let found = split.and_then(|(section, name)| {
            let name = name.replace('-', "_");
            let default = defaults().get(section)?.get(&name)?.clone();
            Some(Self { section: section.to_owned(), name, default })
        });
        found.ok_or_else(|| {
            let near = nearest(text).map(|near| format!(" (is it `{near}`?)")).unwrap_or_default();
            CliError::Usage(format!("there is no setting `{text}`{near}"))
        })
    }

    fn variable(&self) -> String {
        format!("DXFLOW_{}_{}", self.section, self.name).to_uppercase()
    }

    /// The text as a value of the setting's type.
    fn value(&self, text: &str) -> Result<Value, CliError> {
        let wrong = |what: &str| CliError::Usage(format!("`{}.{}` must be {what}", self.section, self.name));
        Ok(match &self.default {
            toml::Value::Boolean(_) => match text {
                "true" | "1" | "yes" | "on" => true.into(),
                "false" | "0" | "no" | "off" => false.into(),
                _ => return Err(wrong("true or false")),
            },
            toml::Value::Integer(_) => text.parse::<i64>().map_err(|_| wrong("a whole number"))?.into(),
            toml::Value::Float(_) => text.parse::<f64>().map_err(|_| wrong("a number"))?.into(),
            toml::Value::Array(_) => {
                text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect::<toml_edit::Array>().into()
            }
            _ => text.into(),
        })
    }
}

/// Every setting with its default, the engine's and the command line's own.
fn defaults() -> toml::Table {
    let mut table = toml::Table::try_from(Config::default()).expect("the defaults can be written as TOML");
    table.extend(toml::Table::try_from(Sections::default()).expect("the defaults can be written as TOML"));
    table
}

/// The setting whose name is the least different, if it is not too different.
fn nearest(text: &str) -> Option<String> {
    let text = text.replacen('-', ".", usize::from(!text.contains('.')));
    let names = defaults().into_iter().flat_map(|(section, keys)| {
        let names: Vec<_> =
            keys.as_table().into_iter().flatten().map(|(name, _)| format!("{section}.{name}")).collect();
        names
    });
    names.map(|name| (distance(&name, &text), name)).min().filter(|(far, _)| *far <= 4).map(|(_, name)| name)
}

/// How many letters must change to make one word of the other.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in right.iter().enumerate() {
            let change = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = change.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

fn get(key: &str, settings: &Settings, output: Output) -> Done {
    let key = Key::parse(key)?;
    let names: &[&str] = match (&*key.section, &*key.name) {
        ("connection", "address") => &["DXFLOW_ADDRESS"],
        ("connection", "key") => &["DXFLOW_KEY"],
        _ => &[],
    };
    let variable = key.variable();
    let from_environment = names.iter().copied().chain([variable.as_str()]).find_map(|name| std::env::var(name).ok());
    let value = match from_environment {
        Some(text) => toml::Value::from(text),
        None => {
            let text = read(settings)?.to_string();
            let table: toml::Table = toml::from_str(&text).map_err(|error| not_valid(settings, &error.to_string()))?;
            let in_file = |table: &toml::Table| table.get(&key.section)?.get(&key.name).cloned();
            let in_profile =
                settings.profile.as_ref().and_then(|name| in_file(table.get("profile")?.get(name)?.as_table()?));
            in_profile.or_else(|| in_file(&table)).unwrap_or_else(|| key.default.clone())
        }
    };
    if output.json {
        let value = serde_json::to_value(&value).map_err(|error| CliError::failed("failed to write JSON", error))?;
        return output.json(&value);
    }
    output.line(match value {
        toml::Value::String(text) => text,
        other => other.to_string(),
    })
}

fn show(settings: &Settings, output: Output) -> Done {
    let text = read(settings)?.to_string();
    if output.json {
        let table: toml::Table = toml::from_str(&text).map_err(|error| not_valid(settings, &error.to_string()))?;
        let value = serde_json::to_value(&table).map_err(|error| CliError::failed("failed to write JSON", error))?;
        return output.json(&value);
    }
    output.detail(format!("{}{}", settings.file.display(), if settings.file_exists { "" } else { " (not there yet)" }));
    output.raw(text.as_bytes())
}

fn confirm(settings: &Settings, output: Output, key: &Key, state: &str) -> Done {
    let name = format!("{}.{}", key.section, key.name);
    if output.json {
        return output.json(&json!({ "key": name, "state": state, "file": settings.file }));
    }
    output.note(format!("{name} {state} in {}", settings.file.display()));
    Ok(())
}

fn read(settings: &Settings) -> Result<DocumentMut, CliError> {
    if !settings.file_exists {
        return Ok(DocumentMut::new());
    }
    let text = std::fs::read_to_string(&settings.file)
        .map_err(|error| CliError::failed(format!("failed to read `{}`", settings.file.display()), error))?;
    text.parse().map_err(|error: toml_edit::TomlError| not_valid(settings, &error.to_string()))
}

fn not_valid(settings: &Settings, reason: &str) -> CliError {
    CliError::failed(format!("the configuration `{}` is not valid", settings.file.display()), reason.trim_end())
}

/// The table that the setting stands in; made where it is not there.
fn section<'a>(document: &'a mut DocumentMut, profile: Option<&str>, name: &str) -> Result<&'a mut Table, CliError> {
    let mut table = document.as_table_mut();
    let mut path = vec![name];
    if let Some(profile) = profile {
        path.splice(0..0, ["profile", profile]);
    }
    for (depth, name) in path.iter().enumerate() {
        let last = depth + 1 == path.len();
        let item = table.entry(name).or_insert_with(|| {
            let mut made = Table::new();
            // Only the innermost table needs a header.
            made.set_implicit(!last);
            Item::Table(made)
        });
        table = item.as_table_mut().ok_or_else(|| CliError::Failed(format!("`{name}` in the file is not a table")))?;
    }
    Ok(table)
}

fn set(document: &mut DocumentMut, profile: Option<&str>, key: &Key, text: &str) -> Done {
    let mut value = key.value(text)?;
    let table = section(document, profile, &key.section)?;
    match table.get_mut(&key.name).and_then(Item::as_value_mut) {
        Some(present) => {
            // A comment behind the value stays behind it.
            *value.decor_mut() = present.decor().clone();
            *present = value;
        }
        None => {
            table.insert(&key.name, Item::Value(value));
        }
    }
    Ok(())
}

/// Takes the setting out, and its table if that is empty then; false where it was not there.
fn unset(document: &mut DocumentMut, profile: Option<&str>, key: &Key) -> bool {
    let mut table = document.as_table_mut();
    if let Some(profile) = profile {
        let Some(inner) = table.get_mut("profile").and_then(|all| all.get_mut(profile)).and_then(Item::as_table_mut)
        else {
            return false;
        };
        table = inner;
    }
    let Some(keys) = table.get_mut(&key.section).and_then(Item::as_table_like_mut) else { return false };
    let found = keys.remove(&key.name).is_some();
    if found && keys.is_empty() {
        table.remove(&key.section);
    }
    found
}

/// Checks the document and puts it in the file's place.
fn write(settings: &Settings, document: &DocumentMut) -> Done {
    let text = document.to_string();
    check(&text).map_err(|reason| CliError::Usage(format!("that would not be valid: {reason}")))?;
    let failed = |error| CliError::failed(format!("failed to write `{}`", settings.file.display()), error);
    // A link to the file stays a link.
    let file = std::fs::canonicalize(&settings.file).unwrap_or_else(|_| settings.file.clone());
    let directory = file.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let mode = std::fs::metadata(&file).map_or(0o600, |metadata| metadata.permissions().mode() & 0o7777);
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = directory.join(name);
    let replace = || {
        let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        std::io::Write::write_all(&mut out, text.as_bytes())?;
        out.sync_all()
    };
    let replaced = replace().map_err(failed).and_then(|()| {
        // Values that fit their type and are still refused: the engine's own check, on the file as it would find it.
        Config::load(Some(&new), []).map_err(|error| CliError::Usage(format!("that would not be valid: {error}")))?;
        std::fs::rename(&new, &file).map_err(failed)
    });
    if replaced.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    replaced
}

/// Whether the text is a configuration that the engine and we take, profiles included.
fn check(text: &str) -> Result<(), String> {
    let mut table: toml::Table = toml::from_str(text).map_err(|error| error.to_string())?;
    let profiles = table.remove("profile");
    let mut wrong = String::new();
    let mut all = vec![(String::new(), table)];
    for (name, profile) in profiles.as_ref().and_then(toml::Value::as_table).into_iter().flatten() {
        let Some(profile) = profile.as_table() else { return Err(format!("`profile.{name}` is not a table")) };
        all.push((format!("profile.{name}: "), profile.clone()));
    }
    for (place, mut table) in all {
        let own: toml::Table = ["connection", "client"]
            .into_iter()
            .filter_map(|name| table.remove(name).map(|value| (name.to_owned(), value)))
            .collect();
        let results = [own.try_into::<Sections>().map(drop), table.try_into::<Config>().map(drop)]
            .into_iter()
            .filter_map(Result::err);
        for error in results {
            let _ = write!(wrong, "{place}{}", error.message());
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# mine\n[server] # here\n# how long\nmax_json_body = \"2MiB\" # not more\n\n[connection]\naddress = \"http://a\"\n";

    fn edited(profile: Option<&str>, change: impl FnOnce(&mut DocumentMut, Option<&str>)) -> String {
        let mut document: DocumentMut = FILE.parse().expect("TOML");
        change(&mut document, profile);
        document.to_string()
    }

    fn key(text: &str) -> Key {
        Key::parse(text).expect(text)
    }

    #[test]
    fn settings_change_and_comments_stay() {
        let text = edited(None, |document, profile| {
            set(document, profile, &key("server.max_json_body"), "3MiB").expect("set");
            set(document, profile, &key("connection-key"), "~/k").expect("set");
        });
        assert_eq!(
            text,
            "# mine\n[server] # here\n# how long\nmax_json_body = \"3MiB\" # not more\n\n[connection]\naddress = \"http://a\"\nkey = \"~/k\"\n"
        );
        assert_eq!(check(&text), Ok(()));
    }

    #[test]
    fn what_is_taken_out_leaves_no_empty_table() {
        let text = edited(None, |document, profile| assert!(unset(document, profile, &key("connection-address"))));
        assert!(!text.contains("connection"), "{text}");
        edited(None, |document, profile| assert!(!unset(document, profile, &key("connection-key"))));
    }

    #[test]
    fn profiles_have_tables_of_their_own() {
        let text = edited(Some("far"), |document, profile| {
            set(document, profile, &key("connection-address"), "http://b").expect("set");
        });
        assert!(text.ends_with("\n[profile.far.connection]\naddress = \"http://b\"\n"), "{text}");
        assert!(text.starts_with(FILE), "{text}");
        assert_eq!(check(&text), Ok(()));
    }

    #[test]
    fn what_is_no_setting_is_wrong_usage() {
        for text in ["server", "server.nothing", "nothing.at_all", "", "connection-adress"] {
            assert_eq!(Key::parse(text).err().expect(text).exit_code(), 2);
        }
        assert_eq!(nearest("connection-adress").as_deref(), Some("connection.address"));
        let mut document: DocumentMut = "".parse().expect("TOML");
        set(&mut document, None, &key("server.max_json_body"), "lots").expect("set");
        assert!(check(&document.to_string()).is_err());
    }
}
