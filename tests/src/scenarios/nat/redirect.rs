// SPDX-License-Identifier: GPL-2.0-only
//! A sidecar that gets its namespace's connections by nft's `redirect`, as service meshes do it.

use std::net::SocketAddr;
use std::thread;

use anyhow::{Context, Result, ensure};
use tcp_splice_world::pattern::Pattern;

use super::site::{LENGTH, SERVICE, SIDECAR, Site, connect, ring_despite_nat, same_view};
use crate::env::{Claim, Env};
use crate::scenario::Scenario;

pub const ALL: &[Scenario] = &[
    Scenario::families("redirect_outbound", redirect_outbound),
    Scenario::families("redirect_inbound", redirect_inbound),
    Scenario::families("redirect_on_loopback", redirect_on_loopback),
    Scenario::families("through_two_sidecars", through_two_sidecars),
];

fn to_sidecar() -> String {
    // What the sidecar itself sends is marked, so that it gets out.
    format!("meta mark != 1 tcp dport {SERVICE} redirect to :{SIDECAR}")
}

/// The client's own namespace redirects what it sends to a service elsewhere.
fn redirect_outbound(env: &Env) -> Result<Claim> {
    let site = Site::new(env)?;
    site.rule(&site.client, "output", &to_sidecar())?;
    let sidecar = site.listen(&site.client, SIDECAR)?;
    let service = SocketAddr::new(site.server_address(), SERVICE);
    ring_despite_nat(env, || connect(&site.client, service, &sidecar))
}

/// The server's namespace redirects what comes in from another one.
fn redirect_inbound(env: &Env) -> Result<Claim> {
    let site = Site::new(env)?;
    site.rule(&site.server, "prerouting", &to_sidecar())?;
    let sidecar = site.listen(&site.server, SIDECAR)?;
    let service = SocketAddr::new(site.server_address(), SERVICE);
    ring_despite_nat(env, || connect(&site.client, service, &sidecar))
}

/// Only the port changes.
fn redirect_on_loopback(env: &Env) -> Result<Claim> {
    let site = Site::new(env)?;
    site.rule(&site.client, "output", &to_sidecar())?;
    let sidecar = site.listen(&site.client, SIDECAR)?;
    let service = SocketAddr::new(site.loopback(), SERVICE);
    ring_despite_nat(env, || connect(&site.client, service, &sidecar))
}

/// Client, its sidecar, the server's sidecar, server: three connections, each spliced.
fn through_two_sidecars(env: &Env) -> Result<Claim> {
    let site = Site::new(env)?;
    site.rule(&site.client, "output", &to_sidecar())?;
    site.rule(&site.server, "prerouting", &to_sidecar())?;
    let outbound = site.listen(&site.client, SIDECAR)?;
    let inbound = site.listen(&site.server, SIDECAR)?;
    let server = site.listen(&site.server, SERVICE)?;
    let service = SocketAddr::new(site.server_address(), SERVICE);
    let before = env.counters()?;
    let first = connect(&site.client, service, &outbound)?;
    let second = site.client.within(|| marked(service))?;
    let (second_end, _) = inbound.accept().context("failed to accept")?;
    let third = connect(
        &site.server,
        SocketAddr::new(site.loopback(), SERVICE),
        &server,
    )?;
    ensure!(!same_view(&first)?, "nothing was redirected");
    let (up, down) = (Pattern::new(73), Pattern::new(74));
    thread::scope(|scope| -> Result<()> {
        let pump = |mut from: &std::net::TcpStream, mut to: &std::net::TcpStream| {
            std::io::copy(&mut std::io::Read::take(&mut from, LENGTH as u64), &mut to).map(drop)
        };
        let hops = [
            (&first.server, &second),
            (&second_end, &third.client),
            (&third.client, &second_end),
            (&second, &first.server),
        ];
        let pumps = hops.map(|(from, to)| scope.spawn(move || pump(from, to)));
        up.write(&first.client, 0, LENGTH)?;
        up.read(&third.server, 0, LENGTH)?;
        down.write(&third.server, 0, LENGTH)?;
        down.read(&first.client, 0, LENGTH)?;
        for pump in pumps {
            pump.join().expect("pump panicked")?;
        }
        Ok(())
    })?;
    if env.spliced() {
        let moved = env.since(&before)?;
        ensure!(moved.get("pairs_made")? == 3, "{:?}", moved.moved());
    }
    Ok(Claim::ring(6 * LENGTH).pairs(3))
}

/// A connection whose packets carry mark 1.
fn marked(to: SocketAddr) -> Result<std::net::TcpStream> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(to),
        socket2::Type::STREAM,
        None,
    )?;
    socket.set_mark(1)?;
    socket.connect(&to.into()).context("failed to connect")?;
    Ok(socket.into())
}
