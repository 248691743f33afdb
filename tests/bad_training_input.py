"""Bad blocks, training YAMLs and data: command, changes of files, words of the message."""

from bad_input import DEEP, ROW, ZERO_WIDTH, added, validate

BLOCK = {
    "unknown key": ("simulmask.wait=3", ["simulmask: unknown key 'wait'; known keys: policy, k"]),
    "no policy": ("simulmask.policy=null", ["simulmask.policy: unknown value None", "wait_k"]),
    "unknown policy": ("simulmask.policy=wait", ["simulmask.policy", "'wait'", "expected one of wait_k"]),
    "k of zero": ("simulmask.k=0", ["simulmask.k", "at least 1", "got 0"]),
    "negative k": ("simulmask.k=-1", ["simulmask.k", "got -1"]),
    "endless range": ("simulmask.k=1-30000000", ["range k", "at most 10000", "got 30000000"]),
    "range that falls": ("simulmask.k=9-1", ["k must be", 'a range such as "1-9"', "'9-1'"]),
    "k in words": ("simulmask.k=three", ["k must be an integer", "'three'"]),
    "bad k in a list": ("simulmask.k=[3,0]", ["simulmask.k", "got 0"]),
    "empty list": ("simulmask.k=[]", ["simulmask.k is an empty list"]),
    "half a k": ("simulmask.k=1.5", ["simulmask.k", "integer", "got 1.5"]),
    "true": ("simulmask.k=true", ["simulmask.k", "integer", "got True"]),
    "key of another policy": ("simulmask.n=3", ["simulmask.n is set", "wait_k does not use it; remove it"]),
    "unknown layout": ("simulmask.layout=blocks", ["simulmask.layout", "'blocks'", "prefix, interleaved"]),
    "unknown positions": ("simulmask.positions=spiral", ["simulmask.positions", "'spiral'"]),
    "positions of another layout": (
        "simulmask.positions=slots",
        ["simulmask.positions", "unknown value 'slots'; expected one of contiguous"],
    ),
    "unknown rows": ("simulmask.rows=all", ["simulmask.rows", "'all'", "look_ahead"]),
    "rate above one": ("simulmask.look_ahead_rate=2", ["simulmask.look_ahead_rate", "0..1", "got 2"]),
    "rate that is none": ("simulmask.look_ahead_rate=.nan", ["simulmask.look_ahead_rate", "number", "nan"]),
    "weight without end": ("simulmask.special_token_weight=.inf", ["simulmask.special_token_weight", "number", "inf"]),
    "negative offset": ("simulmask.group_offset=-1", ["simulmask.group_offset", "at least 0", "got -1"]),
    "huge offset": ("simulmask.group_offset=9000000000", ["simulmask.group_offset", "at most 1000000"]),
    "slot without slots": ("simulmask.slot_length=8", ["simulmask.slot_length", "no meaning", "prefix; remove it"]),
    "empty header": ("simulmask.header=''", ["header is empty"]),
    "unknown placeholder": ("simulmask.instruction='To {lang}:'", ["Unknown placeholder {lang}", "source_lang"]),
    "open brace": ("simulmask.instruction='To {lang:'", ["'To {lang:' is damaged", "{{"]),
    "number for a text": ("simulmask.instruction=3", ["simulmask.instruction must be a text", "got 3"]),
    "text for a switch": ("simulmask.prefix_pairs=maybe", ["simulmask.prefix_pairs must be true or false", "'maybe'"]),
    "unknown units": ("simulmask.source_units=syllable", ["simulmask.source_units", "'syllable'", "word, character"]),
    "unknown prompt": ("simulmask.prompt=chat", ["simulmask.prompt", "'chat'", "plain, template"]),
    "block that is a text": ("simulmask=fast", ["simulmask", "'fast'", "policy"]),
    "block that is a list": ("simulmask=[wait_k]", ["simulmask=[wait_k] does not go with train.yaml"]),
}
ROWS = {f"block: {name}": (validate(override), {}, words) for name, (override, words) in BLOCK.items()}

