//! The table of routes: what there is, under which path and method.
//!
//! A router can't be asked what is in it, and the description must tell of all of it, and of nothing else. So both are made of
//! this table.

use axum::{
    Router,
    handler::Handler,
    routing::{MethodFilter, on},
};

use super::Shared;

/// The routes there are.
pub(super) struct Routes {
    router: Router<Shared>,
    /// Method and path of those that are described, as the description writes them.
    #[cfg(test)]
    pub(super) described: Vec<(&'static str, String)>,
}

/// The methods that there are routes for.
#[derive(Clone, Copy)]
pub(super) enum Verb {
    Get,
    Put,
    Post,
    Delete,
}

impl Verb {
    const fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Put => MethodFilter::PUT,
            Self::Post => MethodFilter::POST,
            Self::Delete => MethodFilter::DELETE,
        }
    }

    #[cfg(test)]
    const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Post => "post",
            Self::Delete => "delete",
        }
    }
}

impl Routes {
    pub(super) fn new() -> Self {
        Self {
            router: Router::new(),
            #[cfg(test)]
            described: Vec::new(),
        }
    }

    /// One more.
    pub(super) fn with<T: 'static>(
        self,
        verb: Verb,
        path: &'static str,
        handler: impl Handler<T, Shared>,
    ) -> Self {
        let routes = self.undescribed(verb, path, handler);
        #[cfg(test)]
        let routes = routes.noted(verb, path);
        routes
    }

    #[cfg(test)]
    fn noted(mut self, verb: Verb, path: &'static str) -> Self {
        self.described.push((verb.name(), path.replace("{*", "{")));
        self
    }

    /// One more that only says what is wrong with the request.
    pub(super) fn undescribed<T: 'static>(
        mut self,
        verb: Verb,
        path: &'static str,
        handler: impl Handler<T, Shared>,
    ) -> Self {
        self.router = self.router.route(path, on(verb.filter(), handler));
        self
    }

    pub(super) fn into_router(self) -> Router<Shared> {
        self.router
    }
}
