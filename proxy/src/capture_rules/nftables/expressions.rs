//! A rule as the kernel's small machine runs it: load something into the register, compare, act.

use std::net::IpAddr;

use crate::capture_rules::{
    netlink::Attributes,
    options::{Family, Interface, Network},
    rules::{Action, ChainName, Condition, ConnectionState, Owner, Protocol, Rule},
};

/// The one register that conditions and actions use, `NFT_REG_1`: 16 bytes.
const REGISTER: u32 = 1;
/// `NFT_REG_VERDICT`.
const VERDICT: u32 = 0;
/// The value among `NFTA_DATA_*`.
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

/// One instruction.
#[derive(Debug)]
pub(super) struct Expression {
    pub(super) name: &'static str,
    pub(super) attributes: Attributes,
}

/// The instructions of a rule.
pub(super) fn of(rule: &Rule) -> Vec<Expression> {
    let mut program = Program::default();
    for condition in &rule.conditions {
        program.condition(condition);
    }
    program.push("counter", Attributes::new());
    program.action(rule.action);
    program.expressions
}

/// What of a packet or its surroundings is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Meta(Meta),
    Connection(Connection),
    /// Bytes of the IP header: offset and length.
    Network(u32, u32),
    /// Bytes of the TCP or UDP header.
    Transport(u32, u32),
}

/// `NFT_META_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Meta {
    Mark = 3,
    In = 6,
    Out = 7,
    SocketUser = 10,
    SocketGroup = 11,
    Family = 15,
    Protocol = 16,
}

/// `NFT_CT_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Connection {
    State = 0,
    Mark = 3,
    Zone = 17,
}

/// `NFT_CMP_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Compare {
    Equal = 0,
    Different = 1,
}

/// `NFT_RETURN`, `NFT_JUMP` and netfilter's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
enum Verdict {
    Drop = 0,
    Accept = 1,
    Jump = -3,
    Return = -5,
}

#[derive(Debug, Default)]
struct Program {
    expressions: Vec<Expression>,
    /// What the register holds.
    loaded: Option<Field>,
    /// Conditions that hold already, as addresses and ports can only be read if they do.
    family: Option<Family>,
    protocol: Option<Protocol>,
}

impl Program {
    fn condition(&mut self, condition: &Condition) {
        match condition {
            Condition::Protocol(protocol) => self.protocol(*protocol),
            Condition::Source(network) => self.address(12, 8, Compare::Equal, *network),
            Condition::Destination(network) => self.address(16, 24, Compare::Equal, *network),
            Condition::NotDestination(network) => self.address(16, 24, Compare::Different, *network),
            Condition::SourcePort(protocol, port) => self.port(0, Compare::Equal, *protocol, port.get()),
            Condition::DestinationPort(protocol, port) => self.port(2, Compare::Equal, *protocol, port.get()),
            Condition::NotDestinationPort(protocol, port) => {
                self.port(2, Compare::Different, *protocol, port.get());
            }
            Condition::In(interface) => self.interface(Meta::In, interface),
            Condition::Out(interface) => self.interface(Meta::Out, interface),
            Condition::Owner(owner) => self.owner(Compare::Equal, *owner),
            Condition::NotOwner(owner) => self.owner(Compare::Different, *owner),
            Condition::Marked(mark) => self.number(Field::Meta(Meta::Mark), Compare::Equal, mark.0),
            Condition::NotMarked(mark) => self.number(Field::Meta(Meta::Mark), Compare::Different, mark.0),
            Condition::ConnectionMarked(mark) => {
                self.number(Field::Connection(Connection::Mark), Compare::Equal, mark.0);
            }
            Condition::Connection(state) => self.state(*state),
        }
    }

    fn action(&mut self, action: Action) {
        match action {
            Action::Return => self.verdict(Verdict::Return, None),
            Action::Accept => self.verdict(Verdict::Accept, None),
            Action::Drop => self.verdict(Verdict::Drop, None),
            Action::Jump(chain) => self.verdict(Verdict::Jump, Some(chain)),
            Action::Redirect(port) => {
                self.immediate(&port.get().to_be_bytes());
                self.push("redir", Attributes::new().be32(1, REGISTER));
            }
            Action::TProxy(family, port, mark) => {
                self.immediate(&port.get().to_be_bytes());
                self.push("tproxy", Attributes::new().be32(1, number(family).into()).be32(3, REGISTER));
                self.action(Action::SetMark(mark));
                self.action(Action::Accept);
            }
            Action::SetMark(mark) => {
                self.immediate(&mark.0.to_ne_bytes());
                self.set_meta(Meta::Mark);
            }
            Action::SaveMark => {
                self.load(Field::Meta(Meta::Mark));
                self.set_connection(Connection::Mark);
            }
            Action::RestoreMark => {
                self.load(Field::Connection(Connection::Mark));
                self.set_meta(Meta::Mark);
            }
            Action::Zone(zone) => {
                self.immediate(&zone.to_ne_bytes());
                self.set_connection(Connection::Zone);
            }
        }
    }

