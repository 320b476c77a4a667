"""The command `edgeexit profile`: output, stored file, page, comparison, and errors."""

import builtins
import json
import resource
import sys

import pytest
from msgspec.structs import replace
from plotly.offline import get_plotlyjs

from edgeexit.bundle import Bundle
from edgeexit.npz import save_arrays
from edgeexit.policies import PolicyDocument
from edgeexit.policies.confidence import Confidence
from tests.bundles import make_bundle, make_samples
from tests.quiet_profile import quiet


def with_policy(bundle):
    policy = Confidence(temperatures=(1.0,) * 3, thresholds=(0.45, 0.7))
    bundle.write_policy(PolicyDocument(bundle=bundle.digest, revision=0, policy=policy))
    return bundle


@pytest.fixture
def bundle(tmp_path):
    return with_policy(make_bundle(tmp_path / "bundle"))


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.npz"
    save_arrays(path, make_samples(100))
    return path


def refusal(outcome) -> str:
    """Return the single error line of a command that failed with exit code 2."""
    assert outcome.code == 2
    assert outcome.out == ""
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, outcome.err
    return lines[0]


def test_a_profile_is_printed_with_its_parts_and_stored(edgeexit, bundle, data):
    outcome = edgeexit("profile", bundle.path, "--data", data, "--duration", 0.2)
    assert outcome.code == 0
    for words in (
        "stage2",
        "end to end, confidence",
        "Mean latency per sample, by exit taken",
        "overhead",
        "exits taken end to end",
        "cold load",
        "load: this process used",
    ):
        assert words in outcome.out
    assert f"edgeexit {'profile' if bundle.profile().invalid else 'inspect'}" in outcome.out.splitlines()[-1]
    stored = Bundle.open(bundle.path).profile()
    assert stored.policy == "confidence"
    assert len(stored.paths) >= 2


def test_an_invalid_profile_gives_a_warning_and_no_costs(edgeexit, bundle, data):
    edgeexit("profile", bundle.path, "--duration", 0.1)
    reasons = ("other programs used 3.0 of 4 cores", "the inference waited 40% of its time for a core")
    bundle.write_profile(replace(quiet(bundle.profile()), invalid=reasons))
    outcome = edgeexit("profile", bundle.path, "--stored")
    assert f"no costs are taken from this profile: {'; '.join(reasons)}" in outcome.err
    assert outcome.out.splitlines()[-1] == f"next: stop the other programs, then run: edgeexit profile {bundle.path}"
    assert json.loads(edgeexit("profile", bundle.path, "--stored", "--json").out)["invalid"] == list(reasons)
    assert f"not used for the costs of the exits: {'; '.join(reasons)}" in edgeexit("inspect", bundle.path).err
    fit = ("fit", bundle.path, "--data", data, "--policy", "confidence", "--json")
    refused = refusal(edgeexit(*fit, "--budget-ms", 1000.0))
    assert f"--budget-ms 1000 needs measured costs, but the profile of '{bundle.path}' is not used as" in refused
    assert refused.endswith(
        f"costs: {'; '.join(reasons)}; run `edgeexit profile {bundle.path}` again with nothing else running, or add "
        "--force"
    )
    counted = edgeexit(*fit, "--max-risk", 0.5)
    assert json.loads(counted.out)["cost_unit"] == "macs"
    assert f"is not used as costs: {'; '.join(reasons)}" in counted.err
    forced = edgeexit(*fit, "--max-risk", 0.5, "--force")
    assert json.loads(forced.out)["cost_unit"] == "ms"
    assert "is not used as costs" not in forced.err


def test_for_a_throttled_machine_the_next_step_is_to_cool_it(edgeexit, bundle):
    edgeexit("profile", bundle.path, "--duration", 0.1)
    profile = quiet(bundle.profile())
    telemetry = replace(profile.telemetry, throttled=True, reasons=("clock capped",))
    bundle.write_profile(replace(profile, telemetry=telemetry, invalid=("the machine was throttled: clock capped",)))
    outcome = edgeexit("profile", bundle.path, "--stored")
    assert "no costs are taken from this profile: the machine was throttled: clock capped" in outcome.err
    assert "let the machine cool down" in outcome.out


def test_the_page_loads_nothing_from_the_network(edgeexit, bundle, data, tmp_path):
    page = tmp_path / "profile.html"
    assert edgeexit("profile", bundle.path, "--data", data, "--duration", 0.2, "--plot", page).code == 0
    text = page.read_text()
    for name in ("where", "spread", "run"):
        assert f'id="{name}"' in text
    for scheme in ("http://", "https://", "@import", "<link"):
        assert scheme not in text.replace(get_plotlyjs(), "")


def test_a_stored_profile_is_drawn_without_measuring(edgeexit, bundle, tmp_path):
    edgeexit("profile", bundle.path, "--duration", 0.1)
    before = (bundle.path / "profile.json").read_bytes()
    page = tmp_path / "profile.html"
    outcome = edgeexit("profile", bundle.path, "--stored", "--plot", page, "--json")
    assert json.loads(outcome.out) == json.loads(before)["document"]
    assert page.stat().st_size > 1_000_000
    assert (bundle.path / "profile.json").read_bytes() == before


