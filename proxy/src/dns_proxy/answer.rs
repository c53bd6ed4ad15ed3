//! A question as it came, and its answer if a service is meant. No socket here.

use std::net::IpAddr;

use hickory_resolver::proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata},
};
use outrigger_config::snapshot::HostNames;

use super::{Transport, wire::is_answer};

/// How long an answer may be kept (Istio).
const TTL: u32 = 30;

/// One question.
#[derive(Debug)]
pub(super) struct Question {
    message: Message,
    /// For the name servers: nothing is lost that is not understood here.
    bytes: Vec<u8>,
    over: Transport,
}

impl Question {
    /// `None` if it is no question, else the answer to one that cannot be read.
    pub(super) fn parse(bytes: &[u8], over: Transport) -> Option<Result<Self, Vec<u8>>> {
        let Ok(message) = Message::from_vec(bytes) else {
            // Without an id there is nobody to tell; an answer is not answered.
            let id = u16::from_be_bytes(*bytes.first_chunk()?);
            let refusal = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
            return refusal.to_vec().ok().filter(|_| !is_answer(bytes)).map(Err);
        };
        if message.metadata.message_type != MessageType::Query {
            return None;
        }
        let question = Self { message, bytes: bytes.to_vec(), over };
        if question.message.queries.len() != 1 {
            return Some(Err(question.with_code(ResponseCode::FormErr)));
        }
        Some(Ok(question))
    }

    /// The addresses of the service that it names, the `turn`-th first; none of them is an answer, too, where they are
    /// all of the other family. `None` is for the name servers.
    ///
    /// A resolver tries its search domains first: `name.DOMAIN` is answered as an alias of `name`, as Istio does for the
    /// first one, and the pod does not ask again.
    pub(super) fn answer(&self, names: &HostNames, search: Option<&str>, turn: u32) -> Option<Vec<u8>> {
        let query = self.message.queries.first()?;
        let is_for_addresses = matches!(query.query_type(), RecordType::A | RecordType::AAAA);
        if self.message.metadata.op_code != OpCode::Query
            || query.query_class() != DNSClass::IN
            || !is_for_addresses
        {
            return None;
        }
        let asked = query.name().to_lowercase().to_ascii();
        let asked = asked.strip_suffix('.').unwrap_or(&asked);
        let mut answers = Vec::new();
        let alias = || {
            let short = asked.strip_suffix(search?)?.strip_suffix('.')?;
            Some((Name::from_ascii(format!("{short}.")).ok()?, names.find(short)?))
        };
        let (owner, addresses) = match (names.exact(asked), alias()) {
            (Some(addresses), _) => (query.name().clone(), addresses),
            (None, Some((owner, addresses))) => {
                let alias = RData::CNAME(rdata::CNAME(owner.clone()));
                answers.push(Record::from_rdata(query.name().clone(), TTL, alias));
                (owner, addresses)
            }
            (None, None) => (query.name().clone(), names.below(asked)?),
        };
        let wanted = addresses.iter().filter_map(|address| match (address, query.query_type()) {
            (IpAddr::V4(ip), RecordType::A) => Some(RData::A(rdata::A(*ip))),
            (IpAddr::V6(ip), RecordType::AAAA) => Some(RData::AAAA(rdata::AAAA(*ip))),
            _ => None,
        });
        let mut records: Vec<_> = wanted.map(|data| Record::from_rdata(owner.clone(), TTL, data)).collect();
        if records.is_empty() {
            answers.clear();
        } else {
            let turn = usize::try_from(turn).unwrap_or_default() % records.len();
            records.rotate_left(turn);
        }
        let mut message = self.response();
        message.metadata.authoritative = true;
        message.answers = answers.into_iter().chain(records).collect();
        self.fitted(&message)
    }

    /// That it was not answered in time.
    pub(super) fn failure(&self) -> Vec<u8> {
        self.with_code(ResponseCode::ServFail)
    }

    /// As it came.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How it came.
    pub(super) fn over(&self) -> Transport {
        self.over
    }

    /// That the answer is too long for a datagram: the client asks again by TCP.
    pub(super) fn too_long(&self) -> Vec<u8> {
        self.response().truncate().to_vec().unwrap_or_default()
    }

    /// The longest answer that the client takes.
    pub(super) fn longest(&self) -> usize {
        match self.over {
            Transport::Udp => self.message.max_payload().into(),
            Transport::Tcp => u16::MAX.into(),
        }
    }

    fn with_code(&self, code: ResponseCode) -> Vec<u8> {
        let mut message = self.response();
        message.metadata.response_code = code;
        message.to_vec().unwrap_or_default()
    }

    fn response(&self) -> Message {
        let asked = &self.message;
        let mut message = Message::response(asked.metadata.id, asked.metadata.op_code);
        message.metadata = Metadata::response_from_request(&asked.metadata);
        message.metadata.recursion_available = true;
        message.queries.clone_from(&asked.queries);
        if asked.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload());
            message.set_edns(edns);
        }
        message
    }

    fn fitted(&self, message: &Message) -> Option<Vec<u8>> {
        let bytes = message.to_vec().ok()?;
        if bytes.len() <= self.longest() {
            return Some(bytes);
        }
        message.truncate().to_vec().ok()
    }
}
