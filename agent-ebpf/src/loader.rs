//! Loads the kernel programs, attaches them and pins everything, so that the agent's end detaches nothing. A new agent
//! attaches its own programs before it lets go of what an earlier one left: nothing is ever unattached.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData, RingBuf};
use aya::pin::PinError;
use aya::programs::links::{FdLink, LinkError};
use aya::programs::{CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError};
use aya::{Btf, BtfError, Ebpf, EbpfError, EbpfLoader};

use crate::abi;
use crate::maps::events::EventMaps;
use crate::maps::{MapError, Maps};

/// The compiled kernel programs.
pub mod objects {
    /// Network.
    pub static NET: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/net.o"));
    /// The cgroup tree.
    pub static CGROUP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/cgroup.o"));
    /// Which processes are inside their workload.
    pub static PROCESS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/process.o"));
    /// Which connections are refused by now: loaded by [`crate::sockets`] where sockets can be destroyed.
    pub static SOCK: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sock.o"));
    /// The same for kernels before 5.12, where an iterator cannot give a socket a cookie.
    pub static SOCK_OLD: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sock-old.o"));
    /// System calls: attached by [`crate::hooks`] where a workload needs them.
    pub static SYSCALL: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/syscall.o"));
    /// The same with the same maps, for kernels without `bpf_loop`.
    pub static SYSCALL_OLD: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/syscall-old.o"));
}

/// Why the kernel side cannot be brought up.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A privilege is missing.
    #[error("{what} was not permitted: run as root, or with the capabilities BPF, NET_ADMIN and PERFMON")]
    NotPermitted {
        /// What was tried.
        what: String,
    },
    /// The kernel does not describe its types.
    #[error(
        "this kernel has no usable BTF (/sys/kernel/btf/vmlinux), which CONFIG_DEBUG_INFO_BTF gives: {0}"
    )]
    Btf(#[source] BtfError),
    /// No BPF file system.
    #[error("no BPF file system at {path}, and mounting one failed: {source}")]
    BpfFs {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An object was refused.
    #[error("kernel programs {object}: {source}")]
    Object {
        /// Which.
        object: &'static str,
        /// Why.
        source: EbpfError,
    },
    /// A program is not in its object.
    #[error("kernel programs {object} hold no program {program}")]
    Missing {
        /// Which object.
        object: &'static str,
        /// Which program.
        program: &'static str,
    },
    /// A program was refused.
    #[error("kernel program {program}: {source}")]
    Program {
        /// Which.
        program: &'static str,
        /// Why.
        source: ProgramError,
    },
    /// A link is of a kind that cannot be pinned: the kernel is older than 5.7.
    #[error("kernel program {program}: {source}")]
    Link {
        /// Which.
        program: &'static str,
        /// Why.
        source: LinkError,
    },
    /// A link cannot be pinned.
    #[error("{path}: {source}")]
    Pin {
        /// Where.
        path: PathBuf,
        /// Why.
        source: PinError,
    },
    /// A file or directory.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A map.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// Where things are on this machine.
#[derive(Debug, Clone)]
pub struct Places {
    /// The BPF file system.
    pub bpffs: PathBuf,
    /// The root of the cgroup v2 tree.
    pub cgroup_root: PathBuf,
}

impl Places {
    /// Everything of Holdfast's in the BPF file system.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.bpffs.join("holdfast")
    }

    /// Maps and links of this layout version.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.home().join(format!("v{}", abi::LAYOUT))
    }

    /// Links of this layout version.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.pins().join("links")
    }
}

/// What is loaded and attached.
pub struct Kernel {
    /// The maps.
    pub maps: Maps,
    /// Cgroups that come and go.
    pub cgroup_events: RingBuf<MapData>,
    /// What was refused.
    pub denials: RingBuf<MapData>,
    /// What was let through and recorded.
    pub audits: RingBuf<MapData>,
    /// What is known of those that have no record.
    pub event_maps: EventMaps,
    /// Types of the running kernel: megabytes, of no use once everything is loaded.
    pub btf: Btf,
}

