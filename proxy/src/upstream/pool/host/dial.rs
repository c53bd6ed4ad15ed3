//! How a pool gets a connection: when it opens one, how that goes, and what becomes of those who wait if it fails.

use std::rc::Rc;

use tokio::{
    task::spawn_local,
    time::{Instant, timeout_at},
};

use super::{HostPool, Life, Payload, PoolError, Wire, h1, h2};
use crate::{
    net::tls::Speaks,
    upstream::{
        ConnectionPermit, ResetReason,
        connect::{Destination, Socket},
    },
};

impl<B: Payload> HostPool<B> {
    /// HTTP/1 opens one connection for each waiting request, HTTP/2 one at a time.
    pub(super) fn dial_for_waiting(self: &Rc<Self>) {
        while self.has_waiting() {
            let mut state = self.state.borrow_mut();
            let enough = match self.wire {
                Wire::Http1 => state.connecting >= state.waiting.len(),
                Wire::Http2 => state.connecting > 0,
            };
            if enough {
                return;
            }
            let first = state.open + state.connecting == 0;
            let Some(permit) = ConnectionPermit::acquire(&self.cluster, &self.host, first) else { return };
            state.connecting += 1;
            drop(state);
            match self.wire {
                Wire::Http1 => self.cluster.stats.upstream_cx_http1_total.inc(),
                Wire::Http2 => self.cluster.stats.upstream_cx_http2_total.inc(),
            }
            spawn_local(self.clone().dial(permit));
        }
    }

    async fn dial(self: Rc<Self>, permit: ConnectionPermit) {
        let result = self.open(permit).await;
        self.state.borrow_mut().connecting -= 1;
        match result {
            // Ended already, or willing to take nothing: another one would be no better, and there would be no end.
            Ok(()) if !self.hand_out() => {
                self.fail_waiting(&PoolError::Reset(ResetReason::ConnectionTermination));
            }
            Ok(()) => self.dial_for_waiting(),
            Err(error) => self.fail_waiting(&error),
        }
    }

    async fn open(self: &Rc<Self>, permit: ConnectionPermit) -> Result<(), PoolError> {
        let config = self.cluster.config();
        let deadline = Instant::now() + config.connect_timeout;
        let speaks = match self.wire {
            Wire::Http1 => Speaks::Http1,
            Wire::Http2 => Speaks::Http2,
        };
        let to =
            Destination { cluster: &self.cluster, host: &self.host, asked_for: self.asked_for.as_deref() };
        let connect = Socket::connect(to, speaks, config.keepalive, permit);
        let socket = match timeout_at(deadline, connect).await {
            Ok(connected) => connected.inspect_err(|_| self.count_end(true))?,
            Err(_) => return Err(self.out_of_time()),
        };
        let id = {
            let mut state = self.state.borrow_mut();
            state.next_id += 1;
            state.next_id
        };
        let life = Rc::new(Life::new(id, socket.local_address()?, socket.parties(), socket.meter(), &config));
        // Counted before its driver runs, which may see its end before anybody else sees its beginning.
        match self.wire {
            Wire::Http1 => {
                let (mut connection, driver) = h1::handshake(&self.cluster, socket, life).await?;
                self.state.borrow_mut().open += 1;
                spawn_local(self.clone().drive_h1(driver));
                connection.ready().await?;
                self.state.borrow_mut().idle.push(connection);
            }
            Wire::Http2 => {
                let shaken = h2::handshake(&self.cluster, socket, life, config.http2_keepalive).await;
                let (connection, mut driver) = shaken.inspect_err(|_| self.count_end(true))?;
                // The peer's settings are part of it: a request on a connection that never gets to speak would wait for
                // ever, and all others behind it.
                match timeout_at(deadline, driver.settled()).await {
                    Ok(Some(())) => {}
                    Ok(None) => {
                        let by_peer = driver.life.ended_by_peer();
                        self.count_end(by_peer);
                        if by_peer && self.has_waiting() {
                            driver.life.count_cut(by_peer, &self.cluster.stats);
                        }
                        return Err(PoolError::Reset(driver.life.end()));
                    }
                    Err(_) => return Err(self.out_of_time()),
                }
                self.state.borrow_mut().open += 1;
                spawn_local(self.clone().drive_h2(driver));
                self.state.borrow_mut().shared.push(connection);
            }
        }
        Ok(())
    }

    fn out_of_time(&self) -> PoolError {
        self.count_end(false);
        PoolError::ConnectTimeout
    }

    /// Envoy fails the whole line when a connection fails: the retry policy knows better what to do with each. What
    /// waits for HTTP/2 settings here is on its connection there, and counted so.
    fn fail_waiting(&self, error: &PoolError) {
        let stats = &self.cluster.stats;
        if let PoolError::Reset(reason) = error {
            if *reason == ResetReason::ProtocolError {
                stats.upstream_cx_protocol_error.inc();
            }
        } else {
            stats.upstream_cx_connect_fail.inc();
            self.host.stats().cx_connect_fail.inc();
        }
        if matches!(error, PoolError::ConnectTimeout) {
            stats.upstream_cx_connect_timeout.inc();
        }
        let waiting = std::mem::take(&mut self.state.borrow_mut().waiting);
        for turn in waiting {
            if turn.send(Err(error.clone())).is_err() {
                continue;
            }
            if matches!(error, PoolError::Reset(_)) {
                stats.upstream_rq_total.inc();
                self.host.stats().rq_total.inc();
            }
            match error {
                PoolError::Reset(ResetReason::ProtocolError) => stats.upstream_rq_tx_reset.inc(),
                _ => stats.upstream_rq_pending_failure_eject.inc(),
            }
        }
    }
}
