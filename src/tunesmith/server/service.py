"""Everything a request needs, in one value: what the HTTP layer and the dashboard call."""

from dataclasses import dataclass

from tunesmith.server.audit import AuditLog
from tunesmith.server.backend import Backend
from tunesmith.server.catalogue import Catalogue
from tunesmith.server.limits import RateLimiter
from tunesmith.server.metrics import Metrics
from tunesmith.server.settings import ServerSettings
from tunesmith.server.store import Store
from tunesmith.server.workflow import JobRunner


@dataclass(frozen=True)
class Service:
    """The parts of one server."""

    settings: ServerSettings
    store: Store
    catalogue: Catalogue
    audit: AuditLog
    limiter: RateLimiter
    metrics: Metrics
    runner: JobRunner
    backend: Backend | None


def assemble(settings: ServerSettings, store: Store, catalogue: Catalogue, runner: JobRunner) -> Service:
    """A service of these parts, with an audit log, limits and metrics of its own. Raises StorageError."""
    return Service(
        settings=settings,
        store=store,
        catalogue=catalogue,
        audit=AuditLog(settings.audit_log),
        limiter=RateLimiter(settings.requests_per_minute),
        metrics=Metrics(store, catalogue),
        runner=runner,
        backend=None if settings.backend is None else Backend(settings.backend),
    )
