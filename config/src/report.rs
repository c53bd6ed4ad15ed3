//! Diagnostics: what is wrong, where exactly, and what helps. They begin as findings of `sink`.
//!
//! The codes are one table, so that tools can list and explain them. Two renderings: text in the manner of rustc, and
//! JSON with one object per line.

use std::{fmt, fmt::Write as _, sync::Arc};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// It loads, but does not do what it seems to say.
    Warning,
    /// It does not load.
    Error,
}

impl Severity {
    /// `warning` or `error`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

macro_rules! codes {
    ($($variant:ident $number:literal $severity:ident $istio:literal $title:literal)*) => {
        /// Every finding has a stable code, written `OUTnnnn`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $(#[doc = $title] $variant,)* }

        impl Code {
            /// All codes, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            const fn row(self) -> (u16, Severity, &'static str, &'static str) {
                match self { $(Self::$variant => ($number, Severity::$severity, $istio, $title),)* }
            }
        }
    };
}

codes! {
    YamlSyntax 1 Error "" "the text is not YAML"
    YamlLimit 2 Error "" "a limit on size or nesting is exceeded"
    DuplicateKey 3 Error "" "a key stands twice in one mapping"
    NotAResource 4 Error "" "a document is not a resource"
    UnknownKind 5 Error "" "the kind is unknown"
    KindNotHonoured 6 Warning "" "resources of this kind are not honoured yet"
    DuplicateResource 7 Error "" "a resource is defined twice"
    UnknownField 10 Error "IST0106" "the field is unknown"
    WrongType 11 Error "IST0106" "the value has the wrong type"
    InvalidValue 12 Error "IST0106" "the value cannot be used"
    MissingField 13 Error "IST0106" "a required field is missing"
    ExclusiveFields 14 Error "IST0106" "fields exclude each other"
    NotHonoured 20 Warning "" "the field is not honoured yet"
    NotExecutable 21 Error "" "the rule has an action that cannot be executed yet"
    Deprecated 22 Warning "IST0002" "the field is deprecated"
    UnknownSubset 101 Warning "IST0101" "a destination names a subset that is not defined"
    UnknownHost 102 Warning "IST0101" "a host is not in the registry"
    UnknownPort 103 Warning "IST0101" "a destination names a port that the service does not have"
    ConflictingHosts 104 Warning "IST0109" "two virtual services claim one host"
    UnreachableRule 105 Warning "IST0130" "a rule is never reached"
    IneffectiveMatch 106 Warning "IST0131" "a match is covered by an earlier one"
    LoneWeight 107 Warning "" "the weight of a lone destination has no effect"
    InvalidWeights 108 Error "IST0106" "the weights cannot be used"
    InvalidRegex 109 Error "IST0106" "the regular expression cannot be used"
    InvalidHost 110 Error "IST0106" "the host name cannot be used"
    InvalidHeader 111 Error "IST0106" "the header cannot be used"
    InvalidRetry 112 Error "IST0106" "the retry policy cannot be used"
    EmptySubset 201 Warning "IST0101" "a subset selects no endpoint"
    NeverEjects 202 Warning "" "the ejection limit never lets an endpoint go"
    DuplicateName 203 Error "IST0106" "a name is given twice"
    ConflictingRules 204 Warning "" "a part of a destination rule is not used"
    IneffectivePolicy 230 Warning "" "a part of the traffic policy has no effect"
    NotResolved 301 Warning "" "the service's endpoints cannot be resolved yet"
    InvalidEndpoint 302 Error "IST0106" "the endpoint cannot be used"
    DuplicateService 303 Warning "" "a host is defined by two services"
    DomainTaken 304 Warning "" "an address belongs to another service"
    NoListener 401 Warning "" "there is nothing to listen on"
    DuplicateListener 402 Error "" "two listeners share an address"
    SeveralSidecars 403 Warning "IST0111" "several sidecars apply"
    ListenerLoop 404 Warning "" "an endpoint is an address of this proxy"
    IdleListener 405 Warning "" "a listener carries no service"
    SeveralTelemetries 501 Warning "IST0160" "several telemetry resources apply at one level"
    UnknownProvider 502 Warning "" "an extension provider is not defined"
    UnusedProvider 503 Warning "" "an extension provider is not used"
    OutsideRegistry 504 Warning "" "a receiver of telemetry is not in the registry"
    InvalidSampling 505 Warning "" "the sampling is not a percentage"
}

