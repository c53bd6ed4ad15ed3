//! The codes of diagnostics: one table, so that tools can list and explain them.
//!
//! Numbers go by hundreds: 0 reading, 1 virtual services, 2 destination rules, 3 registry, 4 listeners, 5 telemetry.

use std::fmt;

use super::Severity;

struct Row {
    name: &'static str,
    severity: Severity,
    istio: &'static str,
    title: &'static str,
    page: &'static str,
}

macro_rules! codes {
    ($($variant:ident $number:literal $severity:ident $istio:literal $title:literal)*) => {
        /// Every finding has a stable code, written `OUTnnnn`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $(#[doc = $title] $variant,)* }

        impl Code {
            /// All codes, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            const fn row(self) -> Row {
                match self { $(Self::$variant => Row {
                    name: concat!("OUT", $number),
                    severity: Severity::$severity,
                    istio: $istio,
                    title: $title,
                    page: include_str!(concat!("pages/OUT", $number, ".md")),
                },)* }
            }
        }
    };
}

codes! {
    YamlSyntax "0001" Error "" "the text is not YAML"
    YamlLimit "0002" Error "" "a limit on size or nesting is exceeded"
    DuplicateKey "0003" Error "" "a key stands twice in one mapping"
    NotAResource "0004" Error "" "a document is not a resource"
    UnknownKind "0005" Error "" "the kind is unknown"
    KindNotHonoured "0006" Warning "" "resources of this kind are not honoured yet"
    DuplicateResource "0007" Error "" "a resource is defined twice"
    UnknownField "0010" Error "IST0106" "the field is unknown"
    WrongType "0011" Error "IST0106" "the value has the wrong type"
    InvalidValue "0012" Error "IST0106" "the value cannot be used"
    MissingField "0013" Error "IST0106" "a required field is missing"
    ExclusiveFields "0014" Error "IST0106" "fields exclude each other"
    NotHonoured "0020" Warning "" "the field is not honoured yet"
    NotExecutable "0021" Error "" "the rule has an action that cannot be executed yet"
    Deprecated "0022" Warning "IST0002" "the field is deprecated"
    EnvoyFilter "0023" Error "" "an EnvoyFilter selects this workload"
    ForeignEnvoyFilter "0024" Note "" "an EnvoyFilter does not select this workload"
    EmptySelector "0025" Warning "IST0133" "a selector has no labels"
    SchemaWarning "0026" Warning "IST0133" "Istio takes it, and warns of it"
    UnknownSubset "0101" Warning "IST0101" "a destination names a subset that is not defined"
    UnknownHost "0102" Warning "IST0101" "a host is not in the registry"
    UnknownPort "0103" Warning "IST0101" "a destination names a port that the service does not have"
    ConflictingHosts "0104" Warning "IST0109" "two virtual services claim one host"
    UnreachableRule "0105" Warning "IST0130" "a rule is never reached"
    IneffectiveMatch "0106" Warning "IST0131" "a match is covered by an earlier one"
    LoneWeight "0107" Warning "" "the weight of a lone destination has no effect"
    InvalidWeights "0108" Error "IST0106" "the weights cannot be used"
    InvalidRegex "0109" Error "IST0106" "the regular expression cannot be used"
    InvalidHost "0110" Error "IST0106" "the host name cannot be used"
    InvalidHeader "0111" Error "IST0106" "the header cannot be used"
    InvalidRetry "0112" Error "IST0106" "the retry policy cannot be used"
    LargeBody "0120" Warning "" "a direct response is large"
    IgnoredAuthority "0121" Warning "" "the authority of a destination has no effect"
    MissingDelegate "0122" Warning "" "a delegate does not exist or is not exported"
    ConflictingDelegate "0123" Warning "" "a rule of a delegate does not fit its root"
    UnusedDelegate "0124" Warning "" "nothing refers to a delegate"
    NeverHappens "0130" Warning "" "a fault never happens"
    NoEffect "0131" Warning "" "a field has no effect"
    PrefixIsText "0140" Note "" "a path prefix takes longer names too"
    RetriesCut "0141" Warning "" "retries do not fit into the timeout"
    UnsafeRetry "0142" Warning "" "retries may repeat a request that was carried out"
    PortNotChosen "0143" Warning "IST0112" "a destination of several ports names none"
    InvalidSubnet "0160" Error "IST0106" "the range of addresses cannot be used"
    UncoveredServerName "0161" Error "IST0106" "no host of the virtual service covers a server name"
    EmptySubset "0201" Warning "IST0173" "a subset selects no endpoint"
    NeverEjects "0202" Warning "" "the ejection limit never lets an endpoint go"
    DuplicateName "0203" Error "IST0106" "a name is given twice"
    ConflictingRules "0204" Warning "" "a part of a destination rule is not used"
    UnknownRuleHost "0210" Warning "IST0174" "the host of a destination rule is not in the registry"
    CookieWithoutTtl "0211" Warning "" "a hash cookie is never made"
    FailoverWithoutOutlier "0212" Warning "IST0133" "failover without outlier detection has no effect"
    SourceIpHash "0213" Note "" "a hash of the source address chooses one endpoint for all"
    IneffectivePolicy "0230" Warning "" "a part of the traffic policy has no effect"
    NotResolved "0301" Warning "" "the service's endpoints cannot be resolved yet"
    InvalidEndpoint "0302" Error "IST0106" "the endpoint cannot be used"
    DuplicateService "0303" Warning "" "a host is defined by two services"
    DomainTaken "0304" Warning "" "an address belongs to another service"
    UnlabelledEndpoints "0310" Warning "" "a subset selects among endpoints whose labels are not known"
    StraySlice "0311" Warning "" "an EndpointSlice belongs to no Service"
    NoEndpoints "0312" Warning "" "no EndpointSlice belongs to a Service"
    NamedWorkload "0320" Warning "" "a service selects a host name that it does not look up"
    AliasOfService "0321" Warning "" "an ExternalName is that of a service of the mesh"
    NoListener "0401" Warning "" "there is nothing to listen on"
    DuplicateListener "0402" Error "" "two listeners share an address"
    SeveralSidecars "0403" Warning "IST0111" "several sidecars apply"
    ListenerLoop "0404" Warning "" "an endpoint is an address of this proxy"
    IdleListener "0405" Warning "" "a listener carries no service"
    ConnectionsTaken "0420" Warning "" "raw connections of one port belong to another route"
    UselessHashKey "0421" Warning "" "a hash key is none that a raw connection has"
    SeveralTelemetries "0501" Warning "IST0160" "several telemetry resources apply at one level"
    UnknownProvider "0502" Warning "" "an extension provider is not defined"
    UnusedProvider "0503" Warning "" "an extension provider is not used"
    OutsideRegistry "0504" Warning "" "a receiver of telemetry is not in the registry"
    InvalidSampling "0505" Warning "" "the sampling is not a percentage"
}

impl Code {
    /// `OUTnnnn`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// Fixed by the code.
    #[must_use]
    pub const fn severity(self) -> Severity {
        self.row().severity
    }

    /// The code of `istioctl analyze` for the same finding, where there is one.
    #[must_use]
    pub fn istio(self) -> Option<&'static str> {
        Some(self.row().istio).filter(|code| !code.is_empty())
    }

    /// One sentence without a period.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.row().title
    }

    /// Meaning, consequence and examples, as Markdown.
    pub(super) const fn text(self) -> &'static str {
        self.row().page
    }

    /// What a user may mean by `OUT0105` or by Istio's `IST0130`, which may stand beside several; none is unknown.
    #[must_use]
    pub fn named(name: &str) -> Vec<Self> {
        let is = |code: &Self| {
            name.eq_ignore_ascii_case(code.name())
                || code.istio().is_some_and(|istio| name.eq_ignore_ascii_case(istio))
        };
        Self::ALL.iter().copied().filter(is).collect()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
