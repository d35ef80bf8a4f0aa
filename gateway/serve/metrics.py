"""`/metrics` for Prometheus. Everything is read when somebody asks: a call only adds to plain integers.

A registry of our own, made with the route; no global state of the library is used. Names and labels are
a public interface (docs/operations.md). No session, principal or argument is ever a label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway import __version__
from gateway.core.calls import Role
from gateway.runtime.gateway import Gateway
from gateway.runtime.tally import CALL_LABELS, Histogram
from gateway.serve.identity import Identity, RequireRole

__all__ = ["GatewayCollector", "merged_metrics", "metrics_route"]


def metrics_route(gateway: Gateway, identity: Identity) -> BaseRoute:
    """Return the route; it needs the role `monitor` or `admin`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(GatewayCollector(gateway, identity))
    ProcessCollector(registry=registry)

    async def metrics(request: Request) -> Response:
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        # The encoder names the media type, charset included.
        return Response(encode(registry), headers={"Content-Type": media_type, "Cache-Control": "no-store"})

    return Route("/metrics", metrics, middleware=[Middleware(RequireRole, Role.MONITOR, Role.ADMIN)])


def merged_metrics(pages: Sequence[str], accept: str) -> tuple[bytes, str]:
    """Return one page of several of the same route, in the text format, and its media type as `accept` asks.

    Values of one name and its labels are summed, but for those that speak of all that there is.
    """
    families: dict[str, Metric] = {}
    for page in pages:
        for family in text_string_to_metric_families(page):
            known = families.setdefault(family.name, family)
            if known is not family:
                combine = _COMBINED.get(family.name, sum)
                known.samples = list(_combined([*known.samples, *family.samples], combine))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(list(families.values())))
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


_COMBINED: Mapping[str, Callable[[Sequence[float]], float]] = {
    **dict.fromkeys(("sandgate_ready", "sandgate_ledger_healthy", "process_start_time_seconds"), min),
    **dict.fromkeys(("sandgate_build_info", "sandgate_draining", "sandgate_sessions_limit"), max),
    **dict.fromkeys(("sandgate_policy_info", "sandgate_policy_refused", "process_max_fds"), max),
    "sandgate_policy_since_timestamp_seconds": max,
}


def _combined(samples: Iterable[Sample], combine: Callable[[Sequence[float]], float]) -> Iterator[Sample]:
    alike: dict[tuple[str, frozenset[tuple[str, str]]], list[Sample]] = {}
    for sample in samples:
        alike.setdefault((sample.name, frozenset(sample.labels.items())), []).append(sample)
    for same in alike.values():
        yield same[0]._replace(value=combine([sample.value for sample in same]))


