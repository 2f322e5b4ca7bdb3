//! Where requests may go: https outside of loopback, and only addresses that are meant to be reached from outside.
//!
//! The address that a name resolves to is judged, not the way the name is written: `127.1`, `2130706433` and a
//! name that changes its answer all end at the same check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::{HeaderValue, Uri};
use thiserror::Error;

/// A carrier's base address, taken apart.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) tls: bool,
    /// A name or an address, without brackets.
    pub(crate) host: Box<str>,
    pub(crate) port: u16,
    /// The `host` header.
    pub(crate) authority: HeaderValue,
    /// What stands before every path; empty or `/...` without a slash at the end.
    pub(crate) prefix: Box<str>,
    loopback: bool,
    allow_private: bool,
}

/// What can be wrong with a base address.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum TargetError {
    /// Not a URL of the form `https://host[:port][/prefix]`.
    #[error("{0:?} is not of the form https://host[:port][/prefix]")]
    Form(String),
    /// Plain http to a host that is not this machine.
    #[error("plain http to {0}: https is required outside of loopback (or link.allow_plain = true)")]
    Plain(String),
    /// An address inside of a private or special range.
    #[error("{0} is a private or special address (link.allow_private = true allows it)")]
    Forbidden(IpAddr),
}

impl Target {
    /// Takes a base address apart and refuses what is not allowed.
    pub(crate) fn parse(base: &str, allow_plain: bool, allow_private: bool) -> Result<Self, TargetError> {
        let form = || TargetError::Form(base.chars().take(200).collect());
        let odd = |b: u8| !(0x21..0x7f).contains(&b) || matches!(b, b'#' | b'?' | b'@' | b'\\' | b'%' | b'"');
        if base.bytes().any(odd) || base.len() > 1_000 {
            return Err(form());
        }
        let uri: Uri = base.parse().map_err(|_| form())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(form()),
        };
        let authority = uri.authority().ok_or_else(form)?;
        let port = match authority.port() {
            Some(port) => port.as_str().parse().map_err(|_| form())?,
            // "host:" and "host:99999" parse as a host without a port.
            None if authority.as_str() != authority.host() => return Err(form()),
            None if tls => 443,
            None => 80,
        };
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let literal = host.parse::<IpAddr>().ok();
        let loopback = host.eq_ignore_ascii_case("localhost") || literal.is_some_and(|ip| ip.is_loopback());
        let prefix = uri.path().trim_end_matches('/');
        if host.is_empty() || port == 0 || prefix.contains("//") || prefix.contains("/.") {
            return Err(form());
        }
        if !tls && !loopback && !allow_plain {
            return Err(TargetError::Plain(host.to_owned()));
        }
        let target = Self {
            tls,
            host: host.into(),
            port,
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| form())?,
            prefix: prefix.into(),
            loopback,
            allow_private,
        };
        match literal {
            Some(ip) if !target.allows(ip) => Err(TargetError::Forbidden(ip)),
            _ => Ok(target),
        }
    }

    /// Whether a connection to this address may be opened.
    pub(crate) fn allows(&self, ip: IpAddr) -> bool {
        if self.loopback || ip.is_loopback() {
            // Loopback only when the definition says loopback, and then nothing else.
            return self.loopback && ip.is_loopback();
        }
        match reach(ip) {
            Reach::Public => true,
            Reach::Private => self.allow_private,
            Reach::Nobody => false,
        }
    }
}

#[derive(PartialEq)]
enum Reach {
    Public,
    /// Private, or able to lead to something private.
    Private,
    /// Not the address of one host.
    Nobody,
}

fn reach(ip: IpAddr) -> Reach {
    match ip {
        IpAddr::V4(ip) => reach_v4(ip),
        IpAddr::V6(ip) => reach_v6(ip),
    }
}

fn reach_v4(ip: Ipv4Addr) -> Reach {
    let [a, b, c, _] = ip.octets();
    let special = ip.is_private()
        || ip.is_link_local()
        || (a == 100 && (64..128).contains(&b)) // shared by carriers' NAT
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b))
        || ip.is_documentation();
    match () {
        () if a == 0 || a >= 224 => Reach::Nobody,
        () if special => Reach::Private,
        () => Reach::Public,
    }
}

