//! The kernel's programs against the reference verdict: random policies, worlds and packets, the real maps filled by the
//! real compiler, and each packet run through the real program (`BPF_PROG_TEST_RUN`) from inside the workload's cgroup.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::{HashMap as BpfHash, Map, MapData};
use aya::programs::{Program, TestRun, TestRunOptions};
use aya::{Btf, Ebpf, EbpfLoader};
use holdfast_agent::abi;
use holdfast_agent::engine::Engine;
use holdfast_agent::facts::{External, Facts, Pod};
use holdfast_agent::hooks::Hooks;
use holdfast_agent::loader::{self, Places, objects};
use holdfast_agent::workloads::Cgroup;
use holdfast_policy::arbitrary;
use holdfast_policy::decide::{Enforced, Packet, Transport, Via, decide_packet};
use holdfast_policy::model::{Direction, NetScope, Protocol, RuleRef, Workload};
use holdfast_tests::scenario::cgroup::Top;
use holdfast_tests::scenario::node::scratch;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Packets to run; the promise is a thousand.
const PACKETS: usize = 3000;
const OUR_PORT: u16 = 40_001;

/// The process is in a cgroup of the test's, and goes back where it was.
struct Stay {
    home: std::path::PathBuf,
}

impl Stay {
    fn new(root: &std::path::Path) -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let path = own.lines().find_map(|line| line.strip_prefix("0::")).context("no cgroup v2 entry")?;
        Ok(Self { home: root.join(path.trim_start_matches('/')) })
    }

    fn enter(dir: &std::path::Path) -> Result<()> {
        let file = dir.join("cgroup.procs");
        fs::write(&file, std::process::id().to_string()).with_context(|| file.display().to_string())
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if let Err(error) = Self::enter(&self.home) {
            eprintln!("the process could not go home: {error:#}");
        }
    }
}

/// The BPF file system of the test, which goes with everything that is pinned there.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}

/// An Ethernet frame with the packet in it, as the kernel's test run wants one.
fn frame(packet: &Packet, own4: [u8; 4], own6: [u8; 16]) -> Vec<u8> {
    let egress = packet.direction == Direction::Egress;
    let (proto, port, fragment) = match packet.transport {
        Transport::Port(protocol, port) => (Some(protocol), port, false),
        Transport::Fragment(protocol) => (Some(protocol), 0, true),
        Transport::Other => (None, 0, false),
    };
    // The port that rules name is the destination's, whichever way the packet goes.
    let mut transport = vec![0_u8; 32];
    transport[..2].copy_from_slice(&OUR_PORT.to_be_bytes());
    transport[2..4].copy_from_slice(&port.to_be_bytes());
    if proto == Some(Protocol::Sctp) {
        // Behind ports, tag and checksum: the type of the first chunk. INIT opens an association.
        transport[12] = 1;
    }
    let mut out = vec![0_u8; 12];
    // The kernel shows an IPv4-mapped address on the wire as IPv4.
    let peer = match packet.peer {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 @ IpAddr::V4(_) => v4,
    };
    match peer {
        IpAddr::V4(peer) => {
            out.extend([0x08, 0x00]);
            let number = proto.map_or(1, Protocol::number);
            let (src, dst) = if egress { (own4, peer.octets()) } else { (peer.octets(), own4) };
            let length = u16::try_from(20 + transport.len()).expect("small").to_be_bytes();
            let offset = u16::from(fragment).wrapping_mul(100).to_be_bytes();
            out.extend([0x45, 0, length[0], length[1], 0, 1, offset[0], offset[1], 64, number, 0, 0]);
            out.extend(src);
            out.extend(dst);
        }
        IpAddr::V6(peer) => {
            out.extend([0x86, 0xdd]);
            let number = proto.map_or(58, Protocol::number);
            let next = if fragment { 44 } else { number };
            let extra = if fragment { 8 } else { 0 };
            let length = u16::try_from(extra + transport.len()).expect("small").to_be_bytes();
            let (src, dst) = if egress { (own6, peer.octets()) } else { (peer.octets(), own6) };
            out.extend([0x60, 0, 0, 0, length[0], length[1], next, 64]);
            out.extend(src);
            out.extend(dst);
            if fragment {
                let offset = (100_u16 << 3).to_be_bytes();
                out.extend([number, 0, offset[0], offset[1], 0, 0, 0, 1]);
            }
        }
    }
    out.extend(transport);
    out
}

/// `struct __sk_buff` with nothing but the interface, which is no loopback.
fn context(ifindex: u32) -> Vec<u8> {
    let mut ctx = vec![0_u8; 192];
    // include/uapi/linux/bpf.h: len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto,
    // priority, ingress_ifindex, ifindex.
    ctx[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    ctx
}

fn a_real_interface() -> Result<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/class/net")? {
        let path = entry?.path().join("ifindex");
        if let Ok(text) = fs::read_to_string(path) {
            found.push(text.trim().parse::<u32>()?);
        }
    }
    found.into_iter().filter(|index| *index > 1).min().context("this machine has no interface but loopback")
}

