"""``simulmask eval``: SimulEval for every policy of a YAML, then the table, the curve and the report."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

from sacrebleu.metrics import BLEU, CHRF

from simulmask_plugin import __version__
from simulmask_plugin.config import ModelSettings
from simulmask_plugin.extra_metrics import ExtraMetric, run_metrics
from simulmask_plugin.programs import ProgramFailed, run_program
from simulmask_plugin.report import draw_curve, write_report
from simulmask_plugin.sessions import Decision
from simulmask_plugin.units import CHARACTER
from simulmask_plugin.yaml_files import check_keys, read_yaml

LATENCY_METRICS = ("AL", "LAAL", "AP", "DAL")
LATENCY_UNITS = ("word", "char")
DTYPES = ("float32", "bfloat16", "float16")
PACKAGES = ("torch", "transformers", "sacrebleu", "simuleval")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """The keys of an evaluation YAML; a key that is not listed here is an error."""

    model: str
    """Directory of a merged model with its simulmask.json."""
    source: str
    """Source text, one sentence a line (Chinese and Japanese: white space between the characters)."""
    target: str
    """Reference, line-aligned with the source."""
    output: str
    """Directory of the results."""
    policies: tuple[Mapping[str, Any], ...]
    """What to stream with, e.g. [{policy: wait_k, k: 3}, {policy: offline}], or [{latency: low}]; see Decision.
    One that says slot_length streams with slots of another length than in training, and is named in the report."""
    simulmask: Mapping[str, Any] = field(default_factory=dict)
    """Optional: expected settings of the model; one that contradicts its simulmask.json is an error."""
    latency_unit: str | None = None
    """word or char; default: by the model's target units."""
    bleu_tokenize: str | None = None
    """Tokenizer of sacrebleu; default: zh where the target is written in characters, else 13a."""
    source_lang: str | None = None
    target_lang: str | None = None
    limit: int | None = None
    """Only the first so many sentences."""
    jobs: int = 1
    """Policies that run side by side."""
    threads: int | None = None
    """CPU threads of each."""
    device: str = "cpu"
    dtype: str = "float32"
    attn_implementation: str | None = None
    max_target_tokens: int = 512
    document_units: int | None = None
    """Layouts of chunks: every line is a document; a sentence ends at punctuation after so many source units."""
    context_sentences: int = 0
    """Of a document: finished sentences that stay visible."""
    extra_metrics: Mapping[str, Any] = field(default_factory=dict)
    """Name -> command of another program, see `ExtraMetric`."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> EvaluationConfig:
        """Check the keys.

        Raises:
            ValueError: naming the file and the key that is unknown, missing or bad.
        """
        needed = ("model", "source", "target", "output", "policies")
        check_keys(values, known=(f.name for f in fields(cls)), needed=needed, where=where)
        if not isinstance(values["policies"], list) or not all(isinstance(p, Mapping) for p in values["policies"]):
            raise ValueError(f"{where}: policies must be a list such as [{{policy: wait_k, k: 3}}].")
        if values.get("latency_unit") not in (None, *LATENCY_UNITS):
            raise ValueError(f"{where}: latency_unit must be word or char, got {values['latency_unit']!r}.")
        for name, metric in (values.get("extra_metrics") or {}).items():
            ExtraMetric.from_value(name, metric)
        return cls(**{**values, "policies": tuple(values["policies"])})


@dataclass(frozen=True, slots=True)
class Score:
    """One row of scores.tsv."""

    name: str
    sentences: int
    bleu: float
    chrf: float
    al: float
    laal: float
    ap: float
    dal: float
    seconds_per_sentence: float
    calls_per_token: float
    gflops_per_sentence: float
    truncated: int
    extra: Mapping[str, float] = field(default_factory=dict)
    """Scores of `extra_metrics`; columns of their own."""


def load_evaluation(path: str | Path, overrides: Iterable[str] = ()) -> EvaluationConfig:
    """Read an evaluation YAML, with ``key=value`` overrides.

    Raises:
        ValueError: if the file is missing or no mapping, or a key is wrong.
    """
    return EvaluationConfig.from_dict(read_yaml(path, list(overrides)), str(path))


def check_evaluation(config: EvaluationConfig) -> ModelSettings:
    """Check everything that can be checked before a model is loaded; return the model's settings.

    Raises:
        ValueError: saying what is wrong.
    """
    settings = ModelSettings.load(config.model)
    check_for_model(config, settings)
    return settings


def check_for_model(config: EvaluationConfig, settings: ModelSettings) -> None:
    """Check an evaluation of a model with these settings, which need not exist yet.

    Raises:
        ValueError: saying what is wrong.
    """
    settings.check_overrides(config.simulmask)
    names = []
    for policy in config.policies:
        if "policy" not in policy and "latency" not in policy:
            raise ValueError(f"policies: each entry needs a policy (interleaved: a latency), got {dict(policy)!r}.")
        decision = Decision.from_dict(policy)
        decision.check(settings)
        names.append(decision.name)
    if len(set(names)) < len(names):
        raise ValueError(f"policies: the same policy stands there twice ({', '.join(names)}).")
    for key in ("limit", "jobs", "threads", "max_target_tokens"):
        value = getattr(config, key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{key} must be an integer of at least 1, got {value!r}.")
    if config.dtype not in DTYPES:
        raise ValueError(f"dtype: unknown value {config.dtype!r}; expected one of {', '.join(DTYPES)}.")
    num_lines = _check_texts(config)
    if config.limit is not None and config.limit > num_lines:
        raise ValueError(f"limit is {config.limit}, but {config.source} has {num_lines} lines.")


def _check_texts(config: EvaluationConfig) -> int:
    """Return the number of lines of source and target."""
    counts = {}
    for side in ("source", "target"):
        path = Path(getattr(config, side))
        if not path.is_file():
            raise ValueError(f"{side}: {path}: no such file.")
        with path.open(encoding="utf-8") as file:  # counts as SimulEval does: U+2028 and the like end no line
            counts[side] = sum(1 for _ in file)
    if counts["source"] != counts["target"]:
        raise ValueError(
            f"{config.source} has {counts['source']} lines, but {config.target} has {counts['target']}; "
            "source and target must be line-aligned."
        )
    return counts["source"]


def run_evaluation(path: str | Path, overrides: Iterable[str] = ()) -> int:
    """Run what is missing of an evaluation YAML, and say where the results are; return the exit code.

    Raises:
        ValueError: if the YAML, the model or the files are wrong, or the output was made with other settings.
        ProgramFailed: if SimulEval fails; the message says why, or holds the end of its log.
    """
    config = load_evaluation(path, overrides)
    evaluate(config)
    print("Results: " + ", ".join(str(Path(config.output, name)) for name in ("report.md", "curve.png", "scores.tsv")))
    return 0


def evaluate(config: EvaluationConfig, title: str = "") -> list[Score]:
    """Run what is missing, write scores.tsv, curve.png and report.md; return the scores, one per policy.

    Args:
        config: the evaluation.
        title: stands before every line of progress.

    Raises:
        ValueError: if the model or the files are wrong, or the output was made with other settings.
        ProgramFailed: if SimulEval fails; the message says why, or holds the end of its log.
    """
    settings = check_evaluation(config)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    names = [Decision.from_dict(policy).name for policy in config.policies]

    def run(index: int) -> Score:
        score = run_policy(config, settings, config.policies[index], output / names[index])
        print(
            f"{title}[{index + 1}/{len(names)}] {score.name}: BLEU {score.bleu:.2f} at LAAL {score.laal:.2f} "
            f"({score.sentences} sentences, {score.calls_per_token:.2f} calls a token)",
            flush=True,
        )
        return score

    with ThreadPoolExecutor(config.jobs) as pool:
        scores = list(pool.map(run, range(len(names))))
    write_scores(output / "scores.tsv", scores)
    draw_curve(output / "curve.png", {Path(config.model).name: scores})
    write_report(output / "report.md", config, settings, scores, signatures(config, settings))
    return scores


def run_policy(config: EvaluationConfig, settings: ModelSettings, policy: Mapping[str, Any], directory: Path) -> Score:
    """Run SimulEval for one policy, from where it stopped, and score it."""
    directory.mkdir(exist_ok=True)
    _check_same_settings(config, settings, policy, directory / "settings.json")
    if not (directory / "scores.tsv").is_file():
        _run_simuleval(config, settings, policy, directory)
    return score(config, settings, directory)


def _check_same_settings(
    config: EvaluationConfig, settings: ModelSettings, policy: Mapping[str, Any], path: Path
) -> None:
    """Results are kept only as long as they were made with the same settings and the same model."""
    free = ("output", "policies", "jobs", "threads", "bleu_tokenize", "simulmask", "extra_metrics")
    weights = sorted(Path(config.model).glob("*.safetensors"))
    now = {key: value for key, value in asdict(config).items() if key not in free} | {
        "policy": dict(policy),
        "trained": json.loads(json.dumps(asdict(settings))),
        "weights": [[w.name, w.stat().st_size, int(w.stat().st_mtime)] for w in weights],
    }
    instances = path.with_name("instances.log")
    if not path.is_file() or not instances.is_file() or not instances.stat().st_size:  # nothing hangs on it yet
        path.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [key for key in now if before.get(key) != now[key]]
    if changed:
        raise ValueError(
            f"{path.parent} holds results made with other settings ({', '.join(changed)} changed); "
            "take another output directory, or delete this one."
        )


def _run_simuleval(
    config: EvaluationConfig, settings: ModelSettings, policy: Mapping[str, Any], directory: Path
) -> None:
    command = [sys.executable, "-m", "simuleval.cli", "--agent-class", "simulmask_plugin.agents.SimulMaskAgent"]
    options = {
        "model": config.model,
        "source": config.source,
        "target": config.target,
        "output": directory,
        "eval-latency-unit": latency_unit(config, settings),
        "end-index": config.limit,
        "source-lang": config.source_lang,
        "target-lang": config.target_lang,
        "threads": config.threads,
        "device": config.device,
        "model-dtype": config.dtype,
        "attn-implementation": config.attn_implementation,
        "max-target-tokens": config.max_target_tokens,
        "document-units": config.document_units,
        "context-sentences": config.context_sentences,
        "session-log": directory / "sessions.jsonl",
        **{"read-n" if key == "n" else key.replace("_", "-"): value for key, value in policy.items()},
    }
    given = {key: value for key, value in options.items() if value is not None and value is not False}
    command += [f"--{key}" if value is True else f"--{key}={value}" for key, value in given.items()]
    command += ["--continue-unfinished", "--quality-metrics", "BLEU", "--latency-metrics", *LATENCY_METRICS]
    threads = {"OMP_NUM_THREADS": str(config.threads)} if config.threads else {}
    try:
        log = directory / "simuleval.log"
        run_program("SimulEval", command, log, threads, prepare=partial(_trim_logs, directory))
    except ProgramFailed as error:
        instances = directory / "instances.log"
        written = [one["prediction"].strip() for one in read_lines(instances)] if instances.is_file() else []
        if len(written) < (config.limit or _check_texts(config)) or any(written):
            raise
        raise ProgramFailed(
            f"{directory}: the model wrote nothing for any sentence, so that there is no latency to measure. Train it "
            "for longer, or with a policy nearer to this one."
        ) from error


def _trim_logs(directory: Path) -> None:
    """After a kill, SimulEval's log may end in half a line and be shorter than ours: cut both to what is whole."""
    instances, sessions = directory / "instances.log", directory / "sessions.jsonl"
    if not instances.is_file():
        sessions.unlink(missing_ok=True)
        return
    *whole, _ = instances.read_text(encoding="utf-8").split("\n")
    for path in (instances, sessions):
        if path.is_file():
            lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line]
            path.write_text("".join(f"{line}\n" for line in lines[: len(whole)]), encoding="utf-8")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a log of one JSON object a line."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def translations(instances: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return the predictions and, as sacrebleu takes them, the references of a run's instances.log."""
    pairs = [(instance["prediction"], instance["reference"].strip()) for instance in instances]
    return [prediction for prediction, _ in pairs], [[reference for _, reference in pairs]]


