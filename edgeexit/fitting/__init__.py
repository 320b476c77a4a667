"""From readouts, labels and stage costs to a policy document with a certificate."""