/// (program, tracepoint) that follow the cgroup tree. With the two lists below: what every node has attached, each under
/// the program's name.
const TREE: [(&str, &str); 2] =
    [("hf_cgroup_mkdir", "cgroup_mkdir"), ("hf_cgroup_release", "cgroup_release")];
/// (program, tracepoint) that follow processes into their workloads.
const PROCESSES: [(&str, &str); 4] = [
    ("hf_process_fork", "sched_process_fork"),
    ("hf_process_exec", "sched_process_exec"),
    ("hf_process_exit", "sched_process_exit"),
    ("hf_cgroup_attach_task", "cgroup_attach_task"),
];
/// Programs at the root of the cgroup tree.
const PACKETS: [&str; 7] =
    ["hf_sockops", "hf_egress", "hf_ingress", "hf_connect4", "hf_connect6", "hf_sendmsg4", "hf_sendmsg6"];

/// Loads, attaches and pins the programs that every node has.
///
/// # Errors
///
/// [`LoadError`], which says what is missing. What an earlier agent attached stays attached then.
pub fn load(places: &Places) -> Result<Kernel, LoadError> {
    mount_bpffs(&places.bpffs)?;
    for dir in [places.pins(), places.links()] {
        fs::create_dir_all(&dir).map_err(|source| LoadError::Io { path: dir, source })?;
    }
    let btf = Btf::from_sys_fs().map_err(LoadError::Btf)?;
    let cgroup = open(&places.cgroup_root)?;

    // The tree first: from here on a new cgroup is known before anything runs in it.
    let mut loader = loader(places);
    loader.btf(Some(&btf));
    let mut object = read_object(&mut loader, "cgroup", objects::CGROUP)?;
    for (program, tracepoint) in TREE {
        attach_tracepoint(&mut object, "cgroup", program, tracepoint, places, &btf)?;
    }
    let mut object = read_object(&mut loader, "process", objects::PROCESS)?;
    for (program, tracepoint) in PROCESSES {
        attach_tracepoint(&mut object, "process", program, tracepoint, places, &btf)?;
    }
    let mut object = read_object(&mut loader, "net", objects::NET)?;
    for program in PACKETS {
        attach_cgroup(&mut object, program, &cgroup, places)?;
    }
    // Makes the maps; its programs are relocated and loaded one by one when they are needed.
    drop(read_object(loader.btf(None), "syscall", objects::SYSCALL)?);
    drop(loader);
    let maps = Maps::open(&places.pins())?;
    Ok(Kernel {
        maps,
        cgroup_events: ring(places, "cgroup_events")?,
        denials: ring(places, "denials")?,
        audits: ring(places, "audits")?,
        event_maps: EventMaps::open(&places.pins())?,
        btf,
    })
}

/// Opens a pinned ring buffer.
///
/// # Errors
///
/// When it is not there.
pub fn ring(places: &Places, name: &str) -> Result<RingBuf<MapData>, MapError> {
    let path = places.pins().join(name);
    MapData::from_pin(&path)
        .and_then(|data| RingBuf::try_from(Map::RingBuf(data)))
        .map_err(|source| MapError::Open { path: path.display().to_string(), source })
}

/// Makes and pins the maps, and attaches nothing: for tests that run programs by themselves.
///
/// # Errors
///
/// As [`load`].
pub fn maps_only(places: &Places) -> Result<Maps, LoadError> {
    mount_bpffs(&places.bpffs)?;
    fs::create_dir_all(places.links()).map_err(|source| LoadError::Io { path: places.links(), source })?;
    let mut loader = loader(places);
    loader.btf(None);
    for (name, bytes) in [
        ("cgroup", objects::CGROUP),
        ("process", objects::PROCESS),
        ("net", objects::NET),
        ("syscall", objects::SYSCALL),
    ] {
        drop(read_object(&mut loader, name, bytes)?);
    }
    Ok(Maps::open(&places.pins())?)
}

fn open(path: &Path) -> Result<fs::File, LoadError> {
    fs::File::open(path).map_err(|source| LoadError::Io { path: path.to_owned(), source })
}

