//! `outrigger run -- CMD`: a job beside a sidecar. The command starts when the sidecar is ready, has the signals that
//! come for it, and the sidecar is told to finish when the command has ended, so that the pod completes.
//!
//! As the first process of a container it also takes up the processes that outlive the one that started them.

use std::{
    ffi::OsString,
    io,
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitCode, ExitStatus},
    time::Duration,
};

use clap::{Args, ValueEnum};
use futures_util::future::select_all;
use http::{Method, Uri};
use rustix::process::{Pid, Signal as Number, WaitOptions, getpid, kill_process, set_child_subreaper, wait};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep},
};

use super::{UNAVAILABLE, sidecar};

/// Run a command beside a sidecar, and end with its exit code (128 + n if signal n ended it; 127 if it is not found,
/// 126 if it cannot be run).
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:
  outrigger run -- /migrate --all
  outrigger run --without-sidecar run --wait 5 -- /report")]
pub(super) struct RunArgs {
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
    /// How long to wait for the sidecar to be ready.
    #[arg(long, env = "OUTRIGGER_RUN_WAIT", value_name = "SECONDS", default_value_t = 60)]
    wait: u32,
    /// What to do if nobody has listened on the readiness port for all that time.
    #[arg(
        long,
        env = "OUTRIGGER_RUN_WITHOUT_SIDECAR",
        value_enum,
        value_name = "WHAT",
        default_value = "fail"
    )]
    without_sidecar: WithoutSidecar,
    /// The sidecar's readiness.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15021")]
    health: SocketAddr,
    /// The sidecar's agent, which is told to finish.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15020")]
    agent: SocketAddr,
}

/// What to do where there is no sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WithoutSidecar {
    /// Exit with 69, the command unstarted: its traffic would have none of the mesh's rules.
    Fail,
    /// Run the command all the same.
    Run,
}

/// How long the sidecar has to take note of the end.
const FAREWELL: Duration = Duration::from_secs(5);

pub(super) fn run(args: &RunArgs) -> ExitCode {
    let code = sidecar::runtime().and_then(|runtime| {
        runtime.block_on(async {
            let code = beside_sidecar(args).await;
            // However it went: a sidecar that stays would keep the pod from its end.
            finish_sidecar(args.agent).await;
            code
        })
    });
    code.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        UNAVAILABLE.into()
    })
}

async fn beside_sidecar(args: &RunArgs) -> io::Result<ExitCode> {
    // First of all: a process 1 has no default action for signals.
    let mut signals = Signals::new()?;
    let mut deaths = signal(SignalKind::child())?;
    // The first process of a container has orphans anyhow, and elsewhere it is as good as whoever else has them.
    let _ = set_child_subreaper(Some(getpid()));
    let deadline = Instant::now() + Duration::from_secs(args.wait.into());
    let ready = tokio::select! {
        ready = sidecar::ready(args.health, deadline) => ready,
        number = signals.next() => return Ok(by_signal(number.as_raw())),
    };
    if let Err(why) = ready {
        match args.without_sidecar {
            WithoutSidecar::Run if why.is_absent() => eprintln!("outrigger run: no sidecar: {why}"),
            _ => {
                let hint = if why.is_absent() { "; without one: --without-sidecar run" } else { "" };
                eprintln!("error: no sidecar that is ready after {} s: {why}{hint}", args.wait);
                return Ok(UNAVAILABLE.into());
            }
        }
    }
    match start(&args.command) {
        Ok(child) => Ok(ended(attend(&child, &mut signals, &mut deaths).await?)),
        Err(error) => {
            let name = args.command.first().cloned().unwrap_or_default();
            eprintln!("error: cannot run {}: {error}", name.display());
            Ok(ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }))
        }
    }
}

fn start(command: &[OsString]) -> io::Result<Child> {
    let mut words = command.iter();
    // The command line is not without a command.
    let program = words.next().ok_or(io::ErrorKind::InvalidInput)?;
    Command::new(program).args(words).spawn()
}

/// Waits for the command, to which signals are passed on.
async fn attend(command: &Child, signals: &mut Signals, deaths: &mut Signal) -> io::Result<ExitStatus> {
    let id = Pid::from_child(command);
    loop {
        if let Some(status) = reap(id)? {
            return Ok(status);
        }
        tokio::select! {
            // It ends with the runtime only.
            _ = deaths.recv() => {}
            // It may have ended just now; it is not waited for yet, so its id is nobody else's.
            number = signals.next() => drop(kill_process(id, number)),
        }
    }
}

/// Takes leave of all children that have ended, whoever started them: nobody else does, and an entry of the kernel's
/// table would stay for each. The status of the command, if it is among them.
fn reap(command: Pid) -> io::Result<Option<ExitStatus>> {
    // There is a child until the command was seen.
    while let Some((ended, status)) = wait(WaitOptions::NOHANG)? {
        if ended == command {
            return Ok(Some(ExitStatus::from_raw(status.as_raw())));
        }
    }
    Ok(None)
}

fn ended(status: ExitStatus) -> ExitCode {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        (None, Some(number)) => by_signal(number),
        (None, None) => ExitCode::FAILURE,
    }
}

fn by_signal(number: i32) -> ExitCode {
    ExitCode::from(u8::try_from(128 + number).unwrap_or(u8::MAX))
}

/// Tells the sidecar that its job is done, a few times if it is busy. One that has gone needs no telling.
async fn finish_sidecar(agent: SocketAddr) {
    let deadline = Instant::now() + FAREWELL;
    let path = Uri::from_static("/quitquitquit");
    loop {
        let why = match sidecar::ask(agent, &Method::POST, &path, deadline).await {
            Ok(page) if page.status.is_success() => return,
            Ok(page) => format!("{agent} says {}", page.status),
            Err(why) if why.is_absent() => return,
            Err(why) => why.to_string(),
        };
        if Instant::now() >= deadline {
            eprintln!("warning: the sidecar was not told to finish: {why}");
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// The signals that are passed on.
#[derive(Debug)]
struct Signals(Vec<(Number, Signal)>);

impl Signals {
    fn new() -> io::Result<Self> {
        let passed_on = [
            (Number::TERM, SignalKind::terminate()),
            (Number::INT, SignalKind::interrupt()),
            (Number::HUP, SignalKind::hangup()),
            (Number::QUIT, SignalKind::quit()),
            (Number::USR1, SignalKind::user_defined1()),
            (Number::USR2, SignalKind::user_defined2()),
        ];
        passed_on
            .into_iter()
            .map(|(number, kind)| Ok((number, signal(kind)?)))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    async fn next(&mut self) -> Number {
        let each = self.0.iter_mut().map(|(number, signal)| {
            Box::pin(async move {
                // It ends with the runtime only.
                signal.recv().await;
                *number
            })
        });
        select_all(each).await.0
    }
}
