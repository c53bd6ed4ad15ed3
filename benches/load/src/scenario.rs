//! The scenarios by name.

use crate::{
    goals::{self, Goal},
    load::{Load, h2::Call},
};

/// One thing that is measured of every proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) work: Work,
    /// Percentage of requests that are traced.
    pub(crate) sampling: u8,
    pub(crate) max_requests_per_connection: Option<u32>,
    /// Whether clients come by mutual TLS and the origin is reached by it.
    pub(crate) mtls: bool,
    /// Whether bare hyper takes part, which traces nothing.
    pub(crate) hyper: bool,
    /// Whether a short run has it.
    pub(crate) quick: bool,
    pub(crate) goals: &'static [Goal],
}

/// What is done with the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Requests.
    Load(Load),
    /// Connections that do nothing any more.
    Idle,
    /// Its start, with a small configuration and a large one.
    Start,
}

const GRPC: Load = Load::H2 { connections: 8, streams: 8, call: Call::Grpc };
const H1: Load = Load::H1 { connections: 64 };
const CHURN: Load = Load::Churn { connections: 32 };

const BASE: Scenario = Scenario {
    name: "h1-64",
    about: "HTTP/1.1 keep-alive, 64 connections, GET, 1 KiB",
    work: Work::Load(H1),
    sampling: 1,
    max_requests_per_connection: None,
    mtls: false,
    hyper: true,
    quick: true,
    goals: goals::H1,
};

/// All of them, in the order in which they run.
pub(crate) const ALL: [Scenario; 14] = [
    BASE,
    Scenario {
        name: "grpc-8k",
        about: "unary gRPC, 8 connections x 8 streams, 8 KiB up, 1 KiB down",
        work: Work::Load(GRPC),
        goals: goals::GRPC,
        ..BASE
    },
    Scenario {
        name: "h2-32x32",
        about: "HTTP/2, 32 connections x 32 streams, GET, 1 KiB",
        work: Work::Load(Load::H2 { connections: 32, streams: 32, call: Call::Get }),
        goals: goals::H2,
        ..BASE
    },
    Scenario {
        name: "h1-churn",
        about: "HTTP/1.1, a new connection for each request, 32 at a time",
        work: Work::Load(CHURN),
        quick: false,
        goals: goals::CHURN,
        ..BASE
    },
    Scenario {
        name: "h1-10",
        about: "h1-64 with maxRequestsPerConnection: 10",
        max_requests_per_connection: Some(10),
        goals: goals::TEN,
        ..BASE
    },
    Scenario {
        name: "h1-64-t100",
        about: "h1-64, every request traced and exported",
        sampling: 100,
        hyper: false,
        goals: goals::H1_TRACED,
        ..BASE
    },
    Scenario {
        name: "grpc-8k-t100",
        about: "grpc-8k, every request traced and exported",
        work: Work::Load(GRPC),
        sampling: 100,
        hyper: false,
        quick: false,
        goals: goals::GRPC_TRACED,
        ..BASE
    },
    Scenario {
        name: "h1-64-mtls",
        about: "h1-64 by mutual TLS on both sides: through an inbound and an outbound listener",
        mtls: true,
        goals: goals::H1_MTLS,
        ..BASE
    },
    Scenario {
        name: "grpc-8k-mtls",
        about: "grpc-8k by mutual TLS on both sides",
        work: Work::Load(GRPC),
        mtls: true,
        quick: false,
        goals: goals::GRPC_MTLS,
        ..BASE
    },
    Scenario {
        name: "h1-churn-mtls",
        about: "h1-churn by mutual TLS on both sides: a full handshake for each request",
        work: Work::Load(CHURN),
        mtls: true,
        quick: false,
        goals: &[],
        ..BASE
    },
    Scenario {
        name: "open-h1-2000",
        about: "open loop, HTTP/1.1, 2,000 arrivals a second by chance",
        work: Work::Load(Load::OpenH1 { rate: 2000 }),
        quick: false,
        goals: goals::OPEN,
        ..BASE
    },
    Scenario {
        name: "open-grpc-1000",
        about: "open loop, unary gRPC with 8 KiB, 1,000 arrivals a second by chance",
        work: Work::Load(Load::OpenGrpc { rate: 1000 }),
        quick: false,
        goals: goals::OPEN,
        ..BASE
    },
    Scenario {
        name: "idle",
        about: "memory at rest, and for each idle HTTP/1.1 connection that has made a request",
        work: Work::Idle,
        goals: goals::IDLE,
        ..BASE
    },
    Scenario {
        name: "start",
        about: "start to the first answer, small and with 1,000 services of 5 endpoints",
        work: Work::Start,
        goals: goals::START,
        ..BASE
    },
];
