//! Private networks against the real kernel: out through NAT, apart from each other, gone afterwards.
//!
//! Needs root with `CAP_NET_ADMIN` and the programs `ip` and `nft`; without them a test says so and passes.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test tells why it was skipped, a victim that it is ready"
)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use runner::network::{Mode, Network};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

/// Whether the test can run here.
fn root() -> bool {
    let is_root = rustix::process::geteuid().is_root() && run("ip", &["link"]).is_some();
    if !is_root {
        eprintln!("skipped: needs root and `ip`");
    }
    is_root
}

fn run(program: &str, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `work` in a namespace, on a thread that ends afterwards.
fn inside<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_thread_name_spaces(namespace, ThreadNameSpaceType::NETWORK).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

fn namespace(network: &Network) -> BorrowedFd<'_> {
    network.namespace.as_ref().unwrap().as_fd()
}

fn connect(address: Ipv4Addr, port: u16) -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&SocketAddr::from((address, port)), Duration::from_secs(2))
}

/// Answers one connection with the address that it came from.
fn tell_peer(listener: &TcpListener) {
    let (mut stream, peer) = listener.accept().unwrap();
    write!(stream, "{}", peer.ip()).unwrap();
}

fn link_exists(name: &str) -> bool {
    std::path::Path::new("/sys/class/net").join(name).exists()
}

fn tables() -> String {
    run("nft", &["list", "tables"]).unwrap_or_default()
}

/// The kernel takes namespaces apart in the background.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A server behind another link of the host, 198.51.100.2 port 8080, with no way back to the private
/// range but NAT. It answers once.
fn far_server(link: &str) -> std::thread::JoinHandle<()> {
    let (ready, when_ready) = std::sync::mpsc::channel();
    let (go, when_go) = std::sync::mpsc::channel::<()>();
    let server = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ready.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
        when_go.recv().unwrap();
        run("ip", &["addr", "add", "198.51.100.2/30", "dev", "far0"]).unwrap();
        run("ip", &["link", "set", "far0", "up"]).unwrap();
        let listener = TcpListener::bind(("198.51.100.2", 8080)).unwrap();
        ready.send(0).unwrap();
        tell_peer(&listener);
    });
    let thread = when_ready.recv().unwrap().to_string();
    run("ip", &["link", "add", link, "type", "veth", "peer", "name", "far0", "netns", &thread]).unwrap();
    run("ip", &["addr", "add", "198.51.100.1/30", "dev", link]).unwrap();
    run("ip", &["link", "set", link, "up"]).unwrap();
    go.send(()).unwrap();
    when_ready.recv().unwrap();
    server
}

/// Connects to the far server from inside and returns the address that it saw.
fn seen_by_far_server(network: &Network) -> String {
    inside(namespace(network), || {
        let mut text = String::new();
        connect(Ipv4Addr::new(198, 51, 100, 2), 8080).unwrap().read_to_string(&mut text).unwrap();
        text
    })
}

#[test]
fn a_private_network_reaches_out_under_the_hosts_address() {
    if !root() {
        return;
    }
    let server = far_server("xyfar0");
    let network = Network::open(Mode::Private, "a1a1a1a1a1a1").unwrap();
    assert_eq!(seen_by_far_server(&network), "198.51.100.1");
    server.join().unwrap();
}

#[test]
fn two_networks_have_two_addresses_and_do_not_reach_each_other() {
    if !root() {
        return;
    }
    let one = Network::open(Mode::Private, "b1b1b1b1b1b1").unwrap();
    let two = Network::open(Mode::Private, "b2b2b2b2b2b2").unwrap();
    let address = one.address.unwrap();
    assert_ne!(one.address, two.address);
    // A name that is taken is no obstacle.
    let again = Network::open(Mode::Private, "b1b1b1b1b1b1").unwrap();
    assert_ne!(again.address, one.address);
    let listener = inside(namespace(&one), || TcpListener::bind(("0.0.0.0", 8081)).unwrap());

    // The host reaches its own containers; its neighbours' containers do not.
    drop(connect(address, 8081).unwrap());
    let error = inside(namespace(&two), || connect(address, 8081).unwrap_err());
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
    drop(listener);
}