def score(config: EvaluationConfig, settings: ModelSettings, directory: Path) -> Score:
    """Score one finished run: BLEU and chrF by sacrebleu, latency by SimulEval, cost by our own log."""
    instances, sessions = (read_lines(directory / name) for name in ("instances.log", "sessions.jsonl"))
    with (directory / "scores.tsv").open(encoding="utf-8", newline="") as file:
        latency = next(csv.DictReader(file, delimiter="\t"))
    predictions, references = translations(instances)
    bleu, chrf = metrics(config, settings)
    written = sum(session["written_tokens"] for session in sessions)
    return Score(
        name=directory.name,
        sentences=len(instances),
        bleu=bleu.corpus_score(predictions, references).score,
        chrf=chrf.corpus_score(predictions, references).score,
        al=float(latency["AL"]),
        laal=float(latency["LAAL"]),
        ap=float(latency["AP"]),
        dal=float(latency["DAL"]),
        seconds_per_sentence=mean(session["seconds"] for session in sessions),
        calls_per_token=sum(session["calls"] for session in sessions) / max(written, 1),
        gflops_per_sentence=mean(session["flops"] for session in sessions) / 1e9,
        truncated=sum(session["truncated"] for session in sessions),
        extra=run_metrics(config.extra_metrics, instances, directory),
    )


