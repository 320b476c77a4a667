"""The shards that processes acquire and give up, from any beginning and in any order of their steps."""

from edgeexit_calibration.store.lease_plan import plan_moves, quotas
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.integers(0, 5).map(lambda number: f"p{number}")
SHARDS = st.integers(0, 15).map(lambda number: f"s{number}")


@st.composite
def fleets(draw):
    """Return running processes, shards, owners (who may have ended) and an order of steps."""
    processes = draw(st.sets(NAMES, min_size=1))
    shards = draw(st.sets(SHARDS))
    owners = draw(st.dictionaries(SHARDS, NAMES))
    return processes, shards, owners, draw(st.randoms(use_true_random=False))


def step(me, processes, owners, shards):
    """Apply the moves of one process; a shard that another one acquired first stays there."""
    moves = plan_moves(me, processes, owners, shards)
    for shard in moves.give_up:
        assert owners.pop(shard) == me
    for shard in moves.acquire:
        assert owners.setdefault(shard, me) == me
    return len(moves.acquire) + len(moves.give_up)


@given(fleets())
def test_every_shard_gets_one_running_owner_and_parts_are_equal(fleet):
    processes, shards, owners, random = fleet
    owners = {shard: owner for shard, owner in owners.items() if owner in processes}  # leases of others end
    before = dict(owners)
    allowed = quotas(processes, owners, shards)
    for _ in range(2):
        for me in random.sample(sorted(processes), len(processes)):
            step(me, processes, owners, shards)
    assert set(owners) == shards
    parts = [sum(owner == process for owner in owners.values()) for process in processes]
    assert max(parts) - min(parts) <= 1
    assert sum(allowed.values()) == len(shards)
    held = {process: sum(before.get(shard) == process for shard in shards) for process in processes}
    surplus = sum(max(0, held[process] - allowed[process]) for process in processes)
    moved = sum(before[shard] != owners.get(shard) for shard in before if shard in shards)
    assert moved == surplus  # nothing else moved


@given(fleets())
def test_nothing_moves_any_more_once_the_parts_are_equal(fleet):
    processes, shards, owners, _ = fleet
    owners = {shard: owner for shard, owner in owners.items() if owner in processes}
    for _ in range(2):
        for me in sorted(processes):
            step(me, processes, owners, shards)
    assert [step(me, processes, owners, shards) for me in sorted(processes)] == [0] * len(processes)


@given(fleets())
def test_decisions_from_one_old_state_never_take_more_than_the_quota(fleet):
    processes, shards, owners, random = fleet
    moves = {me: plan_moves(me, processes, owners, shards) for me in processes}
    allowed = quotas(processes, owners, shards)
    after = dict(owners)
    for me in random.sample(sorted(processes), len(processes)):
        for shard in moves[me].give_up:
            assert after.pop(shard) == me
        for shard in moves[me].acquire:
            after.setdefault(shard, me)
    for process in processes:
        assert sum(owner == process for shard, owner in after.items() if shard in shards) <= allowed[process]


def test_a_new_process_gets_its_part_of_the_shards():
    shards = {f"s{number}" for number in range(8)}
    owners = dict.fromkeys(shards, "p0")
    assert len(plan_moves("p0", {"p0", "p1", "p2"}, owners, shards).give_up) == 5
    assert plan_moves("p1", {"p0", "p1", "p2"}, owners, shards) == ((), ())
