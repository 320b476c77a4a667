"""Parts of the profiler: measurement loops, drift, the cost of readouts, and the comparison of two bundles."""
