//! From the tree to typed sections: every key is accounted for, scalars are cast by what the field asks for.
//!
//! [`section!`] writes a struct, the list of its keys, and how it is read and written. An unknown key is a fault that
//! names the nearest known one; `x-` keys are free everywhere.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::node::{Node, Value};
use super::report::{Report, Trail, nearest};
use super::scalar::{integer, shorten};

/// What can be read from a node; a fault is reported and nothing returned where it cannot.
pub(crate) trait Decode: Sized {
    /// What is asked for, for messages.
    const WHAT: &'static str;

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self>;

    fn wrong<T>(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<T> {
        report.fault(&node.at, trail, format!("must be {}, not {}", Self::WHAT, node.kind()));
        None
    }
}

/// A section of the file: a mapping whose keys are known.
macro_rules! section {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident $(as $key:literal)? : $type:ty),* $(,)? }
        $(takes $($other:literal),* $(,)?)?) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
        pub(crate) struct $name {
            $(
                $(#[$doc])*
                #[serde(skip_serializing_if = "crate::compose::file::decode::is_default")]
                $(#[serde(rename = $key)])?
                pub(crate) $field: $type,
            )*
        }

        impl $name {
            /// The keys that may stand in it.
            pub(crate) const KEYS: &'static [&'static str] = &[
                $(section!(@key $field $($key)?),)*
                $($($other,)*)?
            ];
        }

        impl crate::compose::file::decode::Decode for $name {
            const WHAT: &'static str = "a mapping";

            fn decode(
                node: &crate::compose::file::node::Node,
                trail: crate::compose::file::report::Trail<'_>,
                report: &mut crate::compose::file::report::Report,
            ) -> Option<Self> {
                let Some(map) = node.as_map() else { return Self::wrong(node, trail, report) };
                let mut section = Self::default();
                for (key, at, node) in map.iter() {
                    // A key without a value says nothing, unless nobody knows it.
                    if matches!(node.value, crate::compose::file::node::Value::Null) && Self::KEYS.contains(&key) {
                        continue;
                    }
                    match key {
                        $(
                            section!(@key $field $($key)?) => {
                                if let Some(value) = crate::compose::file::decode::Decode::decode(node, trail.key(key), report) {
                                    section.$field = value;
                                }
                            }
                        )*
                        $($($other => {})*)?
                        _ => crate::compose::file::decode::unknown(key, at, trail, Self::KEYS, report),
                    }
                }
                Some(section)
            }
        }
    };
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
}
pub(crate) use section;

/// Reports a key that is not known, unless it is free.
pub(crate) fn unknown(
    key: &str,
    at: &super::node::At,
    trail: Trail<'_>,
    known: &'static [&'static str],
    report: &mut Report,
) {
    if key.starts_with("x-") {
        return;
    }
    let hint = nearest(key, known.iter().copied()).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
    report.fault(at, trail.key(key), format!("unknown key `{}`{hint}", shorten(key)));
}

/// Whether a value is what stands for nothing having been said.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Decode for String {
    const WHAT: &'static str = "a text";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::Text(text) => Some(text.clone()),
            _ => Self::wrong(node, trail, report),
        }
    }
}

impl Decode for bool {
    const WHAT: &'static str = "`true` or `false`";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::Bool(value) => Some(*value),
            Value::Text(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "y" | "yes" | "on" | "1" => Some(true),
                "false" | "n" | "no" | "off" | "0" => Some(false),
                _ => Self::wrong(node, trail, report),
            },
            _ => Self::wrong(node, trail, report),
        }
    }
}

impl Decode for i64 {
    const WHAT: &'static str = "a whole number";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match &node.value {
            Value::Int(value) => Some(*value),
            #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small just before")]
            Value::Float(value) if value.fract() == 0.0 && value.abs() < 9e15 => Some(*value as i64),
            Value::Text(text) => integer(text.trim()).or_else(|| Self::wrong(node, trail, report)),
            _ => Self::wrong(node, trail, report),
        }
    }
}

impl Decode for f64 {
    const WHAT: &'static str = "a number";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        let number = match &node.value {
            #[expect(clippy::cast_precision_loss, reason = "what compose files say in numbers is small")]
            Value::Int(value) => Some(*value as f64),
            Value::Float(value) => Some(*value),
            Value::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        match number.filter(|number: &f64| number.is_finite()) {
            Some(number) => Some(number),
            None => Self::wrong(node, trail, report),
        }
    }
}

impl<T: Decode> Decode for Option<T> {
    const WHAT: &'static str = T::WHAT;

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        T::decode(node, trail, report).map(Some)
    }
}

impl<T: Decode> Decode for Box<T> {
    const WHAT: &'static str = T::WHAT;

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        T::decode(node, trail, report).map(Box::new)
    }
}

impl<T: Decode> Decode for Vec<T> {
    const WHAT: &'static str = "a list";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        let Value::List(items) = &node.value else { return Self::wrong(node, trail, report) };
        let mut list = Self::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            list.extend(T::decode(item, trail.index(index), report));
        }
        Some(list)
    }
}

impl<T: Decode> Decode for BTreeMap<String, T> {
    const WHAT: &'static str = "a mapping";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        let Some(map) = node.as_map() else { return Self::wrong(node, trail, report) };
        let mut entries = Self::new();
        for (key, _, node) in map.iter() {
            if let Some(value) = T::decode(node, trail.key(key), report) {
                entries.insert(key.to_owned(), value);
            }
        }
        Some(entries)
    }
}

/// A value that may also be left empty (`data:`), which stands for its default.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct OrNull<T>(pub(crate) T);

impl<T: Decode + Default> Decode for OrNull<T> {
    const WHAT: &'static str = T::WHAT;

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match node.value {
            Value::Null => Some(Self(T::default())),
            _ => T::decode(node, trail, report).map(Self),
        }
    }
}

impl<T: Serialize> Serialize for OrNull<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// A text, or a number or flag that is taken as one.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) struct Scalar(pub(crate) String);

impl Decode for Scalar {
    const WHAT: &'static str = "a text or a number";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match node.scalar_text() {
            Some(text) => Some(Self(text)),
            None => Self::wrong(node, trail, report),
        }
    }
}

/// A text, number or flag, or nothing; of an environment, an option.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Maybe(pub(crate) Option<String>);

impl Decode for Maybe {
    const WHAT: &'static str = "a text, a number or nothing";

    fn decode(node: &Node, trail: Trail<'_>, report: &mut Report) -> Option<Self> {
        match (&node.value, node.scalar_text()) {
            (Value::Null, _) => Some(Self(None)),
            (_, Some(text)) => Some(Self(Some(text))),
            _ => Self::wrong(node, trail, report),
        }
    }
}
