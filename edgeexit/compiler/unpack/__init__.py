"""Takes exits apart that a model computes in one tensor, so that each exit needs only its own part of the network.

`unpack.py` is the pass; `blocker.py` names the operator that makes it impossible. The other modules, from the bottom:

- `regions.py`: a *region* is a part of a tensor, such as row 2 of axis 1. `reshapes.py` follows it through a reshape.
- `pull.py`: a *pull* is the regions of a node's inputs from which a region of its output is computed, and how.
- `rules.py`: the rule of each operator, which returns the pull. The rules are in `arithmetic.py`, `movement.py`,
  `overwriting.py`, `products.py` and `selection.py`. They read sizes and indices by `constants.py` and `multiples.py`.
- `needs.py`: follows the pulls from the *selectors* (Slice, Gather, Split) up to the Concat where the features of the
  exits meet, and counts the matmuls and convolutions that each exit then needs.
- `dimensions.py` names unknown dimensions, and `rewriter.py` makes the new nodes.
"""
