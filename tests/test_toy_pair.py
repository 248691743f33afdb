"""The synthetic language pair: determinism, the facts of its grammar, and the model made for it."""

import importlib.util
import json
import sys

import pytest
from run_script import ROOT, run_script

from simulmask_plugin.corpora.parallel_text import read_lines, read_pairs

SEED = 0


def load(name):
    """Imports a script of data/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "data" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


toy = load("make_toy_pair")


@pytest.fixture(scope="module")
def lexicon():
    return toy.Lexicon(SEED)


@pytest.fixture(scope="module")
def sentences():
    """Returns (source words, target words) of 2000 sentences."""
    pairs = toy.make_splits({"train": 2000}, seed=SEED)["train"]
    return [(pair.source.split(), pair.target.split()) for pair in pairs]


def by_target(words):
    return {word.target: word for word in words}


def verb_stem(form):
    """Returns the stem of a target verb: without tense and the vowels of the agreement."""
    return form[:-1].rstrip("aeio")


def clauses(words, conjunctions):
    """Returns the runs of words between conjunctions."""
    runs = [[]]
    for word in words:
        if word in conjunctions:
            runs.append([])
        else:
            runs[-1].append(word)
    return runs


def run(script, *arguments, **options):
    return run_script(f"data/{script}", *arguments, **options)


def test_same_seed_same_corpus():
    assert toy.make_splits({"test": 20, "train": 50}, seed=3) == toy.make_splits({"test": 20, "train": 50}, seed=3)
    assert toy.make_splits({"test": 20}, seed=3) != toy.make_splits({"test": 20}, seed=4)


def test_test_set_does_not_depend_on_the_amount_of_training_data():
    small, large = (toy.make_splits({"test": 20, "train": size}, seed=3) for size in (10, 100))
    assert small["test"] == large["test"]


def test_committed_sample_is_what_the_generator_writes():
    splits = toy.make_splits({"test": 50, "valid": 50, "train": 200}, seed=SEED)
    for split, pairs in splits.items():
        committed = read_pairs(ROOT / f"data/toy/{split}.jsonl")
        assert [pair[:2] for pair in committed] == [pair[:2] for pair in pairs]


def test_no_source_sentence_comes_twice(sentences):
    assert len({tuple(source) for source, _ in sentences}) == len(sentences)


def test_lengths(sentences):
    lengths = [len(source) for source, _ in sentences]
    assert (min(lengths), max(lengths)) == (toy.MIN_WORDS, toy.MAX_WORDS)


def test_lexicon_has_some_170_lemmas_without_shared_stems(lexicon):
    groups = [value for name, value in vars(lexicon).items() if not name.startswith("_") and name != "tenses"]
    words = [word for group in groups for item in group for word in (item if isinstance(item, tuple) else [item])]
    sources, targets = {word.source for word in words} | {*lexicon.tenses}, [word.target for word in words]
    assert 150 <= len(sources) <= 250
    assert 150 <= len(set(targets)) == len(targets) <= 250
    assert sources.isdisjoint(targets)


def test_every_target_clause_ends_in_its_verb_and_source_clauses_do_not(lexicon, sentences):
    verbs, conjunctions = by_target(lexicon.verbs), by_target(lexicon.conjunctions)
    source_verbs = {word.source for word in lexicon.verbs}
    for source, target in sentences:
        assert source[-1] in lexicon.tenses
        assert any(word in source_verbs for word in source)
        for clause in clauses(target, conjunctions):
            assert verb_stem(clause[-1]) in verbs
            assert clause[-1][-1] in toy.TENSE_ENDINGS


def test_target_tense_is_the_last_source_word(lexicon, sentences):
    for source, target in sentences:
        assert target[-1][-1] == toy.TENSE_ENDINGS[lexicon.tenses.index(source[-1])]


def noun_phrases(lexicon, target):
    """Yields (gender, plural, determiner and adjectives) of the noun phrases with a determiner."""
    nouns = by_target([*lexicon.nouns, *(word for senses in lexicon.homonyms for word in senses)])
    agreeing = by_target([*lexicon.determiners, *lexicon.adjectives])
    before = []
    for word in target:
        stem = word.rstrip("aeio")
        if stem != word and stem in agreeing:
            before.append(word)
        elif before:
            plural = word.endswith(toy.TARGET_PLURAL)
            yield nouns[word.removesuffix(toy.TARGET_PLURAL)].gender, plural, before
            before = []


def test_determiners_and_adjectives_agree_with_their_noun(lexicon, sentences):
    seen = set()
    for _, target in sentences:
        for gender, plural, before in noun_phrases(lexicon, target):
            ending = toy.GENDER_ENDINGS[plural][gender]
            assert all(word[len(word.rstrip("aeio")) :] == ending for word in before)
            seen.add(ending)
    assert len(seen) == 6


def test_verb_agrees_with_its_subject(lexicon, sentences):
    """In sentences that open with a noun phrase and have a single verb."""
    checked = 0
    for source, target in sentences:
        verbs = [word for word in target if word[-1] in toy.TENSE_ENDINGS]
        if source[0] in {word.source for word in lexicon.determiners} and len(verbs) == 1:
            gender, plural, _ = next(noun_phrases(lexicon, target))
            assert verbs[0][len(verb_stem(verbs[0])) : -1] == toy.GENDER_ENDINGS[plural][gender]
            checked += 1
    assert checked > 500


def test_gender_and_agreement_are_unmarked_in_the_source(lexicon, sentences):
    """The determiner before every noun, of any gender and number, is the same word."""
    invariant = {word.source for word in [*lexicon.determiners, *lexicon.adjectives, *lexicon.verbs]}
    nouns = {word.source for word in lexicon.nouns}
    for source, _ in sentences:
        for before, word in zip(source, source[1:], strict=False):
            if word.removesuffix(toy.SOURCE_PLURAL) in nouns:
                assert before in invariant


def test_later_verb_decides_the_translation_of_a_homonym(lexicon, sentences):
    verbs, conjunctions = by_target(lexicon.verbs), by_target(lexicon.conjunctions)
    senses = {word.target: sense for homonym in lexicon.homonyms for sense, word in enumerate(homonym)}
    translations = set()
    for _, target in sentences:
        for clause in clauses(target, conjunctions):
            for word in clause:
                stem = word.removesuffix(toy.TARGET_PLURAL)
                if stem in senses:
                    assert senses[stem] == verbs[verb_stem(clause[-1])].sense
                    translations.add(stem)
    assert translations == set(senses)


def test_homonym_comes_before_the_verb_that_decides(lexicon, sentences):
    homonyms = {homonym[0].source for homonym in lexicon.homonyms}
    assert all(first.source == second.source for first, second in lexicon.homonyms)
    verbs = {word.source for word in lexicon.verbs}
    conjunctions = {word.source for word in lexicon.conjunctions}
    for source, _ in sentences:
        for clause in clauses(source, conjunctions):
            for place, word in enumerate(clause):
                if word.removesuffix(toy.SOURCE_PLURAL) in homonyms:
                    assert any(later in verbs for later in clause[place + 1 :])


def test_last_source_word_decides_the_translation_of_the_first(lexicon, sentences):
    moods = {mood[0].source: mood for mood in lexicon.moods}
    opened = [(source, target) for source, target in sentences if source[0] in moods]
    assert 0.2 < len(opened) / len(sentences) < 0.3
    for source, target in opened:
        assert target[0] == moods[source[0]][lexicon.tenses.index(source[-1])].target
    assert len({target[0] for _, target in opened}) == 9


def test_script_writes_the_splits_and_does_not_overwrite_them(tmp_path):
    sizes = ["--train", 5, "--valid", 2, "--test", 3]
    run("make_toy_pair.py", "--output", "toy", *sizes, cwd=tmp_path)
    counts = {path.name: len(list(read_lines(path))) for path in (tmp_path / "toy").iterdir()}
    assert counts == {"train.jsonl": 5, "valid.jsonl": 2, "test.jsonl": 3, "test.source": 3, "test.target": 3}
    pairs = list(read_pairs(tmp_path / "toy/test.jsonl"))
    assert list(read_lines(tmp_path / "toy/test.source")) == [pair.source for pair in pairs]
    assert list(read_lines(tmp_path / "toy/test.target")) == [pair.target for pair in pairs]
    assert "pass --overwrite" in run("make_toy_pair.py", "--output", "toy", *sizes, cwd=tmp_path, status=1)


def test_links_of_the_grammar_are_those_of_the_lexicon(lexicon):
    """Every target word is linked to the word that it translates; the tense to the verbs, and to nothing else."""
    groups = [value for name, value in vars(lexicon).items() if not name.startswith("_") and name != "tenses"]
    words = [word for group in groups for item in group for word in (item if isinstance(item, tuple) else [item])]
    for sentence in toy.draw_splits({"train": 300}, seed=SEED)["train"]:
        last = len(sentence.source) - 1
        assert {target for _, target in sentence.links} == set(range(len(sentence.target)))
        assert {source for source, _ in sentence.links} == set(range(len(sentence.source)))
        for source, target in sentence.links:
            if source == last:
                assert sentence.target[target][-1] in toy.TENSE_ENDINGS
            else:
                assert any(
                    sentence.source[source].startswith(word.source) and sentence.target[target].startswith(word.target)
                    for word in words
                )


def test_script_writes_chunks_of_the_same_sentences(tmp_path):
    sizes = ["--train", 5, "--valid", 2, "--test", 3]
    run("make_toy_pair.py", "--output", "plain", *sizes, cwd=tmp_path)
    printed = run("make_toy_pair.py", "--output", "toy", "--chunks", *sizes, cwd=tmp_path)
    assert "toy/train.chunks.jsonl: 15 rows" in printed
    for file in (tmp_path / "plain").iterdir():
        assert (tmp_path / "toy" / file.name).read_bytes() == file.read_bytes()
    rows = [json.loads(line) for line in read_lines(tmp_path / "toy/train.chunks.jsonl")]
    pairs = [pair for pair in read_pairs(tmp_path / "toy/train.jsonl") for _ in range(3)]
    assert [row["latency"] for row in rows] == ["low", "medium", "high"] * 5
    for row, pair in zip(rows, pairs, strict=True):
        assert ("".join(row["source_chunks"]), "".join(row["target_chunks"])) == pair[:2]
        assert len(row["source_chunks"]) == len(row["target_chunks"])
    known = json.loads((tmp_path / "toy/dataset_info.json").read_text())
    assert list(known) == ["toy_test_chunks", "toy_valid_chunks", "toy_train_chunks"]
    assert known["toy_train_chunks"]["file_name"] == "train.chunks.jsonl"
    message = run("make_toy_pair.py", "--output", "other", "--chunks", "--latencies", "slow=1", cwd=tmp_path, status=1)
    assert "Unknown latency 'slow'" in message


def test_script_writes_a_model_that_transformers_loads(tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make_model = load("make_model")
    text, folder = str(ROOT / "data/toy/train.jsonl"), str(tmp_path / "model")
    monkeypatch.setattr("sys.argv", ["make_model.py", "--text", text, "--output", folder, "--vocab-size", "600"])
    make_model.main()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert model.config.alibi
    assert not model.config.multi_query
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) == 600
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>",) * 2 + ("<|pad|>",)
    assert tokenizer.decode(tokenizer.encode("Ünseen 机 text  .")) == "Ünseen 机 text  ."
    with pytest.raises(SystemExit, match=r"model is not empty; choose another --output or pass --overwrite"):
        make_model.main()


def test_tokenizer_cuts_the_words_of_the_pair_into_few_tokens():
    make_model = load("make_model")
    texts = [text for pair in toy.make_splits({"train": 2000}, seed=SEED)["train"] for text in pair[:2]]
    tokenizer = make_model.train_tokenizer(texts, 1000)
    again = make_model.train_tokenizer(texts, 1000)
    assert tokenizer.get_vocab() == again.get_vocab()
    lengths = {len(tokenizer.encode(" " + word)) for text in texts for word in text.split()}
    assert {1, 2, 3} <= lengths
    assert max(lengths) <= 5


def test_model_errors_name_the_remedy():
    make_model = load("make_model")
    with pytest.raises(ValueError, match=r"at least 258 entries .* got 10"):
        make_model.train_tokenizer(["a"], 10)
    tokenizer = make_model.train_tokenizer(["a b"], 300)
    shape = {"layers": 1, "hidden": 8, "max_positions": 16, "seed": 0}
    with pytest.raises(ValueError, match=r"multiple of the number of heads, got 8 and 3"):
        make_model.make_model("falcon", tokenizer, heads=3, **shape)
    with pytest.raises(ValueError, match=r"Unknown family 'gpt'; expected one of falcon, llama"):
        make_model.make_model("gpt", tokenizer, heads=2, **shape)
    assert make_model.make_model("llama", tokenizer, heads=2, **shape).config.tie_word_embeddings
