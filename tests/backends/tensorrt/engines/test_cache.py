"""The cache opens a plan only if it is undamaged and every field of its key matches."""

import multiprocessing

import msgspec
import pytest

from edgeexit.backends.tensorrt.engines import Hardware, PlanCache, PlanKey, PlanRecord, default_folder
from edgeexit.backends.tensorrt.engines.key import plan_key
from edgeexit.bundle.manifest import BuildConfig, FileSpec

KEY = PlanKey(
    stage="a" * 64,
    weights={"weights.bin": "b" * 64},
    build_config="c" * 64,
    dla_core=None,
    library="tensorrt",
    version="10.3.0",
    hardware=Hardware(sm="SM87", device="Orin", cuda="12.6", l4t="R36 (release), REVISION: 4.0", power_mode="15W"),
)
PLAN = b"plan" * 1000


def record(key, plan=PLAN):
    import hashlib  # noqa: PLC0415

    return PlanRecord(
        key=key,
        sha256=hashlib.sha256(plan).hexdigest(),
        model="tiny",
        precision="fp32",
        stage="stage0",
        batch=(1, 1, 32),
        bytes=len(plan),
        build_seconds=1.5,
        check=None,
    )


def test_a_stored_plan_is_opened_unchanged(cache):
    path = cache.store_plan(PLAN, record(KEY))
    stored = cache.open_plan(KEY, "stage0")
    assert (stored.path, stored.plan, stored.record) == (path, PLAN, record(KEY))
    assert sorted(p.suffix for p in cache.folder.iterdir() if p.suffix) == [".json", ".plan"]


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "f" * 64},
        {"weights": {"weights.bin": "f" * 64}},
        {"weights": {}},
        {"build_config": "f" * 64},
        {"dla_core": 0},
        {"library": "tensorrt_rtx"},
        {"version": "10.3.1"},
        {"builder": 0},
        *(
            {"hardware": msgspec.structs.replace(KEY.hardware, **{name: None})}
            for name in KEY.hardware.__struct_fields__
        ),
    ],
    ids=str,
)
def test_a_plan_with_another_key_is_not_opened(cache, change):
    cache.store_plan(PLAN, record(KEY))
    assert cache.open_plan(msgspec.structs.replace(KEY, **change), "stage0") is None


def test_the_key_depends_on_the_graph_the_weights_and_the_build_config(tiny):
    manifest = tiny.manifest
    build_config = BuildConfig(batch=(1, 1, 8), workspace_mb=64)
    make = {"library": "tensorrt", "version": "10.3.0", "hardware": KEY.hardware}
    keys = {plan_key(manifest, stage, build_config, **make).digest for stage in manifest.stages}
    assert len(keys) == len(manifest.stages)
    first = plan_key(manifest, manifest.stages[0], build_config, **make)
    assert first.digest not in {
        plan_key(manifest, manifest.stages[0], changed, **make).digest
        for changed in (
            msgspec.structs.replace(build_config, batch=(1, 2, 8)),
            msgspec.structs.replace(build_config, workspace_mb=65),
            msgspec.structs.replace(build_config, dimensions={"length": (1, 2, 3)}),
        )
    }
    heavier = msgspec.structs.replace(
        manifest, files={**manifest.files, "weights.bin": FileSpec(sha256="f" * 64, size=1)}
    )
    assert plan_key(heavier, manifest.stages[0], build_config, **make) != first


@pytest.mark.parametrize(
    "damage", ["plan is cut", "plan is changed", "plan is gone", "record is cut", "record is gone"]
)
def test_a_damaged_plan_is_not_opened(cache, damage):
    path = cache.store_plan(PLAN, record(KEY))
    what, _, how = damage.partition(" is ")
    file = path if what == "plan" else path.with_suffix(".json")
    content = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:-9] + (b"" if how == "cut" else b"?" * 9))
    assert cache.open_plan(KEY, "stage0") is None
    cache.store_plan(PLAN, record(KEY))
    assert cache.open_plan(KEY, "stage0").plan == PLAN


def test_a_plan_with_another_key_under_the_right_file_name_is_not_opened(cache):
    path = cache.store_plan(PLAN, record(KEY))
    other = msgspec.structs.replace(KEY, version="10.13.0")
    foreign = cache.store_plan(b"other", record(other, b"other"))
    for suffix in (".plan", ".json"):
        foreign.with_suffix(suffix).replace(path.with_suffix(suffix))
    assert cache.open_plan(KEY, "stage0") is None


def _store_often(folder, content):
    cache = PlanCache(folder)
    for _ in range(40):
        cache.store_plan(content, record(KEY, content))


def test_two_concurrent_writers_leave_one_undamaged_plan(cache):
    context = multiprocessing.get_context("fork")
    plans = [b"x" * 50_000, b"y" * 60_000]
    writers = [context.Process(target=_store_often, args=(cache.folder, plan)) for plan in plans]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert cache.open_plan(KEY, "stage0").plan in plans
    assert len(list(cache.folder.glob("*.plan*"))) == 1
    assert not list(cache.folder.glob(".*.*plan*"))


def test_the_timing_cache_is_shared_by_stages_and_not_by_devices(cache):
    cache.store_timings(KEY, b"timings")
    assert cache.timings(msgspec.structs.replace(KEY, stage="f" * 64)) == b"timings"
    assert cache.timings(msgspec.structs.replace(KEY, version="10.4.0")) is None
    assert cache.timings(msgspec.structs.replace(KEY, hardware=Hardware(sm="SM87", device="other"))) is None
    (file,) = cache.folder.glob("*.timings")
    file.write_bytes(file.read_bytes()[:-1])
    assert cache.timings(KEY) is None


def test_clear_deletes_only_files_of_the_cache(cache):
    path = cache.store_plan(PLAN, record(KEY))
    cache.store_timings(KEY, b"timings")
    (cache.folder / f".{path.name}.k1ll3d").write_bytes(b"left by a killed process")
    for name in ("manifest.json", "notes.plan.txt", "model.plan"):
        (cache.folder / name).write_text("mine")
    files, _ = cache.clear()
    assert files == 4
    assert {p.name for p in cache.folder.iterdir()} - {".lock"} == {"manifest.json", "notes.plan.txt", "model.plan"}
    assert PlanCache(cache.folder / "never").clear() == (0, 0)


def test_the_default_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "edgeexit" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / ".cache" / "edgeexit" / "engines"
