"""The durable life of a job, as two DBOS workflows: prepare (validate → plan), fine_tune (train → evaluate → register).

DBOS starts a workflow again after a crash and skips the steps that had ended; each step here may also be done twice
without harm. The job's state in the store says what is wanted, the workflow follows it: pausing or cancelling is a move
in the store, which the step at work sees. `attempt` is part of a workflow's id, so a job that was resumed answers to
its new workflow only.
"""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from dbos import DBOS, DBOSConfig, DBOSConfiguredInstance, DBOSPortableJSONSerializer, SetEnqueueOptions, SetWorkflowID

from tunesmith import storage
from tunesmith.dataset.conversation import Conversation
from tunesmith.dataset.read import load
from tunesmith.errors import DataError, TunesmithError
from tunesmith.server import files, job_plan, job_results
from tunesmith.server.catalogue import Catalogue
from tunesmith.server.errors import RequestError
from tunesmith.server.graders.data import columns_of, read_grader
from tunesmith.server.graders.grade import REWARD_MODULE, GraderFile
from tunesmith.server.records import JobRecord
from tunesmith.server.settings import ServerSettings
from tunesmith.server.store import Store
from tunesmith.server.supervise import run_stage
from tunesmith.server.trainer import JobFolder, Parent, Stage
from tunesmith.spec import dump_spec

PREPARE_QUEUE = "prepare"
TRAIN_QUEUE = "train"

PREPARED_AT_ONCE = 4
"""Jobs whose files are read at the same time, per server."""

WORKFLOW_VERSION = "1"
"""Raised when the steps below change their order or meaning; DBOS recovers only workflows of its own version."""

STATE_SECONDS = 0.5
"""How stale the job's state may be to a step at work."""

SHUTDOWN_SECONDS = 60
"""How long a shutdown waits for trainers to keep a checkpoint; they do so all the same if it takes them longer."""

_log = logging.getLogger(__name__)


class _ShuttingDown(BaseException):
    """Leaves a step without an outcome, so DBOS does it again after the restart (it records Exceptions only)."""


