//! Attempts: somebody calls somebody, and what came of it is held against what should.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use holdfast_agent::engine::counts::Subject;

use super::{
    protocol::{Answer, Arrival, Op},
    rig::{Counted, Rig},
};

/// How somebody is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// TCP: a connection, a word and its echo.
    Tcp,
    /// The same from an `AF_INET6` socket to an IPv4-mapped address.
    TcpMapped,
    /// UDP from a socket with a peer.
    Udp,
    /// UDP from a socket without one.
    UdpUnconnected,
    /// UDP from a socket that asks for errors.
    UdpRecvErr,
    /// SCTP: an association, a word and its echo.
    Sctp,
}

/// One attempt: who calls whom, how.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// The place that calls.
    pub from: &'static str,
    /// The address it binds, where it is not left to the kernel.
    pub source: Option<SocketAddr>,
    /// Whom.
    pub to: SocketAddr,
    /// How.
    pub call: Call,
}

impl Attempt {
    /// The same from this address.
    #[must_use]
    pub fn bound(self, source: SocketAddr) -> Self {
        Self { source: Some(source), ..self }
    }
}

/// Over TCP.
#[must_use]
pub fn tcp(from: &'static str, to: SocketAddr) -> Attempt {
    Attempt { from, source: None, to, call: Call::Tcp }
}

/// Over UDP, from a socket that has a peer.
#[must_use]
pub fn udp(from: &'static str, to: SocketAddr) -> Attempt {
    Attempt { from, source: None, to, call: Call::Udp }
}

/// Over SCTP.
#[must_use]
pub fn sctp(from: &'static str, to: SocketAddr) -> Attempt {
    Attempt { call: Call::Sctp, ..tcp(from, to) }
}

/// The spec of a policy for the workloads with this label `app`.
#[must_use]
pub fn network(app: &str, rules: &str) -> String {
    format!("{{selector: {{matchLabels: {{app: {app}}}}}, network: {rules}}}")
}

/// What came of an attempt.
#[derive(Debug)]
pub struct Outcome {
    /// What the caller saw.
    pub seen: Answer,
    /// What arrived.
    pub arrived: Vec<Arrival>,
    /// What was counted.
    pub counted: Counted,
    /// How long it took.
    pub took: Duration,
}

impl Rig {
    /// Who serves at an address: the place whose process records what arrives there.
    fn server_of(&self, caller: &'static str, address: IpAddr) -> Option<&'static str> {
        if address.is_loopback() {
            return Some(if self.node.places.get(caller)?.netns == "node" { "node" } else { caller });
        }
        let own = |names: &[&'static str]| {
            names.iter().copied().find(|name| {
                self.node.places.get(name).is_some_and(|place| place.addresses.contains(&address))
            })
        };
        own(&["front", "api", "db", "batch", "node"]).or_else(|| {
            let services = self.node.facts.world.services.contains_key(&address);
            Some(if services { "api" } else { "outside" })
        })
    }

    /// Makes an attempt, and waits this long for an answer.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn attempt(&mut self, attempt: Attempt, wait_ms: u64) -> Result<Outcome> {
        let word = self.word();
        let server = self.server_of(attempt.from, attempt.to.ip()).context("nobody serves there")?;
        let late = self.inside(server)?.arrivals()?;
        let late = late.into_iter().find(|arrival| self.refused_words.contains(&arrival.word));
        ensure!(late.is_none(), "what was dropped arrived later: {late:?}");
        let before = self.counts()?;
        let began = Instant::now();
        let inside = self.inside(attempt.from)?;
        let opened = match attempt.call {
            Call::Tcp | Call::TcpMapped => inside.act(Op::TcpOpen {
                to: attempt.to,
                from: attempt.source,
                mapped: attempt.call == Call::TcpMapped,
                wait_ms,
            })?,
            Call::Sctp => inside.act(Op::SctpOpen { to: attempt.to, wait_ms })?,
            Call::Udp | Call::UdpUnconnected | Call::UdpRecvErr => {
                let any = if attempt.to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let at = attempt.source.map_or_else(|| any.parse(), Ok)?;
                let connect = (attempt.call == Call::Udp).then_some(attempt.to);
                inside.act(Op::UdpOpen { at, connect, recverr: attempt.call == Call::UdpRecvErr })?
            }
        };
        let seen = match (opened, attempt.call) {
            (Answer::Socket { socket, .. }, call) => {
                let said = match call {
                    Call::Tcp | Call::TcpMapped | Call::Sctp => {
                        inside.act(Op::TcpSay { socket, word: word.clone(), wait_ms })?
                    }
                    _ => {
                        let to = (call != Call::Udp).then_some(attempt.to);
                        inside.act(Op::UdpSay { socket, to, word: word.clone(), padding: 0, wait_ms })?
                    }
                };
                inside.act(Op::Close { socket })?;
                said
            }
            (other, _) => other,
        };
        let took = began.elapsed();
        let mut arrived = self.inside(server)?.arrivals()?;
        arrived.retain(|arrival| {
            arrival.port == attempt.to.port() && (arrival.word == word || arrival.word.is_empty())
        });
        Ok(Outcome { seen, arrived, counted: self.counted_since(&before)?, took })
    }

