//! Who calls whom, in a call's metadata.

use kvd_types::{ClusterId, Error, Incarnation, NodeId, Result};
use tonic::metadata::{MetadataMap, MetadataValue};

const CLUSTER: &str = "kvd-cluster";
const TOKEN: &str = "kvd-cluster-token";
const FROM: &str = "kvd-from-node";
const TO: &str = "kvd-to-node";
const INCARNATION: &str = "kvd-incarnation";
const START_NONCE: &str = "kvd-start-nonce";

/// Who calls whom.
#[derive(Clone, PartialEq, Eq)]
pub struct Handshake {
    /// The cluster that the caller belongs to; `None`: none yet.
    pub cluster: Option<ClusterId>,
    /// The secret that all nodes of a cluster share.
    pub token: String,
    /// The caller; zero: it has no id yet.
    pub from: NodeId,
    /// Whom it means to reach; zero: whoever it is.
    pub to: NodeId,
    /// How often the caller has started.
    pub incarnation: Incarnation,
    /// The random number of that start.
    pub start_nonce: u128,
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handshake")
            .field("cluster", &self.cluster)
            .field("from", &self.from)
            .field("to", &self.to)
            .field("incarnation", &self.incarnation)
            .finish_non_exhaustive()
    }
}

impl Handshake {
    /// Puts it into a call's metadata.
    ///
    /// # Errors
    /// Invalid argument, if the token has bytes that metadata can't carry.
    pub fn write(&self, metadata: &mut MetadataMap) -> Result<()> {
        let mut set = |name: &'static str, value: &str| {
            let value = MetadataValue::try_from(value).map_err(|_invalid| {
                Error::invalid("the cluster token may hold visible ASCII characters only")
            })?;
            metadata.insert(name, value);
            Ok::<_, Error>(())
        };
        if let Some(cluster) = self.cluster {
            set(CLUSTER, &cluster.to_string())?;
        }
        set(TOKEN, &self.token)?;
        set(FROM, &self.from.to_string())?;
        set(TO, &self.to.to_string())?;
        set(INCARNATION, &self.incarnation.to_string())?;
        set(START_NONCE, &format!("{:032x}", self.start_nonce))
    }

    /// Reads it from a call's metadata.
    ///
    /// # Errors
    /// Invalid argument, if it isn't there or makes no sense: the caller is no kvd node.
    pub fn read(metadata: &MetadataMap) -> Result<Self> {
        let text = |name: &str| metadata.get(name).and_then(|value| value.to_str().ok());
        let missing =
            |name: &str| Error::invalid(format!("the call's metadata has no good {name}: not a kvd node?"));
        let number = |name: &str| text(name).and_then(|text| text.parse().ok()).ok_or_else(|| missing(name));
        let hex = |name: &str| text(name).and_then(|text| u128::from_str_radix(text, 16).ok());
        let cluster = match text(CLUSTER) {
            None => None,
            Some(_) => Some(ClusterId(hex(CLUSTER).ok_or_else(|| missing(CLUSTER))?)),
        };
        Ok(Self {
            cluster,
            token: text(TOKEN).unwrap_or_default().to_owned(),
            from: NodeId(number(FROM)?),
            to: NodeId(number(TO)?),
            incarnation: Incarnation(number(INCARNATION)?),
            start_nonce: hex(START_NONCE).ok_or_else(|| missing(START_NONCE))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_metadata() {
        for cluster in [None, Some(ClusterId(0)), Some(ClusterId(u128::MAX))] {
            let handshake = Handshake {
                cluster,
                token: "secret".into(),
                from: NodeId(3),
                to: NodeId(0),
                incarnation: Incarnation(9),
                start_nonce: 1 << 90,
            };
            let mut metadata = MetadataMap::new();
            handshake.write(&mut metadata).unwrap();
            assert_eq!(Handshake::read(&metadata).unwrap(), handshake);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Handshake::read(&MetadataMap::new()).is_err());
        let mut metadata = MetadataMap::new();
        let handshake = Handshake {
            cluster: None,
            token: String::new(),
            from: NodeId(1),
            to: NodeId(1),
            incarnation: Incarnation(1),
            start_nonce: 1,
        };
        handshake.write(&mut metadata).unwrap();
        metadata.insert(CLUSTER, MetadataValue::from_static("no hex"));
        assert!(Handshake::read(&metadata).unwrap_err().message.contains(CLUSTER));
        assert!(Handshake { token: "no\nnewline".into(), ..handshake }.write(&mut metadata).is_err());
    }
}
