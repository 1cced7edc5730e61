//! Where the configuration file and the data directory are, and which engine is meant.
//!
//! The command line reads only its own sections here, `[connection]` and `[client]` (and those of a profile); what the
//! engine reads is checked by `crate::config`. Flags are over the environment, and that is over the file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::args::Global;
use super::error::CliError;

/// Which engine the command line talks to.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Connection {
    /// The engine's address: `http://HOST:PORT`, or `unix:///PATH`. Empty: the engine of the data directory.
    pub address: String,
    /// The key to sign in with: a private key, or a public one whose private half the ssh-agent holds. Empty: whatever the
    /// agent has.
    pub key: String,
}

/// How the command line behaves.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Client {
    /// The keys that leave a connected shell, as `ctrl-a d`.
    pub detach_keys: String,
}

impl Default for Client {
    fn default() -> Self {
        Self { detach_keys: "ctrl-\\ ctrl-\\".into() }
    }
}

/// The sections of the file that only the command line reads.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Sections {
    /// Which engine.
    pub connection: Connection,
    /// How the command line behaves.
    pub client: Client,
}

/// Everything that a command needs to know of its surroundings.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The configuration file: the one that is there, or where `config set` makes it.
    pub(crate) file: PathBuf,
    /// Whether it is there.
    pub(crate) file_exists: bool,
    pub(crate) data_dir: PathBuf,
    pub(crate) profile: Option<String>,
    pub(crate) sections: Sections,
}

impl Settings {
    /// Finds the file and the data directory, and reads the command line's own sections. `editing`: the file, and the
    /// profile in it, need not be there yet.
    ///
    /// # Errors
    /// The file is not readable, not TOML, or has a setting that does not exist.
    pub(crate) fn load(
        global: &Global,
        editing: bool,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, CliError> {
        let home = environment("HOME").map(PathBuf::from);
        let base = |variable: &str, below: &str| {
            environment(variable)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
                .or_else(|| home.as_ref().map(|home| home.join(below)))
                .map(|base| base.join("dxflow"))
                .ok_or_else(|| {
                    CliError::Usage(format!("neither {variable} nor HOME is set: say --data-dir and --config"))
                })
        };
        let file = match &global.config {
            Some(file) => file.clone(),
            None if Path::new("config.toml").is_file() => PathBuf::from("config.toml"),
            None => base("XDG_CONFIG_HOME", ".config")?.join("config.toml"),
        };
        let file_exists = file.is_file();
        if global.config.is_some() && !file_exists && !editing {
            return Err(CliError::Usage(format!("there is no configuration file `{}`", file.display())));
        }
        let data_dir = match &global.data_dir {
            Some(dir) => dir.clone(),
            None => base("XDG_DATA_HOME", ".local/share")?,
        };
        let mut sections = Sections::default();
        if file_exists {
            let text = std::fs::read_to_string(&file)
                .map_err(|error| CliError::Usage(format!("failed to read `{}`: {error}", file.display())))?;
            sections =
                Self::read_sections(&text, global.profile.as_deref().filter(|_| !editing)).map_err(|reason| {
                    CliError::Usage(format!("the configuration `{}` is not valid: {reason}", file.display()))
                })?;
        } else if let Some(profile) = global.profile.as_ref().filter(|_| !editing) {
            return Err(CliError::Usage(format!("there is no profile `{profile}`: there is no configuration file")));
        }
        let first = |names: [&str; 2]| names.into_iter().find_map(environment);
        if let Some(address) = first(["DXFLOW_ADDRESS", "DXFLOW_CONNECTION_ADDRESS"]) {
            sections.connection.address = address;
        }
        if let Some(key) = first(["DXFLOW_KEY", "DXFLOW_CONNECTION_KEY"]) {
            sections.connection.key = key;
        }
        if let Some(keys) = environment("DXFLOW_CLIENT_DETACH_KEYS") {
            sections.client.detach_keys = keys;
        }
        Ok(Self { file, file_exists, data_dir, profile: global.profile.clone(), sections })
    }

    fn read_sections(text: &str, profile: Option<&str>) -> Result<Sections, String> {
        let mut table: toml::Table = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        if let Some(name) = profile {
            let over = table
                .get_mut("profile")
                .and_then(|profiles| profiles.get_mut(name))
                .and_then(toml::Value::as_table_mut)
                .map(std::mem::take)
                .ok_or_else(|| format!("it has no profile `{name}`"))?;
            for (section, keys) in over {
                match (table.get_mut(&section).and_then(toml::Value::as_table_mut), keys) {
                    (Some(present), toml::Value::Table(keys)) => present.extend(keys),
                    (_, keys) => {
                        table.insert(section, keys);
                    }
                }
            }
        }
        table.retain(|section, _| ["connection", "client"].contains(&section));
        table.try_into().map_err(|error: toml::de::Error| error.message().to_owned())
    }

    /// The Unix socket of the engine of the data directory.
    pub(crate) fn socket(&self) -> PathBuf {
        self.data_dir.join("engine.sock")
    }

    /// The key to sign in with; for the local engine the administrator's that it made.
    pub(crate) fn key(&self) -> Option<PathBuf> {
        let key = &self.sections.connection.key;
        if !key.is_empty() {
            return Some(expand_home(key));
        }
        let admin = self.data_dir.join("keys").join("admin");
        (self.sections.connection.address.is_empty() && admin.is_file()).then_some(admin)
    }
}

/// A path in which a leading `~/` stands for the home directory.
fn expand_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, profile: Option<&str>, environment: &[(&str, &str)]) -> Result<Settings, CliError> {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("c.toml");
        std::fs::write(&file, text).expect("written");
        let global = Global { config: Some(file), profile: profile.map(str::to_owned), ..Global::default() };
        let environment = |name: &str| {
            let all = [("HOME", "/home/u")];
            environment.iter().chain(&all).find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Settings::load(&global, false, &environment)
    }

    #[test]
    fn the_environment_is_over_the_profile_and_that_over_the_file() {
        let text = "[server]\nlisten = \"x\"\n[connection]\naddress = \"http://a\"\nkey = \"k\"\n[profile.far.connection]\naddress = \"http://b\"\n";
        let settings = load(text, None, &[]).expect("valid");
        assert_eq!(settings.sections.connection.address, "http://a");
        assert_eq!(settings.data_dir, Path::new("/home/u/.local/share/dxflow"));
        let settings = load(text, Some("far"), &[]).expect("valid");
        assert_eq!((&*settings.sections.connection.address, &*settings.sections.connection.key), ("http://b", "k"));
        let settings =
            load(text, Some("far"), &[("DXFLOW_ADDRESS", "http://c"), ("XDG_DATA_HOME", "/d")]).expect("valid");
        assert_eq!(settings.sections.connection.address, "http://c");
        assert_eq!(settings.socket(), Path::new("/d/dxflow/engine.sock"));
    }

    #[test]
    fn wrong_sections_are_wrong_usage() {
        for (text, profile) in [
            ("[connection]\nadress = \"x\"", None),
            ("[client]\ndetach_keys = 1", None),
            ("nonsense", None),
            ("", Some("nowhere")),
        ] {
            assert_eq!(load(text, profile, &[]).expect_err(text).exit_code(), 2);
        }
    }
}
