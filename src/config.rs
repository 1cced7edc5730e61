//! The configuration: file, then environment, then flags; checked once, into typed values.
//!
//! Every key has a default, an environment variable `DXFLOW_<SECTION>_<KEY>` and a line in `config.toml`; a test holds
//! that file to [`Config::default`]. An invalid value is refused with the key's name, wherever it comes from.

use std::path::{Path, PathBuf};

use actors::units::{Size, Span};
use serde::{Deserialize, Serialize};

/// Everything that can be configured.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The engine as a whole.
    pub engine: Engine,
    /// The HTTP server.
    pub server: Server,
    /// Logs.
    pub log: Log,
    /// Keys and sign-in.
    pub auth: actors::key_registry::Settings,
    /// The audit.
    pub audit: actors::store::audit::Settings,
    /// Requests that are sent again.
    pub idempotency: actors::store::idempotency::Settings,
    /// The keeper.
    pub keeper: actors::keeper::Settings,
    /// Shells.
    pub shell: actors::shell::Settings,
    /// Files.
    pub object: actors::fs::Settings,
    /// Compose workflows.
    pub workflow: actors::compose::Settings,
    /// Samples of the host.
    pub stat: actors::stats::Settings,
}

/// The engine as a whole.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Engine {
    /// The engine's name, as `GET /engine/parameter/` tells it; empty: the host's name.
    pub identity: String,
    /// The directory beneath which all objects live; empty: `volume` in the data directory.
    pub volume: String,
    /// How long a graceful stop may take before what is left is ended.
    pub stop_deadline: Span,
}

impl Default for Engine {
    fn default() -> Self {
        Self { identity: String::new(), volume: String::new(), stop_deadline: Span::seconds(10) }
    }
}

/// The HTTP server.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// The address that the API listens on.
    pub listen: String,
    /// Names, beside `localhost` and the listener's own addresses, under which the engine is reached.
    pub hosts: Vec<String>,
    /// Origins, beside the engine's own, whose pages may use it (`https://console.example`).
    pub origins: Vec<String>,
    /// Connections at once; more wait in the kernel's backlog.
    pub max_connections: u32,
    /// Connections at once from one address; more are closed.
    pub max_connections_per_address: u32,
    /// Requests handled at once; more are answered with 503.
    pub max_requests: u32,
    /// The longest JSON body that is read.
    pub max_json_body: Size,
    /// How long a client may take to send the head of a request.
    pub header_timeout: Span,
    /// How long a client may take to send a JSON body.
    pub body_timeout: Span,
    /// Requests a second to the public endpoints, for each address.
    pub public_rate: u32,
    /// How many of them may come at once.
    pub public_burst: u32,
    /// An address of its own for `/metrics`, without sign-in; empty: `/metrics` needs a token on the main listener.
    pub metrics_listen: String,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            hosts: Vec::new(),
            origins: Vec::new(),
            max_connections: 16_384,
            max_connections_per_address: 8_192,
            max_requests: 4_096,
            max_json_body: Size(1 << 20),
            header_timeout: Span::seconds(30),
            body_timeout: Span::seconds(60),
            public_rate: 20,
            public_burst: 100,
            metrics_listen: String::new(),
        }
    }
}

/// Logs.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or directives as `tracing` takes them
    /// (`info,dxflow=debug`).
    pub level: String,
    /// `text`, `json`, or `auto`: text on a terminal, JSON otherwise.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Auto }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read the configuration `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it must be.
    #[error("the configuration `{}` is not valid: {reason}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// An environment variable is not what it must be.
    #[error("the environment variable `{name}` is not valid: {reason}")]
    Environment {
        /// The variable.
        name: String,
        /// Why.
        reason: String,
    },
    /// A value does not fit.
    #[error("the setting `{key}` is not valid: {reason}")]
    Value {
        /// The key, `section.key`.
        key: &'static str,
        /// Why.
        reason: String,
    },
}

/// Environment variables of ours that are not settings of the engine.
const NOT_SETTINGS: [&str; 6] =
    ["DXFLOW_DATA_DIR", "DXFLOW_CONFIG", "DXFLOW_ADDRESS", "DXFLOW_KEY", "DXFLOW_PROFILE", "DXFLOW_LISTENERS"];

