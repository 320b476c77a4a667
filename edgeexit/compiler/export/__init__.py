"""From what the user brought, a torch module, a program or a graph, to one normalised graph."""