/// Attaches one program again that every node has, in place of a link that is broken. The maps have to be pinned.
///
/// # Errors
///
/// As [`load`].
pub fn attach_again(name: &str, places: &Places) -> Result<(), LoadError> {
    let done = attach_again_with(name, places, &Btf::from_sys_fs().map_err(LoadError::Btf)?);
    abi::sys::trim_memory();
    done
}

fn attach_again_with(name: &str, places: &Places, btf: &Btf) -> Result<(), LoadError> {
    for (object, bytes, programs) in
        [("cgroup", objects::CGROUP, &TREE[..]), ("process", objects::PROCESS, &PROCESSES)]
    {
        if let Some((program, tracepoint)) = programs.iter().find(|(program, _)| *program == name) {
            let mut loaded = load_object(object, bytes, places, btf)?;
            return attach_tracepoint(&mut loaded, object, program, tracepoint, places, btf);
        }
    }
    if let Some(program) = PACKETS.iter().find(|program| **program == name) {
        let cgroup = open(&places.cgroup_root)?;
        return attach_cgroup(&mut load_object("net", objects::NET, places, btf)?, program, &cgroup, places);
    }
    Ok(())
}

/// The names of the links that every node has.
pub fn links() -> impl Iterator<Item = &'static str> {
    TREE.iter().chain(&PROCESSES).map(|(program, _)| *program).chain(PACKETS)
}

/// Whether a BPF file system is mounted there.
#[must_use]
pub fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path)
        .is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|t| t & 0xffff_ffff == BPF_FS_MAGIC))
}

/// bpffs has its own magic number (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Makes sure that a BPF file system is mounted there.
///
/// # Errors
///
/// When mounting one fails.
pub(crate) fn mount_bpffs(path: &Path) -> Result<(), LoadError> {
    let fail = |source: rustix::io::Errno| LoadError::BpfFs { path: path.to_owned(), source: source.into() };
    if is_bpffs(path) {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(|source| LoadError::Io { path: path.to_owned(), source })?;
    rustix::mount::mount("bpf", path, "bpf", rustix::mount::MountFlags::empty(), None).map_err(fail)
}

/// Loads the program that lists refused connections, and links it to the pinned maps. Returns the program's descriptor
/// and the map's that it walks, within what keeps them open.
///
/// # Errors
///
/// As [`load`].
pub(crate) fn iterator(places: &Places, btf: &Btf) -> Result<(Ebpf, MapData), LoadError> {
    let object = match iterator_of(objects::SOCK, places, btf) {
        // A kernel that refuses the one and takes the other lacks the helper that is the difference. Where it takes
        // neither, the one that has it tells why.
        Err(error @ LoadError::Program { .. }) => {
            iterator_of(objects::SOCK_OLD, places, btf).or(Err(error))?
        }
        loaded => loaded?,
    };
    let path = places.pins().join("tcp_flows");
    let flows = MapData::from_pin(&path)
        .map_err(|source| MapError::Open { path: path.display().to_string(), source })?;
    Ok((object, flows))
}

fn iterator_of(bytes: &[u8], places: &Places, btf: &Btf) -> Result<Ebpf, LoadError> {
    const NAME: &str = "hf_refused_sockets";
    let mut object = load_object("sock", bytes, places, btf)?;
    let Program::Iter(program) = program(&mut object, NAME, "sock")? else {
        return Err(LoadError::Missing { object: "sock", program: NAME });
    };
    program.load("bpf_sk_storage_map", btf).map_err(|source| LoadError::Program { program: NAME, source })?;
    Ok(object)
}

fn load_object(name: &'static str, bytes: &[u8], places: &Places, btf: &Btf) -> Result<Ebpf, LoadError> {
    read_object(loader(places).btf(Some(btf)), name, bytes)
}

/// A loader that pins maps. Each that is made reads all of the kernel's types, whatever it is told afterwards.
fn loader<'a>(places: &Places) -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(places.pins());
    loader
}

/// Reads an object and makes the maps that are not pinned yet. Its programs can be loaded where the loader has the kernel's
/// types.
fn read_object(loader: &mut EbpfLoader<'_>, name: &'static str, bytes: &[u8]) -> Result<Ebpf, LoadError> {
    loader.load(bytes).map_err(|source| {
        if permission_denied(&source) {
            LoadError::NotPermitted { what: format!("loading the kernel programs {name}") }
        } else {
            LoadError::Object { object: name, source }
        }
    })
}

