//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container. Pure but for the host's own.
//!
//! What a user types becomes lines of these files, so it must not hold a line break, a space or a
//! name that is none (SECURITY.md: no lines by injection).
//!
//! May touch: its arguments. Knows nothing of the image and of how files get into the sandbox.

use std::fmt::Write;
use std::net::IpAddr;

use store::ImagePath;

use super::ContainerError;
use super::options::HostAddress;
use crate::network::{Mode, Network};
use crate::sandbox::plan::GeneratedFile;

const LOCAL: &str = "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// What the three files say.
pub(super) struct Names<'n> {
    pub(super) hostname: &'n str,
    pub(super) network: &'n Network,
    pub(super) dns: &'n [IpAddr],
    pub(super) add_hosts: &'n [(String, HostAddress)],
    /// The host's `/etc/hosts`, which a container on the host's network sees too.
    pub(super) host_hosts: &'n [u8],
}

impl Names<'_> {
    pub(super) fn files(&self) -> Result<Vec<GeneratedFile>, ContainerError> {
        let file = |path: &str, content| GeneratedFile {
            target: ImagePath::new(path),
            content,
            mode: 0o644,
            uid: 0,
            gid: 0,
        };
        Ok(vec![
            file("/etc/hostname", format!("{}\n", self.hostname).into_bytes()),
            file("/etc/hosts", self.hosts()?),
            file("/etc/resolv.conf", self.resolv_conf()),
        ])
    }

    fn hosts(&self) -> Result<Vec<u8>, ContainerError> {
        let mut added = String::new();
        for (name, address) in self.add_hosts {
            check_host_name(name)?;
            let address = match address {
                HostAddress::Address(address) => *address,
                HostAddress::Gateway => self.gateway()?,
            };
            writeln!(added, "{address}\t{name}").expect("a String takes all");
        }
        if self.network.mode == Mode::Host {
            let mut hosts = self.host_hosts.to_vec();
            hosts.extend(added.bytes());
            return Ok(hosts);
        }
        let own = self.network.address.unwrap_or(std::net::Ipv4Addr::LOCALHOST);
        Ok(format!("{LOCAL}{own}\t{}\n{added}", self.hostname).into_bytes())
    }

    fn gateway(&self) -> Result<IpAddr, ContainerError> {
        match (self.network.mode, self.network.gateway) {
            (Mode::Host, _) => Ok(std::net::Ipv4Addr::LOCALHOST.into()),
            (_, Some(gateway)) => Ok(gateway.into()),
            (_, None) => Err(ContainerError::NoGateway),
        }
    }

    /// With `--dns` only those servers; search domains and options stay the host's.
    fn resolv_conf(&self) -> Vec<u8> {
        if self.dns.is_empty() {
            return self.network.resolv_conf.clone();
        }
        let host = String::from_utf8_lossy(&self.network.resolv_conf);
        let kept = host.lines().filter(|line| line.split_whitespace().next() != Some("nameserver"));
        let servers = self.dns.iter().map(|address| format!("nameserver {address}\n"));
        kept.map(|line| format!("{line}\n")).chain(servers).collect::<String>().into_bytes()
    }
}

/// A name by RFC 1123: labels of letters, digits and dashes; underscores are let through, as in practice.
pub(super) fn check_host_name(name: &str) -> Result<(), ContainerError> {
    let is_label = |label: &str| {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len())
            && label.bytes().all(is_known)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(is_label) {
        return Ok(());
    }
    Err(ContainerError::BadHostName(name.escape_debug().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(mode: Mode, resolv_conf: &str) -> Network {
        let mut network = Network::open(Mode::None, "test").unwrap();
        network.mode = mode;
        network.resolv_conf = resolv_conf.as_bytes().to_vec();
        network
    }

    fn text(names: &Names<'_>, path: &str) -> String {
        let files = names.files().unwrap();
        let file = files.iter().find(|file| file.target == ImagePath::new(path)).unwrap();
        String::from_utf8(file.content.clone()).unwrap()
    }

    #[test]
    fn own_name_and_added_names_are_in_hosts() {
        let mut network = network(Mode::Private, "");
        network.address = Some([10, 213, 0, 2].into());
        network.gateway = Some([10, 213, 0, 1].into());
        let add_hosts = [
            ("db.local".to_owned(), HostAddress::Address("192.0.2.7".parse().unwrap())),
            ("host".to_owned(), HostAddress::Gateway),
        ];
        let names =
            Names { hostname: "box", network: &network, dns: &[], add_hosts: &add_hosts, host_hosts: b"" };
        let hosts = text(&names, "/etc/hosts");
        assert!(hosts.ends_with("10.213.0.2\tbox\n192.0.2.7\tdb.local\n10.213.0.1\thost\n"), "{hosts}");
        assert_eq!(text(&names, "/etc/hostname"), "box\n");
    }

    #[test]
    fn given_nameservers_replace_the_hosts_and_keep_its_options() {
        let network = network(Mode::Private, "search lan\nnameserver 192.0.2.53\noptions edns0\n");
        let dns = ["198.51.100.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let names = Names { hostname: "box", network: &network, dns: &dns, add_hosts: &[], host_hosts: b"" };
        let expected = "search lan\noptions edns0\nnameserver 198.51.100.1\nnameserver 2001:db8::1\n";
        assert_eq!(text(&names, "/etc/resolv.conf"), expected);
    }

    #[test]
    fn on_the_hosts_network_the_hosts_names_count() {
        let network = network(Mode::Host, "");
        let add_hosts = [("here".to_owned(), HostAddress::Gateway)];
        let host_hosts = b"192.0.2.1 gate\n";
        let names = Names { hostname: "box", network: &network, dns: &[], add_hosts: &add_hosts, host_hosts };
        assert_eq!(text(&names, "/etc/hosts"), "192.0.2.1 gate\n127.0.0.1\there\n");
    }

    #[test]
    fn no_name_makes_a_second_line() {
        for good in ["a", "box-1", "db.local", "my_db", "0"] {
            check_host_name(good).unwrap();
        }
        let long = "a".repeat(64);
        for bad in ["", "a\n1.2.3.4 evil", "a b", "-a", "a-", "a..b", ".", "ä", "a\0", &long, "a/b", "a:b"] {
            check_host_name(bad).unwrap_err();
        }
    }
}
