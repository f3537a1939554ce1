"""The life of a run: how it was launched, where it may write, what it resumes, when it stops, what it leaves behind."""

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from common.checkpoints import RUN_FILE, prepare_output_dir
from common.errors import UserError, peer_ended, said_by, write_json
from common.launch import StopRequest, check_launch

NOT_PUSHED = ("checkpoint-*", "checkpoint-*/**", "demo/**", "runs/**", "training_args.bin", RUN_FILE, ".*")
# Arguments that change neither the weights nor which of them are kept: they may differ when a run is resumed. What the
# files of data and the model's weights hold is in a run's identity, wherever they are.
NEUTRAL = {
    *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "token", "cache_dir", "overwrite_cache"),
    *("train_file", "validation_file", "data_dir", "save_strategy", "save_steps", "save_only_model", "merge"),
    *("timestamps", "decoding", "beam_width", "language_model", "language_model_weight", "word_bonus"),
    *("preprocessing_num_workers", "do_predict", "test_file", "max_predict_samples", "push_predictions", "report_to"),
    *("logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter", "log_level", "run_name"),
    *("log_level_replica", "log_on_each_node", "disable_tqdm", "save_total_limit", "skip_memory_metrics", "project"),
    *("trackio_space_id", "hub_token", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push"),
    *("hub_revision", "push_to_hub", "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_pin_memory"),
    *("dataloader_persistent_workers", "per_device_eval_batch_size", "eval_accumulation_steps", "ddp_timeout"),
    *("include_num_input_tokens_seen", "save_on_each_node", "local_rank", "use_cpu", "debug", "eval_on_start"),
}
T = TypeVar("T")
logger = logging.getLogger(__name__)


