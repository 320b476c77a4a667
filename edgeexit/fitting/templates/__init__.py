"""What each kind of policy takes from the data besides its thresholds, which nothing leaves at yet. One file a kind."""

from collections.abc import Callable

from edgeexit.errors import FittingError
from edgeexit.fitting.evidence import Evidence
from edgeexit.fitting.templates.beem import beem_templates
from edgeexit.fitting.templates.cats import cats_templates
from edgeexit.fitting.templates.eenet import eenet_templates
from edgeexit.fitting.templates.entropy import entropy_templates
from edgeexit.fitting.templates.options import TemplateOptions
from edgeexit.fitting.templates.pcee import pcee_templates
from edgeexit.fitting.templates.plain import plain_templates
from edgeexit.fitting.templates.ztw import ztw_templates
from edgeexit.policies import KINDS, AnyPolicy

__all__ = ["TemplateOptions", "make_templates"]

Maker = Callable[[Evidence, TemplateOptions], tuple[AnyPolicy, ...]]

_MAKERS: dict[str, Maker] = {
    "entropy": entropy_templates,
    "beem": beem_templates,
    "pcee": pcee_templates,
    "cats": cats_templates,
    "ztw": ztw_templates,
    "eenet": eenet_templates,
}
"""The registry of kinds that take more than temperatures."""


def make_templates(kind: str, evidence: Evidence, options: TemplateOptions) -> tuple[AnyPolicy, ...]:
    """Return candidates for an unfitted policy of `kind`, at least one, all thresholds None.

    A fit takes the candidate whose thresholds do best on the samples that choose, the first where several do. Every
    candidate says under which temperatures it reads; `evidence.at(...)` gives the readouts. Raises FittingError for a
    kind that is not known, or evidence that it cannot learn from.
    """
    if kind not in KINDS:
        raise FittingError(f"policy '{kind}' is unknown; there are {', '.join(KINDS)}")
    if kind in _MAKERS:
        return _MAKERS[kind](evidence, options)
    return plain_templates(KINDS[kind], evidence, options)
