"""Everything at once, in processes that are ended at any moment: what was promised holds, and all ends."""

import random
import sys

import pytest
from everything import Everything, Servers

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"), pytest.mark.servers]


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    with Servers(tmp_path_factory.mktemp("servers")) as started:
        yield started


def live_through(folder, servers, journal, lives, scale, seed):
    print("seed", seed)
    with Everything(folder, seed, servers, journal=journal, scale=scale) as world:
        world.run(lives)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("journal", "seed"), [("db", 1), ("jsonl", 2)])
def test_everything_at_once_ends_as_it_was_promised(tmp_path, servers, journal, seed):
    """The same tasks and troubles each time, at moments that differ; the soak draws others."""
    live_through(tmp_path, servers, journal, 5, 0.5, seed)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("journal", ["db", "jsonl"])
def test_everything_at_once_ends_as_it_was_promised_however_often(tmp_path, servers, journal):
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        live_through(folder, servers, journal, 10, 1.0, random.SystemRandom().randrange(1 << 30))
