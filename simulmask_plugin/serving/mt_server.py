"""The MT-server protocol (version 1) of AlignAtt4LLM, which WhisperLiveKit speaks: recognized words in, text out.

Source: https://github.com/QuentinFuxa/AlignAtt4LLM, docs/mt_server_protocol.md. An update has all words of the open
utterance, and is answered when the model has read them. What has been answered only grows: words that were read stay
as they were read, and those that recognition has revised since are counted (``revised_source_words``, our addition).
The unstable tail is not read, since nothing that was written could be taken back.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from starlette.websockets import WebSocketDisconnect
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from simulmask_plugin.options import read
from simulmask_plugin.serving.conversation import LONGEST_UNIT, Conversation
from simulmask_plugin.serving.live import Event
from simulmask_plugin.serving.messages import BadMessage, Messages
from simulmask_plugin.serving.service import Full, Service
from simulmask_plugin.serving.wishes import Wish
from simulmask_plugin.streaming.options import Decision
from simulmask_plugin.text.units import split_units

VERSION = 1

AUTO = ("", "auto")
"""Names of a language that recognition has not been told."""

MOST_UPDATES = 64
"""Of one client that may wait; all but the last are final."""

M = TypeVar("M", "Init", "Update")


class Unsupported(BadMessage):
    """The model does not translate from this language to that one, but in the directions that are supported."""

    def __init__(self, message: str, supported: Sequence[str]) -> None:
        super().__init__(message)
        self.supported = supported


@dataclass(frozen=True, slots=True)
class Init:
    """What a client says first; all else that the protocol has (history, context, overrides) means nothing here."""

    protocol_version: int
    target_lang: str
    source_lang: str = ""
    preset: str | None = None
    """Name of a run, e.g. wait_k-3; None: the server's default."""
    accepted_target_prefix: str = ""
    """What an earlier connection has been answered of the open utterance."""


@dataclass(frozen=True, slots=True)
class Update:
    """All of the open utterance by now."""

    words: tuple[tuple[Any, ...], ...]
    """Text, start and end of each."""
    seq: int = 0
    utterance_id: int = 0
    is_final: bool = False

    def units(self, unit: str) -> list[str]:
        """The words, or characters.

        Raises:
            BadMessage: if one is too long.
        """
        units = split_units(" ".join(str(word[0]) for word in self.words if word), unit)
        if max(map(len, units), default=0) > LONGEST_UNIT:
            raise BadMessage(f"A word has at most {LONGEST_UNIT} characters.")
        return units


@dataclass(slots=True)
class Utterance:
    """An utterance and its session, which begins with the first word.

    Attributes:
        number: as the client counts; None: the first one, which may have any.
        committed: what has been answered.
        text: what the session has written.
        num_read: words that it has read.
        num_covered: how many it had read when it wrote last.
    """

    number: int | None = None
    committed: str = ""
    session: Conversation | None = field(default=None, init=False)
    text: str = field(default="", init=False)
    num_read: int = field(default=0, init=False)
    num_covered: int = field(default=0, init=False)

    def take(self, event: Event) -> None:
        """Note what has happened in the session."""
        if event["type"] == "read":
            self.num_read += 1
        elif event["type"] == "write":
            self.text += event["text"]
            self.num_covered = self.num_read

    def drop(self) -> None:
        """End the session where it is; another one would translate the whole utterance, and what was answered stays."""
        if self.session is not None:
            self.session.cancel()
        self.session, self.text, self.num_read, self.num_covered = None, "", 0, 0


async def translate_speech(messages: Messages, service: Service) -> None:
    """Talk to one client: one utterance after the other.

    Raises:
        BadMessage: if it does not begin as the protocol says.
    """
    incoming = aiter(messages)
    first = await anext(incoming, None)
    if first is None:
        return
    init = _parsed(Init, first)
    if init.protocol_version != VERSION:
        raise BadMessage(f"protocol_version must be {VERSION}, got {init.protocol_version}.")
    wish = _wish(init, service.info["languages"])
    await _check(service, wish)
    answer = {
        "type": "init_ok",
        "protocol_version": VERSION,
        "direction": f"{init.source_lang}-{init.target_lang}",
        "preset": init.preset or Decision.from_dict(service.info["default"]).name,
        "model": service.info["name"],
    }
    await messages.send(answer)
    client = _Client(messages, service, wish, Utterance(committed=init.accepted_target_prefix.strip()))
    work = asyncio.create_task(client.work())
    try:
        async for message in incoming:
            try:
                client.put(_parsed(Update, message))
            except BadMessage as error:
                await messages.send(described(error) | {"seq": message.get("seq")})
    finally:
        work.cancel()
        client.utterance.drop()


def described(fault: Exception) -> Event:
    """A fault as the protocol says it."""
    code = "busy" if isinstance(fault, Full) else "bad_protocol"
    error = {"type": "error", "code": code, "message": str(fault)}
    return (
        error | {"code": "unsupported_direction", "supported": fault.supported}
        if isinstance(fault, Unsupported)
        else error
    )


