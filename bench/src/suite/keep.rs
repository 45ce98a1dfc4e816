// SPDX-License-Identifier: GPL-2.0-only
//! What the machine has in force before, and putting it back.

use std::fs;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tcp_splice_world::policy;
use tcp_splice_world::program::run;

/// `tcp-splice-ctl status --json`, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Status {
    enabled: bool,
    policy: Option<Policy>,
    cgroup: Option<Cgroup>,
}

#[derive(Debug, Deserialize)]
struct Policy {
    loopback_only: bool,
    same_netns: bool,
    ports: Vec<u16>,
    busy_poll_us: u32,
    ring_kbytes: u32,
}

#[derive(Debug, Deserialize)]
struct Cgroup {
    path: Option<String>,
}

/// The policy and the setting from before; dropping this puts them back.
#[derive(Debug)]
pub struct Kept {
    /// of `tcp-splice-ctl enable`, if there was a policy: its cgroup and its options
    policy: Option<(String, Vec<String>)>,
    spin_us: String,
}

impl Kept {
    /// Loads the module if need be, and takes the policy away if it may be `suspended`.
    ///
    /// # Errors
    /// When somebody's policy is in force and may not be taken away, or could not be put back.
    pub fn take(suspend: bool) -> Result<Self> {
        if !policy::loaded() {
            policy::load()
                .context("failed to load the module: is it installed for this kernel?")?;
        }
        let text = run(&[policy::CTL, "status", "--json"])?;
        let status: Status =
            serde_json::from_str(&text).context("failed to understand tcp-splice-ctl status")?;
        let kept = Self {
            policy: in_force(status)?,
            spin_us: fs::read_to_string(policy::SPIN_US).context("failed to read spin_us")?,
        };
        if let Some(command) = kept.command() {
            if !suspend {
                bail!(
                    "a policy is in force ({command}): connections that are made while something else is measured would be plain TCP; \
                     with --suspend-policy it is taken away meanwhile, and put back afterwards"
                );
            }
            eprintln!("suspended until the end: {command}");
        }
        Ok(kept)
    }

    /// The command that makes the policy, if there was one.
    fn command(&self) -> Option<String> {
        let (cgroup, options) = self.policy.as_ref()?;
        let mut words = vec![policy::CTL, "enable", "--cgroup", cgroup];
        words.extend(options.iter().map(String::as_str));
        Some(words.join(" "))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let put_back = || -> Result<()> {
            fs::write(policy::SPIN_US, self.spin_us.trim()).context("failed to set spin_us")?;
            policy::disable()?;
            if let Some((cgroup, options)) = &self.policy {
                let options: Vec<_> = options.iter().map(String::as_str).collect();
                policy::enable_for(cgroup, &options)?;
            }
            Ok(())
        };
        match (put_back(), self.command()) {
            (Ok(()), None) => {}
            (Ok(()), Some(command)) => eprintln!("in force again: {command}"),
            (Err(error), _) => eprintln!("error: failed to put the policy back: {error:#}"),
        }
    }
}

fn in_force(status: Status) -> Result<Option<(String, Vec<String>)>> {
    if !status.enabled {
        return Ok(None);
    }
    let (Some(policy), Some(path)) = (status.policy, status.cgroup.and_then(|it| it.path)) else {
        bail!("a policy is in force that could not be put back: disable it first");
    };
    let mut options = Vec::new();
    if policy.loopback_only {
        options.push("--loopback-only".to_owned());
    }
    if policy.same_netns {
        options.push("--same-netns".to_owned());
    }
    if !policy.ports.is_empty() {
        let ports: Vec<_> = policy.ports.iter().map(u16::to_string).collect();
        options.extend(["--ports".to_owned(), ports.join(",")]);
    }
    for (name, value) in [
        ("--busy-poll-us", policy.busy_poll_us),
        ("--ring-kbytes", policy.ring_kbytes),
    ] {
        if value != 0 {
            options.extend([name.to_owned(), value.to_string()]);
        }
    }
    Ok(Some((path, options)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Result<Option<(String, Vec<String>)>> {
        in_force(serde_json::from_str(text)?)
    }

    #[test]
    fn a_policy_is_told_as_options() {
        let text = r#"{"enabled": true, "schema": 1, "cgroup": {"id": 1, "path": "/sys/fs/cgroup/a"},
            "policy": {"loopback_only": true, "same_netns": true, "ports": [80, 6379], "busy_poll_us": 50, "ring_kbytes": 0}}"#;
        let (cgroup, options) = options(text).unwrap().unwrap();
        assert_eq!(cgroup, "/sys/fs/cgroup/a");
        let want = [
            "--loopback-only",
            "--same-netns",
            "--ports",
            "80,6379",
            "--busy-poll-us",
            "50",
        ];
        assert_eq!(options, want);
    }

    #[test]
    fn what_cannot_be_put_back_is_not_taken_away() {
        let none = options(r#"{"enabled": false, "policy": null, "cgroup": null}"#);
        assert!(none.unwrap().is_none());
        let foreign = r#"{"enabled": true, "policy": null, "cgroup": {"path": "/sys/fs/cgroup"}}"#;
        assert!(options(foreign).is_err());
    }
}
