"""A unit that naps in place of training networks.

It imports no JAX, so that a worker begins with it at once.
"""

import fcntl
import hashlib
import os
import pathlib
import time

BEGINS = "begins.txt"


def work(
    folder: str, seconds: str, seeds: list[int], length: int, number: int
) -> dict[str, str]:
    """Does one unit; it takes and returns what ``run_unit`` does."""
    del length, number
    place = pathlib.Path(folder) / f"unit_{seeds[0]}"
    sums, part = place / "checksums.json", place.with_suffix(".part")
    with place.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            with (place.parent / BEGINS).open("a", encoding="utf-8") as file:
                file.write(f"{time.time()} {os.getpid()} {seeds[0]}\n")
            time.sleep(float(seconds))
            part.mkdir(exist_ok=True)
            with (part / sums.name).open("w", encoding="utf-8") as file:
                file.write(f"{seeds[0]}")
                os.fsync(file.fileno())
            os.replace(part, place)
        digest = hashlib.sha256(sums.read_bytes()).hexdigest()
    return {"host": "here", "digest": digest}
