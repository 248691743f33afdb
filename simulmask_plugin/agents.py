r"""The SimulEval agent; the only module that imports simuleval.

From the plain command line::

    simuleval --agent-class simulmask_plugin.agents.SimulMaskAgent --model DIR --k 5 \
        --source test.source --target test.target --output results \
        --quality-metrics BLEU --latency-metrics AL LAAL AP DAL
"""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from simuleval import cli, options
from simuleval.agents import TextToTextAgent
from simuleval.agents.actions import Action, ReadAction, WriteAction
from simuleval.evaluator.evaluator import SentenceLevelEvaluator

from simulmask_plugin.files.json_files import read_json
from simulmask_plugin.options import add_option
from simulmask_plugin.policies import POLICIES
from simulmask_plugin.streaming.document import document_of
from simulmask_plugin.streaming.feeder import session_flops
from simulmask_plugin.streaming.options import Decision, agent_flag, open_session, parameters, run_keys
from simulmask_plugin.streaming.recorder import Recorder
from simulmask_plugin.streaming.trained_model import TrainedModel
from simulmask_plugin.streaming.translator import load
from simulmask_plugin.streaming.writer import Writer

_load = cache(load)
"""One model for all policies that one process streams."""


class SimulMaskAgent(TextToTextAgent):
    """Streams text through the session of the model's layout, one per sentence.

    Layout, positions, units and prompt come from the model's simulmask.json; the policy may be changed
    (trained at 9, evaluated at 5).
    """

    def __init__(self, args: Namespace) -> None:
        self.options = args
        if args.threads:
            torch.set_num_threads(args.threads)
        settings = TrainedModel.of(args.model, args.adapter).settings().for_pair(args.source_lang, args.target_lang)
        keys = ("policy", *parameters(), *run_keys())
        self.decision = Decision.from_dict({key: getattr(args, key) for key in keys})
        self.decision.resolve(settings)
        self.document = document_of(settings, args.document_units, args.context_sentences)
        loaded = _load(
            args.model,
            args.adapter,
            device=args.device,
            dtype=args.model_dtype,
            attn_implementation=args.attn_implementation,
        )
        self.model, self.encoder, self.aids = loaded.model, loaded.encoder.with_settings(settings), loaded.aids
        super().__init__(args)

    @staticmethod
    def add_args(parser: ArgumentParser) -> None:
        """Add the agent's options to SimulEval's."""
        parser.add_argument(
            "--model", required=True, help="folder of a merged model, or of the base of --adapter, or name on the hub"
        )
        parser.add_argument(
            "--adapter", help="folder of an adapter on the model, or name on the hub; several with commas between"
        )
        parser.add_argument("--policy", choices=tuple(POLICIES), help="default: as trained")
        for key, policy in parameters().items():
            add_option(parser, agent_flag(key), [policy], key, f"of {policy.name}")
        for key, run in run_keys().items():
            add_option(parser, agent_flag(key), [run], key, "of a run")
        parser.add_argument("--document-units", type=int, help="chunks: a line is a document; see Document.min_units")
        parser.add_argument("--context-sentences", type=int, default=0, help="document: finished ones still visible")
        parser.add_argument("--source-lang", help="for the prompt; default: the only one trained")
        parser.add_argument("--target-lang", help="for the prompt; default: the only one trained")
        parser.add_argument("--max-target-tokens", type=int, default=512, help="a sentence ends after so many")
        parser.add_argument("--model-dtype", default="float32", choices=("float32", "bfloat16", "float16"))
        eager = "default: as in training, sdpa; Gemma 2, BLOOM, MPT: eager"
        parser.add_argument("--attn-implementation", choices=("sdpa", "eager"), help=eager)
        parser.add_argument("--threads", type=int, help="CPU threads")
        parser.add_argument("--session-log", help="JSONL file: cost of every sentence (seconds, calls, FLOPs)")
        parser.add_argument("--trace-log", help="JSONL file: the READs and WRITEs of every sentence, see Recorder")

    def reset(self) -> None:
        """Begin a new sentence."""
        super().reset()
        self.num_taken, self.seconds, start = 0, 0.0, time.perf_counter()
        self.session = open_session(
            self.model,
            self.encoder,
            self.decision,
            document=self.document,
            max_target_tokens=self.options.max_target_tokens,
            recorder=Recorder(lambda: time.perf_counter() - start) if self.options.trace_log else None,
            aids=self.aids,
        )
        self.writer = Writer(self.session, self.options.eval_latency_unit)

    def policy(self) -> Action:
        """READ, or WRITE one target unit or more."""
        start = time.perf_counter()
        self._take_source()
        text = self.session.run(self.writer.write())
        action = ReadAction() if text is None else WriteAction(text, finished=self.session.finished)
        self.seconds += time.perf_counter() - start
        if self.session.finished:
            self._log()
        return action

    def _take_source(self) -> None:
        words = self.states.source
        for word in words[self.num_taken :]:
            self.session.read(word)
        self.num_taken = len(words)
        if self.states.source_finished and not self.session.source_finished:
            self.session.finish_source()

    def _log(self) -> None:
        if self.options.session_log:
            cost = asdict(self.session.counters) | {
                "seconds": self.seconds,
                "flops": session_flops(self.model, self.session.counters),
                "truncated": self.session.truncated,
            }
            _append(self.options.session_log, cost)
        if self.session.recorder is not None:
            _append(self.options.trace_log, {"steps": self.session.recorder.steps})


def _append(log: str, record: dict[str, Any]) -> None:
    with Path(log).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def call(words: Sequence[str]) -> None:
    """Call SimulEval as its command line does; where it only scores, it leaves what it leaves after streaming."""
    sys.argv = ["simuleval", *words]
    if "--score-only" not in words:
        cli.main()
        return
    parser = options.general_parser()
    options.add_evaluator_args(parser)
    options.add_scorer_args(parser)
    arguments = parser.parse_args()
    Path(arguments.output, "config.yaml").write_text("source_type: text\ntarget_type: text\n", encoding="utf-8")
    evaluator = SentenceLevelEvaluator.from_args(arguments)
    evaluator.dump_results()
    evaluator.dump_metrics()


if __name__ == "__main__":
    for words in read_json(Path(sys.argv[1])):
        call(words)
