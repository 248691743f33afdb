"""What the rows of bad input are made of: commands, changes of files, texts."""

import json


def validate(*overrides):
    return ["simulmask", "validate", "train.yaml", *overrides]


def evaluate(*overrides):
    return ["simulmask", "eval", "eval.yaml", *overrides]


def study(*overrides):
    return ["simulmask", "compare", "study.yaml", *overrides]


def show(*options):
    return ["simulmask", "show", *options]


def train_data(*options):
    return ["prepare_train_data", "--source", "s", "--target", "t", "--output", "out", *options]


def pairs(*options):
    return ["prepare_train_data", "--pairs", *options, "--output", "out"]


def prepared_test_set(*options):
    return ["prepare_mt_test_data", "--source", "s", "--target", "t", "--output", "out", *options]


def chunks(*options):
    languages = ("--source-lang", "German", "--target-lang", "English", "--alignments", "links")
    return ["make_chunks", "--source", "s", "--target", "t", "--output", "out", *languages, *options]


def curve(*systems):
    return ["simulmask", "curve", *systems, "--png", "c.png"]


def added(text):
    """A change that adds to the end of a file."""
    return lambda before: before + text


def settings(**keys):
    """A change of keys of simulmask.json by somebody who also removes its seal."""

    def change(text):
        content = json.loads(text)
        del content["sha256"]
        return json.dumps(content | {key: {**content.get(key, {}), **value} for key, value in keys.items()})

    return change


ROW = '{"source": "ein haus", "target": "a house"}\n'
BOM, ZERO_WIDTH = "\ufeff", "\u200b"
DEEP = "[" * 100_000
