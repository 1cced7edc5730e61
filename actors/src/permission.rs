//! What a key may do.
//!
//! A set of named permissions; `MASTER` stands for all, and `READ_ONLY` takes from the others whatever changes something.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One permission. `Proxy` and `Bridge` are kept for compatibility and open nothing yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Permission {
    /// Everything, keys and restart included.
    Master = 1,
    /// Shells.
    Shell = 2,
    /// Files; also written `ARTIFACT`.
    Object = 4,
    /// Compose workflows.
    Workflow = 8,
    /// Kept for compatibility.
    Platform = 16,
    /// Kept for compatibility.
    Proxy = 32,
    /// Kept for compatibility.
    Bridge = 64,
    /// Grants nothing, and takes from the others every route that creates, changes or deletes.
    ReadOnly = 128,
}

impl Permission {
    /// Every permission, in the order in which they are listed.
    pub const ALL: [Self; 8] = [
        Self::Master,
        Self::Shell,
        Self::Object,
        Self::Workflow,
        Self::Platform,
        Self::Proxy,
        Self::Bridge,
        Self::ReadOnly,
    ];

    /// Its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Master => "MASTER",
            Self::Shell => "SHELL",
            Self::Object => "OBJECT",
            Self::Workflow => "WORKFLOW",
            Self::Platform => "PLATFORM",
            Self::Proxy => "PROXY",
            Self::Bridge => "BRIDGE",
            Self::ReadOnly => "READ_ONLY",
        }
    }
}

/// A name that is no permission.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is not a permission (they are MASTER, SHELL, OBJECT, WORKFLOW, PLATFORM, PROXY, BRIDGE, READ_ONLY)")]
pub struct UnknownPermission(String);

impl FromStr for Permission {
    type Err = UnknownPermission;

    fn from_str(text: &str) -> Result<Self, UnknownPermission> {
        if text == "ARTIFACT" {
            return Ok(Self::Object);
        }
        Self::ALL
            .into_iter()
            .find(|permission| permission.name() == text)
            .ok_or_else(|| UnknownPermission(text.chars().take(40).collect()))
    }
}

/// A set of permissions; in JSON an array of names.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
pub struct Permissions(u8);

impl Permissions {
    /// What a new key gets unless it is said otherwise: all but MASTER and READ_ONLY.
    pub const DEFAULT_FOR_KEYS: Self = Self(2 | 4 | 8 | 16 | 32 | 64);
    /// MASTER alone.
    pub const MASTER: Self = Self(1);

    /// Whether the set names `permission`; MASTER does not stand for others here.
    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & permission as u8 != 0
    }

    /// Whether the set opens a route that needs `permission`: by name, or by MASTER.
    pub const fn grants(self, permission: Permission) -> bool {
        self.contains(permission) || self.contains(Permission::Master)
    }

    /// Whether routes that create, change or delete are open: not with READ_ONLY.
    pub const fn writable(self) -> bool {
        !self.contains(Permission::ReadOnly)
    }

    /// The set with `permission` added.
    #[must_use]
    pub const fn with(self, permission: Permission) -> Self {
        Self(self.0 | permission as u8)
    }

    /// Whether everything that `other` allows, this allows too. READ_ONLY counts the other way round.
    pub const fn covers(self, other: Self) -> bool {
        let read_only = Permission::ReadOnly as u8;
        let master = self.contains(Permission::Master);
        (master || self.0 | read_only == (self.0 | read_only | other.0)) && (self.writable() || !other.writable())
    }

    /// The permissions in the set, in their order.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |permission| self.contains(*permission))
    }

    /// The set as bits, for the database.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The set of these bits.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        permissions.into_iter().fold(Self::default(), Self::with)
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Permission::name)).finish()
    }
}

impl Serialize for Permissions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Permission::name))
    }
}

impl<'de> Deserialize<'de> for Permissions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        names.iter().map(|name| name.parse::<Permission>()).collect::<Result<_, _>>().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Permissions {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Permissions".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "array",
            "items": {
                "type": "string",
                "enum": ["MASTER", "SHELL", "OBJECT", "ARTIFACT", "WORKFLOW", "PLATFORM", "PROXY", "BRIDGE", "READ_ONLY"],
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &str) -> Permissions {
        names.split_whitespace().map(|name| name.parse::<Permission>().expect(name)).collect()
    }

    #[test]
    fn permissions_cover_what_they_allow() {
        for (left, right, covers) in [
            ("MASTER", "SHELL OBJECT", true),
            ("SHELL", "MASTER", false),
            ("SHELL OBJECT", "SHELL", true),
            ("SHELL", "SHELL READ_ONLY", true),
            ("SHELL READ_ONLY", "SHELL", false),
            ("MASTER READ_ONLY", "SHELL", false),
            ("MASTER READ_ONLY", "SHELL READ_ONLY", true),
            ("", "", true),
        ] {
            assert_eq!(set(left).covers(set(right)), covers, "{left} covers {right}");
        }
        assert!("shell".parse::<Permission>().is_err());
        assert_eq!("ARTIFACT".parse(), Ok(Permission::Object));
        assert!(
            !Permissions::DEFAULT_FOR_KEYS.contains(Permission::Master) && Permissions::DEFAULT_FOR_KEYS.writable()
        );
    }
}