class Run:
    """One run of a script; made by `start_run`.

    Attributes:
        args, training_args: what `parse_arguments` gave.
        checkpoint: folder to resume from, or None.
        is_main: whether this is the process that writes.
        data: results.json's `data`: {"splits": ..., "overlaps": ...}, from `describe`.
        identity: what must be equal when the run is resumed; all arguments and data are in it, a script may add facts.
        extra: facts for results.json's `extra`.
        stop: the request to stop, if there was one.
    """

    def __init__(self, args, task: str):
        self.args, self.training_args, self.task = args, args.training_args, task
        self.output_dir = Path(self.training_args.output_dir)
        self.on_torch = hasattr(self.training_args, "main_process_first")
        self.is_main = not self.on_torch or self.training_args.process_index == 0
        self.processes = self.training_args.world_size if self.on_torch else 1
        self.checkpoint: Path | None = None
        self.data = {"splits": {}, "overlaps": []}
        self.identity = {name: row["value"] for name, row in args.record.items() if name not in NEUTRAL}
        self.identity |= {"task": task, "processes": self.processes}
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.leak_sentences: list[str] = []
        self.extra: dict[str, object] = {}
        self.stop, self.seconds, self._begin = StopRequest(), {}, time.perf_counter()
        self.earlier_seconds = 0.0  # of training, before the run was resumed
        # The trainer would push its own card before ours is written, and write the token into training_args.bin.
        self.push = bool(getattr(self.training_args, "push_to_hub", False))
        self.hub_token = getattr(self.training_args, "hub_token", None) or getattr(args, "token", None)
        if self.push:
            self.training_args.push_to_hub = False
        if hasattr(self.training_args, "hub_token"):
            self.training_args.hub_token = None

    @contextlib.contextmanager
    def phase(self, name: str, together: bool = False) -> Iterator[None]:
        """Counts the time inside the `with`; the main process goes first unless all go `together`.

        Never around evaluation without `together`: processes that wait for the first one cannot take part in it.
        """
        self.stop.check()
        begin = time.perf_counter()
        logger.info("%s ...", name)
        first = self.on_torch and not together
        try:
            with self.training_args.main_process_first(desc=name) if first else contextlib.nullcontext():
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin

    def decide(self, function: Callable[[], T]) -> T:
        """What `function` gives on the main process, or the `UserError` that it raises, on every process.

        For what all must agree on while it may look different to each: a folder's content, the newest checkpoint.
        """
        if self.processes == 1:
            return function()
        from accelerate.utils import broadcast_object_list

        outcome: list = [None, None]
        if self.is_main:
            try:
                outcome = [function(), None]
            except UserError as error:
                outcome = [None, str(error)]
        value, sentence = broadcast_object_list(outcome)
        if sentence is not None:
            raise UserError(sentence)
        return value

    def warn(self, sentence: str) -> None:
        """A warning for the terminal, the report and the card; said once."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)
            logger.warning("warning: %s", sentence)

    def note(self, sentence: str) -> None:
        """A remark on how the run was made, for the report and the card."""
        self.notes.append(sentence)

    def leaks(self, sentence: str) -> None:
        """How the evaluated data had a part in training: every output says so from now on."""
        self.leak_sentences.append(sentence)

    def use_demo(self, make: Callable[[Path], Mapping[str, object]]) -> None:
        """With --demo, model and data are the built-in ones that `make(folder)` writes; what the user gave stays."""
        if not self.args.demo:
            return
        made = self.decide(lambda: dict(make(self.output_dir / "demo")))  # another process could read what one rewrites
        for name, value in made.items():
            twin = name == "model" and not Path(self.args.model).is_dir()  # a hub id stands for its tiny twin
            if twin or name not in self.args.explicit:
                setattr(self.args, name, [value] if name.endswith("_file") and isinstance(value, str) else value)
                self.args.record[name]["value"] = getattr(self.args, name)

    def describe(self, splits) -> None:
        """Takes what `splits` say of themselves (`common.data.Splits`: facts, overlaps) into results and identity."""
        self.data = {"splits": splits.facts, "overlaps": splits.overlaps}
        prints = {name: facts["fingerprint"][:12] for name, facts in splits.facts.items()}
        self.identity |= {f"{name} data": made for name, made in prints.items() if name != "test"}

    def begin_training(self) -> None:
        """Right before training, when everything has been checked: notes what this run is, or that it is the same.

        Raises:
            UserError: the checkpoint belongs to a run with other settings; the sentence names them and both values.
        """
        identity = self.identity = json.loads(json.dumps(self.identity, default=str))

        def begin() -> None:
            if self.checkpoint is not None:
                earlier = json.loads((self.checkpoint / RUN_FILE).read_text(encoding="utf-8"))
                names = sorted(earlier.keys() | identity.keys()) if earlier.get("task") == self.task else ["task"]
                changed = [
                    f"{name} was {_short(earlier.get(name))}, is {_short(identity.get(name))}"
                    for name in names
                    if earlier.get(name) != identity.get(name)
                ]
                if changed:
                    raise UserError(
                        f"{self.checkpoint}: belongs to a run with other settings ({'; '.join(changed)}); "
                        "resume with the same ones, or choose another --output_dir"
                    )
            self.output_dir.mkdir(parents=True, exist_ok=True)
            (self.output_dir / "results.json").unlink(missing_ok=True)
            write_json(self.output_dir / RUN_FILE, identity)

        self.decide(begin)

    def finish(
        self,
        trainer,
        scores: dict,
        *,
        write: Callable[[dict], tuple[dict, Sequence[str], str]] | None = None,
        published: Sequence[dict] = (),
        usage: str = "",
        extra: dict | None = None,
        tables: Sequence[dict] = (),
    ) -> dict:
        """Saves the model (all processes), writes what the run leaves behind (the main one), and pushes it last.

        Args:
            trainer: with `save()`, `run_facts()` (model, history, device) and `metrics` (prefix -> flat metrics).
            scores: the parts of results.json about scores: headline, metrics, baseline, perhaps per_class, ...
            write: results -> (files by name, error cards, their title): writes predictions and plots.
            published: rows of `results.published`.
            usage: Python code that loads the model, for the card.
            extra, tables: facts and tables that only this task has.

        Returns:
            What results.json holds.
        """
        from common import results as facts

        self.output_dir.mkdir(parents=True, exist_ok=True)
        trainer.save()
        run_facts = trainer.run_facts()
        speeds = {
            name.removesuffix("_samples_per_second"): value
            for flat in trainer.metrics.values()
            for name, value in flat.items()
            if name.endswith("_samples_per_second")
        }
        results = {
            "schema_version": facts.SCHEMA_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "task": self.task,
            "script": self.args.command[0],
            "command": self.args.command,
            "protocol": {
                "name": "published" if self.leak_sentences else "honest",
                "leaks": bool(self.leak_sentences),
                "demo": bool(self.args.demo),
                "notes": self.leak_sentences + self.notes,
            },
            "arguments": self.args.record,
            "data": self.data,
            "model": {"name": self.args.record["model"]["value"], **run_facts["model"]},
            "history": facts.history(run_facts["history"]),
            "resources": {"samples_per_second": speeds},
            "environment": facts.environment(run_facts["device"], self.processes),
            "warnings": self.warnings,
            "files": {"report": "report.html", "model_card": "README.md"},
            "published": list(published),
            "extra": {**self.extra, **(extra or {})},
            "tables": list(tables),
            **scores,
        }
        if self.is_main:
            self._write(results, trainer, write, usage)
        if self.push:
            self.decide(self._push)
        return results

    def _write(self, results: dict, trainer, write, usage: str) -> None:
        from common import results as facts
        from common.report.card import write_model_card
        from common.report.page import write_report

        begin, together = time.perf_counter(), {}
        for prefix, flat in trainer.metrics.items():
            write_json(self.output_dir / f"{prefix}_results.json", flat)
            together |= flat
        write_json(self.output_dir / "all_results.json", together)
        files, cards, title = write(results) if write else ({}, (), "")
        results["files"] |= files
        self.seconds["results"] = self.seconds.get("results", 0.0) + time.perf_counter() - begin
        total = time.perf_counter() - self._begin + self.earlier_seconds
        results["resources"] |= {"seconds": {**self.seconds, "total": total}, **facts.peak_memory()}
        write_report(results, self.output_dir, error_cards=cards, error_title=title)
        if self.push and self.training_args.hub_model_id:  # where a reader finds it
            usage = usage.replace(f'"{self.training_args.output_dir}"', f'"{self.training_args.hub_model_id}"')
        write_model_card(results, self.output_dir, usage=usage)
        if hasattr(trainer, "track"):
            trainer.track(results)
        write_json(self.output_dir / "results.json", results)
        facts.print_headline(results, self.output_dir)

    def _push(self) -> None:
        from huggingface_hub import HfApi

        settings, hidden = self.training_args, list(NOT_PUSHED)
        if not self.args.push_predictions:
            hidden += ["*predictions*", "*null_odds.json"]
        api = HfApi(token=self.hub_token)
        name = settings.hub_model_id or self.output_dir.absolute().name
        try:
            repo = api.create_repo(name, private=settings.hub_private_repo, exist_ok=True).repo_id
            api.upload_folder(
                repo_id=repo,
                folder_path=self.output_dir,
                revision=settings.hub_revision,
                ignore_patterns=hidden,
                commit_message=f"{self.args.command[0]}: {self.task}",
            )
        except OSError as error:  # the hub's errors are of this kind
            raise UserError(
                f"{name}: cannot be pushed to the hub: {said_by(error)}; the run is whole in {self.output_dir}"
            ) from None


@contextlib.contextmanager
def start_run(args, *, task: str) -> Iterator[Run]:
    """Checks how the script was launched and where it may write, and decides what is resumed.

    Args:
        args: what `parse_arguments` gave.
        task: what results.json calls the task.

    Raises:
        UserError: a launch that would be N trainings in one folder; an output directory that is in use, not empty, not
            writable or not a folder; a checkpoint that is not there.
    """
    check_launch()
    if args.preprocessing_num_workers:
        os.environ["RAYON_NUM_THREADS"] = str(args.preprocessing_num_workers)  # the threads of tokenizers
    run = Run(args, task)
    _start_logging(args.command[0], run)
    with run.stop, contextlib.ExitStack() as until_end:
        read = (*args.train_file, *args.validation_file, *args.test_file, getattr(args, "data_dir", None), args.model)
        kept = {"overwrite": args.overwrite_output_dir, "inputs": [name for name in read if name]}
        run.checkpoint = run.decide(lambda: prepare_output_dir(run.training_args, until_end, **kept))
        try:
            yield run
        except (OSError, RuntimeError) as error:  # some libraries raise the latter
            run.stop.check()
            if run.output_dir.is_dir() or peer_ended(error):
                raise
            raise UserError(
                f"--output_dir {run.output_dir}: was removed while the run wrote into it; run it again"
            ) from error


def _start_logging(script: str, run: Run) -> None:
    """Sentences of the scripts on the main process; bars of the libraries on a terminal only."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for name in ("common", "__main__", Path(script).stem):
        logging.getLogger(name).setLevel(logging.INFO if run.is_main else logging.ERROR)
    if run.on_torch and not (run.is_main and sys.stderr.isatty()):
        import datasets
        from transformers.utils.logging import disable_progress_bar

        datasets.disable_progress_bars()
        disable_progress_bar()


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
