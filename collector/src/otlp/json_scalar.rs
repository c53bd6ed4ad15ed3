//! One scalar of OTLP/JSON to protobuf, in every form that senders write it in.

use std::fmt;

use base64::Engine;
use serde::de::{DeserializeSeed, Deserializer, Error, Visitor};

use super::schema::{Field, Kind, Shape};
use super::wire::{put_tag, put_varint, zigzag};

/// One scalar: bare inside a packed list, behind its tag elsewhere.
pub(super) struct ScalarSeed<'o> {
    pub(super) field: &'static Field,
    pub(super) tag: bool,
    pub(super) keep_default: bool,
    pub(super) out: &'o mut Vec<u8>,
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
