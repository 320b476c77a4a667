"""Train the network on the digits of scikit-learn; write the weights, and held-out and test samples."""

import numpy as np
import torch
from network import WEIGHTS, ThreeExits
from sklearn.datasets import load_digits
from torch.nn import functional

TRAIN, HELD_OUT = 900, 450  # the other 447 are for the test
EPOCHS = 12
BATCH = 50


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = (digits.images[order, None] / 16).astype(np.float32)  # [N, 1, 8, 8], 0 to 1
    labels = digits.target[order].astype(np.int64)

    network = ThreeExits().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    x, y = torch.from_numpy(images[:TRAIN]), torch.from_numpy(labels[:TRAIN])
    for epoch in range(EPOCHS):
        for rows in torch.randperm(TRAIN).split(BATCH):
            # All exits are trained together: the loss is the sum over the exits.
            loss = torch.stack([functional.cross_entropy(logits, y[rows]) for logits in network(x[rows])]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    torch.save(network.state_dict(), WEIGHTS)

    # One array per input, under the input's name, and `labels`.
    end = TRAIN + HELD_OUT
    np.savez("heldout.npz", image=images[TRAIN:end], labels=labels[TRAIN:end])
    np.savez("test.npz", image=images[end:], labels=labels[end:])


if __name__ == "__main__":
    main()
