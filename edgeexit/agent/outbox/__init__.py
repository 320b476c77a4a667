"""Reports and audits that the calibrator has not acknowledged: in memory, and on a disk that may fail."""