    fn address(&mut self, v4_offset: u32, v6_offset: u32, compare: Compare, network: Network) {
        let family = network.family();
        if self.family.replace(family) != Some(family) {
            self.load(Field::Meta(Meta::Family));
            self.compare(Compare::Equal, &[number(family)]);
        }
        let (offset, address) = match network.address() {
            IpAddr::V4(address) => (v4_offset, address.octets().to_vec()),
            IpAddr::V6(address) => (v6_offset, address.octets().to_vec()),
        };
        // As nft does: of a prefix of whole bytes only those are looked at, of others all, with a mask.
        let prefix = usize::from(network.prefix());
        let is_whole = prefix % 8 == 0;
        let bytes = if is_whole { prefix / 8 } else { address.len() };
        let value = address.get(..bytes).unwrap_or_default();
        if value.is_empty() {
            return;
        }
        self.load(Field::Network(offset, u32::try_from(bytes).unwrap_or_default()));
        if !is_whole {
            self.keep(&network.mask());
        }
        self.compare(compare, value);
    }

    fn port(&mut self, offset: u32, compare: Compare, protocol: Protocol, port: u16) {
        self.protocol(protocol);
        self.load(Field::Transport(offset, 2));
        self.compare(compare, &port.to_be_bytes());
    }

    fn protocol(&mut self, protocol: Protocol) {
        if self.protocol.replace(protocol) == Some(protocol) {
            return;
        }
        let number = match protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        };
        self.load(Field::Meta(Meta::Protocol));
        self.compare(Compare::Equal, &[number]);
    }

    fn interface(&mut self, field: Meta, interface: &Interface) {
        self.load(Field::Meta(field));
        match interface.beginning() {
            Some(beginning) => self.compare(Compare::Equal, beginning.as_bytes()),
            None => {
                // The kernel's names fill 16 bytes.
                let mut name = interface.as_str().as_bytes().to_vec();
                name.resize(16, 0);
                self.compare(Compare::Equal, &name);
            }
        }
    }

    fn owner(&mut self, compare: Compare, owner: Owner) {
        match owner {
            Owner::User(id) => self.number(Field::Meta(Meta::SocketUser), compare, id),
            Owner::Group(id) => self.number(Field::Meta(Meta::SocketGroup), compare, id),
        }
    }

    fn number(&mut self, field: Field, compare: Compare, number: u32) {
        self.load(field);
        self.compare(compare, &number.to_ne_bytes());
    }

    fn state(&mut self, state: ConnectionState) {
        // `NF_CT_STATE_BIT` of established and related, `NF_CT_STATE_INVALID_BIT`.
        let bits: u32 = match state {
            ConnectionState::Known => 1 << 1 | 1 << 2,
            ConnectionState::Invalid => 1,
        };
        self.load(Field::Connection(Connection::State));
        self.keep(&bits.to_ne_bytes());
        self.compare(Compare::Different, &[0; 4]);
    }

    fn load(&mut self, field: Field) {
        if self.loaded.replace(field) == Some(field) {
            return;
        }
        let to = Attributes::new().be32(1, REGISTER);
        let payload = |base, offset, length| to.clone().be32(2, base).be32(3, offset).be32(4, length);
        match field {
            Field::Meta(key) => self.push("meta", to.be32(2, key as u32)),
            Field::Connection(key) => self.push("ct", to.be32(2, key as u32)),
            Field::Network(offset, length) => self.push("payload", payload(1, offset, length)),
            Field::Transport(offset, length) => self.push("payload", payload(2, offset, length)),
        }
    }

    fn compare(&mut self, compare: Compare, value: &[u8]) {
        let data = Attributes::new().bytes(DATA_VALUE, value);
        self.push("cmp", Attributes::new().be32(1, REGISTER).be32(2, compare as u32).nested(3, &data));
    }

    /// Clears the bits of the register that are not in `mask`.
    fn keep(&mut self, mask: &[u8]) {
        let length = u32::try_from(mask.len()).unwrap_or_default();
        let mask_data = Attributes::new().bytes(DATA_VALUE, mask);
        let nothing = Attributes::new().bytes(DATA_VALUE, &vec![0; mask.len()]);
        let registers = Attributes::new().be32(1, REGISTER).be32(2, REGISTER).be32(3, length);
        self.push("bitwise", registers.nested(4, &mask_data).nested(5, &nothing));
        self.loaded = None;
    }

    fn immediate(&mut self, value: &[u8]) {
        let data = Attributes::new().bytes(DATA_VALUE, value);
        self.push("immediate", Attributes::new().be32(1, REGISTER).nested(2, &data));
        self.loaded = None;
    }

    fn set_meta(&mut self, key: Meta) {
        self.push("meta", Attributes::new().be32(2, key as u32).be32(3, REGISTER));
    }

    fn set_connection(&mut self, key: Connection) {
        self.push("ct", Attributes::new().be32(2, key as u32).be32(4, REGISTER));
    }

    fn verdict(&mut self, verdict: Verdict, chain: Option<ChainName>) {
        let mut inner = Attributes::new().be32(1, (verdict as i32).cast_unsigned());
        if let Some(chain) = chain {
            inner = inner.text(2, chain.as_str());
        }
        let data = Attributes::new().nested(DATA_VERDICT, &inner);
        self.push("immediate", Attributes::new().be32(1, VERDICT).nested(2, &data));
    }

    fn push(&mut self, name: &'static str, attributes: Attributes) {
        self.expressions.push(Expression { name, attributes });
    }
}

/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
const fn number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}
