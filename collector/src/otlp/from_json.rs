//! OTLP/JSON to protobuf, in one streaming pass that follows the schema.
//!
//! Lenient where OTLP asks for it: unknown keys are skipped at every depth, 64-bit integers come as strings
//! or numbers, ids are hex in either case, `null` is absent. Enumerations are integers only: a name is an error.

use std::fmt;

use base64::Engine;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::schema::{Field, Kind, Message, Shape, request};
use super::wire::{put_length_prefixed, put_tag, put_varint, zigzag};
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

/// One scalar: bare inside a packed list, behind its tag elsewhere.
struct ScalarSeed<'o> {
    field: &'static Field,
    tag: bool,
    keep_default: bool,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for ScalarSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl ScalarSeed<'_> {
    fn varint<E>(self, value: u64) -> Result<(), E> {
        if value != 0 || self.keep_default {
            if self.tag {
                put_tag(self.out, self.field.number, 0);
            }
            put_varint(self.out, value);
        }
        Ok(())
    }

    fn fixed<E, const N: usize>(self, wire: u32, value: [u8; N]) -> Result<(), E> {
        if value != [0; N] || self.keep_default {
            if self.tag {
                put_tag(self.out, self.field.number, wire);
            }
            self.out.extend_from_slice(&value);
        }
        Ok(())
    }

    fn bytes<E>(self, value: &[u8]) -> Result<(), E> {
        if !value.is_empty() || self.keep_default {
            put_tag(self.out, self.field.number, 2);
            put_varint(self.out, value.len() as u64);
            self.out.extend_from_slice(value);
        }
        Ok(())
    }

    /// An integer of any of the integer kinds, or a double written without a fraction.
    fn integer<E: Error>(self, value: i128) -> Result<(), E> {
        let range =
            |what: &str| E::custom(format!("{}: {value} is out of range for {what}", self.field.name));
        match self.field.kind {
            Kind::Int32 => {
                let value = i32::try_from(value).map_err(|_| range("a 32-bit integer"))?;
                self.varint(i64::from(value) as u64)
            }
            Kind::Sint32 => {
                let value = i32::try_from(value).map_err(|_| range("a 32-bit integer"))?;
                self.varint(zigzag(value))
            }
            Kind::Uint32 => {
                let value = u32::try_from(value).map_err(|_| range("an unsigned 32-bit integer"))?;
                self.varint(u64::from(value))
            }
            Kind::Fixed32 => {
                let value = u32::try_from(value).map_err(|_| range("an unsigned 32-bit integer"))?;
                self.fixed(5, value.to_le_bytes())
            }
            Kind::Int64 => {
                let value = i64::try_from(value).map_err(|_| range("a 64-bit integer"))?;
                self.varint(value as u64)
            }
            Kind::Uint64 => {
                let value = u64::try_from(value).map_err(|_| range("an unsigned 64-bit integer"))?;
                self.varint(value)
            }
            Kind::Fixed64 => {
                let value = u64::try_from(value).map_err(|_| range("an unsigned 64-bit integer"))?;
                self.fixed(1, value.to_le_bytes())
            }
            Kind::Sfixed64 => {
                let value = i64::try_from(value).map_err(|_| range("a 64-bit integer"))?;
                self.fixed(1, value.to_le_bytes())
            }
            Kind::Double => self.fixed(1, (value as f64).to_le_bytes()),
            _ => Err(self.mistyped("a number")),
        }
    }

    fn mistyped<E: Error>(&self, found: &str) -> E {
        let wanted = match self.field.kind {
            Kind::Bool => "true or false",
            Kind::Text => "a string",
            Kind::Bytes => "a base64 string",
            Kind::Id(_) => "a hex string",
            Kind::Message(message) => message.name,
            Kind::Double => "a number",
            _ => "an integer",
        };
        E::custom(format!("{}: found {found}, expected {wanted}", self.field.name))
    }
}

impl<'de> Visitor<'de> for ScalarSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value for {}", self.field.name)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        if self.tag && self.field.shape != Shape::Repeated {
            return Ok(());
        }
        Err(self.mistyped("null in a list"))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match self.field.kind {
            Kind::Bool => self.varint(u64::from(value)),
            _ => Err(self.mistyped("a boolean")),
        }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.integer(i128::from(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.integer(i128::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match self.field.kind {
            Kind::Double => self.fixed(1, value.to_le_bytes()),
            // 1e3 and 1.0 are integers too.
            _ if value.fract() == 0.0 && value.abs() < 1e20 => self.integer(value as i128),
            _ => Err(self.mistyped("a fraction")),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        match self.field.kind {
            Kind::Text => self.bytes(value.as_bytes()),
            Kind::Bytes => match base64_decode(value) {
                Some(bytes) => self.bytes(&bytes),
                None => Err(self.mistyped("text that is not base64")),
            },
            Kind::Id(length) => match hex_decode(value) {
                Some(id) if id.is_empty() || id.len() == length => self.bytes(&id),
                Some(_) => Err(E::custom(format!(
                    "{}: {} hex digits, expected {}",
                    self.field.name,
                    value.len(),
                    2 * length
                ))),
                None => Err(self.mistyped("text that is not hex digits in pairs")),
            },
            Kind::Double => match value {
                "NaN" => self.fixed(1, f64::NAN.to_le_bytes()),
                "Infinity" => self.fixed(1, f64::INFINITY.to_le_bytes()),
                "-Infinity" => self.fixed(1, f64::NEG_INFINITY.to_le_bytes()),
                _ => match number(value).and_then(|text| text.parse::<f64>().ok()) {
                    Some(value) => self.visit_f64(value),
                    None => Err(self.mistyped("text")),
                },
            },
            Kind::Bool | Kind::Message(_) => Err(self.mistyped("a string")),
            _ => match (value.parse::<i128>(), number(value).and_then(|text| text.parse::<f64>().ok())) {
                (Ok(value), _) => self.integer(value),
                (Err(_), Some(value)) => self.visit_f64(value),
                (Err(_), None) => Err(self.mistyped("text")),
            },
        }
    }
}

/// A JSON number in quotes; Rust's own parser also takes `inf` and `nan`, which JSON does not.
fn number(text: &str) -> Option<&str> {
    text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte)).then_some(text)
}

fn base64_decode(text: &str) -> Option<Vec<u8>> {
    use base64::alphabet;
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    const EITHER: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, EITHER);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, EITHER);
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}

fn hex_decode(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|value| value as u8);
    text.as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}
