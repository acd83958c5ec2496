"""What there is to say of hosts, from those who know."""

from meowcat.core.info import HostInfo
from meowcat.runtime.scheduler import Scheduler
from meowcat.runtime.traffic import Traffic
from meowcat.runtime.world import Clock


def host_infos(scheduler: Scheduler, traffic: Traffic, clock: Clock) -> dict[str, HostInfo]:
    """Of each host that is not as if nobody knew it."""
    infos = {}
    for host in sorted({*scheduler.hosts(), *traffic.narrow()}):
        active, until, most = len(scheduler.at_work(host)), scheduler.held_until(host), traffic.window(host)
        if active or until is not None or most is not None:
            infos[host] = HostInfo(
                active=active,
                silent=scheduler.silent(host),
                requests=traffic.under_way(host),
                most=most,
                held_until=None if until is None else clock.wall() + until - clock.ticks(),
            )
    return infos
