// SPDX-License-Identifier: GPL-2.0-only
//! Kernel versions.

/// The first kernel in which sock_ops programs can call a module's functions.
pub const NEEDED: (u32, u32) = (6, 15);

/// Major and minor number of a release such as `6.15.0-rc1` or `7.2.12+deb13-cloud-amd64`.
pub fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.splitn(3, '.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?;
    let digits = minor
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(minor.len());
    Some((major, minor[..digits].parse().ok()?))
}

/// True for kernels that cannot run the policy program. One whose version cannot be read gets its chance.
pub fn too_old(release: &str) -> bool {
    parse(release).is_some_and(|version| version < NEEDED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_compared_as_numbers() {
        for (release, old) in [
            ("6.1.0-28-amd64", true),
            ("6.9.3", true),
            ("6.14.11", true),
            ("5.15.0", true),
            ("6.15.0", false),
            ("6.15-rc1", false),
            ("6.100.0", false),
            ("7.0.0", false),
            ("7.2.12+deb13-cloud-amd64", false),
            ("10.0", false),
            ("strange", false),
        ] {
            assert_eq!(too_old(release), old, "{release}");
        }
    }
}
