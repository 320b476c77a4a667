"""Steps of a deployment as they run on the device, without a connection: what they leave and what they judge."""

import contextlib
import http.server
import json
import stat
import threading

import pytest

from edgeexit.deploy.remote import finish, inventory, plans, receive
from edgeexit.deploy.remote.activate import _last_good, _start
from edgeexit.deploy.remote.layout import RefusedError, point_current
from edgeexit.deploy.remote.service import AgentService, trouble

DOCUMENT = {"bundle": "d" * 64, "venv": "v", "key": "k", "configuration": {"writable": []}}
FILE = {
    "path": "incoming/k/bundle/a", "name": "bundle/a", "size": 1, "mode": 0o644,
    "sha256": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
}  # fmt: skip


@pytest.fixture
def step(tmp_path, capsys):
    """Run a step in a folder of its own and return its answer."""

    def run(module, **arguments):
        module.main({"root": str(tmp_path / "edgeexit"), **arguments})
        return json.loads(capsys.readouterr().out.removeprefix("edgeexit-result "))

    bundle = tmp_path / "edgeexit" / "incoming" / "k" / "bundle"
    bundle.mkdir(parents=True)
    (bundle / "a").write_text("a")
    return run


@contextlib.contextmanager
def answering(answer):
    """Answer what is asked on a port of this machine with these bytes; give the release that would be served there."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"endpoint": ["127.0.0.1", server.server_port], "model": "tiny", "bundle": "d" * 64}
        server.shutdown()


def reply(content):
    return b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(content).encode()


@pytest.fixture
def release(step, tmp_path):
    """Finish a release whose environment has a program that notes how it was called."""
    program = tmp_path / "edgeexit" / "venvs" / "v" / "bin" / "edgeexit"
    program.parent.mkdir(parents=True)
    program.write_text(
        '#!/bin/sh\necho "$XDG_CACHE_HOME $*" > called\ntest -e bundle/a || { echo "error: no a"; exit 2; }\n'
    )
    program.chmod(0o755)
    return step(finish, key="k", document=DOCUMENT)["id"]


def test_plans_are_built_by_the_release_into_its_agent_s_cache(step, release, tmp_path):
    root = tmp_path / "edgeexit"
    step(plans, release=release)
    called = (root / "releases" / release / "called").read_text()
    assert called == f"{root}/state/cache engines build bundle\n"
    (root / "releases" / release / "bundle" / "a").unlink()
    with pytest.raises(RefusedError, match="the TensorRT plans cannot be built: error: no a"):
        step(plans, release=release)


def test_a_release_is_finished_once_however_often_that_is_asked(step, tmp_path):
    first = step(finish, key="k", document=DOCUMENT)["id"]
    assert step(finish, key="k", document=DOCUMENT)["id"] == first
    document = tmp_path / "edgeexit" / "releases" / first / "release.json"
    assert stat.S_IMODE(document.stat().st_mode) == 0o600  # it has the digest of a password


def test_what_any_release_has_is_not_sent_again(step, tmp_path):
    release = step(finish, key="k", document=DOCUMENT)["id"]
    state = step(inventory, files=[FILE])["files"][FILE["path"]]
    assert state == {"kind": "kept", "release": release}
    assert step(receive, files=[{"offset": None, **FILE, **state}])["damaged"] == []
    assert (tmp_path / "edgeexit" / FILE["path"]).read_text() == "a"


def test_what_comes_in_is_for_the_owner_only(step, tmp_path):
    (tmp_path / "edgeexit" / "incoming").rename(tmp_path / "edgeexit" / "releases")
    step(receive, files=[])
    assert stat.S_IMODE((tmp_path / "edgeexit" / "incoming").stat().st_mode) == 0o700


def test_a_state_folder_of_the_devices_own_is_made_or_refused_before_anything_is_switched(step, tmp_path):
    writable = {"configuration": {"writable": [str(tmp_path / "data" / "state")]}}
    (tmp_path / "data").write_text("")
    with pytest.raises(RefusedError, match=r"state_dir .*data/state' cannot be made"):
        step(finish, key="k", document={**DOCUMENT, **writable})
    (tmp_path / "data").unlink()
    step(finish, key="k", document={**DOCUMENT, **writable})
    assert (tmp_path / "data" / "state").is_dir()


@pytest.mark.parametrize(
    ("healthy", "back_to"),
    [({"1", "2", "3"}, "3"), ({"1", "2"}, "2"), ({"1"}, "1"), ({"4"}, None), (set(), None)],
)
def test_back_is_the_newest_of_the_chain_that_has_been_healthy(tmp_path, healthy, back_to):
    for release, before in {"1": "2", "2": "1", "3": "2", "4": None}.items():  # 1 and 2: gone back to and forward
        folder = tmp_path / "releases" / release
        folder.mkdir(parents=True)
        (folder / "release.json").write_text(json.dumps({"replaces": before}))
        if release in healthy:
            (folder / "healthy").touch()
    point_current(tmp_path, "3")
    assert _last_good(tmp_path, "4") == back_to


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"SSH-2.0-other\r\n", "does not answer"),
        (reply([]), "serves bundle"),
        (reply({"versions": 1}), "serves bundle"),
        (reply({"versions": ["e" * 64]}), "serves bundle"),
        (b"HTTP/1.0 200 OK\r\n\r\n\xff", "does not answer"),
        (b"HTTP/1.0 503 Busy\r\n\r\n", "answers 503"),
    ],
)
def test_whatever_answers_there_a_release_that_does_not_serve_is_told_in_words(answer, said):
    with answering(answer) as release:
        assert said in trouble(release)


def test_another_agent_of_the_same_bundle_on_the_port_is_not_taken_for_the_new_one(tmp_path):
    program = tmp_path / "releases" / "0001-d" / "venv" / "bin" / "edgeexit"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    point_current(tmp_path, "0001-d")
    service = AgentService(tmp_path, "process", "edgeexit")
    with answering(reply({"versions": ["d" * 64]})) as release:
        assert trouble(release) is None
        assert "is in use by another program" in _start(service, release, 5.0)
    assert service.pid() is None