    /// Makes an attempt whose outcome must be `right`. On a busy machine a packet of an earlier connection may come late
    /// and be counted too, under the policy that is in force by now: where all is right but for that, the attempt is
    /// made again, so that in the end exactly what is asked for was counted.
    fn settled(
        &mut self,
        attempt: Attempt,
        wait_ms: u64,
        right: impl Fn(&Outcome) -> bool,
        exact: impl Fn(&Outcome) -> bool,
        what: &str,
    ) -> Result<()> {
        let mut tries = 4;
        loop {
            let outcome = self.attempt(attempt, wait_ms)?;
            tries -= 1;
            if right(&outcome) && exact(&outcome) {
                return Ok(());
            }
            ensure!(right(&outcome) && tries > 0, "{what}: {attempt:?}\n  {outcome:?}");
        }
    }

    /// The same where the outcome must be silence. Once the refusal is counted, what was refused cannot come but by a
    /// fault, and a moment is enough to see that it does not: the whole wait is for refusals that are not counted yet.
    /// What comes even later fails the next attempt.
    fn silent(
        &mut self,
        attempt: Attempt,
        right: impl Fn(&Outcome) -> bool,
        exact: impl Fn(&Outcome) -> bool,
        what: &str,
    ) -> Result<()> {
        let outcome = self.attempt(attempt, self.moment_ms())?;
        ensure!(outcome.arrived.is_empty(), "{what}: {attempt:?}\n  {outcome:?}");
        if !(right(&outcome) && exact(&outcome)) {
            self.settled(attempt, self.silence_ms(), right, exact, what)?;
        }
        let word = self.last_word();
        self.refused_words.insert(word);
        Ok(())
    }

    /// That the attempt gets through: the echo comes, the word arrived, and nothing was refused.
    ///
    /// # Errors
    /// When it does not.
    pub fn allowed(&mut self, attempt: Attempt) -> Result<()> {
        let right = |outcome: &Outcome| outcome.seen == Answer::Echo && outcome.has_arrived();
        self.settled(
            attempt,
            self.answer_ms(),
            right,
            |outcome| outcome.counted.is_empty(),
            "should be allowed",
        )
    }

    /// That the attempt gets through, and is counted as what this rule would have refused.
    ///
    /// # Errors
    /// When it does not, or is not.
    pub fn audited(&mut self, attempt: Attempt, policy: &str, rule: &str) -> Result<()> {
        let right = |outcome: &Outcome| outcome.seen == Answer::Echo && outcome.has_arrived();
        let exact = |outcome: &Outcome| only(&outcome.counted, policy, rule, "Audit") > 0;
        let what = format!("should pass and be counted for {policy} {rule}");
        self.settled(attempt, self.answer_ms(), right, exact, &what)?;
        self.reports(policy, rule, "Audit", "Audit")
    }

    /// That nothing of the attempt arrives, that its caller hears nothing, and that just this rule has counted it.
    ///
    /// # Errors
    /// When it is otherwise.
    pub fn dropped(&mut self, attempt: Attempt, policy: &str, rule: &str) -> Result<()> {
        let right = |outcome: &Outcome| {
            // A sender that asks for errors may be told of congestion, and of nothing else.
            let told = attempt.call == Call::UdpRecvErr && outcome.seen == Answer::Errno(nix::libc::ENOBUFS);
            let counted = outcome.counted.iter().any(|(subject, _)| is(subject, policy, rule, "Drop"));
            (outcome.seen == Answer::Silence || told) && outcome.arrived.is_empty() && counted
        };
        let exact = |outcome: &Outcome| {
            // TCP tries again after a second; a datagram is sent once.
            let most = match attempt.call {
                Call::Tcp | Call::TcpMapped => 1 + outcome.took.as_millis() / 900,
                _ => 1,
            };
            let count = u128::from(only(&outcome.counted, policy, rule, "Drop"));
            (1..=most).contains(&count)
        };
        self.silent(attempt, right, exact, &format!("should be dropped by {policy} {rule}"))?;
        self.reports(policy, rule, "Deny", "Deny")
    }

    /// That the attempt is refused to its caller's face, that nothing arrives, and that just this rule has counted it.
    ///
    /// # Errors
    /// When it is otherwise.
    pub fn rejected(&mut self, attempt: Attempt, policy: &str, rule: &str) -> Result<()> {
        let right = |outcome: &Outcome| {
            let counted = outcome.counted.iter().any(|(subject, _)| is(subject, policy, rule, "Reject"));
            outcome.seen == Answer::Errno(nix::libc::EPERM) && outcome.arrived.is_empty() && counted
        };
        let exact = |outcome: &Outcome| only(&outcome.counted, policy, rule, "Reject") == 1;
        self.settled(
            attempt,
            self.silence_ms(),
            right,
            exact,
            &format!("should be rejected by {policy} {rule}"),
        )?;
        self.reports(policy, rule, "Deny", "Deny")
    }
}

impl Outcome {
    /// Whether the word arrived, and not only a connection.
    fn has_arrived(&self) -> bool {
        self.arrived.iter().any(|arrival| !arrival.word.is_empty())
    }
}

fn is(subject: &Subject, policy: &str, rule: &str, given: &str) -> bool {
    subject.policy == policy && subject.rule == rule && subject.given == given
}

/// The count for this rule, or 0 where something else was counted too.
#[must_use]
pub fn only(counted: &Counted, policy: &str, rule: &str, given: &str) -> u64 {
    match counted.iter().next() {
        Some((subject, count)) if counted.len() == 1 && is(subject, policy, rule, given) => *count,
        _ => 0,
    }
}
