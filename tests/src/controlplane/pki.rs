//! The certificates of a test's control plane: one authority, made anew for each.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// Signs certificates and writes them, with their keys, to one folder.
#[derive(Debug)]
pub(super) struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The files of a certificate and its key, in PEM.
pub(super) struct Files {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Authority {
    /// A new authority in `folder`, which it makes.
    pub(super) fn new(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, "holdfast-tests");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?;
        write(&folder.join("ca.crt"), &issuer.pem())?;
        Ok(Self { folder, issuer })
    }

    /// The file of the authority's own certificate.
    pub(super) fn certificate(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// A certificate for a server on loopback.
    pub(super) fn server(&self, file: &str) -> Result<Files> {
        let mut parameters = CertificateParams::new(["localhost", "127.0.0.1", "::1"].map(str::to_owned))?;
        parameters.distinguished_name.push(DnType::CommonName, file);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(file, &parameters)
    }

    /// A certificate by which kube-apiserver knows a user and its group.
    pub(super) fn user(&self, file: &str, name: &str, group: Option<&str>) -> Result<Files> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        if let Some(group) = group {
            parameters.distinguished_name.push(DnType::OrganizationName, group);
        }
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(file, &parameters)
    }

    /// A pair of keys without a certificate (`FILE.key` and `FILE.pub`), such as those of service account tokens.
    pub(super) fn keys(&self, file: &str) -> Result<()> {
        let keys = KeyPair::generate()?;
        write(&self.folder.join(format!("{file}.key")), &keys.serialize_pem())?;
        write(&self.folder.join(format!("{file}.pub")), &keys.public_key_pem())
    }

    fn issue(&self, file: &str, parameters: &CertificateParams) -> Result<Files> {
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        let files = Files {
            certificate: self.folder.join(format!("{file}.crt")),
            key: self.folder.join(format!("{file}.key")),
        };
        write(&files.certificate, &certificate.pem())?;
        write(&files.key, &key.serialize_pem())?;
        Ok(files)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
