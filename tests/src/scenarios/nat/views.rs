// SPDX-License-Identifier: GPL-2.0-only
//! The policy judges each end by the addresses and ports that this end sees; a connection is spliced when both are to be.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use tcp_splice_world::counters::Counters;
use tcp_splice_world::policy;

use super::site::{LENGTH, SERVICE, SIDECAR, Site, connect, exchange};
use crate::env::{Claim, Conn, Env};
use crate::scenario::Scenario;

pub const ALL: &[Scenario] = &[
    Scenario::families("ports_of_each_view", ports_of_each_view).reconfigures(),
    Scenario::families("loopback_only_in_each_view", loopback_only_in_each_view).reconfigures(),
];

/// What a connection must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Both ends were offered.
    Paired,
    /// Only the connecting end was: it waits for nobody.
    ClientOffered,
    /// Only the accepting end was: it finds no offer.
    ServerOffered,
}

/// Makes a connection under the policy of `options` and checks what comes of it.
fn under(options: &[&str], conn: impl Fn() -> Result<Conn>, want: Outcome) -> Result<()> {
    policy::enable(options)?;
    let before = Counters::read()?;
    exchange(&conn()?)?;
    let moved = Counters::read()?.since(&before);
    let got = (
        moved.get("pairs_made")?,
        moved.get("offers_made")?,
        moved.get("refused_no_offer")?,
    );
    let wanted = match want {
        Outcome::Paired => (1, 1, 0),
        Outcome::ClientOffered => (0, 1, 0),
        Outcome::ServerOffered => (0, 0, 1),
    };
    let ring = moved.get("ring_bytes")?;
    ensure!(
        got == wanted && (ring > 0) == (want == Outcome::Paired),
        "{options:?} should give {want:?}, not {:?}",
        moved.moved()
    );
    Ok(())
}

/// A redirected connection needs both ports in the list: the one that the client asks for and the one where it arrives.
fn ports_of_each_view(env: &Env) -> Result<Claim> {
    let site = Site::new(env)?;
    let rule = format!("tcp dport {SERVICE} redirect to :{SIDECAR}");
    site.rule(&site.client, "output", &rule)?;
    let sidecar = site.listen(&site.client, SIDECAR)?;
    let service = SocketAddr::new(site.server_address(), SERVICE);
    let conn = || connect(&site.client, service, &sidecar);
    let (asked, arrived) = (SERVICE.to_string(), SIDECAR.to_string());
    under(&["--ports", &asked], conn, Outcome::ClientOffered)?;
    under(&["--ports", &arrived], conn, Outcome::ServerOffered)?;
    let both = format!("{asked},{arrived}");
    under(&["--ports", &both], conn, Outcome::Paired)?;
    policy::enable(&[])?;
    Ok(Claim::ring(2 * LENGTH).pairs(1))
}

/// Loopback has to be what both ends see: one that is led from loopback into a container is none.
fn loopback_only_in_each_view(env: &Env) -> Result<Claim> {
    let site = Site::new(env)?;
    let rule = format!("tcp dport {SERVICE} redirect to :{SIDECAR}");
    site.rule(&site.client, "output", &rule)?;
    let sidecar = site.listen(&site.client, SIDECAR)?;
    let service = SocketAddr::new(site.loopback(), SERVICE);
    let redirected = || connect(&site.client, service, &sidecar);
    under(&["--loopback-only"], redirected, Outcome::Paired)?;
    if !site.loopback().is_ipv6() {
        // IPv6 routes no loopback address.
        let published = published_on_loopback(&site)?;
        under(&["--loopback-only"], published, Outcome::ClientOffered)?;
    }
    policy::enable(&[])?;
    Ok(Claim::ring(2 * LENGTH).pairs(1))
}

/// The host's 127.0.0.1:80 leads into the container.
fn published_on_loopback(site: &Site) -> Result<impl Fn() -> Result<Conn>> {
    for device in ["all", "s"] {
        let name = format!("ipv4/conf/{device}/route_localnet");
        site.host.sysctl(&name, "1")?;
    }
    let to = site.target(site.server_address(), SERVICE);
    let rule = format!("ip daddr 127.0.0.1 tcp dport {SERVICE} dnat to {to}");
    site.rule(&site.host, "output", &rule)?;
    site.masquerade()?;
    let listener = site.listen(&site.server, SERVICE)?;
    let to = SocketAddr::new(site.loopback(), SERVICE);
    Ok(move || connect(&site.host, to, &listener))
}
