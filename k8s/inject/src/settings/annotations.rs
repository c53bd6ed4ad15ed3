//! Typed readers of annotations. A wrong value is a problem at its place, never a default in silence.

use std::net::IpAddr;

use super::names::Setting;
use crate::{
    problem::{Path, Problem},
    value::{Map, Value},
};

/// The annotations of a pod and where they stand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Annotations<'a> {
    map: Option<&'a Map>,
    path: &'a Path,
}

/// The text of one annotation.
#[derive(Debug, Clone)]
pub(crate) struct Found<'a> {
    pub(crate) text: &'a str,
    pub(crate) path: Path,
}

impl<'a> Annotations<'a> {
    /// `path` leads to them; labels are read the same way.
    pub(crate) fn new(map: Option<&'a Map>, path: &'a Path) -> Self {
        Self { map, path }
    }

    /// Our name wins over Istio's.
    ///
    /// # Errors
    /// The value is no string, which Kubernetes would refuse.
    pub(crate) fn find(&self, setting: Setting) -> Result<Option<Found<'a>>, Problem> {
        let Some((name, value)) =
            setting.names().into_iter().find_map(|name| Some((name, self.map?.get(name)?)))
        else {
            return Ok(None);
        };
        let path = self.path.key(name);
        match value {
            Value::Text(text) => Ok(Some(Found { text, path })),
            other => {
                let message =
                    format!("the value of `{name}` is {}, and Kubernetes takes strings only", other.kind());
                Err(Problem::new(path, message, format!("write \"{}\" with its quotes", other.to_json())))
            }
        }
    }

    /// The value as `parse` reads it; `help` says what to write.
    pub(crate) fn parse<T>(
        &self,
        setting: Setting,
        help: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(found) = self.find(setting)? else { return Ok(None) };
        match parse(found.text.trim()) {
            Some(value) => Ok(Some(value)),
            None => {
                let message = format!("\"{}\" is no value of this annotation", found.text);
                Err(Problem::new(found.path, message, help))
            }
        }
    }

    pub(crate) fn text(&self, setting: Setting) -> Result<Option<String>, Problem> {
        let found = self.find(setting)?;
        Ok(found.map(|found| found.text.trim().to_owned()).filter(|text| !text.is_empty()))
    }

    pub(crate) fn flag(&self, setting: Setting) -> Result<Option<bool>, Problem> {
        self.parse(setting, "\"true\" or \"false\"", flag)
    }

    pub(crate) fn number(&self, setting: Setting) -> Result<Option<u32>, Problem> {
        self.parse(setting, "a whole number in quotes, for example \"15\"", |text| text.parse().ok())
    }

    /// A list of ports, in Istio's form for the capture rules.
    pub(crate) fn ports(&self, setting: Setting, all: bool) -> Result<Option<String>, Problem> {
        let help =
            if all { "ports such as \"8080,9090\", or \"*\" for all" } else { "ports such as \"8080,9090\"" };
        self.parse(setting, help, |text| {
            if all && text == "*" {
                return Some("*".to_owned());
            }
            let valid = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
            list(text, |port| valid(port).then(|| port.to_owned()))
        })
    }

    /// A list of networks.
    pub(crate) fn networks(&self, setting: Setting, all: bool) -> Result<Option<String>, Problem> {
        let help = "networks such as \"10.0.0.0/8,fd00::/8\"";
        self.parse(setting, help, |text| {
            if all && text == "*" {
                return Some("*".to_owned());
            }
            list(text, network)
        })
    }

    /// A list of network interfaces.
    pub(crate) fn interfaces(&self, setting: Setting) -> Result<Option<String>, Problem> {
        let help = "interfaces such as \"eth1,tap+\", of at most 15 letters each";
        let found =
            self.parse(setting, help, |text| list(text, |name| is_interface(name).then(|| name.to_owned())))?;
        Ok(found.filter(|names| !names.is_empty()))
    }

    /// A quantity of Kubernetes: `100m`, `0.5`, `128Mi`.
    pub(crate) fn quantity(&self, setting: Setting) -> Result<Option<String>, Problem> {
        let help = "a quantity such as \"100m\", \"0.5\" or \"128Mi\"";
        self.parse(setting, help, |text| is_quantity(text).then(|| text.to_owned()))
    }

    /// A JSON object.
    pub(crate) fn object(&self, setting: Setting, help: &str) -> Result<Option<Map>, Problem> {
        self.parse(setting, help, |text| serde_json::from_str(text).ok())
    }
}

/// As Go's `strconv.ParseBool`.
pub(crate) fn flag(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// The items without blanks, as `read` gives them; empty for none.
fn list(text: &str, read: impl Fn(&str) -> Option<String>) -> Option<String> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    Some(items.map(read).collect::<Option<Vec<_>>>()?.join(","))
}

/// An address is the network of itself, which the capture rules want written.
fn network(text: &str) -> Option<String> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address = address.parse::<IpAddr>().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    match bits {
        None => Some(format!("{text}/{most}")),
        Some(bits) => bits.parse::<u8>().is_ok_and(|bits| bits <= most).then(|| text.to_owned()),
    }
}

/// As `outrigger init` takes it, a `+` at the end standing for any rest. One that looks like a flag would be one.
fn is_interface(text: &str) -> bool {
    let name = text.strip_suffix('+').unwrap_or(text);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@');
    (1..=15).contains(&name.len()) && !name.starts_with('-') && name.chars().all(plain)
}

fn is_quantity(text: &str) -> bool {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let units = ["", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    number.parse::<f64>().is_ok() && units.contains(&unit)
}
