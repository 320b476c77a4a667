"""The step `status`: report the releases of a device and the health of its agent; change nothing."""

from pathlib import Path

from edgeexit.deploy.remote.documents import InstalledRelease, StatusArguments, StatusReply
from edgeexit.deploy.remote.layout import RELEASES, current_release_id, is_healthy, read_release, release_ids
from edgeexit.deploy.remote.service import AgentService, health_error


def main(root: Path, arguments: StatusArguments) -> StatusReply:
    """Return all releases, and the process id, health and last log lines of the current release's agent."""
    current = current_release_id(root)
    document = read_release(root, current)
    service = None if document is None else AgentService(root, document["service"], document["unit_name"])
    return {
        "current": current,
        "releases": _installed_releases(root),
        "pid": None if service is None else service.pid(),
        "health_error": None if document is None else health_error(document),
        "log": [] if service is None else service.log_tail(arguments["log_lines"]),
    }


def _installed_releases(root: Path) -> list[InstalledRelease]:
    documents = ((release, read_release(root, release)) for release in release_ids(root))
    return [
        {
            "release": document,
            "healthy": is_healthy(root, release),
            "has_policy": (root / RELEASES / release / "bundle" / "policy.json").is_file(),
        }
        for release, document in documents
        if document is not None
    ]