#[test]
fn many_networks_at_once_get_addresses_of_their_own() {
    if !root() {
        return;
    }
    let networks: Vec<Network> = std::thread::scope(|scope| {
        let open = |number: usize| {
            scope.spawn(move || Network::open(Mode::Private, &format!("c{number:09}")).unwrap())
        };
        let threads: Vec<_> = (0..8).map(open).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut addresses: Vec<_> = networks.iter().filter_map(|network| network.address).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 8);
}

#[test]
fn a_dropped_network_leaves_nothing() {
    if !root() {
        return;
    }
    let name = "rbd1d1d1d1d1";
    let network = Network::open(Mode::Private, "d1d1d1d1d1d1").unwrap();
    assert!(link_exists(name) && tables().contains(name));
    drop(network);
    eventually("the link stays", || !link_exists(name));
    eventually("the table stays", || !tables().contains(name));
    // The same name is free again at once.
    drop(Network::open(Mode::Private, "d1d1d1d1d1d1").unwrap());
}

/// The victim of the next test; alone it does nothing.
#[test]
fn holds_a_network_until_it_is_killed() {
    if std::env::var_os("RBUILD_TEST_VICTIM").is_none() {
        return;
    }
    let _network = Network::open(Mode::Private, "e1e1e1e1e1e1").unwrap();
    println!("\nopen");
    std::thread::sleep(Duration::from_mins(1));
}

#[test]
fn a_killed_process_leaves_nothing_either() {
    if !root() {
        return;
    }
    let name = "rbe1e1e1e1e1";
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holds_a_network_until_it_is_killed", "--nocapture"])
        .env("RBUILD_TEST_VICTIM", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    while !said.contains("\nopen") {
        let mut bytes = [0; 64];
        let count = victim.stdout.as_mut().unwrap().read(&mut bytes).unwrap();
        assert_ne!(count, 0, "the victim ended early: {said}");
        said.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    assert!(link_exists(name) && tables().contains(name));

    victim.kill().unwrap();
    victim.wait().unwrap();
    Network::clear("rb").unwrap();
    eventually("the link stays", || !link_exists(name));
    eventually("the table stays", || !tables().contains(name));
}

#[test]
fn names_are_asked_where_the_host_asks() {
    if !root() {
        return;
    }
    let host = std::fs::read("/etc/resolv.conf").unwrap_or_default();
    assert_eq!(Network::open(Mode::Host, "f1").unwrap().resolv_conf, host);
    assert_eq!(Network::open(Mode::None, "f2").unwrap().resolv_conf, b"");
    let private = Network::open(Mode::Private, "f3f3f3f3f3f3").unwrap();
    assert!(!String::from_utf8_lossy(&private.resolv_conf).contains("nameserver 127."));
}

/// Docker sets iptables' FORWARD policy to drop and leaves DOCKER-USER to others. This thread's own
/// namespace plays the host, so that the real one is left alone.
#[test]
fn where_docker_drops_forwarded_packets_ours_pass() {
    if !root() || run("iptables", &["--version"]).is_none() {
        return;
    }
    let host = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let iptables = |words: &[&str]| run("iptables", words).unwrap();
        iptables(&["-P", "FORWARD", "DROP"]);
        let before = iptables(&["-S"]);
        let server = far_server("xyfar1");
        let network = Network::open(Mode::Private, "ababababab01").unwrap();
        assert_eq!(seen_by_far_server(&network), "198.51.100.1");
        server.join().unwrap();
        assert_eq!(iptables(&["-S", "FORWARD"]).matches("rbuild:rbababababab").count(), 2);
        drop(network);
        assert_eq!(iptables(&["-S"]), before);

        iptables(&["-N", "DOCKER-USER"]);
        iptables(&["-I", "FORWARD", "-j", "DOCKER-USER"]);
        let before = iptables(&["-S"]);
        let network = Network::open(Mode::Private, "abababab0202").unwrap();
        assert_eq!(iptables(&["-S", "DOCKER-USER"]).matches("rbuild:rbabababab02").count(), 2);
        // What a killed process leaves is told from what a living one needs by its link.
        let dead =
            ["DOCKER-USER", "-i", "rbgone", "-m", "comment", "--comment", "rbuild:rbgone", "-j", "ACCEPT"];
        iptables(&[&["-I"], &dead[..]].concat());
        Network::clear("rb").unwrap();
        let rules = iptables(&["-S", "DOCKER-USER"]);
        assert!(!rules.contains("rbgone") && rules.contains("rbabababab02"), "{rules}");
        drop(network);
        assert_eq!(iptables(&["-S"]), before);
    };
    std::thread::spawn(host).join().unwrap();
}
