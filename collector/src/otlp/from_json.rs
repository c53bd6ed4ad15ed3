//! OTLP/JSON to protobuf, in one streaming pass that follows the schema.
//!
//! Lenient where OTLP asks for it: unknown keys are skipped at every depth, 64-bit integers come as strings
//! or numbers, ids are hex in either case, `null` is absent. Enumerations are integers only: a name is an error.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::json_scalar::ScalarSeed;
use super::schema::{Field, Kind, Message, Shape, request};
use super::wire::{put_length_prefixed, put_tag};
use crate::signal::Signal;

/// The JSON is not an export request; the text says where and why.
#[derive(Debug, thiserror::Error)]
#[error("invalid OTLP/JSON: {0}")]
pub struct BadJson(#[from] serde_json::Error);

/// Converts an export request in JSON to the same request in protobuf. An empty body is an empty request.
pub fn from_json(signal: Signal, json: &[u8]) -> Result<Vec<u8>, BadJson> {
    let mut out = Vec::with_capacity(json.len() / 2);
    if json.iter().all(u8::is_ascii_whitespace) {
        return Ok(out);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    MessageSeed { schema: request(signal), out: &mut out }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(out)
}

/// Writes the fields of one JSON object.
struct MessageSeed<'o> {
    schema: &'static Message,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object ({})", self.schema.name)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key_seed(KeySeed(self.schema))? {
            match field {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some(field) => map.next_value_seed(FieldSeed { field, out: self.out })?,
            }
        }
        Ok(())
    }
}

/// Looks a key up without allocating it.
struct KeySeed(&'static Message);

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Option<&'static Field>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Option<&'static Field>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.named(key))
    }
}

/// Writes the value of one field, tag included.
struct FieldSeed<'o> {
    field: &'static Field,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for FieldSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.field.shape == Shape::Repeated {
            return deserializer.deserialize_any(ListVisitor(self));
        }
        let Kind::Message(schema) = self.field.kind else {
            let keep_default = self.field.shape == Shape::Present;
            let seed = ScalarSeed { field: self.field, tag: true, keep_default, out: self.out };
            return seed.deserialize(deserializer);
        };
        deserializer.deserialize_any(SubmessageVisitor { number: self.field.number, schema, out: self.out })
    }
}

/// A message behind its tag and length; `null` writes nothing.
struct SubmessageVisitor<'o> {
    number: u32,
    schema: &'static Message,
    out: &'o mut Vec<u8>,
}

impl<'de> Visitor<'de> for SubmessageVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object ({})", self.schema.name)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        put_tag(self.out, self.number, 2);
        put_length_prefixed(self.out, |out| MessageSeed { schema: self.schema, out }.visit_map(map))
    }
}

struct ListVisitor<'o>(FieldSeed<'o>);

impl<'de> Visitor<'de> for ListVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array ({})", self.0.field.name)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let FieldSeed { field, out } = self.0;
        match field.kind {
            Kind::Message(schema) => {
                while list.next_element_seed(ElementSeed { number: field.number, schema, out })?.is_some() {}
                Ok(())
            }
            Kind::Text => {
                while list
                    .next_element_seed(ScalarSeed { field, tag: true, keep_default: true, out })?
                    .is_some()
                {}
                Ok(())
            }
            _ => {
                let start = out.len();
                put_tag(out, field.number, 2);
                let mut count = 0usize;
                put_length_prefixed(out, |out| {
                    while list
                        .next_element_seed(ScalarSeed { field, tag: false, keep_default: true, out })?
                        .is_some()
                    {
                        count += 1;
                    }
                    Ok(())
                })?;
                if count == 0 {
                    out.truncate(start);
                }
                Ok(())
            }
        }
    }
}

/// One element of a repeated message field. An element that is `null` is an empty message, so that the
/// elements after it keep their places.
struct ElementSeed<'o> {
    number: u32,
    schema: &'static Message,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for ElementSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        put_tag(self.out, self.number, 2);
        put_length_prefixed(self.out, |out| {
            MessageSeed { schema: self.schema, out }.deserialize(deserializer)
        })
    }
}
