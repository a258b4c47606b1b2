//! States: the newest value of each resource.
