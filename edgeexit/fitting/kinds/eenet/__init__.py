"""How `eenet` is fitted: a scoring function that predicts whether an exit is right, and exit fractions for a budget."""
