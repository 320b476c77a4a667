"""State folders that change between two starts: rolled back to an image, cloned, or with one flipped bit."""

import shutil
from pathlib import Path

from edgeexit.agent.fleet_link.identity import FILE as IDENTITY
from scripts.chaoslab.brokers import Broker
from scripts.chaoslab.lab import Check, Device, Lab, running
from scripts.chaoslab.stored import StoredDatabase
from scripts.chaoslab.waiting import GENEROUS_S, pause, wait_until
from scripts.chaoslab.watcher import FLEET, Watcher

_FLIPPED_DEVICES = 10
_LONG_ROUNDS = 8


def rolled_back(lab: Lab) -> list[Check]:
    """Restore an image of a state folder that still holds messages which were delivered meanwhile."""
    broker = lab.broker()
    database = lab.calibrator(broker.url).database
    watcher = lab.watcher(broker.port)
    device = lab.device("device", broker.url)
    image = lab.folder / "image"
    rounds = 5 if lab.long else 1
    for number in range(rounds):
        lab.progress(f"{number} of {rounds} images")
        device.start()
        list(running([device]))
        broker.kill()
        pause(1.0)
        device.kill()
        shutil.copytree(device.state_dir, image)
        broker.start()
        device.start()
        watcher.publish_policy(device.address, number + 1)
        list(running([device]))
        lab.drain([device])
        _restore(image, device.state_dir)
        shutil.rmtree(image)
    device.start()
    list(running([device]))
    wait_until(lambda: (tick := device.last("tick")) and tick.revision == rounds, GENEROUS_S)
    balance = lab.settle([device], database)
    wait_until(lambda: (state := watcher.state("device")) and state.revision == rounds, GENEROUS_S)
    state = watcher.state("device")
    return [
        Check(
            situation=lab.name,
            promise="an image of the state folder is restored: no message is lost or counted twice, "
            "the newest policy returns",
            counted=f"{rounds} images; {balance}; {device.failures()} inferences failed; "
            f"revision {state and state.revision} of {rounds}",
            kept=balance.exact and not device.failures() and state is not None and state.revision == rounds,
        )
    ]


def two_clones(lab: Lab) -> list[Check]:
    """Run two agents at once whose state folders are copies of one, under one name."""
    broker = lab.broker()
    database = lab.calibrator(broker.url).database
    original = lab.device("device", broker.url)
    clone = lab.device("device", broker.url, folder="clone")
    original.start()
    list(running([original]))
    original.kill()
    shutil.copytree(original.state_dir, clone.state_dir)
    both = [original, clone]
    for device in both:
        device.start()
    list(running(both))
    pause(30 if lab.long else 3)
    shown = bool(wait_until(lambda: database.events("clone"), GENEROUS_S))
    balance = lab.settle(both, database)
    waiting = [tick.waiting for device in both if (tick := device.last("tick")) is not None]
    return [
        Check(
            situation=lab.name,
            promise="two live clones: what is answered is stored, no message is lost or counted twice",
            counted=f"{balance}; {waiting} messages wait",
            kept=balance.exact and not sum(waiting) and not any(device.failures() for device in both),
        ),
        Check(
            situation=lab.name,
            promise="two live clones: the calibrator shows them",
            counted="shown" if shown else "not shown",
            kept=shown,
        ),
    ]


def flipped_bits(lab: Lab) -> list[Check]:
    """Flip one random bit in each file of a state folder between two starts."""
    broker = lab.broker()
    database = lab.calibrator(broker.url).database
    checks: dict[str, list[Check]] = {}
    rounds = _LONG_ROUNDS if lab.long else 1
    for number in range(rounds):
        lab.progress(f"{number} of {rounds} rounds")
        for file, check in _flip_round(lab, number, broker, database):
            checks.setdefault(file, []).append(check)
    return [_summary(lab, file, found) for file, found in sorted(checks.items())]


def _flip_round(lab: Lab, number: int, broker: Broker, database: StoredDatabase) -> list[tuple[str, Check]]:
    watcher = lab.watcher(broker.port)
    devices = [lab.device(f"flip-{number}-{index}", broker.url) for index in range(_FLIPPED_DEVICES)]
    for device in devices:
        device.start()
        watcher.publish_policy(device.address, 1)
    list(running(devices))
    for device in devices:
        wait_until(lambda d=device: watcher.accepted(d.name) == 1, GENEROUS_S)
    broker.kill()  # so that messages wait in the outbox
    pause(1.0)
    flipped: dict[str, tuple[str, str]] = {}
    for index, device in enumerate(devices):
        device.kill()
        files = sorted(path for path in device.state_dir.iterdir() if path.is_file() and path.stat().st_size)
        path = files[index % len(files)]
        flipped[device.name] = (_kind(path), _flip(path, lab))
    broker.start()
    for device in devices:
        device.start()
    list(running(devices))
    others = [device for device in devices if flipped[device.name][0] != IDENTITY]
    lab.drain(others)
    # With another identity key, audits wait for the operator's approval.
    lab.drain([device for device in devices if device not in others], timeout_s=2)
    found = []
    for device in devices:
        file, where = flipped[device.name]
        says_so = _says_so(device, watcher)
        # What is reported as lost does not arrive. Everything else does, so the comparison waits for it.
        balance = lab.balance([device], database, device=device.name, timeout_s=0 if says_so else GENEROUS_S)
        fresh = lab.balance([device], database, device=device.name, newest=True, timeout_s=0)
        says_so = says_so or _says_so(device, watcher)
        state = watcher.state(device.name)
        problems = () if state is None else state.problems
        tick = device.last("tick")
        runs = tick is not None and tick.inferences > 0 and not device.failures()
        text = f"{balance}; {tick.waiting if tick else '?'} waiting; problems {problems}"
        kept = runs and (says_so or not fresh.missing) and not balance.double_samples and (balance.exact or says_so)
        note = f"{device.name}: {where}: {text}"
        found.append((file, Check(situation=lab.name, promise="", counted=text, kept=kept, notes=(note,))))
    watcher.close()
    return found


def _says_so(device: Device, watcher: Watcher) -> bool:
    """Return True if the state, a file or the log of a device reports damage."""
    state = watcher.state(device.name)
    files = any(device.state_dir.glob("*.broken*"))
    return bool(state and state.problems) or files or "damage" in device.log.read_text()


def _summary(lab: Lab, file: str, checks: list[Check]) -> Check:
    broken = [check for check in checks if not check.kept]
    return Check(
        situation=lab.name,
        promise=f"one flipped bit in {file}: the agent starts, new messages arrive, and a loss is reported",
        counted=f"{len(checks)} flips, {len(broken)} broken" + (f": {broken[0].counted}" if broken else ""),
        kept=not broken,
        notes=tuple(note for check in broken for note in check.notes),
    )


def _flip(path: Path, lab: Lab) -> str:
    content = bytearray(path.read_bytes())
    bit = lab.random.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    with path.open("r+b") as file:
        file.write(content)
    return f"bit {bit % 8} of byte {bit // 8} of {len(content)} of '{path.name}'"


def _kind(path: Path) -> str:
    """Return the name of a file without what differs between devices, bundles and cohorts."""
    kind = path.name.partition(".")[0]
    return f"{kind}.*.json" if f".{FLEET}." in path.name else path.name


def _restore(image: Path, target: Path) -> None:
    shutil.rmtree(target)
    shutil.copytree(image, target)
