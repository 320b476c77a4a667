"""Assigns every node to a stage, chooses the tensors that cross between stages, and builds the stage graphs."""
