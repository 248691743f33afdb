"""From a YAML to a merged model that streams, through the programs that a user calls."""

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from end_to_end import NUM_TEST, ROOT, SCRIPTS, STAGE2, first_input_ids, losses, stock_environment

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

NUM_STEPS = 60
SETTINGS = (f"max_steps={NUM_STEPS}", "simulmask.look_ahead_rate=0.5", "learning_rate=3e-3")
CHECKPOINTS = ("save_strategy=steps", "save_steps=10", "save_only_model=false")
HALVES = (*SETTINGS, "max_steps=10", "per_device_train_batch_size=4")
"""The first steps of the same training, half of each batch in one of two processes."""
TWO_PROCESSES = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}
CHAT = ("template=deepseek",)


@pytest.fixture(scope="module")
def stage1(workshop):
    return workshop.train("stage1", *SETTINGS)


@pytest.fixture(scope="module")
def stage2(workshop, stage1):
    return workshop.train(
        "stage2", *(f"model_name_or_path={stage1}", "simulmask.k=5", "simulmask.look_ahead_rate=1.0"), config=STAGE2
    )


@pytest.fixture(scope="module")
def merged(workshop, stage1, stage2):
    paths = (f"model_name_or_path={stage1}", f"adapter_name_or_path={stage2}")
    output = workshop.folder / "merged"
    command = (SCRIPTS / "llamafactory-cli", "export", "yaml_configs/toy_merge.yaml")
    workshop.run("merge", *command, *paths, f"export_dir={output}")
    return output


def saved_settings(folder):
    return json.loads((folder / "simulmask.json").read_text())


def saved_block(folder):
    return saved_settings(folder)["config"]


def test_full_training_saves_its_settings_beside_the_weights(stage1):
    assert (stage1 / "model.safetensors").is_file()
    assert saved_block(stage1)["k"] == [5, 9, 100]
    assert saved_block(stage1)["positions"] == "modified_alibi"
    assert saved_settings(stage1)["trained_on"] == {"language_pairs": [["X", "Y"]], "latencies": []}


def test_log_of_a_training_says_that_the_plugin_takes_part(workshop, stage1):
    log = (workshop.folder / "train_stage1.log").read_text()
    assert (
        log.count("simulmask: layout prefix; policy wait_k, k drawn from 5, 9, 100 for every example and epoch;") == 1
    )
    assert "attention sdpa, with the mask of every example." in log


def test_training_learns(stage1):
    found = losses(stage1)
    assert found[NUM_STEPS] < 0.8 * found[1]


def test_override_on_the_command_line_reaches_the_adapter_and_the_merged_model(stage2, merged):
    assert (stage2 / "adapter_model.safetensors").is_file()
    assert saved_block(stage2)["k"] == saved_block(merged)["k"] == 5


def test_merged_model_equals_base_and_adapter(stage1, stage2, merged):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    input_ids = torch.arange(2, 60)[None]
    with torch.inference_mode():
        base = AutoModelForCausalLM.from_pretrained(stage1, dtype=torch.float32).eval()
        without = base(input_ids).logits
        with_adapter = PeftModel.from_pretrained(base, stage2).eval()(input_ids).logits
        alone = AutoModelForCausalLM.from_pretrained(merged, dtype="auto").eval()(input_ids).logits
    assert alone.dtype == torch.float32
    assert (with_adapter - without).abs().max() > 1e-2
    torch.testing.assert_close(alone, with_adapter, atol=1e-5, rtol=0)


def test_verify_merge_accepts_the_merge(workshop, stage1, stage2, merged):
    command = (SCRIPTS / "simulmask", "verify-merge")
    workshop.run("verify", *command, "--base", stage1, "--adapter", stage2, "--merged", merged)


def test_agent_runs_from_the_plain_simuleval_command(workshop, merged, tmp_path):
    data = workshop.folder / "data"
    workshop.run(
        "simuleval",
        *(SCRIPTS / "simuleval", "--agent-class", "simulmask_plugin.agents.SimulMaskAgent"),
        *("--model", merged, "--k", 5, "--max-target-tokens", 24),
        *("--source", data / "test.source", "--target", data / "test.target", "--output", tmp_path),
        *("--quality-metrics", "BLEU", "--latency-metrics", "AL", "LAAL", "AP", "DAL"),
    )
    instances = [json.loads(line) for line in (tmp_path / "instances.log").read_text().splitlines()]
    assert len(instances) == NUM_TEST
    for instance in instances:
        assert instance["delays"][0] == min(5, instance["source_length"])
        assert instance["delays"] == sorted(instance["delays"])


