//! Addresses and address blocks.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::Rule;

/// About one address block.
pub(crate) fn cidrs() -> Vec<Rule> {
    vec![
        Rule::new(
            "",
            "is no address block; one looks like 10.0.0.0/8 or 2001:db8::/32, and an IPv4-mapped one is written as IPv4",
            "isCIDR(self)",
            |value| value.as_str().and_then(parse_cidr).is_some(),
        ),
        Rule::new(
            "",
            "has host bits: all bits behind the prefix length must be zero, as in 10.1.0.0/16",
            "!isCIDR(self) || cidr(self) == cidr(self).masked()",
            |value| value.as_str().and_then(parse_cidr).is_none_or(|block| block == block.trunc()),
        ),
    ]
}

/// About one address of a workload.
pub(crate) fn addresses() -> Vec<Rule> {
    vec![
        Rule::new(
            "",
            "is no IP address; one looks like 10.0.0.1 or 2001:db8::1, and an IPv4-mapped one is written as IPv4",
            "isIP(self)",
            |value| value.as_str().and_then(parse_address).is_some(),
        ),
        Rule::new(
            "",
            "is not written in the canonical form, such as 2001:db8::1",
            "!isIP(self) || ip.isCanonical(self)",
            |value| {
                let text = value.as_str().unwrap_or_default();
                parse_address(text).is_none_or(|address| address.to_string() == text)
            },
        ),
        Rule::new(
            "",
            "is no address that a workload can have: unspecified, loopback, multicast, broadcast and link-local ones are not",
            "!isIP(self) || ip(self).isGlobalUnicast()",
            |value| value.as_str().and_then(parse_address).is_none_or(is_global_unicast),
        ),
    ]
}

/// An address block as the API server's `isCIDR` takes it: no zone, no leading zeros, not IPv4-mapped.
pub(crate) fn parse_cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let plain =
        length.bytes().all(|byte| byte.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
    if !plain {
        return None;
    }
    IpNet::new(parse_address(address)?, length.parse().ok()?).ok()
}

/// An address as the API server's `isIP` takes it: no zone, not IPv4-mapped.
pub(crate) fn parse_address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => None,
        _ => Some(address),
    }
}

fn is_global_unicast(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || link_local)
}

/// Whether the block `inner` is a proper part of the block `outer`.
pub(super) fn lies_inside(outer: &Value, inner: &Value) -> bool {
    let blocks = (outer.as_str().and_then(parse_cidr), inner.as_str().and_then(parse_cidr));
    match blocks {
        (Some(outer), Some(inner)) => outer.contains(&inner) && inner.prefix_len() > outer.prefix_len(),
        // What is no block at all is refused by the rules of `cidrs`.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_taken_as_strictly_as_the_api_server_takes_them() {
        for good in ["10.0.0.0/8", "0.0.0.0/0", "::/0", "2001:db8::/32", "10.0.0.1/32"] {
            assert!(parse_cidr(good).is_some(), "{good}");
        }
        for bad in [
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "010.0.0.0/8",
            "::ffff:10.0.0.0/104",
            "fe80::%a/64",
            "/8",
            "",
        ] {
            assert!(parse_cidr(bad).is_none(), "{bad}");
        }
    }
}