def _parsed(cls: type[M], message: Mapping[str, Any]) -> M:
    """A message of this type; keys that mean nothing here are left out."""
    kind = cls.__name__.lower()
    if message.get("type") != kind:
        raise BadMessage(f"type must be {kind}, got {message.get('type')!r}.")
    known = {field.name: message[field.name] for field in fields(cls) if message.get(field.name) is not None}
    try:
        return read(cls, known, f"{kind}.")
    except ValueError as error:
        raise BadMessage(str(error)) from error


def _wish(init: Init, pairs: Sequence[tuple[str, str]]) -> Wish:
    """What a client wants, whose languages are codes, or names as the model has them."""
    meant = [
        pair
        for pair in pairs
        if _is(init.target_lang, pair[1]) and (init.source_lang in AUTO or _is(init.source_lang, pair[0]))
    ]
    if len(meant) != 1:
        supported = ["-".join(map(_code, pair)) for pair in pairs]
        raise Unsupported(f"{init.source_lang}-{init.target_lang} is none of {', '.join(supported)}.", supported)
    try:
        decision = Decision.from_name(init.preset) if init.preset else None
    except ValueError as error:
        raise BadMessage(f"preset: {error}") from error
    if decision is None:
        return Wish(None, *meant[0])
    return Wish({**dict(decision.values), **({"policy": decision.policy} if decision.policy else {})}, *meant[0])


def _is(code: str, language: str) -> bool:
    return code.casefold() in (language.casefold(), _code(language))


def _code(language: str) -> str:
    """The code of a language by its English name, or whatever it is called."""
    words = re.findall(r"\w+", language.casefold())
    return next((TO_LANGUAGE_CODE[word] for word in words if word in TO_LANGUAGE_CODE), language.casefold())


async def _check(service: Service, wish: Wish) -> None:
    """Raise a BadMessage if the model cannot do it."""
    session = service.open(wish)
    event = await anext(session.events())
    session.cancel()
    if event["type"] == "error":
        raise BadMessage(event["reason"])


class _Client:
    """A client's updates, and its open utterance."""

    def __init__(self, messages: Messages, service: Service, wish: Wish, utterance: Utterance) -> None:
        self._messages, self._service, self._wish, self.utterance = messages, service, wish, utterance
        self._updates: list[Update] = []
        self._has_update = asyncio.Event()

    def put(self, update: Update) -> None:
        """Take an update, in place of one before it that was not final and has not been worked on.

        Raises:
            BadMessage: if there are too many.
        """
        if self._updates and not self._updates[-1].is_final:
            self._updates.pop()
        if len(self._updates) == MOST_UPDATES:
            raise BadMessage(f"{MOST_UPDATES} utterances wait to be translated; wait for the answers.")
        self._updates.append(update)
        self._has_update.set()

    async def work(self) -> None:
        """Answer one update after the other, until the client is gone."""
        with suppress(WebSocketDisconnect):
            while await self._has_update.wait():
                update = self._updates.pop(0)
                if not self._updates:
                    self._has_update.clear()
                await self._messages.send({"seq": update.seq, **await self._answer(update)})

    async def _answer(self, update: Update) -> Event:
        if self.utterance.number not in (None, update.utterance_id):
            if update.utterance_id < self.utterance.number:
                return described(BadMessage(f"Utterance {update.utterance_id} is closed."))
            self.utterance.drop()
            self.utterance = Utterance()
        utterance = self.utterance
        utterance.number = update.utterance_id
        try:
            units = update.units(self._service.unit)
        except BadMessage as error:
            return described(error)
        is_forced = not update.is_final and len(units) > self._service.limits.words
        is_final = update.is_final or is_forced
        if units or utterance.session is not None:
            session = utterance.session = utterance.session or self._service.open(self._wish)
            session.revise(units, is_complete=is_final)
            async for event in session.settled():
                utterance.take(event)
                if event["type"] == "error":
                    utterance.drop()
                    return {"type": "error", "code": "processing_failed", "message": event["reason"]}
        answer = self._translation(utterance, is_final=is_final)
        if is_final:
            utterance.drop()
            self.utterance = Utterance(update.utterance_id + 1)
        return answer | ({"forced_final": True} if is_forced else {})

    def _translation(self, utterance: Utterance, *, is_final: bool) -> Event:
        before, text = utterance.committed, utterance.text
        if not text.startswith(before):  # only after a reconnect: that session has not written as much yet
            text = text if is_final else before
        utterance.committed = text
        return {
            "type": "translation",
            "utterance_id": utterance.number,
            "final": is_final,
            "committed_text": text,
            "committed_delta": text.removeprefix(before) if text.startswith(before) else "",
            "buffer_text": "",
            "covered_source_units": utterance.num_covered or None,
            "revised_source_words": utterance.session.num_revised if utterance.session is not None else 0,
            "stop_reason": None,
        }
