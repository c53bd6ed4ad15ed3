//! A conversation with the kernel: what was asked is answered before the call returns, or the kernel says why not.

use std::{ops::ControlFlow, os::fd::OwnedFd, time::Duration};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
        netlink::{self, SocketAddrNetlink},
        recv, sendto, socket_with, sockopt,
    },
};

use super::message::{Message, Received, received};

/// The kernel answers before `send` returns; this bounds what a broken one can cost.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// The kernel fills datagrams of a list up to 32 KiB.
const DATAGRAM: usize = 64 * 1024;
/// What fits a socket's buffer as it is.
const USUAL_REQUEST: usize = 64 * 1024;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Whom to talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subsystem {
    Netfilter,
    Routing,
}

/// The kernel's no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Errno,
    /// Which of the messages it was, if it was a single one.
    pub(crate) index: Option<usize>,
}

impl From<Errno> for Refusal {
    fn from(reason: Errno) -> Self {
        Self { reason, index: None }
    }
}

/// A netlink socket.
#[derive(Debug)]
pub(crate) struct Socket {
    socket: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// # Errors
    /// The kernel lacks the subsystem.
    pub(crate) fn open(subsystem: Subsystem) -> Result<Self, Errno> {
        let protocol = match subsystem {
            Subsystem::Netfilter => Some(netlink::NETFILTER),
            Subsystem::Routing => None,
        };
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(LONGEST_WAIT))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes one change.
    ///
    /// # Errors
    /// Why it was not made.
    pub(crate) fn change(&mut self, message: &Message) -> Result<(), Errno> {
        let sequence = self.next_sequence();
        let mut request = Vec::new();
        message.write(sequence, message.flags.and_acknowledged(), &mut request);
        self.send(&request)?;
        self.receive(|answer| match outcome(answer) {
            Some(outcome) if answer.sequence == sequence => ControlFlow::Break(outcome),
            _ => ControlFlow::Continue(()),
        })?
    }

    /// Makes all changes or none: `begin` and `end` are the subsystem's brackets around them.
    ///
    /// # Errors
    /// The first change that was refused; none was made.
    pub(crate) fn transaction(
        &mut self,
        begin: &Message,
        changes: &[Message],
        end: &Message,
    ) -> Result<(), Refusal> {
        let mut request = Vec::new();
        let first = self.next_sequence();
        begin.write(first, begin.flags, &mut request);
        let mut last = first;
        for (index, change) in changes.iter().enumerate() {
            last = self.next_sequence();
            // One answer is enough: what is refused is answered anyway, and before it.
            let is_last = index + 1 == changes.len();
            let flags = if is_last { change.flags.and_acknowledged() } else { change.flags };
            change.write(last, flags, &mut request);
        }
        end.write(self.next_sequence(), end.flags, &mut request);
        self.send(&request)?;
        let mut refusal = None;
        self.receive(|answer| {
            let Some(outcome) = outcome(answer) else { return ControlFlow::Continue(()) };
            if let Err(reason) = outcome {
                let index =
                    answer.sequence.checked_sub(first + 1).and_then(|index| usize::try_from(index).ok());
                refusal.get_or_insert(Refusal { reason, index });
            }
            // A refusal of the whole comes alone, as one of the bracket.
            match answer.sequence {
                sequence if sequence == last || sequence == first => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        })?;
        refusal.map_or(Ok(()), Err)
    }

    /// Lists what `message` asks for: the body of each answer.
    ///
    /// # Errors
    /// Why there is no list.
    pub(crate) fn list(&mut self, message: &Message) -> Result<Vec<Vec<u8>>, Errno> {
        let sequence = self.next_sequence();
        let mut request = Vec::new();
        message.write(sequence, message.flags, &mut request);
        self.send(&request)?;
        let mut bodies = Vec::new();
        self.receive(|answer| {
            if answer.sequence != sequence {
                return ControlFlow::Continue(());
            }
            match outcome(answer) {
                Some(outcome) => return ControlFlow::Break(outcome),
                None if answer.kind == DONE => return ControlFlow::Break(Ok(())),
                None => bodies.push(answer.body.to_vec()),
            }
            ControlFlow::Continue(())
        })??;
        Ok(bodies)
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }

    fn send(&self, request: &[u8]) -> Result<(), Errno> {
        if request.len() > USUAL_REQUEST {
            // A large one needs room in the kernel for itself and the kernel's own bookkeeping.
            sockopt::set_socket_send_buffer_size_force(&self.socket, request.len() * 2)?;
        }
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, request, SendFlags::empty(), &kernel)?;
        Ok(())
    }

    /// Shows all messages to `take`, until it has seen what it waited for.
    fn receive<R>(&self, mut take: impl FnMut(Received<'_>) -> ControlFlow<R>) -> Result<R, Errno> {
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let (length, _) = recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            for message in received(buffer.get(..length).unwrap_or_default()) {
                if let ControlFlow::Break(result) = take(message) {
                    return Ok(result);
                }
            }
        }
    }
}

/// What a message says about a change, if that is what it says.
fn outcome(message: Received<'_>) -> Option<Result<(), Errno>> {
    if message.kind != ERROR {
        return None;
    }
    let code = message.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    Some(if code == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(code.saturating_neg())) })
}
