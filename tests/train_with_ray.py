"""LLaMA-Factory's Ray mode with one CPU for each process, which has no GPU here, where LLaMA-Factory asks for ten."""

from llamafactory.train import tuner
from ray.util.placement_group import placement_group

configure = tuner.get_ray_remote_config_for_worker


def one_cpu_each(num_devices):
    return placement_group([{"CPU": 1}] * num_devices), {"CPU": 1}


def with_one_cpu(**options):
    return configure(**options) | {"num_cpus": 1}


tuner.get_placement_group, tuner.get_ray_remote_config_for_worker = one_cpu_each, with_one_cpu
tuner.run_exp()
