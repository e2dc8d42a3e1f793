//! What owners tell: the same whichever of them tells it.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use meed_engine::node::Node;
use meed_engine::ownership::Ownership;
use meed_engine::program::{Programs, with_version};
use meed_engine::secrets::Secrets;
use meed_schemas::time::Millis;

use crate::forward::Unanswered;

/// What owners tell that does not depend on which of them tells it.
pub struct Known {
    pub(super) secrets: OnceLock<Secrets>,
    programs: Catalogue,
    /// Takes the maps of owners that are told.
    pub(crate) ownership: Arc<Ownership>,
}

/// Where programs that are told go.
enum Catalogue {
    /// Of a front.
    Own(RwLock<Arc<Programs>>),
    /// Of a node, which knows them also from its cluster.
    Node(Arc<Node>),
}

impl Known {
    /// Of a front, before it has met an owner.
    pub fn of_front() -> Self {
        let ownership = Arc::new(Ownership::new(0));
        Self { secrets: OnceLock::new(), programs: Catalogue::Own(RwLock::default()), ownership }
    }

    /// Of a node of a cluster.
    pub fn of_node(node: &Arc<Node>, ownership: &Arc<Ownership>) -> Self {
        Self {
            secrets: OnceLock::from(Secrets::of_owner(&node.secrets.for_front())),
            programs: Catalogue::Node(Arc::clone(node)),
            ownership: Arc::clone(ownership),
        }
    }

    /// The keys that hash and render.
    ///
    /// # Errors
    /// No owner was ever met.
    pub fn secrets(&self) -> Result<&Secrets, Unanswered> {
        self.secrets.get().ok_or(Unanswered::NotReady)
    }

    /// The programs that were told.
    pub fn programs(&self) -> Arc<Programs> {
        match &self.programs {
            Catalogue::Own(programs) => Arc::clone(&programs.read().unwrap_or_else(PoisonError::into_inner)),
            Catalogue::Node(node) => node.programs(),
        }
    }

    /// Takes a version that an owner told; every link tells all of them.
    pub(super) fn adopt_program(
        &self,
        name: &str,
        number: u32,
        effective_from: Millis,
        document: &str,
    ) -> Result<(), String> {
        let programs = match &self.programs {
            Catalogue::Own(programs) => programs,
            Catalogue::Node(node) => {
                return node.adopt_program(name, number, effective_from, document).map_err(|e| e.to_string());
            }
        };
        let mut programs = programs.write().unwrap_or_else(PoisonError::into_inner);
        let with = with_version(&programs, name, number, effective_from, document);
        *programs = Arc::new(with.map_err(|error| error.to_string())?);
        Ok(())
    }
}
