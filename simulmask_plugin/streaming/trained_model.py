"""A trained model by its parts: a whole model, or a base with one adapter or more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulmask_plugin.config.model_settings import ModelSettings
from simulmask_plugin.files.adapters import base_of, check_adapter, check_whole, is_quantized, make_room, with_adapter
from simulmask_plugin.files.loading import load_config, load_model, load_tokenizer, local_folder
from simulmask_plugin.streaming.aids import Aids


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model, and the adapters on it in the order of their trainings; each a folder, or a name on the hub.

    Weights are only asked of the hub where they are needed.
    """

    model: str
    adapters: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: str, adapter: str | None = None) -> TrainedModel:
        """Read the two as options name them: several adapters have commas between them, as in LLaMA-Factory.

        Raises:
            ValueError: if there is no such model or adapter, or one is given for the other.
        """
        adapters = (one.strip() for one in (adapter or "").split(","))
        found = cls(model, tuple(one for one in adapters if one))
        base, *on_it = found.folders()
        check_whole("model", base)
        for folder in on_it:
            check_adapter("adapter", folder)
        return found

    def folders(self, *, weights: bool = False) -> list[Path]:
        """The folder of the model, then those of the adapters."""
        parts = [("model", self.model), *(("adapter", adapter) for adapter in self.adapters)]
        return [local_folder(key, name, weights=weights) for key, name in parts]

    def own_folder(self) -> Path:
        """The folder of the last training, where something may be written.

        Raises:
            ValueError: if it belongs to the cache of the hub.
        """
        from huggingface_hub.constants import HF_HUB_CACHE

        name = (self.model, *self.adapters)[-1]
        if not Path(name).is_dir() or Path(name).resolve().is_relative_to(Path(HF_HUB_CACHE).resolve()):
            raise ValueError(
                f"{name} is a model of the Hugging Face hub, whose copy in the cache must stay as it is. Download it "
                f"into a folder of your own (hf download NAME --local-dir FOLDER), and name that."
            )
        return Path(name)

    def settings(self) -> ModelSettings:
        """What the last training has left, see `ModelSettings.load`."""
        return ModelSettings.load(self.folders()[-1])

    def aids(self) -> Aids:
        """What was fitted to the whole model, beside what the last training has left."""
        return Aids.load(self.folders()[-1])

    def tokenizer(self) -> Any:
        """That of the last training."""
        base, *adapters = self.folders()
        own = [folder for folder in adapters if (folder / "tokenizer_config.json").is_file()]
        return load_tokenizer([base, *own][-1])

    def config(self) -> Any:
        """The configuration of the model."""
        return load_config(self.folders()[0])

    def load(self, *, attention: str, dtype: str = "float32") -> Any:
        """The model in evaluation mode, with its adapters merged into it in memory.

        Raises:
            ValueError: if weights cannot be read, an adapter does not fit, or new tokens were never trained.
        """
        base, *adapters = self.folders(weights=True)
        model = load_model(base, attention=attention, dtype=dtype)
        return self._adapted(model, base, adapters) if adapters else model

    def _adapted(self, model: Any, base: Path, adapters: list[Path]) -> Any:
        """The model with its adapters, and with rows for the tokens that their trainings have added."""
        if is_quantized(model) and len(adapters) > 1:
            raise ValueError(f"{self.model} is quantized: one adapter can stay beside its weights, but none be merged.")
        num_tokens, num_before = (len(tokenizer) for tokenizer in (self.tokenizer(), load_tokenizer(base)))
        num_rows = len(model.get_input_embeddings().weight)
        if num_tokens > num_before:  # a published tokenizer may have tokens without a row; these never occur
            make_room(model, num_tokens)
        new_rows = model.get_input_embeddings().weight[num_rows:].clone()
        for adapter in adapters:
            model = with_adapter(model, adapter)
        if len(new_rows) and new_rows.equal(model.get_input_embeddings().weight[num_rows:]):
            raise ValueError(
                f"{adapters[-1]} does not fit {self.model}: its tokenizer has {num_tokens} tokens, the model "
                f"{num_rows}, and no adapter has trained the others. It was trained on {base_of(adapters[-1])}; take "
                "that model."
            )
        return model.eval()