impl Config {
    /// Reads the configuration: the file (none: the defaults), and what `environment` says over it.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the file and line, the variable, or the key.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut table = toml::Table::new();
        if let Some(path) = file {
            let text =
                std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
            table = Self::parse_file(path, &text)?;
        }
        let defaults = toml::Table::try_from(Self::default()).expect("the defaults can be written as TOML");
        for (name, text) in environment {
            apply_variable(&mut table, &defaults, &name, &text)?;
        }
        let config: Self = table.try_into().map_err(|error: toml::de::Error| ConfigError::Parse {
            path: "environment".into(),
            reason: error.to_string(),
        })?;
        config.check()?;
        Ok(config)
    }

    /// Checks the text of a file for itself, so that errors carry its lines; the command line's own sections are left
    /// out.
    fn parse_file(path: &Path, text: &str) -> Result<toml::Table, ConfigError> {
        let wrong = |error: toml::de::Error| ConfigError::Parse {
            path: path.to_owned(),
            reason: error.to_string().trim_end().replace('\n', "\n  "),
        };
        let mut table: toml::Table = toml::from_str(text).map_err(wrong)?;
        let client_sections = CLIENT_SECTIONS.iter().filter(|section| table.remove(**section).is_some()).count();
        if client_sections == 0 {
            // Read again from the text: only then does the error say the line.
            toml::from_str::<Self>(text).map_err(wrong)?;
        }
        Ok(table)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let value = |key, reason: &str| Err(ConfigError::Value { key, reason: reason.into() });
        if self.server.max_connections == 0 || self.server.max_requests == 0 {
            return value("server.max_connections", "must be at least 1");
        }
        if self.server.public_burst == 0 || self.server.public_rate == 0 {
            return value("server.public_rate", "must be at least 1");
        }
        if self.server.max_json_body.0 < 1024 {
            return value("server.max_json_body", "must be at least 1KiB");
        }
        if self.server.origins.iter().any(|origin| origin == "*" || !origin.contains("://")) {
            return value("server.origins", "each must be a scheme and a host, `https://console.example`");
        }
        let tokens = actors::key_registry::SHORTEST_TOKEN..=actors::key_registry::LONGEST_TOKEN;
        if !tokens.contains(&self.auth.token_lifetime.0) {
            return value("auth.token_lifetime", "must be from 1m to 24h");
        }
        if self.auth.challenge_lifetime.0.is_zero() {
            return value("auth.challenge_lifetime", "must not be 0");
        }
        if self.auth.max_challenges == 0 || self.auth.max_keys == 0 {
            return value("auth.max_keys", "must be at least 1, and so must `auth.max_challenges`");
        }
        if self.audit.retention.0.is_zero() || self.audit.max_records == 0 {
            return value("audit.retention", "must not be 0, nor may `audit.max_records`");
        }
        if self.audit.refusal_rate == 0 || self.audit.refusal_burst == 0 {
            return value("audit.refusal_rate", "must be at least 1, and so must `audit.refusal_burst`");
        }
        if self.idempotency.lifetime.0.is_zero() {
            return value("idempotency.lifetime", "must not be 0");
        }
        if self.log.level.parse::<tracing_subscriber::filter::Targets>().is_err() {
            return value("log.level", "must be a level (`info`) or directives (`info,dxflow=debug`)");
        }
        Ok(())
    }

    /// What the actors need to know of it.
    #[must_use]
    pub fn volume(&self, data_dir: &Path) -> PathBuf {
        if self.engine.volume.is_empty() { data_dir.join("volume") } else { PathBuf::from(&self.engine.volume) }
    }
}

/// Sections of the file that only the command line reads.
pub const CLIENT_SECTIONS: [&str; 3] = ["connection", "profile", "client"];