impl Code {
    /// The number of `OUTnnnn`.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.row().0
    }

    /// Fixed by the code.
    #[must_use]
    pub const fn severity(self) -> Severity {
        self.row().1
    }

    /// The code of `istioctl analyze` for the same finding, where there is one.
    #[must_use]
    pub fn istio(self) -> Option<&'static str> {
        Some(self.row().2).filter(|code| !code.is_empty())
    }

    /// One sentence without a period.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.row().3
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OUT{:04}", self.number())
    }
}

/// A place in a file: lines and columns from 1, the end exclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As given to `load`.
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// Line of the end.
    pub end_line: u32,
    /// Column behind the end.
    pub end_column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What kind of finding.
    pub code: Code,
    /// Where; line 0 for a finding on the whole configuration.
    pub place: Place,
    /// Field path in the document: `spec.http[0].route[1].weight`; empty for a finding on the whole document.
    pub path: String,
    /// One sentence.
    pub message: String,
    /// What stands at the place, beside the caret.
    pub label: String,
    /// The line that the caret points into.
    pub source: String,
    /// What to do.
    pub help: Option<String>,
    /// What else belongs to it.
    pub notes: Vec<String>,
}

impl Diagnostic {
    /// That of its code.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.code.severity()
    }

    fn write_text(&self, out: &mut String) {
        let gutter = " ".repeat(self.place.line.to_string().len());
        let caret = if self.place.end_line == self.place.line {
            self.place.end_column.saturating_sub(self.place.column).max(1)
        } else {
            1
        };
        let indent = " ".repeat(self.place.column.saturating_sub(1) as usize);
        let carets = "^".repeat(caret as usize);
        let istio = self.code.istio().map(|code| format!(" ({code})")).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}[{}]: {}{istio}", self.severity().as_str(), self.code, self.message);
        if self.place.line > 0 {
            let _ = writeln!(out, "{gutter}--> {}", self.place);
            let _ = writeln!(out, "{gutter} |");
            let _ = writeln!(out, "{} | {}", self.place.line, self.source);
            let _ = writeln!(out, "{}", format!("{gutter} | {indent}{carets} {}", self.label).trim_end());
        }
        if !self.path.is_empty() {
            let _ = writeln!(out, "{gutter} = field: {}", self.path);
        }
        for note in &self.notes {
            let _ = writeln!(out, "{gutter} = note: {note}");
        }
        if let Some(help) = &self.help {
            let _ = writeln!(out, "{gutter} = help: {help}");
        }
    }

    /// One JSON object.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "code": self.code.to_string(),
            "istio": self.code.istio(),
            "level": self.severity().as_str(),
            "file": &*self.place.file,
            "line": self.place.line,
            "column": self.place.column,
            "endLine": self.place.end_line,
            "endColumn": self.place.end_column,
            "field": self.path,
            "message": self.message,
            "label": self.label,
            "help": self.help,
            "notes": self.notes,
        })
    }
}

/// All findings of one load, by place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// By file, line and column.
    pub diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// True if one of them is an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.severity() == Severity::Error)
    }

    /// One JSON object per line.
    #[must_use]
    pub fn to_json_lines(&self) -> String {
        self.diagnostics.iter().fold(String::new(), |mut out, diagnostic| {
            let _ = writeln!(out, "{}", diagnostic.to_json());
            out
        })
    }
}

/// Text in the manner of rustc, a blank line between findings.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            if index > 0 {
                out.push('\n');
            }
            diagnostic.write_text(&mut out);
        }
        f.write_str(&out)
    }
}

impl std::error::Error for Report {}