def test_without_plotly_the_error_explains_where_to_draw_the_page(edgeexit, bundle, tmp_path, monkeypatch):
    real = builtins.__import__

    def without_plotly(name, *arguments, **options):
        if name.partition(".")[0] == "plotly":
            raise ModuleNotFoundError("No module named 'plotly'", name="plotly")
        return real(name, *arguments, **options)

    for name in [name for name in sys.modules if name.startswith("edgeexit.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without_plotly)
    line = refusal(edgeexit("profile", bundle.path, "--plot", tmp_path / "profile.html"))
    assert "copy profile.json" in line
    assert "--stored --plot profile.html" in line
    assert Bundle.open(bundle.path).profile() is None  # the error comes before the measurement


def test_a_page_is_not_written_to_an_unusable_path(edgeexit, bundle, tmp_path):
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "dangling.html").symlink_to(tmp_path / "nowhere")
    for name in ("folder.html", "dangling.html"):
        assert "exists and is not a regular file" in refusal(
            edgeexit("profile", bundle.path, "--plot", tmp_path / name)
        )
    assert "must have the suffix .html" in refusal(edgeexit("profile", bundle.path, "--plot", tmp_path / "p.png"))
    assert "is inside the bundle" in refusal(edgeexit("profile", bundle.path, "--plot", bundle.path / "p.html"))
    assert "does not exist; create it first" in refusal(
        edgeexit("profile", bundle.path, "--plot", tmp_path / "no" / "p.html")
    )
    assert not (bundle.path / "profile.json").exists()


def test_a_profile_of_batches_is_printed_and_not_stored(edgeexit, bundle, data):
    outcome = edgeexit("profile", bundle.path, "--data", data, "--duration", 0.1, "--batch", 8, "--json")
    assert json.loads(outcome.out)["batch"] == 8
    assert "the profile is not stored" in outcome.err
    assert Bundle.open(bundle.path).profile() is None


def test_two_bundles_are_compared(edgeexit, bundle, data, tmp_path):
    other = with_policy(make_bundle(tmp_path / "other", seed=1))
    command = ("profile", "--compare", bundle.path, other.path, "--data", data, "--duration", 0.2)
    comparison = json.loads(edgeexit(*command, "--json").out)
    assert comparison["a"]["bundle"] == bundle.digest
    assert comparison["b"]["bundle"] == other.digest
    for ratio in (*comparison["exits"].values(), comparison["end_to_end"]):
        assert ratio["low"] <= ratio["value"] <= ratio["high"]
    shown = edgeexit(*command).out
    assert "to e2" in shown
    assert any(verdict in shown for verdict in ("no significant difference", "B is slower", "B is faster"))
    assert bundle.profile() is None


def test_for_a_bundle_without_a_policy_the_output_names_the_command_that_fits_one(edgeexit, tmp_path):
    bare = make_bundle(tmp_path / "bare")
    measured = edgeexit("profile", bare.path, "--duration", 0.1).out
    assert f"no end-to-end latency: '{bare.path}' has no policy; run `edgeexit fit {bare.path}" in measured
    bare.write_profile(quiet(bare.profile()))
    stored = edgeexit("profile", bare.path, "--stored").out
    assert stored.splitlines()[-1].startswith(f"next: edgeexit fit {bare.path}")
    with_policy(bare)
    late = edgeexit("profile", bare.path, "--stored").out
    assert f"is older than its policy; run `edgeexit profile {bare.path}`" in late


def test_a_comparison_names_the_exits_that_are_left_out(edgeexit, bundle, tmp_path):
    fewer = make_bundle(tmp_path / "b8", exits=2, seed=1)
    shown = edgeexit("profile", "--compare", bundle.path, fewer.path, "--duration", 0.1).out
    assert "left out: e2 of A\n" in shown
    assert shown.count("no end-to-end latency") == 1
    assert f"no end-to-end latency: '{fewer.path}' has no policy; run `edgeexit fit {fewer.path}" in shown


def test_a_profile_that_cannot_be_stored_is_printed_before_the_error(edgeexit, bundle, tmp_path):
    page = tmp_path / "profile.html"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, before[1]))
    try:
        outcome = edgeexit("profile", bundle.path, "--duration", 0.1, "--plot", page)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert outcome.code == 2
    assert "end to end, confidence" in outcome.out
    assert "profile.json': File too large" in outcome.err.splitlines()[-1]
    assert not page.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give one bundle to profile"),
        (("BUNDLE", "--compare", "BUNDLE", "BUNDLE"), "--compare takes two bundles"),
        (("--compare", "BUNDLE", "BUNDLE", "--stored"), "--compare takes two bundles"),
        (("BUNDLE", "--stored"), "has no profile; run"),
        (("BUNDLE", "--stored", "--data", "x.npz"), "--stored measures nothing"),
        (("BUNDLE", "--stored", "--batch", 8), "--stored measures nothing"),
        (("BUNDLE", "--stored", "--duration", 3), "--stored measures nothing"),
        (("BUNDLE", "BUNDLE"), "two with --compare A B"),
        (("--compare", "BUNDLE"), "takes two bundles, A and B"),
        (("BUNDLE", "BUNDLE", "--compare", "BUNDLE"), "see `edgeexit profile --help`"),
        (("BUNDLE", "--batch", "17"), "the number of samples, 16, is too small for a batch of 17"),
    ],
)
def test_options_that_exclude_each_other_are_one_line_of_error(edgeexit, bundle, arguments, words):
    arguments = [bundle.path if argument == "BUNDLE" else argument for argument in arguments]
    assert words in refusal(edgeexit("profile", *arguments))


def test_an_interrupted_run_leaves_the_stored_profile_unchanged(edgeexit, bundle, monkeypatch):
    edgeexit("profile", bundle.path, "--duration", 0.1)
    before = (bundle.path / "profile.json").read_bytes()

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeexit.runtime.profiler.measure_readouts", interrupt)  # the last step
    outcome = edgeexit("profile", bundle.path, "--duration", 0.1)
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "interrupted\n")
    assert (bundle.path / "profile.json").read_bytes() == before
