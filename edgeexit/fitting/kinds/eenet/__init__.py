"""How `eenet` is fitted: a scoring function that predicts which exit is right, and exit fractions for a budget."""
