"""A simulated fleet whose model predicts maps, against a real broker and a real calibrator."""

import numpy as np
from edgeexit_calibration import disagreement, register
from edgeexit_calibration.views.stored_totals import stored_fleet

from edgeexit.datasets import Dataset
from edgeexit.policies import simulate_exits
from edgeexit.recorded_readouts import record_readouts
from edgeexit.simulate import BrokerAccess, FleetEvents, SimulatedModel, parse_drift, simulate_fleet
from edgeexit.wire import BrokerConfig
from tests.calibration.database_kinds import ON_SQLITE
from tests.calibration.map_model import MAP_DELTA, MAP_RISK, map_bundle, map_samples
from tests.calibration.scenario import COHORT, FLEET
from tests.simulate.fleets import options_of


@ON_SQLITE
def test_a_fleet_with_a_model_for_maps_is_simulated(serve, broker, database, tmp_path):
    """The audits of simulated devices have the fractions that were recorded."""
    bundle = map_bundle(tmp_path / "maps", "segmentation")
    dataset = record_readouts(bundle, Dataset(inputs=map_samples(300, 3, "segmentation")), bundle.costs().cumulative)
    address = register(database, bundle, fleet=FLEET, cohort=COHORT, risk=MAP_RISK, delta=MAP_DELTA, user="ada").cohort
    serve()
    policy = bundle.policy().policy
    model = SimulatedModel(bundle.digest, policy, 2, dataset, (1.0, 3.0, 9.0))
    events = FleetEvents(drift=parse_drift("disagreeing:0.5@1s"))
    options = options_of(audit_fraction=0.5, events=events, reports=None, duration_s=4.0)
    outcome = simulate_fleet(
        options,
        model,
        BrokerAccess(BrokerConfig(url=broker.url), "5"),
        read_totals=lambda: stored_fleet(database, FLEET),
    )
    assert outcome.is_exact
    assert outcome.refused == {}
    found, exits = disagreement(database, address), simulate_exits(policy, dataset.readouts)
    expected = dataset.maps.disagreement[np.arange(300), exits].mean()
    assert found.unit == "pixels"
    assert found.samples > 300
    assert found.observed > expected  # because of the drift to the samples that differ more
