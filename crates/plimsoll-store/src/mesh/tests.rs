//! Tests of the mesh in virtual time.
