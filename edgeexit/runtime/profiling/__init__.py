"""The parts of the profiler: loops, drift, the readout's cost, comparing two bundles."""
