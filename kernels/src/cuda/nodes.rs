//! What a captured graph consists of.

use std::collections::BTreeMap;

use cudarc::driver::{CudaGraph, sys};

use super::{CudaError, classify};

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
