r"""The SimulEval agent; the only module that imports simuleval.

From the plain command line::

    simuleval --agent-class simulmask_plugin.agents.SimulMaskAgent --model DIR --k 5 \
        --source test.source --target test.target --output results \
        --quality-metrics BLEU --latency-metrics AL LAAL AP DAL
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path

import torch
from simuleval.agents import TextToTextAgent
from simuleval.agents.actions import Action, ReadAction, WriteAction

from simulmask_plugin import policies
from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.options import add_option
from simulmask_plugin.policies import POLICIES
from simulmask_plugin.streaming.feeder import session_flops
from simulmask_plugin.streaming.options import Decision, agent_flag, document_of, open_session, parameters, run_keys
from simulmask_plugin.streaming.translator import load
from simulmask_plugin.text.characters import needs_space
from simulmask_plugin.text.units import CHARACTER, TOKEN, WORD, join_units, split_units

COUNTED_IN = {"word": WORD, "char": CHARACTER, "spm": WORD}
"""SimulEval's --eval-latency-unit -> what the target is counted in."""

TAIL = 32
"""Characters of the text sent last that are kept to join more text to it."""


class SimulMaskAgent(TextToTextAgent):
    """Streams text through the session of the model's layout, one per sentence.

    Layout, positions, units and prompt come from the model's simulmask.json; the policy may be changed
    (trained at 9, evaluated at 5).
    """

    def __init__(self, args: Namespace) -> None:
        self.options = args
        if args.threads:
            torch.set_num_threads(args.threads)
        settings = ModelSettings.load(args.model).for_pair(args.source_lang, args.target_lang)
        keys = ("policy", *parameters(), *run_keys())
        self.decision = Decision.from_dict({key: getattr(args, key) for key in keys})
        self.decision.resolve(settings)
        self.document = document_of(settings, args.document_units, args.context_sentences)
        loaded = load(
            args.model, device=args.device, dtype=args.model_dtype, attn_implementation=args.attn_implementation
        )
        self.model, self.encoder = loaded.model, loaded.encoder.with_settings(settings)
        super().__init__(args)

    @staticmethod
    def add_args(parser: ArgumentParser) -> None:
        """Add the agent's options to SimulEval's."""
        parser.add_argument("--model", required=True, help="directory of a merged model with its simulmask.json")
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

    def reset(self) -> None:
        """Begin a new sentence."""
        super().reset()
        self.num_taken, self.num_sent, self.seconds = 0, 0, 0.0
        self.sent = ""  # the end of it
        self.opens = self.encoder.target.unit != TOKEN  # whether white space may precede what is sent next
        self.session = open_session(
            self.model,
            self.encoder,
            self.decision,
            document=self.document,
            max_target_tokens=self.options.max_target_tokens,
        )

    def policy(self) -> Action:
        """READ, or WRITE one target unit or more."""
        start = time.perf_counter()
        self._take_source()
        action = self._decide()
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

    def _decide(self) -> Action:
        """Write all that the policy allows: SimulEval sends one more word before it asks again."""
        units: list[str] = []
        while not self.session.finished and self.session.action() is policies.Action.WRITE:
            text = self.session.write()
            if text:
                units.append(text)
        if self.encoder.target.unit == TOKEN:
            units = self._whole_words()
        if not units and not self.session.finished:
            return ReadAction()
        text = join_units(units, self.encoder.target.unit)
        if COUNTED_IN[self.options.eval_latency_unit] == CHARACTER:
            text = self._with_spaces(text)
        return WriteAction(text, finished=self.session.finished)

    def _with_spaces(self, text: str) -> str:
        """The text with no-break spaces, as in "iPhone 15": plain ones SimulEval deletes where it counts characters."""
        if not text:
            return text
        text = join_units(split_units(text, CHARACTER), CHARACTER)
        space = " " * (bool(self.sent) and self.opens and needs_space(self.sent, text))
        self.sent = (self.sent + space + text)[-TAIL:]
        self.opens = self.encoder.target.unit != TOKEN
        return (space + text).replace(" ", "\N{NO-BREAK SPACE}")

    def _whole_words(self) -> list[str]:
        """Of a model that writes tokens, send words (or characters), which is what SimulEval counts and joins."""
        ids = self.session.target_ids[self.num_sent :]
        if not self.session.finished:
            ids = ids[: self.encoder.target.num_complete(ids, COUNTED_IN[self.options.eval_latency_unit])]
        self.num_sent += len(ids)
        self.opens |= bool(ids) and self.encoder.target.opens_word[ids[0]]  # perhaps the space alone
        return self.encoder.target.text(ids).split()

    def _log(self) -> None:
        if self.options.session_log:
            record = asdict(self.session.counters) | {
                "seconds": self.seconds,
                "flops": session_flops(self.model, self.session.counters),
                "truncated": self.session.truncated,
            }
            with Path(self.options.session_log).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