def test_killed_evaluation_goes_on_where_it_stopped(workshop, merged):
    data, output = workshop.folder / "data", workshop.folder / "eval"
    command = (SCRIPTS / "simulmask", "eval", ROOT / "yaml_configs" / "toy_eval.yaml")
    options = [f"model={merged}", f"source={data / 'test.source'}", f"target={data / 'test.target'}"]
    options += [f"output={output}", "policies=[{policy: wait_k, k: 1}]", "jobs=1", "max_target_tokens=24"]
    workshop.run("eval", *command, *options)
    folder = output / "wait_k-1"
    settings = json.loads((folder / "settings.json").read_text())
    assert (settings["latency_unit"], settings["attn_implementation"]) == ("word", "sdpa"), "what was left to defaults"
    whole, scores = (folder / "instances.log").read_text(), (output / "scores.tsv").read_text()

    lines = whole.splitlines(keepends=True)
    (folder / "instances.log").write_text("".join(lines[:3]) + lines[3][:20])
    (folder / "scores.tsv").unlink()
    (folder / "finished.json").unlink()  # written last of all
    log = workshop.run("eval_again", *command, *options)

    assert "[1/1] wait_k-1: continues after 3 sentences that were streamed before" in log
    assert without_time((folder / "instances.log").read_text()) == without_time(whole)
    again = dict(zip(*(line.split("\t") for line in (output / "scores.tsv").read_text().splitlines()), strict=True))
    before = dict(zip(*(line.split("\t") for line in scores.splitlines()), strict=True))
    again.pop("seconds_per_sentence"), before.pop("seconds_per_sentence")
    assert again == before
    assert {"curve.png", "report.md"} <= {path.name for path in output.iterdir()}


def test_batched_evaluation_gives_the_results_of_simuleval_and_goes_on_where_it_stopped(workshop, merged):
    data, policies = workshop.folder / "data", "policies=[{policy: wait_k, k: 1}, {policy: offline}]"
    evaluation = ("eval", ROOT / "yaml_configs" / "toy_eval.yaml", f"model={merged}", policies, "max_target_tokens=24")
    evaluation += (f"source={data / 'test.source'}", f"target={data / 'test.target'}")
    outputs = [workshop.folder / f"eval_{engine}" for engine in ("simuleval", "batched")]
    one_by_one = (f"output={outputs[0]}", "engine=simuleval", "jobs=2")
    workshop.run("eval_one_by_one", SCRIPTS / "simulmask", *evaluation, *one_by_one)
    batched = (*evaluation, f"output={outputs[1]}", "audit=2")
    assert "for 2 of 2 sentences" in workshop.run("eval_batched", SCRIPTS / "simulmask", *batched)
    run = outputs[1] / "wait_k-1"
    for name in ("instances.log", "sessions.jsonl"):
        (run / name).write_text("".join((run / name).read_text().splitlines(keepends=True)[:3]))
    (run / "finished.json").unlink()
    two = (SCRIPTS / "torchrun", "--standalone", "--nproc_per_node", "2", "-m", "simulmask_plugin")
    again = workshop.run("eval_two_processes", *two, *batched)
    assert again.count("wait_k-1: continues after 3 sentences") == again.count("Results: ") == 1

    for name in ("wait_k-1", "offline"):
        one, other = (without_time((output / name / "instances.log").read_text()) for output in outputs)
        assert one == other
    rows = [[line.split("\t") for line in (output / "scores.tsv").read_text().splitlines()] for output in outputs]
    timed = rows[0][0].index("seconds_per_sentence")
    assert [row[:timed] + row[timed + 1 :] for row in rows[0]] == [row[:timed] + row[timed + 1 :] for row in rows[1]]
    assert "wait_k-1 2 of 2, offline 2 of 2" in (outputs[1] / "report.md").read_text()


def without_time(instances):
    return [
        {key: value for key, value in json.loads(line).items() if key != "elapsed"} for line in instances.splitlines()
    ]


SETUPS = {
    "ddp": (),
    "zero2": (f"deepspeed={ROOT}/yaml_configs/deepspeed/ds_z2_config.json",),
    "zero3": (f"deepspeed={ROOT}/yaml_configs/deepspeed/ds_z3_config.json",),
}


@pytest.mark.parametrize("setup", SETUPS)
def test_two_processes_give_the_losses_of_one(workshop, stage1, setup):
    check_first_steps(workshop.train(setup, *HALVES, *SETUPS[setup], **TWO_PROCESSES), stage1)


def check_first_steps(output, whole):
    """The ten steps of a training shared out have the losses of one process, and the settings are the same."""
    one, shared = losses(whole), losses(output)
    assert shared == pytest.approx({step: one[step] for step in range(1, 11)}, abs=1e-4)
    assert saved_settings(output) == saved_settings(whole)


LAUNCHES = {"fixed": {}, "elastic": {"RDZV_ID": "toy", "MIN_NNODES": "2", "MAX_NNODES": "2"}}


