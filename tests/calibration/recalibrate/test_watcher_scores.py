"""The watcher recalibrates policies that read the probabilities of all classes, from the scores in audits."""

import msgspec
import numpy as np
import pytest
from edgeexit_calibration import policy_history, register
from edgeexit_calibration.ingest.uplink import Uplink
from edgeexit_calibration.store.cohorts import current_revision
from edgeexit_calibration.store.tables import AuditedSampleRow
from sqlalchemy import func, select

from edgeexit.fitting import MaxRisk, fit_policy
from edgeexit.policies import PolicyDocument, decode_document, disagrees, simulate, simulate_exits
from edgeexit.wire import Audit, AuditedSample
from tests.bundles import make_bundle
from tests.calibration.recalibrate.watching import GOAL, NOW, new_watcher
from tests.calibration.scenario import COHORT, DEVICE, RISK, START, store_uplinks
from tests.fitting.populations import population

KINDS = pytest.mark.parametrize("kind", ["ztw", "eenet"])


def wide_readouts(count, seed, *, sharpness=1.0):
    """Return readouts [N, 3, 14] of samples; with a higher sharpness, wrong exits are more certain."""
    return np.concatenate(list(population(count, seed, exits=3, sharpness=sharpness).readout_blocks()))


class Cohort:
    """A cohort whose devices run a policy that exits rarely, and whose audits come from known populations."""

    def __init__(self, database, folder, kind):
        self._database = database
        bundle = make_bundle(folder, exits=3, classes=10)
        goal = MaxRisk(risk=RISK / 10)
        first = fit_policy(kind, population(2000, seed=1, exits=3, labels=False), goal).policy
        bundle.write_policy(PolicyDocument(bundle=bundle.digest, revision=0, policy=first))
        self._bundle, self._sequence = bundle.digest, 0
        self.address = register(database, bundle, cohort=COHORT, **GOAL).cohort
        self._watcher = new_watcher(database)
        self.check()

    def check(self):
        self._watcher.check(now=NOW)

    def current(self):
        """Return the document of the current revision."""
        with self._database.reading() as session:
            return decode_document(current_revision(session, 1).document.encode())

    def audit(self, readouts, *, scores=True):
        """Store the audits of samples with these readouts [N, K, 4 + C] under the current policy."""
        document = self.current()
        exits, (found, predictions) = simulate_exits(document.policy, readouts), simulate(document.policy, readouts)
        samples = [
            AuditedSample.from_readout(
                readouts[n, :, :4],
                exit_index=int(exits[n]),
                prediction=int(predictions[n, exits[n]]),
                scores=found[n] if scores else None,
                predictions=predictions[n] if scores else None,
            )
            for n in range(len(readouts))
        ]
        for start in range(0, len(samples), 200):
            audit = Audit(
                start=START, sequence=self._sequence, bundle=self._bundle, cohort=COHORT, revision=document.revision,
                samples=tuple(samples[start : start + 200]),
            )  # fmt: skip
            self._sequence += 1
            with self._database.writing() as session:
                assert not store_uplinks(session, [Uplink(DEVICE, audit)], now=NOW).drops


def cost(policy, readouts):
    return (simulate_exits(policy, readouts) + 1).mean()


@KINDS
def test_thresholds_follow_the_scores_in_audits_and_nothing_else_changes(database, tmp_path, kind):
    cohort = Cohort(database, tmp_path / "bundle", kind)
    first, quiet, sharp = cohort.current(), wide_readouts(20_000, 5), wide_readouts(20_000, 6, sharpness=3.0)
    cohort.audit(wide_readouts(2000, 10))
    cohort.check()
    bolder = cohort.current()
    assert bolder.revision > first.revision
    assert cost(bolder.policy, quiet) < cost(first.policy, quiet)
    assert disagrees(bolder.policy, quiet).mean() <= RISK < disagrees(bolder.policy, sharp).mean()
    cohort.audit(wide_readouts(500, 12, sharpness=3.0))
    cohort.check()  # ends with the alarm
    cohort.audit(wide_readouts(1000, 13, sharpness=3.0))
    cohort.check()
    last, reasons = cohort.current(), [one.reason for one in policy_history(database, cohort.address)]
    assert sum("stepped back" in reason for reason in reasons) == 1
    assert "bolder" in reasons[-1]
    assert disagrees(last.policy, sharp).mean() <= RISK
    assert cost(last.policy, sharp) < 3
    for document in (bolder, last):
        assert msgspec.structs.replace(document.policy, thresholds=first.policy.thresholds) == first.policy


@KINDS
def test_audits_without_scores_are_stored_and_change_nothing(database, tmp_path, kind):
    cohort = Cohort(database, tmp_path / "bundle", kind)
    first = cohort.current()
    cohort.audit(wide_readouts(2000, 10), scores=False)
    cohort.check()
    assert cohort.current() == first
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(AuditedSampleRow).filter_by(counted=True)) == 2000
    cohort.audit(wide_readouts(1000, 12))
    cohort.check()
    assert cohort.current().revision > first.revision
