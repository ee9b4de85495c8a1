//! What all users of a context owe each other while one of them captures a graph.

use std::{
    collections::BTreeMap,
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use cudarc::driver::{CudaGraph, sys};

use super::{CudaError, classify};

/// Held while a graph is captured: what other threads allocate, load or free in the same context would spoil it.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    CAPTURE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Held during every other use of a device. Not to be taken twice by a thread: one that waits to be alone would stop it.
pub fn together() -> RwLockReadGuard<'static, ()> {
    CAPTURE.read().unwrap_or_else(PoisonError::into_inner)
}

/// One for a process, whose libraries all work in a device's primary context.
static CAPTURE: RwLock<()> = RwLock::new(());

/// What is dropped only while no graph is captured: memory that goes back, graphs and modules that are unloaded, and a library's
/// handles, which wait for the whole device when they go.
#[derive(Debug)]
pub struct Guarded<T>(ManuallyDrop<T>);

impl<T> Guarded<T> {
    /// Guards it.
    pub const fn new(value: T) -> Self {
        Self(ManuallyDrop::new(value))
    }
}

impl<T> Deref for Guarded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        let _together = together();
        // SAFETY: dropped here and nowhere else, and not touched afterwards.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}

/// A graph's nodes by type, as the driver tells them, in the order of the types' names.
///
/// # Errors
/// [`CudaError::Driver`].
pub fn node_types(graph: &CudaGraph) -> Result<Vec<(&'static str, u64)>, CudaError> {
    let mut count = 0;
    // SAFETY: the graph is alive; without an array the call only writes the number of nodes.
    unsafe { sys::cuGraphGetNodes(graph.cu_graph(), std::ptr::null_mut(), &raw mut count) }
        .result()
        .map_err(classify("count a graph's nodes"))?;
    let mut nodes = vec![std::ptr::null_mut(); count];
    // SAFETY: the array has room for `count` nodes.
    unsafe { sys::cuGraphGetNodes(graph.cu_graph(), nodes.as_mut_ptr(), &raw mut count) }
        .result()
        .map_err(classify("list a graph's nodes"))?;
    let mut types = BTreeMap::new();
    for node in nodes {
        let mut kind = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
        // SAFETY: the node is of a live graph.
        unsafe { sys::cuGraphNodeGetType(node, &raw mut kind) }.result().map_err(classify("ask for a node's type"))?;
        let name = match kind {
            sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_KERNEL => "kernel",
            sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEMCPY => "memcpy",
            sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEMSET => "memset",
            sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_HOST => "host",
            sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEM_ALLOC => "mem_alloc",
            sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_MEM_FREE => "mem_free",
            _ => "other",
        };
        *types.entry(name).or_default() += 1;
    }
    Ok(types.into_iter().collect())
}