def latency_unit(config: EvaluationConfig, settings: ModelSettings) -> str:
    """The unit in which SimulEval counts the target; a Chinese reference in words would give an AL of -1."""
    return config.latency_unit or ("char" if settings.config.target_units == CHARACTER else "word")


def metrics(config: EvaluationConfig, settings: ModelSettings) -> tuple[BLEU, CHRF]:
    """The quality metrics."""
    is_character = settings.config.target_units == CHARACTER
    return BLEU(tokenize=config.bleu_tokenize or ("zh" if is_character else "13a")), CHRF()


def signatures(config: EvaluationConfig, settings: ModelSettings) -> dict[str, str]:
    """What stands behind the scores: sacrebleu's signatures, the latency unit and the versions."""
    bleu, chrf = metrics(config, settings)
    for metric in (bleu, chrf):
        metric.corpus_score(["a"], [["a"]])  # a signature knows its number of references only after a score
    return {
        "BLEU": str(bleu.get_signature()),
        "chrF": str(chrf.get_signature()),
        "latency unit": latency_unit(config, settings),
        "simulmask_plugin": __version__,
        **{package: version(package) for package in PACKAGES},
    }


def write_scores(path: Path, scores: Iterable[Score]) -> None:
    """Write scores.tsv."""
    rows = [{k: v for k, v in asdict(score).items() if k != "extra"} | dict(score.extra) for score in scores]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})
