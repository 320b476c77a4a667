"""How commands name the losses that a cohort can be registered for."""

from typing import Final

from edgeexit.policies.document import Loss

LOSS_TEXTS: Final[dict[Loss, str]] = {
    "disagreement": "differ from the final exit's",
    "regret": "are wrong where the final exit's is right",
}
"""What predictions with a loss of 1 do: "at most 5 % of the predictions ..."."""
LOSSES_OF_SAMPLES: Final[dict[Loss, str]] = {
    "disagreement": "differed",
    "regret": "were wrong where the final exit was right",
}
"""The same of certifying samples: "2 % of 500 samples ..."."""