@DBOS.dbos_class()
class JobRunner(DBOSConfiguredInstance):
    """Runs the jobs of one server. Made once per process: DBOS has one instance."""

    def __init__(self, settings: ServerSettings, store: Store, catalogue: Catalogue) -> None:
        self._settings = settings
        self._store = store
        self._catalogue = catalogue
        self._stopping = threading.Event()
        super().__init__(config_name="jobs")

    def start(self) -> None:
        """Begin to work: recover what was under way, and take from the queues."""
        shared = not self._settings.database.startswith("sqlite")
        config: DBOSConfig = {
            "name": "tunesmith",
            "system_database_url": self._settings.workflow_database,
            "application_version": WORKFLOW_VERSION,
            "executor_id": f"{socket.gethostname()}:{self._settings.port}" if shared else "local",
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "WARNING",
        }
        DBOS(config=config)
        DBOS.launch()
        DBOS.register_queue(PREPARE_QUEUE, worker_concurrency=PREPARED_AT_ONCE, polling_interval_sec=STATE_SECONDS)
        DBOS.register_queue(
            TRAIN_QUEUE, worker_concurrency=self._settings.concurrent_jobs, polling_interval_sec=STATE_SECONDS
        )
        for job in self._store.unfinished_jobs():
            self.submit(job)

    def stop(self) -> None:
        """Ask the trainers to keep a checkpoint and stop, and leave the workflows to the next start."""
        self._stopping.set()
        DBOS.destroy(workflow_completion_timeout_sec=SHUTDOWN_SECONDS)

    def submit(self, job: JobRecord) -> None:
        """Enqueue the workflow that a job's state calls for; doing it again changes nothing."""
        if job.status == "validating_files":
            with SetWorkflowID(f"{job.id}.prepare"):
                DBOS.enqueue_workflow(PREPARE_QUEUE, self.prepare, job.id)
        else:
            # Older jobs first, whichever was validated sooner or paused in between.
            with SetWorkflowID(f"{job.id}.{job.attempt}"), SetEnqueueOptions(priority=job.seq):
                DBOS.enqueue_workflow(TRAIN_QUEUE, self.fine_tune, job.id, job.attempt)

    @DBOS.workflow(name="prepare", max_recovery_attempts=None)
    def prepare(self, job_id: str) -> None:
        """validate → plan → queued."""
        if self._plan(job_id):
            self.submit(self._store.job(job_id))

    @DBOS.workflow(name="fine_tune", max_recovery_attempts=None)
    def fine_tune(self, job_id: str, attempt: int) -> None:
        """train → evaluate → register."""
        if self._train(job_id, attempt) and self._evaluate(job_id, attempt):
            self._register(job_id, attempt)

    @DBOS.step(name="plan")
    def _plan(self, job_id: str) -> bool:
        job = self._store.job(job_id)
        if job.status != "validating_files":
            return job.status == "queued"
        with self._failing(job_id, "invalid_training_file", "training_file"):
            return self._write_plan(job)
        return False

    @DBOS.step(name="train")
    def _train(self, job_id: str, attempt: int) -> bool:
        if not self._begin(job_id, attempt):
            return False
        return self._run(job_id, attempt, "train")

    @DBOS.step(name="evaluate")
    def _evaluate(self, job_id: str, attempt: int) -> bool:
        if not self._folder(job_id).has_rows_to_evaluate:
            self._store.add_event(job_id, "No rows were held out, so the model was not evaluated", once="unevaluated")
            return True
        return self._run(job_id, attempt, "evaluate")

    @DBOS.step(name="register")
    def _register(self, job_id: str, attempt: int) -> None:
        with self._failing(job_id, "registration_failed", None):
            job_results.register(self._settings, self._store, self._store.job(job_id), self._folder(job_id), attempt)

    def _begin(self, job_id: str, attempt: int) -> bool:
        """Move the job to running, if this attempt may; after a restart it already is."""
        began = self._store.move_job(job_id, "running", "Fine-tuning job started", of_attempt=attempt)
        return began or self._wanted(job_id, attempt)

    def _wanted(self, job_id: str, attempt: int) -> bool:
        job = self._store.job(job_id)
        return job.status == "running" and job.attempt == attempt

    def _write_plan(self, job: JobRecord) -> bool:
        """Read the files, plan the run and queue the job; False when the files cannot be trained on."""
        train = self._input(job, job.training_file, "training_file")
        validation = None if job.validation_file is None else self._input(job, job.validation_file, "validation_file")
        if train is None or (job.validation_file is not None and validation is None):
            return False
        rows = load(train)
        folder = self._folder(job.id)
        grader = job.method.get("grader")
        if grader is not None:
            problem = job_plan.missing_column(rows, columns_of(read_grader(msgspec.json.encode(grader))))
            if problem is not None:
                self._fail(
                    job.id, {"code": "invalid_grader", "message": problem, "param": "method.reinforcement.grader"}
                )
                return False
            kept = GraderFile(grader, self._settings.grader_url)
            storage.write_bytes(folder.grader, msgspec.json.encode(kept))
            storage.write_text(folder.reward, REWARD_MODULE)
        start = self._catalogue.trainable(job.owner, job.model)
        model = start.base
        if job.model not in self._catalogue.bases():
            adapter = None if start.adapter is None else str(start.adapter.folder)
            storage.write_bytes(folder.parent, msgspec.json.encode(Parent(start.base, adapter)))
            model = str(folder.base)
        plan = job_plan.plan_job(
            job,
            rows,
            train=train,
            validation=validation,
            model=model,
            shape_of=start.base,
            reward=folder.reward,
            output=folder.run.root,
        )
        storage.write_text(folder.spec, dump_spec(plan.spec))
        for number, warning in enumerate(plan.warnings):
            self._store.add_event(job.id, warning, level="warn", once=f"warning-{number}")
        said = "Files validated, moving job to queued state"
        return self._store.move_job(job.id, "queued", said, hyperparameters=plan.hyperparameters)

    def _input(self, job: JobRecord, file_id: str, param: str) -> Path | None:
        """The path of a job's file; None, with the job failed, when it cannot be trained on."""
        record = self._store.get_file(job.owner, file_id)
        path = files.path_of(self._settings, record)
        problems = list(files.find_problems(path, record.filename))
        if not problems:
            unfit = job_plan.find_unfit(load(path), job.method["type"])
            problems = [] if unfit is None else [f"{record.filename}:{_line(unfit)}: {job_plan.why_unfit(unfit)}"]
        if not problems:
            return path
        self._fail(job.id, {"code": f"invalid_{param}", "message": "\n".join(problems), "param": param})
        return None

    def _run(self, job_id: str, attempt: int, stage: Stage) -> bool:
        """Run a stage in its own process; True when the job should go on."""
        outcome = run_stage(
            self._folder(job_id), stage, self._settings.concurrent_jobs, self._stop_signal(job_id, attempt)
        )
        if self._stopping.is_set() and outcome == "stopped":
            raise _ShuttingDown
        if outcome == "stopped":
            if self._store.job(job_id).status == "cancelled":
                self._folder(job_id).drop_base()
            return False
        if outcome.error is None:
            if stage == "train":
                self._store.update_job(job_id, trained_tokens=outcome.tokens)
            return self._wanted(job_id, attempt)
        if stage == "evaluate":  # the model is there all the same
            self._store.add_event(
                job_id, f"Evaluation failed: {outcome.error['message']}", level="warn", once="unevaluated"
            )
            return True
        self._fail(job_id, outcome.error)
        return False

    def _stop_signal(self, job_id: str, attempt: int) -> Callable[[], bool]:
        """Says whether the stage at work should stop; asks the store no more than every `STATE_SECONDS`."""
        asked, wanted = 0.0, True

        def stop() -> bool:
            nonlocal asked, wanted
            if self._stopping.is_set():
                return True
            if time.monotonic() - asked >= STATE_SECONDS:
                asked, wanted = time.monotonic(), self._wanted(job_id, attempt)
            return not wanted

        return stop

    @contextmanager
    def _failing(self, job_id: str, code: str, param: str | None) -> Iterator[None]:
        """An error inside ends the job, with its message where it is the user's to mend."""
        try:
            yield
        except RequestError as error:
            self._fail(job_id, {"code": error.code or code, "message": str(error), "param": error.param})
        except TunesmithError as error:
            shown = code if isinstance(error, DataError) else "invalid_job"
            self._fail(job_id, {"code": shown, "message": str(error), "param": param})
        except Exception:  # noqa: BLE001  # a bug of ours must end the job, not leave it without an end
            _log.exception("job %s", job_id)
            self._fail(job_id, {"code": "internal_error", "message": "See the server's log", "param": None})

    def _fail(self, job_id: str, error: dict[str, str | None]) -> None:
        if self._store.move_job(job_id, "failed", str(error["message"]), level="error", error=error):
            self._folder(job_id).drop_base()

    def _folder(self, job_id: str) -> JobFolder:
        folder = JobFolder(self._settings.jobs_dir / job_id)
        folder.root.mkdir(parents=True, exist_ok=True)
        return folder


def _line(row: Conversation) -> int:
    return row.source.line if row.source is not None else 0
