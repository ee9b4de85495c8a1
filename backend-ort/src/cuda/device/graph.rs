//! Captured work, and moments on the device's clock.

use super::{
    super::driver::{CAPTURE_SPOILED, Handle},
    Device,
};
use crate::error::OrtError;
use std::{ffi::c_int, fmt, ptr::null_mut, sync::Arc, time::Duration};

/// Calls that allocate are allowed while this thread captures.
const CAPTURE_RELAXED: c_int = 2;
/// How often a capture is begun again.
const MOST_SPOILED: u64 = 3;

impl Device {
    /// Records everything that `work` queues into a graph instead of running it. The caller is alone in the process; work of
    /// those who don't hold its lock may still spoil the capture, of which nothing has run then, so that it is begun again.
    pub(crate) fn capture(self: &Arc<Self>, mut work: impl FnMut() -> Result<(), OrtError>) -> Result<Graph, OrtError> {
        let (mut graph, mut spoiled) = (null_mut(), 0);
        loop {
            // SAFETY: the stream lives until `drop`.
            self.api.check("capturing", unsafe { (self.api.capture_begin)(self.stream, CAPTURE_RELAXED) })?;
            let worked = work();
            // SAFETY: the place for the answer is valid. Also after a failure, so that the stream is usable again.
            let ended = unsafe { (self.api.capture_end)(self.stream, &raw mut graph) };
            if ended == CAPTURE_SPOILED && spoiled < MOST_SPOILED {
                spoiled += 1;
                continue;
            }
            worked?;
            self.api.check("ending a capture", ended)?;
            break;
        }
        let nodes = self.node_types(graph);
        let mut exec = null_mut();
        // SAFETY: as above.
        let made = unsafe { (self.api.graph_instantiate)(&raw mut exec, graph, 0) };
        // SAFETY: an instance does not need the graph it was made from.
        let dropped = unsafe { (self.api.graph_destroy)(graph) };
        for status in [made, dropped] {
            self.api.check("making a graph", status)?;
        }
        let graph = Graph { device: Arc::clone(self), exec, nodes: nodes?, spoiled, replays: 0 };
        // SAFETY: graph and stream are alive.
        self.api.check("uploading a graph", unsafe { (self.api.graph_upload)(graph.exec, self.stream) })?;
        Ok(graph)
    }

    /// Counts a captured graph's nodes by type, as the driver tells them.
    fn node_types(&self, graph: Handle) -> Result<Vec<(&'static str, u64)>, OrtError> {
        let mut count = 0;
        // SAFETY: the graph is alive; a null list asks for the count.
        self.api.check("counting a graph's nodes", unsafe { (self.api.graph_nodes)(graph, null_mut(), &raw mut count) })?;
        let mut nodes = vec![null_mut(); count];
        // SAFETY: the list has room for `count` nodes.
        self.api.check("listing a graph's nodes", unsafe { (self.api.graph_nodes)(graph, nodes.as_mut_ptr(), &raw mut count) })?;
        nodes.truncate(count);
        let mut types = Vec::<(&'static str, u64)>::new();
        for node in nodes {
            let mut kind: c_int = -1;
            // SAFETY: the node is of a live graph.
            self.api.check("asking for a node's type", unsafe { (self.api.graph_node_type)(node, &raw mut kind) })?;
            // `CUgraphNodeType` of the driver's header.
            let name = match kind {
                0 => "kernel",
                1 => "memcpy",
                2 => "memset",
                3 => "host",
                10 => "mem_alloc",
                11 => "mem_free",
                _ => "other",
            };
            match types.iter_mut().find(|(known, _)| *known == name) {
                Some((_, nodes)) => *nodes += 1,
                None => types.push((name, 1)),
            }
        }
        Ok(types)
    }
}

/// Work that was captured once and can be queued again as a whole.
pub(crate) struct Graph {
    device: Arc<Device>,
    exec: Handle,
    /// Kernels, copies and fills in it, by type.
    pub(crate) nodes: Vec<(&'static str, u64)>,
    /// How often its capture was spoiled before one held.
    pub(crate) spoiled: u64,
    /// How often it was queued.
    pub(crate) replays: u64,
}

// SAFETY: as for `Device`.
unsafe impl Send for Graph {}

impl Graph {
    pub(crate) fn launch(&mut self) -> Result<(), OrtError> {
        self.replays += 1;
        // SAFETY: graph and stream are alive.
        let status = unsafe { (self.device.api.graph_launch)(self.exec, self.device.stream) };
        self.device.api.check("replaying a graph", status)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: owned, and destroyed once; the driver waits for a replay under way.
            unsafe { (self.device.api.graph_exec_destroy)(self.exec) };
        }
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph({:?}, {} replays)", self.nodes, self.replays)
    }
}

/// Moments on the device's own clock.
pub(crate) struct Events {
    device: Arc<Device>,
    events: Vec<Handle>,
    used: usize,
}

// SAFETY: as for `Device`.
unsafe impl Send for Events {}

impl Events {
    pub(crate) fn new(device: &Arc<Device>) -> Self {
        Self { device: Arc::clone(device), events: Vec::new(), used: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.used = 0;
    }

    /// Makes events ahead of time, so that a timed call does not.
    pub(crate) fn reserve(&mut self, count: usize) -> Result<(), OrtError> {
        let api = self.device.api;
        while self.events.len() < count {
            let mut event = null_mut();
            // SAFETY: the place for the answer is valid.
            api.check("making an event", unsafe { (api.event_create)(&raw mut event, 0) })?;
            self.events.push(event);
        }
        Ok(())
    }

    /// Marks the moment when everything queued so far is done.
    pub(crate) fn record(&mut self) -> Result<(), OrtError> {
        self.reserve(self.used + 1)?;
        let (api, event) = (self.device.api, self.events[self.used]);
        self.used += 1;
        // SAFETY: event and stream are alive.
        api.check("recording an event", unsafe { (api.event_record)(event, self.device.stream) })
    }

    /// Times between the moments marked since [`clear`](Self::clear); the device must have been waited for.
    pub(crate) fn intervals(&self, out: &mut Vec<Duration>) -> Result<(), OrtError> {
        out.clear();
        for pair in self.events[..self.used].windows(2) {
            let mut milliseconds = 0.0f32;
            // SAFETY: both events were recorded and are done.
            let status = unsafe { (self.device.api.event_elapsed)(&raw mut milliseconds, pair[0], pair[1]) };
            self.device.api.check("reading an event", status)?;
            out.push(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3));
        }
        Ok(())
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            for event in self.events.drain(..) {
                // SAFETY: owned, and destroyed once.
                unsafe { (self.device.api.event_destroy)(event) };
            }
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Events({})", self.events.len())
    }
}
