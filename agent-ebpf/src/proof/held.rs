//! The pinned maps and links, held open: so that a pin that somebody removes detaches nothing, and can be put back. Each
//! is compared with what the kernel says of it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::Failure;
use crate::abi::sys::bpf::{self, info};
use crate::engine::Engine;
use crate::loader::{self, LoadError, Places};

struct Link {
    fd: OwnedFd,
    as_attached: info::LinkInfo,
}

pub(super) struct Held {
    maps: BTreeMap<String, (OwnedFd, u32)>,
    links: BTreeMap<String, Link>,
}

fn at(path: &Path) -> impl Fn(io::Error) -> LoadError {
    let path = path.to_owned();
    move |source| LoadError::Io { path: path.clone(), source }
}

fn open_link(path: &Path) -> io::Result<Link> {
    let fd = info::open(path)?;
    let as_attached = info::link(fd.as_fd())?;
    Ok(Link { fd, as_attached })
}

impl Held {
    /// Opens everything that is pinned; `links` are the links that this agent made.
    pub(super) fn adopt(places: &Places, links: &[String]) -> Result<Self, LoadError> {
        let pins = places.pins();
        let mut held = Self { maps: BTreeMap::new(), links: BTreeMap::new() };
        for entry in fs::read_dir(&pins).map_err(at(&pins))? {
            let path = entry.map_err(at(&pins))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if !path.is_dir() {
                let fd = info::open(&path).map_err(at(&path))?;
                let id = info::map_id(fd.as_fd()).map_err(at(&path))?;
                held.maps.insert(name.to_owned(), (fd, id));
            }
        }
        for name in links {
            let path = places.links().join(name);
            held.links.insert(name.clone(), open_link(&path).map_err(at(&path))?);
        }
        Ok(held)
    }

    /// Compares, repairs, and says what was wrong.
    pub(super) fn check(&mut self, places: &Places, engine: &mut Engine, failures: &mut Vec<Failure>) {
        let mut fail = |kind, message: String| failures.push(Failure::new(kind, message));
        if let Err(why) = ensure_folders(places) {
            fail("pin", why);
        }
        for (name, (fd, id)) in &self.maps {
            let path = places.pins().join(name);
            let found = info::open(&path).and_then(|fd| info::map_id(fd.as_fd()));
            if found.as_ref().ok() != Some(id) {
                let what = if found.is_ok() { "is another map" } else { "is not pinned" };
                fail("pin", format!("map {name} {what}; {}", repin(fd, &path)));
            }
        }
        let wanted = engine.attached();
        self.links.retain(|name, _| wanted.contains(name));
        let cgroup = fs::File::open(&places.cgroup_root);
        for name in &wanted {
            let path = places.links().join(name);
            let Some(link) = self.links.get(name) else {
                // Attached since the last look.
                match open_link(&path) {
                    Ok(link) => drop(self.links.insert(name.clone(), link)),
                    Err(error) => {
                        let done = self.attach_again(name, places, engine);
                        fail("link", format!("{name}: {error}; {done}"));
                    }
                }
                continue;
            };
            if let Some(wrong) = wrong(link, cgroup.as_ref().ok()) {
                let done = self.attach_again(name, places, engine);
                fail("link", format!("{name} {wrong}; {done}"));
                continue;
            }
            let pinned = info::open(&path).and_then(|fd| info::link(fd.as_fd()));
            if pinned.as_ref().ok().map(|info| info.id) != Some(link.as_attached.id) {
                let what = if pinned.is_ok() { "is pinned as another link" } else { "is not pinned" };
                fail("link", format!("{name} {what}; {}", repin(&link.fd, &path)));
            }
        }
    }

    fn attach_again(&mut self, name: &str, places: &Places, engine: &mut Engine) -> String {
        let result = engine
            .attach_again(name, places)
            .and_then(|()| open_link(&places.links().join(name)).map_err(|error| error.to_string()));
        match result {
            Ok(link) => {
                // The old one goes only now.
                self.links.insert(name.to_owned(), link);
                "attached anew".to_owned()
            }
            Err(error) => format!("and cannot be attached anew: {error}"),
        }
    }
}

/// What is wrong with a link, by what the kernel says of it.
fn wrong(link: &Link, cgroup: Option<&fs::File>) -> Option<String> {
    let now = match info::link(link.fd.as_fd()) {
        Ok(now) => now,
        Err(error) => return Some(format!("cannot be looked at: {error}")),
    };
    if now.program != link.as_attached.program {
        return Some(format!("has another program ({}, was {})", now.program, link.as_attached.program));
    }
    let (at, attach_type) = now.cgroup?;
    if at == 0 {
        return Some("is detached".to_owned());
    }
    let Some(cgroup) = cgroup else { return Some("the cgroup tree cannot be opened".to_owned()) };
    match info::programs_at(cgroup.as_fd(), attach_type) {
        Ok(ids) if ids.contains(&now.program) => None,
        Ok(_) => Some("is not at the root of the cgroup tree".to_owned()),
        Err(error) => Some(format!("cannot be found at the root of the cgroup tree: {error}")),
    }
}

fn repin(object: &OwnedFd, path: &Path) -> String {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return format!("and what is there cannot be removed: {error}");
        }
        _ => {}
    }
    match bpf::pin(object.as_fd(), path) {
        Ok(()) => "pinned anew".to_owned(),
        Err(error) => format!("and cannot be pinned anew: {error}"),
    }
}

/// The BPF file system and the folders for pins.
fn ensure_folders(places: &Places) -> Result<(), String> {
    if loader::is_bpffs(&places.bpffs) && places.links().is_dir() {
        return Ok(());
    }
    let gone = if loader::is_bpffs(&places.bpffs) {
        "the folders of the pins are gone"
    } else {
        "the BPF file system is not mounted"
    };
    let mended = loader::mount_bpffs(&places.bpffs)
        .map_err(|error| error.to_string())
        .and_then(|()| fs::create_dir_all(places.links()).map_err(|error| error.to_string()));
    Err(match mended {
        Ok(()) => format!("{gone}; made anew"),
        Err(error) => format!("{gone}, and cannot be made anew: {error}"),
    })
}
