//! Tests of the workspace's structure and documents; this library is empty, see `tests/`.
