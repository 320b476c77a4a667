"""Arguments for the steps: the release and the file in the folder of the fixture `deployment`."""

RELEASE = {
    "bundle": "d" * 64,
    "environment": "v",
    "content_key": "k",
    "configuration": {"writable_folders": []},
}
FILE = {
    "path": "incoming/k/bundle/a", "name": "bundle/a", "size": 1, "mode": 0o644,
    "sha256": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
}  # fmt: skip