/// Sets what the environment variable `name` stands for, in the type that the setting has.
fn apply_variable(table: &mut toml::Table, defaults: &toml::Table, name: &str, text: &str) -> Result<(), ConfigError> {
    let Some(rest) = name.strip_prefix("DXFLOW_").filter(|_| !NOT_SETTINGS.contains(&name)) else { return Ok(()) };
    let rest = rest.to_ascii_lowercase();
    let Some((section, key, default)) = defaults.iter().find_map(|(section, keys)| {
        let key = rest.strip_prefix(section.as_str())?.strip_prefix('_')?;
        keys.as_table()?.get(key).map(|default| (section, key, default))
    }) else {
        return Ok(());
    };
    let wrong = |reason: &str| ConfigError::Environment { name: name.into(), reason: reason.into() };
    let value = match default {
        toml::Value::Boolean(_) => match text {
            "true" | "1" => true.into(),
            "false" | "0" => false.into(),
            _ => return Err(wrong("must be `true` or `false`")),
        },
        toml::Value::Integer(_) => {
            text.parse::<i64>().map(toml::Value::from).map_err(|_| wrong("must be a whole number"))?
        }
        toml::Value::Float(_) => text.parse::<f64>().map(toml::Value::from).map_err(|_| wrong("must be a number"))?,
        toml::Value::Array(_) => text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(toml::Value::from)
            .collect::<Vec<_>>()
            .into(),
        _ => text.into(),
    };
    let keys = table
        .entry(section.clone())
        .or_insert_with(|| toml::Table::new().into())
        .as_table_mut()
        .ok_or_else(|| wrong("its section is not a table in the file"))?;
    keys.insert(key.into(), value);
    // Checked alone, so that the refusal names the variable.
    let alone =
        toml::Table::from_iter([(section.clone(), toml::Table::from_iter([(key.into(), keys[key].clone())]).into())]);
    alone.try_into::<Config>().map(drop).map_err(|error| wrong(error.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("written");
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(Some(file.path()), environment).map_err(|error| error.to_string())
    }

    /// Not a check: writes the defaults where `DXFLOW_DUMP_DEFAULTS` says, for whoever writes the sample file.
    #[test]
    fn the_defaults_can_be_written_out() {
        let text = toml::to_string(&Config::default()).expect("TOML");
        if let Ok(path) = std::env::var("DXFLOW_DUMP_DEFAULTS") {
            std::fs::write(path, &text).expect("written");
        }
        assert_eq!(toml::from_str::<Config>(&text).expect("read back"), Config::default());
    }

    /// The sample file is the documentation: with its comment signs taken away it is the default, key by key.
    #[test]
    fn the_sample_file_is_the_default() {
        let sample = include_str!("../config.toml");
        let mut uncommented = String::new();
        for line in sample.lines() {
            let line =
                line.strip_prefix("# ").filter(|line| line.split('=').next().is_some_and(is_key)).unwrap_or(line);
            uncommented.push_str(line);
            uncommented.push('\n');
        }
        let table: toml::Table = toml::from_str(&uncommented).expect("the sample is TOML");
        let defaults = toml::Table::try_from(Config::default()).expect("TOML");
        for (section, keys) in &defaults {
            for (key, value) in keys.as_table().expect("a section") {
                let documented = table.get(section).and_then(|keys| keys.get(key));
                assert_eq!(documented, Some(value), "`{section}.{key}` in config.toml");
                let variable = format!("DXFLOW_{}_{}", section.to_uppercase(), key.to_uppercase());
                assert!(sample.contains(&variable), "config.toml names {variable}");
            }
        }
        let config: Config = table.try_into().expect("the sample has no unknown key");
        assert_eq!(config, Config::default());
        let untouched = Config::load(None, []).expect("the defaults are valid");
        assert_eq!(untouched, Config::default());
        assert_eq!(load(sample, &[]), Ok(Config::default()));
    }

    fn is_key(text: &str) -> bool {
        let text = text.trim_end();
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
    }

    #[test]
    fn the_environment_is_over_the_file() {
        let config = load(
            "[server]\nlisten = \"127.0.0.1:1\"\npublic_rate = 3",
            &[
                ("DXFLOW_SERVER_LISTEN", "127.0.0.1:2"),
                ("DXFLOW_SERVER_HOSTS", "a.example, b.example"),
                ("DXFLOW_DATA_DIR", "/x"),
                ("PATH", "/bin"),
            ],
        )
        .expect("valid");
        assert_eq!(config.server.listen, "127.0.0.1:2");
        assert_eq!(config.server.public_rate, 3);
        assert_eq!(config.server.hosts, ["a.example", "b.example"]);
    }

    #[test]
    fn refusals_name_the_key() {
        for (text, environment, named) in [
            ("[server]\nlisten_on = \"x\"", &[] as &[(&str, &str)], "listen_on"),
            ("[server]\npublic_rate = \"x\"", &[], "public_rate"),
            ("[nothing]\na = 1", &[], "nothing"),
            ("", &[("DXFLOW_SERVER_PUBLIC_RATE", "many")], "DXFLOW_SERVER_PUBLIC_RATE"),
            ("", &[("DXFLOW_SERVER_BODY_TIMEOUT", "soon")], "DXFLOW_SERVER_BODY_TIMEOUT"),
            ("[server]\norigins = [\"*\"]", &[], "server.origins"),
            ("[log]\nlevel = \"loud=very=much\"", &[], "log.level"),
        ] {
            let error = load(text, environment).expect_err(named);
            assert!(error.contains(named), "{error}");
        }
    }
}