struct Kernel {
    egress: Ebpf,
    node_flows: BpfHash<MapData, abi::NodeFlowKey, u64>,
    flows: BpfHash<MapData, abi::FlowKey, abi::Flow>,
}

impl Kernel {
    fn load(places: &Places) -> Result<Self> {
        let btf = Btf::from_sys_fs()?;
        let mut egress =
            EbpfLoader::new().btf(Some(&btf)).default_map_pin_directory(places.pins()).load(objects::NET)?;
        for name in ["hf_egress", "hf_ingress"] {
            let Some(Program::CgroupSkb(program)) = egress.program_mut(name) else {
                return Err(anyhow!("no program {name}"));
            };
            program.load()?;
        }
        let pinned = |name: &str| MapData::from_pin(places.pins().join(name));
        Ok(Self {
            egress,
            node_flows: BpfHash::try_from(Map::LruHashMap(pinned("node_flows")?))?,
            flows: BpfHash::try_from(Map::LruHashMap(pinned("flows")?))?,
        })
    }

    fn run(&self, packet: &Packet, data: &[u8], ifindex: u32) -> Result<u32> {
        let name = if packet.direction == Direction::Egress { "hf_egress" } else { "hf_ingress" };
        let Some(Program::CgroupSkb(program)) = self.egress.program(name) else {
            return Err(anyhow!("no program {name}"));
        };
        let ctx = context(ifindex);
        let mut options = TestRunOptions::new();
        options.data_in = Some(data);
        if packet.via != Via::Loopback {
            options.ctx_in = Some(&ctx);
        }
        Ok(program.test_run(options)?.return_value)
    }

    fn clear_flows(&mut self) -> Result<()> {
        let keys: Vec<_> = self.flows.keys().collect::<Result<_, _>>()?;
        for key in keys {
            self.flows.remove(&key)?;
        }
        Ok(())
    }
}

fn facts(scenario: &arbitrary::Scenario, tops: &[String]) -> (Facts, Vec<usize>) {
    let mut pods = Vec::new();
    let mut externals = Vec::new();
    let mut taken = Vec::new();
    for (place, workload) in scenario.workloads.iter().enumerate() {
        let uid = format!("00000000-0000-0000-0000-{place:012}");
        if workload.net == NetScope::WholeHost {
            // Its cgroup is the root of the tree, which is not the test's to take.
            continue;
        }
        taken.push(place);
        if workload.net == NetScope::HostPart {
            externals.push(External {
                namespace: workload.namespace.clone(),
                name: workload.name.clone(),
                uid,
                labels: workload.labels.clone(),
                named_ports: workload.named_ports.clone(),
                addresses: Vec::new(),
                cgroups: vec![tops[place].clone()],
            });
        } else {
            pods.push(Pod {
                namespace: workload.namespace.clone(),
                name: workload.name.clone(),
                uid,
                labels: workload.labels.clone(),
                service_account: workload.service_account.clone(),
                named_ports: workload.named_ports.clone(),
                ..Pod::default()
            });
        }
    }
    let facts = Facts {
        policies: Arc::new(scenario.policies.clone()),
        world: Arc::new(scenario.world.clone()),
        pods: Arc::new(pods),
        externals: Arc::new(externals),
        complete: true,
        ..Facts::default()
    };
    (facts, taken)
}

/// What the kernel counted for one packet: at most one rule, and what was done.
fn counted(engine: &mut Engine) -> Result<Option<(RuleRef, u8)>> {
    let raw = engine.maps().counters()?;
    let mut found = raw.into_iter().filter(|(_, count)| *count > 0);
    let Some((key, count)) = found.next() else { return Ok(None) };
    ensure!(count == 1 && found.next().is_none(), "one packet was counted more than once");
    let set = engine.meaning().net_sets.get(&key.set).context("a set that is not in force")?;
    Ok(Some((set.rules[usize::from(key.rule)].clone(), key.given)))
}

fn forget(engine: &mut Engine) -> Result<()> {
    let keys: Vec<_> = engine.maps().counters()?.into_keys().collect();
    for key in keys {
        engine.forget_counter(&key)?;
    }
    Ok(())
}

