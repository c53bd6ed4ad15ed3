//! `outrigger explain`: where a configuration sends a request, and why, without running it.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use outrigger_config::{Loader, snapshot::TelemetryDefaults};

use super::{BAD_CONFIGURATION, Output, USAGE, identity::IdentityArgs, show};
use crate::{
    http::explain::{CLIENT, Question, explain},
    reload::Sources,
    upstream::Upstreams,
};

/// Tell where a configuration sends a request, and why.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:
  outrigger explain --config rules/ --request 'http://reviews:9080/reviews/1' -H 'x-user: alice'
  outrigger explain --config rules/ --request 'POST http://otlp-collector:4317/' --http2 --seed 7
  outrigger explain --config rules/ --request 'http://reviews:9080/' -o json | jq .outcome
  outrigger explain --config rules/ --request 'https://db.example.com:5432/'

The port of the URL chooses the listener. One of raw connections reads no request: of `https://NAME:PORT` NAME is the
server name of the hello, any other scheme has none. Without --seed, what is left to chance stays open: every weight is
shown with its share. A running proxy answers the same question at POST /explain of its admin port.

EXIT CODES: 0 explained, whatever comes of the request; 65 bad configuration, 64 usage")]
pub(super) struct ExplainArgs {
    /// Files or folders (*.yaml, *.yml) of Istio documents; `-` is standard input.
    #[arg(long, env = "OUTRIGGER_CONFIG", value_name = "PATH", required = true, num_args = 1.., value_delimiter = ',')]
    config: Vec<PathBuf>,
    /// `METHOD http://host:port/path?query`, or the URL alone for GET.
    #[arg(long, value_name = "REQUEST")]
    request: String,
    /// A header of the request; `Host` wins over that of the URL.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The client speaks HTTP/2.
    #[arg(long)]
    http2: bool,
    /// Address of the client, for hashing.
    #[arg(long, value_name = "IP", default_value_t = CLIENT.ip())]
    client: IpAddr,
    /// The listener by its name, where the port is not enough.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Settle what is left to chance as the first request of a worker with this seed would have it.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    identity: IdentityArgs,
}

pub(super) fn run(args: &ExplainArgs) -> ExitCode {
    let question = match Question::read(&args.request, args.headers.iter().map(String::as_str)) {
        Ok(question) => question,
        Err(error) => return refuse(&error, USAGE),
    };
    let question = Question {
        http2: args.http2,
        client: SocketAddr::new(args.client, CLIENT.port()),
        listener: args.listener.clone(),
        seed: args.seed,
        ..question
    };
    let documents = match Sources::new(args.config.clone(), args.identity.mesh_config.clone()).read() {
        Ok(documents) => documents,
        Err(error) => return refuse(&error, BAD_CONFIGURATION),
    };
    // Nothing runs, so no EnvoyFilter is in the way.
    let mut loader =
        Loader::new(args.identity.node(), TelemetryDefaults::default()).allow_envoy_filters(true);
    let loaded = match documents.compile(&mut loader) {
        Ok(loaded) => loaded,
        Err(report) => {
            eprintln!("{report}");
            return BAD_CONFIGURATION.into();
        }
    };
    let published = Upstreams::new().publish(Arc::new(loaded.snapshot));
    match explain(&published, None, &question) {
        Ok(explained) => {
            match args.output {
                Output::Text => show(&explained.to_string()),
                Output::Json => show(&format!("{:#}\n", explained.to_json())),
            }
            ExitCode::SUCCESS
        }
        Err(error) => refuse(&error, USAGE),
    }
}

fn refuse(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("error: {error}");
    code.into()
}
