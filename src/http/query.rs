//! A query as typed fields: text becomes the number, flag or list that the field's type asks for.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer, Visitor};
use serde::{Deserializer, forward_to_deserialize_any};
use serde_json::{Map, Value};

use super::problem::Problem;

type Error = serde::de::value::Error;

/// Reads `fields` (text, or lists of text for what is repeated) as a `T`.
///
/// # Errors
/// 400 that names the parameter.
pub(crate) fn from_fields<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, Problem> {
    let entries = fields.into_iter().map(|(name, value)| (name, Parameter(value)));
    serde_path_to_error::deserialize(MapDeserializer::<_, Error>::new(entries)).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();
        let reason = reason.replace("unknown field", "unknown query parameter");
        if path == "." || reason.contains(&format!("`{path}`")) {
            Problem::bad_request(reason)
        } else {
            Problem::bad_request(format!("query parameter `{path}`: {reason}"))
        }
    })
}

struct Parameter(Value);

impl Parameter {
    fn text(&self) -> Result<&str, Error> {
        match &self.0 {
            Value::String(text) => Ok(text),
            _ => Err(serde::de::Error::custom("stands more than once")),
        }
    }
}

macro_rules! number {
    ($($method:ident $visit:ident $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let text = self.text()?;
            let number = text.parse::<$type>().map_err(|_| {
                serde::de::Error::custom(format_args!("`{}` is not a number that fits", text.chars().take(40).collect::<String>()))
            })?;
            visitor.$visit(number)
        }
    )*};
}

impl<'de> Deserializer<'de> for Parameter {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let text = self.text()?;
        visitor.visit_str(text)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.text()? {
            "" | "true" | "1" => visitor.visit_bool(true),
            "false" | "0" => visitor.visit_bool(false),
            _ => Err(serde::de::Error::custom("must be `true` or `false`")),
        }
    }

    number!(
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64, deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64, deserialize_f64 visit_f64 f64
    );

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let values = match self.0 {
            Value::Array(values) => values,
            value => vec![value],
        };
        let items: Vec<Parameter> = values
            .iter()
            .filter_map(Value::as_str)
            .flat_map(|text| text.split(','))
            .map(|item| Parameter(Value::String(item.into())))
            .collect();
        SeqDeserializer::new(items.into_iter()).deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let text: &str = self.text()?;
        let text = text.to_owned();
        IntoDeserializer::<Error>::into_deserializer(text).deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        f32 char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
        i128 u128
    }
}

impl IntoDeserializer<'_, Error> for Parameter {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Listing {
        directory: Option<String>,
        all: bool,
        limit: i64,
        identities: Vec<String>,
    }

    fn read(query: &[(&str, &[&str])]) -> Result<Listing, String> {
        let fields = query.iter().map(|(name, values)| {
            let value = if let [one] = values { Value::from(*one) } else { Value::from(values.to_vec()) };
            ((*name).to_owned(), value)
        });
        from_fields(fields.collect()).map_err(|problem| problem.detail)
    }

    #[test]
    fn parameters_become_what_the_field_asks_for() {
        let listing =
            read(&[("directory", &["a/b"]), ("all", &[""]), ("limit", &["-1"]), ("identities", &["a,b", "c"])]);
        let expected = Listing {
            directory: Some("a/b".into()),
            all: true,
            limit: -1,
            identities: vec!["a".into(), "b".into(), "c".into()],
        };
        assert_eq!(listing, Ok(expected));
        assert_eq!(read(&[("all", &["0"])]).map(|listing| listing.all), Ok(false));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (name, values) in [
            ("nothing", &["1"] as &[&str]),
            ("limit", &["x"]),
            ("all", &["maybe"]),
            ("directory", &["a", "b"]),
            ("limit", &[""]),
        ] {
            let error = read(&[(name, values)]).expect_err(name);
            assert!(error.contains(&format!("`{name}`")), "{error}");
        }
    }
}
