//! The node without its kubelet: a network namespace that is the node's, a bridge in it, and pods run one by one after
//! the API has made their objects, in cgroups as the kubelet's systemd driver and containerd name them.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::scenario::{cgroup::Top, netlink::Network, netns::NetNs, process::Inside};

/// The ports that everybody serves echo at, over TCP and UDP.
pub const PORTS: [u16; 5] = [80, 443, 5432, 8080, 9000];
/// Somebody outside the cluster, whose address nobody knows.
const OUTSIDE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 10))];

/// A place with a process: a pod, `node` itself, or `outside`.
struct Place {
    /// IPv4 first, then IPv6.
    addresses: [IpAddr; 2],
    inside: Inside,
    cgroup: String,
    // The namespace goes with it; the node's process is in the node's.
    netns: Option<NetNs>,
}

/// The node. Dropping it ends and removes everything on it.
pub struct Node {
    places: BTreeMap<String, Place>,
    netns: NetNs,
    program: PathBuf,
    // Last: the processes in it go first.
    top: Top,
}

/// The addresses of the pod with this number; the node's own number is 1.
#[must_use]
pub fn addresses(number: u8) -> [IpAddr; 2] {
    [
        Ipv4Addr::new(10, 77, 0, number).into(),
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(number)).into(),
    ]
}

/// The id of the container of the pod with this number.
#[must_use]
pub fn container(number: u8) -> String {
    format!("{number:064x}")
}

/// Which boot of this machine this is.
///
/// # Errors
/// When the kernel does not say.
pub fn boot_id() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The release of this machine's kernel.
#[must_use]
pub fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

impl Node {
    /// Makes it, with a process of the node itself and one outside. Their program, and that of pods, is `program`.
    ///
    /// # Errors
    /// When the kernel refuses: it takes root.
    pub fn new(program: &Path) -> Result<Self> {
        let top = Top::new()?;
        let netns = NetNs::new()?;
        netns
            .within(|| {
                let mut network = Network::open()?;
                network.up("lo")?;
                network.bridge("br0")?;
                configure(&mut network, "br0", addresses(1))
            })
            .context("the node's network")?;
        let mut me = Self { places: BTreeMap::new(), netns, program: program.to_owned(), top };
        let cgroup = me.top.make("system.slice/kubelet.service")?;
        let inside = Inside::start_by(program, "node", &me.top.full(&cgroup), &me.host_netns())?;
        let place = Place { addresses: addresses(1), inside, cgroup, netns: None };
        me.places.insert("node".to_owned(), place);
        me.settle("outside", "outside", OUTSIDE)?;
        Ok(me)
    }

    /// A path of the node's network namespace, good for children of this process.
    #[must_use]
    pub fn host_netns(&self) -> PathBuf {
        self.netns.path()
    }

    /// Runs the pod of this UID: its cgroups, its network, a process that serves at [`PORTS`]. Its addresses end with
    /// `number`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn run(&mut self, name: &str, uid: &str, number: u8) -> Result<()> {
        let pod = uid.replace('-', "_");
        let container = container(number);
        let cgroup = format!(
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{pod}.slice/cri-containerd-{container}.scope"
        );
        self.settle(name, &cgroup, addresses(number)).with_context(|| format!("running the pod {name}"))
    }

    fn settle(&mut self, name: &str, cgroup: &str, addresses: [IpAddr; 2]) -> Result<()> {
        let cgroup = self.top.make(cgroup)?;
        let netns = NetNs::new()?;
        let wire = format!("veth-{name}");
        self.netns.within(|| Network::open()?.veth(&wire, "br0", "eth0", netns.file()))?;
        netns.within(|| {
            let mut network = Network::open()?;
            network.up("lo")?;
            network.up("eth0")?;
            configure(&mut network, "eth0", addresses)
        })?;
        let inside = Inside::start_by(&self.program, name, &self.top.full(&cgroup), &netns.path())?;
        inside.serve(&PORTS)?;
        let place = Place { addresses, inside, cgroup, netns: Some(netns) };
        self.places.insert(name.to_owned(), place);
        Ok(())
    }

    /// Ends a pod: its process and its network, as the runtime does, and then its cgroups.
    ///
    /// # Errors
    /// When there is no such pod, or its cgroups stay.
    pub fn stop(&mut self, name: &str) -> Result<()> {
        let place = self.places.remove(name).with_context(|| format!("there is no place {name}"))?;
        let (pod, _) = place.cgroup.rsplit_once('/').context("a pod's container is in the pod's cgroup")?;
        let pod = pod.to_owned();
        drop(place);
        self.top.remove(&pod)
    }

    /// Gives a pod another address, as if a Service's were translated to the pod's: what is allowed arrives without
    /// kube-proxy, and the caller's own hook sees the Service's address, as on any node.
    ///
    /// # Errors
    /// When there is no such pod, or the kernel refuses.
    pub fn alias(&self, name: &str, address: IpAddr) -> Result<()> {
        let netns = self.place(name)?.netns.as_ref().context("the node has no network of its own")?;
        netns.within(|| Network::open()?.address("eth0", address, if address.is_ipv4() { 32 } else { 128 }))
    }

    /// The process in a place.
    ///
    /// # Errors
    /// When there is no such place.
    pub fn inside(&self, name: &str) -> Result<&Inside> {
        Ok(&self.place(name)?.inside)
    }

    /// The IPv4 address and a port of a place.
    ///
    /// # Errors
    /// When there is no such place.
    pub fn at(&self, name: &str, port: u16) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.place(name)?.addresses[0], port))
    }

    fn place(&self, name: &str) -> Result<&Place> {
        self.places.get(name).with_context(|| format!("there is no place {name}"))
    }
}

/// Gives an interface its addresses; whatever has no other route is looked for on its link.
fn configure(network: &mut Network, interface: &str, addresses: [IpAddr; 2]) -> Result<()> {
    for address in addresses {
        network.address(interface, address, if address.is_ipv4() { 24 } else { 64 })?;
        network.everything_on_link(interface, address)?;
    }
    Ok(())
}
