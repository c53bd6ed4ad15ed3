//! The codes of diagnostics: one table, so that tools can list and explain them.
//!
//! Numbers go by hundreds: 0 reading, 1 virtual services, 2 destination rules, 3 registry, 4 listeners, 5 telemetry.

use std::fmt;

use super::Severity;

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
    EnvoyFilter 23 Error "" "an EnvoyFilter selects this workload"
    ForeignEnvoyFilter 24 Note "" "an EnvoyFilter does not select this workload"
    EmptySelector 25 Warning "IST0133" "a selector has no labels"
    SchemaWarning 26 Warning "IST0133" "Istio takes it, and warns of it"
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
    LargeBody 120 Warning "" "a direct response is large"
    IgnoredAuthority 121 Warning "" "the authority of a destination has no effect"
    MissingDelegate 122 Warning "" "a delegate does not exist or is not exported"
    ConflictingDelegate 123 Warning "" "a rule of a delegate does not fit its root"
    UnusedDelegate 124 Warning "" "nothing refers to a delegate"
    NeverHappens 130 Warning "" "a fault never happens"
    NoEffect 131 Warning "" "a field has no effect"
    PrefixIsText 140 Note "" "a path prefix takes longer names too"
    RetriesCut 141 Warning "" "retries do not fit into the timeout"
    UnsafeRetry 142 Warning "" "retries may repeat a request that was carried out"
    PortNotChosen 143 Warning "IST0112" "a destination of several ports names none"
    InvalidSubnet 160 Error "IST0106" "the range of addresses cannot be used"
    UncoveredServerName 161 Error "IST0106" "no host of the virtual service covers a server name"
    EmptySubset 201 Warning "IST0173" "a subset selects no endpoint"
    NeverEjects 202 Warning "" "the ejection limit never lets an endpoint go"
    DuplicateName 203 Error "IST0106" "a name is given twice"
    ConflictingRules 204 Warning "" "a part of a destination rule is not used"
    UnknownRuleHost 210 Warning "IST0174" "the host of a destination rule is not in the registry"
    CookieWithoutTtl 211 Warning "" "a hash cookie is never made"
    FailoverWithoutOutlier 212 Warning "IST0133" "failover without outlier detection has no effect"
    SourceIpHash 213 Note "" "a hash of the source address chooses one endpoint for all"
    IneffectivePolicy 230 Warning "" "a part of the traffic policy has no effect"
    NotResolved 301 Warning "" "the service's endpoints cannot be resolved yet"
    InvalidEndpoint 302 Error "IST0106" "the endpoint cannot be used"
    DuplicateService 303 Warning "" "a host is defined by two services"
    DomainTaken 304 Warning "" "an address belongs to another service"
    UnlabelledEndpoints 310 Warning "" "a subset selects among endpoints whose labels are not known"
    StraySlice 311 Warning "" "an EndpointSlice belongs to no Service"
    NoEndpoints 312 Warning "" "no EndpointSlice belongs to a Service"
    NamedWorkload 320 Warning "" "a service selects a host name that it does not look up"
    AliasOfService 321 Warning "" "an ExternalName is that of a service of the mesh"
    NoListener 401 Warning "" "there is nothing to listen on"
    DuplicateListener 402 Error "" "two listeners share an address"
    SeveralSidecars 403 Warning "IST0111" "several sidecars apply"
    ListenerLoop 404 Warning "" "an endpoint is an address of this proxy"
    IdleListener 405 Warning "" "a listener carries no service"
    ConnectionsTaken 420 Warning "" "raw connections of one port belong to another route"
    UselessHashKey 421 Warning "" "a hash key is none that a raw connection has"
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

    /// What a user may mean by `OUT0105` or by Istio's `IST0130`, which may stand beside several; none is unknown.
    #[must_use]
    pub fn named(name: &str) -> Vec<Self> {
        let is = |code: &Self| {
            name.eq_ignore_ascii_case(&code.to_string())
                || code.istio().is_some_and(|istio| name.eq_ignore_ascii_case(istio))
        };
        Self::ALL.iter().copied().filter(is).collect()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OUT{:04}", self.number())
    }
}
