//! Where a node's containers are: its mount namespace, its network with a bridge, its tree of cgroups, its folder.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    process::Process,
    scenario::{cgroup::Top, netlink::Network, netns::NetNs},
    tools,
};

/// What makes the node's mount namespace: the cgroup v2 tree where every node has it, and a BPF file system of its own.
const MOUNTS: &str = "umount --lazy --recursive /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup && mount -t bpf bpf /sys/fs/bpf && : >\"$1\" && exec sleep 1000000000";

/// The place. Dropping it ends and removes everything in it.
pub(super) struct Place {
    number: u8,
    netns: NetNs,
    used: Mutex<BTreeSet<u8>>,
    /// `None` when it was ended.
    held: Mutex<Option<(Top, Process)>>,
    /// The process whose mount namespace is the node's.
    holder: u32,
    top: String,
    root: PathBuf,
}

/// The addresses of the node (1), or of a pod on it: IPv4 first, then IPv6.
pub(super) fn addresses(node: u8, number: u8) -> [IpAddr; 2] {
    [
        Ipv4Addr::new(10, 77, node, number).into(),
        Ipv6Addr::new(0xfd77, 0, 0, u16::from(node), 0, 0, 0, u16::from(number)).into(),
    ]
}

/// The network of a pod.
pub(super) enum PodNetwork {
    /// The node's.
    Host([IpAddr; 2]),
    /// One of its own.
    Own {
        /// The namespace.
        netns: NetNs,
        /// Its addresses.
        addresses: [IpAddr; 2],
        /// What they end with.
        number: u8,
    },
}

impl PodNetwork {
    /// Its addresses, IPv4 first.
    pub(super) fn addresses(&self) -> [IpAddr; 2] {
        match self {
            Self::Host(addresses) | Self::Own { addresses, .. } => *addresses,
        }
    }

    /// Its namespace.
    pub(super) fn netns<'a>(&'a self, place: &'a Place) -> &'a NetNs {
        match self {
            Self::Host(_) => &place.netns,
            Self::Own { netns, .. } => netns,
        }
    }
}

impl Place {
    /// Makes it; `folder` is the node's.
    pub(super) fn new(number: u8, folder: &Path) -> Result<Self> {
        let made = folder.join("mounted");
        let program = tools::system_program("unshare", "util-linux")?;
        let mut holder = Process::start(&program, &folder.join("mounts.log"), |command| {
            command.args(["--mount", "--propagation", "private", "sh", "-c", MOUNTS, "sh"]).arg(&made);
        })?;
        holder.wait_until(Duration::from_secs(10), || made.exists()).context("the mounts of a node")?;
        let netns = NetNs::new()?;
        netns
            .within(|| {
                let mut network = Network::open()?;
                network.up("lo")?;
                network.bridge("br0")?;
                configure(&mut network, "br0", addresses(number, 1))
            })
            .context("the network of a node")?;
        let top = Top::another()?;
        Ok(Self {
            number,
            netns,
            used: Mutex::default(),
            holder: holder.id(),
            top: top.path(),
            root: top.root().to_owned(),
            held: Mutex::new(Some((top, holder))),
        })
    }

    /// The node's network namespace.
    pub(super) fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// A command in the node's mount namespace.
    pub(super) fn command(&self, program: &Path) -> Result<Command> {
        let mut command = Command::new(tools::system_program("nsenter", "util-linux")?);
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder)).arg("--").arg(program);
        Ok(command)
    }

    /// Makes the cgroup of a pod; returns its path from the root of the tree.
    pub(super) fn pod_cgroup(&self, quality: &str, uid: &str) -> Result<String> {
        let pod = uid.replace('-', "_");
        let path = match quality {
            "Guaranteed" => format!("kubepods.slice/kubepods-pod{pod}.slice"),
            "Burstable" => {
                format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{pod}.slice")
            }
            _ => format!("kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{pod}.slice"),
        };
        let full = format!("{}/{path}", self.top);
        fs::create_dir_all(self.full(&full)).with_context(|| format!("the cgroup {full}"))?;
        Ok(full)
    }

    /// Where a cgroup is in this machine's file system.
    pub(super) fn full(&self, cgroup: &str) -> PathBuf {
        self.root.join(cgroup.trim_start_matches('/'))
    }

    /// Ends what still runs in a pod's cgroup and removes it.
    pub(super) fn remove_cgroup(&self, cgroup: &str) -> Result<()> {
        match self.held.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some((top, _)) => top.remove(cgroup),
            None => Ok(()),
        }
    }

    /// Makes a network for a pod.
    pub(super) fn pod_network(&self, host: bool) -> Result<PodNetwork> {
        if host {
            return Ok(PodNetwork::Host(addresses(self.number, 1)));
        }
        let number = {
            let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            let free = (10..250)
                .find(|number| !used.contains(number))
                .context("the node's addresses are used up")?;
            used.insert(free);
            free
        };
        let (netns, addresses) = (NetNs::new()?, addresses(self.number, number));
        self.netns.within(|| Network::open()?.veth(&format!("pod{number}"), "br0", "eth0", netns.file()))?;
        netns.within(|| {
            let mut network = Network::open()?;
            network.up("lo")?;
            network.up("eth0")?;
            configure(&mut network, "eth0", addresses)
        })?;
        Ok(PodNetwork::Own { netns, addresses, number })
    }

    /// The number of a pod's network may be used again, once its namespace is gone.
    pub(super) fn release(&self, network: &PodNetwork) {
        if let PodNetwork::Own { number, .. } = network {
            self.used.lock().unwrap_or_else(PoisonError::into_inner).remove(number);
        }
    }

    /// Ends every process on the node.
    pub(super) fn end(&self) {
        drop(self.held.lock().unwrap_or_else(PoisonError::into_inner).take());
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
