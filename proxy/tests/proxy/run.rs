//! The verbs for images without a shell: `run`, `healthcheck` and `admin`, beside a sidecar in this process.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ExitStatus, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use outrigger::app::DrainTimes;

use crate::{
    cli::{all, outrigger},
    support::{
        mesh::{Mesh, Proxy},
        origin::{Origin, Reply},
        ports::reserved_address,
        wait::{eventually, soon, until},
    },
};

const JOB: DrainTimes = DrainTimes {
    announce: Duration::from_secs(600),
    until_idle: None,
    at_most: None,
    close: Duration::from_secs(10),
};

async fn sidecar() -> Proxy {
    Mesh::web(&Origin::named("web").await).drain(JOB).start().await
}

/// `outrigger run` beside these pages, with a script for `sh`.
fn job(health: SocketAddr, agent: SocketAddr, more: &[&str], script: &str) -> std::process::Command {
    let (health, agent) = (health.to_string(), agent.to_string());
    let args = ["run", "--health", &health, "--agent", &agent];
    outrigger(&[&args, more, &["--", "sh", "-c", script]].concat())
}

fn beside(proxy: &Proxy, more: &[&str], script: &str) -> std::process::Command {
    job(proxy.address("health"), proxy.address("metrics"), more, script)
}

/// A readiness page that can be counted, for those who wait: 503 until it is told.
struct Health {
    page: Origin,
    ready: Arc<AtomicBool>,
}

impl Health {
    async fn unready() -> Self {
        let ready = Arc::<AtomicBool>::default();
        let told = Arc::clone(&ready);
        let page = Origin::http1(move |_| Reply::status(if told.load(SeqCst) { 200 } else { 503 })).await;
        Self { page, ready }
    }

    /// Waits until somebody has been told to wait so often.
    async fn asked(&self, times: usize) {
        until("questions", || (self.page.hits() >= times).then_some(())).await;
    }
}

async fn output(mut command: std::process::Command) -> Output {
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap());
    soon("the command to end", ended).await.unwrap()
}

#[tokio::test]
async fn a_job_ends_with_its_code_and_its_sidecar_with_it() {
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)] {
        let proxy = sidecar().await;
        let ended = output(beside(&proxy, &[], script)).await;
        assert_eq!(ended.status.code(), Some(code), "{script}: {}", all(&ended));
        proxy.ended().await;
    }
}

#[tokio::test]
async fn a_command_that_cannot_start_ends_the_sidecar_too() {
    let proxy = sidecar().await;
    let (health, agent) = (proxy.address("health").to_string(), proxy.address("metrics").to_string());
    let missing = ["run", "--health", &health, "--agent", &agent, "--", "/no/such/command"];
    let ended = output(outrigger(&missing)).await;
    assert_eq!(ended.status.code(), Some(127), "{}", all(&ended));
    assert!(all(&ended).contains("/no/such/command"), "{}", all(&ended));
    proxy.ended().await;
}

#[tokio::test]
async fn a_job_starts_when_its_sidecar_is_ready() {
    let (proxy, health) = (sidecar().await, Health::unready().await);
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("started");
    let script = format!("touch {}", mark.display());
    let mut child = job(health.page.address(), proxy.address("metrics"), &[], &script).spawn().unwrap();
    health.asked(3).await;
    assert!(!mark.exists());
    health.ready.store(true, SeqCst);
    let status = until("the end", || child.try_wait().unwrap()).await;
    assert!(status.success() && mark.exists());
    proxy.ended().await;
}

#[tokio::test]
async fn what_outlives_its_parent_is_taken_up_and_taken_leave_of() {
    let proxy = sidecar().await;
    // The orphan ends when it is told to. A process that nobody takes leave of stays in the table, as a zombie.
    let script = r#"
        fifo=$(mktemp -u) && mkfifo "$fifo" || exit 10
        orphan=$(sh -c 'cat "$0" > /dev/null & echo $!' "$fifo")
        grep -q "^PPid:[[:space:]]*$PPID\$" /proc/$orphan/status || exit 11
        echo end > "$fifo"
        rm "$fifo"
        tries=0
        while [ -e /proc/$orphan ]; do
            tries=$((tries + 1))
            [ $tries -lt 400 ] || exit 12
            sleep 0.05
        done
        exit 5"#;
    let ended = output(beside(&proxy, &[], script)).await;
    assert_eq!(ended.status.code(), Some(5), "{}", all(&ended));
    proxy.ended().await;
}

