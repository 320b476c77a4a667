"""The process of the calibrator."""