fn permission_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|e| e.raw_os_error() == Some(libc::EPERM)) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn program<'a>(
    object: &'a mut Ebpf,
    name: &'static str,
    of: &'static str,
) -> Result<&'a mut Program, LoadError> {
    object.program_mut(name).ok_or(LoadError::Missing { object: of, program: name })
}

fn attach_tracepoint(
    object: &mut Ebpf,
    of: &'static str,
    name: &'static str,
    tracepoint: &'static str,
    places: &Places,
    btf: &Btf,
) -> Result<(), LoadError> {
    let fail = |source| LoadError::Program { program: name, source };
    let Program::BtfTracePoint(program) = program(object, name, of)? else {
        return Err(LoadError::Missing { object: of, program: name });
    };
    program.load(tracepoint, btf).map_err(fail)?;
    let id = program.attach().map_err(fail)?;
    let link: FdLink = program.take_link(id).map_err(fail)?.into();
    pin_link(link, name, places)
}

fn attach_cgroup(
    object: &mut Ebpf,
    name: &'static str,
    cgroup: &fs::File,
    places: &Places,
) -> Result<(), LoadError> {
    let fail = |source| LoadError::Program { program: name, source };
    let as_fd =
        |link: Result<FdLink, LinkError>| link.map_err(|source| LoadError::Link { program: name, source });
    let mode = CgroupAttachMode::Single;
    let link = match program(object, name, "net")? {
        Program::CgroupSkb(program) => {
            program.load().map_err(fail)?;
            let way =
                if name == "hf_egress" { CgroupSkbAttachType::Egress } else { CgroupSkbAttachType::Ingress };
            let id = program.attach(cgroup, way, mode).map_err(fail)?;
            as_fd(program.take_link(id).map_err(fail)?.try_into())?
        }
        Program::CgroupSockAddr(program) => {
            program.load().map_err(fail)?;
            let id = program.attach(cgroup, mode).map_err(fail)?;
            as_fd(program.take_link(id).map_err(fail)?.try_into())?
        }
        Program::SockOps(program) => {
            program.load().map_err(fail)?;
            let id = program.attach(cgroup, mode).map_err(fail)?;
            as_fd(program.take_link(id).map_err(fail)?.try_into())?
        }
        _ => return Err(LoadError::Missing { object: "net", program: name }),
    };
    pin_link(link, name, places)
}

/// Pins a new link over the one of an earlier agent: the rename drops the last reference to the old link, which detaches
/// it after the new one is attached.
///
/// # Errors
///
/// When the BPF file system refuses.
pub fn pin_link(link: FdLink, name: &str, places: &Places) -> Result<(), LoadError> {
    let path = places.links().join(name);
    let new = places.links().join(format!("{name}-new"));
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| LoadError::Io { path, source }
    };
    if new.exists() {
        fs::remove_file(&new).map_err(io(&new))?;
    }
    // The pin holds the link from here on; the descriptor may go.
    drop(link.pin(&new).map_err(|source| LoadError::Pin { path: new.clone(), source })?);
    fs::rename(&new, &path).map_err(io(&path))
}

/// Names of links whose pins are not there any more.
#[must_use]
pub fn missing_links(places: &Places) -> Vec<&'static str> {
    let pins = places.links();
    links().filter(|name| !pins.join(name).exists()).collect()
}

/// Removes all pins of every layout version: everything is detached and forgotten. Returns how many there were.
///
/// # Errors
///
/// When a pin cannot be removed; those before it are gone then.
pub fn uninstall(places: &Places) -> Result<usize, LoadError> {
    fn remove(dir: &Path) -> io::Result<usize> {
        let mut count = 0;
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                count += remove(&path)?;
            } else {
                fs::remove_file(&path)?;
                count += 1;
            }
        }
        fs::remove_dir(dir)?;
        Ok(count)
    }
    let home = places.home();
    if !home.exists() {
        return Ok(0);
    }
    remove(&home).map_err(|source| LoadError::Io { path: home, source })
}
