//! Who holds an address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use holdfast_crds::network::Entity;

use crate::facts::IdentityKey;
use crate::index::Index;

/// What is to be published of an address.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Holder {
    /// The entities that it belongs to.
    pub entities: Vec<Entity>,
    /// The node that it lives on.
    pub node: Option<String>,
    /// The identity that holds it.
    pub identity: Option<Arc<IdentityKey>>,
}

/// Why an address that somebody claims is not published as theirs.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Unpublished {
    /// Two live pods claim it.
    Contested,
    /// It is outside the pod ranges of the claiming pod's node.
    OutsidePodCidr,
    /// It is a node's own address.
    NodeAddress,
    /// Its identity does not fit an AddressSlice.
    TooLarge,
}

impl Unpublished {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Contested, Self::OutsidePodCidr, Self::NodeAddress, Self::TooLarge];

    /// The reason in one word, as the metric's label has it.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Contested => "Contested",
            Self::OutsidePodCidr => "OutsidePodCIDR",
            Self::NodeAddress => "NodeAddress",
            Self::TooLarge => "TooLarge",
        }
    }
}

/// An ExternalWorkload that holds an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct External {
    /// What policies know it by.
    pub identity: Arc<IdentityKey>,
    /// The name of its agent's node.
    pub node: Option<String>,
}

/// Who holds this address, and why a claim to it is passed over, if one is.
#[must_use]
pub fn holder<S: std::hash::BuildHasher>(
    index: &Index,
    externals: &HashMap<IpAddr, External, S>,
    address: IpAddr,
) -> (Option<Holder>, Option<Unpublished>) {
    let mut holder = Holder::default();
    let mut passed_over = None;
    let mut claims = index.pods().claims(address);
    if let Some(node) = index.nodes_at(address).next() {
        holder.entities.extend([Entity::Host, Entity::Cluster]);
        holder.node = Some(node.to_owned());
        passed_over = claims.next().map(|_| Unpublished::NodeAddress);
    } else if let Some(pod) = claims.next() {
        let node = pod.node.as_deref();
        let cidrs = node.and_then(|node| index.nodes().get(node)).map(|node| node.pod_cidrs.as_slice());
        let outside =
            cidrs.is_some_and(|cidrs| !cidrs.is_empty() && !cidrs.iter().any(|cidr| cidr.contains(&address)));
        if claims.next().is_some() {
            passed_over = Some(Unpublished::Contested);
        } else if outside {
            passed_over = Some(Unpublished::OutsidePodCidr);
        } else {
            holder.entities.push(Entity::Cluster);
            holder.node = node.map(str::to_owned);
            holder.identity = Some(pod.shape.identity.clone());
        }
    } else if let Some(external) = externals.get(&address) {
        holder.node.clone_from(&external.node);
        holder.identity = Some(external.identity.clone());
    }
    if index.is_api_server(address) {
        holder.entities.push(Entity::KubeApiserver);
    }
    let known = holder.identity.is_some() || !holder.entities.is_empty();
    (known.then_some(holder), passed_over)
}
