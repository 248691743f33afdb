"""Recipes for GPUs and models of billions of parameters through `simulmask smoke --tiny`, by the real programs."""

import pytest
from end_to_end import ROOT, SCRIPTS

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]


def smoke(workshop, name, recipe, *options):
    """Run it with a folder of its own for what is temporary, and with a wish that it cannot grant; return the log."""
    temporary = workshop.folder / f"tmp_{name}"
    temporary.mkdir(exist_ok=True)
    command = (SCRIPTS / "simulmask", "smoke", f"yaml_configs/{recipe}.yaml", "--tiny", *options)
    return workshop.run(f"smoke_{name}", *command, TMPDIR=str(temporary), FORCE_TORCHRUN="1")


@pytest.fixture
def untouched():
    """The folders that the recipes name stay as they are."""
    folders = [ROOT / name for name in ("saves", "output")]
    before = [sorted(folder.rglob("*")) for folder in folders]
    yield
    assert [sorted(folder.rglob("*")) for folder in folders] == before


def test_adapter_is_trained_merged_and_streamed(workshop, untouched):
    log = smoke(workshop, "lora", "llama_3_1_8b_wait_k_lora")
    lines = [line.split() for line in log.splitlines()]
    for key in ("bf16", "deepspeed", "max_steps", "output_dir", "dataset_dir", "model_name_or_path"):
        assert any(line[:1] == [f"{key}:"] for line in lines), key
    assert "FORCE_TORCHRUN: left out" in log
    assert "stage1_merge: llamafactory-cli export" in log
    assert "Streamed with wait_k-1" in log
    assert sum(line[:1] == ["READ"] for line in lines) == 2
    assert "llama_3_1_8b_wait_k_lora.yaml: from data to translation, it runs." in log
    assert not list((workshop.folder / "tmp_lora").glob("simulmask_smoke_*"))


def test_model_of_east_is_trained_whole_and_streamed(workshop, untouched):
    output = workshop.folder / "smoke_east_kept"
    log = smoke(workshop, "east", "llama3_8b_east_stage1_full", "--output", output)
    assert "flash_attn" in log and "FlashAttention 2 is not here" in log
    assert "Streamed with low" in log
    assert "export" not in log
    assert "simulmask: layout interleaved;" in (output / "stage1.log").read_text()
    assert (output / "stage1" / "trained" / "model.safetensors").is_file()
