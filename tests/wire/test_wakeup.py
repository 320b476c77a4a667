"""The wakeup of an event loop: no call is lost, and none keeps the loop awake."""

import select
import threading

from edgeexit.wire.wakeup import Wakeup


def is_readable(wakeup: Wakeup, timeout_s: float = 0.0) -> bool:
    return bool(select.select([wakeup], [], [], timeout_s)[0])


def in_thread(function) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_many_calls_make_it_readable_once():
    wakeup = Wakeup()
    assert not is_readable(wakeup)
    in_thread(lambda: [wakeup.wake() for _ in range(1000)])
    assert is_readable(wakeup)
    wakeup.clear()
    assert not is_readable(wakeup)
    wakeup.close()
    in_thread(wakeup.wake)


def test_the_loop_does_not_wake_itself():
    wakeup = Wakeup()
    wakeup.wake()
    assert not is_readable(wakeup)
    wakeup.close()


def test_what_was_queued_before_a_call_is_seen_after_it_and_the_loop_sleeps_again():
    wakeup = Wakeup()
    queued, seen = [0, 0, 0, 0], 0

    def produce(number: int) -> None:
        for _ in range(5000):
            queued[number] += 1
            wakeup.wake()

    threads = [threading.Thread(target=produce, args=(number,)) for number in range(len(queued))]
    for thread in threads:
        thread.start()
    while seen < 20_000:
        assert is_readable(wakeup, timeout_s=10), f"a call was lost: {seen} seen"
        wakeup.clear()
        seen = sum(queued)
    for thread in threads:
        thread.join()
    while is_readable(wakeup):  # calls that came after their item was seen
        wakeup.clear()
    in_thread(wakeup.wake)
    assert is_readable(wakeup)
    wakeup.close()
