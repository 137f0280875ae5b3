//! Who is who: a certificate authority, what it signs, and kubeconfig files.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

use super::error::{Error, trying};

/// A certificate authority that keeps what it signs in a directory.
pub(super) struct Authority {
    directory: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one, with its certificate in `ca.crt`.
    pub(super) fn new(directory: &Path) -> Result<Authority, Error> {
        let failed = |source| Error::Certificate { name: "the authority".into(), source };
        let mut asked = CertificateParams::default();
        asked.distinguished_name.push(DnType::CommonName, "plimsoll-lab");
        asked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        asked.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(failed)?;
        let issuer = CertifiedIssuer::self_signed(asked, key).map_err(failed)?;
        let authority = Authority { directory: directory.to_owned(), issuer };
        authority.write("ca.crt", &authority.certificate())?;
        Ok(authority)
    }

    /// Its certificate, as PEM.
    pub(super) fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// `NAME.crt` and `NAME.key` for a server with these names and addresses.
    pub(super) fn server(&self, name: &str, names: Vec<String>) -> Result<(), Error> {
        let mut asked = CertificateParams::new(names).map_err(failed(name))?;
        asked.distinguished_name.push(DnType::CommonName, name);
        asked.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(name, name, &asked)
    }

    /// `FILE.crt` and `FILE.key` for a client that the API server takes for this user in these groups.
    pub(super) fn client(&self, file: &str, user: &str, groups: &[&str]) -> Result<(), Error> {
        // A name keeps one value of each type: the type's own name and its number are two to it, and one to readers.
        let types = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
        if groups.len() > types.len() {
            return Err(Error::TooManyGroups { user: user.into(), count: groups.len() });
        }
        let mut asked = CertificateParams::default();
        asked.distinguished_name.remove(DnType::CommonName);
        for (kind, group) in types.into_iter().zip(groups) {
            asked.distinguished_name.push(kind, DnValue::Utf8String((*group).into()));
        }
        asked.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(user.into()));
        asked.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(file, user, &asked)
    }

    /// `NAME.key` and `NAME.pub`: a key without a certificate.
    pub(super) fn key(&self, name: &str) -> Result<(), Error> {
        let key = KeyPair::generate().map_err(failed(name))?;
        self.write(&format!("{name}.pub"), &key.public_key_pem())?;
        self.write(&format!("{name}.key"), &key.serialize_pem())
    }

    /// A kubeconfig file for the API server at a URL, with the client certificate in `FILE.crt`.
    pub(super) fn kubeconfig(&self, file: &str, url: &str) -> Result<PathBuf, Error> {
        let at = self.directory.display();
        let name = format!("{file}.kubeconfig");
        self.write(
            &name,
            &format!(
                "apiVersion: v1\n\
                 kind: Config\n\
                 clusters: [{{name: lab, cluster: {{server: '{url}', certificate-authority: '{at}/ca.crt'}}}}]\n\
                 users: [{{name: lab, user: {{client-certificate: '{at}/{file}.crt', client-key: '{at}/{file}.key'}}}}]\n\
                 contexts: [{{name: lab, context: {{cluster: lab, user: lab}}}}]\n\
                 current-context: lab\n"
            ),
        )?;
        Ok(self.directory.join(name))
    }

    fn sign(&self, file: &str, name: &str, asked: &CertificateParams) -> Result<(), Error> {
        let key = KeyPair::generate().map_err(failed(name))?;
        let certificate = asked.signed_by(&key, &self.issuer).map_err(failed(name))?;
        self.write(&format!("{file}.crt"), &certificate.pem())?;
        self.write(&format!("{file}.key"), &key.serialize_pem())
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.directory.join(name);
        fs::write(&path, text).map_err(trying(format!("writing {}", path.display())))
    }
}

fn failed(name: &str) -> impl Fn(rcgen::Error) -> Error {
    let name = name.to_owned();
    move |source| Error::Certificate { name: name.clone(), source }
}