#[tokio::test]
async fn signals_reach_the_command() {
    for (signal, code) in [("TERM", 7), ("INT", 8), ("HUP", 9), ("USR1", 10)] {
        let proxy = sidecar().await;
        let script = format!("trap 'exit {code}' {signal}; echo up; while :; do sleep 0.05; done");
        let mut child = beside(&proxy, &[], &script).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let up = tokio::task::spawn_blocking(move || lines.read_line(&mut String::new()).unwrap());
        assert_eq!(soon("the command", up).await.unwrap(), 3);
        kill(&child, signal);
        let status: ExitStatus = until("the end", || child.try_wait().unwrap()).await;
        assert_eq!(status.code(), Some(code), "{signal}");
        proxy.ended().await;
    }
}

fn kill(child: &Child, signal: &str) {
    let signal = format!("-{signal}");
    let status = std::process::Command::new("kill").args([&signal, &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn a_signal_before_the_sidecar_is_ready_ends_the_wait() {
    let (proxy, health) = (sidecar().await, Health::unready().await);
    let mut child = job(health.page.address(), proxy.address("metrics"), &[], "exit 0").spawn().unwrap();
    health.asked(1).await;
    kill(&child, "TERM");
    let status = until("the end", || child.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(128 + 15));
    proxy.ended().await;
}

#[tokio::test]
async fn without_a_sidecar_the_flag_decides() {
    let nobody = reserved_address();
    let refused = output(job(nobody, nobody, &["--wait", "0"], "exit 3")).await;
    assert_eq!(refused.status.code(), Some(69), "{}", all(&refused));
    assert!(all(&refused).contains("--without-sidecar run"), "{}", all(&refused));
    let ran = output(job(nobody, nobody, &["--wait", "0", "--without-sidecar", "run"], "exit 3")).await;
    assert_eq!(ran.status.code(), Some(3), "{}", all(&ran));
    // A sidecar that is there and not ready is not one that is not there.
    let proxy = sidecar().await;
    assert_eq!(proxy.admin_as("POST", "/healthcheck/fail").await.status, 200);
    let unready = output(beside(&proxy, &["--wait", "0", "--without-sidecar", "run"], "exit 3")).await;
    assert_eq!(unready.status.code(), Some(69), "{}", all(&unready));
    // Its pod is to end all the same.
    proxy.ended().await;
}

#[tokio::test]
async fn healthcheck_tells_readiness_by_its_exit_code() {
    let proxy = sidecar().await;
    let address = proxy.address("health").to_string();
    let check = async |address: &str, more: &[&str]| {
        output(outrigger(&[&["healthcheck", "--address", address], more].concat())).await
    };
    let ready = check(&address, &["--wait", "10"]).await;
    assert_eq!((ready.status.code(), &*all(&ready)), (Some(0), ""));
    assert_eq!(proxy.admin_as("POST", "/healthcheck/fail").await.status, 200);
    let unready = check(&address, &[]).await;
    let reason = format!("not ready: {address} says 503 DRAINING\n");
    assert_eq!((unready.status.code(), all(&unready)), (Some(1), reason));
    let nobody = reserved_address().to_string();
    let absent = check(&nobody, &[]).await;
    assert_eq!(absent.status.code(), Some(1));
    assert!(all(&absent).starts_with(&format!("cannot connect to {nobody}: ")), "{}", all(&absent));
}

#[tokio::test]
async fn healthcheck_waits_if_it_is_told_to() {
    let health = Health::unready().await;
    let address = health.page.address().to_string();
    let waiting = outrigger(&["healthcheck", "--address", &address, "--wait", "60"]).spawn();
    let mut waiting = waiting.unwrap();
    health.asked(3).await;
    health.ready.store(true, SeqCst);
    assert!(until("the end of the wait", || waiting.try_wait().unwrap()).await.success());
}

#[tokio::test]
async fn admin_asks_for_a_page() {
    let proxy = sidecar().await;
    let ask = async |address: &str, args: &[&str]| {
        let address = proxy.address(address).to_string();
        output(outrigger(&[&["admin", "--address", &address], args].concat())).await
    };
    let info = ask("admin", &["GET", "server_info"]).await;
    assert!(info.status.success() && all(&info).contains("\"state\": \"LIVE\""), "{}", all(&info));
    let refused = ask("admin", &["GET", "/reload"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        all(&refused).contains("says 405 Method Not Allowed: Method GET not allowed"),
        "{}",
        all(&refused)
    );
    assert!(ask("metrics", &["POST", "/drain"]).await.status.success());
    let ready = async || (proxy.agent("GET", "/healthz/ready").await.status == 503).then_some(());
    eventually("readiness to go off", ready).await;
    let nobody = reserved_address().to_string();
    let absent = output(outrigger(&["admin", "--address", &nobody, "GET", "/ready"])).await;
    assert_eq!(absent.status.code(), Some(69), "{}", all(&absent));
}
