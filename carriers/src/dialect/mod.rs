//! The declarative dialect: one operation of a carrier, from attempt to request and from answer to outcome.
//!
//! Everything is compiled when the definition is loaded; an attempt costs copies and comparisons.

pub(crate) mod amount;
pub(crate) mod json;
pub(crate) mod replies;
pub(crate) mod rules;
pub(crate) mod template;

use http::{HeaderName, Method};

use replies::Replies;
use template::Template;

/// One operation of a carrier.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) method: Method,
    /// Path and query, behind the link's base.
    pub(crate) path: Template,
    pub(crate) headers: Vec<(HeaderName, Template)>,
    pub(crate) body: Option<Template>,
    pub(crate) replies: Replies,
}
