//! A pod's volumes, as files and folders of the node.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{HostPathVolumeSource, KeyToPath, ServiceAccount, ServiceAccountTokenProjection, Volume},
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};

use super::{env, pod::PodRun};

/// Where on this machine a path of the node is: in the node's folder, but for what only the kernel has.
pub(super) fn host_path(node: &Path, path: &Path) -> PathBuf {
    if ["/sys", "/proc", "/dev"].iter().any(|kernel| path.starts_with(kernel)) {
        return path.to_owned();
    }
    let below: PathBuf = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    node.join("host").join(below)
}

/// Where a volume of a pod is.
pub(super) fn path(pod: &PodRun, name: &str) -> Result<PathBuf> {
    let spec = pod.spec();
    let volume = spec.volumes.iter().flatten().find(|volume| volume.name == name);
    let volume = volume.with_context(|| format!("there is no volume {name}"))?;
    Ok(match &volume.host_path {
        Some(host) => host_path(pod.inner.folder.path(), Path::new(&host.path)),
        None => pod.folder().join("volumes").join(name),
    })
}

/// Makes all of them. What is made already is made anew.
pub(super) async fn make(pod: &PodRun) -> Result<()> {
    for volume in pod.spec().volumes.unwrap_or_default() {
        one(pod, &volume).await.with_context(|| format!("volume {}", volume.name))?;
    }
    Ok(())
}

async fn one(pod: &PodRun, volume: &Volume) -> Result<()> {
    let folder = path(pod, &volume.name)?;
    if let Some(host) = &volume.host_path {
        return on_host(&folder, host);
    }
    fs::create_dir_all(&folder)?;
    let group = pod.spec().security_context.and_then(|context| context.fs_group);
    let group = group.map(u32::try_from).transpose()?;
    if volume.empty_dir.is_some() {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
        return Ok(chown(&folder, None, group)?);
    }
    let mut files = Files { folder, group, mode: 0o644 };
    let mode = |mode: Option<i32>| mode.map_or(0o644, i32::cast_unsigned);
    if let Some(source) = &volume.config_map {
        files.mode = mode(source.default_mode);
        let values = env::config_map(pod, &source.name, source.optional.unwrap_or(false)).await?;
        files.put(&values, source.items.as_deref())
    } else if let Some(source) = &volume.secret {
        files.mode = mode(source.default_mode);
        let name = source.secret_name.as_deref().context("no name")?;
        let values = env::secret(pod, name, source.optional.unwrap_or(false)).await?;
        files.put(&values, source.items.as_deref())
    } else if let Some(source) = &volume.downward_api {
        files.mode = mode(source.default_mode);
        for item in source.items.iter().flatten() {
            let field = item.field_ref.as_ref().context("only fields")?;
            files.write(
                &item.path,
                env::field(pod, &pod.object(), &field.field_path)?.as_bytes(),
                item.mode,
            )?;
        }
        Ok(())
    } else if let Some(source) = &volume.projected {
        files.mode = mode(source.default_mode);
        for part in source.sources.iter().flatten() {
            if let Some(token) = &part.service_account_token {
                files.write(&token.path, request_token(pod, token).await?.as_bytes(), None)?;
            } else if let Some(source) = &part.config_map {
                let values = env::config_map(pod, &source.name, source.optional.unwrap_or(false)).await?;
                files.put(&values, source.items.as_deref())?;
            } else if let Some(source) = &part.secret {
                let values = env::secret(pod, &source.name, source.optional.unwrap_or(false)).await?;
                files.put(&values, source.items.as_deref())?;
            } else if let Some(source) = &part.downward_api {
                for item in source.items.iter().flatten() {
                    let field = item.field_ref.as_ref().context("only fields")?;
                    let value = env::field(pod, &pod.object(), &field.field_path)?;
                    files.write(&item.path, value.as_bytes(), item.mode)?;
                }
            } else {
                bail!("a projected source of a kind that this kubelet does not know");
            }
        }
        Ok(())
    } else {
        bail!("of a kind that this kubelet does not know");
    }
}

fn on_host(folder: &Path, host: &HostPathVolumeSource) -> Result<()> {
    match host.type_.as_deref().unwrap_or_default() {
        "" => {}
        "DirectoryOrCreate" => fs::create_dir_all(folder)?,
        "Directory" => ensure!(folder.is_dir(), "hostPath {} is no directory of the node", host.path),
        "File" => ensure!(folder.is_file(), "hostPath {} is no file of the node", host.path),
        "FileOrCreate" => {
            fs::create_dir_all(folder.parent().context("no folder")?)?;
            fs::File::options().create(true).append(true).open(folder)?;
        }
        other => bail!("hostPath type {other} is one that this kubelet does not know"),
    }
    Ok(())
}

/// The files of a volume.
struct Files {
    folder: PathBuf,
    group: Option<u32>,
    mode: u32,
}

impl Files {
    fn write(&self, path: &str, content: &[u8], mode: Option<i32>) -> Result<()> {
        let file = self.folder.join(path);
        fs::create_dir_all(file.parent().context("no folder")?)?;
        let new = file.with_extension("new");
        fs::write(&new, content).with_context(|| file.display().to_string())?;
        let mut mode = mode.map_or(self.mode, i32::cast_unsigned);
        if self.group.is_some() {
            mode |= 0o440;
            chown(&new, None, self.group)?;
        }
        fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
        Ok(fs::rename(new, file)?)
    }

    fn put(
        &self,
        values: &std::collections::BTreeMap<String, Vec<u8>>,
        items: Option<&[KeyToPath]>,
    ) -> Result<()> {
        match items {
            Some(items) => {
                for item in items {
                    let value =
                        values.get(&item.key).with_context(|| format!("there is no key {}", item.key))?;
                    self.write(&item.path, value, item.mode)?;
                }
            }
            None => {
                for (key, value) in values {
                    self.write(key, value, None)?;
                }
            }
        }
        Ok(())
    }
}

/// A token of the pod's service account, bound to the pod, and by that to the node.
async fn request_token(pod: &PodRun, source: &ServiceAccountTokenProjection) -> Result<String> {
    let account = pod.spec().service_account_name.unwrap_or_else(|| "default".to_owned());
    let request = TokenRequest {
        metadata: ObjectMeta::default(),
        spec: Some(TokenRequestSpec {
            attestations: None,
            audiences: source.audience.clone().map(|audience| vec![audience]),
            expiration_seconds: source.expiration_seconds,
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
            }),
        }),
        status: None,
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(pod.inner.client.clone(), &pod.namespace);
    let answer = accounts.create_token_request(&account, &PostParams::default(), &request).await;
    let answer = answer.with_context(|| format!("a token of the service account {account}"))?;
    answer.status.and_then(|status| status.token).context("a token request without a token")
}
