"""The quickstart: trains a small model, deploys it to two agents and updates its policy, all on one machine."""
