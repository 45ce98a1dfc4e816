// SPDX-License-Identifier: GPL-2.0-only
//! Destinations rewritten on the way to a container: published ports and virtual addresses of services.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use super::site::{SERVICE, Site, connect, ring_despite_nat};
use crate::env::{Claim, Env};
use crate::scenario::Scenario;

pub const ALL: &[Scenario] = &[
    Scenario::families("published_port", |env| published_port(env, false)),
    Scenario::families("published_port_masqueraded", |env| {
        published_port(env, true)
    }),
    Scenario::families("published_port_from_host", |env| from_host(env, false)),
    Scenario::families("published_port_from_host_masqueraded", |env| {
        from_host(env, true)
    }),
    Scenario::families("cluster_ip_from_host", |env| cluster_ip(env, false)),
    Scenario::families("cluster_ip_from_host_masqueraded", |env| {
        cluster_ip(env, true)
    }),
    Scenario::families("cluster_ip_in_own_namespace", in_own_namespace),
    Scenario::families("cluster_ip_from_container", |env| {
        from_container(env, false)
    }),
    Scenario::families("cluster_ip_from_container_masqueraded", |env| {
        from_container(env, true)
    }),
    Scenario::families("cluster_ip_to_itself", to_itself),
];

const PUBLISHED: u16 = 8080;

/// Has the host send what comes for `address` and `port` to the container's service.
fn forward(site: &Site, hook: &str, address: IpAddr, port: u16) -> Result<()> {
    forward_in(site, &site.host, hook, address, port)
}

fn forward_in(
    site: &Site,
    space: &tcp_splice_world::space::Space,
    hook: &str,
    address: IpAddr,
    port: u16,
) -> Result<()> {
    let family = if address.is_ipv6() { "ip6" } else { "ip" };
    let to = site.target(site.server_address(), SERVICE);
    let rule = format!("{family} daddr {address} tcp dport {port} dnat to {to}");
    site.rule(space, hook, &rule)
}

/// One container reaches the other by the host's address.
fn published_port(env: &Env, masquerade: bool) -> Result<Claim> {
    let site = Site::new(env)?;
    forward(&site, "prerouting", site.host_address(), PUBLISHED)?;
    if masquerade {
        site.masquerade()?;
    }
    let listener = site.listen(&site.server, SERVICE)?;
    let to = SocketAddr::new(site.host_address(), PUBLISHED);
    ring_despite_nat(env, || connect(&site.client, to, &listener))
}

/// The host reaches a container by its own address.
fn from_host(env: &Env, masquerade: bool) -> Result<Claim> {
    let site = Site::new(env)?;
    forward(&site, "output", site.host_address(), PUBLISHED)?;
    if masquerade {
        site.masquerade()?;
    }
    let listener = site.listen(&site.server, SERVICE)?;
    let to = SocketAddr::new(site.host_address(), PUBLISHED);
    ring_despite_nat(env, || connect(&site.host, to, &listener))
}

/// The host reaches a container by an address that no device has.
fn cluster_ip(env: &Env, masquerade: bool) -> Result<Claim> {
    let site = Site::new(env)?;
    forward(&site, "output", site.virtual_address(), SERVICE)?;
    if masquerade {
        site.masquerade()?;
    }
    let listener = site.listen(&site.server, SERVICE)?;
    let to = SocketAddr::new(site.virtual_address(), SERVICE);
    ring_despite_nat(env, || connect(&site.host, to, &listener))
}

/// Client, rule and server are all in one namespace.
fn in_own_namespace(env: &Env) -> Result<Claim> {
    let site = Site::new(env)?;
    let (space, address) = (&site.server, site.virtual_address());
    forward_in(&site, space, "output", address, SERVICE)?;
    let listener = site.listen(space, SERVICE)?;
    let to = SocketAddr::new(address, SERVICE);
    ring_despite_nat(env, || connect(space, to, &listener))
}

/// One container reaches the other by such an address.
fn from_container(env: &Env, masquerade: bool) -> Result<Claim> {
    let site = Site::new(env)?;
    forward(&site, "prerouting", site.virtual_address(), SERVICE)?;
    if masquerade {
        site.masquerade()?;
    }
    let listener = site.listen(&site.server, SERVICE)?;
    let to = SocketAddr::new(site.virtual_address(), SERVICE);
    ring_despite_nat(env, || connect(&site.client, to, &listener))
}

/// A container's connection to the service is sent back to itself, which takes another source address.
fn to_itself(env: &Env) -> Result<Claim> {
    let site = Site::new(env)?;
    forward(&site, "prerouting", site.virtual_address(), SERVICE)?;
    site.masquerade()?;
    let listener = site.listen(&site.server, SERVICE)?;
    let to = SocketAddr::new(site.virtual_address(), SERVICE);
    ring_despite_nat(env, || connect(&site.server, to, &listener))
}
