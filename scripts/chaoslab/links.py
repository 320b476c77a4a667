"""Bad links: latency, connections that are reset or go silent, and 1 kB/s."""

import msgspec

from scripts.chaoslab.lab import Check, Lab, running
from scripts.chaoslab.proxy import LinkFault, Proxy
from scripts.chaoslab.waiting import pause


class _Link(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    fault: LinkFault
    short_s: float
    """Seconds with the fault in the short form."""
    long_s: float
    rate: float = 40.0


_LINKS = (
    _Link(name="500 ms each way", fault=LinkFault(delay_s=0.5), short_s=4, long_s=60),
    _Link(
        name="resets after 200 to 20,000 bytes", fault=LinkFault(reset_after=(200, 20_000)), short_s=5, long_s=120
    ),
    _Link(name="half-open after 2,000 to 30,000 bytes", fault=LinkFault(freeze_after=(2000, 30_000)), short_s=3,
          long_s=240),
    _Link(name="1 kB/s", fault=LinkFault(bytes_per_s=1000), short_s=8, long_s=180),
)  # fmt: skip


def bad_links(lab: Lab) -> list[Check]:
    """Run one agent behind each bad link at the same time, then let the links recover."""
    broker = lab.broker()
    database = lab.calibrator(broker.url).database
    proxies, devices = [], []
    for number, link in enumerate(_LINKS):
        proxy = Proxy(broker.port, lab.random)
        lab.on_exit(proxy.close)
        proxy.fault = link.fault
        device = lab.device(f"link-{number}", proxy.url, rate=link.rate)
        device.start()
        proxies.append(proxy)
        devices.append(device)
    list(running(devices))
    longest = max(link.long_s if lab.long else link.short_s for link in _LINKS)
    started = 0.0
    for link, proxy in sorted(
        zip(_LINKS, proxies, strict=True), key=lambda pair: pair[0].long_s if lab.long else pair[0].short_s
    ):
        duration = link.long_s if lab.long else link.short_s
        pause(duration - started)
        started = duration
        proxy.recover(reset_frozen=not lab.long)  # the long form waits until the client notices
        lab.progress(f"{started:.0f} of {longest:.0f} s")
    lab.progress("the links recover")
    balances = {}
    lab.drain(devices)
    for device in devices:
        balances[device.name] = lab.balance([device], database, device=device.name)
    return [
        Check(
            situation=lab.name,
            promise=f"{link.name}: no message is lost or counted twice, at most one copy is queued",
            counted=(
                f"{balance}; {traffic.messages} messages on {traffic.connections} connections, "
                f"{traffic.copies} copies, {traffic.queued_copies} queued; "
                f"{traffic.ratio:.2f} bytes on the wire per byte; {device.failures()} inferences failed"
            ),
            kept=balance.exact and not traffic.queued_copies and not device.failures() and balance.samples > 0,
        )
        for link, proxy, device in zip(_LINKS, proxies, devices, strict=True)
        for balance, traffic in [(balances[device.name], proxy.traffic)]
    ]
