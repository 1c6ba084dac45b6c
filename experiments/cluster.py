"""A sweep's trials as jobs, by submitit: one Slurm array, or processes of this machine."""

import ast
import pathlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cnn_jax import config, extensions, pool, text, train
from cnn_jax.sweeps import driver, population, spaces, sweep_record
from experiments import launch, trial_loop


def make_executor(kind: str, folder: pathlib.Path, options: Sequence[str]) -> Any:
    """Returns submitit's executor for 'slurm' or 'local', whose jobs write their logs to `folder`.

    Args:
      kind: where jobs run.
      folder: made when a job is submitted.
      options: 'name=value' as submitit's AutoExecutor takes them, such as timeout_min=60.

    Raises:
      ConfigError: submitit is not installed, there is no Slurm, or an option is wrong.
    """
    try:
        import submitit  # an optional dependency
    except ModuleNotFoundError as error:
        raise config.ConfigError(
            "--cluster needs submitit, which isn't installed: pip install submitit."
        ) from error
    parameters = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            shown = text.without_secrets(option)
            raise config.ConfigError(f"--cluster_options={shown} must be a name=value.")
        try:
            parameters[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            parameters[name] = value
    if kind == "slurm" and "timeout_min" not in parameters:
        raise config.ConfigError(
            "--cluster=slurm needs to know how long a job may take, in minutes; give for example "
            "--cluster_options=timeout_min=60."
        )
    try:
        result = submitit.AutoExecutor(folder, cluster=kind)
        # submitit's own limit is minutes; here nobody waits for the machine.
        limit = {"timeout_min": 7 * 24 * 60} if kind == "local" else {}
        result.update_parameters(**{"name": "cnn_jax", **limit, **parameters})
    except (RuntimeError, NameError, ValueError, TypeError, AssertionError) as error:
        sentence = (str(error).strip() or type(error).__name__).splitlines()[0]
        sentence = text.without_secrets(sentence)
        raise config.ConfigError(f"submitit can't submit to {kind}: {sentence}") from error
    return result


def run_jobs(
    executor: Any,
    groups: Sequence[Sequence[spaces.Trial]],
    directory: pathlib.Path,
    say: Callable[[str], None],
) -> Iterator[driver.Outcome]:
    """Submits a job for each group of trials that isn't finished, and yields outcomes as they come.

    A cluster's jobs go on if this is stopped. The trials of a job that died have no outcome; `say`
    is called with a line about it.
    """
    from submitit import helpers

    left = []
    for group in groups:
        known = [
            driver.Outcome(t, sweep_record.find_result(directory, t), None, None) for t in group
        ]
        yield from (outcome for outcome in known if outcome.row)
        if unknown := [outcome.trial for outcome in known if not outcome.row]:
            left.append(unknown)
    if not left:
        return
    with executor.batch():  # one array
        jobs = [executor.submit(Job(), group, directory.absolute()) for group in left]
    say(f"submitted {len(jobs)} jobs, {jobs[0].job_id} to {jobs[-1].job_id}")
    say(f"their logs are in {executor.folder}")
    for job in helpers.as_completed(jobs, poll_frequency=1):
        error = job.exception()
        if error is None:
            yield from job.result()
        else:
            last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            say(f"job {job.job_id} failed: {text.without_secrets(text.one_line(last[0]))}")


class Job:
    """What a job does.

    Near its time limit, or preempted with SIGUSR2, it saves what it trains and is submitted again;
    submitit does so three times after a time limit.
    """

    def __init__(self) -> None:
        self._imported = extensions.imported()

    def __call__(
        self, trials: Sequence[spaces.Trial], directory: pathlib.Path
    ) -> list[driver.Outcome]:
        """Trains the trials, together if they are several; waits for those that others hold.

        Raises:
          SystemExit: a signal came, and what was being trained has been saved.
        """
        launch.keep_compiled()
        extensions.import_files(self._imported)
        pool.use_threads_of_sweep(trials[0].config.threads, directory)
        if len(trials) > 1:
            launch.use_all_cores()
        attempt = population.train_together(directory, trial_loop.TrialDisplay)
        group = population.group_alike(len(trials))
        try:
            return list(driver.run_trials(trials, directory, attempt, group))
        except train.Interrupted as request:
            if request.signum == signal.SIGUSR2:
                signal.raise_signal(signal.SIGUSR2)  # now to submitit, which submits the job again
            # No result: whoever sent SIGTERM decides whether the job is to run again.
            sys.exit(128 + request.signum)

    def checkpoint(self, trials: Sequence[spaces.Trial], directory: pathlib.Path) -> Any:
        """Returns the same job: it goes on from the trials' checkpoints."""
        from submitit import helpers

        return helpers.DelayedSubmission(self, trials, directory)