fn reach_v6(ip: Ipv6Addr) -> Reach {
    let s = ip.segments();
    let special = (s[0] & 0xfe00) == 0xfc00 // unique local
        || (s[0] & 0xffc0) == 0xfe80 // link-local
        || (s[0] & 0xffc0) == 0xfec0 // site-local
        || s[..5] == [0; 5] // v4-mapped and v4-compatible
        || s[..4] == [0; 4]
        || (s[0] == 0x64 && s[1] == 0xff9b) // NAT64
        || s[0] == 0x2002 // 6to4
        || (s[0] == 0x2001 && s[1] < 0x200) // Teredo and other assignments of the IETF
        || (s[0] == 0x2001 && s[1] == 0xdb8)
        || (s[0] == 0x3fff && s[1] < 0x1000)
        || s[0] == 0x100;
    match () {
        () if ip.is_unspecified() || ip.is_multicast() => Reach::Nobody,
        () if special => Reach::Private,
        () => Reach::Public,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn good_bases_are_taken_apart() {
        let target = Target::parse("https://api.example.com/billing/v2/", false, false).unwrap();
        assert_eq!(
            (target.tls, &*target.host, target.port, &*target.prefix),
            (true, "api.example.com", 443, "/billing/v2")
        );
        assert_eq!(target.authority, "api.example.com");
        let target = Target::parse("http://[::1]:8080", false, false).unwrap();
        assert_eq!((target.tls, &*target.host, target.port, &*target.prefix), (false, "::1", 8_080, ""));
        assert_eq!(target.authority, "[::1]:8080");
        assert!(Target::parse("http://localhost:4010", false, false).is_ok());
    }

    #[test]
    fn tricks_in_the_base_are_refused() {
        for base in [
            "",
            "ftp://x.example",
            "api.example.com",
            "//api.example.com",
            "https://",
            "https://a@b.example",
            "https://a:b@c.example",
            "https://x.example/?q=1",
            "https://x.example/#f",
            "https://x.example\\@evil",
            "https://x .example",
            "https://x.example/\r\nX: 1",
            "https://x.example:99999",
            "https://x.example:0",
            "https://x.example:",
            "https://x.example/a//b",
            "https://x.example/../b",
            "https://x.example/%2e%2e",
            "https://é.example",
            "https://x.example/\"",
            "javascript:alert(1)",
            "https:///path",
            "http://:80",
        ] {
            assert!(matches!(Target::parse(base, true, true), Err(TargetError::Form(_))), "{base}");
        }
    }

    #[test]
    fn plain_http_stays_on_this_machine() {
        for base in [
            "http://api.example.com",
            "http://8.8.8.8",
            "http://127.1:80",
            "http://2130706433",
            "http://localhost.example",
        ] {
            assert!(matches!(Target::parse(base, false, false), Err(TargetError::Plain(_))), "{base}");
            assert!(Target::parse(base, true, false).is_ok(), "{base}");
        }
    }

    #[test]
    fn special_addresses_are_refused() {
        for ip in [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.8",
            "198.18.0.1",
            "198.19.255.255",
            "192.0.2.1",
            "203.0.113.9",
            "192.88.99.1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:8.8.8.8",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "100::1",
            "3fff::1",
        ] {
            let base = if ip.contains(':') { format!("https://[{ip}]") } else { format!("https://{ip}") };
            assert!(matches!(Target::parse(&base, true, false), Err(TargetError::Forbidden(_))), "{base}");
            assert!(Target::parse(&base, false, true).is_ok(), "{base}");
        }
        for ip in ["0.0.0.0", "0.1.2.3", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "ff02::1"] {
            let base = if ip.contains(':') { format!("https://[{ip}]") } else { format!("https://{ip}") };
            assert!(matches!(Target::parse(&base, true, true), Err(TargetError::Forbidden(_))), "{base}");
        }
        for ip in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00::1"] {
            let base = if ip.contains(':') { format!("https://[{ip}]") } else { format!("https://{ip}") };
            assert!(Target::parse(&base, false, false).is_ok(), "{base}");
        }
    }

    #[test]
    fn a_name_may_not_lead_to_loopback_nor_loopback_elsewhere() {
        let name = Target::parse("https://api.example.com", false, true).unwrap();
        assert!(!name.allows("127.0.0.1".parse().unwrap()));
        assert!(!name.allows("::1".parse().unwrap()));
        assert!(name.allows("10.0.0.1".parse().unwrap()));
        let here = Target::parse("http://localhost:4010", false, true).unwrap();
        assert!(here.allows("127.0.0.1".parse().unwrap()));
        assert!(!here.allows("10.0.0.1".parse().unwrap()));
        assert!(!here.allows("8.8.8.8".parse().unwrap()));
    }
}