ROWS |= {
    "training: no file": (["simulmask", "validate", "no.yaml"], {}, ["no.yaml: no such file"]),
    "training: a merge": (
        validate(),
        {"train.yaml": "export_dir: a"},
        ["neither a training YAML", "an evaluation YAML"],
    ),
    "training: an evaluation": (
        validate(),
        {"train.yaml": "policies: []"},
        ["model is missing or empty; it must be a"],
    ),
    "training: no YAML": (validate(), {"train.yaml": "a: [1\n"}, ["train.yaml is no valid YAML", "line 2, column 1"]),
    "training: key twice": (validate(), {"train.yaml": added("stage: sft\n")}, ["train.yaml", "duplicate key stage"]),
    "training: interpolation": (validate("output_dir=${nope}/x"), {}, ["output_dir", "nothing fills in '${nope}/x'"]),
    "training: no number": (validate("learning_rate=.nan"), {}, ["learning_rate: expected a number, got nan"]),
    "training: override": (validate("justakey"), {}, ["Overrides have the form key=value", "'justakey'"]),
    "training: override that is no YAML": (validate("simulmask.k=[1"), {}, ["simulmask.k=[1 is no valid YAML"]),
    "training: unknown key": (validate("learningrate=1"), {}, ["learningrate"]),
    "training: stage": (validate("stage=pt"), {}, ["needs stage: sft, got stage: pt"]),
    "training: k of schedule": (
        validate("simulmask.policy=schedule"),
        {},
        ["simulmask.k is set, but policy schedule does not use it"],
    ),
    "training: ALiBi": (
        validate("simulmask.positions=modified_alibi"),
        {},
        ["needs an ALiBi model, but llama uses RoPE"],
    ),
    "training: attention": (
        validate("flash_attn=fa2"),
        {},
        ["flash_attn: fa2 does not work with", "set flash_attn: sdpa"],
    ),
    "training: data that is no JSON": (
        validate("dataset=broken"),
        {},
        ["broken.jsonl:2: expected JSON, got: Expecting"],
    ),
    "training: packing": (validate("packing=true"), {}, ["packing does not work with", "packing: false"]),
    "training: no model": (validate("model_name_or_path=./no"), {}, ["model_name_or_path: ./no: no such folder"]),
    "training: unlisted data": (validate("dataset=none"), {}, ["none", "dataset_info.json"]),
    "training: no data": (validate("dataset=absent_file"), {}, ["nowhere.jsonl: no such file", "dataset_info.json"]),
    "training: column": (validate("dataset=absent_column"), {}, ["column 'src' (source)", "source, target"]),
    "training: unknown column": (
        validate(),
        {"dataset_info.json": lambda text: text.replace('"source": "source"', '"src": "source"')},
        ["dataset_info.json, rows.jsonl: unknown column 'src'", "knows source, target"],
    ),
    "training: formatting": (validate("dataset=alpaca"), {}, ["formatting: alpaca", "formatting: simulmask"]),
    "training: short": (validate("cutoff_len=16"), {}, ["longer than cutoff_len 16", "raise cutoff_len"]),
    "training: info with a comma": (
        validate(),
        {"dataset_info.json": '{\n"rows": {"file_name": "rows.jsonl"},\n}'},
        ["dataset_info.json:3: expected JSON", "remove the comma"],
    ),
    "training: info with a name twice": (
        validate(),
        {"dataset_info.json": '{"rows": {"file_name": "a"}, "rows": {"file_name": "rows.jsonl"}}'},
        ["dataset_info.json", "'rows' occurs twice"],
    ),
    "training: info that is a list": (validate(), {"dataset_info.json": "[]"}, ["dataset_info.json", "object"]),
    "training: DeepSpeed": (validate("deepspeed=no.json"), {}, ["deepspeed: no.json cannot be read"]),
    "training: DeepSpeed with a comma": (
        validate("deepspeed=ds.json"),
        {"ds.json": '{"bf16": {},\n}'},
        ["deepspeed: ds.json", "ds.json:2", "remove the comma"],
    ),
}

DATA = {
    "cut": (ROW + '{"source": "a"', ["rows.jsonl:2: expected JSON"]),
    "comma": (ROW + '{"source": "a", "target": "b",}\n', ["rows.jsonl:2: expected JSON", "remove the comma"]),
    "key twice": (ROW + '{"source": "a", "target": "b", "target": "c"}\n', ["rows.jsonl:2", "'target'", "twice"]),
    "no number": (ROW + '{"source": "a", "target": NaN}\n', ["rows.jsonl:2", "NaN"]),
    "Latin-1": (ROW.encode() + '{"source": "ü", "target": "b"}\n'.encode("latin-1"), ["rows.jsonl:2", "UTF-8"]),
    "NUL": (ROW + '{"source": "a\\u0000b", "target": "b"}\n', ["example 2", "source", "NUL"]),
    "empty source": (ROW + '{"source": "", "target": "b"}\n', ["Dataset rows.jsonl, example 2: the source is empty"]),
    "empty target": (ROW + '{"source": "a", "target": " "}\n', ["example 2: the target is empty (' ')"]),
    "zero-width target": (ROW + f'{{"source": "a", "target": "{ZERO_WIDTH}"}}\n', ["example 2: the target is empty"]),
    "null": (ROW + '{"source": null, "target": "b"}\n', ["example 2: the source is empty (None)"]),
    "number": (ROW.replace('"ein haus"', "3"), ["example 1: the source"]),
    "column": ('{"source": "a", "translation": "b"}\n', ["column 'target'", "source, translation"]),
    "nothing": ("", ["rows.jsonl", "no rows"]),
    "lone surrogate": (ROW + '{"source": "\\ud83d", "target": "b"}\n', ["rows.jsonl:2", "half a character"]),
    "deep": (ROW + f'{{"source": {DEEP}\n', ["rows.jsonl", "too deeply nested"]),
    "list with a key twice": (f'[{ROW}, {{"source": "a", "source": "b"}}]', ["rows.jsonl", "'source'", "twice"]),
    "list with a comma": (f"[{ROW},\n]", ["rows.jsonl:3: expected JSON", "remove the comma"]),
}
ROWS |= {f"data: {name}": (validate(), {"rows.jsonl": text}, words) for name, (text, words) in DATA.items()}
CSV = {
    "header twice": ("source,target,target\na,b,c\n", ["rows.csv:1", "'target' occurs twice"]),
    "long row": ("source,target\na,b\nc,d,e\n", ["rows.csv:3: expected 2 fields (source, target), got 3", "quotation"]),
    "short row": ("source,target\na\n", ["rows.csv:2: expected 2 fields (source, target), got 1"]),
    "NUL": ("source,target\na\0b,c\n", ["rows.csv:2: expected text, got NUL"]),
    "Latin-1": ("source,target\nfünf,b\n".encode("latin-1"), ["rows.csv:2: expected UTF-8", "iconv"]),
    "nothing": ("", ["rows.csv"]),
}


def in_csv(text):
    return text.replace("rows.jsonl", "rows.csv")


for name, (text, words) in CSV.items():
    ROWS[f"data: CSV, {name}"] = validate(), {"dataset_info.json": in_csv, "rows.csv": text}, words
