//! The local store: an OCI image layout and our own directories beside it.