class _Families(Collector):
    """Metric families that are there already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class GatewayCollector(Collector):
    """The metric families of one gateway, as it is at the moment of `collect`."""

    def __init__(self, gateway: Gateway, identity: Identity) -> None:
        self._gateway = gateway
        self._identity = identity

    def collect(self) -> Iterable[Metric]:
        """Yield every family."""
        yield from self._about()
        yield from self._calls()
        yield from self._sessions()
        yield from self._ledger()
        yield from self._policies()
        yield from self._callers()
        yield from self._egress()

    def _about(self) -> Iterator[Metric]:
        gateway = self._gateway
        labels = {"version": __version__, "mode": gateway.settings.mode, "sandbox": gateway.driver.name}
        about = GaugeMetricFamily("sandgate_build_info", "What runs here.", labels=list(labels))
        about.add_metric(list(labels.values()), 1)
        yield about
        yield _gauge("sandgate_ready", "Whether a call would be answered now.", gateway.ready)
        yield _gauge("sandgate_draining", "Whether new calls are turned away.", gateway.draining)

    def _calls(self) -> Iterator[Metric]:
        tally = self._gateway.tally
        yield _counters(
            "sandgate_calls",
            "Calls that ended, by what was called and how it ended.",
            CALL_LABELS,
            tally.calls.items(),
        )
        yield _histograms(
            "sandgate_call_duration_seconds",
            "From a call's arrival to its answer, both ledger records included.",
            ("pack", "outcome"),
            tally.seconds,
        )
        yield _histograms(
            "sandgate_upstream_duration_seconds",
            "The part of a call that its tool server took.",
            ("pack", "server"),
            tally.upstream,
        )
        yield _gauge("sandgate_calls_in_flight", "Calls on their way.", self._gateway.in_flight)
        yield _gauge(
            "sandgate_approvals_waiting", "Approvals nobody has answered.", self._gateway.approvals.waiting
        )

    def _sessions(self) -> Iterator[Metric]:
        gateway = self._gateway
        sessions, servers = Counter(dict.fromkeys(gateway.packs, 0)), Counter[tuple[str, str]]()
        for session in gateway.readings.sessions:
            sessions[session.pack.name] += 1
            servers.update((session.pack.name, upstream.name) for upstream in session.lease.running())
        yield _gauges("sandgate_sessions", "Open sessions.", ("pack",), _one(sessions))
        yield _gauge("sandgate_sessions_limit", "Sessions that may be open.", gateway.settings.max_sessions)
        yield _gauges(
            "sandgate_sandboxes", "Sandboxes in which a session's server runs.", ("pack", "server"), servers
        )
        warm = dict.fromkeys(gateway.packs, 0) | dict(gateway.readings.warm)
        yield _gauges(
            "sandgate_warm_leases", "Sessions' servers that stand ready, unused.", ("pack",), _one(warm)
        )

    def _ledger(self) -> Iterator[Metric]:
        readings = self._gateway.readings
        commits = readings.commits
        yield _gauge(
            "sandgate_ledger_healthy",
            "Whether records can be written.",
            self._gateway.readings.ledger_healthy,
        )
        yield CounterMetricFamily(
            "sandgate_ledger_records", "Records made durable since the start.", value=commits.records
        )
        yield CounterMetricFamily(
            "sandgate_ledger_commit_failures", "Commits that failed.", value=commits.failed
        )
        yield _histograms(
            "sandgate_ledger_commit_duration_seconds",
            "What a commit of one or more records took.",
            (),
            {(): commits.seconds},
        )

    def _callers(self) -> Iterator[Metric]:
        refused = {(reason,): count for reason, count in self._identity.refused.items()}
        yield _counters(
            "sandgate_unauthenticated", "Requests that came from nobody known.", ("reason",), refused.items()
        )
        issuers = self._identity.issuers
        keys = {} if issuers is None else issuers.keys
        fetches = {(issuer, "ok"): of.fetches - of.failures for issuer, of in keys.items()}
        fetches |= {(issuer, "failed"): of.failures for issuer, of in keys.items()}
        yield _counters(
            "sandgate_issuer_key_fetches", "Fetches of issuers' keys.", ("issuer", "result"), fetches.items()
        )

    def _egress(self) -> Iterator[Metric]:
        tally, place = self._gateway.readings.egress, ("pack", "server")
        yield _counters(
            "sandgate_egress_decisions",
            "Connections that sandboxes asked for, or tried past the proxy.",
            (*place, "effect", "code"),
            tally.decisions.items(),
        )
        yield _counters("sandgate_egress_sent_bytes", "Bytes sent out.", place, tally.sent.items())
        yield _counters("sandgate_egress_received_bytes", "Bytes let in.", place, tally.received.items())

    def _policies(self) -> Iterator[Metric]:
        labels = ("pack", "file", "sha256")
        told = {
            (name, served.policy.file or "", served.policy.sha256 or ""): 1
            for name, served in self._gateway.packs.items()
        }
        yield _gauges("sandgate_policy_info", "The policy in force.", labels, told)
        yield _gauges(
            "sandgate_policy_since_timestamp_seconds",
            "When the policy in force was put there.",
            ("pack",),
            self._since(),
        )
        refused = {
            (name,): int(served.in_force.refused is not None) for name, served in self._gateway.packs.items()
        }
        yield _gauges(
            "sandgate_policy_refused",
            "Whether the policy file on disk was refused and an older one is in force.",
            ("pack",),
            refused,
        )
        yield _counters(
            "sandgate_policy_reloads",
            "Policy files that were read again, by whether they were put in force.",
            ("pack", "result"),
            self._reloads(),
        )

    def _since(self) -> dict[tuple[str, ...], float]:
        return {(name,): served.in_force.since for name, served in self._gateway.packs.items()}

    def _reloads(self) -> Iterator[tuple[tuple[str, ...], int]]:
        for name, served in self._gateway.packs.items():
            yield (name, "in_force"), served.in_force.reloads
            yield (name, "refused"), served.in_force.refusals


def _gauge(name: str, says: str, value: float) -> Metric:
    return GaugeMetricFamily(name, says, value=value)


def _gauges(name: str, says: str, labels: Sequence[str], values: Mapping[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(name, says, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counters(
    name: str, says: str, labels: Sequence[str], values: Iterable[tuple[tuple[str, ...], int]]
) -> Metric:
    family = CounterMetricFamily(name, says, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family


def _histograms(
    name: str, says: str, labels: Sequence[str], values: Mapping[tuple[str, ...], Histogram]
) -> Metric:
    family = HistogramMetricFamily(name, says, labels=labels)
    for key, histogram in values.items():
        sums = zip((*map(str, histogram.bounds), "+Inf"), accumulate(histogram.counts), strict=True)
        family.add_metric(key, list(sums), histogram.total)
    return family


def _one(values: Mapping[str, int]) -> dict[tuple[str, ...], int]:
    return {(name,): value for name, value in values.items()}