#[test]
fn the_kernel_decides_as_the_oracle_does() -> Result<()> {
    let top = Top::new()?;
    let (_keep, bpffs) = scratch()?;
    let _mounted = Mounted(bpffs.clone());
    let places = Places { bpffs, cgroup_root: top.root().to_owned() };
    // Only the maps: nothing is attached, as no packet of this machine is to be judged.
    let maps = loader::maps_only(&places)?;
    let hooks = Hooks::probe(&places, &Btf::from_sys_fs()?)?;
    let mut engine = Engine::adopt(maps, hooks, 0)?;
    let mut kernel = Kernel::load(&places)?;
    let ifindex = a_real_interface()?;
    let stay = Stay::new(top.root())?;

    let mut paths = Vec::new();
    for place in 0..4 {
        paths.push((
            top.make(&format!("kubepods/pod00000000-0000-0000-0000-{place:012}"))?,
            top.make(&format!("vm/{place}"))?,
        ));
    }
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let (mut ran, mut refused, mut audited) = (0, 0, 0);
    while ran < PACKETS {
        let mut scenario = arbitrary::scenario().new_tree(&mut runner).map_err(|e| anyhow!("{e}"))?.current();
        // The test itself is the workload: rules about system calls would be about its own.
        for policy in &mut scenario.policies {
            policy.syscalls = None;
        }
        let tops: Vec<String> = paths.iter().map(|(_, vm)| vm.clone()).collect();
        let (facts, taken) = facts(&scenario, &tops);
        let mut cgroups = Vec::new();
        let mut home = HashMap::new();
        for place in &taken {
            let (pod, vm) = &paths[*place];
            let path = if scenario.workloads[*place].net == NetScope::HostPart { vm } else { pod };
            let id = std::os::unix::fs::MetadataExt::ino(&fs::metadata(top.full(path))?);
            cgroups.push(Cgroup { id, path: path.clone() });
            home.insert(*place, top.full(path));
        }
        engine.apply(&facts, &cgroups)?;
        for place in taken {
            // What a source can say of a workload; the container is not known, as for a pod's own cgroup.
            let workload = Workload { container: None, ..scenario.workloads[place].clone() };
            let workload = match workload.net {
                NetScope::HostPart => Workload { service_account: None, ..workload },
                _ => workload,
            };
            Stay::enter(&home[&place])?;
            for packet in &scenario.packets {
                let verdict = decide_packet(&scenario.policies, &scenario.world, &workload, packet);
                forget(&mut engine)?;
                kernel.clear_flows()?;
                let data =
                    frame(packet, [203, 0, 113, 9], "2001:db8:9::9".parse::<std::net::Ipv6Addr>()?.octets());
                let node_flow = node_flow(packet);
                if let Some(key) = node_flow {
                    kernel.node_flows.insert(key, now_ns(), 0)?;
                }
                let answer = kernel.run(packet, &data, ifindex)?;
                if let Some(key) = node_flow {
                    kernel.node_flows.remove(&key)?;
                }
                let told = counted(&mut engine)?;
                let refusing = if packet.direction == Direction::Egress { 2 } else { 0 };
                let wanted = match (&verdict.enforced, &verdict.audited) {
                    (Enforced::Deny { rule, .. }, _) => (refusing, Some((rule.clone(), abi::given::DROP))),
                    (_, Some(rule)) => (1, Some((rule.clone(), abi::given::AUDIT))),
                    _ => (1, None),
                };
                ensure!(
                    (answer, &told) == (wanted.0, &wanted.1),
                    "packet {packet:?} of {workload:?}\nthe oracle says {verdict:?}\nthe kernel returned {answer} and counted {told:?}\nscenario {scenario:#?}"
                );
                ran += 1;
                refused += usize::from(answer != 1);
                audited += usize::from(answer == 1 && told.is_some());
            }
            Stay::enter(&stay.home)?;
        }
    }
    println!("{ran} packets, {refused} refused, {audited} audited");
    ensure!(refused > ran / 20 && audited > 0, "the scenarios are too tame");
    drop(stay);
    Ok(())
}

/// What the egress program notes of a flow that the node's own socket opened.
fn node_flow(packet: &Packet) -> Option<abi::NodeFlowKey> {
    if packet.via != Via::NodeFlow || packet.direction != Direction::Ingress {
        return None;
    }
    let (proto, from_port, to_port) = match packet.transport {
        Transport::Port(protocol, port) => (protocol, OUR_PORT, port),
        // A fragment has no ports by which its flow could be found, and ICMP has none at all.
        Transport::Fragment(protocol) => (protocol, 0, 0),
        Transport::Other => {
            let v6 = matches!(packet.peer, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_none());
            return Some(key(packet.peer, 0, 0, if v6 { 58 } else { 1 }));
        }
    };
    Some(key(packet.peer, from_port, to_port, proto.number()))
}

fn key(peer: IpAddr, from_port: u16, to_port: u16, proto: u8) -> abi::NodeFlowKey {
    let v6 = matches!(peer, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_none());
    let own: IpAddr = if v6 { [0x2001, 0xdb8, 9, 0, 0, 0, 0, 9].into() } else { [203, 0, 113, 9].into() };
    abi::NodeFlowKey { from: peer.into(), to: own.into(), from_port, to_port, proto, pad: [0; 3] }
}

/// The kernel's clock, as its programs read it.
fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}