@pytest.mark.parametrize("launch", LAUNCHES)
def test_two_machines_that_share_no_folder_give_the_losses_of_one(workshop, stage1, launch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def train(rank):
        environment = {"NNODES": "2", "NODE_RANK": rank, "NPROC_PER_NODE": "1", "FORCE_TORCHRUN": "1"}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **LAUNCHES[launch]}
        environment |= {"HF_DATASETS_CACHE": str(workshop.folder / f"{launch}_cache_{rank}")}
        return workshop.train(f"{launch}_machine_{rank}", *HALVES, "save_on_each_node=true", **environment)

    with ThreadPoolExecutor() as launchers:
        outputs = list(launchers.map(train, ("0", "1")))
    check_first_steps(next(output for output in outputs if (output / "trainer_state.json").exists()), stage1)
    weights = [(output / "model.safetensors").read_bytes() for output in outputs]
    assert weights[0] == weights[1]
    assert saved_settings(outputs[0]) == saved_settings(outputs[1])


def test_processes_of_ray_give_the_losses_of_one(workshop, stage1):
    ray = pytest.importorskip("ray", reason="the Ray mode of LLaMA-Factory needs the package ray")
    _, _, *arguments = workshop.training_command("ray", *HALVES)
    cluster = ("ray_num_workers=2", f"master_addr={ray.util.get_node_ip_address()}")
    cluster += ("ray_init_kwargs={num_cpus: 2, include_dashboard: false}",)
    command = (sys.executable, ROOT / "tests" / "train_with_ray.py", *arguments, *cluster)
    workshop.run("train_ray", *command, USE_RAY="1")
    check_first_steps(workshop.folder / "ray", stage1)


STREAM_EVAL = (
    'simulmask.stream_eval.policies=[{"policy":"wait_k","k":1},{"policy":"wait_k","k":5}]',  # torchrun takes no spaces
    *(f"simulmask.stream_eval.{one}" for one in ("sentences=25", "lanes=8", "max_target_tokens=24")),
    *("eval_dataset=toy_train", "eval_strategy=steps", "eval_steps=1"),
)


def test_processes_share_what_is_streamed_while_training(workshop):
    """Twice 25 sentences over two processes, whose scores are those of one."""
    base = workshop.train("streamed_base", *SETTINGS, "max_steps=300")  # after fewer, not a word of it is right
    found = []
    for setup, size, environment in (("one", 8, {}), ("ddp", 4, TWO_PROCESSES), ("zero2", 4, TWO_PROCESSES)):
        keys = (*SETTINGS, "max_steps=2", f"per_device_train_batch_size={size}", f"model_name_or_path={base}")
        output = workshop.train(f"streamed_{setup}", *keys, *STREAM_EVAL, *SETUPS.get(setup, ()), **environment)
        history = json.loads((output / "trainer_state.json").read_text())["log_history"]
        names = ("eval_bleu", "eval_laal", "eval_bleu_wait_k-1", "eval_laal_wait_k-5")
        found.append([entry[name] for entry in history if "eval_loss" in entry for name in names])
    one, *several = found
    assert len(one) == 2 * 4 and one[0] > 0 and one[:4] != one[4:]
    assert several == [pytest.approx(one, abs=1e-6)] * 2


def test_killed_training_resumes_to_the_loss_of_an_uninterrupted_one(workshop, stage1):
    killed = workshop.train_and_kill("killed", *SETTINGS, *CHECKPOINTS, checkpoint="checkpoint-10")
    assert not (killed / "train_results.json").exists()
    resumed = workshop.train("killed", *SETTINGS, *CHECKPOINTS, f"resume_from_checkpoint={killed / 'checkpoint-10'}")
    one, two = losses(stage1), losses(resumed)
    assert two == pytest.approx(one, abs=1e-6)
    assert saved_settings(resumed / "checkpoint-10") == saved_settings(resumed) == saved_settings(stage1)


@pytest.fixture(scope="module")
def plain(workshop):
    """Stock supervised fine-tuning with the plugin installed, but no block."""
    return workshop.train("plain", "dataset=alpaca", *CHAT, config=workshop.without_block())


def test_without_the_block_training_equals_stock_bit_for_bit(workshop, plain):
    environment = stock_environment(workshop.folder / "stand_in")
    stock = workshop.train("stock", "dataset=alpaca", *CHAT, config=workshop.without_block(), **environment)
    assert losses(stock) == losses(plain)
    assert (stock / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert not (plain / "simulmask.json").exists()


def test_offline_policy_with_contiguous_positions_equals_plain_fine_tuning(workshop, plain):
    offline = workshop.train(
        "offline",
        *("simulmask.policy=offline", "simulmask.k=null", "simulmask.positions=contiguous"),
        *("simulmask.prompt=template", r'simulmask.header="\nAssistant:"', *CHAT),  # it brings its own header
    )
    logs = [(workshop.folder / f"train_{name}.log").read_text() for name in ("plain", "offline")]
    assert first_input_ids(logs[0]) == first_input_ids(logs[1])
    assert losses(offline) == pytest.approx(losses(plain), abs=1e-5)
