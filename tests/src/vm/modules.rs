//! Finds kernel modules and what they need, in the order in which they must be loaded.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

/// A module, ready to be loaded.
pub(super) struct Module {
    /// As `lsmod` prints it.
    pub(super) name: String,
    /// The ELF file, not compressed.
    pub(super) content: Vec<u8>,
}

/// `wanted` and all that they need, from `folder` (`lib/modules/RELEASE`, after depmod), each after what it needs.
/// A wanted one that is built into the kernel is left out.
pub(super) fn with_dependencies(folder: &Path, wanted: &[String]) -> Result<Vec<Module>> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}: run `make setup`", path.display()))
    };
    let table = read("modules.dep")?;
    let built_in = read("modules.builtin")?;
    let paths = load_order(&table, &built_in, wanted)?;
    paths
        .into_iter()
        .map(|path| Ok(Module { name: module_name(&path), content: content(&folder.join(&path))? }))
        .collect()
}

/// The paths of the modules to load.
fn load_order(table: &str, built_in: &str, wanted: &[String]) -> Result<Vec<String>> {
    let rows: BTreeMap<String, (&str, Vec<&str>)> = table
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, needs)| (module_name(path), (path, needs.split_whitespace().collect())))
        .collect();
    let mut order: Vec<String> = Vec::new();
    for name in wanted {
        let Some((path, needs)) = rows.get(&module_name(name)) else {
            if built_in.lines().any(|line| module_name(line) == module_name(name)) {
                continue;
            }
            bail!("the kernel has no module {name}");
        };
        // depmod lists what a module needs directly and indirectly, the deepest last.
        for path in needs.iter().rev().chain([path]) {
            if !order.iter().any(|known| known == path) {
                order.push((*path).to_owned());
            }
        }
    }
    Ok(order)
}

fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

fn content(path: &Path) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    let output = Command::new(tool)
        .args(["--decompress", "--stdout", "--quiet"])
        .arg(path)
        .output()
        .with_context(|| format!("cannot run {tool}: run `make setup`"))?;
    if !output.status.success() {
        bail!("{tool} cannot unpack {}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "kernel/net/llc/llc.ko:\n\
        kernel/net/802/stp.ko: kernel/net/llc/llc.ko\n\
        kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko\n\
        kernel/drivers/net/snd-thing.ko.xz:\n";

    fn order(wanted: &[&str]) -> Result<Vec<String>> {
        let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
        load_order(TABLE, "kernel/net/ipv6/ipv6.ko\n", &wanted)
    }

    #[test]
    fn each_module_comes_once_and_after_what_it_needs() {
        let paths = order(&["bridge", "stp", "snd_thing"]).unwrap();
        assert_eq!(
            paths,
            [
                "kernel/net/llc/llc.ko",
                "kernel/net/802/stp.ko",
                "kernel/net/bridge/bridge.ko",
                "kernel/drivers/net/snd-thing.ko.xz"
            ]
        );
    }

    #[test]
    fn a_module_that_is_built_in_is_not_loaded() {
        assert!(order(&["ipv6"]).unwrap().is_empty());
    }

    #[test]
    fn an_unknown_module_is_an_error_that_names_it() {
        assert_eq!(order(&["nosuch"]).unwrap_err().to_string(), "the kernel has no module nosuch");
    }
}
