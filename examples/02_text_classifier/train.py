"""Train the classifier on made-up reviews; write the weights, and held-out and test samples.

A review is a sequence of words: some praise, some complain, most say nothing, and "not" turns the next word around.
The class is whether praise outweighs complaints. Reviews with many "not" are hard, so they need deeper exits.
"""

import numpy as np
import torch
from network import VOCABULARY, WEIGHTS, TextClassifier
from torch.nn import functional

PAD, NOT = 0, 1
PRAISE, COMPLAINTS, OTHER = range(2, 12), range(12, 22), range(22, VOCABULARY)
STEPS, BATCH = 300, 64


def make_reviews(count: int, max_length: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Return `ids` and `mask` [count, max_length] int64 and `labels` [count] int64."""
    ids = np.full((count, max_length), PAD, dtype=np.int64)
    labels = np.zeros(count, dtype=np.int64)
    for row in range(count):
        balance = 0
        while balance == 0:  # a review that is neither good nor bad is drawn again
            length = int(generator.integers(5, max_length + 1))
            kinds = generator.choice(4, length, p=[0.25, 0.25, 0.4, 0.1])
            words = [int(generator.choice((PRAISE, COMPLAINTS, OTHER, [NOT])[kind])) for kind in kinds]
            signs = [(word in PRAISE) - (word in COMPLAINTS) for word in words]
            turned = [-1 if k > 0 and words[k - 1] == NOT else 1 for k in range(length)]
            balance = sum(sign * turn for sign, turn in zip(signs, turned, strict=True))
        ids[row, :length] = words
        labels[row] = balance > 0
    return {"ids": ids, "mask": (ids != PAD).astype(np.int64), "labels": labels}


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    reviews = {name: torch.from_numpy(array) for name, array in make_reviews(4000, 16, generator).items()}

    network = TextClassifier().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for step in range(STEPS):
        rows = torch.randint(len(reviews["labels"]), (BATCH,))
        exits = network(reviews["ids"][rows], reviews["mask"][rows])
        # All exits are trained together: the loss is the sum over the exits.
        loss = torch.stack([functional.cross_entropy(logits, reviews["labels"][rows]) for logits in exits]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 49:
            print(f"step {step + 1}: loss {loss.item():.3f}")
    torch.save(network.state_dict(), WEIGHTS)

    # One array per input, under the input's name, and `labels`. The test reviews are longer than the others.
    np.savez("heldout.npz", **make_reviews(500, 16, generator))
    np.savez("test.npz", **make_reviews(500, 24, generator))


if __name__ == "__main__":
    main()
